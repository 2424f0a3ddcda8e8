"""What both drivers of the store share: writes that wait for the next group, and whoever holds something back."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from idhub.credentials.operations import Operation

T = TypeVar("T")
MOST_AT_ONCE: Final = 64
"""Operations in one transaction: bounds how long a group holds its locks, and on SQLite the event loop."""


@dataclass(slots=True)
class Waiting:
    """An operation that waits for its commit, and who waits for it."""

    operation: Callable[[], Operation[Any]]
    future: "asyncio.Future[Any]"

    def settle(self, result: Any) -> None:
        """Give the result to whoever still waits."""
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Tell whoever still waits why there is no result."""
        if not self.future.done():
            self.future.set_exception(error)

    def follow(self, task: "asyncio.Future[Any]") -> None:
        """Give on what came of a task, whatever that is."""
        if task.cancelled():
            self.future.cancel()
        elif (error := task.exception()) is not None:
            self.fail(error)
        else:
            self.settle(task.result())


class Grouping(ABC):
    """Collects writes of one turn of the loop; a driver says when a group may begin and commits it."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], Awaitable[None]]] = []
        self._pending: list[Waiting] = []
        self._is_due = False
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
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.adopt(loop)
        future: asyncio.Future[T] = loop.create_future()
        self._pending.append(Waiting(operation, future))
        self.wake()
        return await future

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to this loop from now on; what waited on another one has nobody who waits for it."""
        self._loop = loop
        self._pending = []
        self._is_due = False

    def wake(self) -> None:
        """Begin a group at the end of this turn of the loop, when one may begin."""
        if self._pending and not self._is_due and self.may_begin():
            self._is_due = True
            assert self._loop is not None  # noqa: S101 - `write` has adopted it
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._is_due = False
        group, self._pending = self._pending[:MOST_AT_ONCE], self._pending[MOST_AT_ONCE:]
        # Whoever went away meanwhile wants nothing done.
        group = [one for one in group if not one.future.cancelled()]
        if group:
            self.commit(group)
        self.wake()

    @abstractmethod
    def may_begin(self) -> bool:
        """Whether another group may begin now."""

    @abstractmethod
    def commit(self, group: list[Waiting]) -> None:
        """Run a group and settle its members, now or later."""
