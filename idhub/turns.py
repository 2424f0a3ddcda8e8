"""Whose turn it is to write, of the threads of one process. For SQLite, where one writes at a time.

SQLite queues nobody: whoever finds the lock taken looks again now and then, and bulk work that commits and begins anew
at once is never caught between two commits. Here writers of a process queue, those whom somebody waits for before bulk
work. Other processes still meet at SQLite's own lock, which stays the truth.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_is_bulk: ContextVar[bool] = ContextVar("is_bulk", default=False)


@contextmanager
def bulk_work() -> Iterator[None]:
    """What the block writes waits behind everything that somebody waits for."""
    token = _is_bulk.set(True)
    try:
        yield
    finally:
        _is_bulk.reset(token)


def is_bulk() -> bool:
    """Whether this is within `bulk_work`."""
    return _is_bulk.get()


class Turns:
    """The queue. Waiting is bounded by `patience` seconds: then SQLite's lock alone decides, as between processes."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._guard = threading.Lock()
        self._is_taken = False
        self._urgent: deque[threading.Event] = deque()
        self._bulk: deque[threading.Event] = deque()

    @contextmanager
    def mine(self, patience: float | None = None) -> Iterator[None]:
        """Wait for one's turn, at most `patience` seconds where they are named; it is over when the block ends."""
        has_turn = self._take(self._patience if patience is None else patience)
        try:
            yield
        finally:
            if has_turn:
                self._pass_on()

    def are_awaited(self) -> bool:
        """Whether somebody waits for a turn whom bulk work lets go first."""
        with self._guard:
            return bool(self._urgent)

    def _take(self, patience: float) -> bool:
        with self._guard:
            if not self._is_taken:
                self._is_taken = True
                return True
            queue = self._bulk if _is_bulk.get() else self._urgent
            called = threading.Event()
            queue.append(called)
        if called.wait(patience):
            return True
        with self._guard:
            if called.is_set():
                return True
            queue.remove(called)
            return False

    def _pass_on(self) -> None:
        with self._guard:
            queue = self._urgent or self._bulk
            if queue:
                queue.popleft().set()
            else:
                self._is_taken = False
