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
U = TypeVar("U")
Row = Mapping[str, Any]
Step = tuple[str, Mapping[str, Any]]
Operation = Generator[Step, Any, T]
"""What is sent back is the rows of the statement (`Sequence[Row]`), or nothing after an instruction."""


class Taken(Exception):
    """What was to be inserted is there already; nothing of the operation was committed."""


RECORD: Final = "record"
"""Instruction: append `events` to the audit log in this transaction."""
DURABLE: Final = "durable"
"""Instruction: what follows must survive a loss of power. Yielded before anything was written; may begin anew."""
TOGETHER: Final = "together"
"""Instruction: run `steps`, in order, of which none needs to know what came of another; sends back the rows of each."""

LOCK: Final = "principal.lock"
"""The statement that locks a principal. An operation asks for it before it writes anything."""
LOCK_CODE: Final = "code.lock"
LOCK_SESSION: Final = "session.lock"
LOCKS: Final[Mapping[str, str]] = {LOCK: "principal_id", LOCK_CODE: "code_hash", LOCK_SESSION: "session_id"}
"""Statements that lock, and by what. The principal is locked against transitions, shared with others who mint; a code
and a session with their principal, and for this operation alone. What is looked at under the lock is asked together
with it, right behind: that it finds nothing where nothing was locked tells that there is nothing to lock."""
HELD: Final = frozenset({"code.claim", "session.extend"})
"""Statements that change a row which the operation has locked for itself, so that what comes of them is known: a driver
that keeps members of one transaction apart may run them at its end."""
CHANGED_LAST: Final = HELD | {"participant.use"}
"""Changes of single rows by their keys that a driver may run at the end of a transaction, and all of a kind as one
statement: nobody reads what comes of them, and no two change one row to different ends."""
HOLD: Final = "throttle.hold"
"""Statement that waits until nobody else changes counters of these `keys`. On PostgreSQL whoever changes counters holds
what they are of first, in one order: two transactions then wait for each other in turn, not in a circle. A driver puts
what several operations of a transaction hold into one, before the first counter is changed."""
DEFERRED: Final[Mapping[str, int]] = {
    name: place
    for place, name in enumerate(
        (
            "transaction.insert",
            "transaction.close",
            "session.insert",
            "device.insert",
            "participant.insert",
            "participant.use",
            "grant.issue",
            "code.insert",
            "access.insert",
            "refresh.insert",
            "throttle.give_back",
            "throttle.forget",
            "throttle.remember",
        )
    )
}
"""Statements whose effect nobody reads in the same transaction: a driver may run them at its end, in the order in which
they came or in that of these numbers, by which a row comes before those that refer to it."""
VOLATILE: Final = frozenset(
    {
        "transaction.insert",
        "transaction.keep",
        "throttle.claim",
        "throttle.count.address",
        "throttle.count.client",
        "throttle.count.clients",
        "throttle.count.consecutive",
        "throttle.count.person",
        "throttle.count.same_password",
        "throttle.count.spray",
        "throttle.forget",
        "throttle.give_back",
        "throttle.mark",
        "throttle.remember",
        "throttle.unmark",
    }
)
"""Statements that write what nobody was promised: sign-ins that were begun, and counters of tries. A transaction that
writes nothing else need not wait for the disk. Whatever is not named here, waits."""
AFTERWARDS: Final = frozenset({"throttle.give_back", "throttle.forget", "throttle.remember"})
"""Volatile statements that a driver may run after what waits for the disk, in a transaction of their own, so that
counters that everybody changes are not held meanwhile. Whoever asked is answered after both."""


STEP_BY_STEP: Final[dict[str, Callable[[Mapping[str, Any]], Operation[Sequence[Row]]]]] = {}
"""Statements that SQLite has no form for, as operations that come to the same: a statement costs microseconds there."""


def add_step_by_step(name: str, operation: Callable[[Mapping[str, Any]], Operation[Sequence[Row]]]) -> None:
    """Say how a statement that only PostgreSQL has is done on SQLite; called when its package is imported."""
    STEP_BY_STEP[name] = operation


def record(events: Sequence[Event]) -> Step:
    """The step that appends events."""
    return RECORD, {"events": events}


def together(*steps: Step) -> Step:
    """The step that runs several, in one exchange with the database where that saves something."""
    return TOGETHER, {"steps": steps}


def both(one: Operation[T], other: Operation[U]) -> Operation[tuple[T, U]]:
    """Run two operations in step: what both ask next is asked together. Neither needs to know of the other."""
    operations: tuple[Operation[Any], Operation[Any]] = one, other
    results: list[Any] = [None, None]
    sent: list[tuple[int, Any]] = [(0, None), (1, None)]
    while sent:
        asked: list[tuple[int, Step]] = []
        for place, rows in sent:
            try:
                asked.append((place, operations[place].send(rows)))
            except StopIteration as stop:
                results[place] = stop.value
        if len(asked) == len(operations):
            # One that asks for several at once gets them at once.
            parts = [step[1]["steps"] if step[0] == TOGETHER else (step,) for _, step in asked]
            answers = yield together(*parts[0], *parts[1])
            found = answers[: len(parts[0])], answers[len(parts[0]) :]
            sent = [(place, found[place] if asked[place][1][0] == TOGETHER else found[place][0]) for place in (0, 1)]
        else:
            sent = []
            for place, step in asked:
                sent.append((place, (yield step)))
    return results[0], results[1]


_compiled: dict[str, Mapping[str, Statement]] = {}


def run_in(session: Session, operation: Operation[T]) -> T:
    """Run an operation in the caller's transaction, which is as durable as its opener made it."""
    session.flush()
    connection = session.connection()
    dialect = connection.dialect.name
    statements = _compiled.get(dialect)
    if statements is None:
        statements = _compiled[dialect] = compile_statements("sqlite" if dialect == "sqlite" else "psycopg")

    def run(step: Step) -> Any:
        name, parameters = step
        if name == TOGETHER:
            return [run(one) for one in parameters["steps"]]
        if name == RECORD:
            changes.record(session, parameters["events"])
            return ()
        if name == DURABLE:
            return ()
        if dialect == "sqlite" and name in STEP_BY_STEP:
            return drive(STEP_BY_STEP[name](parameters))
        statement = statements[name]
        found = connection.exec_driver_sql(statement.sql, tuple(statement.bind(parameters)))
        return found.mappings().all() if found.returns_rows else ()

    def drive(driven: Operation[Any]) -> Any:
        rows: Any = None
        while True:
            try:
                step = driven.send(rows)
            except StopIteration as stop:
                return stop.value
            rows = run(step)

    result: T = drive(operation)
    return result
