"""The store on PostgreSQL: asyncpg, on a fixed number of connections that are pinned to their prepared statements.

Operations of a group run in step: each goes on to the next thing it asks of the database, and all who ask the same
then ask in one exchange (`idhub.credentials.pinned`). To each other they are what transactions at the same moment are,
between which the rules hold already: every claim is one conditional statement, every look at a principal is locked.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

import asyncpg
import structlog

from audit.events import Event
from audit.personal import Sealer
from audit.trail import event_rows
from idhub import faults
from idhub.credentials.grouping import MOST_AT_ONCE, Grouping, Waiting
from idhub.credentials.operations import DEFERRED, DURABLE, LOCK, RECORD, Operation, Row, Step
from idhub.credentials.pinned import SERVER_SETTINGS, Pinned
from idhub.credentials.statements import LOCK_AT_ONCE, compile_statements
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
"""Groups in flight at once: while one waits for the disk, the next one asks."""
_LOOKS: Final = 2
"""Groups that only read in flight at once: while the database works for one, the answers of the other are made."""
_LOG = structlog.get_logger(__name__)


class _CommitUnknown(ConnectionError):
    """The connection broke while committing: whether it did is not known, so it must not be tried again."""


_ALONE: Final = object()
"""Outcome of an operation that met a locked principal: it waits for that alone."""


class _Group:
    """One open transaction of several operations: what can be written together at its end is kept until then."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.deferred: dict[str, list[list[Any]]] = {}
        self.has_begun = False
        """The database was asked something; until then there is nothing to roll back."""
        self.locked: set[str] = set()
        """Principals that this transaction has locked, until its end."""


class PostgresStore(Grouping):
    """Connections are opened when first needed and replaced when lost."""

    def __init__(self, settings: Settings, database: Database, sealer: Sealer) -> None:
        super().__init__()
        url = settings.database_direct_url or database.url
        self._url = "postgresql://" + url.split("://", 1)[1]
        self._size = max(2, settings.database_pool_size // 2)
        self._sealer = sealer
        self._statements = compile_statements("postgresql")
        self._free: list[Pinned] = []
        self._slots = asyncio.Semaphore(self._size)
        self._running = 0
        """Of the groups that ask at the moment."""
        self._is_next_begun = False
        """The group that begins next finds a transaction open."""
        self._looking: list[Waiting] = []
        self._is_look_due = False
        self._looks = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """See `Grouping.adopt`: connections of another loop are of no use on this one."""
        super().adopt(loop)
        self._free.clear()
        self._slots = asyncio.Semaphore(self._size)
        self._running, self._is_next_begun = 0, False
        self._looking, self._is_look_due, self._looks = [], False, 0

    # ------------------------------------------------------------------ reading

    async def read(self, operation: Callable[[], Operation[T]]) -> T:
        """See `Store.read`: those who look in the same turn of the loop look together."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.adopt(loop)
        future: asyncio.Future[T] = loop.create_future()
        self._looking.append(Waiting(operation, future))
        self._look_soon()
        return await future

    def _look_soon(self) -> None:
        if self._looking and not self._is_look_due and self._looks < _LOOKS:
            self._is_look_due = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._is_look_due = False
        group, self._looking = self._looking[:MOST_AT_ONCE], self._looking[MOST_AT_ONCE:]
        group = [one for one in group if not one.future.cancelled()]
        if group:
            self._looks += 1
            self._spawn(self._look_together(group))
        self._look_soon()

    async def _look_together(self, group: list[Waiting]) -> None:
        try:
            alone = await self._together(group, is_write=False)
        finally:
            self._looks -= 1
            self._look_soon()
        for one in alone:
            self._spawn(self._attempt(one.operation, is_write=False)).add_done_callback(one.follow)

    # ------------------------------------------------------------------ groups

    def may_begin(self) -> bool:
        """Few groups at once: those who come meanwhile make the next one larger."""
        return self._running < _GROUPS

    def commit(self, group: list[Waiting]) -> None:
        """Commit in a task."""
        self._running += 1
        self._is_next_begun = False
        self._spawn(self._commit(group))

    async def _commit(self, group: list[Waiting]) -> None:
        try:
            alone = await self._together(group, is_write=True)
        finally:
            self._running -= 1
            self.wake()
        for one in alone:
            self._spawn(self._attempt(one.operation, is_write=True)).add_done_callback(one.follow)

    async def _together(self, group: list[Waiting], *, is_write: bool) -> list[Waiting]:
        """Run operations together and settle them; returns those that must run alone."""
        pinned: Pinned | None = None
        operations = [one.operation for one in group]
        async with self._slots:
            try:
                pinned = await self._take(is_write=is_write)
                if is_write:
                    outcomes = await self._transact(pinned, operations, is_group=True)
                else:
                    outcomes = await self._drive(pinned, operations, None, is_group=True)
            except _CommitUnknown as error:
                self._drop(pinned)
                for one in group:
                    one.fail(_unavailable(error))
                return []
            except Exception as error:
                # Broad, since an operation may raise anything: whose fault it was shows when each has begun anew by
                # itself, which is where what it raises goes to whoever waits for it. Nothing was committed.
                self._drop(pinned)
                _LOG.debug("store.group_broken", error=type(error).__name__, operations=len(group))
                return group
            except BaseException:
                self._drop(pinned)
                raise
            self._give_back(pinned)
        for one, outcome in zip(group, outcomes, strict=True):
            if outcome is not _ALONE:
                one.settle(outcome)
        return [one for one, outcome in zip(group, outcomes, strict=True) if outcome is _ALONE]

    def _spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ------------------------------------------------------------------ one

    async def _attempt(self, operation: Callable[[], Operation[T]], *, is_write: bool) -> T:
        async with self._slots:
            for attempt in range(1, _ATTEMPTS + 1):
                pinned: Pinned | None = None
                try:
                    pinned = await self._take(is_write=is_write)
                    if is_write:
                        result: T = (await self._transact(pinned, [operation], is_group=False))[0]
                    else:
                        result = (await self._drive(pinned, [operation], None, is_group=False))[0]
                except (*_LOST, *_AGAIN, *_HELD) as error:
                    self._drop(pinned)
                    if attempt == _ATTEMPTS or isinstance(error, (*_HELD, _CommitUnknown)):
                        raise _unavailable(error) from error
                    _LOG.warning("store.retry", error=type(error).__name__, attempt=attempt)
                except BaseException:
                    self._drop(pinned)
                    raise
                else:
                    self._give_back(pinned)
                    return result
        raise AssertionError("unreachable")

    async def _transact(
        self, pinned: Pinned, operations: Sequence[Callable[[], Operation[Any]]], *, is_group: bool
    ) -> list[Any]:
        group = _Group()
        outcomes = await self._drive(pinned, operations, group, is_group=is_group)
        events = event_rows(group.events, sealer=self._sealer).tables() if group.events else []
        group.has_begun = group.has_begun or pinned.is_begun
        if group.has_begun:
            await pinned.change_all(group.deferred, events)
        faults.at("commit.before")
        try:
            if group.has_begun:
                # One follows at once, and one transaction is enough for it.
                goes_on = bool(self._pending) and not self._is_next_begun
                self._is_next_begun = self._is_next_begun or goes_on
                await pinned.commit(goes_on=goes_on)
            else:
                # One statement is a transaction of its own.
                await pinned.change_all(group.deferred, events)
        except _LOST as error:
            raise _CommitUnknown from error
        faults.at("commit.after")
        return outcomes

    async def _drive(
        self,
        pinned: Pinned,
        operations: Sequence[Callable[[], Operation[Any]]],
        group: _Group | None,
        *,
        is_group: bool,
    ) -> list[Any]:
        """Run operations in step to their ends; their outcomes, `_ALONE` for one that must not wait here."""
        outcomes: list[Any] = [_ALONE] * len(operations)
        going: list[tuple[int, Operation[Any], Sequence[Row] | None]]
        going = [(place, operation(), None) for place, operation in enumerate(operations)]
        while going:
            asking: dict[str, list[tuple[int, Operation[Any], Mapping[str, Any]]]] = {}
            for place, steps, rows in going:
                try:
                    name, parameters = self._next_question(steps, rows, group, is_group=is_group)
                except StopIteration as stop:
                    outcomes[place] = stop.value
                else:
                    asking.setdefault(name, []).append((place, steps, parameters))
            if asking and group is not None and not group.has_begun:
                await pinned.begin()
                group.has_begun = True
            going = []
            # In one order in every group: see `Pinned.fetch_each`.
            for name in sorted(asking):
                askers = asking[name]
                answers = await pinned.fetch_each(name, [parameters for _, _, parameters in askers])
                for (place, steps, parameters), rows in zip(askers, answers, strict=True):
                    if name == LOCK_AT_ONCE and not rows:
                        # A transition holds it. Whoever shares this transaction must not wait for that; this one,
                        # which has written nothing, waits for it alone.
                        steps.close()
                        continue
                    if name in {LOCK, LOCK_AT_ONCE} and group is not None:
                        group.locked.add(parameters["principal_id"])
                    going.append((place, steps, rows))
        return outcomes

    def _next_question(
        self, steps: Operation[Any], rows: Sequence[Row] | None, group: _Group | None, *, is_group: bool
    ) -> Step:
        """Go on until the database is asked; what needs no answer is kept for the end of the transaction.

        Raises:
            StopIteration: the operation has ended; its value is the outcome.
        """
        while True:
            name, parameters = steps.send(rows)
            rows = ()
            if group is None:
                if name != DURABLE:
                    return name, parameters
            elif name in DEFERRED:
                group.deferred.setdefault(name, []).append(self._statements[name].bind(parameters))
            elif name == RECORD:
                group.events += parameters["events"]
            elif name == LOCK:
                if parameters["principal_id"] not in group.locked:
                    return (LOCK_AT_ONCE if is_group else LOCK), parameters
            elif name != DURABLE:
                # synchronous_commit is the database's own setting and is never lowered here.
                return name, parameters

    # ------------------------------------------------------------------ connections

    async def _take(self, *, is_write: bool) -> Pinned:
        # Those that are in a transaction already stand at the end; to whoever only reads they are of no use.
        while self._free and (is_write or not self._free[0].is_begun):
            pinned = self._free.pop(-1 if is_write else 0)
            if not pinned.connection.is_closed():
                return pinned
        connection = await asyncpg.connect(
            self._url,
            timeout=5,
            command_timeout=10,
            server_settings=SERVER_SETTINGS,
        )
        return Pinned(connection, self._statements)

    def _give_back(self, pinned: Pinned) -> None:
        if pinned.is_begun and not self._pending:
            # Another group took those for whom it was left open.
            self._spawn(self._end(pinned))
        else:
            self._free.insert(len(self._free) if pinned.is_begun else 0, pinned)

    async def _end(self, pinned: Pinned) -> None:
        try:
            await pinned.commit(goes_on=False)
        except (*_LOST, *_HELD):
            self._drop(pinned)
        else:
            self._free.insert(0, pinned)

    def _drop(self, pinned: Pinned | None) -> None:
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
