"""The delivery loop: leases, sends concurrently, settles in batches.

Sending is asynchronous, the database is used from a few threads in short transactions. A send that has not answered
after a second no longer counts against the worker's slots, only against its application's bulkhead: silent applications
do not slow others.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, ParamSpec, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError

from idhub.db import Database
from idhub.delivery.channel import Channel, LeasedDelivery, Outcome
from idhub.delivery.leasing import ENOUGH, lease, lease_asked
from idhub.delivery.listening import listen
from idhub.delivery.settling import call_back, expire_leases, settle_all
from idhub.delivery.wake import Asked, Waker
from idhub.errors import IdhubError
from idhub.settings import Settings
from idhub.turns import bulk_work

P = ParamSpec("P")
T = TypeVar("T")

_SHORTEST_WAIT = 0.005
_LONGEST_WAIT_FULL = 0.02
_LONGEST_WAIT_WORKING = 0.2
_LONGEST_WAIT_IDLE = 1.0
_SLOW_AFTER = 1.0
# All sends together, slow ones included, never exceed this many times `delivery_workers`.
_SLOW_FACTOR = 4
# Leased in one commit, some 40 ms of work: the accounts of a person who leaves go out together. Where there is more to
# do than that, each commit is shorter, after which others may write to a SQLite database.
_MOST_LEASED = 320
_MOST_LEASED_BESIDE = 100
_MOST_SETTLED = 100
# While somebody stands in line for that.
_MOST_LEASED_SHARED = 60
_MOST_SETTLED_SHARED = 40
_FEWEST_AT_ONCE = 32
_EXPIRE_EVERY = 1.0
_STEP = 2.0
"""Seconds by which a clock that is only corrected slowly never goes back at once."""
_AFTER_FAILURE = 1.0
_DATABASE_THREADS = 2

_log = structlog.get_logger("idhub.delivery")


class DeliveryLoop:
    """Sends what is due until told to stop. One a process; several processes share the work by leases.

    Args:
        channels: by name; a delivery of an unknown channel waits for a worker that knows it.
        worker: names this process in leases.
        goes_on: told how many deliveries were taken, and asked before each look (with 0); False: nothing more for now.
        takes_asked: asked whether to take so many that somebody waits for, though it is not to go on.
        due_for: what has not been due for so long is left to the process that was asked for it.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        channels: Mapping[str, Channel],
        *,
        clock: Callable[[], datetime],
        worker: str,
        goes_on: Callable[[int], bool] = lambda _: True,
        takes_asked: Callable[[int], bool] = lambda _: True,
        due_for: timedelta = timedelta(0),
    ) -> None:
        self._goes_on = goes_on
        self._takes_asked = takes_asked
        self._due_for = due_for
        self._database = database
        self._settings = settings
        self._channels = channels
        self._clock = clock
        self._worker = worker
        self._threads = ThreadPoolExecutor(_DATABASE_THREADS, "delivery-db")
        self._sending: dict[asyncio.Task[None], float] = {}
        self._answers: list[tuple[LeasedDelivery, Outcome]] = []
        self._answered = asyncio.Event()
        self._settling = asyncio.Lock()
        self._fewest = max(1, min(_FEWEST_AT_ONCE, settings.delivery_workers // 8))
        self._wait = _SHORTEST_WAIT
        self._returned = 0
        """Answers that were recorded since the last look."""
        self._soon: asyncio.TimerHandle | None = None
        """The look for what waited behind them, while more of what is under way is waited for."""
        self._expired_at = float("-inf")
        self._ahead: float | None = None
        """Seconds by which the clock is ahead of one that never jumps."""
        self._waker: Waker | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish what was leased, within the deadline of an attempt, and return."""
        waker = self._waker = Waker()
        helpers = [asyncio.create_task(self._settle_forever()), asyncio.create_task(_poke_on(stop, waker))]
        if self._database.dialect == "postgresql":
            helpers.append(asyncio.create_task(listen(self._settings, waker)))
        try:
            while not stop.is_set():
                if await self._look():
                    continue
                if await waker.wait(self._wait):
                    # Something is due soon: look several times, ever less often.
                    self._wait = _SHORTEST_WAIT
                else:
                    # A command beside us on the same SQLite file cannot wake us; PostgreSQL can.
                    told = self._database.dialect == "postgresql" and not self._sending
                    longest = _LONGEST_WAIT_IDLE if told else _LONGEST_WAIT_WORKING
                    self._wait = min(self._wait * 2, longest)
            await self._finish()
        finally:
            for task in [*helpers, *self._sending]:
                task.cancel()
            await asyncio.gather(*helpers, *self._sending, return_exceptions=True)
            self._threads.shutdown(wait=False)

    async def _look(self) -> bool:
        """One round: give back expired leases, take new ones, start sending. Returns whether there may be more."""
        loop = asyncio.get_running_loop()
        free = self._free_slots(loop.time())
        try:
            if loop.time() - self._expired_at >= _EXPIRE_EVERY:
                self._expired_at = loop.time()
                if self._has_gone_back(loop.time()):
                    called = await self._in_thread(call_back, self._database, now=self._clock())
                    if called:
                        _log.warning("delivery.clock_went_back", called_back=called)
                lost = await self._in_thread(expire_leases, self._database, now=self._clock(), settings=self._settings)
                if lost:
                    _log.warning("delivery.leases_expired", count=lost)
            goes_on = self._goes_on(0)
            asked = self._take_asked(free, goes_on=goes_on)
            if not asked and not goes_on:
                self._wait = _LONGEST_WAIT_WORKING
                return False
            if not asked and free < self._fewest:
                # Many are in flight, and a round costs the same for one as for many: wait for more to end.
                self._wait = min(self._wait, _LONGEST_WAIT_FULL)
                return False
            # Taken before the lease, so that the deadline kept here is never later than the one stored.
            began, self._returned = loop.time(), 0
            if self._soon is not None:
                self._soon.cancel()
                self._soon = None
            limit = min(free, self._most_leased())
            leased = await self._lease(asked, limit)
        except Exception:
            # The loop must outlive its database: it comes back, leases do not get lost.
            _log.exception("delivery.lease_failed")
            await asyncio.sleep(_AFTER_FAILURE)
            return False
        deadline = began + self._settings.delivery_timeout.total_seconds()
        for one in leased:
            task = asyncio.create_task(self._send(one, deadline))
            self._sending[task] = loop.time()
            task.add_done_callback(lambda done: self._sending.pop(done, None))
        self._goes_on(len(leased))
        if asked:
            # What somebody waits for goes out before the rest is looked for.
            self._wait = min(self._wait, _LONGEST_WAIT_FULL)
            return self._waker is not None and self._waker.has_asked
        # Fewer than there was room for: the rest waits for room in its applications, and another look finds nothing.
        return len(leased) >= limit * ENOUGH

    def _has_gone_back(self, steady: float) -> bool:
        """Whether the clock went back since somebody looked; it may have before this process began."""
        before, self._ahead = self._ahead, self._clock().timestamp() - steady
        return before is None or before - self._ahead > _STEP

    def _most_leased(self) -> int:
        if not self._sending:
            return _MOST_LEASED
        return _MOST_LEASED_SHARED if self._database.is_shared() else _MOST_LEASED_BESIDE

    def _take_asked(self, free: int, *, goes_on: bool) -> list[Asked]:
        """What somebody waits for and this process is to send; the rest is left to whoever looks."""
        if self._waker is None or free <= 0:
            return []
        asked = self._waker.take_asked(min(free, _MOST_LEASED))
        return asked if asked and (goes_on or self._takes_asked(len(asked))) else []

    async def _lease(self, asked: Sequence[Asked], limit: int) -> list[LeasedDelivery]:
        terms: dict[str, Any] = {"worker": self._worker, "now": self._clock(), "settings": self._settings}
        if asked:
            return await self._in_thread(lease_asked, self._database, asked, **terms)
        return await self._in_thread(lease, self._database, limit=limit, due_for=self._due_for, **terms)

    def _free_slots(self, now: float) -> int:
        slow = sum(1 for started in self._sending.values() if now - started > _SLOW_AFTER)
        slots = self._settings.delivery_workers
        return min(slots - (len(self._sending) - slow), _SLOW_FACTOR * slots - len(self._sending))

    async def _send(self, leased: LeasedDelivery, deadline: float) -> None:
        outcome = await self._attempt(leased, deadline)
        self._answers.append((leased, outcome))
        self._answered.set()

    async def _attempt(self, leased: LeasedDelivery, deadline: float) -> Outcome:
        channel = self._channels.get(leased.channel)
        if channel is None:
            return Outcome(kind="retry", error=f"This worker knows no channel {leased.channel!r}.")
        if asyncio.get_running_loop().time() >= deadline:
            return Outcome(kind="retry", error="Nothing was sent: the worker was held up past the deadline.")
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                return await channel.send(leased, now=self._clock())
        except TimeoutError:
            if not limit.expired():
                return Outcome(kind="retry", error="The channel ran out of time.")
            seconds = self._settings.delivery_timeout.total_seconds()
            return Outcome(kind="retry", error=f"No answer within {seconds:g} s.")
        except IdhubError as error:
            return Outcome(kind="retry", error=error.description)
        except Exception as error:
            # One broken answer or channel must not stop the loop; the delivery shows it, and the log the rest.
            _log.exception("delivery.send_failed", delivery_id=leased.id, channel=leased.channel)
            return Outcome(kind="retry", error=f"The channel failed ({type(error).__name__}).")

    async def _settle_forever(self) -> None:
        while True:
            await self._answered.wait()
            self._answered.clear()
            await self._settle_answers()

    async def _settle_answers(self) -> None:
        """Record every answer there is, in one transaction. Answers that cannot be recorded are tried again."""
        async with self._settling:
            await self._settle_batch()

    async def _settle_batch(self) -> None:
        most = _MOST_SETTLED_SHARED if self._database.is_shared() else _MOST_SETTLED
        answers, self._answers = self._answers[:most], self._answers[most:]
        if not answers:
            return
        if self._answers:
            self._answered.set()
        try:
            kept = await self._record(answers)
        except DBAPIError:
            # The database is away or was busy too long: nothing was recorded, all of it is tried again.
            _log.exception("delivery.settle_failed", count=len(answers))
            self._answers = answers + self._answers
            await asyncio.sleep(_AFTER_FAILURE)
            self._answered.set()
            return
        except Exception:
            _log.exception("delivery.settle_failed", count=len(answers))
            kept = await self._record_apart(answers)
        for leased, _ in answers:
            if leased.id not in kept:
                _log.warning("delivery.lease_lost", delivery_id=leased.id, attempt=leased.attempt)
        self._returned += len(answers)
        if self._waker is None:
            return
        if not all(outcome.kind == "done" for _, outcome in answers):
            # A retry is due some time later.
            self._waker.poke()
        elif self._returned >= len(self._sending):
            # What waited behind them, in their lanes or for room, may be due now: one look tells.
            self._waker.nudge()
        elif self._soon is None:
            # A look costs the same for one as for many: more of what is under way will have come back in a moment.
            self._soon = asyncio.get_running_loop().call_later(_LONGEST_WAIT_FULL, self._waker.nudge)

    async def _record(self, answers: list[tuple[LeasedDelivery, Outcome]]) -> set[str]:
        return await self._in_thread(settle_all, self._database, answers, now=self._clock(), settings=self._settings)

    async def _record_apart(self, answers: list[tuple[LeasedDelivery, Outcome]]) -> set[str]:
        """Record one by one, so that an answer that cannot be stored holds up no other; that one is tried again."""
        kept: set[str] = set()
        for leased, outcome in answers:
            for one in (outcome, Outcome(kind="retry", error="What the channel answered cannot be stored.")):
                try:
                    kept |= await self._record([(leased, one)])
                except Exception:
                    _log.exception("delivery.settle_failed", delivery_id=leased.id)
                else:
                    break
        return kept

    async def _finish(self) -> None:
        if self._sending:
            await asyncio.wait(self._sending, timeout=self._settings.delivery_timeout.total_seconds())
        # Waits for a batch that is being recorded; what fails now is found by its lease's end.
        for _ in range(1 + len(self._answers) // _MOST_SETTLED_SHARED):
            await self._settle_answers()

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def worked() -> T:
            with bulk_work():
                return function(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._threads, worked)


async def _poke_on(stop: asyncio.Event, waker: Waker) -> None:
    await stop.wait()
    waker.poke()
