"""Cases: scheduled, brought forward, run, cancelled; numbers; what a plan freezes."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from idhub.access.tables import Application
from idhub.directory.kinds import EmploymentType, Standing
from idhub.errors import Conflict
from idhub.lifecycle import intake
from idhub.lifecycle.due import apply_due
from idhub.lifecycle.tables import Case, CaseRow
from tests.lifecycle.world import World

_HOUR = timedelta(hours=1)


def _case(world: World, case_id: str) -> Any:
    with world.database.read() as session:
        return session.execute(select(Case.__table__).where(Case.id == case_id)).one()


def _rows(world: World, case_id: str) -> list[Any]:
    with world.database.read() as session:
        return list(session.execute(select(CaseRow.__table__).where(CaseRow.case_id == case_id)))


def _schedule(world: World, person: str, at: datetime) -> str:
    return world.change(intake.Offboard(principal_id=person, at=at)).cases[person]


@pytest.mark.parametrize("said", [None, date(2027, 5, 31)])
def test_file_that_does_not_know_of_a_scheduled_leave_does_not_undo_it(world: World, said: date | None) -> None:
    """HR schedules a leave in the console; the nightly file still names another end date, or none."""
    person = world.hire(ends_on=date(2027, 1, 31))
    at = world.clock() + timedelta(days=7)
    case = _schedule(world, person, at)
    post = world.employments(person)[0]
    world.change(
        intake.Move(principal_id=person, employment_id=post.id, values={"ends_on": said, "title": "x"}), door="hr_file"
    ).only()
    assert world.principal(person).access_ends_at == at
    world.at(at)
    assert apply_due(world.database, now=at) == 1
    assert world.principal(person).standing == Standing.LEFT
    assert _case(world, case).state == "running"


def test_end_date_said_while_a_leave_was_scheduled_holds_when_it_is_cancelled(world: World) -> None:
    person = world.hire(ends_on=date(2027, 1, 31))
    case = _schedule(world, person, world.clock() + timedelta(days=7))
    post = world.employments(person)[0]
    world.change(intake.Move(principal_id=person, employment_id=post.id, values={"ends_on": date(2027, 5, 31)})).only()
    world.change(intake.CancelOffboarding(principal_id=person)).only()
    assert world.employments(person)[0].ends_on == date(2027, 5, 31)
    assert _case(world, case).state == "cancelled"


def test_earlier_end_brings_a_scheduled_leave_forward(world: World) -> None:
    person = world.hire()
    _schedule(world, person, world.clock() + timedelta(days=30))
    post = world.employments(person)[0]
    world.change(intake.Move(principal_id=person, employment_id=post.id, values={"ends_on": date(2026, 11, 30)})).only()
    assert world.principal(person).access_ends_at == datetime(2026, 11, 30, 16, tzinfo=UTC)


def test_cancelling_restores_an_end_that_was_an_instant(world: World) -> None:
    person = world.hire()
    post = world.employments(person)[0]
    noon = world.clock() + timedelta(days=30)
    world.change(intake.EndEmployment(principal_id=person, employment_id=post.id, at=noon)).only()
    _schedule(world, person, world.clock() + timedelta(days=7))
    world.change(intake.CancelOffboarding(principal_id=person)).only()
    assert world.principal(person).access_ends_at == noon


def test_offboarding_asked_twice_keeps_one_case_and_cancels_for_every_post(world: World) -> None:
    person = world.hire()
    case = _schedule(world, person, world.clock() + timedelta(days=30))
    world.change(intake.AddEmployment(principal_id=person, employment=world.facts(organization_id=world.berlin))).only()
    assert _schedule(world, person, world.clock() + timedelta(days=7)) == case
    assert _case(world, case).effective_at == world.clock() + timedelta(days=7)
    world.change(intake.CancelOffboarding(principal_id=person)).only()
    assert [e.ends_on for e in world.employments(person)] == [None, None]


def test_scheduled_case_ends_when_its_time_comes_and_a_further_post_goes_on(world: World) -> None:
    person = world.hire()
    at = world.clock() + timedelta(days=7)
    case = _schedule(world, person, at)
    world.change(intake.AddEmployment(principal_id=person, employment=world.facts(organization_id=world.berlin))).only()
    world.at(at + _HOUR)
    assert apply_due(world.database, now=world.clock()) == 1
    assert world.principal(person).standing == Standing.ACTIVE
    assert _case(world, case).state == "cancelled"
    # Nothing of it limits what is said later.
    (berlin,) = [e for e in world.employments(person) if e.company_code == "BER"]
    world.change(
        intake.Move(principal_id=person, employment_id=berlin.id, values={"ends_on": date(2027, 5, 31)})
    ).only()
    assert world.principal(person).standing == Standing.ACTIVE


def test_leave_that_was_due_during_downtime_says_when_access_ended_not_when_the_worker_came(world: World) -> None:
    scheduled, by_contract = world.hire(), world.hire(ends_on=date(2026, 11, 23))
    at = world.clock() + _HOUR
    case = _schedule(world, scheduled, at)
    world.at(world.clock() + timedelta(days=3))
    assert apply_due(world.database, now=world.clock()) == 2
    assert (_case(world, case).effective_at, _case(world, case).local_done_at) == (at, world.clock())
    with world.database.read() as session:
        other = session.execute(select(Case.effective_at).where(Case.principal_id == by_contract)).scalar_one()
    assert other == datetime(2026, 11, 23, 16, tzinfo=UTC)


def test_scheduled_leave_of_two_posts_is_effective_when_the_last_one_ends(world: World) -> None:
    person = world.hire(ends_on=date(2026, 11, 30))
    world.change(
        intake.AddEmployment(
            principal_id=person, employment=world.facts(organization_id=world.berlin, starts_on=date(2027, 1, 1))
        )
    ).only()
    at = world.clock() + timedelta(days=60)
    assert _case(world, _schedule(world, person, at)).effective_at == at


def test_emergency_takes_the_scheduled_case_over_at_once(world: World) -> None:
    person = world.hire()
    case = _schedule(world, person, world.clock() + timedelta(days=7))
    result = world.change(intake.Offboard(principal_id=person, is_emergency=True, reason="compromised"))
    row = _case(world, case)
    assert result.cases == {person: case}
    assert (row.state, row.is_emergency, row.reason, row.effective_at) == (
        "running",
        True,
        "compromised",
        world.clock(),
    )


def test_offboarding_cannot_be_cancelled_late_or_twice(world: World) -> None:
    person = world.hire()
    at = world.clock() + _HOUR
    _schedule(world, person, at)
    world.at(at)
    # The worker has not come yet: the leave has taken place all the same.
    with pytest.raises(Conflict):
        world.change(intake.CancelOffboarding(principal_id=person)).only()
    other = world.hire()
    _schedule(world, other, at + _HOUR)
    world.change(intake.CancelOffboarding(principal_id=other)).only()
    with pytest.raises(Conflict) as refusal:
        world.change(intake.CancelOffboarding(principal_id=other)).only()
    assert refusal.value.rule == "cancel.none"


def test_rehire_and_second_leave_open_a_case_of_their_own(world: World) -> None:
    person = world.hire()
    first = world.change(intake.Offboard(principal_id=person)).cases[person]
    world.clock.advance(days=1)
    world.change(intake.AddEmployment(principal_id=person, employment=world.facts())).only()
    world.clock.advance(days=1)
    second = world.change(intake.Offboard(principal_id=person)).cases[person]
    assert first != second
    assert [d.operation for d in world.deliveries(principal_id=person, channel="scim")][-3:] == [
        "deprovision",
        "provision",
        "deprovision",
    ]
    assert [d.case_id for d in world.deliveries(principal_id=person, operation="deprovision")] == [first, second]


def test_every_account_of_a_leaver_is_in_the_plan_also_a_second_one_in_one_application(world: World) -> None:
    person = world.hire()
    world.second_account(person, "admin-lin")
    case = world.change(intake.Offboard(principal_id=person)).cases[person]
    accounts = {account.id for account in world.accounts(person)}
    assert len(accounts) == 2
    assert {row.account_id for row in _rows(world, case)} - {None} == accounts
    assert {account.desired_state for account in world.accounts(person)} == {"inactive"}


def test_plan_freezes_grades_and_deadlines_against_later_configuration(world: World) -> None:
    person = world.hire()
    case = world.change(intake.Offboard(principal_id=person)).cases[person]
    before = _rows(world, case)
    with world.database.transaction() as session:
        session.execute(
            update(Application)
            .where(Application.id == world.office)
            .values(required_grade=0, revocation_deadline_seconds=99)
        )
    assert _rows(world, case) == before
    (scim,) = [row for row in before if row.channel == "scim"]
    assert (scim.required_grade, scim.ceiling, scim.deadline_at) == (2, 2, world.clock() + _HOUR)


@pytest.mark.parametrize(("demanded", "scim", "logout"), [(3, 2, 1), (None, 2, 1), (1, 1, 1), (0, 0, 0)])
def test_required_grade_is_never_above_what_the_channel_can_prove(
    world: World, demanded: int | None, scim: int, logout: int
) -> None:
    with world.database.transaction() as session:
        session.execute(update(Application).where(Application.id == world.office).values(required_grade=demanded))
    person = world.hire()
    world.sign_in(person, "office")
    case = world.change(intake.Offboard(principal_id=person)).cases[person]
    required = {row.channel: row.required_grade for row in _rows(world, case) if row.channel != "none"}
    assert required == {"scim": scim, "backchannel_logout": logout}


def test_rows_without_a_delivery_say_why(world: World) -> None:
    contractor = world.hire(type=EmploymentType.CONTRACTOR)
    case = world.change(intake.Offboard(principal_id=contractor)).cases[contractor]
    assert [(r.channel, r.note, r.required_grade) for r in _rows(world, case)] == [("none", "no_account", 0)]
    visitor = world.hire()
    world.sign_in(visitor, "wiki", token_seconds=300)
    case = world.change(intake.Offboard(principal_id=visitor)).cases[visitor]
    (untold,) = [r for r in _rows(world, case) if r.note == "not_told"]
    assert untold.residual_until == world.clock() + timedelta(seconds=300)


def test_numbers_follow_each_other_and_begin_anew_with_the_month(world: World) -> None:
    people = [world.hire() for _ in range(3)]
    first = world.change(*(intake.Offboard(principal_id=p) for p in people[:2]))
    world.at(datetime(2026, 12, 1, tzinfo=UTC))
    second = world.change(intake.Offboard(principal_id=people[2]))
    numbers = sorted(_case(world, case).number for case in (*first.cases.values(), *second.cases.values()))
    assert numbers == ["R-2026-11-0001", "R-2026-11-0002", "R-2026-12-0001"]
