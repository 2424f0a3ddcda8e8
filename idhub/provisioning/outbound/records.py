"""What the channel reads before it talks to an application, and what it writes down afterwards.

Every function runs in a short transaction of the caller's; none is open while anything is sent.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    String,
    Update,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session, aliased

from idhub.access.tables import Account, Application, Entitlement, ScimTarget
from idhub.changes import SYSTEM, Event, EventType, record
from idhub.db import Instant
from idhub.delivery.channel import LeasedDelivery
from idhub.directory.kinds import Standing
from idhub.directory.tables import Department, Employment, Organization, Person, Principal
from idhub.provisioning.outbound.mapping import PersonFacts
from idhub.provisioning.outbound.mapping_rules import ApplicationMapping
from idhub.provisioning.outbound.options import TargetOptions
from idhub.provisioning.outbound.tables import OutboundGroup, ScimDiscovery
from scim.discovery import Capabilities

_MAX_CONTROLS = 3


@dataclass(frozen=True, slots=True)
class Target:
    """Where an application's SCIM service is and how it is spoken to."""

    base_url: str
    token_sealed: bytes | None
    user_name_attribute: str
    dialect: str
    control_user_name: str | None
    is_enabled: bool = True
    options: TargetOptions = field(default_factory=TargetOptions)
    capabilities: Capabilities | None = None
    """What the service published of itself, where it was asked."""

    @property
    def mapping(self) -> ApplicationMapping:
        """Which attributes its accounts get."""
        return self.options.compiled(self.user_name_attribute)


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
        is_wanted: whether the principal may have this account now: standing, dates, entitlement.
        version: the principal's version that `person` and `is_wanted` were read at.
        is_shared: whether our records give this user of the application to another account row as well.
        missing_manager_id: the manager, where we know no account of theirs in the application.
    """

    target: Target
    account: AccountFacts
    person: PersonFacts | None
    version: int
    is_wanted: bool
    is_shared: bool
    missing_manager_id: str | None = None


def situations(session: Session, deliveries: Sequence[LeasedDelivery], *, now: datetime) -> list[Situation | None]:
    """Read what each delivery is about, in a few queries however many they are.

    None for one whose account, or whose application's SCIM target, is no more.
    """
    connection = session.connection()
    # `all`, here and below: row by row, each costs a round through the driver.
    account_ids = {"ids": sorted({d.account_id for d in deliveries if d.account_id})}
    accounts = {row.id: row for row in connection.execute(_ACCOUNTS, account_ids).all()}
    people_ids = {"ids": sorted({row.principal_id for row in accounts.values() if row.principal_id})}
    people = {row.id: row for row in connection.execute(_PEOPLE, people_ids).all()}
    versions = {row.id: row.version for row in connection.execute(_VERSIONS, people_ids).all()}
    there = {"applications": sorted({row.application_id for row in accounts.values()})}
    targets_there = targets(session, there["applications"])
    wanted: dict[tuple[str, str], list[str]] = {}
    for right in connection.execute(_WANTED, {**people_ids, **there, "now": now}).all():
        wanted.setdefault((right.principal_id, right.application_id), []).append(right.role)
    shared = set(connection.execute(_SHARED, {"ids": sorted(accounts)}).scalars())
    provisioned = {d.account_id for d in deliveries if d.operation == "provision"}
    owners = {row.principal_id for row in accounts.values() if row.id in provisioned}
    manager_ids = sorted({people[one].manager_id for one in owners & people.keys() if people[one].manager_id})
    managers: dict[tuple[str, str], str | None] = {}
    if manager_ids:
        rows = connection.execute(_MANAGERS, {"ids": manager_ids, **there})
        managers = {(row.principal_id, row.application_id): row.external_id for row in rows}
    found: list[Situation | None] = []
    for delivery in deliveries:
        row = accounts.get(delivery.account_id or "")
        target = targets_there.get(delivery.application_id)
        if row is None or target is None or row.application_id != delivery.application_id:
            found.append(None)
            continue
        person = people.get(row.principal_id or "")
        roles = wanted.get((row.principal_id, row.application_id))
        manager = managers.get((person.manager_id, row.application_id)) if person else None
        found.append(
            Situation(
                target=target,
                account=AccountFacts(
                    row.id, row.principal_id, row.external_id, row.user_name, row.known_state, row.known_hash
                ),
                person=person and _facts(person, manager, roles or ()),
                version=versions.get(row.principal_id or "", 0),
                is_wanted=roles is not None,
                is_shared=row.id in shared,
                missing_manager_id=person.manager_id if person and manager is None else None,
            )
        )
    return found


def targets(session: Session, application_ids: Sequence[str]) -> dict[str, Target]:
    """SCIM targets of applications, with what is known of them."""
    rows = session.connection().execute(_TARGETS, {"ids": list(application_ids)}).all()
    return {
        row.application_id: Target(
            row.base_url,
            row.token_sealed,
            row.user_name_attribute,
            row.dialect,
            row.control_user_name,
            row.is_enabled,
            TargetOptions.of_document(row.options),
            # What another address said of itself says nothing of this one.
            Capabilities.of_document(row.capabilities) if row.discovered_at == row.base_url else None,
        )
        for row in rows
    }


def next_token(session: Session, application_id: str) -> bytes | None:
    """The token that is to take over, sealed; None: there is none."""
    return session.scalar(select(ScimTarget.next_token_sealed).where(ScimTarget.application_id == application_id))


def person_facts(session: Session, principal_id: str, application_id: str, *, now: datetime) -> PersonFacts | None:
    """What the mapping of an application is told of a person; None: there is no such person."""
    connection = session.connection()
    person = connection.execute(_PEOPLE, {"ids": [principal_id]}).one_or_none()
    if person is None:
        return None
    there = {"applications": [application_id]}
    managers = connection.execute(_MANAGERS, {"ids": [person.manager_id or ""], **there}).one_or_none()
    rights = connection.execute(_WANTED, {"ids": [principal_id], **there, "now": now})
    return _facts(person, managers.external_id if managers else None, [row.role for row in rights])


def _facts(person: Any, manager_external_id: str | None, roles: Sequence[str]) -> PersonFacts:
    return PersonFacts(
        principal_id=person.id,
        display_name=person.display_name,
        given_name=person.given_name,
        family_name=person.family_name,
        email=person.email,
        mobile=person.mobile,
        employee_number=person.employee_number,
        title=person.title,
        organization=person.organization,
        department=person.department,
        manager_external_id=manager_external_id,
        locale=person.locale,
        company_code=person.company_code,
        department_path=person.department_path,
        employment_type=person.employment_type,
        roles=tuple(sorted(roles)),
    )


# Made once: building a statement costs more than what it asks.
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_APPLICATIONS: BindParameter[Any] = bindparam("applications", expanding=True)
_NOW = bindparam("now", type_=Instant())
_SEEN = bindparam("seen", type_=Instant())
_TARGETS = (
    select(
        ScimTarget.application_id,
        ScimTarget.base_url,
        ScimTarget.token_sealed,
        ScimTarget.user_name_attribute,
        ScimTarget.dialect,
        ScimTarget.control_user_name,
        ScimTarget.options,
        Application.is_enabled,
        ScimDiscovery.base_url.label("discovered_at"),
        ScimDiscovery.capabilities,
    )
    .join(Application, Application.id == ScimTarget.application_id)
    .outerjoin(ScimDiscovery, ScimDiscovery.application_id == ScimTarget.application_id)
    .where(ScimTarget.application_id.in_(_IDS))
)
_ACCOUNTS = select(
    Account.id,
    Account.application_id,
    Account.principal_id,
    Account.external_id,
    Account.user_name,
    Account.known_state,
    Account.known_hash,
).where(Account.id.in_(_IDS))
_PEOPLE = (
    select(
        Person.id,
        Person.display_name,
        Person.given_name,
        Person.family_name,
        Person.email,
        Person.mobile,
        Person.locale,
        Employment.employee_number,
        Employment.title,
        Employment.type.label("employment_type"),
        Employment.manager_id,
        Organization.name.label("organization"),
        Organization.code.label("company_code"),
        Department.name.label("department"),
        Department.path.label("department_path"),
    )
    .outerjoin(Employment, Employment.id == Person.main_employment_id)
    .outerjoin(Organization, Organization.id == Employment.organization_id)
    .outerjoin(Department, Department.id == Employment.department_id)
    .where(Person.id.in_(_IDS))
)
_VERSIONS = select(Principal.id, Principal.version).where(Principal.id.in_(_IDS))
_WANTED = (
    select(Entitlement.principal_id, Entitlement.application_id, Entitlement.role)
    .join(Principal, Principal.id == Entitlement.principal_id)
    .where(
        Principal.id.in_(_IDS),
        Entitlement.application_id.in_(_APPLICATIONS),
        Principal.standing == Standing.ACTIVE,
        Principal.access_starts_at <= _NOW,
        or_(Principal.access_ends_at.is_(None), Principal.access_ends_at > _NOW),
        Entitlement.superseded_at.is_(None),
        Entitlement.valid_from <= _NOW,
        or_(Entitlement.valid_to.is_(None), Entitlement.valid_to > _NOW),
    )
)
_other = aliased(Account)
_SHARED = select(Account.id).where(
    Account.id.in_(_IDS),
    exists().where(
        _other.application_id == Account.application_id,
        _other.external_id == Account.external_id,
        _other.id != Account.id,
    ),
)
_MANAGERS = select(Account.id, Account.principal_id, Account.application_id, Account.external_id).where(
    Account.principal_id.in_(_IDS), Account.application_id.in_(_APPLICATIONS), Account.slot == "main"
)
_LINKED = select(Account.id, Account.application_id, Account.external_id).where(
    Account.application_id.in_(_APPLICATIONS), Account.external_id.in_(_IDS)
)
_CONTROLS = (
    select(Account.external_id)
    .where(
        Account.application_id == bindparam("application"),
        Account.id != bindparam("account"),
        # Written out, so that the planner sees the index made for this question.
        Account.known_state == literal_column("'active'"),
        Account.desired_state == literal_column("'active'"),
        Account.external_id.is_not(None),
    )
    .order_by(Account.observed_at.desc())
    .limit(_MAX_CONTROLS)
)
_HELD = (
    select(
        Account.id,
        Account.observed_at,
        Account.application_id,
        Account.principal_id,
        Account.slot,
        Account.external_id,
        Account.awaited_manager_id,
    )
    .where(Account.id.in_(_IDS))
    .order_by(Account.id)
    .with_for_update()
)
_AWAITING = select(Account.id).where(
    Account.application_id.in_(_APPLICATIONS),
    Account.awaited_manager_id.is_not(None),
    Account.awaited_manager_id.in_(_IDS),
)
_HAS_COME = update(Account).where(Account.id.in_(_IDS)).values(awaited_manager_id=None, due_again_at=bindparam("at"))


def controls(session: Session, delivery: LeasedDelivery) -> Sequence[str]:
    """The application's own ids of other accounts that were alive when last seen, the most recently seen first."""
    asked = {"application": delivery.application_id, "account": delivery.account_id or ""}
    rows = session.connection().execute(_CONTROLS, asked)
    return [row.external_id for row in rows]


@dataclass(frozen=True, slots=True)
class VersionOf:
    """Asks for a principal's version; 0 where there is none."""

    principal_id: str | None


@dataclass(frozen=True, slots=True)
class LinkedElsewhere:
    """Asks whether our records give a user of an application to another account row; 1: they do."""

    application_id: str
    external_id: str
    account_id: str | None


def look(session: Session, asked: Sequence[VersionOf | LinkedElsewhere]) -> list[int]:
    """What attempts ask on their way, in a statement of a kind however many they are."""
    connection = session.connection()
    people = sorted({one.principal_id for one in asked if isinstance(one, VersionOf) and one.principal_id})
    links = [one for one in asked if isinstance(one, LinkedElsewhere)]
    versions: dict[str, int] = {}
    if people:
        versions = {row.id: row.version for row in connection.execute(_VERSIONS, {"ids": people}).all()}
    linked: dict[tuple[str, str | None], set[str]] = {}
    if links:
        there = {"applications": sorted({one.application_id for one in links})}
        rows = connection.execute(_LINKED, {"ids": sorted({one.external_id for one in links}), **there}).all()
        for row in rows:
            linked.setdefault((row.application_id, row.external_id), set()).add(row.id)
    return [
        versions.get(one.principal_id or "", 0)
        if isinstance(one, VersionOf)
        else int(bool(linked.get((one.application_id, one.external_id), set()) - {one.account_id}))
        for one in asked
    ]


@dataclass(frozen=True, slots=True)
class Note:
    """What an application said of an account at `seen_at`, with the events of it."""

    delivery: LeasedDelivery
    values: Mapping[str, Any]
    seen_at: datetime
    events: Sequence[EventType]
    now: datetime


def note_accounts(session: Session, notes: Sequence[Note]) -> list[bool]:
    """Write down what applications said, with the events, in a few statements however many notes there are.

    False for one that something newer is known of already, and nothing of it is written: a worker that was stopped for
    a while must not put old news over what was seen since.
    """
    connection = session.connection()
    held = {row.id: row for row in connection.execute(_HELD, {"ids": sorted(_to_hold(connection, notes))}).all()}
    observed = {account_id: row.observed_at for account_id, row in held.items()}
    written: list[bool] = []
    for note in notes:
        account_id = note.delivery.account_id or ""
        seen_before = observed.get(account_id)
        is_news = account_id in observed and (seen_before is None or seen_before <= note.seen_at)
        written.append(is_news)
        if is_news:
            observed[account_id] = note.seen_at
    news = [note for note, is_news in zip(notes, written, strict=True) if is_news]
    known = {
        (row.application_id, row.principal_id)
        for row in held.values()
        if row.slot == "main" and row.external_id is not None
    }
    come = {
        (note.delivery.application_id, note.delivery.principal_id) for note in news if note.values.get("external_id")
    }
    rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    events: list[Event] = []
    for note in news:
        values = _with_manager(note, known | come)
        names = tuple(sorted(values))
        row = {"key": note.delivery.account_id, "seen": note.seen_at, "at": note.now}
        rows.setdefault(names, []).append(row | {f"new_{n}": values[n] for n in names})
        events += [_event(event, note.delivery.account_id or "", note) for event in note.events]
    for names, noting in rows.items():
        connection.execute(_noting(names), noting)
    noted = {note.delivery.account_id for note in news}
    now_whole = [
        account_id
        for account_id, row in held.items()
        if account_id not in noted and (row.application_id, row.awaited_manager_id) in come
    ]
    if now_whole:
        connection.execute(_HAS_COME, {"ids": now_whole, "at": max(note.now for note in news)})
    record(session, events)
    told = [note for note in news if "known_state" in note.values]
    mark_groups(session, {note.delivery.application_id for note in told}, now=max((n.now for n in told), default=None))
    return written


def _to_hold(connection: Connection, notes: Sequence[Note]) -> set[str]:
    """Accounts that notes are about, and those on which it depends whether one is due again, or is from now on: whoever
    notes a manager's account and whoever notes a report's lock the same rows, so that neither misses the other.
    """
    ids = {note.delivery.account_id for note in notes if note.delivery.account_id}
    provisioned = [note for note in notes if "awaited_manager_id" in note.values]
    if not provisioned:
        return ids
    there = {"applications": sorted({note.delivery.application_id for note in provisioned})}
    people = sorted({note.delivery.principal_id or "" for note in provisioned})
    ids.update(connection.execute(_AWAITING, {"ids": people, **there}).scalars())
    missing = sorted({note.values["awaited_manager_id"] for note in provisioned} - {None})
    if missing:
        ids.update(connection.execute(_MANAGERS, {"ids": missing, **there}).scalars())
    return ids


def _with_manager(note: Note, known: Collection[tuple[str, str | None]]) -> Mapping[str, Any]:
    """What is written of a note. A manager whose account has become known meanwhile is not waited for any more."""
    manager_id = note.values.get("awaited_manager_id")
    if manager_id is None or (note.delivery.application_id, manager_id) not in known:
        return note.values
    return {**note.values, "awaited_manager_id": None, "due_again_at": note.now}


_MARK_GROUPS = (
    update(OutboundGroup)
    .where(OutboundGroup.application_id.in_(_APPLICATIONS), OutboundGroup.dirty_at.is_(None))
    .values(dirty_at=bindparam("at"))
)


def mark_groups(session: Session, application_ids: Collection[str], *, now: datetime | None) -> None:
    """Let the groups of these applications be looked at again: accounts or rights there changed."""
    if application_ids and now is not None:
        session.connection().execute(_MARK_GROUPS, {"applications": sorted(application_ids), "at": now})


@lru_cache
def _noting(names: tuple[str, ...]) -> Update:
    values: dict[str, Any] = {n: bindparam(f"new_{n}") for n in names}
    if "known_state" in names:
        # The instant at which it was first seen off; a later look that says the same does not move it.
        is_off = bindparam("new_known_state", type_=String()) == "inactive"
        values["off_since"] = case((is_off, func.coalesce(Account.off_since, _SEEN)), else_=None)
    # Asked again where the row is written: of several notes on one account in a set, the older never wins.
    return (
        update(Account)
        .where(Account.id == bindparam("key"), or_(Account.observed_at.is_(None), Account.observed_at <= _SEEN))
        .values({**values, "observed_at": _SEEN, "changed_at": bindparam("at")})
    )


def _event(kind: EventType, account_id: str, note: Note) -> Event:
    return Event(
        type=kind,
        at=note.now,
        actor=SYSTEM,
        door="worker",
        target_kind="account",
        target_id=account_id,
        person_id=note.delivery.principal_id,
        application_id=note.delivery.application_id,
        case_id=note.delivery.case_id,
        delivery_id=note.delivery.id,
    )


@dataclass(frozen=True, slots=True)
class PersonThere:
    """A person as reconciliation sees them beside an account of theirs in one application.

    Args:
        standing: staged, active, suspended or left.
        is_wanted: whether they may have an account there now: standing, dates, entitlement.
    """

    facts: PersonFacts
    organization_id: str
    standing: str
    is_wanted: bool


def people_there(
    session: Session, principal_ids: Sequence[str], application_id: str, *, now: datetime
) -> dict[str, PersonThere]:
    """People by id, in a few queries however many they are; ids that are nobody's are left out."""
    if not principal_ids:
        return {}
    connection = session.connection()
    ids = {"ids": sorted(set(principal_ids))}
    people = {row.id: row for row in connection.execute(_PEOPLE, ids)}
    standings = {row.id: row for row in connection.execute(_STANDINGS, ids)}
    rights = connection.execute(_WANTED, {**ids, "applications": [application_id], "now": now})
    wanted: dict[str, list[str]] = {}
    for right in rights:
        wanted.setdefault(right.principal_id, []).append(right.role)
    manager_ids = sorted({row.manager_id for row in people.values() if row.manager_id})
    managers: dict[str, str | None] = {}
    if manager_ids:
        rows = connection.execute(_MANAGERS, {"ids": manager_ids, "applications": [application_id]})
        managers = {row.principal_id: row.external_id for row in rows}
    return {
        person_id: PersonThere(
            _facts(row, managers.get(row.manager_id), wanted.get(person_id, ())),
            standings[person_id].organization_id,
            standings[person_id].standing,
            person_id in wanted,
        )
        for person_id, row in people.items()
    }


_STANDINGS = select(Principal.id, Principal.organization_id, Principal.standing).where(Principal.id.in_(_IDS))
