"""A hub with people, applications and clients in it, and a browser and an application to talk to it."""

import base64
import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
from fastapi import FastAPI
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient

from audit.events import Actor
from audit.tables import audit_events
from idhub.access.tables import Application, Criticality, Entitlement, OidcClient
from idhub.admission import Admission
from idhub.app import HubApp
from idhub.changes import use_sealer
from idhub.credentials import sessions
from idhub.credentials.journal import Journal
from idhub.credentials.store import Store, create_store
from idhub.db import Database, new_id
from idhub.directory.kinds import EmploymentType, PrincipalKind, Standing
from idhub.directory.organizations import install, root_organization
from idhub.directory.tables import Principal
from idhub.keys import Keyring
from idhub.lifecycle.intake import Change, EmploymentFacts, Offboard, Onboard, PersonFacts, Reactivate, Suspend
from idhub.lifecycle.transition import TransitionResult, transition
from idhub.oidc.front import create_hot
from idhub.oidc.hot import Endpoints
from idhub.oidc.routes import create_router
from idhub.pages.notices import ErrorNotice
from idhub.settings import Settings
from tests.support.clock import Clock

CLI = Actor(kind="cli", id="cli")
CALLBACK = "https://office.example/callback"
AFTER_LOGOUT = "https://office.example/bye"
ISSUER = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Services:
    """What `idhub.app` hands to this package."""

    settings: Settings
    database: Database
    keyring: Keyring
    clock: Callable[[], datetime]
    store: Store
    journal: Journal

    @cached_property
    def admission(self) -> Admission:
        """Room for a few at once."""
        return Admission(4, clock=self.clock)

    def error_page(self, request: Request, notice: ErrorNotice, /) -> Response:
        """A stand-in for the error page."""
        return PlainTextResponse(f"shown: {notice.reason}", notice.status)


@dataclass(frozen=True)
class Tokens:
    """A token response."""

    body: dict[str, Any]

    def __getitem__(self, name: str) -> str:
        value: str = self.body[name]
        return value


@dataclass
class App:
    """A client that the test plays."""

    client_id: str
    secret: str | None
    application_id: str
    redirect_uri: str = CALLBACK

    @property
    def auth(self) -> tuple[str, str]:
        assert self.secret is not None
        return self.client_id, self.secret


def challenge_of(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


VERIFIER = "v" * 43


@dataclass
class World:
    """The hub of one test."""

    database: Database
    keyring: Keyring
    settings: Settings
    clock: Clock
    endpoints: Endpoints
    http: TestClient
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 10_000)))

    # ------------------------------------------------------------------ people

    def onboard(self, name: str = "王磊", *, starts_on: date = date(2020, 1, 1), ends_on: date | None = None) -> str:
        number, principal_id = f"QY{next(self.numbers):06d}", new_id("per")
        person = PersonFacts(display_name=name, email=f"{number.lower()}@qiyue.example", mobile="+8613800138000")
        with self.database.transaction() as session:
            employment = EmploymentFacts(
                organization_id=root_organization(session),
                employee_number=number,
                type=EmploymentType.REGULAR,
                starts_on=starts_on,
                ends_on=ends_on,
                title="Engineer",
            )
            self.change(Onboard(principal_id=principal_id, person=person, employment=employment), session)
        return principal_id

    def change(self, change: Change, session: Session | None = None) -> TransitionResult:
        if session is None:
            with self.database.transaction() as own:
                return self.change(change, own)
        result = transition(session, [change], now=self.clock(), actor=CLI, door="cli")
        result.only()
        return result

    def offboard(self, principal_id: str) -> None:
        self.change(Offboard(principal_id=principal_id))

    def suspend(self, principal_id: str) -> None:
        self.change(Suspend(principal_id=principal_id))

    def reactivate(self, principal_id: str) -> None:
        self.change(Reactivate(principal_id=principal_id))

    def entitle(self, principal_id: str, app: App) -> None:
        with self.database.transaction() as session:
            session.execute(
                insert(Entitlement).values(
                    id=new_id("ent"),
                    principal_id=principal_id,
                    application_id=app.application_id,
                    role="member",
                    reason_kind="direct",
                    reason_ref="test",
                    valid_from=self.clock(),
                    recorded_at=self.clock(),
                )
            )

    def withdraw(self, principal_id: str, app: App) -> None:
        with self.database.transaction() as session:
            session.execute(
                update(Entitlement)
                .where(Entitlement.principal_id == principal_id, Entitlement.application_id == app.application_id)
                .values(superseded_at=self.clock())
            )

    def employee(self, app: App, name: str = "王磊") -> str:
        principal_id = self.onboard(name)
        self.entitle(principal_id, app)
        return principal_id

    def service(self) -> str:
        principal_id = new_id("svc")
        with self.database.transaction() as session:
            session.execute(
                insert(Principal).values(
                    id=principal_id,
                    kind=PrincipalKind.SERVICE,
                    organization_id=root_organization(session),
                    standing=Standing.ACTIVE,
                    access_epoch=1,
                    enrolment_epoch=1,
                    access_starts_at=self.clock(),
                    version=1,
                    created_at=self.clock(),
                    changed_at=self.clock(),
                )
            )
        return principal_id

    # ------------------------------------------------------------------ applications

    def app(self, slug: str = "office", **fields: Any) -> App:
        application_id = new_id("app")
        is_public = fields.get("auth_method") == "none"
        secret = None if is_public else secrets.token_urlsafe(32)
        values: dict[str, Any] = {
            "client_id": slug,
            "application_id": application_id,
            "auth_method": "client_secret_basic",
            "secret_hash": None if secret is None else hashlib.sha256(secret.encode()).hexdigest(),
            "redirect_uris": [CALLBACK],
            "post_logout_redirect_uris": [AFTER_LOGOUT],
            "grant_types": ["authorization_code", "refresh_token"],
            "scopes": ["openid", "profile", "email", "phone", "organization", "offline_access"],
            "access_token_format": "opaque",
            "id_token_alg": "ES256",
            "rotates_refresh": True,
            "requires_consent": False,
            "is_native": False,
            "backchannel_logout_uri": f"https://{slug}.example/backchannel",
            "backchannel_logout_session_required": True,
            "is_enabled": True,
            "created_at": self.clock(),
            "changed_at": self.clock(),
            **fields,
        }
        with self.database.transaction() as session:
            session.execute(
                insert(Application).values(
                    id=application_id,
                    slug=slug,
                    name=slug.title(),
                    organization_id=root_organization(session),
                    criticality=Criticality.NORMAL,
                    revocation_deadline_seconds=3600,
                    is_enabled=True,
                    created_at=self.clock(),
                    changed_at=self.clock(),
                )
            )
            session.execute(insert(OidcClient).values(**values))
        return App(values["client_id"], secret, application_id, values["redirect_uris"][0])

    # ------------------------------------------------------------------ what a browser does

    def sign_in(self, principal_id: str, browser: TestClient | None = None, *, amr: Sequence[str] = ("pwd",)) -> str:
        """A session as a password would start it, put into the browser; returns its id."""
        with self.database.transaction(durable=False) as session:
            epochs = sessions.read_epochs(session, principal_id)
            assert epochs is not None
            token, session_id = sessions.start_session(
                session,
                principal_id,
                epochs_read=epochs,
                amr=amr,
                now=self.clock(),
                ip="203.0.113.7",
                user_agent="test",
                settings=self.settings,
            )
        (browser or self.http).cookies.set("idhub_session", token)
        return session_id

    def request(self, app: App, **changes: str | None) -> dict[str, str]:
        values: dict[str, str | None] = {
            "response_type": "code",
            "client_id": app.client_id,
            "redirect_uri": app.redirect_uri,
            "scope": "openid",
            "state": "st-1",
            "nonce": "no-1",
            "code_challenge": challenge_of(VERIFIER),
            "code_challenge_method": "S256",
            **changes,
        }
        return {name: value for name, value in values.items() if value is not None}

    def authorize(self, app: App, **changes: str | None) -> Any:
        return self.http.get("/oauth2/authorize", params=self.request(app, **changes), follow_redirects=False)

    def code(self, app: App, **changes: str | None) -> str:
        response = self.authorize(app, **changes)
        assert response.status_code == 303, response.text
        return query_of(response)["code"]

    # ------------------------------------------------------------------ what an application does

    def post(self, path: str, app: App | None, fields: Mapping[str, str]) -> Any:
        data = dict(fields)
        if app is not None and app.secret is None:
            data["client_id"] = app.client_id
        if app is None or app.secret is None:
            return self.http.post(path, data=data)
        return self.http.post(path, data=data, auth=app.auth)

    def token(self, app: App, **fields: str) -> Any:
        return self.post("/oauth2/token", app, fields)

    def redeem(self, app: App, code: str, **changes: str) -> Any:
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": app.redirect_uri,
            "code_verifier": VERIFIER,
            **changes,
        }
        return self.token(app, **fields)

    def tokens(self, app: App, **changes: str | None) -> Tokens:
        response = self.redeem(app, self.code(app, **changes))
        assert response.status_code == 200, response.text
        return Tokens(response.json())

    def refresh(self, app: App, token: str, **fields: str) -> Any:
        return self.token(app, grant_type="refresh_token", refresh_token=token, **fields)

    def is_active(self, app: App, token: str) -> bool:
        response = self.post("/oauth2/introspect", app, {"token": token})
        assert response.status_code == 200, response.text
        active: bool = response.json()["active"]
        return active

    def userinfo(self, token: str) -> Any:
        return self.http.get("/oauth2/userinfo", headers={"Authorization": f"Bearer {token}"})

    # ------------------------------------------------------------------ what can be seen

    def flush(self) -> None:
        assert self.http.portal is not None
        self.http.portal.call(self.endpoints.store.flush)

    def events(self, kind: str) -> list[dict[str, Any]]:
        with self.database.read() as session:
            rows = session.execute(
                select(audit_events.c.body).where(audit_events.c.type == kind).order_by(audit_events.c.id)
            ).scalars()
            return [orjson.loads(body) for body in rows]

    def reasons(self, kind: str) -> list[str]:
        return [event["reason"] for event in self.events(kind) if event["outcome"] == "failure"]

    def count(self, table: Any, *where: Any) -> int:
        with self.database.read() as session:
            return session.execute(select(func.count()).select_from(table).where(*where)).scalar_one()


def query_of(response: Any) -> dict[str, str]:
    """Parameters of the address that the response redirects to."""
    return {name: values[0] for name, values in parse_qs(urlsplit(response.headers["location"]).query).items()}


@contextmanager
def running(services: Services) -> Iterator[tuple[Endpoints, TestClient]]:
    """The endpoints behind an application, and a browser for it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        yield
        await services.store.close()

    application = HubApp(lifespan=lifespan)
    endpoints, application.front = create_hot(services)
    application.include_router(create_router(services))
    with TestClient(application, base_url=ISSUER, raise_server_exceptions=True) as http:
        yield endpoints, http


@contextmanager
def make_world(database: Database, keyring: Keyring, settings: Settings, clock: Clock) -> Iterator[World]:
    """A hub with its root organization and nobody in it."""
    use_sealer(database, keyring)
    with database.transaction() as session:
        install(session, time_zone="Asia/Shanghai", now=clock())
    store = create_store(settings, database, keyring)
    services = Services(settings, database, keyring, clock, store, Journal(store))
    with running(services) as (endpoints, http):
        yield World(database, keyring, settings, clock, endpoints, http)
