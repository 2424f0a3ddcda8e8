"""A whole hub with a relying party of WS-Federation in it, one for each module of tests."""

from collections.abc import Iterator

import pytest

from tests.saml.conftest import open_scene
from tests.support.databases import Databases
from tests.wsfed.relying_party import Parties


@pytest.fixture(scope="module")
def parties(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parties]:
    """A furnished hub on SQLite with the application `portal`, without a worker."""
    for scene in open_scene("sqlite", databases, tmp_path_factory.mktemp("wsfed")):
        opened = Parties(scene)
        opened.connect()
        yield opened
