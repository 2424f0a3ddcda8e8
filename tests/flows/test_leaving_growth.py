"""The cost of a leave does not grow with the history: every statement of it goes by an index.

A real hub with its worker ends two people in two applications; each statement that was sent is then explained. On
SQLite no table that grows may be scanned; on PostgreSQL, whose planner scans small tables anyway, none may be where
scanning is forbidden.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.engine import Engine

from idhub.authority import LOCAL
from idhub.changes import COMMAND_LINE
from idhub.db import Database, create_database
from idhub.delivery.http import OutboundHttp
from idhub.lifecycle import commands
from idhub.lifecycle.tables import Case
from idhub.services import Hub, open_hub
from idhub.settings import Settings
from idhub.worker import Worker
from tests.benchmarks.leaving_world import (
    Applications,
    instant_applications,
    person_id,
    seed_access,
    seed_applications,
    seed_people,
    seed_sessions,
)

# What a group has few of, or what holds only what is under way.
_SMALL = {
    "applications", "audit_head", "audit_lease", "delivery_holds", "entitlement_rules", "installation", "leases",
    "listed", "oidc_clients", "organization_closure", "organizations", "receipts_due", "scim_targets", "waiting",
    # Names that SQLite gives to parts of a statement.
    "anon_1", "subquery", "CONSTANT",
}  # fmt: skip
# Indexes that are made to be walked: of what is under way alone, or in the order that is asked for.
_WALKED = ("ix_audit_events_unsequenced", "sqlite_autoindex_audit_checkpoints_1")


@pytest.fixture(scope="module")
def applications() -> Iterator[Applications]:
    with instant_applications(2) as running:
        yield running


@contextmanager
def statements_of(engine: Engine) -> Iterator[dict[str, Any]]:
    """Every statement that is sent within the block, with the parameters of one sending."""
    sent: dict[str, Any] = {}

    def keep(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            sent.setdefault(statement, parameters[0] if many else parameters)

    event.listen(engine, "before_cursor_execute", keep)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", keep)


def end_two_people(hub: Hub) -> dict[str, Any]:
    """By the worker, as `idhub serve` does, until both receipts are complete; what was sent to the database."""
    beside = create_database(hub.settings)

    async def ended() -> dict[str, Any]:
        async with OutboundHttp(hub.settings) as http:
            worker = Worker(hub, http)
            await worker.start()
            try:
                # Cleaning up, once a minute, has reads of its own.
                await asyncio.sleep(1)
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


def scanned(database: Database, statement: str, parameters: Any) -> list[str]:
    """The plan's lines that read a growing table from one end to the other."""
    with database.engine.connect() as connection:
        if database.dialect == "sqlite":
            lines = [row[3] for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)]
            return [
                line
                for line in lines
                if line.startswith("SCAN ")
                and line.split()[1].partition("-")[0].strip("()") not in _SMALL
                and "VIRTUAL TABLE" not in line
                and not any(index in line for index in _WALKED)
            ]
        connection.execute(text("SET enable_seqscan = off"))
        lines = [row[0] for row in connection.exec_driver_sql("EXPLAIN " + statement, parameters)]
        named = [line.split("Seq Scan on ")[1].split()[0] for line in lines if "Seq Scan on " in line]
        return [name for name in named if name not in _SMALL]


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
        found = {statement: scans for statement in sent if (scans := scanned(hub.database, statement, sent[statement]))}
    finally:
        hub.close()
    assert len(sent) > 40
    assert found == {}, "\n".join(f"{scans} {statement}" for statement, scans in found.items())
    assert [one["off"] for one in applications.seen()] != [0, 0]
