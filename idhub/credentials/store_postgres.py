"""The store on PostgreSQL: a fixed number of connections that are pinned to their prepared statements.

Operations of a group run in step on one of them (`idhub.credentials.in_step`). Here is who shares a group, how many
are under way, and what becomes of those that must begin anew.

Nobody waits for a principal with a connection in hand: others need it. Whoever meets a locked one comes again with a
later group, until their patience ends.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

import structlog
from psycopg import errors

from audit.personal import Sealer
from idhub.credentials.grouping import Grouping, Waiting
from idhub.credentials.in_step import LOCKED_OUT, CommitUnknown, InStep
from idhub.credentials.operations import HOLD, TOGETHER, Operation, Step, Taken, together
from idhub.credentials.pinned import BEGIN, ROLLBACK, Lost, Pinned, waiting_for_locks
from idhub.credentials.statements import compile_statements
from idhub.db import Database, libpq_address
from idhub.errors import Unavailable
from idhub.settings import Settings

T = TypeVar("T")
_AGAIN = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    # A migration beside us changed a table that a prepared statement reads.
    errors.FeatureNotSupported,
)
_NO_ANSWER = (errors.QueryCanceled, TimeoutError)
# No room on its disk or in its memory, a disk that is broken; it has become a standby.
_TAKES_NOTHING = (errors.OperationalError, errors.ReadOnlySqlTransaction)
_ATTEMPTS: Final = 3
_PATIENCE_SECONDS: Final = 5.0
"""How long anybody waits for what others have locked."""
_SHORTEST_PAUSE_SECONDS: Final = 0.005
_LONGEST_PAUSE_SECONDS: Final = 0.1
_SHORTEST_LOCK_WAIT_SECONDS: Final = 0.02
_LONGEST_LOCK_WAIT_SECONDS: Final = 0.1
"""Of one attempt of somebody who runs alone, at first and after some."""
_ALONE_AT_ONCE: Final = 4
"""The share of the connections, as a divisor, that those who run alone have at most."""
_LASTING, _BEGUN, _TRIES, _LOOKS = "", "begun", "tries", "looks"
_LANES: Final = {
    "transaction.insert": _BEGUN,
    HOLD: _TRIES,
    "throttle.give_back": _TRIES,
}
"""By what is asked first. Who shares a transaction with others waits for what they wait for, so that those who need
no disk go by themselves. This decides how long they wait, not what is safe: see `in_step`."""
_GROUPS: Final = {_LASTING: 4, _BEGUN: 1, _TRIES: 1, _LOOKS: 2}
"""Groups of a lane in flight at once, together as many as connections of the default pool. While one waits for the
disk, the next ones ask; while the database works for one that only reads, the answers of the other are made. Tries
change counters of each other: one at a time, so that none waits for another of this process; those of others hold them
in one order (`HOLD`)."""
_LOG = structlog.get_logger(__name__)


class PostgresStore(Grouping):
    """Connections are opened when first needed and replaced when lost."""

    def __init__(self, settings: Settings, database: Database, sealer: Sealer) -> None:
        super().__init__()
        self._url = libpq_address(
            settings.effective_database_direct_url if settings.database_direct_url else database.url
        )
        self._size = max(2, settings.database_pool_size // 2)
        self._statements = compile_statements("postgresql")
        self._in_step = InStep(self._statements, sealer)
        self._free: list[Pinned] = []
        self._slots = asyncio.Semaphore(self._size)
        self._alone = asyncio.Semaphore(self._size // _ALONE_AT_ONCE or 1)
        """Taken before a slot: a row that somebody holds is waited for by few."""
        self._running = dict.fromkeys(_GROUPS, 0)
        """By lane, groups in flight."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """See `Grouping.adopt`: connections of another loop are of no use on this one."""
        super().adopt(loop)
        free, self._free = self._free, []
        for pinned in free:
            pinned.close()
        self._slots = asyncio.Semaphore(self._size)
        self._alone = asyncio.Semaphore(self._size // _ALONE_AT_ONCE or 1)
        self._running = dict.fromkeys(_GROUPS, 0)

    async def read(self, operation: Callable[[], Operation[T]]) -> T:
        """See `Store.read`: those who look within a few turns of the loop look together."""
        return await self.in_group(operation, _LOOKS)

    # ------------------------------------------------------------------ groups

    def lane_of(self, waiting: Waiting) -> str:
        """See `Grouping.lane_of`."""
        first = waiting.look_ahead()
        if first is not None and first[0] == TOGETHER:
            first = first[1]["steps"][0]
        return _LASTING if first is None else _LANES.get(first[0], _LASTING)

    def may_begin(self, lane: str) -> bool:
        """Few groups at once: those who come meanwhile make the next one larger."""
        return self._running[lane] < _GROUPS[lane]

    def run_group(self, group: list[Waiting], lane: str) -> None:
        """Run it in a task."""
        self._running[lane] += 1
        self._spawn(self._run_group(group, lane))

    async def _run_group(self, group: list[Waiting], lane: str) -> None:
        try:
            broken = await self._together(group, lane=lane)
        finally:
            self._running[lane] -= 1
            self.wake(lane)
        for one in broken:
            self._spawn(self._by_itself(one, lane=lane))

    async def _together(self, group: list[Waiting], *, lane: str) -> list[Waiting]:
        """Run operations together and settle them; returns those that must begin anew, each by itself."""
        pinned: Pinned | None = None
        afterwards: Sequence[Step] = ()
        async with self._slots:
            try:
                pinned = await self._take()
                begun = [one.begin() for one in group]
                if lane == _LOOKS:
                    outcomes = await self._in_step.look(pinned, begun)
                else:
                    outcomes, afterwards = await self._in_step.transact(pinned, begun)
            except CommitUnknown as error:
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
            self._free.append(pinned)
        if afterwards:
            self._spawn(self._settle_afterwards(group, outcomes, afterwards, lane=lane))
        else:
            self._settle(group, outcomes, lane=lane)
        return []

    def _settle(self, group: Sequence[Waiting], outcomes: Sequence[Any], *, lane: str) -> None:
        for one, outcome in zip(group, outcomes, strict=True):
            if outcome is LOCKED_OUT:
                self._spawn(self._come_again(one, lane))
            else:
                one.settle(outcome)

    async def _settle_afterwards(
        self, group: Sequence[Waiting], outcomes: Sequence[Any], afterwards: Sequence[Step], *, lane: str
    ) -> None:
        try:
            await self._follow_up(afterwards)
        finally:
            # What they asked for is committed, whatever became of this.
            self._settle(group, outcomes, lane=lane)

    async def _come_again(self, one: Waiting, lane: str) -> None:
        """Have one that met a locked principal join a later group, and see it through.

        To ask again is a row of an exchange that others need anyway; to wait in the database is a connection of few.
        """
        now = asyncio.get_running_loop().time()
        if one.locked_out_at is None:
            one.locked_out_at = now
        waited = now - one.locked_out_at
        if waited >= _PATIENCE_SECONDS:
            one.fail(_unavailable(TimeoutError("A transition holds the principal.")))
            return
        # Half as long again as so far: a leave takes some hundredths of a second.
        await asyncio.sleep(min(max(waited / 2, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS))
        self._pending[lane].append(one)
        self.wake(lane)
        await asyncio.wait([one.future])

    async def _follow_up(self, steps: Sequence[Step]) -> None:
        """Run what a transaction that is committed has left to be done after it."""

        def following() -> Operation[None]:
            yield together(*steps)

        try:
            await self.write(following)
        except Exception as error:
            # Broad: what was asked for is committed, so that nobody must hear that it failed.
            _LOG.warning("store.counts_not_written", error=type(error.__cause__ or error).__name__, count=len(steps))

    def _spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ------------------------------------------------------------------ one

    async def _by_itself(self, one: Waiting, *, lane: str) -> None:
        """Run one of a group that broke, and settle it."""
        try:
            outcome, afterwards = await self._attempt(one.operation, is_write=lane != _LOOKS)
        except asyncio.CancelledError:
            one.future.cancel()
            raise
        except BaseException as error:
            # What the operation raises goes to whoever waits for it.
            one.fail(error)
        else:
            if afterwards:
                await self._follow_up(afterwards)
            self._settle([one], [outcome], lane=lane)

    async def _attempt(self, operation: Callable[[], Operation[Any]], *, is_write: bool) -> tuple[Any, Sequence[Step]]:
        """Run one operation until it is committed; its outcome, and what is left to be done after it."""
        loop = asyncio.get_running_loop()
        ends_at, attempts = loop.time() + _PATIENCE_SECONDS, 0
        # Short at first: many of a group that broke were waiting for nobody, and they come in between.
        lock_wait = _SHORTEST_LOCK_WAIT_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(ends_at):
                    await self._alone.acquire()
                try:
                    return await self._attempt_once(operation, is_write=is_write, lock_wait=lock_wait)
                finally:
                    self._alone.release()
            except errors.LockNotAvailable as error:
                if loop.time() >= ends_at:
                    raise _unavailable(error) from error
                lock_wait = min(2 * lock_wait, _LONGEST_LOCK_WAIT_SECONDS)
            except (Lost, OSError, *_AGAIN, *_NO_ANSWER) as error:
                attempts += 1
                if attempts == _ATTEMPTS or isinstance(error, (*_NO_ANSWER, CommitUnknown)):
                    raise _unavailable(error) from error
                _LOG.warning("store.retry", error=type(error).__name__, attempt=attempts)
            except errors.UniqueViolation as error:
                raise Taken from error
            except _TAKES_NOTHING as error:
                _LOG.error("store.takes_nothing", error=type(error).__name__)
                raise _unavailable(error) from error

    async def _attempt_once(
        self, operation: Callable[[], Operation[Any]], *, is_write: bool, lock_wait: float
    ) -> tuple[Any, Sequence[Step]]:
        pinned: Pinned | None = None
        afterwards: Sequence[Step] = ()
        async with self._slots:
            try:
                pinned = await self._take()
                begun = [(operation(), None)]
                if is_write:
                    begin = (BEGIN, waiting_for_locks(lock_wait))
                    outcomes, afterwards = await self._in_step.transact(pinned, begun, begin=begin)
                else:
                    outcomes = await self._in_step.look(pinned, begun)
            except BaseException as error:
                if pinned is not None and isinstance(error, errors.LockNotAvailable):
                    await self._undo(pinned)
                else:
                    self._drop(pinned)
                raise
            self._free.append(pinned)
        return outcomes[0], afterwards

    # ------------------------------------------------------------------ connections

    async def _take(self) -> Pinned:
        while self._free:
            pinned = self._free.pop()
            if not pinned.is_closed:
                return pinned
        return await Pinned.connect(self._url, self._statements)

    async def _undo(self, pinned: Pinned) -> None:
        """Keep a connection of which the state is known: to make one takes longer than a short wait for a lock."""
        try:
            await pinned.ask([ROLLBACK])
        except BaseException:
            pinned.close()
            raise
        self._free.append(pinned)

    def _drop(self, pinned: Pinned | None) -> None:
        # A connection in an unknown state is not worth keeping: the server rolls back what it had begun.
        if pinned is not None:
            pinned.close()

    async def close(self) -> None:
        """See `Store.close`."""
        await self.flush()
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        free, self._free = self._free, []
        for pinned in free:
            pinned.close()


def _unavailable(error: BaseException) -> Unavailable:
    unavailable = Unavailable("The database does not answer.", retry_after=timedelta(seconds=1))
    unavailable.__cause__ = error
    return unavailable
