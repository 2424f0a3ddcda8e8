"""Planner, queue, loop and channel together: a leave in five applications, graded as far as each was proven."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select

from idhub.db import Database
from idhub.delivery.channel import Grade
from idhub.delivery.http import OutboundHttp
from idhub.delivery.loop import DeliveryLoop
from idhub.delivery.queue import plan
from idhub.delivery.tables import Delivery
from idhub.lifecycle.ports import ApplicationTerms, Batch
from idhub.provisioning.outbound.channel import ScimChannel
from idhub.provisioning.outbound.planner import ScimPlanner
from tests.provisioning.conftest import Scene
from tests.provisioning.stand_ins import Behaviour, StandIn

TIMEOUT = timedelta(seconds=3)


def utc_now() -> datetime:
    return datetime.now(UTC)


def plan_batch(database: Database, batch: Batch) -> None:
    with database.transaction() as session:
        now = utc_now()
        plan(session, ScimPlanner(TIMEOUT).plan(session, batch, now=now), now=now)


def work_until(scene: Scene, condition: Callable[[], bool], *, seconds: float = 60) -> None:
    """Run the delivery loop, as the worker does, until the condition holds."""
    settings = scene.settings.model_copy(
        update={"outbound_allow": ",".join(scene.allowed), "delivery_timeout": TIMEOUT, "delivery_per_application": 4}
    )

    async def worked() -> None:
        stop = asyncio.Event()
        async with OutboundHttp(settings) as http:
            channel = ScimChannel(scene.database, scene.keyring, http, timeout=TIMEOUT)
            loop = DeliveryLoop(scene.database, settings, {"scim": channel}, clock=utc_now, worker="w1")
            working = asyncio.create_task(loop.run(stop))
            try:
                async with asyncio.timeout(seconds):
                    while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - the condition is in the database
                        await asyncio.sleep(0.05)
            finally:
                stop.set()
                await working

    asyncio.run(worked())


def deliveries(database: Database, operation: str) -> dict[str, Mapping[str, Any]]:
    """Deliveries of an operation by application."""
    with database.read() as session:
        rows = session.execute(select(Delivery.__table__).where(Delivery.operation == operation))
        return {row.application_id: dict(row._mapping) for row in rows}


def test_leave_in_five_kinds_of_application(scene: Scene, database: Database) -> None:
    kinds: tuple[Behaviour, ...] = ("good", "slow", "failing", "lying", "silent")
    person = scene.person()
    with ExitStack() as stack:
        services = {kind: stack.enter_context(StandIn(delay=0.05, retry_after=1)) for kind in kinds}
        applications = {kind: scene.application(service) for kind, service in services.items()}
        for kind, service in services.items():
            scene.alive(service, applications[kind], f"control-{kind}")
            scene.entitle(person, applications[kind])
        plan_batch(database, Batch(gained=[(person, applications[kind]) for kind in kinds]))
        work_until(scene, lambda: all(d["state"] == "done" for d in deliveries(database, "provision").values()))
        accounts = {kind: service.users["u2"] for kind, service in services.items()}
        assert all(user["externalId"] == person and user["active"] for user in accounts.values())

        for kind, service in services.items():
            service.behaviour = kind
        scene.leave(person)
        terms = {a: ApplicationTerms(a, timedelta(minutes=5), None) for a in applications.values()}
        plan_batch(database, Batch(leavers=[person], terms=terms))

        def settled() -> bool:
            rows = deliveries(database, "deprovision")
            return (
                rows[applications["good"]]["state"] == rows[applications["slow"]]["state"] == "done"
                and rows[applications["lying"]]["grade"] == Grade.E1
                and rows[applications["failing"]]["last_status"] == 503
                and rows[applications["silent"]]["last_error"] is not None
            )

        work_until(scene, settled)
        rows = deliveries(database, "deprovision")
        graded = {kind: (rows[a]["state"], Grade(rows[a]["grade"])) for kind, a in applications.items()}
        assert graded == {
            "good": ("done", Grade.E2),
            "slow": ("done", Grade.E2),
            "failing": ("pending", Grade.E0),
            "lying": ("pending", Grade.E1),
            "silent": ("pending", Grade.E0),
        }
        assert services["good"].users["u2"]["active"] is False
        assert services["lying"].users["u2"]["active"] is True
        assert all(user["active"] for service in services.values() for user in [service.users["u1"]])

        for service in services.values():
            service.behaviour = "good"
        work_until(scene, lambda: all(d["state"] == "done" for d in deliveries(database, "deprovision").values()))
        assert {d["grade"] for d in deliveries(database, "deprovision").values()} == {Grade.E2}
        assert not any(service.users["u2"]["active"] for service in services.values())


def test_leave_while_the_create_is_stalled_is_not_proven_early(scene: Scene, database: Database) -> None:
    """The create hangs, the person leaves, the service is well again: the leave finds the account and proves it off."""
    person = scene.person()
    with StandIn(hang_after_create=True) as service:
        application = scene.application(service)
        scene.alive(service, application)
        scene.entitle(person, application)
        plan_batch(database, Batch(gained=[(person, application)]))
        left = False

        def leave_meanwhile() -> bool:
            nonlocal left
            if not left and "u2" in service.users:
                left = True
                scene.leave(person)
                plan_batch(database, Batch(leavers=[person], lost=[(person, application)]))
            rows = deliveries(database, "deprovision")
            return bool(rows) and rows[application]["state"] == "done"

        work_until(scene, leave_meanwhile)
        [leave] = deliveries(database, "deprovision").values()
        assert Grade(leave["grade"]) == Grade.E2
        assert service.users["u2"]["active"] is False
        # Proven only after the stalled create had passed its deadline.
        [create] = deliveries(database, "provision").values()
        assert leave["evidence"]["read_back"]["began_at"] >= create["quiet_after"].isoformat()
        assert [user["active"] for user in service.users.values()] == [True, False]
