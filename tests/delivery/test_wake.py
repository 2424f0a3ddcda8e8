"""`idhub.delivery.wake`: who is woken by what, and what a wait says of it."""

import asyncio
from contextlib import suppress

import pytest

from idhub.db import Database
from idhub.delivery.wake import Asked, Waker, announce, announce_receipts, wake
from idhub.turns import bulk_work

_LONG = 600.0
_ONE = Asked("dlv_1", "app_a", "scim")


async def _told(waker: Waker) -> None:
    """Wait until it is told; it would be long."""
    async with asyncio.timeout(_LONG / 10):
        await waker.wait(_LONG)


async def _is_idle(waker: Waker) -> bool:
    """Whether nobody told it anything."""
    waiting = asyncio.create_task(waker.wait(_LONG))
    for _ in range(3):
        await asyncio.sleep(0)
    is_idle = not waiting.done()
    waiting.cancel()
    return is_idle


async def _heard(waker: Waker) -> bool:
    # Whether it is poked or not, nothing here waits for the time to pass.
    async with asyncio.timeout(_LONG / 10):
        return await waker.wait(_LONG)


def test_work_wakes_those_who_do_it_and_nobody_else() -> None:
    async def main() -> None:
        sender, signer = Waker(), Waker("receipts")
        wake("receipts")
        await _told(signer)
        assert await _is_idle(sender)
        wake()
        await _told(sender)
        assert await _is_idle(signer)

    asyncio.run(main())


def test_a_nudge_ends_the_wait_and_swallows_no_poke() -> None:
    """Whoever pokes speaks of what is due soon: the loop looks several times then, and after a nudge once."""

    async def main() -> None:
        waker = Waker()
        waker.nudge()
        assert not await _heard(waker)
        waker.poke()
        waker.nudge()
        await asyncio.sleep(0)
        assert await _heard(waker)
        waiting = asyncio.create_task(_heard(waker))
        await asyncio.sleep(0)
        waker.nudge()
        assert not await waiting

    asyncio.run(main())


def test_work_is_told_when_it_is_committed_and_not_before(database: Database) -> None:
    """Who looked before would find nothing, and look again who knows when."""

    async def main() -> None:
        sender, signer = Waker(), Waker("receipts")
        with database.transaction() as session:
            announce(session, [_ONE])
            announce_receipts(session)
            assert await _is_idle(sender)
            assert await _is_idle(signer)
        await _told(sender)
        await _told(signer)
        assert sender.take_asked(9) == [_ONE]
        assert sender.take_asked(9) == []

    asyncio.run(main())


def test_what_rolls_back_is_told_to_nobody(database: Database) -> None:
    async def main() -> None:
        sender = Waker()
        with suppress(ZeroDivisionError), database.transaction() as session:
            announce(session, [_ONE])
            raise ZeroDivisionError
        assert await _is_idle(sender)
        assert sender.take_asked(9) == []

    asyncio.run(main())


@pytest.mark.parametrize("count", [1, 1_000, 1_001])
@pytest.mark.parametrize("is_bulk", [True, False])
def test_nobody_waits_for_bulk_work(database: Database, count: int, is_bulk: bool) -> None:
    async def main() -> None:
        sender = Waker()

        def plan() -> None:
            with database.transaction() as session:
                announce(session, [_ONE] * count)

        if is_bulk:
            with bulk_work():
                plan()
        else:
            plan()
        await _told(sender)
        waited_for = 0 if is_bulk or count > 1_000 else count
        assert len(sender.take_asked(2_000)) == waited_for

    asyncio.run(main())


def test_what_is_asked_is_asked_of_one_loop(database: Database) -> None:
    async def main() -> None:
        one, other = Waker(), Waker()
        with database.transaction() as session:
            announce(session, [_ONE])
        await _told(one)
        await _told(other)
        assert one.take_asked(9) + other.take_asked(9) == [_ONE]

    asyncio.run(main())


def test_what_is_asked_is_not_asked_of_a_loop_that_was_closed(database: Database) -> None:
    async def begin() -> list[Waker]:
        return [Waker() for _ in range(8)]

    closed = asyncio.run(begin())

    async def main() -> None:
        alive = Waker()
        with database.transaction() as session:
            announce(session, [_ONE])
        await _told(alive)
        assert alive.take_asked(9) == [_ONE]

    asyncio.run(main())
    assert not any(waker.take_asked(9) for waker in closed)
