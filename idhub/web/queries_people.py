"""Read-only queries of the people list and of a person's page. A bounded number of statements whatever the size."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache, partial

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    bindparam,
    exists,
    func,
    or_,
    select,
    text,
)
from sqlalchemy.orm import Session

from idhub.access.tables import Account, Application, Entitlement
from idhub.authority import Action, Subject, scope_roots, visible_organizations
from idhub.credentials.tables import SsoSession
from idhub.db import given, given_value, plan_freely
from idhub.directory.organizations import root_organization
from idhub.directory.search import Hits, find_people, within
from idhub.directory.tables import Department, Employment, Organization, OrganizationClosure, Person, Principal
from idhub.kept import Planned
from idhub.lifecycle.tables import Case
from idhub.web.listing import Cursor, Page, Spec, Statement, View, page_of, values

COUNT_LIMIT = 1_000
"""No page counts further, and no order but that of the search is offered beyond."""
_BY_HIT = "hit"
_DIGITS = 8
_ROUND = 50
PEOPLE = Spec(
    path="/hr/people",
    sorts=("number", "start"),
    choices={
        "type": ("regular", "contractor", "intern", "dispatched"),
        "state": ("staged", "active", "suspended", "left"),
    },
    texts=("org",),
    ranks=True,
)


@dataclass(frozen=True, slots=True)
class PersonRow:
    """One line of the people list."""

    id: str
    display_name: str
    employee_number: str
    company: str | None
    company_en: str | None
    department: str | None
    title: str | None
    type: str | None
    standing: str
    starts_on: date | None
    ends_on: date | None
    sort_start: datetime


@dataclass(frozen=True, slots=True)
class OpenCase:
    """A leaver's case that is not over."""

    number: str
    state: str
    effective_at: datetime
    is_emergency: bool


_LINES: Statement = (
    select(
        Person.id,
        Person.display_name,
        Employment.employee_number,
        Organization.name.label("company"),
        Organization.name_en.label("company_en"),
        Department.path.label("department"),
        Employment.title,
        Employment.type,
        Principal.standing,
        Employment.starts_on,
        Employment.ends_on,
        Employment.starts_at,
    )
    # Everybody has a main employment; inner joins let the index of numbers deliver the order of 120,000 people.
    .join(Employment, and_(Employment.principal_id == Person.id, Employment.id == Person.main_employment_id))
    .join(Principal, Principal.id == Person.id)
    .join(Organization, Organization.id == Principal.organization_id)
    .outerjoin(Department, Department.id == Employment.department_id)
)


def sees_everything(session: Session, subject: Subject, action: Action) -> bool:
    """Whether the subject's scope holds the whole tree: then no filter stands between an index and the order."""
    roots = scope_roots(session, subject, action)
    return roots is None or root_organization(session) in roots


def people_statement(view: View, session: Session, subject: Subject) -> Statement:
    """People that the subject may see and the view asks for, without order."""
    statement = _LINES
    if view.value("state") not in ("", "active"):
        # Said as the partial index says it: few are anything else, against all who are active.
        statement = statement.where(text("principals.standing <> 'active'"))
    limits = [Principal.organization_id.in_(limit) for limit in _limits(view, session, subject)]
    return statement.where(*limits, *_of_principals(view), *_of_employments(view))


@cache
def _asked_for(*, state: str, has_type: bool, is_within: bool, is_sqlite: bool) -> Statement:
    """The same people, of whom nothing is read that the question does not need: a search looks at thousands of them.

    What is asked beside the person is a question about each (EXISTS), not a join, which might begin at its other end.
    Parameters: `standing`, `type`, `organizations` (`given`).
    """
    of_principals: list[ColumnElement[bool]] = []
    if state:
        of_principals.append(Principal.standing == bindparam("standing"))
    if is_within:
        of_principals.append(within(given("organizations", is_sqlite=is_sqlite)))
    principal = select(Principal.id)
    if state not in ("", "active"):
        # SQLite would look at each in the table of all; said as above, it finds the few by an index of them alone.
        principal = principal.where(text("principals.standing <> 'active'"))
        principal = principal.with_hint(Principal, "INDEXED BY ix_principals_not_active", "sqlite")
    statement: Statement = select(Person.id)
    if of_principals:
        statement = statement.where(principal.where(Principal.id == Person.id, *of_principals).exists())
    if has_type:
        is_of_type = (Employment.id == Person.main_employment_id, Employment.type == bindparam("type"))
        statement = statement.where(exists().where(*is_of_type))
    return statement


def _of_principals(view: View) -> list[ColumnElement[bool]]:
    return [Principal.standing == view.value("state")] if view.value("state") else []


def _of_employments(view: View) -> list[ColumnElement[bool]]:
    return [Employment.type == view.value("type")] if view.value("type") else []


def _below(company: str) -> Select[str]:
    return (
        select(OrganizationClosure.descendant_id)
        .join(Organization, Organization.id == OrganizationClosure.ancestor_id)
        .where(or_(Organization.code == company, Organization.id == company))
    )


@dataclass(frozen=True, slots=True)
class Found:
    """How many people match, as far as that was counted."""

    number: int
    is_all: bool = True

    def write(self) -> str:
        """As the cursors of a search carry it from its first page on."""
        return f"{_BY_HIT} {self.number}{'' if self.is_all else '+'}"

    @classmethod
    def read(cls, text: str | int) -> "Found | None":
        """From a cursor."""
        kind, _, counted = str(text).partition(" ")
        digits = counted.removesuffix("+")
        is_number = kind == _BY_HIT and digits.isascii() and digits.isdecimal() and len(digits) < _DIGITS
        return cls(int(digits), is_all=digits == counted) if is_number else None


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of people, how many there are, and whether it is sorted as asked."""

    page: Page[PersonRow]
    found: Found | None = None
    is_sorted: bool = True


def list_people(view: View, session: Session, subject: Subject) -> Listing:
    """One page of the people that the subject may see and the view asks for; of a search, best hits first."""
    if view.value("q"):
        return _search(view, session, subject)
    statement = people_statement(view, session, subject)
    page = _sorted_page(view, session, statement)
    if not view.is_filtered:
        return Listing(page)
    found = count_up_to(session, statement)
    return Listing(page, Found(min(found, COUNT_LIMIT), is_all=found <= COUNT_LIMIT))


def _search(view: View, session: Session, subject: Subject) -> Listing:
    organizations = _organizations(view, session, subject)
    state, kind = view.value("state"), view.value("type")
    asked = {"standing": state, "type": kind, "organizations": given_value(organizations or ())}
    find = partial(
        find_people,
        session,
        view.value("q"),
        _asked_for(
            state=state,
            has_type=bool(kind),
            is_within=organizations is not None,
            is_sqlite=session.get_bind().dialect.name == "sqlite",
        ),
        organizations=organizations,
        is_narrowed=bool(state or kind),
        values=asked,
    )
    wants_order, cursor = bool(view.value("sort")), view.after or view.before
    if cursor is not None and not wants_order:
        # Counted once, from the first page: to go on costs no more than to begin.
        return Listing(_page_beside(view, session, find, cursor), Found.read(cursor.value))
    hits = find(limit=view.size, count_to=COUNT_LIMIT)
    found = _found(hits)
    if wants_order and hits.is_all:
        ids = find(limit=COUNT_LIMIT).ids if hits.has_more else hits.ids
        statement = people_statement(view, session, subject).where(Person.id.in_(ids))
        return Listing(_sorted_page(view, session, statement), found)
    if cursor is not None:
        page = _page_beside(view, session, find, cursor)
    else:
        page = _hits_page(session, hits.ids, found, following=_following(hits))
    return Listing(page, found, is_sorted=not wants_order)


def _page_beside(view: View, session: Session, find: Callable[..., Hits], cursor: Cursor) -> Page[PersonRow]:
    hits, found = find(beside=cursor.id, backwards=view.before is not None, limit=view.size), Found.read(cursor.value)
    first, last = (hits.ids[0], hits.ids[-1]) if hits.ids else (cursor.id, cursor.id)
    if view.before is None:
        return _hits_page(session, hits.ids, found, following=_following(hits), preceding=first)
    first = hits.last or first
    return _hits_page(session, hits.ids, found, following=last, preceding=first if hits.has_more else None)


def _following(hits: Hits) -> str | None:
    return hits.last if hits.has_more else None


def _found(hits: Hits) -> Found | None:
    if hits.is_all:
        return Found(hits.found)
    # A round number: how far was counted says nothing.
    proven = (hits.found - 1) // _ROUND * _ROUND
    return Found(min(proven, COUNT_LIMIT), is_all=False) if proven > 0 else None


def _limits(view: View, session: Session, subject: Subject) -> list[Select[str]]:
    """What limits a list to organizations: the subject's scope, and the view."""
    limits: list[Select[str]] = []
    if not sees_everything(session, subject, Action.PEOPLE_READ):
        visible = visible_organizations(session, subject, Action.PEOPLE_READ)
        limits += [visible] if visible is not None else []
    if view.value("org"):
        limits.append(_below(view.value("org")))
    return limits


def _organizations(view: View, session: Session, subject: Subject) -> Sequence[str] | None:
    """The organizations themselves; None: all."""
    limits = _limits(view, session, subject)
    if not limits:
        return None
    limited = select(Organization.id).where(*(Organization.id.in_(limit) for limit in limits))
    return session.execute(limited).scalars().all()


def _hits_page(
    session: Session, ids: Sequence[str], found: Found | None, *, following: str | None, preceding: str | None = None
) -> Page[PersonRow]:
    """The rows of these people in this order, with the people beside which the neighbouring pages begin."""
    rows: dict[str, PersonRow] = {}
    if ids:
        read = _ROWS_BY_IDS.all(session, {"ids": list(ids)})
        rows = {row.id: row for row in (PersonRow(*each) for each in read)}
    counted = found.write() if found else _BY_HIT
    return Page(
        [rows[person_id] for person_id in ids if person_id in rows],
        next=Cursor(counted, following).write() if following else None,
        previous=Cursor(counted, preceding).write() if preceding else None,
    )


_ROWS_BY_IDS = Planned(_LINES.where(Person.id.in_(bindparam("ids", expanding=True))))
"""The lines of people whom a search has found for the asker."""


def _sorted_page(view: View, session: Session, statement: Statement) -> Page[PersonRow]:
    by_start = view.sort == "start"
    return page_of(
        view,
        lambda s: _rows(session, s),
        statement,
        by=(Employment.starts_at if by_start else Employment.employee_number).expression,
        id_=Person.id,
        key=lambda row: (row.sort_start if by_start else row.employee_number, row.id),
    )


def _rows(session: Session, statement: Statement) -> list[PersonRow]:
    # Eight tables for few people: a plan that may only walk indexes takes a hundred times as long on PostgreSQL.
    with plan_freely(session.connection()):
        return [PersonRow(*values(row)) for row in session.execute(statement)]


def count_up_to(session: Session, statement: Statement, limit: int = COUNT_LIMIT) -> int:
    """How many rows, counting no further than one past `limit`: no page waits for a count."""
    bounded = statement.with_only_columns(Person.id).limit(limit + 1).subquery()
    return session.execute(select(func.count()).select_from(bounded)).scalar_one()


def account_counts(session: Session, person_ids: Sequence[str]) -> Mapping[str, int]:
    """Live accounts by person."""
    rows = session.execute(
        select(Account.principal_id, func.count())
        .where(Account.principal_id.in_(person_ids), Account.known_state == "active")
        .group_by(Account.principal_id)
    )
    return {person_id: count for person_id, count in rows if person_id}


def open_leaves(session: Session, person_ids: Sequence[str]) -> Mapping[str, OpenCase]:
    """Leaver's cases that are scheduled or running, by person."""
    rows = session.execute(
        select(Case.principal_id, Case.number, Case.state, Case.effective_at, Case.is_emergency)
        .where(Case.principal_id.in_(person_ids), Case.kind == "leaver", Case.state.in_(("scheduled", "running")))
        .order_by(Case.effective_at.desc())
    )
    return {row[0]: OpenCase(*values(row)[1:]) for row in rows}


def visible_companies(session: Session, subject: Subject) -> list[tuple[str, str, str | None]]:
    """(code, name, English name) of organizations that the subject may filter by, top first; at most 200."""
    statement = (
        select(Organization.code, Organization.name, Organization.name_en)
        .join(OrganizationClosure, OrganizationClosure.descendant_id == Organization.id)
        .group_by(Organization.id, Organization.code, Organization.name, Organization.name_en)
        .order_by(func.count(), Organization.code)
        .limit(200)
    )
    visible = visible_organizations(session, subject, Action.PEOPLE_READ)
    if visible is not None:
        statement = statement.where(Organization.id.in_(visible))
    return [(code, name, english) for code, name, english in session.execute(statement)]


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account of a person, or an entitlement without one yet."""

    application_id: str
    slug: str
    name: str
    name_zh: str | None
    role: str | None
    reason_kind: str | None
    reason_ref: str | None
    is_entitled: bool
    user_name: str | None
    state: str
    changed_at: datetime | None


def accounts_of(session: Session, person_id: str) -> list[AccountRow]:
    """Applications of a person: accounts there, and current entitlements, joined by application."""
    entitled = (
        select(
            Entitlement.application_id.label("application_id"),
            func.min(Entitlement.role).label("role"),
            func.min(Entitlement.reason_kind).label("reason_kind"),
            func.min(Entitlement.reason_ref).label("reason_ref"),
        )
        .where(
            Entitlement.principal_id == person_id, Entitlement.superseded_at.is_(None), Entitlement.valid_to.is_(None)
        )
        .group_by(Entitlement.application_id)
        .subquery()
    )
    rows = session.execute(
        select(
            Application.id,
            Application.slug,
            Application.name,
            Application.name_zh,
            entitled.c.role,
            entitled.c.reason_kind,
            entitled.c.reason_ref,
            entitled.c.application_id.is_not(None),
            Account.user_name,
            func.coalesce(Account.known_state, "absent"),
            Account.changed_at,
        )
        .outerjoin(entitled, entitled.c.application_id == Application.id)
        .outerjoin(Account, and_(Account.application_id == Application.id, Account.principal_id == person_id))
        .where(or_(entitled.c.application_id.is_not(None), Account.id.is_not(None)))
        .order_by(Application.slug)
        .limit(500)
    )
    return [AccountRow(*values(row)) for row in rows]


def live_sessions(session: Session, person_id: str, now: datetime) -> int:
    """Sessions that have neither ended nor run out."""
    return session.execute(
        select(func.count())
        .select_from(SsoSession)
        .where(SsoSession.principal_id == person_id, SsoSession.ended_at.is_(None), SsoSession.expires_at > now)
    ).scalar_one()


@dataclass(frozen=True, slots=True)
class CaseRowView:
    """A case of a person, with its newest receipt."""

    id: str
    number: str
    kind: str
    state: str
    is_emergency: bool
    reason: str | None
    effective_at: datetime
    completed_at: datetime | None


def cases_of(session: Session, person_id: str) -> list[CaseRowView]:
    """Cases of a person, newest first; at most 100."""
    rows = session.execute(
        select(
            Case.id, Case.number, Case.kind, Case.state, Case.is_emergency, Case.reason, Case.effective_at,
            Case.completed_at,
        )
        .where(Case.principal_id == person_id)
        .order_by(Case.opened_at.desc())
        .limit(100)
    )  # fmt: skip
    return [CaseRowView(*values(row)) for row in rows]
