"""What both drivers of the store share: operations that wait for the next group, and whoever holds something back."""

import asyncio
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from idhub.credentials.operations import Operation, Step

T = TypeVar("T")
MOST_AT_ONCE: Final = 64
"""Operations in one transaction: bounds how long a group holds its locks, and on SQLite the event loop."""
_MOST_TURNS: Final = 4
"""Turns of the loop for which a group waits for others at most."""


@dataclass(slots=True)
class Waiting:
    """An operation that waits for its group, and who waits for it."""

    operation: Callable[[], Operation[Any]]
    future: "asyncio.Future[Any]"
    locked_out_at: float | None = None
    """Time of the loop when it first met a lock that it does not wait for."""
    _begun: tuple[Operation[Any], Step] | None = None

    def look_ahead(self) -> Step | None:
        """What it asks first; None: nothing, or it fails before, which shows when it runs."""
        operation = self.operation()
        try:
            first = operation.send(None)
        except Exception:
            return None
        self._begun = operation, first
        return first

    def begin(self) -> tuple[Operation[Any], Step | None]:
        """The operation, and what it has asked already when it was looked at; begun anew each time but the first."""
        begun, self._begun = self._begun, None
        return begun or (self.operation(), None)

    def settle(self, result: Any) -> None:
        """Give the result to whoever still waits."""
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Tell whoever still waits why there is no result."""
        if not self.future.done():
            self.future.set_exception(error)


class Grouping(ABC):
    """Collects operations of a few turns of the loop, in lanes; a driver says when a group may begin and runs it."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], Awaitable[None]]] = []
        self._pending: defaultdict[str, list[Waiting]] = defaultdict(list)
        self._due: set[str] = set()
        """Lanes of which a group begins soon."""
        self._loop: asyncio.AbstractEventLoop | None = None

    def on_flush(self, callback: Callable[[], Awaitable[None]]) -> None:
        """See `Store.on_flush`."""
        self._callbacks.append(callback)

    async def flush(self) -> None:
        """See `Store.flush`."""
        for callback in self._callbacks:
            await callback()

    async def write(self, operation: Callable[[], Operation[T]]) -> T:
        """See `Store.write`."""
        return await self.in_group(operation)

    def in_group(self, operation: Callable[[], Operation[T]], lane: str | None = None) -> "asyncio.Future[T]":
        """Run an operation with the next group of its lane; None: what it asks first says which (`lane_of`)."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.adopt(loop)
        future: asyncio.Future[T] = loop.create_future()
        waiting = Waiting(operation, future)
        if lane is None:
            lane = self.lane_of(waiting)
        self._pending[lane].append(waiting)
        self.wake(lane)
        return future

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to this loop from now on; what waited on another one has nobody who waits for it."""
        self._loop = loop
        self._pending.clear()
        self._due.clear()

    def wake(self, lane: str = "") -> None:
        """Begin a group soon, when one may begin."""
        if self._pending[lane] and lane not in self._due and self.may_begin(lane):
            self._due.add(lane)
            self._gather(lane, 0, _MOST_TURNS)

    def _gather(self, lane: str, known: int, turns: int) -> None:
        """Begin the group once a turn of the loop has brought nobody new to it, or after some turns at the latest.

        A turn takes in what has arrived meanwhile: on a busy loop that is others who are about to ask, and what an
        exchange or a commit costs is shared by more of them. Whoever is alone waits for a turn in which nothing
        happens.
        """
        waiting = len(self._pending[lane])
        if turns and known < waiting < MOST_AT_ONCE:
            assert self._loop is not None  # noqa: S101 - `in_group` has adopted it
            self._loop.call_soon(self._gather, lane, waiting, turns - 1)
        else:
            self._begin(lane)

    def _begin(self, lane: str) -> None:
        self._due.discard(lane)
        pending = self._pending[lane]
        group, self._pending[lane] = pending[:MOST_AT_ONCE], pending[MOST_AT_ONCE:]
        # Whoever went away meanwhile wants nothing done.
        group = [one for one in group if not one.future.cancelled()]
        if group:
            self.run_group(group, lane)
        self.wake(lane)

    def lane_of(self, waiting: Waiting) -> str:
        """With which others this one may share a group: with those of its lane."""
        return ""

    @abstractmethod
    def may_begin(self, lane: str) -> bool:
        """Whether another group of this lane may begin now."""

    @abstractmethod
    def run_group(self, group: list[Waiting], lane: str) -> None:
        """Run a group and settle its members, now or later."""
