"""How many requests work at once: who waits, who is told to come back, and whom nobody keeps waiting (D07)."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from idhub import admission
from idhub.admission import Admission, Admitted, Lane, ReadingLane
from idhub.errors import Unavailable
from tests.support.clock import Clock
from tests.support.cluster import Cluster, running_cluster
from tests.support.databases import Databases

LEAVE = ("POST", "/api/v1/people/per_1/offboarding")
LIST = ("GET", "/api/v1/findings")


def made(slots: int = 2) -> Admission:
    return Admission(slots, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))


def in_a_loop(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_whoever_waits_is_let_in_when_another_is_done() -> None:
    async def work() -> None:
        gate = made(1)
        first = await gate.enter(*LIST)
        second = asyncio.ensure_future(gate.enter(*LIST))
        await asyncio.sleep(0)
        assert not second.done()
        assert first is not None
        first()
        assert await second is not None
        assert gate.refused == 0

    in_a_loop(work)


def test_line_that_is_full_refuses_at_once_and_says_so_for_ten_seconds(clock: Clock) -> None:
    async def work() -> None:
        gate = Admission(1, clock=clock)
        assert await gate.enter(*LIST) is not None
        line = [asyncio.ensure_future(gate.enter(*LIST)) for _ in range(16)]
        await asyncio.sleep(0)
        assert not gate.is_shedding
        assert await gate.enter(*LIST) is None
        assert (gate.refused, gate.is_shedding) == (1, True)
        clock.correct(-timedelta(days=1))
        assert not gate.is_shedding
        clock.correct(timedelta(days=1, seconds=11))
        assert not gate.is_shedding
        for one in line:
            one.cancel()
        await asyncio.gather(*line, return_exceptions=True)

    in_a_loop(work)


def test_line_that_does_not_move_refuses_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_PATIENCE", 0.01)

    async def work() -> None:
        gate = made(1)
        first = await gate.enter(*LIST)
        assert await gate.enter(*LIST) is None
        assert first is not None
        first()
        assert await gate.enter(*LIST) is not None, "nobody who has given up keeps a place"

    in_a_loop(work)


def test_waiting_that_is_broken_off_loses_no_slot() -> None:
    async def work() -> None:
        gate = made(1)
        first = await gate.enter(*LIST)
        gone, given = (asyncio.ensure_future(gate.enter(*LIST)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert first is not None
        first()
        given.cancel()
        await asyncio.gather(gone, given, return_exceptions=True)
        assert await gate.enter(*LIST) is not None

    in_a_loop(work)


@pytest.mark.parametrize(
    "ending",
    [
        LEAVE,
        ("POST", "/api/v1/people/QY000001/suspend"),
        ("GET", "/hr/offboarding/per_1/preview"),
        ("POST", "/hr/offboarding/per_1/preview"),
        ("POST", "/hr/people/per_1/suspend"),
        ("POST", "/account/sessions/end"),
        ("POST", "/account/sessions/end-others"),
        ("POST", "/logout"),
        ("POST", "/saml/slo/soap"),
        ("DELETE", "/scim/v2/Users/per_1"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
    ],
)
def test_what_ends_an_access_or_asks_for_health_has_room_of_its_own(ending: tuple[str, str]) -> None:
    async def work() -> None:
        gate = made(1)
        assert await gate.enter(*LIST) is not None
        assert await gate.enter(*ending) is not None

    in_a_loop(work)


def test_slot_is_given_back_when_the_answer_begins_and_when_there_is_none() -> None:
    async def streams(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        assert await gate.enter(*LIST) is not None, "the stream keeps nobody waiting"

    async def fails(_scope: Any, _receive: Any, _send: Any) -> None:
        raise RuntimeError("broken")

    async def nothing(*_: Any) -> Any:
        return None

    gate = made(1)
    scope = {"type": "http", "method": LIST[0], "path": LIST[1]}

    async def work() -> None:
        nonlocal gate
        await Admitted(streams, admission=gate, refuse=nothing)(scope, nothing, nothing)
        gate = made(1)
        for _ in range(2):
            with pytest.raises(RuntimeError):
                await Admitted(fails, admission=gate, refuse=nothing)(scope, nothing, nothing)

    in_a_loop(work)


def test_slot_is_held_for_nobody_who_still_sends() -> None:
    """D16: also not within a large body, of which the beginning was read; and it is taken again for the work."""

    async def work() -> None:
        gate = Admission(1, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))
        arriving: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        read: list[int] = []
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/scim/v2/Bulk", "headers": []}

        async def application(_scope: Any, receive: Any, send: Any) -> None:
            more = True
            while more:
                message = await receive()
                read.append(len(message["body"]))
                more = message["more_body"]
            assert await is_full()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            assert not await is_full()

        async def is_full() -> bool:
            place = asyncio.ensure_future(gate.enter(*LIST))
            await asyncio.sleep(0.01)
            if place.done():
                give_back = place.result()
                assert give_back is not None
                give_back()
                return False
            place.cancel()
            with suppress(asyncio.CancelledError):
                await place
            return True

        async def send(_message: Any) -> None:
            return

        async def refuse(*_: Any) -> None:
            raise AssertionError("there was room")

        admitted = Admitted(application, admission=gate, refuse=refuse)
        serving = asyncio.ensure_future(admitted(scope, arriving.get, send))
        assert not await is_full(), "nothing has come"
        for size in (40_000, 30_000):
            arriving.put_nowait({"type": "http.request", "body": b"a" * size, "more_body": True})
        assert not await is_full(), "the rest has not come"
        assert read == [70_000]
        arriving.put_nowait({"type": "http.request", "body": b"a", "more_body": False})
        await serving
        assert read == [70_000, 1]

        # And of somebody who goes before it is whole nothing is worked on.
        gone = asyncio.ensure_future(admitted(scope, arriving.get, send))
        arriving.put_nowait({"type": "http.request", "body": b"a", "more_body": True})
        arriving.put_nowait({"type": "http.disconnect"})
        await gone
        assert read == [70_000, 1]
        assert not await is_full()

        # What says that it is large is looked at at once, and waited for without a slot.
        large = asyncio.ensure_future(
            admitted({**scope, "headers": [(b"content-length", b"90000")]}, arriving.get, send)
        )
        assert not await is_full()
        for more in (True, False):
            arriving.put_nowait({"type": "http.request", "body": b"a" * 45_000, "more_body": more})
        await large
        assert read[2:] == [45_000, 45_000]
        assert not await is_full()

    in_a_loop(work)


def test_block_holds_a_slot_and_says_when_there_is_none() -> None:
    async def work() -> None:
        lane = Lane(1, 0)
        async with lane:
            with pytest.raises(Unavailable) as refused:
                async with lane:
                    raise AssertionError("there is one slot")
            assert refused.value.retry_after == timedelta(seconds=1)
        with pytest.raises(RuntimeError):
            async with lane:
                raise RuntimeError("broken")
        assert lane.take_now()

    in_a_loop(work)


def test_whoever_is_turned_away_waits_a_turn_and_not_at_all_when_too_many_do() -> None:
    async def work() -> None:
        gate = made()
        assert gate._turned_away.take_now()
        next_one = asyncio.ensure_future(gate.turn_away())
        await asyncio.sleep(0)
        assert not next_one.done()
        gate._turned_away.give()
        await next_one
        gate._turned_away = Lane(0, 0)
        await gate.turn_away()

    in_a_loop(work)


SLOTS = 2
ASKED = SLOTS + SLOTS * 16 + 6


@pytest.fixture(scope="module")
def cluster(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    settings = {"IDHUB_DATABASE_POOL_SIZE": str(SLOTS)}
    with running_cluster("postgresql", databases, folder, processes=1, settings=settings) as made:
        yield made


def test_d07_database_that_does_not_answer_sheds_others_and_not_a_leave(cluster: Cluster) -> None:
    """D07: pool exhausted: 503 with Retry-After, health says so, revocations have connections of their own."""
    person = cluster.employee()
    token = cluster.api_token_of(None, scopes=("people:write", "findings:read"))
    headers = {"Authorization": f"Bearer {token}"}
    base = f"http://127.0.0.1:{cluster.ports[0]}"
    held, let_go = threading.Event(), threading.Event()

    def keep_the_table() -> None:
        with cluster.hub.database.engine.connect() as connection:
            connection.execute(text("LOCK TABLE findings IN ACCESS EXCLUSIVE MODE"))
            held.set()
            let_go.wait(60)
            connection.rollback()

    def ask(client: httpx2.Client) -> httpx2.Response:
        return client.get("/api/v1/findings", headers=headers)

    limits = httpx2.Limits(max_connections=ASKED + 4)
    with (
        httpx2.Client(base_url=base, timeout=60, limits=limits) as client,
        ThreadPoolExecutor(ASKED + 1) as threads,
    ):
        keeper = threads.submit(keep_the_table)
        try:
            assert held.wait(60)
            asked = [threads.submit(ask, client) for _ in range(ASKED)]
            # All but those that hold a thread are told to come back: at once, or when the line has not moved.
            refused, working = set[Any](), set(asked)
            while len(working) > SLOTS:
                done, working = wait(working, timeout=60, return_when="FIRST_COMPLETED")
                refused |= done
            assert {one.result().status_code for one in refused} == {503}
            assert all(int(one.result().headers["retry-after"]) >= 1 for one in refused)
            assert all("try again" in one.result().text for one in refused)
            assert client.get("/healthz").status_code == 200
            ready = client.get("/readyz")
            assert (ready.status_code, "load" in ready.json()["failing"]) == (503, True)
            left = client.post(f"/api/v1/people/{person.id}/offboarding", headers=headers, json={})
            assert left.status_code in {200, 201, 202}, left.text
        finally:
            let_go.set()
        keeper.result(60)
        assert {one.result(60).status_code for one in working} == {200}
        assert ask(client).status_code == 200
        assert f"idhub_requests_shed_total {float(len(refused))}" in client.get("/metrics").text


def test_readers_are_served_in_turn_whoever_asks_for_much() -> None:
    async def work() -> None:
        lane, go_on, served = ReadingLane(1), threading.Event(), list[str]()
        first = asyncio.ensure_future(lane.run("first", go_on.wait))
        await asyncio.sleep(0)
        asked = [
            asyncio.ensure_future(lane.run(who, partial(served.append, who)))
            for who in ("much", "much", "much", "one", "other")
        ]
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(first, *asked)
        assert served == ["much", "one", "other", "much", "much"]

    in_a_loop(work)


def _served(asked: Sequence[tuple[str, bool]]) -> list[str]:
    """In what order readings are done that wait for one thread: who asked, and whether for one thing."""
    served: list[str] = []

    async def work() -> None:
        lane, go_on = ReadingLane(1), threading.Event()
        first = asyncio.ensure_future(lane.run("first", go_on.wait))
        await asyncio.sleep(0)
        waiting = [
            asyncio.ensure_future(lane.run(who, partial(served.append, f"{who} {number}"), is_short=is_short))
            for number, (who, is_short) in enumerate(asked)
        ]
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(first, *waiting)

    in_a_loop(work)
    return served


def test_whoever_reads_one_thing_goes_before_who_reads_many() -> None:
    asked = [("a", False), ("a", False), ("b", False), ("b", True), ("a", True), ("b", True)]

    assert _served(asked) == ["b 3", "a 4", "b 5", "a 0", "b 2", "a 1"]


def test_whoever_reads_many_waits_for_few_who_read_one_thing() -> None:
    short = [("short", True)] * 20

    served = _served([("many", False), ("many", False), *short])

    assert [place for place, each in enumerate(served) if each.startswith("many")] == [8, 17]


def test_more_than_a_second_of_reading_is_refused() -> None:
    """What a piece takes is learned; few may wait however long theirs take."""

    async def work() -> None:
        now = iter(range(0, 1_000_000, 5))
        lane, go_on = ReadingLane(1, timer=lambda: float(next(now))), threading.Event()
        for _ in range(3):
            await lane.run("first", lambda: None)
        first = asyncio.ensure_future(lane.run("first", go_on.wait))
        await asyncio.sleep(0)
        asked = [asyncio.ensure_future(lane.run("first", lambda: None)) for _ in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable) as refused:
            await lane.run("first", lambda: None)
        assert refused.value.retry_after == timedelta(seconds=1)
        go_on.set()
        await asyncio.gather(first, *asked)
        await lane.run("second", lambda: None)

    in_a_loop(work)


def test_where_no_more_may_wait_the_last_of_the_longest_line_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_MOST_WAIT", 4)

    async def work() -> None:
        lane, go_on, served = ReadingLane(1), threading.Event(), list[str]()
        first = asyncio.ensure_future(lane.run("first", go_on.wait))
        await asyncio.sleep(0)
        asked = []
        for number, who in enumerate(("much", "much", "much", "one", "two", "much", "one", "three")):
            asked.append(asyncio.ensure_future(lane.run(who, partial(served.append, f"{who} {number}"))))
            await asyncio.sleep(0)
        go_on.set()
        await first
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        # The third of `much` went for `two`, its second for `three`; nobody goes for who has as many.
        assert served == ["much 0", "one 3", "two 4", "three 7"]
        assert [place for place, each in enumerate(outcomes) if isinstance(each, Unavailable)] == [1, 2, 5, 6]
        await asyncio.wait_for(lane.run("next", partial(served.append, "next")), 10)

    in_a_loop(work)


def test_lines_of_who_reads_one_thing_and_of_who_reads_many_are_one_when_somebody_must_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "_MOST_WAIT", 4)

    async def work() -> None:
        lane, go_on, served = ReadingLane(1), threading.Event(), list[str]()
        first = asyncio.ensure_future(lane.run("first", go_on.wait))
        await asyncio.sleep(0)
        asked = []
        for number, (who, is_short) in enumerate(
            [("much", True), ("much", False), ("much", True), ("one", False), ("two", True), ("three", False)]
        ):
            work = partial(served.append, f"{who} {number}")
            asked.append(asyncio.ensure_future(lane.run(who, work, is_short=is_short)))
            await asyncio.sleep(0)
        go_on.set()
        await first
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        # What reads many goes first for `two`; then `much` has two left, and one of them goes for `three`.
        assert served == ["much 0", "two 4", "one 3", "three 5"]
        assert [place for place, each in enumerate(outcomes) if isinstance(each, Unavailable)] == [1, 2]
        await asyncio.wait_for(lane.run("next", partial(served.append, "next")), 10)

    in_a_loop(work)


def test_reader_who_waits_too_long_or_goes_away_keeps_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_PATIENCE", 0.01)

    async def work() -> None:
        lane, go_on, done = ReadingLane(1), threading.Event(), list[int]()
        first = asyncio.ensure_future(lane.run("first", go_on.wait))
        await asyncio.sleep(0)
        gone = asyncio.ensure_future(lane.run("gone", partial(done.append, 1)))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(Unavailable):
            await lane.run("late", partial(done.append, 2))
        go_on.set()
        await first
        await asyncio.wait_for(lane.run("next", partial(done.append, 3)), 10)
        assert (done, gone.cancelled()) == ([3], True)

    in_a_loop(work)


def test_what_scim_senders_read_takes_no_slot_of_others() -> None:
    async def work() -> None:
        gate = made(1)
        assert await gate.enter(*LIST) is not None
        for method, path in (
            ("GET", "/scim/v2/Users"),
            ("GET", "/scim/v2/Users/x"),
            ("POST", "/scim/v2/Users/.search"),
        ):
            assert await gate.enter(method, path) is not None
        for method, path in (("POST", "/scim/v2/Users"), ("GET", "/scim/v2/Bulk/job_1"), ("PATCH", "/scim/v2/Users/x")):
            waiting = asyncio.ensure_future(gate.enter(method, path))
            await asyncio.sleep(0)
            assert not waiting.done()
            waiting.cancel()

    in_a_loop(work)
