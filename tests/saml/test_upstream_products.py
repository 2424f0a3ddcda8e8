"""Identity providers that nobody here wrote sign people in, over real HTTP, to an application end to end."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from idhub.demo.browser import Browser, Page
from idhub.settings import Settings
from tests.flows.every_door import COMPANY
from tests.saml.conftest import Scene, furnished, serving
from tests.saml.identity_providers import IDENTITY_PROVIDERS, Running
from tests.saml.partner import one_signer, pem_of
from tests.saml.products import Key, opened
from tests.saml.test_products import Person, RealClock
from tests.support.databases import Databases
from tests.support.processes import free_port


@pytest.fixture(scope="module")
def hub(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A hub on a port of its own."""
    folder = tmp_path_factory.mktemp("upstream-hub")
    with socket.socket() as listener, databases.fresh("sqlite", folder, migrated=True) as url, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        settings = Settings(
            data_dir=folder, database_url=url, issuer=f"http://127.0.0.1:{listener.getsockname()[1]}",
            argon2_memory_kib=1024, argon2_time_cost=1,
        )  # fmt: skip
        scene = stack.enter_context(furnished(settings, databases, RealClock()))
        stack.enter_context(serving(scene, listener, with_worker=False))
        yield scene


@pytest.fixture(scope="module", params=list(IDENTITY_PROVIDERS))
def provider(request: pytest.FixtureRequest, hub: Scene) -> Iterator[Running]:
    """A running provider that the hub knows by the provider's own metadata, and the provider the hub by the hub's."""
    name = request.param
    key = one_signer().private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with urlopen(f"{hub.stage.hub.settings.issuer}/login/saml/metadata", timeout=20) as answer:
        ours = answer.read().decode()
    with (
        TemporaryDirectory(prefix=f"idhub-{name}-", ignore_cleanup_errors=True) as made,
        IDENTITY_PROVIDERS[name](
            opened(Path(made)), free_port(), Key(key, pem_of(one_signer().certificate)), ours
        ) as running,
    ):
        with urlopen(running.address + running.metadata, timeout=20) as answer:
            hub.stage.folder.joinpath(f"{name}.xml").write_bytes(answer.read())
        hub.configure(
            providers=[
                {
                    "slug": name, "name": name, "organization": COMPANY,
                    "link": [{"match": "employee_number", "attribute": running.number}],
                    "saml": {"metadata_file": f"{name}.xml", "name_id_format": "persistent"},
                }
            ]
        )  # fmt: skip
        yield running


def _sign_in(hub: Scene, provider: Running, browser: Browser) -> Page:
    address = f"{hub.stage.hub.settings.issuer}/login/with/{provider.name}?return_to=/account/sessions"
    return Person(browser).open(address)


def test_somebody_signs_in(hub: Scene, provider: Running) -> None:
    with Browser(language="en") as browser:
        page = _sign_in(hub, provider, browser)
        assert page.status == 200, page.html[:3000]
        assert page.url == f"{hub.stage.hub.settings.issuer}/account/sessions"
    signed = hub.events("login.succeeded")[-1]
    assert (signed["person_id"], signed["details"]["provider"]) == (hub.stage.person, provider.name)
