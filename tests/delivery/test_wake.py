"""`idhub.delivery.wake`: who is woken by what, and what a wait says of it."""

import asyncio

from idhub.delivery.wake import Waker, wake

_LONG = 600.0


async def _heard(waker: Waker) -> bool:
    # Whether it is poked or not, nothing here waits for the time to pass.
    async with asyncio.timeout(_LONG / 10):
        return await waker.wait(_LONG)


def test_work_wakes_those_who_do_it_and_nobody_else() -> None:
    async def main() -> None:
        sender, signer = Waker(), Waker("receipts")
        wake("receipts")
        assert await _heard(signer)
        assert not await sender.wait(0)
        wake()
        assert await _heard(sender)
        assert not await signer.wait(0)

    asyncio.run(main())


def test_a_nudge_ends_the_wait_and_swallows_no_poke() -> None:
    """Whoever pokes may not have committed yet: the loop looks several times then, and after a nudge once."""

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
