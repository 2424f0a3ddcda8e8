"""The worker as a whole: its jobs, their isolation, its end."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import pytest
from sqlalchemy import func, select, text

from audit.arrivals import count_waiting
from audit.checkpoint import Ed25519Signer, FileWitness
from audit.sequencer import Sequencer
from audit.tables import audit_checkpoints, audit_lease
from idhub.changes import COMMAND_LINE, Event, EventType, record
from idhub.db import Database
from idhub.delivery.channel import Channel, Grade, LeasedDelivery, Outcome
from idhub.delivery.http import OutboundHttp
from idhub.delivery.queue import plan
from idhub.delivery.wake import wake
from idhub.directory.tables import Installation
from idhub.keys import Keyring
from idhub.services import Hub
from idhub.settings import Settings
from idhub.worker import Worker, _Job
from tests.delivery.conftest import hub
from tests.delivery.rows import DONE, delivery, row
from tests.delivery.servers import until

__all__ = ["hub"]


class CountingChannel:
    """Accepts everything; remembers what was sent."""

    name = "scim"
    ceiling = Grade.E1

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, delivery: LeasedDelivery, *, now: datetime) -> Outcome:
        self.sent.append(delivery.id)
        await asyncio.sleep(0.01)
        return DONE


@dataclass(frozen=True)
class Opened:
    """An open hub with one channel of the test's own, and a sequencer that may be broken."""

    settings: Settings
    database: Database
    keyring: Keyring
    node: str
    channel: CountingChannel = field(default_factory=CountingChannel)
    is_sealing_broken: bool = False

    def clock(self) -> datetime:
        return datetime.now(UTC)

    def channels(self, _http: OutboundHttp) -> Mapping[str, Channel]:
        return {self.channel.name: self.channel}

    def sequencer(self) -> Sequencer:
        if self.is_sealing_broken:
            raise OSError("the signer is away")
        return Sequencer(
            self.database.engine,
            Ed25519Signer(self.keyring.signing_key("checkpoint").private),
            [FileWitness(self.settings.effective_witness_file)],
            self.node,
            origin="hub.example/audit",
        )


@pytest.fixture
def opened(hub: Database, settings: Settings, keyring: Keyring) -> Opened:
    with hub.transaction() as session:
        session.add(Installation(id=1, epoch=1, created_at=datetime.now(UTC), rules_version=1))
    return Opened(settings, hub, keyring, "node-1")


def run(opened: list[Opened], story: Callable[[list[Worker]], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with OutboundHttp(opened[0].settings) as http:
            workers = [Worker(cast(Hub, one), http) for one in opened]
            for worker in workers:
                await worker.start()
            try:
                return await story(workers)
            finally:
                for worker in workers:
                    await worker.stop()
                assert not any(worker.is_running for worker in workers)

    return asyncio.run(main())


def put_now(database: Database, count: int = 1) -> list[str]:
    with database.transaction() as session:
        return plan(session, [delivery(f"lane_{time.monotonic_ns()}_{i}") for i in range(count)], now=datetime.now(UTC))


def checkpoints(database: Database) -> int:
    with database.read() as session:
        return session.execute(select(func.count()).select_from(audit_checkpoints)).scalar_one()


def unsealed(database: Database) -> int:
    with database.read() as session:
        return count_waiting(session.connection())[0]


def test_a_worker_delivers_and_seals_what_it_recorded(opened: Opened) -> None:
    async def story(_workers: list[Worker]) -> str:
        (planned,) = await asyncio.to_thread(put_now, opened.database)
        await until(lambda: row(opened.database, planned).state == "done", seconds=20)
        await until(lambda: checkpoints(opened.database) > 0, seconds=20)
        return planned

    planned = run([opened], story)

    assert opened.channel.sent == [planned]
    assert unsealed(opened.database) == 0, "the last events are sealed before it ends"
    assert opened.settings.effective_witness_file.is_file()


def test_two_workers_send_everything_once(opened: Opened) -> None:
    """O12."""
    other = Opened(opened.settings, opened.database, opened.keyring, "node-2", opened.channel)

    async def story(_workers: list[Worker]) -> list[str]:
        planned: list[str] = []
        for _ in range(4):
            planned += await asyncio.to_thread(put_now, opened.database, 25)
        await until(lambda: len(opened.channel.sent) >= 100, seconds=40)
        await asyncio.sleep(0.5)
        return planned

    planned = run([opened, other], story)

    assert sorted(opened.channel.sent) == sorted(planned)
    with opened.database.read() as session:
        workers = session.execute(text("SELECT count(*) FROM delivery_attempts")).scalar()
    assert workers == 100


def test_a_job_that_fails_stops_no_other(opened: Opened) -> None:
    broken = Opened(opened.settings, opened.database, opened.keyring, "n", is_sealing_broken=True)

    async def story(_workers: list[Worker]) -> None:
        (planned,) = await asyncio.to_thread(put_now, opened.database)
        await until(lambda: row(opened.database, planned).state == "done", seconds=20)

    run([broken], story)


@pytest.mark.parametrize("slow", ["hr_release.carry_out", "reevaluation.reevaluate_pending"])
@pytest.mark.parametrize("is_broken", [True, False], ids=["fails", "takes long"])
def test_whoever_is_due_to_leave_waits_for_no_release_and_no_rules(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, slow: str, is_broken: bool
) -> None:
    """Looking at everybody after a change of rules takes minutes of a large group."""
    began, over, looked = threading.Event(), threading.Event(), list[float]()

    def long(*_: object, **__: object) -> int:
        began.set()
        if is_broken:
            raise OSError("cannot be opened")
        assert over.wait(30)
        return 0

    monkeypatch.setattr(f"idhub.lifecycle.{slow}", long)
    monkeypatch.setattr("idhub.lifecycle.hr_release.has_work", lambda _database, *, now: True)
    monkeypatch.setattr("idhub.lifecycle.reevaluation.has_work", lambda _database, *, now: True)
    monkeypatch.setattr("idhub.worker.apply_due", lambda *_, **__: looked.append(time.monotonic()))

    async def story(_workers: list[Worker]) -> None:
        await until(began.is_set, seconds=20)
        before = len(looked)
        await until(lambda: len(looked) >= before + 2, seconds=20)
        over.set()

    try:
        run([opened], story)
    finally:
        over.set()


def test_a_stopped_worker_gives_its_leases_back(opened: Opened) -> None:
    def holders() -> dict[str, datetime]:
        with opened.database.read() as session:
            from idhub.delivery.tables import Lease

            return {r[0]: r[1] for r in session.execute(select(Lease.name, Lease.until))}

    async def story(_workers: list[Worker]) -> None:
        await until(lambda: {"schedule", "purge"} <= holders().keys(), seconds=20)
        assert all(end > datetime.now(UTC) for end in holders().values())

    run([opened], story)

    assert all(end <= datetime.now(UTC) for end in holders().values())


def test_an_idle_worker_writes_nothing(opened: Opened) -> None:
    def state() -> Any:
        with opened.database.read() as session:
            return [
                session.execute(text(f"SELECT count(*) FROM {name}")).scalar()
                for name in ("audit_events", "audit_checkpoints", "deliveries", "delivery_attempts")
            ]

    async def story(_workers: list[Worker]) -> None:
        seen = [state()]
        while len(seen) < 2 or seen[-1] != seen[-2]:  # what it does as it starts ends
            assert len(seen) < 20, seen
            await asyncio.sleep(1.5)
            seen.append(state())

    run([opened], story)


def test_a_job_that_finds_nothing_rests_until_it_is_woken(opened: Opened) -> None:
    """It would look once an hour."""
    looked: list[bool] = []

    class Resting(Worker):
        def _jobs(self) -> list[_Job]:
            def look() -> bool:
                looked.append(True)
                return False

            return [_Job("look", 3600.0, look, idle=3600.0), _Job("never", 0.01, self._fail, is_wanted=lambda: False)]

        def _fail(self) -> None:
            raise AssertionError("what nobody wants is not done")

    def has_looked(least: int) -> bool:
        return len(looked) >= least

    async def main() -> None:
        async with OutboundHttp(opened.settings) as http:
            worker = Resting(cast(Hub, opened), http)
            await worker.start()
            for times in (1, 2, 3):
                await until(partial(has_looked, times), seconds=20)
                wake("receipts")
            await worker.stop()
            assert not worker.is_running

    asyncio.run(main())


def test_events_are_sealed_within_moments(opened: Opened) -> None:
    event = Event(
        type=EventType.LOGIN_SUCCEEDED,
        at=datetime.now(UTC),
        actor=COMMAND_LINE,
        door="login",
        target_kind="person",
        target_id="per_1",
    )

    def write() -> None:
        with opened.database.transaction() as session:
            record(session, [event])

    async def story(_workers: list[Worker]) -> float:
        await asyncio.sleep(0.5)
        await asyncio.to_thread(write)
        return await until(lambda: unsealed(opened.database) == 0, seconds=20)

    print(f"\nsealed after {run([opened], story):.2f} s")
    with opened.database.read() as session:
        assert session.execute(select(audit_lease.c.expires_at)).scalar_one() == 0, "the next need not wait"
