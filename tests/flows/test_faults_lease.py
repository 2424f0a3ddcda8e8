"""A worker stopped past its lease while another takes over, then continued: its late writes are refused. D11, O12."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from idhub.delivery.tables import Delivery, DeliveryAttempt
from tests.flows.fault_checks import check
from tests.flows.fault_flows import FLOWS
from tests.flows.fault_scene import PATIENCE, Prepared, Scene, copied, prepare
from tests.support.databases import DatabaseKind, Databases
from tests.support.nursery import Child, Nursery
from tests.support.processes import stop_now, wait_until


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def prepared(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prepared]:
    """The installation that is copied."""
    kind: DatabaseKind = request.param
    with Nursery() as nursery:
        yield prepare(kind, tmp_path_factory.mktemp(f"prepared-lease-{kind}-"), nursery, databases)


def _stop_between_transactions(scene: Scene, worker: Child) -> None:
    """SIGSTOP where it has no transaction open: one that has holds the others up.

    On SQLite until it goes on or is killed, on PostgreSQL until the server ends its idle transaction, a minute at most.
    """
    nursery = scene.prepared.nursery
    for _ in range(200):
        stop_now(worker.pid)
        if not _has_transaction(scene):
            return
        nursery.signal(worker, signal.SIGCONT)
        time.sleep(0.013)
    raise AssertionError("it has a transaction open all the time")


def _has_transaction(scene: Scene) -> bool:
    with scene.look() as database, database.engine.connect() as connection:
        if database.dialect == "postgresql":
            open_ones = text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND xact_start IS NOT NULL"
            )
            return bool(connection.execute(open_ones).scalar_one())
        connection.exec_driver_sql("PRAGMA busy_timeout=100")
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except OperationalError:
            return True
        connection.rollback()
        return False


@pytest.mark.slow
def test_a_worker_stopped_past_its_lease_changes_nothing_when_it_goes_on(
    prepared: Prepared, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """It holds everything that a worker can hold: deliveries in flight, the sequencer, the schedule."""
    offboarding = next(flow for flow in FLOWS if flow.name == "offboarding")
    reached, go_on = threading.Event(), threading.Event()

    def before(method: str, _user: str) -> None:
        # The first request about her account is held until the worker that sent it has been stopped.
        if method == "GET" and not reached.is_set():
            reached.set()
            go_on.wait(PATIENCE)

    with copied(prepared, tmp_path / "hub") as scene:
        nursery = prepared.nursery
        scene.start("worker")
        wait_until(lambda: "worker" in scene.tail(), seconds=PATIENCE, what="the worker runs")
        scene.scim.before = before
        offboarding.act(scene)
        assert reached.wait(PATIENCE), scene.tail()
        stopped = scene.children.pop("worker")
        _stop_between_transactions(scene, stopped)
        try:
            began = time.monotonic()
            go_on.set()  # the answer waits in the stopped worker's socket
            scene.start("worker")
            scene.settle()
            took = time.monotonic() - began
            offboarding.check(scene)
            with scene.look() as database, database.read() as session:
                before_it_went_on = session.execute(select(Delivery.__table__).order_by(Delivery.id)).all()
                outcomes = sorted(str(o) for o in session.execute(select(DeliveryAttempt.outcome)).scalars())
            assert "lost" in outcomes, "the second worker took the lease over"
        finally:
            nursery.signal(stopped, signal.SIGCONT)
        time.sleep(3)  # it settles what it had in hand, seals, renews what it thinks it holds
        assert nursery.status(stopped) is None, f"it lives:\n{scene.tail()}"
        scene.settle()
        with scene.look() as database, database.read() as session:
            after = session.execute(select(Delivery.__table__).order_by(Delivery.id)).all()
        assert after == before_it_went_on, "its late writes were refused"
        assert nursery.stop(stopped) in {0, -signal.SIGTERM}
        scene.settle()
        scene.stop("worker")
        check(scene)
        assert "delivery.lease_lost" in scene.tail(), "and it knows"
    figure(
        f"A worker stopped past its lease on {prepared.kind}: another had finished everything {took:.1f} s later;"
        " after SIGCONT 0 of its writes took effect"
    )
