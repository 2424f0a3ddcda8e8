"""The narrow store of the hot endpoints: short transactions on the bare driver, one implementation for both databases.

An operation is a generator (`idhub.credentials.spending`): it yields a statement's name with its parameters, or one of
the instructions below, and receives rows. It knows no driver. Two small drivers run it:

- SQLite: inline on the event loop, where a point read or a NORMAL commit takes microseconds. It never waits for a
  lock there: when the database is busy, the operation begins anew in a thread, which waits.
- PostgreSQL: asyncpg, on connections that are pinned to their prepared statements.

Nothing is cached but configuration (`ClientCache`), for one second.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar

import asyncpg
import structlog

from audit.events import Event
from audit.personal import Sealer
from audit.trail import INSERT_COLUMNS, TableName, event_rows, insert_statement
from idhub import faults
from idhub.credentials.statements import Statement, compile_statements
from idhub.db import Database, begin_immediate, is_busy
from idhub.errors import Unavailable
from idhub.settings import Settings

T = TypeVar("T")
Row = Mapping[str, Any]
Step = tuple[str, Mapping[str, Any]]
Operation = Generator[Step, Any, T]
"""What is sent back is the rows of the statement (`Sequence[Row]`), or nothing after an instruction."""

RECORD: Final = "record"
"""Instruction: append `events` to the audit log in this transaction."""
DURABLE: Final = "durable"
"""Instruction: what follows must survive a loss of power. Yielded before anything was written; may begin anew."""

_BUSY_TIMEOUT_S: Final = 5.0
_LOG = structlog.get_logger(__name__)


class Store(Protocol):
    """Runs operations, each in one transaction of its own."""

    async def read(self, operation: Callable[[], Operation[T]]) -> T:
        """Run an operation that writes nothing. Each statement sees what is committed when it begins."""
        ...

    async def write(self, operation: Callable[[], Operation[T]]) -> T:
        """Run an operation and commit. `operation` is called again when the attempt has to begin anew.

        Raises:
            Unavailable: the database cannot be reached, or stayed locked; nothing was committed, unless it broke
                while committing.
        """
        ...

    def on_flush(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Have `callback` awaited by `flush`."""
        ...

    async def flush(self) -> None:
        """Write what users of the store hold back for a moment (counts)."""
        ...

    async def close(self) -> None:
        """Flush, then close every connection."""
        ...


def create_store(settings: Settings, database: Database, sealer: Sealer) -> Store:
    """The store for the database that the settings name. Opens nothing before it is used."""
    if database.dialect == "sqlite":
        return SqliteStore(database.engine.url.database or "", sealer)
    return PostgresStore(settings, database, sealer)


def record(events: Sequence[Event]) -> Step:
    """The step that appends events."""
    return RECORD, {"events": events}


class _NeedsDurable(Exception):
    """The operation asked for durability and the attempt has none: roll back and begin anew with it."""


class _Flushing:
    """Remembers who holds something back."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], Awaitable[None]]] = []

    def on_flush(self, callback: Callable[[], Awaitable[None]]) -> None:
        """See `Store.on_flush`."""
        self._callbacks.append(callback)

    async def flush(self) -> None:
        """See `Store.flush`."""
        for callback in self._callbacks:
            await callback()


class SqliteStore(_Flushing):
    """sqlite3, inline. One connection for the loop; two, behind one thread each, for those who must wait or sync."""

    def __init__(self, path: str, sealer: Sealer) -> None:
        super().__init__()
        self._path = path
        self._sealer = sealer
        self._statements = compile_statements("sqlite")
        self._audit: dict[TableName, str] = {table: insert_statement(table, "qmark") for table in INSERT_COLUMNS}
        self._inline: sqlite3.Connection | None = None
        self._waiting = _Thread(lambda: self._connect("NORMAL", _BUSY_TIMEOUT_S))
        self._durable = _Thread(lambda: self._connect("FULL", _BUSY_TIMEOUT_S))

    def _connect(self, synchronous: str, timeout: float) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=timeout, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.row_factory = sqlite3.Row
        for pragma in ("foreign_keys=ON", f"synchronous={synchronous}", "trusted_schema=OFF"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection

    async def read(self, operation: Callable[[], Operation[T]]) -> T:
        """See `Store.read`."""
        return await self._attempt(operation, None)

    async def write(self, operation: Callable[[], Operation[T]]) -> T:
        """See `Store.write`."""
        return await self._attempt(operation, "BEGIN IMMEDIATE")

    async def _attempt(self, operation: Callable[[], Operation[T]], begin: str | None) -> T:
        try:
            if self._inline is None:
                self._inline = self._connect("NORMAL", 0)
            return self._run(self._inline, operation, begin, is_durable=False)
        except _NeedsDurable:
            thread, is_durable = self._durable, True
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise _translated(error) from error
            thread, is_durable = self._waiting, False
        try:
            try:
                return await thread.run(lambda c: self._run(c, operation, begin, is_durable=is_durable))
            except _NeedsDurable:
                return await self._durable.run(lambda c: self._run(c, operation, begin, is_durable=True))
        except sqlite3.OperationalError as error:
            raise _translated(error) from error

    def _run(
        self,
        connection: sqlite3.Connection,
        operation: Callable[[], Operation[T]],
        begin: str | None,
        *,
        is_durable: bool,
    ) -> T:
        if begin is not None:
            if connection is self._inline:
                connection.execute(begin)
            else:
                begin_immediate(connection, self._path, patience=_BUSY_TIMEOUT_S)
        try:
            result = self._drive(connection, operation(), is_durable=is_durable)
            if begin is not None:
                faults.at("commit.before")
                connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if begin is not None:
            faults.at("commit.after")
        return result

    def _drive(self, connection: sqlite3.Connection, steps: Operation[T], *, is_durable: bool) -> T:
        rows: Sequence[Row] | None = None
        while True:
            try:
                name, parameters = steps.send(rows)
            except StopIteration as stop:
                result: T = stop.value
                return result
            rows = self._step(connection, name, parameters, is_durable=is_durable)

    def _step(
        self, connection: sqlite3.Connection, name: str, parameters: Mapping[str, Any], *, is_durable: bool
    ) -> Sequence[Row]:
        if name == RECORD:
            for table, rows in event_rows(parameters["events"], sealer=self._sealer).tables():
                connection.executemany(self._audit[table], rows)
            return ()
        if name == DURABLE:
            if not is_durable:
                raise _NeedsDurable
            return ()
        statement = self._statements[name]
        found: list[Row] = connection.execute(statement.sql, statement.bind(parameters)).fetchall()
        return found

    async def close(self) -> None:
        """See `Store.close`."""
        await self.flush()
        if self._inline is not None:
            self._inline.close()
            self._inline = None
        self._waiting.close()
        self._durable.close()


class _Thread:
    """One thread with one connection of its own: what would block the loop is done there, in turn."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._executor: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="idhub-store")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._work, work)

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            self._connection = self._connect()
        return work(self._connection)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _translated(error: sqlite3.OperationalError) -> Exception:
    """What the caller is told: an outage passes, anything else is a defect of ours."""
    if is_busy(error):
        return Unavailable("The database is busy.", retry_after=timedelta(seconds=1))
    if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _NO_STORAGE:
        _LOG.error("store.no_storage", error=getattr(error, "sqlite_errorname", ""))
        return Unavailable("The database cannot be written.", retry_after=timedelta(seconds=5))
    return error


# The disk is full, broken, read-only or gone.
_NO_STORAGE = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM}
)


_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.InterfaceError,
    # What asyncpg says of a connection that the server dropped between two uses.
    asyncpg.InternalClientError,
    OSError,
)
_AGAIN = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    # A migration beside us changed a table that a prepared statement reads.
    asyncpg.InvalidCachedStatementError,
    asyncpg.FeatureNotSupportedError,
)
_HELD = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, TimeoutError)
_ATTEMPTS: Final = 3


class _Pinned:
    """One connection with its prepared statements."""

    def __init__(self, connection: Any, statements: Mapping[str, Statement]) -> None:
        self.connection = connection
        self._statements = statements
        self._prepared: dict[str, Any] = {}

    async def fetch(self, name: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        statement = self._statements[name]
        prepared = await self._prepare(name, statement.sql)
        rows: Sequence[Row] = await prepared.fetch(*statement.bind(parameters))
        return rows

    async def insert(self, table: TableName, rows: Sequence[tuple[Any, ...]]) -> None:
        prepared = await self._prepare(f"audit:{table}", insert_statement(table, "numeric_dollar"))
        for row in rows:
            await prepared.fetch(*row)

    async def _prepare(self, name: str, sql: str) -> Any:
        prepared = self._prepared.get(name)
        if prepared is None:
            prepared = self._prepared[name] = await self.connection.prepare(sql)
        return prepared


class PostgresStore(_Flushing):
    """asyncpg on a fixed number of pinned connections, opened when first needed, replaced when lost."""

    def __init__(self, settings: Settings, database: Database, sealer: Sealer) -> None:
        super().__init__()
        url = settings.database_direct_url or database.url
        self._url = "postgresql://" + url.split("://", 1)[1]
        self._size = max(2, settings.database_pool_size // 2)
        self._sealer = sealer
        self._statements = compile_statements("postgresql")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._free: list[_Pinned] = []
        self._slots = asyncio.Semaphore(self._size)

    async def read(self, operation: Callable[[], Operation[T]]) -> T:
        """See `Store.read`."""
        return await self._attempt(operation, None)

    async def write(self, operation: Callable[[], Operation[T]]) -> T:
        """See `Store.write`."""
        return await self._attempt(operation, "BEGIN")

    async def _attempt(self, operation: Callable[[], Operation[T]], begin: str | None) -> T:
        self._adopt_loop()
        async with self._slots:
            for attempt in range(1, _ATTEMPTS + 1):
                pinned: _Pinned | None = None
                try:
                    pinned = await self._take()
                    result = await self._run(pinned, operation, begin)
                except (*_LOST, *_AGAIN, *_HELD) as error:
                    self._drop(pinned)
                    is_last = attempt == _ATTEMPTS or isinstance(error, _HELD) or _was_committing(error)
                    if is_last:
                        raise Unavailable("The database does not answer.", retry_after=timedelta(seconds=1)) from error
                    _LOG.warning("store.retry", error=type(error).__name__, attempt=attempt)
                except BaseException:
                    self._drop(pinned)
                    raise
                else:
                    self._free.append(pinned)
                    return result
        raise AssertionError("unreachable")

    async def _run(self, pinned: _Pinned, operation: Callable[[], Operation[T]], begin: str | None) -> T:
        connection = pinned.connection
        if begin is not None:
            await connection.execute(begin)
        result = await self._drive(pinned, operation())
        if begin is not None:
            faults.at("commit.before")
            try:
                await connection.execute("COMMIT")
            except _LOST as error:
                raise _CommitUnknown from error
            faults.at("commit.after")
        return result

    async def _drive(self, pinned: _Pinned, steps: Operation[T]) -> T:
        rows: Sequence[Row] | None = None
        while True:
            try:
                name, parameters = steps.send(rows)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if name == RECORD:
                for table, values in event_rows(parameters["events"], sealer=self._sealer).tables():
                    await pinned.insert(table, values)
                rows = ()
            elif name == DURABLE:
                # synchronous_commit is the database's own setting and is never lowered here.
                rows = ()
            else:
                rows = await pinned.fetch(name, parameters)

    async def _take(self) -> _Pinned:
        while self._free:
            pinned = self._free.pop()
            if not pinned.connection.is_closed():
                return pinned
        connection = await asyncpg.connect(
            self._url,
            timeout=5,
            command_timeout=10,
            server_settings={
                "timezone": "UTC",
                "application_name": "idhub-store",
                "lock_timeout": "5000",
                "idle_in_transaction_session_timeout": "30000",
            },
        )
        return _Pinned(connection, self._statements)

    def _drop(self, pinned: _Pinned | None) -> None:
        # A connection in an unknown state is not worth keeping: the server rolls back what it had begun.
        if pinned is not None:
            pinned.connection.terminate()

    def _adopt_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._free.clear()
            self._slots = asyncio.Semaphore(self._size)
            self._loop = loop

    async def close(self) -> None:
        """See `Store.close`."""
        await self.flush()
        free, self._free = self._free, []
        for pinned in free:
            await pinned.connection.close(timeout=5)


class _CommitUnknown(ConnectionError):
    """The connection broke while committing: whether it did is not known, so it must not be tried again."""


def _was_committing(error: BaseException) -> bool:
    return isinstance(error, _CommitUnknown)
