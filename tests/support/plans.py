"""What a database would do to answer: statements that were sent, and which of them read a growing table whole."""

from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import Engine

from idhub.db import Database

# What a group has few of, or what holds only what is under way.
SMALL = frozenset({
    "applications", "audit_head", "audit_lease", "delivery_holds", "entitlement_rules", "installation", "leases",
    "listed", "oidc_clients", "organization_closure", "organizations", "receipts_due", "scim_targets", "waiting",
    # Groups that are pushed to applications, and runs over all accounts of one: as many as somebody asked for.
    "outbound_groups", "sync_runs",
    # Names that SQLite gives to parts of a statement.
    "anon_1", "subquery", "CONSTANT",
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


def scanned(database: Database, statement: str, parameters: Any, *, walked: Set[str] = frozenset()) -> list[str]:
    """The plan's lines that read a growing table from one end to the other.

    On SQLite no such table may be scanned; on PostgreSQL, whose planner scans small tables anyway, none may be where
    scanning is forbidden.

    Args:
        walked: indexes that are made to be walked: of what is under way alone, or in the order that is asked for.
    """
    with database.engine.connect() as connection:
        if database.dialect == "sqlite":
            lines = [row[3] for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)]
            return [
                line
                for line in lines
                if line.startswith("SCAN ")
                and line.split()[1].partition("-")[0].strip("()") not in SMALL
                and "VIRTUAL TABLE" not in line
                and not any(index in line for index in walked)
            ]
        connection.execute(text("SET enable_seqscan = off"))
        lines = [row[0] for row in connection.exec_driver_sql("EXPLAIN " + statement, parameters)]
        named = [line.split("Seq Scan on ")[1].split()[0] for line in lines if "Seq Scan on " in line]
        return [name for name in named if name not in SMALL]
