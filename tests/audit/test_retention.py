"""Retention: whole exported tiles go by decision, and what stays can still be proven."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from audit.checker import Finding, VerifyResult
from audit.errors import NotRetainable
from audit.events import Actor
from audit.live import verify_database
from audit.retention import Decision, decide, decided_through, removable, remove
from audit.tables import audit_events, audit_person_keys, audit_personal, audit_positions, event_place
from audit.tiles import prove
from audit.verify import verify_export
from tests.audit.support import NOW, Trail, event

POSITION = audit_positions.c.position
DECISION = Decision(512, Actor("person", "per_auditor"), "13 months are over", NOW)


def exported(trail: Trail) -> VerifyResult:
    return verify_export(trail.export(), keys=trail.keys, witness=trail.witness)


def test_removed_events_leave_a_log_that_still_verifies(trail: Trail) -> None:
    trail.append(*[event(number, personal={"name": "张三"}) for number in range(600)])
    trail.seal()
    ids = trail.fill(100)
    result = exported(trail)
    with trail.engine.begin() as connection:
        decide(connection, DECISION, exported=result, sealer=trail.sealer)
    with trail.engine.begin() as connection, pytest.raises(NotRetainable, match="no checkpoint over it"):
        remove(connection)
    trail.seal()
    with trail.engine.begin() as connection:
        removed = 0
        while some := remove(connection):
            removed += some
    assert removed == 512
    with trail.engine.connect() as connection:
        live = verify_database(connection, trail.keys, trail.witness)
        assert (live.findings, live.events, live.withheld) == ([], 189, 512)
        assert prove(connection, ids[0]) is not None
        for table in (audit_personal, audit_person_keys):
            assert connection.execute(select(func.count()).select_from(table)).scalar_one() == 88
    after = exported(trail)
    assert (after.findings, after.events, after.withheld, after.size) == ([], 189, 512, 701)
    trail.append(event(1))
    trail.seal()
    assert exported(trail).is_valid


def test_checkpoints_within_removed_events_are_still_compared(trail: Trail) -> None:
    for count in (100, 300, 200):
        trail.fill(count)
    with trail.engine.begin() as connection:
        decide(connection, replace(DECISION, through_position=256), exported=exported(trail), sealer=trail.sealer)
    trail.seal()
    with trail.engine.begin() as connection:
        while remove(connection):
            pass
    result = exported(trail)
    assert (result.findings, result.checkpoints, result.withheld) == ([], 4, 256)
    with trail.without_guards() as connection:
        connection.execute(text("UPDATE audit_tiles SET hashes = root WHERE tile = 0"))
    with trail.engine.connect() as connection:
        assert not verify_database(connection, trail.keys, trail.witness).is_valid


@pytest.mark.parametrize("through", [0, 100, 511, 768, 1_024, -256])
def test_only_whole_tiles_below_a_checkpoint_may_go(trail: Trail, through: int) -> None:
    trail.fill(600)
    result = exported(trail)
    with trail.engine.begin() as connection, pytest.raises(NotRetainable, match="whole tiles"):
        decide(connection, replace(DECISION, through_position=through), exported=result, sealer=trail.sealer)


def test_nothing_goes_without_a_valid_export_of_it(trail: Trail) -> None:
    trail.fill(300)
    early = exported(trail)
    trail.fill(300)
    broken = exported(trail)
    broken.findings.append(_finding())
    with trail.engine.begin() as connection:
        for result in (early, broken, VerifyResult()):
            with pytest.raises(NotRetainable, match="valid export"):
                decide(connection, DECISION, exported=result, sealer=trail.sealer)
        assert remove(connection) == 0


def _finding() -> Finding:
    return Finding("edited", "x", 1)


def test_what_no_decision_covers_cannot_be_deleted(trail: Trail) -> None:
    trail.fill(600)
    with trail.engine.begin() as connection:
        decide(connection, DECISION, exported=exported(trail), sealer=trail.sealer)
    for statement in (audit_events.delete().where(event_place >= 512), audit_positions.delete().where(POSITION >= 512)):
        with pytest.raises(DBAPIError, match="insert-only"), trail.engine.begin() as connection:
            connection.execute(statement)
    with pytest.raises(DBAPIError, match="insert-only"), trail.engine.begin() as connection:
        connection.execute(text("DELETE FROM audit_retention"))


def test_a_deletion_without_decision_is_not_taken_for_retention(trail: Trail) -> None:
    trail.fill(600)
    with trail.without_guards() as connection:
        connection.execute(audit_events.delete().where(event_place < 512))
    with trail.engine.connect() as connection:
        assert verify_database(connection, trail.keys).first_bad == 0
    with trail.without_guards() as connection:
        connection.execute(audit_positions.delete().where(POSITION < 512))
    with trail.engine.connect() as connection:
        assert verify_database(connection, trail.keys).first_bad == 0


def test_an_export_taken_while_removal_is_under_way_is_valid(trail: Trail) -> None:
    trail.fill(1_100)
    with trail.engine.begin() as connection:
        decide(connection, replace(DECISION, through_position=1_024), exported=exported(trail), sealer=trail.sealer)
    trail.seal()
    with trail.engine.begin() as connection:
        assert remove(connection) == 512
    result = exported(trail)
    assert (result.findings, result.withheld, result.events) == ([], 512, 589)
    with trail.engine.connect() as connection:
        assert verify_database(connection, trail.keys, trail.witness).findings == []


def test_a_decision_that_is_not_in_the_log_is_found_with_what_it_removed(trail: Trail) -> None:
    """An owner of the database writes the row that retention would have written, and deletes what it covers."""
    trail.fill(600)
    with trail.without_guards() as connection:
        connection.execute(text("INSERT INTO audit_retention VALUES (512, 1, 'per_auditor', 'old')"))
        connection.execute(audit_events.delete().where(event_place < 512))
        connection.execute(audit_positions.delete().where(POSITION < 512))
    with trail.engine.connect() as connection:
        findings = verify_database(connection, trail.keys, trail.witness).findings
    assert [(one.kind, one.position, one.until) for one in findings] == [("retention", 0, 512)]
    findings = exported(trail).findings
    assert [(one.kind, one.position, one.until) for one in findings] == [("retention", 0, 512)]


def test_whole_tiles_from_the_beginning_that_are_old_enough_can_go(trail: Trail) -> None:
    # One late comer within the second tile: whatever is behind it stays, however old.
    ages = [timedelta(0)] * 300 + [timedelta(days=9)] + [timedelta(0)] * 600
    trail.append(*[event(number, at=NOW + age) for number, age in enumerate(ages)])
    trail.seal()
    tomorrow = NOW + timedelta(days=1)
    with trail.engine.connect() as connection:
        found = removable(connection, before=tomorrow, at_most=901)
        assert (found.first, found.through_position, found.newest, found.count) == (0, 256, NOW, 256)
        assert removable(connection, before=NOW, at_most=901).count == 0
        later = NOW + timedelta(days=10)
        assert removable(connection, before=later, at_most=901).through_position == 768
        assert removable(connection, before=later, at_most=512).newest == NOW + timedelta(days=9)
        assert removable(connection, before=later, at_most=511).through_position == 256
    with trail.engine.begin() as connection:
        decide(connection, DECISION, exported=exported(trail), sealer=trail.sealer)
    trail.seal()
    with trail.engine.begin() as connection:
        while remove(connection):
            pass
        assert decided_through(connection) == 512
        found = removable(connection, before=later, at_most=901)
        assert (found.first, found.through_position) == (512, 768)
