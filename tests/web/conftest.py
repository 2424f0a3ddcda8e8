"""The sample hub on the test's database, and a browser without JavaScript for each of its people."""

from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from idhub.db import Database, create_database
from idhub.keys import Keyring, MasterKey, load_keyring
from idhub.migrations import migrate
from idhub.settings import Settings
from tests.support.clock import Clock
from tests.support.databases import DatabaseKind, Databases, Furnishing
from tests.web.sample import SAMPLE, SampleHub, Story

SignIn = Callable[[str], TestClient]


@pytest.fixture
def furnishing(request: pytest.FixtureRequest) -> Furnishing | None:
    """The sample, for tests that begin with it."""
    return SAMPLE if "hub" in request.fixturenames else None


@pytest.fixture
def hub(
    databases: Databases,
    database_kind: DatabaseKind,
    settings: Settings,
    database: Database,
    keyring: Keyring,
    clock: Clock,
) -> SampleHub:
    """The sample hub, filled, with every account provisioned."""
    hub = SampleHub(settings, database, keyring, clock)
    hub.know(databases.made_of(database_kind, SAMPLE))
    return hub


def _browser(hub: SampleHub, name: str) -> TestClient:
    client = TestClient(
        hub.app,
        base_url=hub.settings.issuer,
        headers={"accept": "text/html", "accept-language": "en"},
        follow_redirects=False,
    )
    client.cookies.set("idhub_session", hub.sign_in(name))
    return client


@pytest.fixture
def sign_in(hub: SampleHub) -> SignIn:
    """A browser in which a person of the sample is signed in."""
    return lambda name: _browser(hub, name)


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A hub whose story has been told, made once for tests that only read (SQLite)."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("story"))
    database = create_database(settings)
    migrate(database)
    clock = Clock()
    keyring = load_keyring(database, MasterKey.load(settings.effective_master_key_file, create=True), now=clock())
    yield Story(SampleHub(settings, database, keyring, clock).fill(), clock).tell()
    database.dispose()


@pytest.fixture
def look(story: Story) -> SignIn:
    """A browser on the hub of `story`, for tests that change nothing."""
    return lambda name: _browser(story.hub, name)
