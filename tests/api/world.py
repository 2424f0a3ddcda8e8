"""The real application of a small group, and somebody who calls its API."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson
from fastapi import FastAPI
from httpx2 import Response
from sqlalchemy import insert, select, update
from starlette.testclient import TestClient

from audit.tables import audit_events
from idhub.app import create_app
from idhub.credentials import opaque
from idhub.credentials.tables import ApiToken
from idhub.db import new_id
from idhub.directory.tables import Installation
from idhub.provisioning.reconcile import findings
from idhub.provisioning.reconcile.findings import Place
from idhub.provisioning.reconcile.judge import Verdict
from idhub.provisioning.reconcile.kinds import Kind, Proposal
from idhub.provisioning.reconcile.tables import Finding
from idhub.services import Hub
from idhub.settings import Settings
from tests.lifecycle.world import World

EVERY_SCOPE = ("people:write", "applications:write", "receipts:read", "findings:write", "audit:read")
ENDPOINTS: Mapping[tuple[str, str], frozenset[str]] = {
    ("GET", "/people"): frozenset({"people:read", "people:write"}),
    ("POST", "/people"): frozenset({"people:write"}),
    ("GET", "/people/{person}"): frozenset({"people:read", "people:write"}),
    ("PATCH", "/people/{person}"): frozenset({"people:write"}),
    ("POST", "/people/{person}/employments"): frozenset({"people:write"}),
    ("POST", "/people/{person}/suspend"): frozenset({"people:write"}),
    ("POST", "/people/{person}/reactivate"): frozenset({"people:write"}),
    ("GET", "/people/{person}/offboarding"): frozenset({"people:write"}),
    ("POST", "/people/{person}/offboarding"): frozenset({"people:write"}),
    ("DELETE", "/people/{person}/offboarding"): frozenset({"people:write"}),
    ("POST", "/people/{person}/move"): frozenset({"people:write"}),
    ("GET", "/people/{person}/links"): frozenset({"people:read", "people:write"}),
    ("DELETE", "/people/{person}/links/{provider}"): frozenset({"people:write"}),
    ("GET", "/receipts/{case}"): frozenset({"people:read", "people:write", "receipts:read"}),
    ("GET", "/receipts/{case}/export"): frozenset({"people:read", "people:write", "receipts:read"}),
    ("GET", "/applications"): frozenset({"applications:read", "applications:write"}),
    ("POST", "/deliveries/{delivery}/retry"): frozenset({"applications:write"}),
    ("GET", "/findings"): frozenset({"findings:read", "findings:write"}),
    ("GET", "/findings/{finding}"): frozenset({"findings:read", "findings:write"}),
    ("POST", "/findings/{finding}/accept"): frozenset({"findings:write"}),
    ("POST", "/findings/{finding}/dismiss"): frozenset({"findings:write"}),
    ("POST", "/findings/{finding}/take-back"): frozenset({"findings:write"}),
    ("POST", "/findings/{finding}/act"): frozenset({"findings:write"}),
    # Needs a scope of people beside one of applications: no one alone opens it.
    ("GET", "/applications/{application}/preview/{person}"): frozenset(),
    ("GET", "/applications/{application}/reviews"): frozenset({"applications:read", "applications:write"}),
    ("POST", "/applications/{application}/reviews/{review}"): frozenset({"applications:write"}),
    ("POST", "/applications/{application}/sync"): frozenset({"applications:write"}),
    ("POST", "/applications/{application}/retry"): frozenset({"applications:write"}),
}
"""Every endpoint, and the scopes of which each opens it."""

POST_BODY = {"company": "HQ", "employee_number": "N1", "start_date": "2026-01-01"}
BODIES: Mapping[tuple[str, str], dict[str, Any]] = {
    ("POST", "/people"): {"display_name": "新人", "employment": POST_BODY},
    ("PATCH", "/people/{person}"): {"given_name": "Lei"},
    ("POST", "/people/{person}/employments"): POST_BODY,
    ("POST", "/people/{person}/suspend"): {"reason": "leave"},
    ("POST", "/people/{person}/reactivate"): {"reason": "back"},
    ("POST", "/people/{person}/offboarding"): {"reason": "left"},
    ("POST", "/people/{person}/move"): {"title": "Engineer"},
    ("POST", "/findings/{finding}/dismiss"): {"reason": "a machine's account", "until": "2026-12-31"},
    ("POST", "/findings/{finding}/act"): {"action": "disable"},
    ("POST", "/applications/{application}/reviews/{review}"): {"decision": "reject"},
    ("POST", "/applications/{application}/sync"): {"step": "pause"},
}
"""A body that works, of every endpoint that takes one."""


@dataclass
class Api:
    """The API of a running hub."""

    world: World
    app: FastAPI
    http: TestClient

    def finding(self, organization_id: str, subject: str = "nobody") -> str:
        """A finding of an organization; returns its id."""
        with self.world.database.transaction() as session:
            place = Place("rec_x", "payroll", None, organization_id, None)
            verdict = Verdict(Kind.GHOST_PAID, subject, subject, "none", {}, None, None, Proposal.STOP_PAY)
            findings.write(session, place, [verdict], now=self.world.clock())
            return session.execute(select(Finding.id).where(Finding.subject == subject)).scalar_one()

    def token(
        self,
        *scopes: str,
        organization_id: str | None = None,
        principal_id: str | None = None,
        expires: timedelta | None = timedelta(days=1),
        **values: Any,
    ) -> str:
        """A token with these scopes; with every scope when none is named."""
        value = opaque.make("api")
        with self.world.database.transaction() as session:
            epoch = session.execute(select(Installation.epoch)).scalar_one()
            session.execute(
                insert(ApiToken).values(
                    id=new_id("tok"),
                    token_hash=opaque.hash_of(value),
                    principal_id=principal_id,
                    installation_epoch=epoch,
                    scopes=list(scopes or EVERY_SCOPE),
                    organization_id=organization_id,
                    created_at=self.world.clock(),
                    expires_at=self.world.clock() + expires if expires else None,
                    is_local=True,
                    **{"name": "test", **values},
                )
            )
        return value

    def call(self, method: str, path: str, *, token: str | None = None, **values: Any) -> Response:
        """One call under `/api/v1`."""
        headers: dict[str, Any] = dict(values.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}".encode("latin-1")
        response: Response = self.http.request(method, f"/api/v1{path}", headers=headers, **values)
        return response

    def state(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything that a refused call must leave as it was."""
        from idhub.access.tables import Account, Application, Entitlement
        from idhub.delivery.tables import Delivery
        from idhub.directory.tables import Department, Employment, LoginName, Organization, Person, Principal
        from idhub.lifecycle.tables import Case

        tables = (
            Account, Application, Case, Delivery, Department, Employment, Entitlement, LoginName, Organization, Person,
            Principal,
        )  # fmt: skip
        with self.world.database.read() as session:
            return {
                table.__tablename__: [
                    tuple(row)
                    for row in session.execute(select(table.__table__).order_by(*table.__table__.primary_key))
                ]
                for table in tables
            }

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Audit events as they were written, oldest first."""
        statement = select(audit_events.c.body).order_by(audit_events.c.id)
        if kind is not None:
            statement = statement.where(audit_events.c.type == kind)
        with self.world.database.read() as session:
            return [orjson.loads(body) for body in session.execute(statement).scalars()]

    def raise_installation_epoch(self) -> None:
        """What happens after a restored backup."""
        with self.world.database.transaction() as session:
            session.execute(update(Installation).values(epoch=Installation.epoch + 1))


@contextmanager
def serving(world: World, settings: Settings) -> Iterator[Api]:
    """The application of `world`, without the worker."""
    app = create_app(Hub(settings, world.database, world.keyring, world.clock, "node-test"), with_worker=False)
    with TestClient(app, base_url=settings.issuer, raise_server_exceptions=False, follow_redirects=False) as http:
        yield Api(world, app, http)


def filled(path: str, **names: str) -> str:
    """A path with its parameters."""
    for name, value in names.items():
        path = path.replace("{" + name + "}", value)
    return path
