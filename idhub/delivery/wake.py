"""Shortens waiting: whoever plans a delivery says so, and idle loops look sooner. Nothing depends on it being heard.

In one process by event; between machines by PostgreSQL's NOTIFY, which arrives when the planning transaction commits.
"""

import asyncio
import threading
import weakref
from contextlib import suppress

from sqlalchemy import text
from sqlalchemy.orm import Session

NOTIFY_CHANNEL = "idhub_delivery"

_lock = threading.Lock()
_wakers: "weakref.WeakSet[Waker]" = weakref.WeakSet()


class Waker:
    """What an idle loop waits on. Made in the event loop that waits; poked from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        with _lock:
            _wakers.add(self)

    def poke(self) -> None:
        """End the present wait, or the next one."""
        # The loop may have been closed meanwhile: nobody waits any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> bool:
        """Wait to be poked, at most `seconds`. Returns whether it was."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


def wake() -> None:
    """Let every idle loop of this process look for work. They look several times, so it may be called before commit."""
    with _lock:
        wakers = list(_wakers)
    for waker in wakers:
        waker.poke()


def announce(session: Session) -> None:
    """Say, in a transaction that has planned something, that there will be work once it commits."""
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": NOTIFY_CHANNEL})
    wake()
