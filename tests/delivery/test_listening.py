"""`idhub.delivery.listening`: what other processes plan is heard, also after the connection was lost."""

import asyncio
import time

import pytest

from idhub.db import Database
from idhub.delivery.listening import listen
from idhub.delivery.wake import NOTIFY_CHANNEL, Waker
from idhub.settings import Settings

_LONG = 20.0


def _run(database: Database, statement: str) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql(statement)


def _notify(database: Database) -> None:
    """As another process does it: nothing in this one is told."""
    _run(database, f"NOTIFY {NOTIFY_CHANNEL}")


async def _is_woken(waker: Waker, *, within: float = _LONG) -> bool:
    began = time.monotonic()
    await waker.wait(within)
    return time.monotonic() - began < within


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_what_another_process_plans_wakes_this_one_also_after_a_lost_connection(
    database: Database, settings: Settings
) -> None:
    async def story() -> None:
        waker = Waker()
        listening = asyncio.create_task(listen(settings, waker))
        try:
            assert await _is_woken(waker), "it listens, and what came before must be looked for"
            assert not await _is_woken(waker, within=0.2), "nobody has planned anything"
            for _ in range(3):
                await asyncio.to_thread(_notify, database)
                assert await _is_woken(waker)
            await asyncio.to_thread(
                _run, database,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'idhub-listen' AND datname = current_database()",
            )  # fmt: skip
            assert await _is_woken(waker), "what was planned meanwhile must be looked for"
            assert not await _is_woken(waker, within=0.2)
            await asyncio.to_thread(_notify, database)
            assert await _is_woken(waker)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    asyncio.run(story())
