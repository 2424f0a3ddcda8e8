"""Operations of the narrow store: what they are, what they may ask for, and how one runs inside an open transaction.

An operation is a generator: it yields a statement's name with its parameters, or one of the instructions below, and
receives rows. It knows no driver, so one rule serves every speed: the drivers of the store, and `run_in`, which runs an
operation in a SQLAlchemy transaction that is open already.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy.orm import Session

from audit.events import Event
from idhub import changes
from idhub.credentials.statements import Statement, compile_statements

T = TypeVar("T")
Row = Mapping[str, Any]
Step = tuple[str, Mapping[str, Any]]
Operation = Generator[Step, Any, T]
"""What is sent back is the rows of the statement (`Sequence[Row]`), or nothing after an instruction."""

RECORD: Final = "record"
"""Instruction: append `events` to the audit log in this transaction."""
DURABLE: Final = "durable"
"""Instruction: what follows must survive a loss of power. Yielded before anything was written; may begin anew."""

LOCK: Final = "principal.lock"
"""The statement that locks a principal. An operation asks for it before it writes anything."""
DEFERRED: Final = frozenset(
    {
        "transaction.insert",
        "session.insert",
        "device.insert",
        "participant.insert",
        "grant.issue",
        "code.insert",
        "access.insert",
        "refresh.insert",
        "participant.use",
    }
)
"""Statements whose effect nobody reads in the same transaction: a driver may run them together at its end. Of several
UPDATEs of one row, any may be the one that counts."""


def record(events: Sequence[Event]) -> Step:
    """The step that appends events."""
    return RECORD, {"events": events}


_compiled: dict[str, Mapping[str, Statement]] = {}


def run_in(session: Session, operation: Operation[T]) -> T:
    """Run an operation in the caller's transaction, which is as durable as its opener made it."""
    session.flush()
    connection = session.connection()
    dialect = connection.dialect.name
    statements = _compiled.get(dialect)
    if statements is None:
        statements = _compiled[dialect] = compile_statements("sqlite" if dialect == "sqlite" else "psycopg")
    rows: Any = None
    while True:
        try:
            name, parameters = operation.send(rows)
        except StopIteration as stop:
            result: T = stop.value
            return result
        rows = ()
        if name == RECORD:
            changes.record(session, parameters["events"])
        elif name != DURABLE:
            statement = statements[name]
            found = connection.exec_driver_sql(statement.sql, tuple(statement.bind(parameters)))
            rows = found.mappings().all() if found.returns_rows else ()
