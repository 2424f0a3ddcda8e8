"""The process that takes the bulk of the worker's work over: when it is called, what it takes, how it ends."""

import asyncio
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert, select

from idhub.access.tables import Application, Criticality
from idhub.db import Database
from idhub.delivery.queue import plan
from idhub.delivery.tables import Lease
from idhub.directory.organizations import root_organization
from idhub.relief import Effort, Relief
from idhub.services import Hub, open_hub
from idhub.settings import Settings
from tests.delivery.rows import delivery, row
from tests.delivery.servers import until
from tests.support.databases import DatabaseKind
from tests.support.processes import is_there
from tests.support.working import with_worker

LONG = 120


class Seconds:
    """A monotonic clock of the test's own."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("each", "every", "times", "is_much"),
    [
        (320, 0.0, 1, False),  # somebody with 320 accounts leaves
        (320, 10.0, 100, False),  # and again every ten seconds
        (100, 0.3, 30, True),  # thousands in a row
        (40, 1.0, 1_000, False),  # a trickle that never ends
        (60, 1.0, 90, False),
        (60, 1.0, 120, True),
    ],
)
def test_much_in_a_row_is_much_and_a_single_leave_is_not(each: int, every: float, times: int, is_much: bool) -> None:
    clock = Seconds()
    effort, seen = Effort(clock), False
    for _ in range(times):
        seen |= effort.add(each)
        clock.now += every
    assert seen is is_much


@pytest.fixture
def hub(database: Database, settings: Settings) -> Iterator[Hub]:
    """A hub with an application that deliveries can be planned for."""
    opened = open_hub(settings)
    now = datetime.now(UTC)
    with opened.database.transaction() as session:
        session.execute(
            insert(Application).values(
                id="app_a", slug="app-a", name="A", organization_id=root_organization(session),
                criticality=Criticality.NORMAL, revocation_deadline_seconds=60, is_enabled=True, created_at=now,
                changed_at=now,
            )
        )  # fmt: skip
    try:
        yield opened
    finally:
        opened.close()


def put(hub: Hub, lane: str) -> str:
    """A delivery that is given up at the first look: nothing is there to be told."""
    gone = delivery(lane, channel="cas_logout", operation="logout", payload={"service_id": "none", "sid": "ST-1"})
    with hub.database.transaction() as session:
        return plan(session, [gone], now=datetime.now(UTC))[0]


def holder(hub: Hub, name: str) -> Any:
    with hub.database.read() as session:
        return session.execute(select(Lease.holder).where(Lease.name == name)).scalar()


def test_the_bulk_is_left_to_it_and_taken_back_when_it_dies(hub: Hub, database_kind: DatabaseKind) -> None:
    relief = Relief(hub.settings)

    async def story() -> None:
        await until(lambda: holder(hub, "schedule") == hub.node, seconds=LONG)
        relief.note(people=50)
        await until(lambda: relief.is_at_work, seconds=LONG)
        await until(lambda: holder(hub, "schedule") not in {hub.node, None}, seconds=LONG)
        theirs = put(hub, "lane_1")
        await until(lambda: row(hub.database, theirs).state == "dead", seconds=LONG)
        assert holder(hub, "schedule") != hub.node
        if database_kind == "sqlite":
            assert relief.pid is not None
            os.kill(relief.pid, signal.SIGKILL)
            await until(lambda: not relief.is_at_work, seconds=LONG)
            ours = put(hub, "lane_2")
            await until(lambda: row(hub.database, ours).state == "dead", seconds=LONG)
            relief.note(people=50)
        pids.append(relief.pid or 0)

    pids: list[int] = []
    with_worker(hub, story, reliever=relief)
    if database_kind == "sqlite":
        assert pids == [0], "one that died is not called again at once"
    else:
        assert not is_there(pids[0]), "it ends with the worker"


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_it_ends_when_nothing_is_due(hub: Hub) -> None:
    relief = Relief(hub.settings, ends_after=0)
    relief.note(people=50)
    pid = relief.pid
    assert pid is not None

    def has_ended() -> bool:
        relief.look()
        return not relief.is_at_work

    asyncio.run(until(has_ended, seconds=LONG))
    assert not is_there(pid)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_one_that_falls_silent_is_ended_and_the_work_taken_back(hub: Hub) -> None:
    clock = Seconds()
    relief = Relief(hub.settings, clock=clock)
    relief.note(deliveries=1_000)
    pid = relief.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    seen = []
    for seconds in (59, 2):
        clock.now += seconds
        relief.look()
        seen.append(relief.is_at_work)
    assert seen == [True, False], "it may take a while to start, not for ever"
    assert not is_there(pid)


def test_it_leaves_us_a_few_of_those_who_are_waited_for() -> None:
    clock = Seconds()
    relief = Relief(Settings(), clock=clock)
    assert [relief.leaves(300) for _ in range(5)] == [True, True, True, False, False]
    clock.now += 60
    assert relief.leaves(300)
    assert relief.pid is None


def test_a_little_calls_nobody() -> None:
    relief = Relief(Settings(), clock=Seconds())
    relief.note(people=49)
    assert relief.pid is None
