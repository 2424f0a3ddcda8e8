"""The small group, and an empty hub for HR files, on both databases."""

from pathlib import Path

import pytest

from idhub.db import Database
from idhub.keys import Keyring
from tests.lifecycle.hr_hub import Hub
from tests.lifecycle.world import GROUP, World, group_in
from tests.support.clock import Clock
from tests.support.databases import DatabaseKind, Databases, Furnishing


@pytest.fixture
def furnishing(request: pytest.FixtureRequest) -> Furnishing | None:
    """The group, for tests that begin with it."""
    return GROUP if "world" in request.fixturenames else None


@pytest.fixture
def world(
    databases: Databases, database_kind: DatabaseKind, database: Database, keyring: Keyring, clock: Clock
) -> World:
    """A fresh group."""
    return group_in(databases, database_kind, database, keyring, clock)


@pytest.fixture
def hub(database: Database, keyring: Keyring, clock: Clock, tmp_path: Path) -> Hub:
    """A hub with nothing in it but its root."""
    return Hub(database, keyring, clock, tmp_path)
