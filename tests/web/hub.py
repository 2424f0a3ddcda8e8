"""A hub's sign-in pages behind a real HTTP interface, composed as `idhub.app` does, without the worker."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import FastAPI, Request
from sqlalchemy import insert
from starlette.responses import Response
from starlette.testclient import TestClient

from idhub.access.tables import Application, OidcClient
from idhub.admission import Admission
from idhub.credentials import transactions
from idhub.credentials.journal import Journal
from idhub.credentials.store import Store, create_store
from idhub.credentials.tables import SessionParticipant
from idhub.db import Database, new_id
from idhub.directory.organizations import root_organization
from idhub.keys import Keyring
from idhub.login.passwords import HashingPool
from idhub.pages import Pages, create_pages, new_browser_token
from idhub.pages.notices import Carried, ErrorNotice
from idhub.settings import Settings
from idhub.web import login, protocol_pages, shared
from idhub.web.visit import frame_of, page_router, visitor_of
from tests.login.world import World

CALLBACK = "https://office.example/callback"


@dataclass(frozen=True)
class Services:
    """What the sign-in pages need, and nothing else."""

    settings: Settings
    database: Database
    keyring: Keyring
    pages: Pages
    clock: Callable[[], datetime]
    hashing: HashingPool
    store: Store
    journal: Journal
    admission: Admission

    def error_page(self, request: Request, notice: ErrorNotice) -> Response:
        return protocol_pages.notice(self, request, status=notice.status, reason=notice.reason)

    def carrying_page(self, request: Request, carried: Carried) -> Response:
        return protocol_pages.carrying(self, request, carried)

    def cleaning_page(self, request: Request, addresses: Sequence[str], go_on: str) -> Response:
        return protocol_pages.cleaning(self, request, addresses, go_on)


def create_app(world: World) -> FastAPI:
    """Sign-in, account and shared routes, with a portal that greets and resume addresses that tell their query."""
    pages = create_pages(world.settings, b"s" * 32)
    store = create_store(world.settings, world.database, world.keyring)
    services = Services(
        world.settings, world.database, world.keyring, pages, world.clock, world.pool, store, Journal(store),
        Admission(4, clock=world.clock),
    )  # fmt: skip

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await store.close()

    app = FastAPI(lifespan=lifespan)
    app.state.services = services
    app.include_router(login.create_router(services))
    app.include_router(shared.create_router(services))
    others = page_router(services)

    @others.get("/")
    def portal(request: Request) -> Response:
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=services.clock())
        return Response(f"portal of {frame_of(visitor, request, services).name}")

    @others.get("/oauth2/authorize/resume")
    @others.get("/oauth2/logout/resume")
    def resume(request: Request) -> Response:
        return Response("resumed")

    app.include_router(others)
    return app


def browser_of(world: World, app: FastAPI, origin: str) -> TestClient:
    """A browser without cookies. The application runs on one event loop until the test ends: its connections do too."""
    return world.running.enter_context(TestClient(app, base_url=origin, follow_redirects=False))


def write_counts(browser: TestClient) -> None:
    """What the journal counted, into the log, as happens once a minute."""
    assert browser.portal is not None and isinstance(browser.app, FastAPI)
    browser.portal.call(browser.app.state.services.journal.flush)


def make_application(
    world: World,
    slug: str = "office",
    *,
    owner_id: str | None = None,
    is_told: bool = True,
    scopes: Sequence[str] = ("openid",),
) -> str:
    """An application with an OIDC client of the same name; returns its id."""
    now, application_id = world.clock(), new_id("app")
    with world.database.transaction() as session:
        session.execute(
            insert(Application).values(
                id=application_id, slug=slug, name=slug.title(), name_zh="办公" if slug == "office" else None,
                organization_id=root_organization(session), owner_id=owner_id, criticality="high",
                revocation_deadline_seconds=900, is_enabled=True, created_at=now, changed_at=now,
            )
        )  # fmt: skip
        session.execute(
            insert(OidcClient).values(
                client_id=slug, application_id=application_id, auth_method="client_secret_basic",
                redirect_uris=[CALLBACK], post_logout_redirect_uris=[], grant_types=["authorization_code"],
                scopes=list(scopes), access_token_format="jwt", id_token_alg="ES256", created_at=now, changed_at=now,
                backchannel_logout_uri=f"http://127.0.0.1:1/{slug}" if is_told else None,
            )
        )  # fmt: skip
    return application_id


def join(world: World, session_id: str, principal_id: str, application_id: str, slug: str) -> None:
    """Let an application have used a session."""
    now = world.clock()
    with world.database.transaction() as session:
        session.execute(
            insert(SessionParticipant).values(
                id=new_id("par"), session_id=session_id, principal_id=principal_id, application_id=application_id,
                client_id=slug, sid=new_id("sid"), sub=new_id("sub"), joined_at=now, last_used_at=now,
            )
        )  # fmt: skip


def begin(world: World, **values: Any) -> tuple[str, str]:
    """A login transaction, as a protocol begins one: its id and the token of its browser."""
    browser_token = new_browser_token()
    with world.database.transaction() as session:
        transaction_id = transactions.begin(
            session, browser_token=browser_token, now=world.clock(), settings=world.settings, **values
        )
    return transaction_id, browser_token
