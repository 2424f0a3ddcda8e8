"""Listens for planned deliveries on PostgreSQL. Only shortens waiting: without it the loop polls."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from idhub.db import libpq_address
from idhub.delivery.wake import NOTIFY_CHANNEL, Waker, wake
from idhub.settings import Settings

if TYPE_CHECKING:
    import psycopg

_RECONNECT_SECONDS = 5.0
_CHECK_SECONDS = 30.0
_ANSWER_SECONDS = 5

_log = structlog.get_logger("idhub.delivery")


async def listen(settings: Settings, waker: Waker) -> None:
    """Wake this process whenever any plans a delivery; reconnects for ever, which pokes `waker`. Cancel to stop.

    Uses the direct address: LISTEN does not survive a pooler.
    """
    # Imported late: SQLite needs nothing of PostgreSQL's driver.
    import psycopg

    address = libpq_address(settings.effective_database_direct_url)
    is_down = False
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(
                address, autocommit=True, application_name="idhub-listen"
            )
            try:
                await _ask(connection, f"LISTEN {NOTIFY_CHANNEL}")
                is_down = False
                waker.poke()
                while True:
                    if not await _is_readable(connection.fileno(), _CHECK_SECONDS):
                        # A connection that died silently is found this way.
                        await _ask(connection, "SELECT 1")
                    # What came together with that answer is here, too, and makes nothing readable any more.
                    async for _ in connection.notifies(timeout=0):
                        wake()
            finally:
                await connection.close()
        except (OSError, TimeoutError, psycopg.Error) as error:
            if not is_down:
                _log.warning("delivery.listen_failed", error=type(error).__name__)
            is_down = True
        await asyncio.sleep(_RECONNECT_SECONDS)


async def _ask(connection: "psycopg.AsyncConnection[Any]", statement: str) -> None:
    async with asyncio.timeout(_ANSWER_SECONDS):
        await connection.execute(statement.encode())


async def _is_readable(descriptor: int, seconds: float) -> bool:
    """Wait until there is something to read, at most `seconds`. psycopg's own wait looks ten times a second."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await readable.wait()
    finally:
        loop.remove_reader(descriptor)
    return readable.is_set()
