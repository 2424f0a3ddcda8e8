"""Listens for planned deliveries on PostgreSQL. Only shortens waiting: without it the loop polls."""

import asyncio

import structlog

from idhub.delivery.wake import NOTIFY_CHANNEL, Waker, wake
from idhub.settings import Settings

_RECONNECT_SECONDS = 5.0
_CHECK_SECONDS = 30.0
_CONNECT_SECONDS = 5.0

_log = structlog.get_logger("idhub.delivery")


async def listen(settings: Settings, waker: Waker) -> None:
    """Wake this process whenever any plans a delivery; reconnects for ever, which pokes `waker`. Cancel to stop.

    Uses the direct address: LISTEN does not survive a pooler.
    """
    # Imported late: SQLite needs nothing of PostgreSQL's driver.
    import asyncpg

    address = settings.database_direct_url or settings.effective_database_url
    address = "postgresql://" + address.partition("://")[2]
    is_down = False
    while True:
        try:
            connection = await asyncpg.connect(address, timeout=_CONNECT_SECONDS)
            try:
                await connection.add_listener(NOTIFY_CHANNEL, lambda *_: wake())
                is_down = False
                waker.poke()
                while True:
                    # A connection that died silently is found this way.
                    await asyncio.sleep(_CHECK_SECONDS)
                    await connection.execute("SELECT 1", timeout=_CONNECT_SECONDS)
            finally:
                connection.terminate()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if not is_down:
                _log.warning("delivery.listen_failed", error=type(error).__name__)
            is_down = True
        await asyncio.sleep(_RECONNECT_SECONDS)
