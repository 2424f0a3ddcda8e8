"""Which writes share a transaction: those of a few turns of the event loop."""

import asyncio

import pytest

from idhub.credentials.grouping import Grouping, Waiting
from idhub.credentials.operations import Operation


class _Groups(Grouping):
    """Notes who shared a transaction."""

    def __init__(self) -> None:
        super().__init__()
        self.committed: list[int] = []

    def may_begin(self, lane: str) -> bool:
        return True

    def run_group(self, group: list[Waiting], lane: str) -> None:
        self.committed.append(len(group))
        for one in group:
            one.settle(None)


def _nothing() -> Operation[None]:
    yield from ()


async def _write(groups: Grouping, turn: int) -> None:
    for _ in range(turn):
        await asyncio.sleep(0)
    await groups.write(_nothing)


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        ([0], [1]),
        ([0, 1, 2], [3]),
        # A turn without anybody: the group does not wait for who might come.
        ([0, 2], [1, 1]),
        # Somebody comes in each turn: it does not wait for ever.
        (list(range(12)), [5, 5, 2]),
    ],
)
def test_a_group_waits_while_others_come_and_for_four_turns_at_most(arrivals: list[int], expected: list[int]) -> None:
    async def run() -> list[int]:
        groups = _Groups()
        # Who comes later is there first: within a turn they write before the group looks who is there.
        await asyncio.gather(*(_write(groups, turn) for turn in reversed(arrivals)))
        return groups.committed

    assert asyncio.run(run()) == expected
