"""A small group with two applications, everything through the one door."""

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from audit.tables import audit_events
from idhub.access.applications import ApplicationWish, OidcWish, ScimWish, configure
from idhub.access.tables import Account, AccountKind, Criticality, Entitlement
from idhub.authority import LOCAL
from idhub.changes import COMMAND_LINE, use_sealer
from idhub.credentials.tables import Grant, SessionParticipant, SsoSession
from idhub.db import Database, new_id
from idhub.delivery.tables import Delivery
from idhub.directory.kinds import EmploymentType, OrganizationKind
from idhub.directory.organizations import create_organization, install, root_organization
from idhub.directory.tables import Principal
from idhub.keys import Keyring
from idhub.lifecycle import intake
from idhub.lifecycle.commands import Caller
from idhub.lifecycle.ports import use_planners
from idhub.lifecycle.transition import TransitionResult, transition
from idhub.provisioning.outbound.planner import ScimPlanner
from idhub.settings import Settings
from idhub.signals.planner import BackchannelPlanner
from tests.support.clock import Clock
from tests.support.databases import DatabaseKind, Databases, Furnishing

CALLER = Caller(subject=LOCAL, actor=COMMAND_LINE, door="cli")
RULE = 'employments.companyCode eq "HQ" and employments.type ne "contractor"'
TIMEOUT = timedelta(seconds=10)


@dataclass
class World:
    """HQ in Shanghai and BER in Berlin; Office (OIDC and SCIM) and Wiki (OIDC without a logout address)."""

    database: Database
    keyring: Keyring
    clock: Clock
    hq: str = ""
    berlin: str = ""
    office: str = ""
    wiki: str = ""
    count: int = field(default=0)

    def __post_init__(self) -> None:
        use_sealer(self.database, self.keyring)
        use_planners(self.database, lambda: [ScimPlanner(TIMEOUT), BackchannelPlanner(TIMEOUT)])
        if not self.hq:
            self._found()

    def _found(self) -> None:
        now = self.clock()
        with self.database.transaction() as session:
            install(session, time_zone="Asia/Shanghai", now=now)
            root = root_organization(session)
            self.hq = self._company(session, "HQ", "总部", "Asia/Shanghai", root)
            self.berlin = self._company(session, "BER", "Qiyue Berlin", "Europe/Berlin", root)
            self.office = configure(
                session, _wish("office", root, scim=True), seal=self.keyring.seal, now=now
            ).application_id
            self.wiki = configure(
                session, _wish("wiki", root, scim=False), seal=self.keyring.seal, now=now
            ).application_id

    def _company(self, session: Session, code: str, name: str, zone: str, root: str) -> str:
        return create_organization(
            session,
            code=code,
            name=name,
            kind=OrganizationKind.COMPANY,
            parent_id=root,
            time_zone=zone,
            now=self.clock(),
        )

    def at(self, now: datetime) -> None:
        """It is `now`."""
        self.clock.now = now

    def change(self, *changes: intake.Change, door: str = "cli") -> TransitionResult:
        """One batch through the one door, now."""
        with self.database.transaction() as session:
            return transition(session, changes, now=self.clock(), actor=COMMAND_LINE, door=door)

    def facts(self, **values: Any) -> intake.EmploymentFacts:
        """An employment at HQ, with what is named otherwise."""
        self.count += 1
        return intake.EmploymentFacts(
            **{
                "organization_id": self.hq,
                "employee_number": f"QY{self.count:06d}",
                "type": EmploymentType.REGULAR,
                "starts_on": date(2020, 1, 1),
                **values,
            }
        )

    def hire(self, name: str = "王磊", **values: Any) -> str:
        """A new person; returns the principal id."""
        principal_id = new_id("per")
        employment = self.facts(**values)
        person = intake.PersonFacts(display_name=name, email=f"{employment.employee_number.lower()}@qiyue.example")
        self.change(intake.Onboard(principal_id=principal_id, person=person, employment=employment)).only()
        return principal_id

    def principal(self, principal_id: str) -> Any:
        """The principal's row."""
        with self.database.read() as session:
            return session.execute(select(Principal.__table__).where(Principal.id == principal_id)).one()

    def employments(self, principal_id: str) -> list[Any]:
        """Employments, oldest first."""
        from idhub.directory.people import show_person

        with self.database.read() as session:
            return list(show_person(session, principal_id).employments)

    def entitled(self, principal_id: str) -> set[str]:
        """Applications entitled to now."""
        with self.database.read() as session:
            return set(
                session.execute(
                    select(Entitlement.application_id).where(
                        Entitlement.principal_id == principal_id,
                        Entitlement.superseded_at.is_(None),
                        Entitlement.valid_to.is_(None),
                    )
                ).scalars()
            )

    def deliveries(self, **values: Any) -> list[Any]:
        """Delivery rows with these values, in order of planning."""
        with self.database.read() as session:
            query = select(Delivery.__table__).order_by(Delivery.id)
            for name, value in values.items():
                query = query.where(getattr(Delivery, name) == value)
            return list(session.execute(query))

    def second_account(self, principal_id: str, user_name: str) -> None:
        """A further account of the person in Office, as administrators have them."""
        now = self.clock()
        with self.database.transaction() as session:
            session.add(
                Account(
                    id=new_id("acc"),
                    application_id=self.office,
                    principal_id=principal_id,
                    slot="admin",
                    kind=AccountKind.LINKED,
                    external_id="a-2",
                    user_name=user_name,
                    desired_state="active",
                    known_state="active",
                    created_at=now,
                    changed_at=now,
                )
            )

    def accounts(self, principal_id: str) -> list[Any]:
        """Account rows."""
        with self.database.read() as session:
            return list(session.execute(select(Account.__table__).where(Account.principal_id == principal_id)))

    def events(self, kind: str) -> list[Any]:
        """Audit events of a type, oldest first."""
        with self.database.read() as session:
            return list(
                session.execute(select(audit_events).where(audit_events.c.type == kind).order_by(audit_events.c.id))
            )

    def sign_in(self, principal_id: str, client_id: str, *, token_seconds: int = 300) -> str:
        """A session that an application takes part in; returns the session id."""
        now, row = self.clock(), self.principal(principal_id)
        session_id = new_id("ses")
        epochs = {
            "access_epoch": row.access_epoch,
            "enrolment_epoch": row.enrolment_epoch,
            "installation_epoch": 1,
        }
        application = self.office if client_id == "office" else self.wiki
        with self.database.transaction() as session:
            session.add(
                SsoSession(
                    id=session_id,
                    token_hash=session_id,
                    principal_id=principal_id,
                    authenticated_at=now,
                    amr=["pwd"],
                    created_at=now,
                    last_seen_at=now,
                    idle_expires_at=now + timedelta(hours=8),
                    expires_at=now + timedelta(hours=12),
                    **epochs,
                )
            )
            session.flush()
            session.add(
                SessionParticipant(
                    id=new_id("prt"),
                    session_id=session_id,
                    principal_id=principal_id,
                    application_id=application,
                    client_id=client_id,
                    sid=new_id("sid"),
                    sub=principal_id,
                    joined_at=now,
                    last_used_at=now,
                    token_expires_at=now + timedelta(seconds=token_seconds),
                )
            )
            session.add(
                Grant(
                    id=new_id("grt"),
                    principal_id=principal_id,
                    client_id=client_id,
                    application_id=application,
                    session_id=session_id,
                    scope="openid",
                    authenticated_at=now,
                    created_at=now,
                    **epochs,
                )
            )
        return session_id

    def settle(self, delivery_id: str, *, state: str = "done", grade: int, at: datetime | None = None) -> None:
        """What a channel achieved, as the queue would store it; marks the case due."""
        from sqlalchemy import update

        from idhub.lifecycle.cases import touch

        now = at or self.clock()
        with self.database.transaction() as session:
            case_id = session.execute(
                update(Delivery)
                .where(Delivery.id == delivery_id)
                .values(state=state, grade=grade, finished_at=now, first_sent_at=now, answered_at=now, attempts=1)
                .returning(Delivery.case_id)
            ).scalar()
            if case_id:
                touch(session, [case_id], now=now)


def _found_group(settings: Settings, database: Database, keyring: Keyring, clock: Clock) -> dict[str, str]:
    world = World(database, keyring, clock)
    return {"hq": world.hq, "berlin": world.berlin, "office": world.office, "wiki": world.wiki}


GROUP = Furnishing("group", _found_group)
"""A database in which the group is there already."""


def group_in(databases: Databases, kind: DatabaseKind, database: Database, keyring: Keyring, clock: Clock) -> World:
    """The group of a database that began with `GROUP`."""
    return World(database, keyring, clock, **databases.made_of(kind, GROUP))


def _wish(slug: str, organization_id: str, *, scim: bool) -> ApplicationWish:
    return ApplicationWish(
        slug=slug,
        name=slug.title(),
        name_zh=None,
        description=None,
        home_url=None,
        organization_id=organization_id,
        owner_id=None,
        criticality=Criticality.HIGH,
        revocation_deadline=timedelta(hours=1),
        required_grade=None,
        is_enabled=True,
        oidc=OidcWish(
            client_id=slug,
            secret="s" * 43,
            auth_method="client_secret_basic",
            redirect_uris=[f"https://{slug}.example/callback"],
            post_logout_redirect_uris=[],
            grant_types=["authorization_code", "refresh_token"],
            scopes=["openid"],
            backchannel_logout_uri=f"https://{slug}.example/logout" if scim else None,
        ),
        scim=ScimWish(base_url="https://office.example/scim/v2", token="t") if scim else None,
        rules=[("member", RULE)] if scim else [("reader", "employments.companyCode pr")],
    )
