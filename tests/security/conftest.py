"""The hub of the security tests, on both databases."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from idhub.db import Database
from idhub.keys import Keyring
from idhub.settings import Settings
from tests.oidc.world import App, World, make_world
from tests.security.hall import Hall, open_hall
from tests.support.clock import Clock
from tests.support.databases import DatabaseKind, Databases


@pytest.fixture(scope="session")
def halls(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[DatabaseKind], Hall]]:
    """Furnished hubs, one for each database, made when first asked for."""
    made: dict[DatabaseKind, Hall] = {}
    with ExitStack() as stack:

        def get(kind: DatabaseKind) -> Hall:
            if kind not in made:
                made[kind] = stack.enter_context(open_hall(kind, databases, tmp_path_factory.mktemp("hall")))
            return made[kind]

        yield get


@pytest.fixture
def hall(database_kind: DatabaseKind, halls: Callable[[DatabaseKind], Hall]) -> Hall:
    """A furnished hub on each database, shared: tests change nothing in it that another relies on."""
    return halls(database_kind)


@pytest.fixture
def small_hall(halls: Callable[[DatabaseKind], Hall]) -> Hall:
    """The one on SQLite, for what never touches the database."""
    return halls("sqlite")


@pytest.fixture
def world(database: Database, keyring: Keyring, settings: Settings, clock: Clock) -> Iterator[World]:
    """The OIDC endpoints with nobody in them, on both databases."""
    with make_world(database, keyring, settings, clock) as made:
        yield made


@pytest.fixture
def office(world: World) -> App:
    """A confidential client with opaque access tokens."""
    return world.app()
