"""What the worker does by itself: each application in its turn, spread over its interval, findings settled."""

from datetime import timedelta

import pytest

from idhub.access.reconcile_plan import due, plan_of
from idhub.delivery.http import OutboundHttp
from idhub.delivery.leases import hold
from idhub.provisioning.reconcile.run import Report
from idhub.provisioning.reconcile.schedule import first_wait, reconcile_due
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


def test_first_places_are_spread_over_the_interval() -> None:
    waits = [first_wait(f"app_{number}", timedelta(days=1)) for number in range(300)]
    hours = [sum(timedelta(hours=h) <= wait < timedelta(hours=h + 1) for wait in waits) for h in range(24)]
    assert max(hours) < 40
    assert min(hours) > 0
