"""Tables of the audit trail, on SQLite and PostgreSQL, with the guards that make them insert-only.

Instants are BIGINT microseconds since 1970 UTC. There is no foreign key into the directory: events outlive whom they
name. `install_guards` adds triggers that refuse UPDATE and DELETE, whoever asks; the three ways through are:

- personal values, keys and index terms may be deleted (erasure), keys re-sealed (rotation of the master key);
- events below `audit_retention.through_position` may be deleted with their places (`audit.retention`).

An event's place in the log is a row of its own: to write it beside the event, later, PostgreSQL would write the whole
event again, into every index.

A database owner can drop a trigger. That is what checkpoints and witnesses are for.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement

metadata: Final = MetaData()
_Surrogate = BigInteger().with_variant(Integer(), "sqlite")


class _CurrentTransaction(ColumnElement[int]):
    """Default of `xid`: the number of the inserting transaction where the database has one."""

    inherit_cache = True
    type = BigInteger()


@compiles(_CurrentTransaction)
def _no_transaction_number(element: _CurrentTransaction, compiler: Any, **options: Any) -> str:
    return "NULL"


@compiles(_CurrentTransaction, "postgresql")
def _transaction_number(element: _CurrentTransaction, compiler: Any, **options: Any) -> str:
    # 64 bits, epoch included: unlike xmin of a row it never wraps and survives VACUUM FREEZE.
    return "((pg_current_xact_id())::text)::bigint"


audit_events = Table(
    "audit_events",
    metadata,
    Column("id", _Surrogate, Identity(), primary_key=True),
    Column("event_id", String(64), nullable=False),
    Column("xid", BigInteger, server_default=_CurrentTransaction()),
    Column("at", BigInteger, nullable=False),
    Column("type", String(64), nullable=False),
    Column("class", String(16), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("leaf_hash", LargeBinary, nullable=False),
    # Of events that versions before r0022 sequenced, beside the row in `audit_positions`. Read by those versions alone;
    # it goes with the index on it when nobody runs them any more.
    Column("position", BigInteger),
    Column("actor_id", Text, nullable=False),
    Column("target_kind", Text, nullable=False),
    Column("target_id", Text, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("person_id", Text),
    Column("organization_id", Text),
    Column("application_id", Text),
    Column("case_id", Text),
    Column("delivery_id", Text),
    Column("request_id", Text),
    Column("ip", Text),
)

_event = audit_events.c


def _where(condition: ColumnElement[bool]) -> dict[str, Any]:
    return {"sqlite_where": condition, "postgresql_where": condition}


Index("uq_audit_events_event_id", _event.event_id, unique=True)
Index("uq_audit_events_position", _event.position, unique=True, **_where(_event.position.is_not(None)))
# The order in which the sequencer takes events in where transactions have numbers; SQLite goes by `id`.
Index(
    "ix_audit_events_arrived",
    _event.xid,
    _event.id,
    sqlite_where=_event.xid.is_not(None),
    postgresql_where=_event.position.is_(None),
)
Index("ix_audit_events_at", _event.at)
Index("ix_audit_events_type", _event.type, _event.at)
Index("ix_audit_events_actor", _event.actor_id, _event.at)
TARGETS: Final = {"person": _event.person_id, "application": _event.application_id, "delivery": _event.delivery_id}
"""Kinds of targets that are found by a column of their own, which every event about one fills."""
# Not these: indexing both would double the cost of an import, and of a leave.
Index("ix_audit_events_target", _event.target_id, _event.at, **_where(_event.target_kind.not_in(TARGETS)))
for _name in ("person_id", "organization_id", "application_id", "case_id", "delivery_id", "request_id", "ip"):
    Index(f"ix_audit_events_{_name}", _event[_name], _event.at, **_where(_event[_name].is_not(None)))

audit_positions = Table(
    "audit_positions",
    metadata,
    Column("position", _Surrogate, primary_key=True, autoincrement=False),
    Column("event_row", BigInteger, nullable=False),
)
Index("uq_audit_positions_event_row", audit_positions.c.event_row, unique=True)

event_place: Final = (
    select(audit_positions.c.position)
    .where(audit_positions.c.event_row == _event.id)
    .correlate(audit_events)
    .scalar_subquery()
    .label("position")
)
"""An event's place in the log, NULL while it has none: a column of queries on `audit_events`."""
EVENT: Final = tuple(column for column in _event if column.name != "position")
"""The columns of an event as it was appended."""

# Events that the sequencer passed over: their bytes are not those that were appended. It looks at them each time.
audit_refused = Table(
    "audit_refused",
    metadata,
    Column("event_row", _Surrogate, primary_key=True, autoincrement=False),
)

audit_person_keys = Table(
    "audit_person_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("person_id", Text),
    Column("sealed_key", LargeBinary, nullable=False),
)
Index(
    "ix_audit_person_keys_person",
    audit_person_keys.c.person_id,
    **_where(audit_person_keys.c.person_id.is_not(None)),
)

audit_personal = Table(
    "audit_personal",
    metadata,
    Column("event_id", String(64), primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("person_id", Text),
    Column("sealed_values", LargeBinary, nullable=False),
)
Index("ix_audit_personal_person", audit_personal.c.person_id, **_where(audit_personal.c.person_id.is_not(None)))

audit_terms = Table(
    "audit_terms",
    metadata,
    Column("id", _Surrogate, Identity(), primary_key=True),
    Column("term", String(128), nullable=False),
    Column("event_id", String(64), nullable=False),
    Column("person_id", Text),
    Column("at", BigInteger, nullable=False),
)
Index("ix_audit_terms_term", audit_terms.c.term, audit_terms.c.at)
Index("ix_audit_terms_event", audit_terms.c.event_id)
Index("ix_audit_terms_person", audit_terms.c.person_id, **_where(audit_terms.c.person_id.is_not(None)))

# Complete tiles of 256 hashes: row (level, index) holds the nodes of tree level 8 * level from index * 256 on, and
# `root`, the node above them. Inner nodes within a tile are computed; proofs read O(log n) rows.
audit_tiles = Table(
    "audit_tiles",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("tile", BigInteger, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("hashes", LargeBinary, nullable=False),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("fencing", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

# One row: every event up to here, in the order of arrival (`audit.arrivals`), has its place or is in `audit_refused`.
audit_reach = Table(
    "audit_reach",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("xid", BigInteger, nullable=False),
    Column("event_row", BigInteger, nullable=False),
)

LEASE: Final = "places"
"""The one name of a lease. Versions before r0022 took another; a guard refuses it, so that they place nothing."""
audit_lease = Table(
    "audit_lease",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("owner_id", Text, nullable=False),
    Column("fencing", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("signed_at", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
)

audit_retention = Table(
    "audit_retention",
    metadata,
    Column("through_position", BigInteger, primary_key=True, autoincrement=False),
    Column("decided_at", BigInteger, nullable=False),
    Column("actor_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
)

_FROZEN: Final = (audit_tiles, audit_checkpoints, audit_retention)
_ERASABLE: Final = (audit_personal, audit_terms, audit_refused)
_REFUSAL: Final = (
    "RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', MESSAGE = TG_TABLE_NAME || ' is insert-only';"
)
_RETAINED: Final = "COALESCE((SELECT MAX(through_position) FROM audit_retention), 0)"
_MAY_GO: Final = f"EXISTS (SELECT 1 FROM audit_positions WHERE event_row = OLD.id AND position < {_RETAINED})"  # noqa: S608 - constants only


def install_guards(connection: Connection, *, only: Collection[Table] | None = None) -> None:
    """Make the trail insert-only on this database. May run again; runs in the caller's transaction.

    With `only` the guards of some tables: a migration locks no more than it must.
    """
    guards = _postgresql_guards() if connection.dialect.name == "postgresql" else _sqlite_guards()
    if connection.dialect.name == "postgresql":
        for function in _FUNCTIONS:
            connection.exec_driver_sql(function)
    for table, statement in guards:
        if only is None or table in {one.name for one in only}:
            connection.exec_driver_sql(statement)


def _sqlite_guards() -> list[tuple[str, str]]:
    def guard(name: str, table: str, timing: str, when: str = "") -> tuple[str, str]:
        return table, (
            f"CREATE TRIGGER IF NOT EXISTS {name} BEFORE {timing} ON {table} {when} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is insert-only'); END"
        )

    guards = [
        guard("audit_events_frozen", "audit_events", "UPDATE"),
        guard("audit_events_kept", "audit_events", "DELETE", f"WHEN NOT {_MAY_GO}"),
        guard("audit_positions_frozen", "audit_positions", "UPDATE"),
        guard("audit_positions_kept", "audit_positions", "DELETE", f"WHEN OLD.position >= {_RETAINED}"),
        guard("audit_lease_named", "audit_lease", "INSERT", f"WHEN NEW.name <> '{LEASE}'"),
        guard("audit_head_kept", "audit_head", "DELETE"),
        guard("audit_head_grows", "audit_head", "UPDATE", "WHEN NEW.size < OLD.size"),
    ]
    for table in _FROZEN:
        guards.append(guard(f"{table.name}_frozen", table.name, "UPDATE"))
        guards.append(guard(f"{table.name}_kept", table.name, "DELETE"))
    guards += [guard(f"{table.name}_frozen", table.name, "UPDATE") for table in _ERASABLE]
    return guards


_FUNCTIONS: Final = (
    (
        "CREATE OR REPLACE FUNCTION audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN {_REFUSAL} END $$"
    ),
    # A trigger's condition may not look into another table; deletion is rare, so a function asks.
    (
        "CREATE OR REPLACE FUNCTION audit_refuse_early_delete() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF NOT {_MAY_GO} THEN {_REFUSAL} END IF; RETURN OLD; END $$"
    ),
    (
        "CREATE OR REPLACE FUNCTION audit_refuse_early_vacancy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF OLD.position >= {_RETAINED} THEN {_REFUSAL} END IF; RETURN OLD; END $$"
    ),
)


def _postgresql_guards() -> list[tuple[str, str]]:
    def guard(
        name: str, table: str, timing: str, when: str = "", *, function: str = "audit_refuse_change"
    ) -> list[tuple[str, str]]:
        each = "STATEMENT" if timing == "TRUNCATE" else "ROW"
        made = f"CREATE TRIGGER {name} BEFORE {timing} ON {table} FOR EACH {each} {when} EXECUTE FUNCTION {function}()"
        return [(table, f"DROP TRIGGER IF EXISTS {name} ON {table}"), (table, made)]

    guards = [
        *guard("audit_events_frozen", "audit_events", "UPDATE"),
        *guard("audit_events_kept", "audit_events", "DELETE", function="audit_refuse_early_delete"),
        *guard("audit_events_whole", "audit_events", "TRUNCATE"),
        *guard("audit_positions_frozen", "audit_positions", "UPDATE"),
        *guard("audit_positions_kept", "audit_positions", "DELETE", function="audit_refuse_early_vacancy"),
        *guard("audit_positions_whole", "audit_positions", "TRUNCATE"),
        *guard("audit_lease_named", "audit_lease", "INSERT", f"WHEN (NEW.name <> '{LEASE}')"),
        *guard("audit_head_kept", "audit_head", "DELETE"),
        *guard("audit_head_whole", "audit_head", "TRUNCATE"),
        *guard("audit_head_grows", "audit_head", "UPDATE", "WHEN (NEW.size < OLD.size)"),
    ]
    for table in _FROZEN:
        guards += guard(f"{table.name}_frozen", table.name, "UPDATE")
        guards += guard(f"{table.name}_kept", table.name, "DELETE")
        guards += guard(f"{table.name}_whole", table.name, "TRUNCATE")
    for table in _ERASABLE:
        guards += guard(f"{table.name}_frozen", table.name, "UPDATE")
    return guards
