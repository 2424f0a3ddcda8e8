"""The way into the trail: append events in the transaction of their effect, and erase what must be erasable.

`append` is one call for a batch of any size and takes no lock that another writer could wait for. Bulk work makes the
rows ahead (`audit.moulds`) and inserts them later (`insert_packed`); hot paths on a bare driver have the statements of
`insert_statement`. Reading is in `audit.search`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from itertools import chain, count
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import BigInteger, Connection, LargeBinary, String, Table, Text, delete, select
from sqlalchemy.types import TypeEngine

from audit.driver import answered, begin, driver_error, send
from audit.errors import AuditError
from audit.events import Actor, Event, EventType, encoded, new_event_ids, to_micros
from audit.merkle import LEAF_PREFIX
from audit.personal import PersonalBatch, Sealer, index_term
from audit.tables import (
    audit_events,
    audit_person_keys,
    audit_personal,
    audit_terms,
    event_place,
    install_guards,
    metadata,
)

__all__ = [
    "INSERT_COLUMNS",
    "Rows",
    "Sealer",
    "append",
    "erase_person",
    "erase_text",
    "event_rows",
    "insert",
    "insert_statement",
    "install_guards",
    "metadata",
    "position_of",
]

_NAMES: Final = {BigInteger: "int8", LargeBinary: "bytea", String: "varchar", Text: "text"}


def _postgresql_name(column_type: TypeEngine[Any]) -> str:
    return _NAMES[type(column_type)]


TableName = Literal["audit_events", "audit_person_keys", "audit_personal", "audit_terms"]
ParameterStyle = Literal["qmark", "format", "numeric_dollar"]

INSERT_COLUMNS: Final[dict[TableName, tuple[str, ...]]] = {
    "audit_events": (
        "event_id",
        "at",
        "type",
        "class",
        "body",
        "leaf_hash",
        "actor_id",
        "target_kind",
        "target_id",
        "outcome",
        "person_id",
        "organization_id",
        "application_id",
        "case_id",
        "delivery_id",
        "request_id",
        "ip",
    ),
    "audit_person_keys": ("id", "person_id", "sealed_key"),
    "audit_personal": ("event_id", "key_id", "person_id", "sealed_values"),
    "audit_terms": ("term", "event_id", "person_id", "at"),
}
_TABLES: Final[dict[TableName, Table]] = {
    "audit_events": audit_events,
    "audit_person_keys": audit_person_keys,
    "audit_personal": audit_personal,
    "audit_terms": audit_terms,
}
# Of the same columns, as PostgreSQL names them.
_TYPES: Final[dict[TableName, tuple[str, ...]]] = {
    name: tuple(_postgresql_name(_TABLES[name].c[column].type) for column in columns)
    for name, columns in INSERT_COLUMNS.items()
}
# Below this, setting up a COPY costs more than it saves.
_COPY_FROM: Final = 32
# Up to here the rows of all tables are one statement on PostgreSQL: few shapes, so that each stays prepared.
_ROWS_AT_ONCE: Final = 8
# Rows of one INSERT: few sizes, so that texts stay cached.
_ROWS_A_STATEMENT: Final = (100, 25, 5, 1)
_SHARED_FROM: Final = 100
_SHARED_PART: Final = 4
"""A statement of so many rows binds once what all share, where that is one column of so many, or more."""
_ROWS_SENT: Final = (16, 8, 4, 2, 1)


@dataclass(slots=True)
class Rows:
    """Rows to insert, as tuples in the order of `INSERT_COLUMNS`; the ids of the events, in the order given."""

    audit_events: list[tuple[Any, ...]] = field(default_factory=list)
    audit_person_keys: list[tuple[str, str | None, bytes]] = field(default_factory=list)
    audit_personal: list[tuple[str, str, str | None, bytes]] = field(default_factory=list)
    audit_terms: list[tuple[str, str, str | None, int]] = field(default_factory=list)
    event_ids: list[str] = field(default_factory=list)

    def tables(self) -> list[tuple[TableName, list[tuple[Any, ...]]]]:
        """Return (table, rows) for every table that gets any."""
        every: list[tuple[TableName, list[Any]]] = [
            ("audit_events", self.audit_events),
            ("audit_person_keys", self.audit_person_keys),
            ("audit_personal", self.audit_personal),
            ("audit_terms", self.audit_terms),
        ]
        return [(name, rows) for name, rows in every if rows]


class Packed(NamedTuple):
    """Rows of events one behind the other, each in the order of `INSERT_COLUMNS`: what bulk work hands on.

    A hundred thousand rows are then no objects of their own. None of them is searched for by its values.
    """

    audit_events: list[Any]
    audit_person_keys: list[Any]
    audit_personal: list[Any]


def insert_packed(connection: Connection, parts: Iterable[Packed]) -> None:
    """Add events whose rows were made ahead (`audit.moulds`), in the caller's transaction."""
    packed = Packed([], [], [])
    for part in parts:
        for values, more in zip(packed, part, strict=True):
            values.extend(more)
    for table, values in zip(_PACKED, packed, strict=True):
        if values and connection.dialect.name == "sqlite":
            put_values(connection, table, INSERT_COLUMNS[table], values)
        elif values:
            _insert(connection, table, rows_of(values, len(INSERT_COLUMNS[table])))


_PACKED: Final[tuple[TableName, ...]] = ("audit_events", "audit_person_keys", "audit_personal")


def rows_of(values: Sequence[Any], width: int) -> list[tuple[Any, ...]]:
    """The rows whose values stand one behind the other."""
    return list(zip(*[iter(values)] * width, strict=True))


def event_rows(events: Sequence[Event], *, sealer: Sealer) -> Rows:
    """Return the rows of a batch of events without touching a database.

    Raises:
        InvalidEvent: an event has no canonical form; nothing of the batch is returned.
    """
    ids = new_event_ids(len(events))
    rows = Rows(event_ids=ids)
    personal: PersonalBatch | None = None
    made = rows.audit_events
    for raw, event_id in zip(events, ids, strict=True):
        at = to_micros(raw.at)
        commitments = None
        if raw.personal:
            personal = personal or PersonalBatch(sealer)
            commitments = personal.add(raw, event_id, at)
        event, body = encoded(raw, event_id=event_id, commitments=commitments, micros=at)
        made.append(row_of(event, event_id, at, body, sha256(LEAF_PREFIX + body).digest()))
    if personal is not None:
        rows.audit_person_keys = personal.sealed_keys()
        rows.audit_personal = personal.values
        rows.audit_terms = personal.terms
    return rows


def row_of(event: Event, event_id: str, at: int, body: bytes, leaf_hash: bytes) -> tuple[Any, ...]:
    """Return the row of an event as `encoded` left it (`INSERT_COLUMNS`)."""
    (
        kind, _, who, _, target_kind, target_id, outcome, _, person_id, organization_id, application_id, case_id,
        delivery_id, request_id, _, _,
    ) = event  # fmt: skip
    return (
        event_id,
        at,
        kind._value_,
        kind.event_class._value_,
        body,
        leaf_hash,
        who.id,
        target_kind,
        target_id,
        outcome,
        person_id,
        organization_id,
        application_id,
        case_id,
        delivery_id,
        request_id,
        who.ip,
    )


def insert_statement(table: TableName, style: ParameterStyle) -> str:
    """Return the INSERT of one row in a driver's parameter style (sqlite3 qmark, psycopg format, libpq $1)."""
    return _insert_into(table, style, 1)


def _insert_into(table: TableName, style: ParameterStyle, rows: int) -> str:
    columns = INSERT_COLUMNS[table]
    if style == "numeric_dollar":
        marks = [f"${number}" for number in range(1, len(columns) + 1)]
    else:
        marks = ["?" if style == "qmark" else "%s"] * len(columns)
    names = ", ".join(f'"{name}"' for name in columns)
    one = f"({', '.join(marks)})"
    return f"INSERT INTO {table} ({names}) VALUES {', '.join([one] * rows)}"  # noqa: S608 - constants only


def append(connection: Connection, events: Sequence[Event], *, sealer: Sealer) -> list[str]:
    """Add events to the trail in the caller's transaction, in order; return their ids.

    They commit or vanish with the transaction. Their place in the log is given later by `audit.sequencer`.

    Raises:
        InvalidEvent: an event has no canonical form; nothing is written.
    """
    if not events:
        return []
    rows = event_rows(events, sealer=sealer)
    insert(connection, rows)
    return rows.event_ids


def insert(connection: Connection, rows: Rows) -> None:
    """Add events by their rows (`event_rows`), in the caller's transaction."""
    tables = rows.tables()
    if connection.dialect.driver == "psycopg" and sum(len(values) for _, values in tables) <= _ROWS_AT_ONCE:
        shape = tuple((table, len(values)) for table, values in tables)
        given = tuple(chain.from_iterable(chain.from_iterable(values for _, values in tables)))
        send(connection, _insert_of_all(shape), given)
        return
    for table, values in tables:
        _insert(connection, table, values)


@lru_cache(256)
def _insert_of_all(shape: tuple[tuple[TableName, int], ...]) -> str:
    """One statement for the rows of several tables: each would be an exchange with the server."""
    *others, last = [_insert_into(table, "format", rows) for table, rows in shape]
    if not others:
        return _numbered(last)
    return _numbered(f"WITH {', '.join(f'part_{number} AS ({one})' for number, one in enumerate(others))} {last}")


def _numbered(statement: str) -> str:
    """The statement in PostgreSQL's own form."""
    first, *others = statement.split("%s")
    return first + "".join(f"${place}{text}" for place, text in enumerate(others, start=1))


def _insert(connection: Connection, table: TableName, values: list[tuple[Any, ...]]) -> None:
    if connection.dialect.name == "sqlite":
        put_rows(connection, table, INSERT_COLUMNS[table], values)
    elif connection.dialect.driver == "psycopg":
        if len(values) < _COPY_FROM:
            send_rows(connection, table, INSERT_COLUMNS[table], values)
        else:
            copy_rows(connection, table, INSERT_COLUMNS[table], values, types=_TYPES[table])
    else:
        names = INSERT_COLUMNS[table]
        connection.execute(_TABLES[table].insert(), [dict(zip(names, row, strict=True)) for row in values])


def send_rows(connection: Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Insert some rows into PostgreSQL, past SQLAlchemy; values as the driver (psycopg) takes them.

    Raises:
        DBAPIError: as of any other statement.
    """
    done = 0
    # Sizes that halve: few texts, each of which the server keeps ready, and few statements for any number of rows.
    for size in _ROWS_SENT:
        while len(rows) - done >= size:
            values = tuple(chain.from_iterable(rows[done : done + size]))
            send(connection, _sent_of(table, tuple(columns), size), values)
            done += size


def put_rows(connection: Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows into SQLite, past SQLAlchemy; values as the driver (sqlite3) takes them.

    Raises:
        DBAPIError: as of any other statement.
    """
    put_values(connection, table, columns, list(chain.from_iterable(rows)))


def put_values(connection: Connection, table: str, columns: Sequence[str], values: Sequence[Any]) -> None:
    """`put_rows`, given the values of all rows one behind the other."""
    begin(connection)
    driver: Any = connection.connection.driver_connection
    names, done = tuple(columns), 0
    try:
        # Many rows a statement: its fixed cost, and the driver's round for each, are shared.
        for size in _ROWS_A_STATEMENT:
            while len(values) - done >= size * len(names):
                part = values[done : done + size * len(names)]
                same = _same_in_all(part, len(names)) if size >= _SHARED_FROM else ()
                if same:
                    driver.execute(_insert_sharing(table, names, size, same), _shared(part, len(names), same))
                else:
                    driver.execute(_insert_of(table, names, size), part)
                done += len(part)
    except connection.dialect.loaded_dbapi.Error as error:
        raise driver_error(connection, f"INSERT INTO {table}", error) from error


def _same_in_all(values: Sequence[Any], width: int) -> tuple[int, ...]:
    """Columns in which all rows have one value, where they are worth binding once: the driver copies each bound value.

    Compared as SQLite's columns compare: the types of a column make one value of 1 and 1.0.
    """
    rows = len(values) // width
    found = tuple(
        place
        for place in range(width)
        if values[place] == values[place + width] == values[-width + place]
        and values[place::width].count(values[place]) == rows
    )
    return found if _SHARED_PART * len(found) >= width else ()


def _shared(values: Sequence[Any], width: int, same: Sequence[int]) -> list[Any]:
    """What is bound to `_insert_sharing`: what all rows share, then what is each one's own."""
    own = [place for place in range(width) if place not in same]
    bound = [values[place] for place in same] + [None] * (len(values) // width * len(own))
    for number, place in enumerate(own, start=len(same)):
        bound[number :: len(own)] = values[place::width]
    return bound


@lru_cache(256)
def _insert_sharing(table: str, columns: tuple[str, ...], rows: int, same: tuple[int, ...]) -> str:
    names = ", ".join(f'"{name}"' for name in columns)
    places = count(len(same) + 1)
    each = [
        ", ".join(f"?{same.index(place) + 1 if place in same else next(places)}" for place in range(len(columns)))
        for _ in range(rows)
    ]
    return f"INSERT INTO {table} ({names}) VALUES ({'), ('.join(each)})"  # noqa: S608 - names of our own tables


@lru_cache(256)
def _sent_of(table: str, columns: tuple[str, ...], rows: int) -> str:
    return _numbered(_insert_of(table, columns, rows, "%s"))


@lru_cache(256)
def _insert_of(table: str, columns: tuple[str, ...], rows: int, mark: str = "?") -> str:
    names = ", ".join(f'"{name}"' for name in columns)
    one = f"({', '.join([mark] * len(columns))})"
    return f"INSERT INTO {table} ({names}) VALUES {', '.join([one] * rows)}"  # noqa: S608 - names of our own tables


def copy_rows(
    connection: Connection,
    table: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    types: Sequence[str] = (),
) -> None:
    """Insert rows by PostgreSQL's COPY, past SQLAlchemy; values as the driver (psycopg) takes them.

    With the `types` of the columns in binary form: bytes need not be written as text, and read again.

    Raises:
        DBAPIError: as of any other statement: whoever begins anew or translates knows no other.
    """
    begin(connection)
    # No COPY is sent ahead.
    answered(connection)
    driver: Any = connection.connection.driver_connection
    names = ", ".join(f'"{name}"' for name in columns)
    statement = f"COPY {table} ({names}) FROM STDIN" + (" (FORMAT BINARY)" if types else "")
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            if types:
                copy.set_types(types)
            for row in rows:
                copy.write_row(row)
    except connection.dialect.loaded_dbapi.Error as error:
        raise driver_error(connection, statement, error) from error


def position_of(connection: Connection, event_id: str) -> int | None:
    """Return an event's place in the log, None while it has none.

    Raises:
        AuditError: there is no such event.
    """
    row = connection.execute(select(event_place).where(audit_events.c.event_id == event_id)).one_or_none()
    if row is None:
        raise AuditError("there is no such event")
    position: int | None = row.position
    return position


# As many ids as one event has room for.
_IDS_A_RECORD: Final = 400


def erase_person(connection: Connection, person_id: str, *, actor: Actor, now: datetime, sealer: Sealer) -> int:
    """Delete every key, salt, personal value and index term of a person; return how many events lost their values.

    The events stay, with commitments that nobody can open any more; every proof holds. Runs in the caller's
    transaction and appends `person.erased` there: values that are missing without it are a finding of the verifier.
    Copies of the values in backups end with those backups.
    """
    erased = connection.execute(delete(audit_personal).where(audit_personal.c.person_id == person_id)).rowcount
    connection.execute(delete(audit_person_keys).where(audit_person_keys.c.person_id == person_id))
    connection.execute(delete(audit_terms).where(audit_terms.c.person_id == person_id))
    if erased:
        record = Event(
            type=EventType.PERSON_ERASED,
            at=now,
            actor=actor,
            door="audit",
            target_kind="person",
            target_id=person_id,
            person_id=person_id,
            details={"events": erased},
        )
        append(connection, [record], sealer=sealer)
    return erased


def erase_text(connection: Connection, text: str, *, actor: Actor, now: datetime, sealer: Sealer) -> int:
    """Delete what events that name no person hold about `text`, such as a user name that was typed.

    Returns how many events lost their values. Runs in the caller's transaction; records itself as `erase_person` does.
    """
    holding = list(
        connection.scalars(
            select(audit_terms.c.event_id).where(
                audit_terms.c.term == index_term(text, sealer), audit_terms.c.person_id.is_(None)
            )
        )
    )
    erased = 0
    for start in range(0, len(holding), _IDS_A_RECORD):
        some = holding[start : start + _IDS_A_RECORD]
        # The key of an event without a person bears the event's id.
        erased += connection.execute(delete(audit_personal).where(audit_personal.c.event_id.in_(some))).rowcount
        connection.execute(delete(audit_person_keys).where(audit_person_keys.c.id.in_(some)))
        connection.execute(delete(audit_terms).where(audit_terms.c.event_id.in_(some)))
        record = Event(
            type=EventType.PERSON_ERASED,
            at=now,
            actor=actor,
            door="audit",
            target_kind="text",
            target_id="typed",
            details={"event_ids": some},
        )
        append(connection, [record], sealer=sealer)
    return erased
