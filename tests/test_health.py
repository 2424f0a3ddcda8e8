"""/healthz, /readyz, /metrics: what they name, and what they never tell."""

import platform
import re
import sqlite3
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import text, update
from starlette.testclient import TestClient

from idhub import health
from idhub.admission import Admission
from idhub.authority import HubRole, assign_role
from idhub.changes import COMMAND_LINE, Event, EventType, record
from idhub.db import Database
from idhub.delivery.channel import Outcome
from idhub.delivery.queue import lease, pause, settle
from idhub.directory.kinds import PrincipalKind, Standing
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Installation, Principal
from idhub.keys import Keyring
from idhub.lifecycle.tables import UnevaluatedPerson
from idhub.provisioning.events.tables import EventRow, EventStream
from idhub.services import Hub
from idhub.settings import Settings
from tests.delivery.conftest import hub
from tests.delivery.rows import delivery, put
from tests.support.clock import Clock

__all__ = ["hub"]


@pytest.fixture
def opened(hub: Database, settings: Settings, keyring: Keyring, clock: Clock) -> Hub:
    with hub.transaction() as session:
        session.add(Installation(id=1, epoch=1, created_at=clock(), rules_version=1))
    return Hub(settings, hub, keyring, clock, "node-1")


def client(opened: Hub, admission: Admission | None = None) -> TestClient:
    app = FastAPI()
    services = SimpleNamespace(
        hub=opened, hashing=SimpleNamespace(depth=3, refused=2), admission=admission or Admission(2, clock=opened.clock)
    )
    app.include_router(health.create_router(services))
    return TestClient(app)


def an_event(opened: Hub, *, outcome: Any = "success") -> Event:
    return Event(
        type=EventType.LOGIN_SUCCEEDED,
        at=opened.clock(),
        actor=COMMAND_LINE,
        door="login",
        target_kind="person",
        target_id="per_1",
        outcome=outcome,
    )


def test_a_process_that_answers_is_alive(opened: Hub) -> None:
    answer = client(opened).get("/healthz")

    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})
    assert answer.headers["cache-control"] == "no-store"


def test_a_fit_hub_is_ready(opened: Hub) -> None:
    answer = client(opened).get("/readyz")

    assert answer.status_code == 200, answer.json()
    assert answer.json()["failing"] == []
    assert set(answer.json()["checks"]) == {
        "database",
        "recovery",
        "migrations",
        "keys",
        "disk",
        "sequencer",
        "deliveries",
        "load",
    }


def test_a_sequencer_that_lags_is_named(opened: Hub, clock: Clock) -> None:
    with opened.database.transaction() as session:
        record(session, [an_event(opened)])
    asked = client(opened)
    assert asked.get("/readyz").status_code == 200

    clock.advance(health.SEQUENCER_LAG_LIMIT + timedelta(seconds=1))

    answer = asked.get("/readyz")
    assert (answer.status_code, answer.json()["failing"]) == (503, ["sequencer"])
    assert answer.json()["checks"]["sequencer"]["detail"] == "1 events wait, the oldest for 31.0 s"


def seal(opened: Hub, clock: Clock) -> None:
    opened.sequencer().run_once(clock())


def test_deliveries_that_no_worker_takes_are_named(opened: Hub, clock: Clock, settings: Settings) -> None:
    put(opened.database, clock, delivery(), delivery("b", application_id="app_b"))
    clock.advance(health.DELIVERY_LAG_LIMIT + timedelta(seconds=1))
    seal(opened, clock)
    answer = client(opened).get("/readyz")
    assert (answer.status_code, answer.json()["failing"]) == (503, ["deliveries"])

    # An application that is being sent to, or is held, is no fault of the workers.
    leased = lease(opened.database, worker="w", now=clock(), limit=1, settings=settings)
    with opened.database.transaction() as session:
        pause(session, ({"app_a", "app_b"} - {leased[0].application_id}).pop(), now=clock(), actor=COMMAND_LINE)
    seal(opened, clock)
    assert client(opened).get("/readyz").status_code == 200


def test_waiting_for_the_next_attempt_is_not_late(opened: Hub, clock: Clock, settings: Settings) -> None:
    """O13: an application that is down for two hours does not make the hub unfit."""
    put(opened.database, clock, delivery(), delivery())
    (leased,) = lease(opened.database, worker="w", now=clock(), limit=9, settings=settings)
    told = Outcome(kind="retry", status_code=503, retry_after=timedelta(hours=1))
    settle(opened.database, leased, told, now=clock(), settings=settings)
    clock.advance(minutes=30)
    seal(opened, clock)

    assert client(opened).get("/readyz").status_code == 200


def test_an_old_schema_is_named(opened: Hub) -> None:
    with opened.database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'r0000'"))

    answer = client(opened).get("/readyz")

    assert (answer.status_code, answer.json()["failing"]) == (503, ["migrations"])


def test_missing_keys_are_named(opened: Hub) -> None:
    without = Hub(opened.settings, opened.database, Keyring(opened.keyring.master, []), opened.clock, opened.node)

    answer = client(without).get("/readyz")

    assert (answer.status_code, answer.json()["failing"]) == (503, ["keys"])


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_broken_database_is_named_without_a_word_about_it(opened: Hub, settings: Settings) -> None:
    """G05."""
    path = Path(settings.effective_database_url.removeprefix("sqlite:///"))
    opened.database.dispose()
    for left in path.parent.glob("idhub.db-*"):
        left.unlink()
    path.write_bytes(b"this is no database" * 500)
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(path).execute("SELECT * FROM installation")

    asked = client(opened)
    ready, metrics = asked.get("/readyz"), asked.get("/metrics")

    assert (ready.status_code, ready.json()["failing"]) == (503, ["database"])
    assert str(path) not in ready.text
    assert "SELECT" not in ready.text
    assert metrics.status_code == 200
    assert "idhub_database_up 0.0" in metrics.text


def test_everybody_within_a_second_gets_one_look(opened: Hub, clock: Clock) -> None:
    asked = client(opened)
    first = asked.get("/readyz")
    with opened.database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'r0000'"))

    assert asked.get("/readyz").content == first.content
    clock.advance(seconds=1)
    assert asked.get("/readyz").status_code == 503


def test_metrics_count_deliveries_holds_and_events(opened: Hub, clock: Clock, settings: Settings) -> None:
    asked = client(opened)
    asked.get("/metrics")
    put(opened.database, clock, delivery(), delivery("b"), delivery("c", application_id="app_b"))
    leased = lease(opened.database, worker="w", now=clock(), limit=2, settings=settings)
    settle(opened.database, leased[0], Outcome(kind="dead", status_code=409), now=clock(), settings=settings)
    with opened.database.transaction() as session:
        pause(session, "app_b", now=clock(), actor=COMMAND_LINE)
        record(session, [an_event(opened), an_event(opened), an_event(opened, outcome="failure")])
    clock.advance(seconds=5)
    seal(opened, clock)

    shown = asked.get("/metrics").text

    assert 'idhub_deliveries{application="app-a",state="pending"}' in shown
    assert 'idhub_delivery_held{application="app-b",reason="paused"} 1.0' in shown
    assert 'idhub_events_total{outcome="success",type="login.succeeded"} 2.0' in shown
    assert 'idhub_events_total{outcome="failure",type="login.succeeded"} 1.0' in shown
    assert 'idhub_delivery_oldest_seconds{application="app-a"} 5.0' in shown
    assert "idhub_sequencer_pending_events 0.0" in shown
    assert 'idhub_credentials_alive{kind="session"} 0.0' in shown
    assert "idhub_hashing_queue_depth 3.0" in shown
    assert sum(float(line.split()[-1]) for line in shown.splitlines() if 'state="dead"' in line) == 1
    assert sum(float(line.split()[-1]) for line in shown.splitlines() if 'state="review"' in line) == 0


def test_what_waits_for_a_decision_is_told_and_is_no_dead_letter(opened: Hub, clock: Clock, settings: Settings) -> None:
    put(opened.database, clock, delivery(operation="provision"))
    (leased,) = lease(opened.database, worker="w", now=clock(), limit=2, settings=settings)
    settle(opened.database, leased, Outcome(kind="review", status_code=200), now=clock(), settings=settings)

    found = {one.name: one for one in health.check(opened, now=clock())}
    shown = client(opened).get("/metrics").text

    assert (found["dead letters"].is_ok, found["dead letters"].detail) == (True, "none")
    assert (found["reviews"].is_ok, found["reviews"].detail.split(" ")[0]) == (True, "1")
    assert 'idhub_deliveries{application="app-a",state="review"} 1.0' in shown
    assert 'idhub_deliveries{application="app-a",state="dead"} 0.0' in shown


def test_doctor_tells_what_needs_somebody_although_requests_are_answered(
    opened: Hub, clock: Clock, settings: Settings
) -> None:
    put(opened.database, clock, delivery())
    (leased,) = lease(opened.database, worker="w", now=clock(), limit=2, settings=settings)
    settle(opened.database, leased, Outcome(kind="dead", status_code=409), now=clock(), settings=settings)
    with opened.database.transaction() as session:
        pause(session, "app_b", now=clock(), actor=COMMAND_LINE)
        session.execute(update(Installation).values(recovery_reason="Behind the witness by 3 events."))

    found = {one.name: one for one in health.check(opened, now=clock())}

    assert {name for name, one in found.items() if not one.is_ok} == {"recovery", "holds", "dead letters", "witness"}
    assert found["holds"].detail == "Deliveries stand still: app-b (paused)."
    assert re.fullmatch(r"a hash takes \d+ ms of a core, by (libsodium|argon2-cffi)", found["passwords"].detail)
    assert found["python"].detail.startswith(f"CPython {platform.python_version()}, ")
    assert ("sqlite" in found) == (opened.database.dialect == "sqlite")
    assert found["dead letters"].detail == "1 deliveries were given up and need somebody."
    seal(opened, clock)
    assert {one.name: one.is_ok for one in health.check(opened, now=clock())}["witness"]


def test_day_from_which_on_nobody_administers_is_told_two_months_ahead(opened: Hub, clock: Clock) -> None:
    def told(until: datetime | None) -> tuple[bool, str]:
        with opened.database.transaction() as session:
            session.execute(update(Principal).where(Principal.id == "per_adm").values(access_ends_at=until))
        (one,) = (one for one in health.check(opened, now=clock()) if one.name == "administrators")
        return one.is_ok, one.detail

    assert told(None) == (True, "nobody is one: see `idhub role assign`")
    now = clock()
    with opened.database.transaction() as session:
        place = root_organization(session)
        session.add(
            Principal(
                id="per_adm", kind=PrincipalKind.PERSON, organization_id=place, standing=Standing.ACTIVE,
                access_starts_at=now, created_at=now, changed_at=now,
            )
        )  # fmt: skip
        session.flush()
        assign_role(session, "per_adm", HubRole.ADMINISTRATOR, organization_id=place, now=now, assigned_by="test")
    assert told(None) == (True, "somebody is one without an end")
    assert told(now + timedelta(days=61))[0]
    is_ok, said = told(now + timedelta(days=59))
    assert (is_ok, said.endswith("UTC on nobody is an administrator: name one who stays.")) == (False, True)


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize(("apart", "is_ok"), [(0, True), (-50, True), (50, True), (-300, False), (300, False)])
def test_clock_that_differs_from_the_databases_is_told(opened: Hub, apart: int, is_ok: bool) -> None:
    """A node that is five minutes late lets people in for five minutes after their end."""
    with opened.database.read() as session:
        found = health.clocks(session, lambda: time.time() + apart)

    assert (found.name, found.is_ok) == ("clock", is_ok)
    told = re.search(r"are (\d+) s apart", found.detail)
    assert told is None if is_ok else told is not None and 290 <= int(told[1]) <= 310


def test_people_on_whom_the_look_after_a_change_of_rules_fails_are_named(opened: Hub, clock: Clock) -> None:
    def found() -> health.Finding:
        return next(one for one in health.check(opened, now=clock()) if one.name == "rules")

    assert found().is_ok
    with opened.database.transaction() as session:
        session.add(
            Principal(
                id="per_x", kind=PrincipalKind.PERSON, organization_id=root_organization(session),
                standing=Standing.ACTIVE, access_starts_at=clock(), created_at=clock(), changed_at=clock(),
            )
        )  # fmt: skip
        session.flush()
        session.add(
            UnevaluatedPerson(principal_id="per_x", error="ValueError", attempts=3, since=clock(), again_at=clock())
        )
    assert not found().is_ok
    assert "per_x (ValueError, since 2026-11-23 02:00 UTC)" in found().detail


def test_receivers_that_do_not_take_their_events_are_named(opened: Hub, clock: Clock) -> None:
    now = clock()
    stream = EventStream(
        id="str_1", token_name="payroll", requested=[], created_at=now, next_attempt_at=now, failures=4,
        last_error="The receiver answered 401.", refused=0, lost=0,
    )  # fmt: skip
    event = EventRow(
        stream_id="str_1", token_id="t", transaction_id="t", resource="User", resource_id="per_1", kind="create",
        details=[], happened_at=now,
    )  # fmt: skip
    with opened.database.transaction() as session:
        session.add_all([stream, event])

    def found() -> health.Finding:
        return next(one for one in health.check(opened, now=clock.advance(hours=1)) if one.name == "streams")

    assert found().is_ok
    late = found()
    assert not late.is_ok
    assert late.detail.startswith(
        "These receivers do not take their events: payroll (1 wait, The receiver answered 401)."
    )
