"""The preview: the same lines that the receipt will prove, a name for exactly this plan, and nothing written."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import inspect, select, table, text, update

from idhub.access.tables import Application
from idhub.changes import COMMAND_LINE
from idhub.delivery import queue
from idhub.delivery.channel import Grade
from idhub.directory.kinds import EmploymentType
from idhub.errors import NotFound
from idhub.lifecycle import commands, intake
from idhub.lifecycle.plan import Plan, preview
from idhub.lifecycle.tables import Case, CaseRow
from tests.lifecycle.world import CALLER, TIMEOUT, World


def _preview(world: World, person: str, **values: Any) -> Plan:
    with world.database.read() as session:
        return preview(session, person, effective_at=values.get("at"), now=world.clock())


def _frozen(world: World, case: str) -> list[tuple[str, str, int, int]]:
    with world.database.read() as session:
        return sorted(
            (row.slug, row.channel, row.ceiling, row.required_grade)
            for row in session.execute(
                select(Application.slug, CaseRow.channel, CaseRow.ceiling, CaseRow.required_grade)
                .join(Application, Application.id == CaseRow.application_id)
                .where(CaseRow.case_id == case)
            )
        )


def _everything(world: World) -> dict[str, list[Any]]:
    """Every row of every table."""
    with world.database.engine.connect() as connection:
        return {
            name: sorted(map(repr, connection.execute(select(text("*")).select_from(table(name)))))
            for name in sorted(inspect(connection).get_table_names())
        }


def test_preview_writes_nothing(world: World) -> None:
    person = world.hire()
    world.sign_in(person, "office")
    before = _everything(world)
    with world.database.transaction() as session:
        preview(session, person, effective_at=None, now=world.clock())
    assert _everything(world) == before


@pytest.mark.parametrize("sessions", [(), ("office",), ("office", "wiki"), ("wiki", "wiki")])
@pytest.mark.parametrize("kind", [EmploymentType.REGULAR, EmploymentType.CONTRACTOR])
def test_rows_of_the_preview_are_the_rows_of_the_case(
    world: World, sessions: tuple[str, ...], kind: EmploymentType
) -> None:
    person = world.hire(type=kind)
    for client in sessions:
        world.sign_in(person, client)
    plan = _preview(world, person)
    foreseen = sorted((r.application, r.channel, int(r.ceiling), int(r.required)) for r in plan.rows)
    case = world.change(intake.Offboard(principal_id=person)).cases[person]
    assert foreseen == _frozen(world, case)
    assert (plan.sessions, plan.grants) == (len(sessions), len(sessions))


def test_preview_reaches_accounts_beyond_entitlements_and_second_ones(world: World) -> None:
    person = world.hire()
    post = world.employments(person)[0]
    world.change(intake.Move(principal_id=person, employment_id=post.id, values={"type": EmploymentType.CONTRACTOR}))
    world.second_account(person, "admin-lin")
    rows = [row for row in _preview(world, person).rows if row.channel == "scim"]
    assert len(rows) == 2
    assert {row.is_entitled for row in rows} == {False}
    assert "admin-lin" in {row.account for row in rows}


def test_exposure_is_the_worst_case_and_unknown_where_nobody_can_be_told(world: World) -> None:
    person = world.hire()
    world.sign_in(person, "office", token_seconds=300)
    plan = _preview(world, person)
    by_channel = {row.channel: row.exposure for row in plan.rows}
    assert by_channel == {"scim": TIMEOUT, "backchannel_logout": timedelta(seconds=300), "none": timedelta()}
    world.sign_in(person, "wiki")
    plan = _preview(world, person)
    assert [row.notes for row in plan.rows if row.exposure is None] == [("not_told",)]


def test_queue_that_stands_still_makes_exposure_unknown(world: World) -> None:
    person = world.hire()
    with world.database.transaction() as session:
        queue.pause(session, world.office, now=world.clock(), actor=COMMAND_LINE)
    (row,) = [row for row in _preview(world, person).rows if row.channel == "scim"]
    assert row.exposure is None
    assert "held" in row.notes


def test_fingerprint_names_the_plan_and_changes_with_it_alone(world: World) -> None:
    person, other = world.hire(), world.hire()
    first = _preview(world, person).fingerprint
    world.clock.advance(minutes=5)
    assert _preview(world, person).fingerprint == first
    assert _preview(world, other).fingerprint != first
    world.sign_in(person, "office")
    assert _preview(world, person).fingerprint != first
    second = _preview(world, person).fingerprint
    with world.database.transaction() as session:
        session.execute(update(Application).where(Application.id == world.office).values(required_grade=1))
    assert _preview(world, person).fingerprint != second


def test_case_keeps_the_fingerprint_of_the_plan_that_was_confirmed(world: World) -> None:
    person = world.hire()
    foreseen = _preview(world, person)
    with world.database.transaction() as session:
        case = commands.offboard(session, CALLER, person, now=world.clock(), confirmed=foreseen).cases[person]
    with world.database.read() as session:
        kept = session.execute(select(Case.plan).where(Case.id == case)).scalar_one()
    assert kept["fingerprint"] == foreseen.fingerprint


def test_preview_of_a_leave_to_come_names_its_time_and_the_schedule(world: World) -> None:
    person = world.hire()
    at = world.clock() + timedelta(days=2)
    assert _preview(world, person, at=at).effective_at == at
    assert _preview(world, person, at=world.clock() - timedelta(days=2)).effective_at == world.clock()
    case = world.change(intake.Offboard(principal_id=person, at=at)).cases[person]
    assert _preview(world, person).scheduled_case == case


def test_preview_of_nobody_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        _preview(world, "per_unknown")


def test_grade_that_is_asked_for_is_cut_to_the_ceiling(world: World) -> None:
    person = world.hire()
    with world.database.transaction() as session:
        session.execute(update(Application).where(Application.id == world.office).values(required_grade=3))
    (row,) = [row for row in _preview(world, person).rows if row.channel == "scim"]
    assert (row.required, row.ceiling) == (Grade.E2, Grade.E2)
