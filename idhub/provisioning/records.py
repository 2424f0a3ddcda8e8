"""What the channel reads before it talks to an application, and what it writes down afterwards.

Every function runs in a short transaction of the caller's; none is open while anything is sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, or_, select, update
from sqlalchemy.orm import Session, aliased

from idhub.access.tables import Account, Application, Entitlement, ScimTarget
from idhub.changes import SYSTEM, Event, EventType, record
from idhub.delivery.channel import LeasedDelivery
from idhub.directory.kinds import Standing
from idhub.directory.tables import Department, Employment, Organization, Person, Principal
from idhub.provisioning.mapping import PersonFacts

_MAX_CONTROLS = 3


@dataclass(frozen=True, slots=True)
class Target:
    """Where an application's SCIM service is and how it is spoken to."""

    base_url: str
    token_sealed: bytes | None
    user_name_attribute: str
    dialect: str
    control_user_name: str | None


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """The account as we last knew it."""

    id: str
    principal_id: str | None
    external_id: str | None
    user_name: str | None
    known_state: str
    known_hash: str | None


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything one attempt needs, read in one snapshot.

    Args:
        is_enabled: whether the application is switched on.
        is_wanted: whether the principal may have this account now: standing, dates, entitlement.
        version: the principal's version that `person` and `is_wanted` were read at.
        controls: the application's own ids of other accounts that were alive when last seen.
    """

    target: Target
    account: AccountFacts
    person: PersonFacts | None
    version: int
    is_enabled: bool
    is_wanted: bool
    controls: Sequence[str]


def situation(session: Session, delivery: LeasedDelivery, *, now: datetime) -> Situation | None:
    """Read what `delivery` is about; None when its account or its application's SCIM target is no more."""
    row = session.execute(
        select(
            ScimTarget.base_url,
            ScimTarget.token_sealed,
            ScimTarget.user_name_attribute,
            ScimTarget.dialect,
            ScimTarget.control_user_name,
            Application.is_enabled,
            Account.id,
            Account.principal_id,
            Account.external_id,
            Account.user_name,
            Account.known_state,
            Account.known_hash,
        )
        .join(Application, Application.id == ScimTarget.application_id)
        .join(Account, Account.application_id == ScimTarget.application_id)
        .where(ScimTarget.application_id == delivery.application_id, Account.id == delivery.account_id)
    ).one_or_none()
    if row is None:
        return None
    return Situation(
        target=Target(row.base_url, row.token_sealed, row.user_name_attribute, row.dialect, row.control_user_name),
        account=AccountFacts(row.id, row.principal_id, row.external_id, row.user_name, row.known_state, row.known_hash),
        person=_person(session, row.principal_id, delivery.application_id),
        version=version_of(session, row.principal_id),
        is_enabled=row.is_enabled,
        is_wanted=_is_wanted(session, row.principal_id, delivery.application_id, now=now),
        controls=_controls(session, delivery.application_id, row.id),
    )


def version_of(session: Session, principal_id: str | None) -> int:
    """The principal's version; 0 for an account without one."""
    version = session.scalar(select(Principal.version).where(Principal.id == principal_id))
    return version or 0


def _person(session: Session, principal_id: str | None, application_id: str) -> PersonFacts | None:
    manager_account = aliased(Account)
    row = session.execute(
        select(
            Person.id,
            Person.display_name,
            Person.given_name,
            Person.family_name,
            Person.email,
            Person.mobile,
            Employment.employee_number,
            Employment.title,
            Organization.name.label("organization"),
            Department.name.label("department"),
            manager_account.external_id.label("manager_external_id"),
        )
        .outerjoin(Employment, Employment.id == Person.main_employment_id)
        .outerjoin(Organization, Organization.id == Employment.organization_id)
        .outerjoin(Department, Department.id == Employment.department_id)
        .outerjoin(
            manager_account,
            and_(
                manager_account.principal_id == Employment.manager_id,
                manager_account.application_id == application_id,
                manager_account.slot == "main",
            ),
        )
        .where(Person.id == principal_id)
    ).one_or_none()
    if row is None:
        return None
    facts: dict[str, Any] = dict(row._mapping)
    return PersonFacts(principal_id=facts.pop("id"), **facts)


def holds_now(now: datetime) -> ColumnElement[bool]:
    """Whether an entitlement row is the one that holds at `now`."""
    return and_(
        Entitlement.superseded_at.is_(None),
        Entitlement.valid_from <= now,
        or_(Entitlement.valid_to.is_(None), Entitlement.valid_to > now),
    )


def _is_wanted(session: Session, principal_id: str | None, application_id: str, *, now: datetime) -> bool:
    entitled = exists().where(
        Entitlement.principal_id == Principal.id, Entitlement.application_id == application_id, holds_now(now)
    )
    return (
        session.scalar(
            select(Principal.id).where(
                Principal.id == principal_id,
                Principal.standing == Standing.ACTIVE,
                Principal.access_starts_at <= now,
                or_(Principal.access_ends_at.is_(None), Principal.access_ends_at > now),
                entitled,
            )
        )
        is not None
    )


def _controls(session: Session, application_id: str, account_id: str) -> Sequence[str]:
    rows = session.scalars(
        select(Account.external_id)
        .where(
            Account.application_id == application_id,
            Account.id != account_id,
            Account.known_state == "active",
            Account.desired_state == "active",
            Account.external_id.is_not(None),
        )
        .order_by(Account.observed_at.desc())
        .limit(_MAX_CONTROLS)
    )
    return [external_id for external_id in rows if external_id is not None]


def is_linked_elsewhere(session: Session, delivery: LeasedDelivery, *, external_id: Any) -> bool:
    """Whether our records give this user of the application to another account row."""
    return (
        session.scalar(
            select(Account.id)
            .where(
                Account.application_id == delivery.application_id,
                Account.external_id == external_id,
                Account.id != delivery.account_id,
            )
            .limit(1)
        )
        is not None
    )


def note_account(
    session: Session,
    delivery: LeasedDelivery,
    values: Mapping[str, Any],
    *,
    seen_at: datetime,
    events: Sequence[EventType],
    now: datetime,
) -> bool:
    """Write down what the application said of the account at `seen_at`, with the events of it.

    False, and nothing is written, when something newer is known already: a worker that was stopped for a while must
    not put old news over what was seen since.
    """
    written = session.execute(
        update(Account)
        .where(Account.id == delivery.account_id, or_(Account.observed_at.is_(None), Account.observed_at <= seen_at))
        .values(observed_at=seen_at, changed_at=now, **values)
        .returning(Account.id)
    ).scalar_one_or_none()
    if written is None:
        return False
    record(
        session,
        [
            Event(
                type=event,
                at=now,
                actor=SYSTEM,
                door="worker",
                target_kind="account",
                target_id=written,
                person_id=delivery.principal_id,
                application_id=delivery.application_id,
                case_id=delivery.case_id,
                delivery_id=delivery.id,
            )
            for event in events
        ],
    )
    return True
