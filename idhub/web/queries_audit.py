"""Read-only queries of the event log: one page, a histogram, the state of its proof, the names behind ids."""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Select, and_, case, false, func, or_, select
from sqlalchemy.orm import Session

from audit.arrivals import count_waiting
from audit.search import names_other
from audit.tables import audit_checkpoints, audit_events, audit_head, event_place
from idhub.access.tables import Application
from idhub.authority import Action, Subject, visible_organizations
from idhub.db import among, from_micros, to_micros
from idhub.directory.search import find_people, within
from idhub.directory.tables import Person, Principal
from idhub.lifecycle.tables import Case
from idhub.web.listing import Cursor, Statement, View
from idhub.web.queries_people import sees_everything

_E = audit_events.c
_ID = re.compile(r"([a-z]{2,4})_[0-9a-z]{20,40}")
_COLUMN_OF = {
    "dlv": _E.delivery_id, "cas": _E.case_id, "app": _E.application_id, "org": _E.organization_id, "evt": _E.event_id,
    "req": _E.request_id,
}  # fmt: skip
_MAX_PEOPLE = 50
BUCKETS = 48


@dataclass(frozen=True, slots=True)
class EventRow:
    """One line of the event log."""

    id: int
    event_id: str
    at: datetime
    type: str
    event_class: str
    position: int | None
    actor_id: str
    target_kind: str
    target_id: str
    outcome: str
    person_id: str | None
    application_id: str | None
    case_id: str | None
    delivery_id: str | None
    request_id: str | None
    ip: str | None
    leaf_hash: str
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def actor_kind(self) -> str:
        """person, service, device, client, system, cli or anonymous."""
        return str(self.body.get("actor", {}).get("kind", ""))

    @property
    def reason(self) -> str | None:
        """Stable code of a refusal."""
        return self.body.get("reason")

    @property
    def door(self) -> str:
        """Through which door it came."""
        return str(self.body.get("door", ""))

    @property
    def details(self) -> Mapping[str, Any]:
        """What need not be erasable."""
        details = self.body.get("details")
        return details if isinstance(details, Mapping) else {}

    @property
    def pretty(self) -> str:
        """The details as indented JSON."""
        return orjson.dumps(dict(self.details), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode()


_COLUMNS = (
    _E.id, _E.event_id, _E.at, _E.type, _E["class"], event_place, _E.actor_id, _E.target_kind, _E.target_id, _E.outcome,
    _E.person_id, _E.application_id, _E.case_id, _E.delivery_id, _E.request_id, _E.ip, _E.leaf_hash, _E.body,
)  # fmt: skip


def _row(row: Any) -> EventRow:
    values = list(row)
    values[2] = from_micros(values[2])
    values[16] = bytes(values[16]).hex()
    values[17] = orjson.loads(bytes(values[17]))
    return EventRow(*values)


@dataclass(frozen=True, slots=True)
class EventPage:
    """One page of events, newest first, with the cursors of its neighbours."""

    rows: Sequence[EventRow]
    next: str | None
    previous: str | None


def conditions(
    session: Session, view: View, subject: Subject, *, since: datetime | None, until: datetime | None
) -> list[ColumnElement[bool]]:
    """What the view asks for, within what the subject may see."""
    found = [visible_events(session, subject)]
    if since is not None:
        found.append(_E.at >= to_micros(since))
    if until is not None:
        found.append(_E.at < to_micros(until))
    if action := view.value("action"):
        found.append(_E.type == action if "." in action else _E.type.like(f"{action}.%"))
    if result := view.value("result"):
        found.append(_E.outcome == result)
    if actor := view.value("actor"):
        found.append(_E.actor_id == actor)
    if target := view.value("object"):
        own = (_E.person_id, _E.application_id, _E.delivery_id)
        found.append(or_(names_other(target), *(column == target for column in own)))
    if address := view.value("ip"):
        found.append(_E.ip == address)
    if number := view.value("request"):
        found.append(_E.request_id == number)
    if text := view.value("q"):
        found.append(_matches(session, text, subject))
    return found


def visible_events(session: Session, subject: Subject) -> ColumnElement[bool]:
    """Events within the subject's scope; those that belong to no organization need the whole installation."""
    visible = _organizations(session, subject)
    return _E.organization_id.in_(visible) if visible is not None else _E.id > 0


def is_visible(session: Session, event_id: str, subject: Subject) -> bool:
    """Whether there is this event, and the subject may see it."""
    found = select(_E.id).where(visible_events(session, subject), _E.event_id == event_id)
    return session.execute(found).first() is not None


def _organizations(session: Session, subject: Subject) -> Select[str] | None:
    """Ids of the organizations whose events the subject may see; None where that is the whole installation."""
    if sees_everything(session, subject, Action.AUDIT_READ):
        return None
    return visible_organizations(session, subject, Action.AUDIT_READ)


def _people(session: Session, text: str, subject: Subject) -> Sequence[str]:
    """Whom the text names, of the organizations that the subject may see.

    Others act in events that are visible: found by mobile or mail, they would have told which is theirs.
    """
    people = select(Person.id)
    visible = _organizations(session, subject)
    if visible is None:
        return find_people(session, text, people, limit=_MAX_PEOPLE).ids
    organizations = session.execute(visible).scalars().all()
    people = people.join(Principal, Principal.id == Person.id).where(within(among(session, organizations)))
    return find_people(session, text, people, organizations=organizations, limit=_MAX_PEOPLE).ids


def _matches(session: Session, text: str, subject: Subject) -> ColumnElement[bool]:
    """Anything that names something: id, receipt number, address, request number, person, application."""
    if found := _ID.fullmatch(text):
        column = _COLUMN_OF.get(found[1])
        if column is not None:
            return column == text
        return or_(_E.person_id == text, _E.actor_id == text, names_other(text))
    try:
        return _E.ip == str(ipaddress.ip_address(text))
    except ValueError:
        pass
    alternatives: list[ColumnElement[bool]] = [_E.request_id == text, names_other(text), _E.actor_id == text]
    case_id = session.execute(select(Case.id).where(Case.number == text.upper())).scalar()
    if case_id is not None:
        alternatives.append(_E.case_id == case_id)
    if ids := _people(session, text, subject):
        alternatives += [_E.person_id.in_(ids), _E.actor_id.in_(ids)]
    applications = session.execute(
        select(Application.id).where(
            or_(Application.slug == text.lower(), Application.name == text, Application.name_zh == text)
        )
    ).scalars()
    alternatives += [_E.application_id == application_id for application_id in applications]
    return or_(false(), *alternatives)


def list_events(session: Session, view: View, wanted: Sequence[ColumnElement[bool]]) -> EventPage:
    """One page of the event log, newest first."""
    cursor = view.after or view.before
    backwards = view.before is not None
    statement: Statement = select(*_COLUMNS).where(*wanted)
    if cursor is not None and isinstance(cursor.value, int) and cursor.id.isdecimal() and len(cursor.id) < 19:
        at, row_id = cursor.value, int(cursor.id)
        beyond = (
            or_(_E.at > at, and_(_E.at == at, _E.id > row_id))
            if backwards
            else or_(_E.at < at, and_(_E.at == at, _E.id < row_id))
        )
        statement = statement.where(beyond)
    else:
        cursor, backwards = None, False
    order = (_E.at.asc(), _E.id.asc()) if backwards else (_E.at.desc(), _E.id.desc())
    rows = [_row(row) for row in session.execute(statement.order_by(*order).limit(view.size + 1))]
    has_more = len(rows) > view.size
    rows = rows[: view.size]
    if backwards:
        rows.reverse()
    if not rows:
        return EventPage(rows, None, None)
    has_next, has_previous = (True, has_more) if backwards else (has_more, cursor is not None)
    return EventPage(rows, _place(rows[-1]) if has_next else None, _place(rows[0]) if has_previous else None)


def _place(row: EventRow) -> str:
    return Cursor(to_micros(row.at), str(row.id)).write()


def events_of_person(
    session: Session, person_id: str, *, only_changes: bool, limit: int, prefixes: Sequence[str] = ()
) -> list[EventRow]:
    """Newest events about a person. `only_changes` leaves out sign-ins and reads, which are the auditor's.

    Args:
        prefixes: beginnings of the wanted types; none: every type.
    """
    statement = select(*_COLUMNS).where(_E.person_id == person_id)
    if only_changes:
        statement = statement.where(_E["class"] == "change")
    if prefixes:
        statement = statement.where(or_(*(_E.type.startswith(prefix, autoescape=True) for prefix in prefixes)))
    return [_row(row) for row in session.execute(statement.order_by(_E.at.desc(), _E.id.desc()).limit(limit))]


def count_by_time(
    session: Session, wanted: Sequence[ColumnElement[bool]], *, since: datetime, until: datetime
) -> list[tuple[datetime, int, int]]:
    """(start, events, refused events) in even buckets from `since` to `until`."""
    width = max((to_micros(until) - to_micros(since)) // BUCKETS, 1)
    start = to_micros(since)
    bucket = (_E.at - start) // width
    failed = func.sum(case((_E.outcome == "failure", 1), else_=0))
    rows = session.execute(select(bucket.label("bucket"), func.count(), failed).where(*wanted).group_by("bucket"))
    counts = {int(number): (total, int(bad or 0)) for number, total, bad in rows}
    step = timedelta(microseconds=width)
    return [(since + step * number, *counts.get(number, (0, 0))) for number in range(BUCKETS)]


@dataclass(frozen=True, slots=True)
class Integrity:
    """How much of the log is proven."""

    size: int | None
    """Events in the signed tree."""
    signed_at: datetime | None
    tail: int
    """Events that no signed checkpoint covers yet."""


def integrity(session: Session) -> Integrity:
    """The newest signed checkpoint, and what lies behind it unproven."""
    newest = session.execute(
        select(audit_checkpoints.c.size, audit_checkpoints.c.signed_at)
        .order_by(audit_checkpoints.c.size.desc())
        .limit(1)
    ).first()
    head = session.execute(select(audit_head.c.size)).scalar() or 0
    unsequenced, _ = count_waiting(session.connection())
    if newest is None:
        return Integrity(None, None, head + unsequenced)
    return Integrity(newest.size, from_micros(newest.signed_at), max(head - newest.size, 0) + unsequenced)


def names_of(session: Session, rows: Iterable[EventRow], *, english: bool) -> dict[str, str]:
    """Names behind the ids on these rows, as the page's language has them: people, applications, cases."""
    ids: set[str] = set()
    for row in rows:
        ids.update(
            i for i in (row.actor_id, row.person_id, row.target_id, row.application_id, row.case_id) if i is not None
        )
    found: dict[str, str] = {}
    application_name = Application.name if english else func.coalesce(Application.name_zh, Application.name)
    sources: list[tuple[str, Any, Any]] = [
        ("per_", Person.id, Person.display_name),
        ("app_", Application.id, application_name),
        ("cas_", Case.id, Case.number),
    ]
    for prefix, id_, name in sources:
        wanted = [i for i in ids if i.startswith(prefix)]
        if wanted:
            found.update((i, n) for i, n in session.execute(select(id_, name).where(id_.in_(wanted))))
    return found
