"""What the worker does by itself: each application in its turn, spread over its interval, findings settled."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from idhub.access.reconcile_plan import due, plan_of, set_plan
from idhub.access.tables import Application
from idhub.changes import COMMAND_LINE
from idhub.delivery.http import OutboundHttp
from idhub.delivery.leases import hold
from idhub.errors import Conflict
from idhub.provisioning.reconcile.run import Report
from idhub.provisioning.reconcile.schedule import Turn, ask, first_wait, reconcile_due, turns
from idhub.provisioning.reconcile.tables import ReconcileRun
from tests.provisioning.reconcile.conftest import Ground

sqlite_only = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


def tick(ground: Ground) -> Report | None:
    settings = ground.scene.settings.model_copy(update={"outbound_allow": ",".join(ground.scene.allowed)})
    scene = ground.scene
    return reconcile_due(scene.database, scene.keyring, OutboundHttp(settings), clock=scene.clock)


@sqlite_only
def test_new_application_gets_its_place_first_and_is_compared_then(ground: Ground) -> None:
    ground.service.add("nobody")
    assert tick(ground) is None
    with ground.scene.database.read() as session:
        place = plan_of(session, ground.application_id).next_run_at
    assert place == ground.scene.clock() + first_wait(ground.application_id, timedelta(days=1))
    assert tick(ground) is None
    assert ground.service.seen == []
    ground.scene.clock.advance(days=1)
    report = tick(ground)
    assert report is not None
    assert report.found == {"ghost": 1}
    assert tick(ground) is None
    with ground.scene.database.read() as session:
        # It was compared on a clock that was wrong.
        assert due(session, now=ground.scene.clock() - timedelta(days=3)) == [ground.application_id]


@sqlite_only
def test_application_that_another_process_compares_is_passed_over(ground: Ground) -> None:
    tick(ground)
    ground.scene.clock.advance(days=1)
    now, name = ground.scene.clock(), f"reconcile:{ground.application_id}"
    assert hold(ground.scene.database, name, "another", now=now, lifetime=timedelta(minutes=5))
    assert tick(ground) is None
    ground.scene.clock.advance(hours=2)
    assert tick(ground) is not None


@sqlite_only
def test_incomplete_run_is_tried_again_within_the_hour(ground: Ground) -> None:
    tick(ground)
    ground.service.on_list = lambda _asked, page: {**page, "totalResults": 9}
    ground.scene.clock.advance(days=1)
    report = tick(ground)
    assert report is not None
    assert not report.is_complete
    with ground.scene.database.read() as session:
        assert due(session, now=ground.scene.clock() + timedelta(minutes=59)) == []
        assert due(session, now=ground.scene.clock() + timedelta(hours=1)) == [ground.application_id]


def test_what_is_compared_only_when_somebody_asks_is_compared_then_and_once(ground: Ground) -> None:
    with ground.scene.database.transaction() as session:
        set_plan(session, ground.application_id, every=timedelta(0), policy="report", service_accounts=[])
    ground.scene.clock.advance(days=2)
    assert tick(ground) is None
    assert asking(ground) == 1
    report = tick(ground)
    assert report is not None and report.is_complete
    ground.scene.clock.advance(days=2)
    assert tick(ground) is None


@sqlite_only
def test_application_that_is_not_to_be_compared_by_itself_any_more_is_not(ground: Ground) -> None:
    ground.plan()
    tick(ground)
    with ground.scene.database.transaction() as session:
        set_plan(session, ground.application_id, every=timedelta(0), policy="report", service_accounts=[])
    ground.scene.clock.advance(days=2)
    assert tick(ground) is None


@sqlite_only
def test_application_that_is_switched_off_is_not_asked_for(ground: Ground) -> None:
    with ground.scene.database.transaction() as session:
        session.execute(update(Application).values(is_enabled=False))
    with pytest.raises(Conflict) as refused:
        asking(ground)
    assert refused.value.rule == "reconcile.nothing"


def test_what_is_under_way_is_said_with_how_far_it_is_and_not_asked_for_again(ground: Ground) -> None:
    for number in range(250):
        ground.service.add(f"nobody{number:03}")
    seen: list[Turn] = []

    def on_list(asked: Any, page: dict[str, Any]) -> dict[str, Any]:
        ground.scene.clock.advance(seconds=3)
        seen.extend(looking(ground))
        if len(seen) == 1:
            with pytest.raises(Conflict) as refused:
                asking(ground)
            assert refused.value.rule == "reconcile.under_way"
        return page

    assert asking(ground) == 1
    assert [turn.is_running for turn in looking(ground)] == [False]
    with pytest.raises(Conflict):
        asking(ground)
    ground.service.on_list = on_list
    assert tick(ground) is not None
    assert {turn.is_running for turn in seen} == {True}
    assert [turn.read for turn in seen] == sorted(turn.read for turn in seen)
    assert seen[0].read == 0
    assert any(0 < turn.read < 250 and turn.total == 250 for turn in seen)
    assert looking(ground) == []
    # It ended, and who asks now is heard.
    assert asking(ground) == 1


def test_run_that_was_broken_off_is_not_said_to_go_on(ground: Ground) -> None:
    now = ground.scene.clock()
    with ground.scene.database.transaction() as session:
        session.add(
            ReconcileRun(
                id="rec_old", source="scim", application_id=ground.application_id, state="running", started_at=now,
                read=7, gaps=[], counts={}, started_by="system",
            )
        )  # fmt: skip
    assert looking(ground) == []
    assert asking(ground) == 1


def looking(ground: Ground) -> list[Turn]:
    with ground.scene.database.read() as session:
        return turns(session, within=None, now=ground.scene.clock())


def asking(ground: Ground) -> int:
    with ground.scene.database.transaction() as session:
        return ask(session, within=None, now=ground.scene.clock(), actor=COMMAND_LINE, door="cli")


def test_first_places_are_spread_over_the_interval() -> None:
    waits = [first_wait(f"app_{number}", timedelta(days=1)) for number in range(300)]
    hours = [sum(timedelta(hours=h) <= wait < timedelta(hours=h + 1) for wait in waits) for h in range(24)]
    assert max(hours) < 40
    assert min(hours) > 0
