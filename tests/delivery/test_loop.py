"""The loop against channels that fail, hang and lie: bulkheads, deadlines, wake-up, graceful end."""

import asyncio
import fcntl
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from idhub.db import Database
from idhub.delivery.channel import Channel, Grade, LeasedDelivery, Outcome
from idhub.delivery.loop import DeliveryLoop
from idhub.delivery.queue import plan
from idhub.errors import Unavailable
from idhub.settings import Settings
from idhub.turns import bulk_work
from tests.delivery.conftest import add_applications
from tests.delivery.rows import DONE, delivery, row
from tests.delivery.servers import until
from tests.support.clock import Clock


def real_now() -> datetime:
    return datetime.now(UTC)


class FakeChannel:
    """Answers as the application named in the delivery is told to."""

    name = "scim"
    ceiling = Grade.E3

    def __init__(self, answers: Mapping[str, Callable[[LeasedDelivery], Awaitable[Outcome]]] | None = None) -> None:
        self.sent: list[tuple[str, str, float]] = []
        self._answers = answers or {}

    async def send(self, delivery: LeasedDelivery, *, now: datetime) -> Outcome:
        self.sent.append((delivery.application_id, delivery.id, time.monotonic()))
        answer = self._answers.get(delivery.application_id)
        return await answer(delivery) if answer else DONE


async def hang(_delivery: LeasedDelivery) -> Outcome:
    await asyncio.sleep(3600)
    return DONE


def hang_until(over: asyncio.Event) -> Callable[[LeasedDelivery], Awaitable[Outcome]]:
    """An application that answers nobody before the end."""

    async def answer(_delivery: LeasedDelivery) -> Outcome:
        await over.wait()
        return DONE

    return answer


def run(
    hub: Database,
    settings: Settings,
    channel: Channel | None,
    story: Callable[[DeliveryLoop], Awaitable[Any]],
    *,
    clock: Callable[[], datetime] = real_now,
    **options: Any,
) -> Any:
    async def main() -> Any:
        stop = asyncio.Event()
        channels = {channel.name: channel} if channel else {}
        loop = DeliveryLoop(hub, settings, channels, clock=clock, worker="w1", **options)
        running = asyncio.create_task(loop.run(stop))
        try:
            return await story(loop)
        finally:
            stop.set()
            await asyncio.wait_for(running, 40)

    return asyncio.run(main())


def put_now(hub: Database, *planned: Any) -> list[str]:
    with hub.transaction() as session:
        return plan(session, planned, now=real_now())


def states(hub: Database) -> dict[str, int]:
    with hub.read() as session:
        return {r[0]: r[1] for r in session.execute(text("SELECT state, count(*) FROM deliveries GROUP BY state"))}


@pytest.fixture
def sleeps_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle loop that nobody wakes looks again after a minute only."""
    for name in ("_LONGEST_WAIT_IDLE", "_LONGEST_WAIT_WORKING"):
        monkeypatch.setattr(f"idhub.delivery.loop.{name}", 60.0)


@pytest.mark.usefixtures("sleeps_long")
def test_what_is_planned_while_the_loop_idles_is_sent_at_once(hub: Database, settings: Settings) -> None:
    channel = FakeChannel()

    async def story(_loop: DeliveryLoop) -> float:
        await asyncio.sleep(0.8)  # long enough for the loop to wait long
        began = time.monotonic()
        await asyncio.to_thread(put_now, hub, delivery())
        await until(lambda: bool(channel.sent), seconds=30)
        return channel.sent[0][2] - began

    assert run(hub, settings, channel, story) < 30
    assert states(hub) == {"done": 1}


@pytest.mark.usefixtures("sleeps_long")
@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_another_process_is_heard_by_notify(hub: Database, settings: Settings) -> None:
    channel = FakeChannel()

    async def story(_loop: DeliveryLoop) -> float:
        await asyncio.sleep(1.5)
        began = time.monotonic()

        def elsewhere() -> None:
            # What `plan` does, without this process being told.
            with hub.transaction() as session:
                from idhub.delivery import planning, wake

                known = set(wake._wakers)
                wake._wakers.clear()
                planning.plan(session, [delivery()], now=real_now())
                for waker in known:
                    wake._wakers.add(waker)

        await asyncio.to_thread(elsewhere)
        await until(lambda: bool(channel.sent), seconds=30)
        return channel.sent[0][2] - began

    assert run(hub, settings, channel, story) < 30


@pytest.mark.usefixtures("sleeps_long")
@pytest.mark.parametrize("takes", [True, False])
def test_who_is_waited_for_is_sent_here_while_another_process_does_the_bulk(
    hub: Database, settings: Settings, takes: bool
) -> None:
    channel, asked = FakeChannel(), []

    def takes_asked(count: int) -> bool:
        asked.append(count)
        return takes

    async def story(_loop: DeliveryLoop) -> tuple[list[str], set[str]]:
        with bulk_work():
            await asyncio.to_thread(put_now, hub, *(delivery(f"bulk_{i}") for i in range(5)))
        await asyncio.sleep(0.2)
        ours = await asyncio.to_thread(put_now, hub, delivery("one"), delivery("other", application_id="app_b"))
        await until(lambda: len(channel.sent) == 2 if takes else bool(asked), seconds=30)
        await asyncio.sleep(0.2)
        return ours, {delivery_id for _, delivery_id, _ in channel.sent}

    ours, sent = run(hub, settings, channel, story, goes_on=lambda _: False, takes_asked=takes_asked)
    assert asked == [2]
    assert sent == (set(ours) if takes else set())


def test_a_lane_is_sent_in_order_also_when_its_first_fails(hub: Database, settings: Settings) -> None:
    tries: list[str] = []

    async def flaky(one: LeasedDelivery) -> Outcome:
        tries.append(one.id)
        if len(tries) < 3:
            return Outcome(kind="retry", status_code=503, retry_after=timedelta(0))
        return DONE

    planned = put_now(hub, delivery(), delivery(), delivery())
    channel = FakeChannel({"app_a": flaky})

    async def story(_loop: DeliveryLoop) -> None:
        await until(lambda: states(hub).get("done") == 3, seconds=30)

    run(hub, settings, channel, story)
    assert tries == [planned[0], planned[0], planned[0], planned[1], planned[2]]


def test_silent_applications_slow_nobody_else(hub: Database, settings: Settings, clock: Clock) -> None:
    """D16: they fill every slot there is, and more; the others are served within seconds."""
    silent = [f"app_s{i}" for i in range(4)]
    add_applications(hub, silent, clock)
    tight = settings.model_copy(
        update={
            "delivery_workers": 4,
            "delivery_per_application": 2,
            "delivery_timeout": timedelta(seconds=60),
        }
    )
    over = asyncio.Event()
    channel = FakeChannel({name: hang_until(over) for name in silent})
    put_now(hub, *[delivery(f"{name}_{i}", application_id=name) for name in silent for i in range(10)])
    put_now(hub, *[delivery(f"b_{i}", application_id="app_b") for i in range(20)])

    async def story(_loop: DeliveryLoop) -> None:
        try:
            await until(lambda: states(hub).get("done") == 20, seconds=30)
            assert max(sum(1 for app, *_ in channel.sent if app == name) for name in silent) <= 4
        finally:
            over.set()

    run(hub, tight, channel, story)


@pytest.mark.usefixtures("sleeps_long")
def test_what_waits_for_room_is_looked_for_once_half_of_what_is_under_way_is_back(
    hub: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look costs the same for one as for many. Here the count alone decides: no time ends a wait."""
    for name in ("_SHORTEST_WAIT", "_LONGEST_WAIT_FULL"):
        monkeypatch.setattr(f"idhub.delivery.loop.{name}", 60.0)
    room = settings.model_copy(update={"delivery_per_application": 8})
    back = asyncio.Semaphore(0)

    async def answer(_one: LeasedDelivery) -> Outcome:
        await back.acquire()
        return DONE

    channel = FakeChannel({"app_a": answer})
    put_now(hub, *[delivery(f"l{n:02}") for n in range(14)])

    async def story(_loop: DeliveryLoop) -> None:
        await until(lambda: len(channel.sent) == 8, seconds=20)
        for n in range(1, 4):
            back.release()
            await until(lambda n=n: states(hub).get("done") == n, seconds=20)  # type: ignore[misc]
        await asyncio.sleep(0.3)
        assert len(channel.sent) == 8
        back.release()
        await until(lambda: len(channel.sent) == 12, seconds=20)
        for _ in range(10):
            back.release()
        await until(lambda: states(hub) == {"done": 14}, seconds=20)

    run(hub, room, channel, story)


def test_a_send_ends_at_its_deadline_and_is_tried_again(hub: Database, settings: Settings) -> None:
    # Long enough for a laden machine to lease and begin: what is held up past its deadline is not sent at all.
    short = settings.model_copy(update={"delivery_timeout": timedelta(seconds=1.5)})
    (planned_id,) = put_now(hub, delivery())

    async def story(_loop: DeliveryLoop) -> None:
        await until(lambda: row(hub, planned_id).last_error is not None, seconds=30)

    run(hub, short, FakeChannel({"app_a": hang}), story)
    assert row(hub, planned_id).last_error == "No answer within 1.5 s."


def test_an_error_of_a_channel_is_shown_and_stops_nothing(hub: Database, settings: Settings) -> None:
    async def broken(_one: LeasedDelivery) -> Outcome:
        raise KeyError("secret-token")

    async def named(_one: LeasedDelivery) -> Outcome:
        raise Unavailable("No connection to 127.0.0.1:1.")

    first, second = put_now(hub, delivery(), delivery("b", application_id="app_b"))

    async def story(_loop: DeliveryLoop) -> None:
        await until(lambda: all(row(hub, one).last_error for one in (first, second)), seconds=30)

    run(hub, settings, FakeChannel({"app_a": broken, "app_b": named}), story)
    assert row(hub, first).last_error == "The channel failed (KeyError)."
    assert row(hub, second).last_error == "No connection to 127.0.0.1:1."


def test_a_delivery_of_an_unknown_channel_waits(hub: Database, settings: Settings) -> None:
    (planned_id,) = put_now(hub, delivery())

    async def story(_loop: DeliveryLoop) -> None:
        await until(lambda: row(hub, planned_id).last_error is not None, seconds=30)

    run(hub, settings, None, story)
    assert row(hub, planned_id).state == "pending"
    assert row(hub, planned_id).last_error == "This worker knows no channel 'scim'."


def test_a_stopping_loop_finishes_what_it_leased(hub: Database, settings: Settings) -> None:
    async def slowly(_one: LeasedDelivery) -> Outcome:
        await asyncio.sleep(0.5)
        return DONE

    put_now(hub, *[delivery(f"l{i}") for i in range(5)])
    channel = FakeChannel({"app_a": slowly})

    async def story(_loop: DeliveryLoop) -> None:
        await until(lambda: len(channel.sent) == 5, seconds=30)

    run(hub, settings, channel, story)
    assert states(hub) == {"done": 5}


def test_three_hundred_accounts_of_a_leaver_are_told_at_once(hub: Database, settings: Settings, clock: Clock) -> None:
    names = [f"app_{i:03}" for i in range(300)]
    add_applications(hub, names, clock)
    channel = FakeChannel()

    async def story(_loop: DeliveryLoop) -> tuple[float, float]:
        await asyncio.sleep(0.1)
        await asyncio.to_thread(put_now, hub, *[delivery(name, application_id=name) for name in names])
        began = time.monotonic()
        await until(lambda: states(hub).get("done") == 300, seconds=20)
        return max(at for *_, at in channel.sent) - began, time.monotonic() - began

    sent, recorded = run(hub, settings, channel, story)
    print(f"\n300 accounts: sent within {sent:.3f} s, recorded within {recorded:.3f} s")
    assert len({one for _, one, _ in channel.sent}) == len(channel.sent) == 300


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("somebody_waits", "most"), [(False, 100), (True, 40)])
def test_while_somebody_waits_to_write_fewer_answers_are_recorded_at_once(
    hub: Database, settings: Settings, clock: Clock, somebody_waits: bool, most: int
) -> None:
    names = [f"app_{i:03}" for i in range(120)]
    add_applications(hub, names, clock)

    async def story(_loop: DeliveryLoop) -> None:
        await asyncio.sleep(0.1)
        await asyncio.to_thread(put_now, hub, *[delivery(name, application_id=name) for name in names])
        await until(lambda: len(channel.sent) == 120, seconds=20)
        over.set()
        await until(lambda: states(hub).get("done") == 120, seconds=20)

    over = asyncio.Event()
    channel = FakeChannel({name: hang_until(over) for name in names})
    with open(f"{hub.engine.url.database}-line", "a") as line:
        if somebody_waits:
            fcntl.flock(line, fcntl.LOCK_SH)
        run(hub, settings, channel, story)
    with hub.read() as session:
        together = session.execute(text("SELECT count(*) FROM deliveries GROUP BY finished_at")).scalars().all()
    assert max(together) == most


def test_an_answer_that_cannot_be_stored_holds_up_no_other(hub: Database, settings: Settings) -> None:
    async def strange(_one: LeasedDelivery) -> Outcome:
        return Outcome(kind="done", grade=Grade.E1, status_code=200, evidence={"answer": object()})

    first, second = put_now(hub, delivery(), delivery("b", application_id="app_b"))

    async def story(_loop: DeliveryLoop) -> None:
        await until(lambda: row(hub, first).last_error is not None and row(hub, second).state == "done", seconds=30)

    run(hub, settings, FakeChannel({"app_a": strange}), story)
    assert (row(hub, first).state, row(hub, first).grade) == ("pending", 0)
    assert row(hub, first).last_error == "What the channel answered cannot be stored."


def test_what_a_clock_that_goes_back_left_in_the_future_is_sent(hub: Database, settings: Settings) -> None:
    """D19: planned while the machine's clock was a day ahead, by a process that is gone before it was sent."""
    channel, ahead = FakeChannel(), timedelta(hours=1)

    def clock() -> datetime:
        return real_now() + ahead

    async def story(_loop: DeliveryLoop) -> None:
        nonlocal ahead
        await asyncio.sleep(0.5)  # it has looked what was left before it began
        with hub.transaction() as session:
            plan(session, [delivery()], now=real_now() + timedelta(days=1))
        await asyncio.sleep(1.5)
        assert channel.sent == []
        ahead = timedelta(0)
        await until(lambda: bool(channel.sent), seconds=10)

    run(hub, settings, channel, story, clock=clock)
    assert states(hub) == {"done": 1}
