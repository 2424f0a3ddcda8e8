"""Connections to PostgreSQL: what they are told, whose plans they keep, and what their errors mean."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import URL, Connection, CursorResult, Engine, Executable, create_engine, event, text
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, OperationalError

from audit.driver import answered, send, sent_ahead

# PostgreSQL gives up one of several transactions that wait for each other, or that no order explains. Nothing of it
# stands, so it may begin anew.
_BEGIN_ANEW = frozenset({"40001", "40P01"})
_READ_ONLY = "25006"
_LOCK_NOT_AVAILABLE = "55P03"
# Uses of a statement on a connection after which PostgreSQL keeps its plan.
_PREPARED_FROM = 5
_KEEPS_PLANS = "idhub.keeps_plans"
ASKED_FIRST = "idhub.asked_first"
"""Of a connection: what its snapshot began with (`Database.read(first=)`), until it is taken."""
_END = "COMMIT"
_GOES_WELL = 2
"""`TransactionStatus.INTRANS` of libpq."""
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
# Whoever keeps plans finds by index and walks in its order, however few rows there are or were counted: what a planner
# would rather read whole and sort is some pages today, and everybody when the plan is used last. What is forbidden so
# counts as dear, and nothing that is dear is worth being compiled.
_WALKING = (
    ("enable_seqscan", "off"),
    ("enable_sort", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    # A table that was counted while it was empty would be kept at hand whole, and gone through for each row.
    ("enable_material", "off"),
)
_PLANS = (
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
    # To begin another process takes longer than a page.
    ("max_parallel_workers_per_gather", "0"),
    *_WALKING,
)
# A statement that is kept ready: the same as so many SET LOCAL, which the server would read anew each time.
_KEEP_PLANS = "SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in _PLANS)
_FREELY = "; ".join(f"SET LOCAL {name} = on" for name, _ in _WALKING)
_WALKING_AGAIN = "; ".join(f"SET LOCAL {name} = {value}" for name, value in _WALKING)
# A process that stands still within a transaction, or waits for one that does, is bounded by the database.
_SERVER_SETTINGS = (("timezone", "UTC"), ("idle_in_transaction_session_timeout", "60000"), ("lock_timeout", "30000"))
# Whoever runs the database may have set others for it. What locks guard is read again after the lock is had.
OWN_TRANSACTIONS = r"-c default_transaction_isolation=read\ committed -c default_transaction_read_only=off"
"""Options of libpq for every connection of the hub: how its transactions begin, whatever was set for the database."""
_SETTINGS_OF_ONE = "; ".join(
    [
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE",
        *(f"SET LOCAL {name} = {value}" for name, value in _SERVER_SETTINGS),
    ]
)
_OPTIONS = " ".join([OWN_TRANSACTIONS, *(f"-c {name}={value}" for name, value in _SERVER_SETTINGS)])
_REACHING: dict[str, Any] = {
    "connect_timeout": 5,
    # A server whose machine is gone answers nothing, not even that it is.
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""Parameters of libpq for every connection to PostgreSQL: seconds, milliseconds the last."""
MIGRATING = "idhub migrate"
"""Name under which a migration works on PostgreSQL: no limit of time ends it."""
_END_LONG_WRITERS = text(
    "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
    " AND backend_xid IS NOT NULL AND application_name <> :migrating"
    " AND xact_start < clock_timestamp() - make_interval(secs => :seconds)"
)


def open_engine(url: URL, pool: Mapping[str, Any], *, is_pooled: bool) -> Engine:
    """An engine whose connections are set and watched as we need them.

    Args:
        is_pooled: behind a pooler the next transaction is another server connection's: nothing is kept there, and a
            pooler refuses options that it would have to keep.
    """
    engine = create_engine(
        url,
        **pool,
        pool_pre_ping=True,
        connect_args={
            **_REACHING,
            "options": "" if is_pooled else _OPTIONS,
            "prepare_threshold": None if is_pooled else _PREPARED_FROM,
        },
    )
    if is_pooled:
        event.listen(engine, "begin", _set_for_one)
    _ping_where_wanted(engine.dialect)
    _wait_for_what_went_ahead(engine.dialect)
    _know_a_standby(engine.dialect)
    event.listen(engine, "handle_error", _of_one_kind)
    return engine


@contextmanager
def snapshot(engine: Engine, *, keeps_plans: bool, first: Callable[[Connection], None] | None) -> Iterator[Connection]:
    """A connection on which a snapshot has begun. Whoever is given it ends it (`end_snapshot`).

    While the block lasts, each statement is planned for its values, but for those of `execute_planned`.
    """
    with _begun(engine, keeps_plans=keeps_plans, first=first) as connection:
        # Taken once: a connection that broke meanwhile would be made anew to be asked for it, or refuse to say.
        driver: Any = connection.connection.driver_connection
        info, before = connection.info, driver.prepare_threshold
        driver.prepare_threshold = None
        info[_KEEPS_PLANS] = keeps_plans and before is not None
        try:
            yield connection
        finally:
            driver.prepare_threshold = before
            info[_KEEPS_PLANS] = False
            # No other snapshot's.
            info.pop(ASKED_FIRST, None)
            if not driver.closed:
                driver.autocommit = False


def _begun(
    engine: Engine, *, keeps_plans: bool, first: Callable[[Connection], None] | None, is_again: bool = False
) -> Connection:
    """A connection on which a snapshot has begun, in one exchange: the driver begins none itself, and asks no
    connection of the pool first whether it still lives. One that does not is made anew.
    """
    _PINGS.are_wanted = False
    try:
        connection = engine.connect()
    finally:
        _PINGS.are_wanted = True
    driver: Any = connection.connection.driver_connection
    driver.autocommit = True
    try:
        with sent_ahead(connection):
            send(connection, _SNAPSHOT, ())
            if keeps_plans:
                send(connection, _KEEP_PLANS, ())
            if first is not None:
                first(connection)
    except DBAPIError as error:
        connection.invalidate(error)
        connection.close()
        if is_again or not error.connection_invalidated:
            raise
        return _begun(engine, keeps_plans=keeps_plans, first=first, is_again=True)
    return connection


def end_snapshot(connection: Connection) -> None:
    """End a snapshot: of a transaction that goes well without the driver, which takes as long again for it.

    Nothing was changed; after a rollback the driver would forget its prepared statements.
    """
    driver: Any = None if connection.invalidated else connection.connection.driver_connection
    if driver is not None and driver.pgconn.transaction_status == _GOES_WELL:
        send(connection, _END, ())
    # The driver has nothing left to end then.
    connection.commit()


def end_long_writers(engine: Engine, limit: timedelta) -> int:
    """See `Database.end_long_writers`."""
    with engine.connect() as connection:
        found = connection.execute(_END_LONG_WRITERS, {"migrating": MIGRATING, "seconds": limit.total_seconds()}).all()
        connection.commit()
    return len(found)


def libpq_address(url: str) -> str:
    """A PostgreSQL URL as libpq reads it, and how it tells that a server is gone: for connections past SQLAlchemy."""
    named = make_url(url)
    dialect: Any = named.get_dialect()()
    _, parameters = dialect.create_connect_args(named)
    # Imported late: SQLite needs nothing of PostgreSQL's driver.
    from psycopg.conninfo import make_conninfo

    return make_conninfo(**parameters, **_REACHING)


def execute_planned(
    connection: Connection, statement: Executable, values: Mapping[str, Any]
) -> CursorResult[*tuple[Any, ...]]:
    """Run a statement that is the same each time and finds by index what it is given, whatever that is.

    In `Database.read(keeps_plans=True)` PostgreSQL plans it once a connection: to plan many joins costs more than to
    make them. Elsewhere like any other.
    """
    if not connection.info.get(_KEEPS_PLANS):
        return connection.execute(statement, values)
    driver: Any = connection.connection.driver_connection
    before, driver.prepare_threshold = driver.prepare_threshold, 0
    try:
        return connection.execute(statement, values)
    finally:
        driver.prepare_threshold = before


def plans_are_kept(connection: Connection) -> bool:
    """Whether a snapshot of PostgreSQL keeps plans, and no pooler stands between."""
    return bool(connection.info.get(_KEEPS_PLANS))


@contextmanager
def plan_freely(connection: Connection) -> Iterator[None]:
    """While the block lasts, let PostgreSQL read and sort whole tables again in a snapshot that keeps plans: for what
    counts or sorts many, or puts together what several indexes find."""
    is_walking = connection.info.get(_KEEPS_PLANS)
    if is_walking:
        connection.exec_driver_sql(_FREELY)
    yield
    if is_walking:
        connection.exec_driver_sql(_WALKING_AGAIN)


def may_begin_anew(error: DBAPIError) -> bool:
    """Whether the database ended a transaction for a reason that passes: a deadlock, or no order that explains it."""
    return getattr(error.orig, "sqlstate", None) in _BEGIN_ANEW


def is_held(error: object) -> bool:
    """Whether another holds a row or table of PostgreSQL, for longer than one waits."""
    return getattr(error, "sqlstate", None) == _LOCK_NOT_AVAILABLE


def _set_for_one(connection: Connection) -> None:
    """Give a transaction that has just begun the settings that its connection cannot keep.

    A snapshot that begins by a statement of its own (`_begun`) has nothing to hold others up with.
    """
    driver: Any = connection.connection.driver_connection
    if not driver.autocommit:
        connection.exec_driver_sql(_SETTINGS_OF_ONE)


def _know_a_standby(dialect: Any) -> None:
    """Have a server that has become a standby taken for one that is away: what is connected to it is let go.

    It takes no writes, which the driver calls an internal error.
    """
    is_lost = dialect.is_disconnect

    def is_lost_or_a_standby(error: Any, connection: Any, cursor: Any) -> bool:
        return getattr(error, "sqlstate", None) == _READ_ONLY or bool(is_lost(error, connection, cursor))

    dialect.is_disconnect = is_lost_or_a_standby


def _of_one_kind(context: ExceptionContext) -> OperationalError | None:
    """Have whatever says that a connection is lost be an OperationalError, whatever the driver calls it."""
    if not context.is_disconnect or isinstance(context.sqlalchemy_exception, OperationalError):
        return None
    original: Any = context.original_exception
    return OperationalError(context.statement, None, original, hide_parameters=True, connection_invalidated=True)


class _Pings(threading.local):
    are_wanted = True


_PINGS = _Pings()


def _ping_where_wanted(dialect: Any) -> None:
    """Let who begins at once take a connection of the pool without asking it first (`_begun`)."""
    ping = dialect.do_ping
    dialect.do_ping = lambda connection: not _PINGS.are_wanted or ping(connection)


def _wait_for_what_went_ahead(dialect: Any) -> None:
    """Have SQLAlchemy's own statements wait for what was sent ahead of answers (`audit.driver`): it asks each of them
    for its answer at once.
    """
    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        setattr(dialect, name, _after_answers(getattr(dialect, name)))


def _after_answers(execute: Callable[..., Any]) -> Callable[..., Any]:
    def executed(cursor: Any, *statement: Any) -> Any:
        if cursor.connection.pgconn.pipeline_status:
            answered(statement[-1].root_connection)
        return execute(cursor, *statement)

    return executed
