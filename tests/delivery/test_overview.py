"""What pages ask of the queue."""

import pytest

from idhub.db import Database
from idhub.delivery.channel import Outcome
from idhub.delivery.overview import ApplicationQueue, DeadLetter, dead_letters, queues
from idhub.delivery.queue import lease, settle_all
from idhub.errors import Invalid
from idhub.settings import Settings
from tests.delivery.rows import DONE, delivery, put
from tests.support.clock import Clock


def test_queues_count_what_is_unfinished_or_dead(hub: Database, clock: Clock, settings: Settings) -> None:
    began = clock()
    put(hub, clock, delivery("a"), delivery("b"), delivery("c"), delivery("z", application_id="app_b"))
    leased = lease(hub, worker="w", now=clock(), limit=9, settings=settings)
    by_lane = {one.lane: one for one in leased}
    answers = [(by_lane["a"], Outcome(kind="dead", status_code=409)), (by_lane["b"], DONE), (by_lane["z"], DONE)]
    settle_all(hub, answers, now=clock(), settings=settings)
    clock.advance(minutes=5)
    put(hub, clock, delivery("d"), delivery("e"))

    with hub.read() as session:
        found = queues(session)
        nothing = queues(session, ["app_b"])

    assert found == [ApplicationQueue("app_a", waiting=2, in_flight=1, dead=1, oldest_waiting=began)]
    assert nothing == []


def test_dead_letters_come_page_by_page_newest_first(hub: Database, clock: Clock, settings: Settings) -> None:
    ids = put(hub, clock, *[delivery(f"l{i}") for i in range(7)], delivery("x", application_id="app_b"))
    leased = lease(hub, worker="w", now=clock(), limit=20, settings=settings)
    dead = Outcome(kind="dead", status_code=409, error="owned by somebody else")
    settle_all(hub, [(one, dead) for one in leased], now=clock(), settings=settings)

    letters: list[DeadLetter] = []
    cursor: str | None = None
    with hub.read() as session:
        for _ in range(3):
            page = dead_letters(session, application_ids=["app_a"], cursor=cursor, limit=3)
            letters += page.rows
            cursor = page.next_cursor
    seen, letter = [one.id for one in letters], letters[-1]

    assert seen == sorted(ids[:7], reverse=True)
    assert cursor is None
    assert (letter.last_error, letter.last_status, letter.attempts) == ("owned by somebody else", 409, 1)
    assert letter.finished_at == clock()


@pytest.mark.parametrize("cursor", ["", "1", "per_1", "dlv_" + "x" * 60, "dlv_李"])
def test_a_foreign_cursor_is_refused(hub: Database, cursor: str) -> None:
    with hub.read() as session, pytest.raises(Invalid) as refused:
        dead_letters(session, cursor=cursor)

    assert refused.value.rule == "cursor.form"
