"""A company whose application is compared with what it should hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from audit.tables import audit_events
from idhub.access.reconcile_plan import set_plan
from idhub.access.tables import Account
from idhub.changes import COMMAND_LINE
from idhub.db import Database
from idhub.delivery.http import OutboundHttp
from idhub.delivery.tables import Delivery
from idhub.keys import Keyring
from idhub.lifecycle.hr_brake import Brake
from idhub.provisioning.outbound.mapping import user_attributes
from idhub.provisioning.outbound.records import people_there
from idhub.provisioning.reconcile.remedy import DEFAULT_BRAKE
from idhub.provisioning.reconcile.run import Report, reconcile
from idhub.provisioning.reconcile.tables import Finding
from idhub.settings import Settings
from scim.schemas import with_changes
from tests.provisioning.conftest import Scene
from tests.provisioning.stand_ins import StandIn
from tests.support.clock import Clock


@dataclass
class Ground:
    """The scene with one application, and shortcuts."""

    scene: Scene
    service: StandIn
    application_id: str

    def member(self, name: str, **changes: Any) -> tuple[str, str]:
        """Somebody with an account that is as it should be; `changes` are laid over the application's user."""
        person_id = self.scene.person(name)
        user = self.user_of(person_id, f"{name}@corp.example")
        user_id = self.service.add(user.pop("userName"), **{**user, **changes})
        account_id = self.scene.entitle(
            person_id,
            self.application_id,
            external_id=user_id,
            user_name=f"{name}@corp.example",
            known_state="active",
            observed_at=self.scene.clock() - timedelta(days=1),
        )
        return person_id, account_id

    def user_of(self, person_id: str, user_name: str) -> dict[str, Any]:
        with self.scene.database.read() as session:
            facts = people_there(session, [person_id], self.application_id, now=self.scene.clock())[person_id].facts
        user = with_changes({}, {k: v for k, v in user_attributes(facts, user_name=user_name).items() if v is not None})
        return {name: value for name, value in user.items() if name != "externalId"} | {"external_id": person_id}

    def run(self, *, dry_run: bool = False, brake: Brake | None = None) -> Report:
        self.scene.clock.advance(seconds=60)
        settings = self.scene.settings.model_copy(update={"outbound_allow": ",".join(self.scene.allowed)})
        return reconcile(
            self.scene.database,
            self.scene.keyring,
            OutboundHttp(settings),
            self.application_id,
            clock=self.scene.clock,
            actor=COMMAND_LINE,
            dry_run=dry_run,
            brake=brake or DEFAULT_BRAKE,
        )

    def findings(self) -> list[Finding]:
        with self.scene.database.read() as session:
            return list(session.execute(select(Finding).order_by(Finding.id)).scalars())

    def kinds(self) -> dict[str, str]:
        """Live findings: subject to kind."""
        live = {"open", "accepted", "reopened"}
        return {finding.subject: finding.kind for finding in self.findings() if finding.state in live}

    def plan(self, policy: str = "report", *names: str) -> None:
        with self.scene.database.transaction() as session:
            set_plan(session, self.application_id, every=timedelta(days=1), policy=policy, service_accounts=list(names))

    def know(self, account_id: str, **values: Any) -> None:
        with self.scene.database.transaction() as session:
            session.execute(update(Account).where(Account.id == account_id).values(**values))

    def deliveries(self) -> list[Delivery]:
        with self.scene.database.read() as session:
            return list(session.execute(select(Delivery).order_by(Delivery.id)).scalars())

    def event_types(self) -> list[str]:
        with self.scene.database.read() as session:
            return [row[0] for row in session.execute(select(audit_events.c.type).order_by(audit_events.c.id))]


@pytest.fixture
def ground(database: Database, keyring: Keyring, clock: Clock, settings: Settings, scene: Scene) -> Iterator[Ground]:
    with StandIn() as service:
        yield Ground(scene, service, scene.application(service))
