"""The cost of a leave does not grow with the history: every statement of it goes by an index.

A real hub with its worker ends two people in two applications; each statement that was sent is then explained. On
SQLite no table that grows may be scanned; on PostgreSQL, whose planner scans small tables anyway, none may be where
scanning is forbidden.
"""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select

from idhub.authority import LOCAL
from idhub.changes import COMMAND_LINE
from idhub.db import Database, create_database
from idhub.delivery.http import OutboundHttp
from idhub.lifecycle import commands
from idhub.lifecycle.tables import Case
from idhub.services import Hub, open_hub
from idhub.settings import Settings
from idhub.worker import Worker, _Job
from tests.benchmarks.leaving_world import (
    Applications,
    instant_applications,
    person_id,
    seed_access,
    seed_applications,
    seed_people,
    seed_sessions,
)
from tests.support.plans import scanned, statements_of

# Indexes that are made to be walked: of what is under way alone, or in the order that is asked for.
# `audit_refused` holds nothing in an honest log.
_WALKED = {"audit_refused", "sqlite_autoindex_audit_checkpoints_1"}


@pytest.fixture(scope="module")
def applications() -> Iterator[Applications]:
    with instant_applications(2) as running:
        yield running


class _NeverCleaning(Worker):
    """Cleaning up and tidying have reads of their own, and how long they take at the start nobody knows."""

    def _jobs(self) -> list[_Job]:
        return [job for job in super()._jobs() if job.name not in {"purge", "retention", "search"}]


def end_two_people(hub: Hub) -> dict[str, Any]:
    """By the worker, as `idhub serve` does, until both receipts are complete; what was sent to the database."""
    beside = create_database(hub.settings)

    async def ended() -> dict[str, Any]:
        async with OutboundHttp(hub.settings) as http:
            worker = _NeverCleaning(hub, http)
            await worker.start()
            try:
                caller = commands.Caller(subject=LOCAL, actor=COMMAND_LINE, door="cli")
                with statements_of(hub.database.engine) as sent:
                    for number in (3, 4):
                        with hub.database.transaction() as session:
                            commands.offboard(session, caller, person_id(number), now=datetime.now(UTC))
                    async with asyncio.timeout(60):
                        while await asyncio.to_thread(complete, beside) < 2:  # noqa: ASYNC110 - it is in the database
                            await asyncio.sleep(0.05)
                    # Every job has its turn.
                    await asyncio.sleep(1.5)
                    return sent
            finally:
                await worker.stop()

    try:
        return asyncio.run(ended())
    finally:
        beside.dispose()


def complete(database: Database) -> int:
    with database.read() as session:
        return session.execute(select(func.count()).where(Case.state == "complete")).scalar_one()


def test_no_statement_of_a_leave_reads_what_grows_from_end_to_end(
    database: Database, settings: Settings, applications: Applications
) -> None:
    hub = open_hub(settings.model_copy(update={"outbound_allow": applications.allow}))
    try:
        now = datetime.now(UTC)
        with hub.database.transaction() as session:
            seed_people(session, 40, now=now)
            seed_applications(session, hub, applications, now=now)
            seed_access(session, range(40), range(2), now=now)
            seed_sessions(session, range(6), range(2), now=now)
        sent = end_two_people(hub)
        found = {
            statement: scans
            for statement, parameters in sent.items()
            if (scans := scanned(hub.database, statement, parameters, walked=_WALKED))
        }
    finally:
        hub.close()
    assert len(sent) > 40
    assert found == {}, "\n".join(f"{scans} {statement}" for statement, scans in found.items())
    assert [one["off"] for one in applications.seen()] != [0, 0]
