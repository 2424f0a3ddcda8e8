"""Fixtures of the OIDC tests."""

from collections.abc import Iterator

import pytest

from idhub.db import Database
from idhub.keys import Keyring
from idhub.settings import Settings
from tests.oidc.world import App, World, make_world
from tests.support.clock import Clock


@pytest.fixture
def world(database: Database, keyring: Keyring, settings: Settings, clock: Clock) -> Iterator[World]:
    """A hub with nobody in it, on both databases."""
    with make_world(database, keyring, settings, clock) as made:
        yield made


@pytest.fixture
def office(world: World) -> App:
    """A confidential client with opaque access tokens."""
    return world.app()
