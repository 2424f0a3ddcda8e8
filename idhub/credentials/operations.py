"""Operations of the narrow store: what they are, what they may ask for, and how one runs inside an open transaction.

An operation is a generator: it yields a statement's name with its parameters, or one of the instructions below, and
receives rows. It knows no driver, so one rule serves every speed: the drivers of the store, and `run_in`, which runs an
operation in a SQLAlchemy transaction that is open already.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
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
        "throttle.give_back",
        "throttle.remember",
    }
)
"""Statements whose effect nobody reads in the same transaction: a driver may run them together at its end. Of several
UPDATEs of one row, any may be the one that counts, unless `MERGED` names them."""
MERGED: Final[Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]]] = {
    "throttle.give_back": lambda one, other: {**one, "times": one["times"] + other["times"]},
    "throttle.remember": lambda _, later: later,
}
"""Of these, several with one `key` are one: what comes of two."""


class Deferred:
    """What a driver keeps for the end of a transaction."""

    def __init__(self, statements: Mapping[str, Statement]) -> None:
        self._statements = statements
        self._rows: dict[str, list[list[Any]]] = {}
        self._merged: dict[str, dict[str, Mapping[str, Any]]] = {}

    def add(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Keep one."""
        merge = MERGED.get(name)
        if merge is None:
            self._rows.setdefault(name, []).append(self._statements[name].bind(parameters))
            return
        kept, key = self._merged.setdefault(name, {}), parameters["key"]
        kept[key] = merge(kept[key], parameters) if key in kept else parameters

    def rows(self) -> dict[str, list[list[Any]]]:
        """Bound values, by the name of their statement; of one key those of every transaction in one order."""
        merged = {
            name: [self._statements[name].bind(kept[key]) for key in sorted(kept)]
            for name, kept in self._merged.items()
        }
        return {**self._rows, **merged}


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
