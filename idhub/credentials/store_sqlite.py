"""The store on SQLite: sqlite3, inline on the event loop; threads for whoever must wait or sync."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, TypeVar

import structlog

from audit.events import Event
from audit.personal import Sealer
from audit.trail import INSERT_COLUMNS, TableName, event_rows, insert_statement
from idhub import faults
from idhub.credentials.grouping import MOST_AT_ONCE, Grouping, Waiting
from idhub.credentials.operations import (
    DEFERRED,
    DURABLE,
    LOCKS,
    RECORD,
    STEP_BY_STEP,
    TOGETHER,
    Operation,
    Row,
    Step,
    Taken,
)
from idhub.credentials.statements import Statement, compile_statements
from idhub.db import begin_immediate, is_busy
from idhub.errors import Unavailable
from idhub.turns import Turns

T = TypeVar("T")
_BUSY_TIMEOUT_S: Final = 5.0
_CHECKPOINT_SECONDS: Final = 1.0
_LONG_LOG_PAGES: Final = 16_384
# A log that somebody writes all the time is copied again until so few pages are new, or so often.
_FEW_PAGES: Final = 1_000
_PASSES: Final = 4
_LOG = structlog.get_logger(__name__)


class _NeedsDurable(Exception):
    """The operation asked for durability and the attempt has none: it begins anew with it."""


@dataclass(frozen=True, slots=True)
class _Failed:
    """An operation raised; its neighbours did not notice."""

    error: BaseException


_DURABLY: Final = object()
"""Outcome of an operation that wrote nothing and wants to begin anew where it waits for the disk."""
_LATER: Final = object()
"""Outcome of an operation that could not begin anew at once: another writer was faster."""


class _Group:
    """One open transaction of several operations: what can be written together at its end is kept until then."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.deferred: list[tuple[str, list[Any]]] = []
        """As they came: a row before those that refer to it."""


class SqliteStore(Grouping):
    """One connection for the loop; one, behind a thread each, for those who wait, for those who sync, for the log."""

    def __init__(self, path: str, sealer: Sealer, turns: Turns) -> None:
        super().__init__()
        self._turns = turns
        self._path = path
        self._sealer = sealer
        self._statements = compile_statements("sqlite")
        self._plain: dict[str, Statement] = {}
        """Statements that were asked before and are run at once, whoever asks."""
        self._audit: dict[TableName, str] = {table: insert_statement(table, "qmark") for table in INSERT_COLUMNS}
        self._inline: sqlite3.Connection | None = None
        self._viewer: asyncio.AbstractEventLoop | None = None
        """The loop in whose turn the inline connection has a view open."""
        self._waiting = _Thread(lambda: self._connect("NORMAL", _BUSY_TIMEOUT_S))
        self._durable = _Thread(lambda: self._connect("FULL", _BUSY_TIMEOUT_S))
        self._log = _Thread(lambda: self._connect("NORMAL", 0.2))
        self._log_done_at = time.monotonic()
        self._is_waiting = False
        self._unsynced: list[Waiting] = []
        """Who asked for the disk, and waits until it is asked for others."""
        self._is_syncing = False
        self._tasks: set[asyncio.Task[None]] = set()

    def _connect(self, synchronous: str, timeout: float) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=timeout, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.row_factory = sqlite3.Row
        # The log is written back by a thread of its own (`_write_back`): never while the loop waits.
        pragmas = ("foreign_keys=ON", f"synchronous={synchronous}", "trusted_schema=OFF", "wal_autocheckpoint=0")
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection

    def _loops(self) -> sqlite3.Connection:
        if self._inline is None:
            self._inline = self._connect("NORMAL", 0)
        return self._inline

    # ------------------------------------------------------------------ reading

    async def read(self, operation: Callable[[], Operation[T]]) -> T:
        """See `Store.read`."""
        connection = self._loops()
        try:
            self._share_view(connection)
            return self._drive(connection, operation(), None, is_durable=False)
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise _translated(error) from error
        try:
            return await self._waiting.run(lambda c: self._drive(c, operation(), None, is_durable=False))
        except sqlite3.OperationalError as error:
            raise _translated(error) from error

    def _share_view(self, connection: sqlite3.Connection) -> None:
        """Have all that is read in this turn of the loop read in one view: each view takes two locks of the file.

        Whoever reads in this turn was here before it began, and so asked for nothing later than the view shows.
        """
        loop = asyncio.get_running_loop()
        if self._viewer is not loop:
            self._end_view()
            connection.execute("BEGIN")
            self._viewer = loop
            loop.call_soon(self._end_view)

    def _end_view(self) -> None:
        if self._viewer is not None:
            self._viewer = None
            if self._inline is not None and self._inline.in_transaction:
                self._inline.execute("COMMIT")

    # ------------------------------------------------------------------ writing

    def may_begin(self, lane: str) -> bool:
        """While a group waits for the lock, those who come join the next one."""
        return not self._is_waiting

    def run_group(self, group: list[Waiting], lane: str) -> None:
        """Commit inline; when another writer is at it, in the thread that waits."""
        try:
            outcomes = self._together(self._loops(), [one.operation for one in group], is_durable=False)
        except sqlite3.OperationalError as error:
            if is_busy(error):
                self._is_waiting = True
                self._spawn(self._wait(group))
                return
            outcomes = [_Failed(error)] * len(group)
        self._settle(group, outcomes)
        self._write_back()

    async def _wait(self, group: list[Waiting]) -> None:
        operations = [one.operation for one in group]
        try:
            outcomes = await self._waiting.run(lambda c: self._in_turn(c, operations, is_durable=False))
        except sqlite3.OperationalError as error:
            outcomes = [_Failed(error)] * len(group)
        finally:
            self._is_waiting = False
            self.wake()
        self._settle(group, outcomes)
        self._write_back()

    async def _sync(self) -> None:
        """Commit what needs the disk: all of it that came while the disk was waited for before."""
        if self._is_syncing:
            return
        self._is_syncing = True
        try:
            while self._unsynced:
                group, self._unsynced = self._unsynced[:MOST_AT_ONCE], self._unsynced[MOST_AT_ONCE:]
                group = [one for one in group if not one.future.cancelled()]
                work = partial(self._in_turn, operations=[one.operation for one in group], is_durable=True)
                try:
                    outcomes = await self._durable.run(work)
                except sqlite3.OperationalError as error:
                    outcomes = [_Failed(error)] * len(group)
                self._settle(group, outcomes)
        finally:
            self._is_syncing = False

    def _settle(self, group: Sequence[Waiting], outcomes: Sequence[Any]) -> None:
        for one, outcome in zip(group, outcomes, strict=True):
            if outcome is _DURABLY:
                self._unsynced.append(one)
            elif outcome is _LATER:
                self._spawn(self._wait([one]))
            elif isinstance(outcome, _Failed):
                one.fail(_translated(outcome.error))
            else:
                one.settle(outcome)
        if self._unsynced and not self._is_syncing:
            self._spawn(self._sync())

    def _in_turn(
        self, connection: sqlite3.Connection, operations: Sequence[Callable[[], Operation[Any]]], *, is_durable: bool
    ) -> list[Any]:
        with self._turns.mine():
            return self._together(connection, operations, is_durable=is_durable)

    def _together(
        self, connection: sqlite3.Connection, operations: Sequence[Callable[[], Operation[Any]]], *, is_durable: bool
    ) -> list[Any]:
        """Run operations in one transaction. When one of them fails, all begin anew, each in its own.

        Raises:
            sqlite3.OperationalError: the database is busy; nothing has begun.
        """
        if connection is self._inline:
            self._end_view()
            connection.execute("BEGIN IMMEDIATE")
        else:
            begin_immediate(connection, self._path, patience=_BUSY_TIMEOUT_S)
        outcomes: list[Any] = []
        try:
            group = _Group()
            for operation in operations:
                try:
                    outcomes.append(self._drive(connection, operation(), group, is_durable=is_durable))
                except _NeedsDurable:
                    # It has written nothing.
                    outcomes.append(_DURABLY)
            self._finish(connection, group)
            faults.at("commit.before")
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if len(operations) == 1:
                if not isinstance(error, Exception):
                    raise
                return [_Failed(error)]
            return [self._alone(connection, operation, is_durable=is_durable) for operation in operations]
        faults.at("commit.after")
        return outcomes

    def _alone(
        self, connection: sqlite3.Connection, operation: Callable[[], Operation[Any]], *, is_durable: bool
    ) -> Any:
        try:
            return self._together(connection, [operation], is_durable=is_durable)[0]
        except sqlite3.OperationalError as error:
            return _LATER if is_busy(error) else _Failed(error)

    def _finish(self, connection: sqlite3.Connection, group: _Group) -> None:
        for name, run in groupby(group.deferred, itemgetter(0)):
            connection.executemany(self._statements[name].sql, map(itemgetter(1), run))
        if group.events:
            for table, values in event_rows(group.events, sealer=self._sealer).tables():
                connection.executemany(self._audit[table], values)

    def _drive(
        self, connection: sqlite3.Connection, steps: Operation[T], group: _Group | None, *, is_durable: bool
    ) -> T:
        rows: Any = None
        while True:
            try:
                step = steps.send(rows)
            except StopIteration as stop:
                result: T = stop.value
                return result
            rows = self._step(connection, step, group, is_durable)

    def _step(self, connection: sqlite3.Connection, step: Step, group: _Group | None, is_durable: bool) -> Any:
        name, parameters = step
        statement = self._plain.get(name)
        if statement is not None:
            return connection.execute(statement.sql, statement.bind(parameters)).fetchall()
        if name in LOCKS:
            # The write transaction is the lock.
            return _LOCKED
        if name == TOGETHER:
            return [self._step(connection, one, group, is_durable) for one in parameters["steps"]]
        if name in DEFERRED and group is not None:
            group.deferred.append((name, self._statements[name].bind(parameters)))
            return ()
        if name == RECORD and group is not None:
            group.events += parameters["events"]
            return ()
        if name == DURABLE:
            if not is_durable:
                raise _NeedsDurable
            return ()
        if name in STEP_BY_STEP:
            return self._drive(connection, STEP_BY_STEP[name](parameters), group, is_durable=is_durable)
        statement = self._statements[name]
        if name not in DEFERRED:
            self._plain[name] = statement
        return connection.execute(statement.sql, statement.bind(parameters)).fetchall()

    # ------------------------------------------------------------------ housekeeping

    def _write_back(self) -> None:
        """Have the write-ahead log copied into the database by a thread, once in a while."""
        now = time.monotonic()
        if now - self._log_done_at >= _CHECKPOINT_SECONDS:
            self._log_done_at = now
            self._spawn(self._checkpoint())

    async def _checkpoint(self) -> None:
        def copy(connection: sqlite3.Connection) -> None:
            before = 0
            for _ in range(_PASSES):
                _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if pages <= _LONG_LOG_PAGES:
                    return
                if pages - before < _FEW_PAGES:
                    break
                before = pages
            # Writers who never pause keep it from being begun anew; here they wait for a moment, while what has come
            # since is copied.
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

        try:
            await self._log.run(copy)
        except sqlite3.OperationalError as error:
            _LOG.warning("store.checkpoint_failed", error=str(error))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """See `Store.close`."""
        await self.flush()
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        if self._inline is not None:
            self._end_view()
            self._inline.close()
            self._inline = None
        for thread in (self._waiting, self._durable, self._log):
            thread.close()


_LOCKED: Final[Sequence[Row]] = ({"id": ""},)


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


def _translated(error: BaseException) -> BaseException:
    """What the caller is told: an outage passes, anything else is a defect of ours."""
    if getattr(error, "sqlite_errorcode", 0) in _TAKEN:
        taken = Taken()
        taken.__cause__ = error
        return taken
    if not isinstance(error, sqlite3.OperationalError):
        return error
    told: Exception = error
    if is_busy(error):
        told = Unavailable("The database is busy.", retry_after=timedelta(seconds=1))
    elif (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _NO_STORAGE:
        _LOG.error("store.no_storage", error=getattr(error, "sqlite_errorname", ""))
        told = Unavailable("The database cannot be written.", retry_after=timedelta(seconds=5))
    if told is not error:
        told.__cause__ = error
    return told


_TAKEN: Final = frozenset({sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE})
# The disk is full, broken, read-only or gone.
_NO_STORAGE: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM}
)
