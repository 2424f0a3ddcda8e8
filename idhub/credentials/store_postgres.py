"""The store on PostgreSQL: asyncpg, on a fixed number of connections that are pinned to their prepared statements."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

import asyncpg
import structlog

from audit.events import Event
from audit.personal import Sealer
from audit.trail import TableName, event_rows, insert_statement
from idhub import faults
from idhub.credentials.grouping import Grouping, Waiting
from idhub.credentials.operations import DEFERRED, DURABLE, LOCK, RECORD, Operation, Row
from idhub.credentials.statements import LOCK_AT_ONCE, Statement, compile_statements
from idhub.db import Database
from idhub.errors import Unavailable
from idhub.settings import Settings

T = TypeVar("T")
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
_GROUPS: Final = 2
"""Groups in flight at once: while one waits for the disk, the next one is run."""
_LOG = structlog.get_logger(__name__)


class _CommitUnknown(ConnectionError):
    """The connection broke while committing: whether it did is not known, so it must not be tried again."""


class _Later(Exception):
    """The principal is locked: the operation, which has written nothing, waits for it alone."""


_ALONE: Final = object()


class _Group:
    """One open transaction of several operations: what can be written together at its end is kept until then."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.deferred: dict[str, list[list[Any]]] = {}
        self.locked: set[str] = set()
        """Principals that this transaction has locked, until its end."""


class _Pinned:
    """One connection with its prepared statements."""

    def __init__(self, connection: Any, statements: Mapping[str, Statement]) -> None:
        self.connection = connection
        self._statements = statements
        self._prepared: dict[str, Any] = {}

    async def fetch(self, name: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        statement = self._statements[name]
        prepared = self._prepared.get(name) or await self._prepare(name, statement.sql)
        rows: Sequence[Row] = await prepared.fetch(*statement.bind(parameters))
        return rows

    async def insert(self, table: TableName, rows: Sequence[Sequence[Any]]) -> None:
        """Append audit rows, in one exchange however many."""
        await self._write(f"audit:{table}", insert_statement(table, "numeric_dollar"), rows)

    async def write(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement that returns nothing for many rows of bound values, in one exchange."""
        await self._write(name, self._statements[name].sql, rows)

    async def _write(self, name: str, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        prepared = self._prepared.get(name) or await self._prepare(name, sql)
        if len(rows) == 1:
            await prepared.fetch(*rows[0])
        else:
            await prepared.executemany(rows)

    async def _prepare(self, name: str, sql: str) -> Any:
        prepared = self._prepared[name] = await self.connection.prepare(sql)
        return prepared


class PostgresStore(Grouping):
    """Connections are opened when first needed and replaced when lost."""

    def __init__(self, settings: Settings, database: Database, sealer: Sealer) -> None:
        super().__init__()
        url = settings.database_direct_url or database.url
        self._url = "postgresql://" + url.split("://", 1)[1]
        self._size = max(2, settings.database_pool_size // 2)
        self._sealer = sealer
        self._statements = compile_statements("postgresql")
        self._free: list[_Pinned] = []
        self._slots = asyncio.Semaphore(self._size)
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """See `Grouping.adopt`: connections of another loop are of no use on this one."""
        super().adopt(loop)
        self._free.clear()
        self._slots = asyncio.Semaphore(self._size)
        self._running = 0

    async def read(self, operation: Callable[[], Operation[T]]) -> T:
        """See `Store.read`."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.adopt(loop)
        return await self._attempt(operation, is_write=False)

    # ------------------------------------------------------------------ groups

    def may_begin(self) -> bool:
        """Few groups at once: those who come meanwhile make the next one larger."""
        return self._running < _GROUPS

    def commit(self, group: list[Waiting]) -> None:
        """Commit in a task."""
        self._running += 1
        task = asyncio.get_running_loop().create_task(self._commit(group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _commit(self, group: list[Waiting]) -> None:
        try:
            alone = group if len(group) == 1 else await self._together(group)
        finally:
            self._running -= 1
            self.wake()
        if alone:
            await asyncio.gather(*(self._settle_alone(one) for one in alone))

    async def _settle_alone(self, one: Waiting) -> None:
        try:
            one.settle(await self._attempt(one.operation, is_write=True))
        except Exception as error:
            one.fail(error)

    async def _together(self, group: list[Waiting]) -> list[Waiting]:
        """Run operations in one transaction and settle them; returns those that must run alone."""
        pinned: _Pinned | None = None
        async with self._slots:
            try:
                pinned = await self._take()
                outcomes = await self._transact(pinned, [one.operation for one in group], is_group=True)
            except _CommitUnknown as error:
                self._drop(pinned)
                for one in group:
                    one.fail(_unavailable(error))
                return []
            except Exception as error:
                # One of them failed, or the connection did: nothing was committed, and each begins anew by itself.
                self._drop(pinned)
                _LOG.debug("store.group_broken", error=type(error).__name__, operations=len(group))
                return group
            except BaseException:
                self._drop(pinned)
                raise
            self._free.append(pinned)
        for one, outcome in zip(group, outcomes, strict=True):
            if outcome is not _ALONE:
                one.settle(outcome)
        return [one for one, outcome in zip(group, outcomes, strict=True) if outcome is _ALONE]

    # ------------------------------------------------------------------ one

    async def _attempt(self, operation: Callable[[], Operation[T]], *, is_write: bool) -> T:
        async with self._slots:
            for attempt in range(1, _ATTEMPTS + 1):
                pinned: _Pinned | None = None
                try:
                    pinned = await self._take()
                    if is_write:
                        result: T = (await self._transact(pinned, [operation], is_group=False))[0]
                    else:
                        result = await self._drive(pinned, operation(), None, is_group=False)
                except (*_LOST, *_AGAIN, *_HELD) as error:
                    self._drop(pinned)
                    if attempt == _ATTEMPTS or isinstance(error, (*_HELD, _CommitUnknown)):
                        raise _unavailable(error) from error
                    _LOG.warning("store.retry", error=type(error).__name__, attempt=attempt)
                except BaseException:
                    self._drop(pinned)
                    raise
                else:
                    self._free.append(pinned)
                    return result
        raise AssertionError("unreachable")

    async def _transact(
        self, pinned: _Pinned, operations: Sequence[Callable[[], Operation[Any]]], *, is_group: bool
    ) -> list[Any]:
        connection, group = pinned.connection, _Group()
        await connection.execute("BEGIN")
        outcomes: list[Any] = []
        for operation in operations:
            try:
                outcomes.append(await self._drive(pinned, operation(), group, is_group=is_group))
            except _Later:
                outcomes.append(_ALONE)
        for name, rows in group.deferred.items():
            await pinned.write(name, rows)
        if group.events:
            for table, values in event_rows(group.events, sealer=self._sealer).tables():
                await pinned.insert(table, values)
        faults.at("commit.before")
        try:
            await connection.execute("COMMIT")
        except _LOST as error:
            raise _CommitUnknown from error
        faults.at("commit.after")
        return outcomes

    async def _drive(self, pinned: _Pinned, steps: Operation[T], group: _Group | None, *, is_group: bool) -> T:
        rows: Sequence[Row] | None = None
        while True:
            try:
                name, parameters = steps.send(rows)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if name in DEFERRED and group is not None:
                group.deferred.setdefault(name, []).append(self._statements[name].bind(parameters))
                rows = ()
            elif name == RECORD and group is not None:
                group.events += parameters["events"]
                rows = ()
            elif name == DURABLE:
                # synchronous_commit is the database's own setting and is never lowered here.
                rows = ()
            elif name == LOCK and group is not None:
                principal_id: str = parameters["principal_id"]
                if principal_id not in group.locked:
                    rows = await pinned.fetch(LOCK_AT_ONCE if is_group else LOCK, parameters)
                    if is_group and not rows:
                        # A transition holds it. Whoever shares this transaction must not wait for that.
                        raise _Later
                    group.locked.add(principal_id)
                rows = ()
            else:
                rows = await pinned.fetch(name, parameters)

    # ------------------------------------------------------------------ connections

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

    async def close(self) -> None:
        """See `Store.close`."""
        await self.flush()
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        free, self._free = self._free, []
        for pinned in free:
            await pinned.connection.close(timeout=5)


def _unavailable(error: BaseException) -> Unavailable:
    unavailable = Unavailable("The database does not answer.", retry_after=timedelta(seconds=1))
    unavailable.__cause__ = error
    return unavailable
