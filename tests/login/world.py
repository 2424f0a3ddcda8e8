"""A small hub with people in it, for tests of signing in: everything through the one door, hashes made cheap."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import orjson
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from audit.events import Actor
from audit.tables import audit_events
from idhub.authority import HubRole, assign_role
from idhub.changes import use_sealer
from idhub.credentials.sessions import SignedIn, authenticate
from idhub.db import Database, new_id
from idhub.directory.kinds import EmploymentType, OrganizationKind
from idhub.directory.organizations import create_organization, install, root_organization
from idhub.keys import Keyring
from idhub.lifecycle.intake import Change, EmploymentFacts, Onboard, PersonFacts
from idhub.lifecycle.transition import transition
from idhub.login import invitations, sign_in
from idhub.login.passwords import HashingPool, normalize
from idhub.login.sign_in import Browser, Minted, Prepared, Refusal
from idhub.login.throttling import Admission
from idhub.settings import Settings
from tests.support.clock import Clock

PASSWORD = "quiet harbour lantern"
CLI = Actor(kind="cli", id="cli")
HERE = Browser(address="203.0.113.7", user_agent="Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0")


@dataclass
class World:
    """The hub of one test."""

    database: Database
    keyring: Keyring
    settings: Settings
    clock: Clock
    pool: HashingPool
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 10_000)))
    running: ExitStack = field(default_factory=ExitStack)
    """What ends with the test, before the hub does: applications that somebody has started."""

    def onboard(self, *, name: str = "王磊", starts_on: date = date(2020, 1, 1), **facts: Any) -> tuple[str, str]:
        """A new person; returns principal id and employee number."""
        number, principal_id = facts.pop("number", f"QY{next(self.numbers):06d}"), new_id("per")
        company = facts.pop("company", None)
        person = PersonFacts(display_name=name, **{"email": f"{number.lower()}@qiyue.example", **facts})
        with self.database.transaction() as session:
            employment = EmploymentFacts(
                organization_id=company or root_organization(session), employee_number=number,
                type=EmploymentType.REGULAR,
                starts_on=starts_on,
            )  # fmt: skip
            self._transition(session, Onboard(principal_id=principal_id, person=person, employment=employment))
        return principal_id, number

    def person(self, password: str = PASSWORD, **facts: Any) -> tuple[str, str]:
        """A new person with a password; returns principal id and employee number."""
        principal_id, number = self.onboard(**facts)
        self.set_password(principal_id, password)
        return principal_id, number

    def company(self, code: str) -> str:
        """A company of the group."""
        with self.database.transaction() as session:
            return create_organization(
                session, code=code, name=code, kind=OrganizationKind.SUBSIDIARY,
                parent_id=root_organization(session), time_zone="Asia/Shanghai", now=self.clock(),
            )  # fmt: skip

    def assign(self, principal_id: str, company: str | None) -> None:
        """Make somebody an auditor of a company, or of the group."""
        with self.database.transaction() as session:
            assign_role(
                session, principal_id, HubRole.AUDITOR, organization_id=company or root_organization(session),
                now=self.clock(), assigned_by="test",
            )  # fmt: skip

    def set_password(self, principal_id: str, password: str = PASSWORD) -> Minted:
        minted = self.redeem(self.invite(principal_id), password)
        assert isinstance(minted, Minted)
        return minted

    def change(self, change: Change) -> None:
        with self.database.transaction() as session:
            self._transition(session, change)

    def _transition(self, session: Session, change: Change) -> None:
        transition(session, [change], now=self.clock(), actor=CLI, door="cli").only()

    # ------------------------------------------------------------------ what routes do

    def invite(self, principal_id: str, purpose: invitations.Purpose = "first_password") -> str:
        with self.database.transaction() as session:
            return invitations.invite(
                session, principal_id, purpose=purpose, now=self.clock(), settings=self.settings, actor=CLI
            )

    def redeem(
        self, token: str, password: str = PASSWORD, *, hashed: str | None = None
    ) -> Minted | invitations.Invited | None:
        new_hash = hashed or self.pool.hash(normalize(password)).result()
        with self.database.transaction() as session:
            return invitations.redeem(session, self.settings, token, new_hash, browser=HERE, now=self.clock())

    def prepare(self, username: str, browser: Browser = HERE) -> Prepared:
        with self.database.read() as session:
            return sign_in.prepare(session, self.keyring, username, browser=browser, now=self.clock())

    def finish(
        self,
        prepared: Prepared,
        password: str,
        *,
        browser: Browser = HERE,
        old: str | None = None,
        remember: bool = False,
    ) -> Minted | Refusal | Admission:
        verification = self.pool.verify(normalize(password), prepared.stored_hash).result()
        with self.database.transaction(durable=False) as session:
            return sign_in.finish(
                session, self.keyring, self.settings, prepared, verification, browser=browser, old_session_id=old,
                remember=remember, now=self.clock(),
            )  # fmt: skip

    def sign_in(self, username: str, password: str = PASSWORD, **options: Any) -> Minted | Refusal | Admission:
        browser = options.get("browser", HERE)
        return self.finish(self.prepare(username, browser), password, **options)

    def minted(self, username: str, password: str = PASSWORD, **options: Any) -> Minted:
        outcome = self.sign_in(username, password, **options)
        assert isinstance(outcome, Minted), outcome
        return outcome

    # ------------------------------------------------------------------ what can be seen

    def session_of(self, token: str) -> SignedIn | None:
        with self.database.read() as session:
            return authenticate(session, token, now=self.clock())

    def events(self, kind: str) -> list[tuple[str, str | None, str | None]]:
        """Outcome, reason and person of recorded events, oldest first."""
        with self.database.read() as session:
            rows = session.execute(
                select(audit_events.c.body).where(audit_events.c.type == kind).order_by(audit_events.c.id)
            ).scalars()
            bodies = [orjson.loads(body) for body in rows]
        return [(body["outcome"], body.get("reason"), body.get("person_id")) for body in bodies]

    def count(self, table: Any, *where: Any) -> int:
        with self.database.read() as session:
            return session.execute(select(func.count()).select_from(table).where(*where)).scalar_one()


@contextmanager
def make_world(database: Database, keyring: Keyring, settings: Settings, clock: Clock) -> Iterator[World]:
    """A hub with its root organization and nobody in it."""
    use_sealer(database, keyring)
    with database.transaction() as session:
        install(session, time_zone="Asia/Shanghai", now=clock())
    pool = HashingPool(settings)
    world = World(database, keyring, settings, clock, pool)
    try:
        with world.running:
            yield world
    finally:
        pool.close()
