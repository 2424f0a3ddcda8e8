"""The sample hub on the test's database, and a browser without JavaScript for each of its people."""

from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from idhub.db import Database
from idhub.keys import Keyring
from idhub.settings import Settings
from tests.support.clock import Clock
from tests.web.sample import SampleHub

SignIn = Callable[[str], TestClient]


@pytest.fixture
def hub(settings: Settings, database: Database, keyring: Keyring, clock: Clock) -> SampleHub:
    """The sample hub, filled, with every account provisioned."""
    hub = SampleHub(settings, database, keyring, clock).fill()
    hub.deliver()
    hub.know_accounts()
    return hub


@pytest.fixture
def sign_in(hub: SampleHub) -> Iterator[SignIn]:
    """A browser in which a person of the sample is signed in."""
    opened: list[TestClient] = []

    def open_browser(name: str) -> TestClient:
        client = TestClient(
            hub.app,
            base_url=hub.settings.issuer,
            headers={"accept": "text/html", "accept-language": "en"},
            follow_redirects=False,
        )
        client.cookies.set("idhub_session", hub.sign_in(name))
        opened.append(client)
        return client

    yield open_browser
    for client in opened:
        client.close()
