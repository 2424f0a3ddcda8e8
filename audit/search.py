"""Finding events, newest first.

Every filter is an equality or a range over a bound value: there is no pattern to inject into. A group of actions
(`person.`) is expanded to the types of the closed catalogue. Whoever may read only some organizations passes them as
`organization_ids`; events that belong to none are then left out.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson
from sqlalchemy import ColumnElement, Connection, and_, false, func, literal_column, or_, select

from audit.errors import AuditError, InvalidQuery
from audit.events import FORMER_TYPES, EventType, from_micros, to_micros
from audit.merkle import leaf_hash
from audit.personal import Sealer, fits, index_term
from audit.reveal import reveal
from audit.tables import EVENT, TARGETS, audit_events, audit_terms, event_place

PAGE_LIMIT: Final = 500
_COUNT_LIMIT: Final = 10_000
_event = audit_events.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to look for; every given filter must hold.

    `action` is a type (`person.offboarded`) or a group (`person.`). `personal_text` finds events that hold this
    personal value (whole, any case) and name no person or tell of a credential. `after` is a page's `next_cursor`.
    """

    from_at: datetime | None = None
    to_at: datetime | None = None
    actor_id: str | None = None
    action: str | None = None
    target_kind: str | None = None
    target_id: str | None = None
    outcome: str | None = None
    ip: str | None = None
    request_id: str | None = None
    person_id: str | None = None
    application_id: str | None = None
    case_id: str | None = None
    delivery_id: str | None = None
    organization_ids: Collection[str] | None = None
    personal_text: str | None = None
    after: str | None = None
    size: int = 50


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """An event as it is shown; everything but the personal values comes out of the canonical body.

    `personal` holds None for a value that has been erased, and for one that does not fit its commitment
    (`is_tampered`). `is_tampered` also says that the stored bytes are not those that were appended. `position` is
    None until the sequencer has taken the event in.
    """

    event_id: str
    position: int | None
    at: datetime
    type: str
    event_class: str
    outcome: str
    reason: str | None
    door: str
    actor: Mapping[str, str]
    target_kind: str
    target_id: str
    person_id: str | None
    organization_id: str | None
    application_id: str | None
    case_id: str | None
    delivery_id: str | None
    request_id: str | None
    details: Mapping[str, Any] = field(default_factory=dict)
    personal: Mapping[str, str | None] = field(default_factory=dict)
    is_tampered: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Records, newest first; `next_cursor` is None on the last page."""

    records: list[AuditRecord]
    next_cursor: str | None


def search(connection: Connection, query: Query, *, sealer: Sealer) -> Page:
    """Return a page of events, personal values opened.

    Raises:
        InvalidQuery: the cursor is broken, the size is out of range, or the range of time is empty.
    """
    if not 1 <= query.size <= PAGE_LIMIT:
        raise InvalidQuery(f"a page holds 1 to {PAGE_LIMIT} events")
    conditions = _conditions(query, sealer)
    if query.after is not None:
        at, last_id = _read_cursor(query.after)
        conditions.append(and_(_event.at <= at, or_(_event.at < at, _event.id < last_id)))
    rows = connection.execute(
        select(*EVENT, event_place)
        .where(*conditions)
        .order_by(_event.at.desc(), _event.id.desc())
        .limit(query.size + 1)
    ).all()
    shown = rows[: query.size]
    records = _records(connection, shown, sealer)
    cursor = _cursor(shown[-1].at, shown[-1].id) if len(rows) > query.size else None
    return Page(records, cursor)


def count(connection: Connection, query: Query, *, sealer: Sealer) -> tuple[int, bool]:
    """Return how many events match, counted up to 10,000, and whether that is all of them."""
    matching = select(_event.id).where(*_conditions(query, sealer)).limit(_COUNT_LIMIT + 1).subquery()
    found: int = connection.execute(select(func.count()).select_from(matching)).scalar_one()
    return min(found, _COUNT_LIMIT), found <= _COUNT_LIMIT


def get(connection: Connection, event_id: str, *, sealer: Sealer) -> AuditRecord | None:
    """Return one event by its id, None when there is none. The caller checks who may see it."""
    rows = connection.execute(select(*EVENT, event_place).where(_event.event_id == event_id)).all()
    return next(iter(_records(connection, rows, sealer)), None)


def _conditions(query: Query, sealer: Sealer) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if query.from_at is not None:
        conditions.append(_event.at >= to_micros(query.from_at))
    if query.to_at is not None:
        conditions.append(_event.at < to_micros(query.to_at))
    if query.from_at is not None and query.to_at is not None and query.from_at >= query.to_at:
        raise InvalidQuery("the range of time is empty")
    exact = ("actor_id", "outcome", "ip", "request_id", "person_id", "application_id", "case_id", "delivery_id")
    for name in exact:
        value = getattr(query, name)
        if value is not None:
            conditions.append(_event[name] == _bindable(value))
    if query.target_kind is not None:
        conditions.append(_event.target_kind == _bindable(query.target_kind))
    if query.target_id is not None:
        conditions.append(_target(query.target_kind, _bindable(query.target_id)))
    if query.action is not None:
        conditions.append(_event.type.in_(_types(query.action)))
    if query.organization_ids is not None:
        allowed = [_bindable(one) for one in query.organization_ids]
        conditions.append(_event.organization_id.in_(allowed) if allowed else false())
    if query.personal_text is not None:
        holding = select(audit_terms.c.event_id).where(audit_terms.c.term == index_term(query.personal_text, sealer))
        conditions.append(_event.event_id.in_(holding))
    return conditions


def _target(kind: str | None, target_id: str) -> ColumnElement[bool]:
    """Some kinds are indexed by a column of their own only; the conditions name what the partial index does."""
    ways = {
        named: and_(column == target_id, _event.target_kind == named, _event.target_id == target_id)
        for named, column in TARGETS.items()
    }
    other = names_other(target_id)
    return or_(*ways.values(), other) if kind is None else ways.get(kind, other)


def names_other(target_id: str) -> ColumnElement[bool]:
    """Events whose target is this one, of the kinds without a column of their own: as their partial index says it."""
    return and_(_event.target_id == target_id, _event.target_kind.not_in(_NAMED))


# Written out: a planner does not know of a value to come that it is what an index was made for.
_NAMED: Final[list[ColumnElement[str]]] = [literal_column(f"'{kind}'") for kind in TARGETS]


def _types(action: str) -> list[str]:
    types = [*(one.value for one in EventType), *FORMER_TYPES]
    return [one for one in types if one == action or (action.endswith(".") and one.startswith(action))]


def _bindable(text: str) -> str:
    """What no event can hold finds nothing: NUL and lone surrogates cannot even be bound on every database."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def _cursor(at: int, last_id: int) -> str:
    return base64.urlsafe_b64encode(b"%d.%d" % (at, last_id)).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[int, int]:
    try:
        decoded = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        at, _, last_id = decoded.partition(b".")
        values = (int(at), int(last_id))
    except (binascii.Error, ValueError) as error:
        raise InvalidQuery("the cursor is not one of ours") from error
    if any(abs(value) >= 1 << 63 for value in values):
        raise InvalidQuery("the cursor is not one of ours")
    return values


def _records(connection: Connection, rows: Collection[Any], sealer: Sealer) -> list[AuditRecord]:
    bodies = [(row, _body(row)) for row in rows]
    holding = [row.event_id for row, body in bodies if "personal" in body]
    opened: dict[str, dict[str, tuple[str, bytes]]] = {}
    unopened: set[str] = set()
    try:
        opened = reveal(connection, holding, sealer)
    except AuditError:
        for event_id in holding:
            try:
                opened |= reveal(connection, [event_id], sealer)
            except AuditError:
                unopened.add(event_id)
    return [_record(row, body, opened.get(row.event_id, {}), row.event_id in unopened) for row, body in bodies]


def _body(row: Any) -> Mapping[str, Any]:
    """What the event says; what its columns say when somebody made its body unreadable."""
    try:
        body = orjson.loads(row.body)
        if isinstance(body, dict) and isinstance(body["actor"], dict) and isinstance(body["target"]["id"], str):
            return {"door": "", "class": "", "type": "", "outcome": "", "at": row.at, **body}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        pass
    columns = {name: value for name, value in row._mapping.items() if value is not None}
    return {
        **columns,
        "door": "",
        "actor": {"id": row.actor_id, "kind": "unknown"},
        "target": {"kind": row.target_kind, "id": row.target_id},
    }


def _record(
    row: Any, body: Mapping[str, Any], opened: Mapping[str, tuple[str, bytes]], is_unopened: bool
) -> AuditRecord:
    commitments = body.get("personal", {})
    has_other_values = is_unopened or not fits(opened, commitments)
    values = {} if has_other_values else {name: text for name, (text, _) in opened.items()}
    is_tampered = has_other_values or leaf_hash(bytes(row.body)) != bytes(row.leaf_hash)
    return AuditRecord(
        event_id=row.event_id,
        position=row.position,
        at=from_micros(body["at"]),
        type=body["type"],
        event_class=body["class"],
        outcome=body["outcome"],
        reason=body.get("reason"),
        door=body["door"],
        actor=body["actor"],
        target_kind=body["target"].get("kind", ""),
        target_id=body["target"]["id"],
        person_id=body.get("person_id"),
        organization_id=body.get("organization_id"),
        application_id=body.get("application_id"),
        case_id=body.get("case_id"),
        delivery_id=body.get("delivery_id"),
        request_id=body.get("request_id"),
        details=body.get("details", {}),
        personal={name: values.get(name) for name in commitments},
        is_tampered=is_tampered,
    )
