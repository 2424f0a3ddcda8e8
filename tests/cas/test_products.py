"""Sign-in, attributes and logout both ways with clients that nobody here wrote, over real HTTP."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from sqlalchemy import select

from idhub.access.tables import Application
from idhub.delivery.tables import Delivery
from idhub.demo.browser import Browser, Page
from idhub.lifecycle import commands
from tests.cas.conftest import CasScene
from tests.flows.every_door import NUMBER, PASSWORD
from tests.lifecycle.world import CALLER
from tests.saml.conftest import scene_on_a_port
from tests.saml.products import apache, apache_command, opened
from tests.support.databases import Databases
from tests.support.processes import free_port, running, wait_until

ATTRIBUTES = {"employeeNumber": "employee_number", "mail": "email", "roles": "roles"}
_APP = Path(__file__).with_name("python_cas_app.py")
NAMES = ("python-cas-3", "python-cas-2", "python-cas-1", "mod-auth-cas")
PORTS = {name: free_port() for name in NAMES}


@dataclass(frozen=True)
class Client:
    """A running application.

    Args:
        told: what it shows of a person who is in.
    """

    name: str
    services: list[dict[str, str]]
    told: dict[str, Any]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{PORTS[self.name]}"

    @property
    def secret(self) -> str:
        return f"{self.address}/secret"


@contextmanager
def _python_cas(name: str, folder: Path, hub: str) -> Iterator[Client]:
    version, port = name[-1], PORTS[name]
    attributes = {"employeeNumber": NUMBER, "mail": "qy000001@qiyue.example", "roles": "member"}
    with running([sys.executable, _APP, str(port), hub, version], port=port, log=folder / "app.log"):
        yield Client(
            name=name,
            # Where it wants its people back after a logout is an address of its own, too.
            services=[{"url": f"http://127.0.0.1:{port}/{path}", "match": "query"} for path in ("login", "out")],
            told={"user": NUMBER, "attributes": attributes if version == "3" else None},
        )


@contextmanager
def _mod_auth_cas(name: str, folder: Path, hub: str) -> Iterator[Client]:
    """Debian's Apache with mod_auth_cas: the address of the page itself is the service."""
    port = PORTS[name]
    opened(folder)
    (folder / "cache").mkdir()
    opened(folder / "cache")
    apache(
        folder,
        port,
        "auth_cas",
        f"""CASVersion 2
CASLoginURL {hub}/cas/login
CASValidateURL {hub}/cas/p3/serviceValidate
CASCookiePath {folder}/cache/
CASSSOEnabled On
CASAttributePrefix CAS-
CASRootProxiedAs http://127.0.0.1:{port}
<Location /secret>
  AuthType CAS
  CASAuthNHeader CAS-User
  Require valid-user
</Location>""",
    )
    shown = {"employeeNumber": "HTTP_CAS_EMPLOYEENUMBER", "mail": "HTTP_CAS_MAIL", "roles": "HTTP_CAS_ROLES"}
    lines = [f'"{label}": "<!--#echo var="{variable}" -->"' for label, variable in shown.items()]
    page = f'{{"user": "<!--#echo var="REMOTE_USER" -->", "attributes": {{{", ".join(lines)}}}}}'
    (folder / "www" / "secret").write_text(page)
    with running(apache_command(folder), port=port, log=folder / "error.log"):
        yield Client(
            name=name,
            services=[{"url": f"http://127.0.0.1:{port}/", "match": "below"}],
            told={
                "user": NUMBER,
                "attributes": {"employeeNumber": NUMBER, "mail": "qy000001@qiyue.example", "roles": "member"},
            },
        )


@pytest.fixture(scope="module")
def hub(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CasScene]:
    """A hub on a port of its own, with its worker; it may call the applications."""
    folder = tmp_path_factory.mktemp("cas-hub")
    with scene_on_a_port(databases, folder, with_worker=True, may_call=PORTS.values()) as scene:
        yield CasScene(scene)


@pytest.fixture(scope="module", params=NAMES)
def client(request: pytest.FixtureRequest, hub: CasScene) -> Iterator[Client]:
    """A running application that the hub knows."""
    name = request.param
    make = _mod_auth_cas if name == "mod-auth-cas" else _python_cas
    with (
        TemporaryDirectory(prefix=f"idhub-{name}-", ignore_cleanup_errors=True) as made,
        make(name, Path(made), hub.stage.hub.settings.issuer) as running_client,
    ):
        hub.connect(name, services=running_client.services, attributes=ATTRIBUTES, logout="service")
        yield running_client


def _enter(browser: Browser, address: str) -> Page:
    page = browser.get(address)
    if page.login_form is not None:
        page = browser.submit(page, page.login_form, {"username": NUMBER, "password": PASSWORD})
    return page


def _is_in(browser: Browser, client: Client) -> bool:
    """Whether the application shows its page without asking the hub."""
    return "/cas/login" not in " ".join(browser.get(client.secret).visited)


def _deliveries(hub: CasScene, client: Client) -> list[tuple[str, int | None]]:
    with hub.stage.hub.database.read() as session:
        rows = session.execute(
            select(Delivery.state, Delivery.evidence)
            .join(Application, Application.id == Delivery.application_id)
            .where(Application.slug == client.name, Delivery.channel == "cas_logout")
            .order_by(Delivery.id)
        )
        return [(str(row.state), (row.evidence or {}).get("status")) for row in rows]


def test_sign_in_shows_who_it_is(hub: CasScene, client: Client) -> None:
    with Browser(language="en") as browser:
        page = _enter(browser, client.secret)
        assert page.status == 200, page.html[:2000]
        told = json.loads(page.html)
        assert told["user"] == client.told["user"]
        if client.told["attributes"] is not None:
            assert client.told["attributes"].items() <= told["attributes"].items()
        else:
            assert not told["attributes"]
        assert _is_in(browser, client)


def test_a_ticket_that_was_used_is_not_believed_again(hub: CasScene, client: Client) -> None:
    with Browser(language="en") as browser:
        page = _enter(browser, client.secret)
        with_ticket = next(url for url in page.visited if "ticket=ST-" in url)
        with Browser(language="en") as other:
            again = other.get(with_ticket)
        assert again.status in {401, 403}, again.html[:500]
        assert NUMBER not in again.html


def test_signing_out_at_the_hub_ends_the_session_at_the_application(hub: CasScene, client: Client) -> None:
    with Browser(language="en") as browser:
        _enter(browser, client.secret)
        assert _is_in(browser, client)
        known = len(_deliveries(hub, client))
        page = browser.get(hub.stage.hub.settings.issuer + "/logout")
        asked = page.form(lambda form: form.action.endswith("/logout"))
        assert asked is not None
        browser.submit(page, asked)
        wait_until(
            lambda: {state for state, _ in _deliveries(hub, client)[known:]} == {"done"},
            seconds=30, what="the worker told it",
        )  # fmt: skip
        assert not _is_in(browser, client)


@pytest.mark.parametrize("client", ["python-cas-3"], indirect=True)
def test_signing_out_at_the_application_ends_the_session_at_the_hub(hub: CasScene, client: Client) -> None:
    """The others tell the hub of nothing: older versions name a parameter that the protocol has dropped."""
    with Browser(language="en") as browser:
        _enter(browser, client.secret)
        page = browser.get(f"{client.address}/logout")
        asked = page.form(lambda form: form.action.endswith("/logout"))
        assert asked is not None, page.html[:2000]
        page = browser.submit(page, asked)
        assert (page.url, page.html) == (f"{client.address}/out", "out")
        assert browser.get(hub.stage.hub.settings.issuer).login_form is not None
        assert not _is_in(browser, client)


def test_a_leave_ends_the_session_at_every_application(hub: CasScene, client: Client) -> None:
    """The last of an application's tests: its person comes back for the next one."""
    with Browser(language="en") as browser:
        _enter(browser, client.secret)
        assert _is_in(browser, client)
        stage, known = hub.stage, len(_deliveries(hub, client))
        with stage.hub.database.transaction() as session:
            commands.suspend(session, CALLER, stage.person, now=stage.clock())
        try:
            wait_until(
                lambda: {state for state, _ in _deliveries(hub, client)[known:]} == {"done"},
                seconds=30, what="the worker told it",
            )  # fmt: skip
            assert not _is_in(browser, client)
            assert browser.get(client.secret).login_form is not None
        finally:
            with stage.hub.database.transaction() as session:
                commands.reactivate(session, CALLER, stage.person, now=stage.clock())
