"""The store on PostgreSQL: a fixed number of connections that are pinned to their prepared statements.

Operations of a group run in step: each goes on to the next thing it asks of the database, and all then ask in one
exchange (`idhub.credentials.pinned`). To each other they are what transactions at the same moment are, between which
the rules hold already: every claim is one conditional statement, every look at a principal is locked.

Nobody waits for a principal with a connection in hand: others need it. Whoever meets a locked one comes again with a
later group, until their patience ends.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

import structlog
from psycopg import errors

from audit.events import Event
from audit.personal import Sealer
from audit.trail import event_rows
from idhub import faults
from idhub.credentials.grouping import MOST_AT_ONCE, MOST_TURNS, Grouping, Waiting
from idhub.credentials.operations import (
    AFTERWARDS,
    DEFERRED,
    DURABLE,
    HOLD,
    LOCK,
    RECORD,
    TOGETHER,
    VOLATILE,
    Operation,
    Row,
    Step,
    Taken,
    together,
)
from idhub.credentials.pinned import BEGIN, COMMIT, ROLLBACK, WITHOUT_DISK, Lost, Pinned, Question, waiting_for_locks
from idhub.credentials.statements import LOCK_AT_ONCE, compile_statements
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
_COUNTERS: Final = "throttle."
_LASTING, _BEGUN, _TRIES = "", "begun", "tries"
_LANES: Final = {
    "transaction.insert": _BEGUN,
    HOLD: _TRIES,
    "throttle.give_back": _TRIES,
}
"""By what is asked first. Who shares a transaction with others waits for what they wait for, so that those who need
no disk go by themselves. This decides how long they wait, not what is safe: see `_Group.is_volatile`."""
_GROUPS: Final = {_LASTING: 4, _BEGUN: 1, _TRIES: 1}
"""Groups of a lane in flight at once: while one waits for the disk, the next ones ask. Together with the looks they are
as many as connections of the default pool. Tries change counters of each other: one at a time, so that none waits for
another of this process; those of others hold them in one order (`HOLD`)."""
_LOOKS: Final = 2
"""Groups that only read in flight at once: while the database works for one, the answers of the other are made."""
_LOG = structlog.get_logger(__name__)


class _CommitUnknown(Lost):
    """The connection broke while committing: whether it did is not known, so it must not be tried again."""


_LOCKED_OUT: Final = object()
"""Outcome of an operation that met a locked principal: it has written nothing, and comes again."""


class _Group:
    """One transaction of several operations: what can be written together at its end is kept until then."""

    def __init__(self, begin: Sequence[Question]) -> None:
        self.begin = begin
        """What begins it."""
        self.events: list[Event] = []
        self.deferred: list[Question] = []
        self.has_begun = False
        """The database was asked something; until then there is nothing to roll back."""
        self.locked: set[str] = set()
        """Principals that this transaction has locked, until its end."""
        self.to_hold: set[str] = set()
        """Keys of counters that are about to be changed."""
        self.afterwards: list[Step] = []
        """Of `AFTERWARDS`."""
        self.holds_counters = False
        """It has counted a try, and keeps others from those counters until its end."""
        self.writes_volatile = False
        self.writes_lasting = False

    @property
    def is_volatile(self) -> bool:
        """It has written, and nothing but what may be lost with a database that crashes."""
        return self.writes_volatile and not self.writes_lasting


class _Turn:
    """What one operation asks before it can go on."""

    def __init__(self, place: int, operation: Operation[Any], first: Step | None = None) -> None:
        self.place = place
        self.operation = operation
        self._first = first
        """What it has asked already."""
        self.rows: Any = None
        self.questions: list[Question] = []
        self.locking: list[str | None] = []
        """Of each question, the principal that it locks."""
        self._answers: list[int | None] = []
        """Of each step, its question; None: it needed none."""
        self._is_together = False

    def go_on(self, file: Callable[[Step], tuple[Question, str | None] | None]) -> None:
        """Run the operation until the database is asked.

        Args:
            file: of a step, what the database is asked; None: nothing, it has been seen to.

        Raises:
            StopIteration: the operation has ended; its value is the outcome.
        """
        while True:
            step, self._first = self._first or self.operation.send(self.rows), None
            self._is_together = step[0] == TOGETHER
            steps = step[1]["steps"] if self._is_together else (step,)
            self.questions, self.locking, self._answers = [], [], []
            for one in steps:
                asked = file(one)
                if asked is None:
                    self._answers.append(None)
                    continue
                self._answers.append(len(self.questions))
                self.questions.append(asked[0])
                self.locking.append(asked[1])
            if self.questions:
                return
            self.rows = [()] * len(steps) if self._is_together else ()

    def take(self, answers: Sequence[Sequence[Row]]) -> None:
        """Take the answers to the questions."""
        found = [() if place is None else answers[place] for place in self._answers]
        self.rows = found if self._is_together else found[0]


class PostgresStore(Grouping):
    """Connections are opened when first needed and replaced when lost."""

    def __init__(self, settings: Settings, database: Database, sealer: Sealer) -> None:
        super().__init__()
        self._url = libpq_address(
            settings.effective_database_direct_url if settings.database_direct_url else database.url
        )
        self._size = max(2, settings.database_pool_size // 2)
        self._sealer = sealer
        self._statements = compile_statements("postgresql")
        self._free: list[Pinned] = []
        self._slots = asyncio.Semaphore(self._size)
        self._alone = asyncio.Semaphore(self._size // _ALONE_AT_ONCE or 1)
        """Taken before a slot: a row that somebody holds is waited for by few."""
        self._running = dict.fromkeys(_GROUPS, 0)
        """By lane, groups in flight."""
        self._looking: list[Waiting] = []
        self._is_look_due = False
        self._looks = 0
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
        self._looking, self._is_look_due, self._looks = [], False, 0

    # ------------------------------------------------------------------ reading

    async def read(self, operation: Callable[[], Operation[T]]) -> T:
        """See `Store.read`: those who look within a few turns of the loop look together."""
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
            self._gather_looks(0, MOST_TURNS)

    def _gather_looks(self, known: int, turns: int) -> None:
        """Look once a turn of the loop has brought nobody new, as groups of writers begin."""
        waiting = len(self._looking)
        if turns and known < waiting < MOST_AT_ONCE:
            asyncio.get_running_loop().call_soon(self._gather_looks, waiting, turns - 1)
        else:
            self._look()

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
            broken = await self._together(group, lane=None)
        finally:
            self._looks -= 1
            self._look_soon()
        for one in broken:
            self._spawn(self._by_itself(one, lane=None))

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

    def commit(self, group: list[Waiting], lane: str) -> None:
        """Commit in a task."""
        self._running[lane] += 1
        self._spawn(self._commit(group, lane))

    async def _commit(self, group: list[Waiting], lane: str) -> None:
        try:
            broken = await self._together(group, lane=lane)
        finally:
            self._running[lane] -= 1
            self.wake(lane)
        for one in broken:
            self._spawn(self._by_itself(one, lane=lane))

    async def _together(self, group: list[Waiting], *, lane: str | None) -> list[Waiting]:
        """Run operations together and settle them; returns those that must begin anew, each by itself.

        Args:
            lane: None: they only read.
        """
        pinned: Pinned | None = None
        afterwards: Sequence[Step] = ()
        async with self._slots:
            try:
                pinned = await self._take()
                turns = [_Turn(place, *one.begin()) for place, one in enumerate(group)]
                if lane is None:
                    outcomes = await self._drive(pinned, turns, None)
                else:
                    outcomes, afterwards = await self._transact(pinned, turns)
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
            self._free.append(pinned)
        if afterwards:
            self._spawn(self._settle_afterwards(group, outcomes, afterwards, lane=lane))
        else:
            self._settle(group, outcomes, lane=lane)
        return []

    def _settle(self, group: Sequence[Waiting], outcomes: Sequence[Any], *, lane: str | None) -> None:
        for one, outcome in zip(group, outcomes, strict=True):
            if outcome is _LOCKED_OUT:
                self._spawn(self._come_again(one, lane or _LASTING))
            else:
                one.settle(outcome)

    async def _settle_afterwards(
        self, group: Sequence[Waiting], outcomes: Sequence[Any], afterwards: Sequence[Step], *, lane: str | None
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

    async def _by_itself(self, one: Waiting, *, lane: str | None) -> None:
        """Run one of a group that broke, and settle it."""
        try:
            outcome, afterwards = await self._attempt(one.operation, is_write=lane is not None)
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
                if attempts == _ATTEMPTS or isinstance(error, (*_NO_ANSWER, _CommitUnknown)):
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
                turns = [_Turn(0, operation())]
                if is_write:
                    begin = (BEGIN, waiting_for_locks(lock_wait))
                    outcomes, afterwards = await self._transact(pinned, turns, begin=begin)
                else:
                    outcomes = await self._drive(pinned, turns, None)
            except BaseException as error:
                if pinned is not None and isinstance(error, errors.LockNotAvailable):
                    await self._undo(pinned)
                else:
                    self._drop(pinned)
                raise
            self._free.append(pinned)
        return outcomes[0], afterwards

    async def _transact(
        self, pinned: Pinned, turns: Sequence[_Turn], *, begin: Sequence[Question] = (BEGIN,)
    ) -> tuple[list[Any], Sequence[Step]]:
        """Run operations in one transaction; their outcomes, and what is left to be done after it."""
        group = _Group(begin)
        outcomes = await self._drive(pinned, turns, group)
        afterwards: Sequence[Step] = group.afterwards
        if afterwards:
            afterwards = [(HOLD, {"keys": sorted(group.to_hold)}), *afterwards]
        if group.holds_counters or not group.writes_lasting:
            # Nobody waits less for having them later.
            group.deferred += [self._question(step) for step in group.afterwards]
            afterwards = ()
        last = sorted(group.deferred, key=_rank)
        last = self._holding(group, last) + last
        if group.events:
            for table, rows in event_rows(group.events, sealer=self._sealer).tables():
                last += [(f"audit:{table}", values) for values in rows]
        if group.has_begun:
            last += [WITHOUT_DISK, COMMIT] if group.is_volatile else [COMMIT]
        elif group.is_volatile:
            # What goes over in one exchange is one transaction.
            last.insert(0, WITHOUT_DISK)
        elif len(last) > 1:
            last = [*group.begin, *last, COMMIT]
        faults.at("commit.before")
        try:
            # One statement is a transaction of its own.
            if last:
                await pinned.ask(last)
        except (Lost, TimeoutError) as error:
            raise _CommitUnknown from error
        faults.at("commit.after")
        return outcomes, afterwards

    async def _drive(self, pinned: Pinned, turns: Sequence[_Turn], group: _Group | None) -> list[Any]:
        """Run operations in step to their ends; their outcomes, `_LOCKED_OUT` for one that met a locked principal."""
        outcomes: list[Any] = [_LOCKED_OUT] * len(turns)
        going = turns
        while going:
            asking: list[_Turn] = []
            for turn in going:
                try:
                    turn.go_on(lambda step: self._file(step, group))
                except StopIteration as stop:
                    outcomes[turn.place] = stop.value
                else:
                    asking.append(turn)
            if not asking:
                break
            answers = await self._ask(pinned, asking, group)
            going = []
            for turn, own in zip(asking, answers, strict=True):
                if self._is_locked_out(turn, own, group):
                    turn.operation.close()
                    continue
                turn.take(own)
                going.append(turn)
        return outcomes

    async def _ask(self, pinned: Pinned, asking: Sequence[_Turn], group: _Group | None) -> list[list[Sequence[Row]]]:
        """The answers to what each asks: first what each asks first, which is of one kind more often than not."""
        stages = range(max(len(turn.questions) for turn in asking))
        order = [(turn, stage) for stage in stages for turn in self._in_one_order(asking, stage)]
        questions = [turn.questions[stage] for turn, stage in order]
        before = [] if group is None or group.has_begun else [*group.begin]
        if group is not None:
            group.has_begun = True
            before += self._holding(group, questions)
        rows = (await pinned.ask([*before, *questions]))[len(before) :]
        found = {(turn.place, stage): one for (turn, stage), one in zip(order, rows, strict=True)}
        return [[found[turn.place, stage] for stage in range(len(turn.questions))] for turn in asking]

    def _in_one_order(self, asking: Sequence[_Turn], stage: int) -> Sequence[_Turn]:
        """Those of one kind beside each other, and what changes rows in the same order in every group.

        Two groups then wait for each other's rows in turn, not in a circle.
        """
        those = [turn for turn in asking if stage < len(turn.questions)]
        if len(those) > 1:
            those.sort(key=lambda turn: self._place_of(turn.questions[stage]))
        return those

    def _place_of(self, question: Question) -> tuple[str, str]:
        name, values = question
        # Who only reads waits for nobody, nor does LOCK_AT_ONCE.
        return name, "" if self._statements[name].sql.startswith("SELECT") else str(values)

    def _file(self, step: Step, group: _Group | None) -> tuple[Question, str | None] | None:
        """What the database is asked for a step, and the principal that it locks; None: it is kept for the end."""
        name, parameters = step
        if name == DURABLE:
            # Whatever lasts is committed as the database's own setting of synchronous_commit says, which is not
            # lowered for it.
            return None
        principal: str | None = None
        if group is not None and name == HOLD:
            group.to_hold.update(parameters["keys"])
            return None
        if group is not None:
            if name in VOLATILE:
                group.writes_volatile = True
                group.holds_counters = group.holds_counters or name not in DEFERRED
            elif name == RECORD or not self._statements[name].sql.startswith("SELECT"):
                group.writes_lasting = True
            if name in AFTERWARDS:
                group.afterwards.append(step)
                return None
            if name == RECORD:
                group.events += parameters["events"]
                return None
            if name in DEFERRED:
                group.deferred.append(self._question(step))
                return None
            if name == LOCK:
                principal = parameters["principal_id"]
                if principal in group.locked:
                    return None
                name = LOCK_AT_ONCE
        return self._question((name, parameters)), principal

    def _holding(self, group: _Group, questions: Sequence[Question]) -> list[Question]:
        """What is asked before counters are changed."""
        if not group.to_hold or not any(name in VOLATILE and name.startswith(_COUNTERS) for name, _ in questions):
            return []
        keys, group.to_hold = sorted(group.to_hold), set()
        return [self._question((HOLD, {"keys": keys}))]

    def _question(self, step: Step) -> Question:
        name, parameters = step
        return name, self._statements[name].bind(parameters)

    @staticmethod
    def _is_locked_out(turn: _Turn, answers: Sequence[Sequence[Row]], group: _Group | None) -> bool:
        """Whether a transition holds the principal."""
        if group is None:
            return False
        for principal, rows in zip(turn.locking, answers, strict=True):
            if principal is not None:
                if not rows:
                    return True
                group.locked.add(principal)
        return False

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


def _rank(question: Question) -> tuple[int, str]:
    """A row before those that refer to it, those of one kind beside each other, and what others change in one order."""
    name, values = question
    return DEFERRED[name], str(values) if name.startswith(_COUNTERS) else ""


def _unavailable(error: BaseException) -> Unavailable:
    unavailable = Unavailable("The database does not answer.", retry_after=timedelta(seconds=1))
    unavailable.__cause__ = error
    return unavailable
