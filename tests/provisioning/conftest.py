"""A company with an application connected over SCIM, and the channel that serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import func, insert, select, update

from audit.tables import audit_events
from idhub.access.applications import scim_token_context
from idhub.access.tables import Account, AccountKind, Application, Entitlement, ScimTarget
from idhub.changes import use_sealer
from idhub.db import Database, new_id
from idhub.delivery.channel import Grade, LeasedDelivery, Operation, Outcome
from idhub.delivery.http import OutboundHttp
from idhub.delivery.tables import Delivery
from idhub.directory.tables import (
    Department,
    Employment,
    LoginName,
    Organization,
    OrganizationClosure,
    Person,
    Principal,
)
from idhub.keys import Keyring
from idhub.lifecycle.records import login_names_of
from idhub.lifecycle.tables import Case, CaseRow
from idhub.provisioning.outbound.channel import ScimChannel
from idhub.settings import Settings
from tests.provisioning.quirky import Quirks, Quirky, QuirkyHttp
from tests.provisioning.stand_ins import StandIn
from tests.support.clock import Clock

PATIENT = timedelta(seconds=15)
"""For attempts that are to succeed, also on a machine that is busy."""
IMPATIENT = timedelta(seconds=2)
"""For attempts that are to run into their deadline."""


@dataclass
class Scene:
    """Rows of a small company, written directly: who may have an account is for `lifecycle` to decide and to test."""

    database: Database
    keyring: Keyring
    clock: Clock
    settings: Settings
    allowed: list[str] = field(default_factory=list)
    organization_id: str = ""
    quirky: Quirky | None = None
    """A service that is reached without a socket, where there is one."""

    def company(self) -> None:
        self.organization_id = new_id("org")
        now = self.clock()
        with self.database.transaction() as session:
            session.execute(
                insert(Organization).values(
                    id=self.organization_id,
                    kind="company",
                    code="HQ",
                    name="总部",
                    time_zone="Asia/Shanghai",
                    created_at=now,
                )
            )
            own = {"ancestor_id": self.organization_id, "descendant_id": self.organization_id, "depth": 0}
            session.execute(insert(OrganizationClosure).values(own))
            session.execute(
                insert(Department).values(
                    id="dep_1", organization_id=self.organization_id, name="底盘", path="研发/底盘", created_at=now
                )
            )

    def application(self, stand_in: StandIn | None = None, *, base_url: str = "", **target: Any) -> str:
        """An application whose SCIM service is the stand-in, or is at `base_url`."""
        application_id, now = new_id("app"), self.clock()
        token = target.pop("token", stand_in.token if stand_in else "tok")
        address = stand_in.base_url if stand_in else base_url
        self.allowed.append(urlsplit(address).netloc)
        with self.database.transaction() as session:
            session.execute(
                insert(Application).values(
                    id=application_id,
                    slug=application_id,
                    name="Office",
                    organization_id=self.organization_id,
                    criticality="high",
                    revocation_deadline_seconds=300,
                    is_enabled=True,
                    created_at=now,
                    changed_at=now,
                )
            )
            values = {"user_name_attribute": "email", "dialect": "generic", "control_user_name": None, **target}
            session.execute(
                insert(ScimTarget).values(
                    application_id=application_id,
                    base_url=address,
                    token_sealed=self.keyring.seal(scim_token_context(application_id), token.encode()),
                    changed_at=now,
                    **values,
                )
            )
        return application_id

    def person(self, name: str = "alice", *, manager_id: str | None = None, **facts: Any) -> str:
        person_id, employment_id, now = new_id("per"), new_id("emp"), self.clock()
        values = {
            "display_name": "爱丽丝",
            "given_name": "丽丝",
            "family_name": "爱",
            "email": f"{name}@corp.example",
            "mobile": "13800000000",
            **facts,
        }
        with self.database.transaction() as session:
            session.execute(
                insert(Principal).values(
                    id=person_id,
                    kind="person",
                    organization_id=self.organization_id,
                    standing="active",
                    access_starts_at=now,
                    created_at=now,
                    changed_at=now,
                )
            )
            session.execute(insert(Person).values(id=person_id, main_employment_id=employment_id, **values))
            names = login_names_of([f"QY-{name}"], values["email"], values["mobile"])
            session.execute(
                insert(LoginName),
                [{"value": value, "principal_id": person_id, "kind": kind} for value, kind in names.items()],
            )
            session.execute(
                insert(Employment).values(
                    id=employment_id,
                    principal_id=person_id,
                    organization_id=self.organization_id,
                    department_id="dep_1",
                    employee_number=f"QY-{name}",
                    type="regular",
                    title="工程师",
                    manager_id=manager_id,
                    state="active",
                    starts_on=date(2026, 11, 1),
                    starts_at=now,
                    created_at=now,
                    changed_at=now,
                )
            )
        return person_id

    def entitle(self, person_id: str, application_id: str, **account: Any) -> str:
        """Entitle a person and return the account row's id."""
        account_id, now = new_id("acc"), self.clock()
        with self.database.transaction() as session:
            session.execute(
                insert(Entitlement).values(
                    id=new_id("ent"),
                    principal_id=person_id,
                    application_id=application_id,
                    role="member",
                    reason_kind="direct",
                    valid_from=now,
                    recorded_at=now,
                )
            )
            values = {"external_id": None, "user_name": None, "known_state": "absent", **account}
            session.execute(
                insert(Account).values(
                    id=account_id,
                    application_id=application_id,
                    principal_id=person_id,
                    kind=AccountKind.LINKED,
                    desired_state="active",
                    created_at=now,
                    changed_at=now,
                    **values,
                )
            )
        return account_id

    def alive(self, stand_in: StandIn, application_id: str, name: str = "control") -> str:
        """Another person with a live account; returns the application's id of it."""
        person_id = self.person(name)
        user_id = stand_in.add(f"{name}@corp.example", external_id=person_id)
        self.entitle(person_id, application_id, external_id=user_id, known_state="active", observed_at=self.clock())
        return user_id

    def alive_in(self, service: Quirky, application_id: str) -> str:
        """As `alive`, in a service of this process. People of earlier examples may be there."""
        name = f"control-{new_id('c')[-8:]}"
        person_id = self.person(name)
        user_id = service.add_user(userName=f"{name}@corp.example", externalId=person_id)
        self.entitle(person_id, application_id, external_id=user_id, known_state="active", observed_at=self.clock())
        return user_id

    def leave(self, person_id: str) -> None:
        now = self.clock()
        with self.database.transaction() as session:
            session.execute(
                update(Principal)
                .where(Principal.id == person_id)
                .values(standing="left", access_ends_at=now, version=Principal.version + 1)
            )
            session.execute(update(Entitlement).where(Entitlement.principal_id == person_id).values(superseded_at=now))
            session.execute(update(Account).where(Account.principal_id == person_id).values(desired_state="inactive"))

    def prove_leave(self, person_id: str, account_id: str) -> str:
        """Let a person leave, with a receipt that says of their account that its end is proven; returns the case."""
        self.leave(person_id)
        case_id, delivery_id, now = new_id("cas"), new_id("dlv"), self.clock()
        application_id = self.account(account_id)["application_id"]
        with self.database.transaction() as session:
            session.execute(
                insert(Case).values(
                    id=case_id,
                    number=f"R-2026-11-{case_id[-8:]}",
                    kind="leaver",
                    principal_id=person_id,
                    organization_id=self.organization_id,
                    state="complete",
                    is_emergency=False,
                    effective_at=now,
                    local_done_at=now,
                    opened_at=now,
                    opened_by="cli",
                    plan={},
                    ended={},
                )
            )
            place = select(func.coalesce(func.max(Delivery.seq), 0) + 1).where(Delivery.lane == f"scim:{account_id}")
            session.execute(
                insert(Delivery).values(
                    id=delivery_id,
                    seq=place.scalar_subquery(),
                    application_id=application_id,
                    channel="scim",
                    lane=f"scim:{account_id}",
                    operation="deprovision",
                    payload={},
                    principal_id=person_id,
                    account_id=account_id,
                    case_id=case_id,
                    required_grade=2,
                    state="done",
                    grade=2,
                    evidence={},
                    attempts=1,
                    lease_token=1,
                    next_attempt_at=now,
                    planned_at=now,
                    finished_at=now,
                )
            )
            session.execute(
                insert(CaseRow).values(
                    id=new_id("row"),
                    case_id=case_id,
                    application_id=application_id,
                    account_id=account_id,
                    channel="scim",
                    ceiling=2,
                    required_grade=2,
                    delivery_id=delivery_id,
                    deadline_at=now + timedelta(hours=1),
                )
            )
        return case_id

    def delivery(self, account_id: str, operation: Operation, **values: Any) -> LeasedDelivery:
        row = self.account(account_id)
        defaults: dict[str, Any] = {
            "id": new_id("dlv"),
            "application_id": row["application_id"],
            "channel": "scim",
            "lane": f"scim:{account_id}",
            "operation": operation,
            "payload": {},
            "attempt": 1,
            "principal_id": row["principal_id"],
            "account_id": account_id,
            "participant_id": None,
            "case_id": None,
            "required_grade": Grade.E2 if operation == "deprovision" else Grade.E1,
            "deadline_at": None,
            "quiet_after": None,
        }
        return LeasedDelivery(**(defaults | values))

    def base_url_of(self, application_id: str) -> str:
        """Where the application's SCIM service is."""
        with self.database.read() as session:
            return session.scalars(select(ScimTarget.base_url).where(ScimTarget.application_id == application_id)).one()

    def account(self, account_id: str) -> dict[str, Any]:
        with self.database.read() as session:
            return dict(session.execute(select(Account.__table__).where(Account.id == account_id)).one()._mapping)

    def events(self, account_id: str) -> list[str]:
        """Types of the events about an account, in order."""
        with self.database.read() as session:
            rows = session.execute(
                select(audit_events.c.type).where(audit_events.c.target_id == account_id).order_by(audit_events.c.id)
            )
            return [row[0] for row in rows]

    def send(self, *deliveries: LeasedDelivery, timeout: timedelta = PATIENT) -> list[Outcome]:
        """Send deliveries at once, in one event loop, as the worker does; half a minute after whatever was before."""
        self.clock.advance(seconds=30)
        settings = self.settings.model_copy(update={"outbound_allow": ",".join(self.allowed)})
        quirky = self.quirky
        if quirky is not None:
            return self.send_within(QuirkyHttp(quirky), *deliveries, timeout=timeout)

        async def sent() -> list[Outcome]:
            async with OutboundHttp(settings) as http:
                channel = ScimChannel(self.database, self.keyring, http, timeout=timeout)
                now = self.clock()
                return await asyncio.gather(*(channel.send(delivery, now=now) for delivery in deliveries))

        return asyncio.run(sent())

    def send_within(self, http: QuirkyHttp, *deliveries: LeasedDelivery, timeout: timedelta) -> list[Outcome]:
        """Send deliveries to a service of this process."""

        async def sent() -> list[Outcome]:
            channel = ScimChannel(self.database, self.keyring, http, timeout=timeout)
            now = self.clock()
            return await asyncio.gather(*(channel.send(delivery, now=now) for delivery in deliveries))

        return asyncio.run(sent())

    def target_delivery(self, application_id: str, operation: Operation, **payload: Any) -> LeasedDelivery:
        """A delivery that is about the target, not about an account."""
        return LeasedDelivery(
            id=new_id("dlv"),
            application_id=application_id,
            channel="scim",
            lane=f"scim:{operation}:{application_id}",
            operation=operation,
            payload=payload,
            attempt=1,
            principal_id=None,
            account_id=None,
            participant_id=None,
            case_id=None,
            required_grade=Grade.E1,
            deadline_at=None,
            quiet_after=None,
        )

    def quirks(self, quirks: Quirks, dialect: str = "generic", **target: Any) -> tuple[Quirky, str]:
        """A quirky service, and an application that speaks to it."""
        self.quirky = Quirky(quirks)
        application_id = self.application(
            base_url="https://quirky.example/scim/v2", dialect=dialect, token=self.quirky.token, **target
        )
        return self.quirky, application_id

    def send_one(
        self, account_id: str, operation: Operation, *, timeout: timedelta = PATIENT, **values: Any
    ) -> Outcome:
        return self.send(self.delivery(account_id, operation, **values), timeout=timeout)[0]


@pytest.fixture
def scene(database: Database, keyring: Keyring, clock: Clock, settings: Settings) -> Scene:
    use_sealer(database, keyring)
    made = Scene(database, keyring, clock, settings)
    made.company()
    return made


@pytest.fixture
def service() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in
