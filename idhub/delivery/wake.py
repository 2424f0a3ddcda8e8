"""Shortens waiting: whoever makes work says so, and idle loops look sooner. Nothing depends on it being heard.

In one process by event; between machines by PostgreSQL's NOTIFY, which arrives when the planning transaction commits.
"""

import asyncio
import threading
import weakref
from contextlib import suppress
from typing import Literal

from sqlalchemy import text
from sqlalchemy.orm import Session

NOTIFY_CHANNEL = "idhub_delivery"

Work = Literal["deliveries", "receipts"]

_lock = threading.Lock()
_wakers: "weakref.WeakSet[Waker]" = weakref.WeakSet()


class Waker:
    """What an idle loop waits on. Made in the event loop that waits; poked from any thread."""

    def __init__(self, work: Work = "deliveries") -> None:
        self.work = work
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._was_poked = False
        with _lock:
            _wakers.add(self)

    def poke(self) -> None:
        """End the present wait, or the next one: there will be work once somebody has committed."""
        # The loop may have been closed meanwhile: nobody waits any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._hear)

    def nudge(self) -> None:
        """End the present wait, or the next one, without having it said that somebody poked. In the loop that waits."""
        self._event.set()

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


def wake(work: Work = "deliveries") -> None:
    """Let idle loops of this process look for such work. They look several times, so it may be called before commit."""
    with _lock:
        wakers = [waker for waker in _wakers if waker.work == work]
    for waker in wakers:
        waker.poke()


def announce(session: Session) -> None:
    """Say, in a transaction that has planned something, that there will be work once it commits."""
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": NOTIFY_CHANNEL})
    wake()
