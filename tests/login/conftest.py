"""Fixtures of the sign-in tests."""

from collections.abc import Iterator

import pytest

from idhub.db import Database
from idhub.keys import Keyring
from idhub.settings import Settings
from tests.login.world import World, make_world
from tests.support.clock import Clock


@pytest.fixture
def world(database: Database, keyring: Keyring, settings: Settings, clock: Clock) -> Iterator[World]:
    """A hub with nobody in it, on both databases."""
    with make_world(database, keyring, settings, clock) as made:
        yield made
