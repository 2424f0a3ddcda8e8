"""What a database would do to answer: statements that were sent, and which of them read a growing table whole."""

from collections import Counter
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import Engine

from idhub.db import Database

# What a group has few of, or what holds only what is under way.
SMALL = frozenset({
    "applications", "audit_head", "audit_lease", "delivery_holds", "entitlement_rules", "installation", "leases",
    "listed", "oidc_clients", "organization_closure", "organizations", "receipts_due", "scim_event_streams",
    "scim_extensions", "scim_targets", "waiting",
    # Groups that are pushed to applications, and runs over all accounts of one: as many as somebody asked for.
    "outbound_groups", "sync_runs",
    # A hundred at most (`reevaluation.MOST_NOTED`).
    "unevaluated_people",
    # Names that SQLite gives to parts of a statement.
    "anon_1", "blocks0", "blocks1", "blocks2", "subquery", "CONSTANT",
})  # fmt: skip


@contextmanager
def statements_of(engine: Engine) -> Iterator[dict[str, Any]]:
    """Every statement that is sent within the block, with the parameters of one sending."""
    sent: dict[str, Any] = {}

    def keep(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            sent.setdefault(statement, parameters[0] if many else parameters)

    event.listen(engine, "before_cursor_execute", keep)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", keep)


_READ = (
    "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables"
    " WHERE seq_tup_read + coalesce(idx_tup_fetch, 0) > 0"
)


@contextmanager
def rows_read(engine: Engine) -> Iterator[Counter[str]]:
    """Rows that PostgreSQL reads in transactions of the block, of each table; nothing on SQLite, which counts none."""
    read: Counter[str] = Counter()
    if engine.dialect.name == "sqlite":
        yield read
        return

    def forget(driver: Any, _record: Any, _proxy: Any) -> None:
        # What earlier transactions read is counted in until it has been handed on.
        driver.execute("SELECT pg_stat_force_next_flush()")
        driver.commit()

    def count(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        read.update(dict(driver.execute(_READ).fetchall()))

    event.listen(engine, "checkout", forget)
    event.listen(engine, "commit", count)
    try:
        yield read
    finally:
        event.remove(engine, "commit", count)
        event.remove(engine, "checkout", forget)


def explained(database: Database, statement: str, parameters: Any) -> list[str]:
    """The lines of SQLite's plan."""
    with database.engine.connect() as connection:
        return [row[3] for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)]


def scanned(database: Database, statement: str, parameters: Any, *, walked: Set[str] = frozenset()) -> list[str]:
    """The plan's lines that read a growing table from one end to the other.

    On SQLite no such table may be scanned; on PostgreSQL, whose planner scans small tables anyway, none may be where
    scanning is forbidden.

    Args:
        walked: indexes that are made to be walked: of what is under way alone, or in the order that is asked for.
    """
    if database.dialect == "sqlite":
        return [
            line
            for line in explained(database, statement, parameters)
            if line.startswith("SCAN ")
            and line.split()[1].partition("-")[0].strip("()") not in SMALL
            and "VIRTUAL TABLE" not in line
            and not any(index in line for index in walked)
        ]
    with database.engine.connect() as connection:
        connection.execute(text("SET enable_seqscan = off"))
        lines = [row[0] for row in connection.exec_driver_sql("EXPLAIN " + statement, parameters)]
    named = [line.split("Seq Scan on ")[1].split()[0] for line in lines if "Seq Scan on " in line]
    return [name for name in named if name not in SMALL]
