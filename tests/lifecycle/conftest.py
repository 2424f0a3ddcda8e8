"""The small group, on both databases."""

import pytest

from idhub.db import Database
from idhub.keys import Keyring
from tests.lifecycle.world import World
from tests.support.clock import Clock


@pytest.fixture
def world(database: Database, keyring: Keyring, clock: Clock) -> World:
    """A fresh group."""
    return World(database, keyring, clock)
