"""A whole hub with people and SAML applications in it, one for each module of tests."""

import shutil
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml
from starlette.testclient import TestClient

from idhub.api.configuration import apply
from idhub.app import create_app
from idhub.changes import COMMAND_LINE
from idhub.lifecycle.reevaluation import reevaluate_pending
from idhub.services import open_hub
from idhub.settings import Settings
from tests.flows.every_door import COMPANY, Stage
from tests.flows.furniture import STAGE, Furniture
from tests.saml.partner import Answer, Partner, read_answer
from tests.support.clock import Clock, RealClock
from tests.support.databases import DatabaseKind, Databases
from tests.support.processes import wait_until

ENTITLED = [{"role": "member", "rule": f'employments.companyCode eq "{COMPANY}"'}]


class Scene:
    """The hub, and what tests do with it again and again."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.partner = Partner(stage.hub.settings.issuer)
        self.certificate = stage.hub.keyring.certificates("saml")[0]
        self.entity_id = f"{stage.hub.settings.issuer}/saml/metadata"

    @property
    def now(self) -> Any:
        return self.stage.clock()

    def apply(self, *applications: dict[str, Any]) -> Any:
        """Apply a configuration file with these applications."""
        return self.configure(applications=list(applications))

    def configure(self, **blocks: Any) -> Any:
        """Apply a configuration file."""
        path = self.stage.folder / "saml.yaml"
        path.write_text(yaml.safe_dump(blocks, allow_unicode=True))
        hub = self.stage.hub
        applied = apply(
            hub.database, hub.keyring, path, clock=self.stage.clock, actor=COMMAND_LINE, door="cli",
            outbound_allow=hub.settings.outbound_allow,
        )  # fmt: skip
        reevaluate_pending(hub.database, clock=self.stage.clock)
        return applied

    def connect(
        self, slug: str = "partner", *, partner: Partner | None = None, entitle: Any = None, **block: Any
    ) -> Any:
        """Connect an application by guided entry."""
        used = partner or self.partner
        return self.apply(
            {
                "slug": slug, "name": slug, "saml": used.block(**block),
                "entitle": ENTITLED if entitle is None else entitle,
            }
        )  # fmt: skip

    def browser(self) -> TestClient:
        """A browser without cookies, whose person reads English."""
        browser = self.stage.browser()
        browser.headers["accept-language"] = "en"
        return browser

    def signed_in(self, number: str = "QY000001") -> TestClient:
        browser = self.browser()
        assert self.stage.sign_in(browser, number)
        return browser

    def ask(
        self, browser: TestClient, *, partner: Partner | None = None, relay_state: str | None = None, **changes: Any
    ) -> Any:
        """A signed request by Redirect; the page or redirect that answers it."""
        used = partner or self.partner
        return browser.get(used.redirect(used.authn_request(self.now, **changes), relay_state=relay_state))

    def sign_on(self, browser: TestClient, *, partner: Partner | None = None, **changes: Any) -> Answer:
        """A sign-on of a browser that has a session, to its answer."""
        page = self.ask(browser, partner=partner, **changes)
        assert page.status_code == 200, (page.status_code, page.headers, page.text[:2000])
        return read_answer(page)

    def events(self, kind: str) -> list[dict[str, Any]]:
        import orjson
        from sqlalchemy import select

        from audit.tables import audit_events

        with self.stage.hub.database.read() as session:
            rows = session.execute(
                select(audit_events.c.body).where(audit_events.c.type == kind).order_by(audit_events.c.id)
            ).scalars()
            return [orjson.loads(body) for body in rows]


@contextmanager
def furnished(
    settings: Settings, databases: Databases, clock: Clock, *, furniture: Furniture | None = None
) -> Iterator[Scene]:
    """A furnished hub on a migrated database, without a worker.

    Args:
        furniture: of a database that was furnished before; None: it is furnished now.
    """
    shutil.copy(databases.master_key_file, settings.effective_master_key_file)
    hub = open_hub(settings, clock=clock)
    try:
        app = create_app(hub, with_worker=False)
        with TestClient(app, base_url=settings.issuer, follow_redirects=False) as machine:
            stage = Stage(hub, app, clock, settings.data_dir, machine)
            if furniture is None:
                stage.furnish()
            else:
                furniture.move_in(stage)
            yield Scene(stage)
    finally:
        hub.close()


@contextmanager
def serving(scene: Scene, listener: socket.socket, *, with_worker: bool) -> Iterator[None]:
    """Answer on a bound socket until the block ends, for browsers and products that are processes of their own."""
    app = create_app(scene.stage.hub, with_worker=with_worker)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), seconds=60, what="the hub serves")
        yield
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def scene_on_a_port(
    databases: Databases, folder: Path, *, with_worker: bool = False, may_call: Collection[int] = ()
) -> Iterator[Scene]:
    """A furnished hub that answers on a port of its own by the machine's time, for products that do so too.

    Args:
        may_call: ports of 127.0.0.1 that it may send to.
    """
    with socket.socket() as listener, databases.fresh("sqlite", folder, migrated=True) as url:
        listener.bind(("127.0.0.1", 0))
        settings = Settings(
            data_dir=folder, database_url=url, issuer=f"http://127.0.0.1:{listener.getsockname()[1]}",
            argon2_memory_kib=1024, argon2_time_cost=1,
            outbound_allow=",".join(f"127.0.0.1:{port}" for port in may_call),
        )  # fmt: skip
        with (
            furnished(settings, databases, RealClock()) as scene,
            serving(scene, listener, with_worker=with_worker),
        ):
            yield scene


def open_scene(kind: DatabaseKind, databases: Databases, folder: Path) -> Iterator[Scene]:
    with databases.fresh(kind, folder, migrated=True, furnishing=STAGE) as url:
        settings = Settings(
            data_dir=folder, database_url=url, database_pool_size=8, argon2_memory_kib=1024, argon2_time_cost=1
        )
        furniture = databases.made_of(kind, STAGE)
        with furnished(settings, databases, Clock(), furniture=furniture) as scene:
            yield scene


@pytest.fixture(scope="module")
def scene(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A furnished hub on SQLite with the application `partner`, without a worker."""
    for opened in open_scene("sqlite", databases, tmp_path_factory.mktemp("saml")):
        opened.connect()
        yield opened
