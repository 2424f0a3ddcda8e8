"""Shortens waiting: whoever makes work says so, and idle loops look sooner. Nothing depends on it being heard.

In one process by event; between machines by PostgreSQL's NOTIFY. Either arrives when the planning transaction has
committed. Of what somebody waits for, the process in which it was asked is told each delivery: it need not look.
"""

import asyncio
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Literal, NamedTuple

from sqlalchemy import func, literal, select
from sqlalchemy.orm import Session

from idhub.db import after_commit
from idhub.kept import Kept
from idhub.turns import is_bulk

NOTIFY_CHANNEL = "idhub_delivery"
_NOTIFY = Kept(select(func.pg_notify(NOTIFY_CHANNEL, literal(""))))

Work = Literal["deliveries", "receipts"]
_MOST_ASKED = 1_000
"""More at once is bulk, whoever asked for it."""


class Asked(NamedTuple):
    """A delivery that was planned just now, and that somebody waits for."""

    id: str
    application_id: str
    channel: str


_lock = threading.Lock()
_wakers: "weakref.WeakSet[Waker]" = weakref.WeakSet()


class Waker:
    """What an idle loop waits on. Made in the event loop that waits; poked from any thread."""

    def __init__(self, work: Work = "deliveries") -> None:
        self.work = work
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._was_poked = False
        self._asked: list[Asked] = []
        with _lock:
            _wakers.add(self)

    def poke(self) -> None:
        """End the present wait, or the next one: there will be work soon."""
        # The loop may have been closed meanwhile: nobody waits any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._hear)

    def tell(self, asked: Sequence[Asked] = ()) -> bool:
        """End the present wait, or the next one: there is work now, and somebody waits for this part of it.

        False: its loop was closed, and nobody heard.
        """
        try:
            self._loop.call_soon_threadsafe(self.nudge, asked)
        except RuntimeError:
            return False
        return True

    def nudge(self, asked: Sequence[Asked] = ()) -> None:
        """End the present wait, or the next one, without having it said that somebody poked. In the loop that waits."""
        self._asked += asked
        self._event.set()

    @property
    def has_asked(self) -> bool:
        """Whether somebody waits for more than was taken. In the loop that waits."""
        return bool(self._asked)

    def take_asked(self, most: int) -> list[Asked]:
        """The first of what somebody waits for; the caller's from now on. In the loop that waits."""
        taken, self._asked = self._asked[:most], self._asked[most:]
        return taken

    async def wait(self, seconds: float) -> bool:
        """Wait to be poked or nudged, at most `seconds`. Returns whether it was poked."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()
        was_poked, self._was_poked = self._was_poked, False
        return was_poked

    def _hear(self) -> None:
        self._was_poked = True
        self._event.set()


def wake(work: Work = "deliveries", asked: Sequence[Asked] = ()) -> None:
    """Let idle loops of this process look for such work, which is there by now."""
    with _lock:
        wakers = [waker for waker in _wakers if waker.work == work]
    # Of several one is enough for what is asked.
    untold = asked
    for waker in wakers:
        if waker.tell(untold):
            untold = ()


def announce(session: Session, asked: Sequence[Asked] = ()) -> None:
    """Say, in a transaction that has planned something, that there will be work once it commits.

    Args:
        asked: what was planned. Somebody waits for it, unless it is bulk work.
    """
    if session.get_bind().dialect.name == "postgresql":
        _NOTIFY.run(session)
    waited_for = () if is_bulk() or len(asked) > _MOST_ASKED else tuple(asked)
    after_commit(session, partial(wake, "deliveries", waited_for))


def announce_receipts(session: Session) -> None:
    """Say that receipts will be due once the transaction commits."""
    after_commit(session, partial(wake, "receipts"))
