"""How many people one commit of bulk work takes.

On SQLite one writer works at a time, and whoever signs in waits for the commit in hand: bulk work commits at least
every 50 ms (design section 5). PostgreSQL's writers do not wait for each other, so that fewer, larger commits are
cheaper there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import thread_time
from typing import Final, Literal

GoesOn = Callable[[int], bool]
"""Told of so many people that a long job has done, or finds due; False: another process goes on with the rest."""

_SECONDS: Final = {"sqlite": 0.03, "postgresql": 0.25}
_SHORT_SECONDS: Final = {"sqlite": 0.006, "postgresql": 0.25}
_FIRST, _SHORT_FIRST = 8, 2
_MOST: Final = 250


def nobody_else(_people: int) -> bool:
    """Nobody else is there to go on: a `GoesOn`."""
    return True


class Pace:
    """Learns from each commit how large the next may be: somebody with 300 accounts weighs more than one with three.

    Args:
        is_short: commits are kept shorter still, at some cost: of what goes on for minutes beside people who sign in.
    """

    def __init__(self, dialect: Literal["sqlite", "postgresql"], *, is_short: bool = False) -> None:
        self._seconds = (_SHORT_SECONDS if is_short else _SECONDS)[dialect]
        self.size = _SHORT_FIRST if is_short else _FIRST

    @contextmanager
    def work_on(self, people: int) -> Iterator[None]:
        """Learn what the work on so many people costs, in processor time: a busy machine makes no batch smaller."""
        began = thread_time()
        yield
        fitting = int(people * self._seconds / max(thread_time() - began, 1e-6))
        # Twice as many at most: the next ones may be heavier.
        self.size = max(1, min(fitting, 2 * self.size, _MOST))
