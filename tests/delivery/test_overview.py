"""What health checks ask of the queue."""

from idhub.db import Database
from idhub.delivery.channel import Outcome
from idhub.delivery.overview import ApplicationQueue, queues
from idhub.delivery.queue import lease, settle_all
from idhub.settings import Settings
from tests.delivery.rows import DONE, delivery, put
from tests.support.clock import Clock


def test_queues_count_what_is_unfinished_in_review_or_dead(hub: Database, clock: Clock, settings: Settings) -> None:
    began = clock()
    put(hub, clock, *[delivery(lane) for lane in "abcr"], delivery("z", application_id="app_b"))
    leased = lease(hub, worker="w", now=clock(), limit=9, settings=settings)
    by_lane = {one.lane: one for one in leased}
    answers = [(by_lane["a"], Outcome(kind="dead", status_code=409)), (by_lane["b"], DONE), (by_lane["z"], DONE)]
    answers.append((by_lane["r"], Outcome(kind="review", status_code=200)))
    settle_all(hub, answers, now=clock(), settings=settings)
    clock.advance(minutes=5)
    put(hub, clock, delivery("d"), delivery("e"))

    with hub.read() as session:
        found = queues(session)
        nothing = queues(session, ["app_b"])

    assert found == [ApplicationQueue("app_a", waiting=2, in_flight=1, reviewing=1, dead=1, oldest_waiting=began)]
    assert nothing == []
