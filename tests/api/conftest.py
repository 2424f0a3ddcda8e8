"""The API of the small group, on both databases."""

from collections.abc import Iterator

import pytest

from idhub.db import Database
from idhub.keys import Keyring
from idhub.settings import Settings
from tests.api.world import Api, serving
from tests.lifecycle.world import World
from tests.support.clock import Clock


@pytest.fixture
def world(database: Database, keyring: Keyring, clock: Clock) -> World:
    """A fresh group."""
    return World(database, keyring, clock)


@pytest.fixture
def api(world: World, settings: Settings) -> Iterator[Api]:
    """Its API."""
    with serving(world, settings) as made:
        yield made
