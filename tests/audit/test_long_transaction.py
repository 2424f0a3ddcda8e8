"""Events that are committed around a transaction held open: none skipped, none doubled, in their order.

The full size, 10^5 events, is `python -m tests.benchmarks.audit hold-sqlite hold-postgresql`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

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
