"""Questions asked in one moment are answered in sets; one that cannot be answered fails nobody else's."""

import asyncio
from collections.abc import Sequence

import pytest

from idhub.delivery.together import Together


def test_what_is_asked_at_once_is_answered_in_few_sets() -> None:
    sets: list[list[int]] = []

    def double(asked: Sequence[int]) -> list[int]:
        sets.append(list(asked))
        return [2 * one for one in asked]

    async def story() -> list[int]:
        together = Together(double, most=100)
        return await asyncio.gather(*(together.ask(n) for n in range(250)))

    assert asyncio.run(story()) == [2 * n for n in range(250)]
    assert [len(one) for one in sets] == [100, 100, 50]


def test_one_that_fails_is_found_alone() -> None:
    def invert(asked: Sequence[int]) -> list[float]:
        return [1 / one for one in asked]

    async def story() -> list[float | BaseException]:
        together = Together(invert, most=100)
        return await asyncio.gather(*(together.ask(n) for n in (1, 0, 4)), return_exceptions=True)

    one, none, quarter = asyncio.run(story())
    assert (one, quarter) == (1, 0.25)
    assert isinstance(none, ZeroDivisionError)


def test_whoever_stops_waiting_disturbs_nobody() -> None:
    def echo(asked: Sequence[str]) -> list[str]:
        return list(asked)

    async def story() -> str:
        together = Together(echo, most=10)
        gone = asyncio.create_task(together.ask("gone"))
        stays = asyncio.create_task(together.ask("stays"))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await stays

    assert asyncio.run(story()) == "stays"


def test_it_works_in_one_event_loop_after_another() -> None:
    together: Together[int, int] = Together(list, most=10)
    assert [asyncio.run(together.ask(n)) for n in (1, 2)] == [1, 2]
