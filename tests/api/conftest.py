"""The API of the small group, on both databases."""

from collections.abc import Iterator

import pytest

from idhub.db import Database
from idhub.keys import Keyring
from idhub.lifecycle.ports import use_follower
from idhub.provisioning.events.feed import Feed
from idhub.settings import Settings
from tests.api.world import Api, serving
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
def api(world: World, settings: Settings) -> Iterator[Api]:
    """Its API."""
    with serving(world, settings) as made:
        yield made


@pytest.fixture
def listening(api: Api) -> Api:
    """The API of a hub that tells of changes, as `open_hub` makes it."""
    use_follower(api.world.database, Feed)
    return api
