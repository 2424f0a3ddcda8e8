"""Events that are committed around a transaction held open: none skipped, none doubled, in their order.

The full size, 10^5 events, is `python -m tests.benchmarks.audit hold-sqlite hold-postgresql`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from idhub.db import MIGRATING
from tests.audit.support import Trail
from tests.benchmarks.audit import around_a_held_transaction, check_around

if TYPE_CHECKING:
    from idhub.db import Database


def test_events_around_a_held_transaction_are_all_in_the_log_once_and_in_order(trail: Trail) -> None:
    if not trail.is_postgresql:
        with trail.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    came = around_a_held_transaction(trail, events=2_400, writers=4, candidates=3, hold_for=0.5)
    check_around(trail, came, trail.keys)
    assert came.committed == 2_400 + trail.is_postgresql
    if trail.is_postgresql:
        assert came.waiting_while_held > 0


def test_a_check_that_cannot_fail_would_be_none(sqlite_trail: Trail) -> None:
    from tests.benchmarks.audit import Around

    ids = sqlite_trail.fill(4)
    for told in ([*ids, "evt_lost"], ids[:-1], ids[::-1]):
        with pytest.raises(AssertionError):
            check_around(sqlite_trail, Around(4, 1.0, 0.0, 0, ids, [told], []), sqlite_trail.keys)


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_transactions_of_the_hub_that_stand_idle_are_ended(database: Database) -> None:
    """What bounds the lag: nobody of ours holds the log back for longer than a minute."""
    with database.read() as session:
        shown = session.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one()
    assert shown == "1min"


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_transactions_that_write_for_too_long_are_ended_and_migrations_are_not(database: Database) -> None:
    """What is never idle is bounded too: the worker ends it when the log has stood still for five minutes."""
    with database.engine.connect() as reading, database.engine.connect() as writing, database.engine.connect() as other:
        reading.execute(text("SELECT 1"))
        writing.execute(text("SELECT pg_current_xact_id()"))
        other.execute(text("SELECT set_config('application_name', :name, true)"), {"name": MIGRATING})
        other.execute(text("SELECT pg_current_xact_id()"))
        assert database.end_long_writers(timedelta(minutes=5)) == 0
        assert database.end_long_writers(timedelta(0)) == 1
        with pytest.raises(OperationalError):
            writing.execute(text("SELECT 1"))
        assert reading.execute(text("SELECT 1")).scalar_one() == other.execute(text("SELECT 1")).scalar_one()
