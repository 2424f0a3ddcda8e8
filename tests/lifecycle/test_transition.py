"""The one door: what follows from a change, in one transaction."""

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, select

from audit.tables import audit_events
from idhub.access.tables import Entitlement
from idhub.credentials.tables import Grant, SsoSession
from idhub.db import new_id
from idhub.directory.kinds import EmploymentType, PrincipalKind, Standing
from idhub.directory.people import find_person
from idhub.directory.tables import EmploymentPeriod, Principal
from idhub.errors import Conflict, Invalid, NotFound
from idhub.lifecycle import commands, intake
from idhub.lifecycle.due import apply_due
from tests.lifecycle.world import CALLER, World


def test_onboarding_entitles_by_rule_makes_an_account_and_plans_its_delivery(world: World) -> None:
    person = world.hire()
    assert world.principal(person).standing == Standing.ACTIVE
    assert world.entitled(person) == {world.office, world.wiki}
    (account,) = world.accounts(person)
    assert (account.desired_state, account.known_state) == ("active", "absent")
    (delivery,) = world.deliveries(principal_id=person)
    assert (delivery.operation, delivery.required_grade, delivery.account_id) == ("provision", 1, account.id)
    assert len(world.events("person.onboarded")) == 1
    assert len(world.events("entitlement.entitled")) == 2


def test_contractor_is_not_entitled_where_the_rule_says_so(world: World) -> None:
    person = world.hire(type=EmploymentType.CONTRACTOR)
    assert world.entitled(person) == {world.wiki}
    assert world.accounts(person) == []


def test_future_starter_has_nothing_until_local_midnight(world: World) -> None:
    # 2026-11-24 in Berlin begins at 23:00 UTC the evening before.
    person = world.hire(organization_id=world.berlin, starts_on=date(2026, 11, 24))
    assert world.principal(person).standing == Standing.STAGED
    assert world.principal(person).access_starts_at == datetime(2026, 11, 23, 23, tzinfo=UTC)
    assert world.entitled(person) == set()
    world.at(datetime(2026, 11, 23, 22, 59, 59, tzinfo=UTC))
    assert apply_due(world.database, now=world.clock()) == 0
    world.at(datetime(2026, 11, 23, 23, tzinfo=UTC))
    assert apply_due(world.database, now=world.clock()) == 1
    assert world.principal(person).standing == Standing.ACTIVE
    assert world.entitled(person) == {world.wiki}
    assert len(world.events("person.started")) == 1


@pytest.mark.parametrize(
    ("last_day", "ends_at"),
    [
        # The clocks go back on 2026-10-25 in Berlin: the day has 25 hours.
        (date(2026, 10, 24), datetime(2026, 10, 24, 22, tzinfo=UTC)),
        (date(2026, 10, 25), datetime(2026, 10, 25, 23, tzinfo=UTC)),
        (date(2027, 3, 27), datetime(2027, 3, 27, 23, tzinfo=UTC)),
        (date(2027, 3, 28), datetime(2027, 3, 28, 22, tzinfo=UTC)),
    ],
)
def test_last_working_day_ends_at_the_next_local_midnight_also_when_clocks_change(
    world: World, last_day: date, ends_at: datetime
) -> None:
    world.at(datetime(2026, 9, 1, tzinfo=UTC))
    person = world.hire(organization_id=world.berlin, ends_on=last_day)
    assert world.principal(person).access_ends_at == ends_at


def test_post_still_to_begin_entitles_nobody_who_is_active_elsewhere(world: World) -> None:
    person = world.hire(organization_id=world.berlin)
    later = world.facts(starts_on=date(2026, 12, 16))
    world.change(intake.AddEmployment(principal_id=person, employment=later)).only()
    assert world.entitled(person) == {world.wiki}
    world.at(datetime(2026, 12, 15, 16, tzinfo=UTC))
    assert apply_due(world.database, now=world.clock()) == 1
    assert world.entitled(person) == {world.wiki, world.office}


def test_suspended_post_entitles_nobody_who_is_active_elsewhere(world: World) -> None:
    person = world.hire()
    hq = world.employments(person)[0]
    world.change(intake.AddEmployment(principal_id=person, employment=world.facts(organization_id=world.berlin))).only()
    world.change(intake.Suspend(principal_id=person, employment_id=hq.id)).only()
    assert world.entitled(person) == {world.wiki}


def test_leave_that_came_due_during_downtime_ends_everything_at_the_next_run(world: World) -> None:
    person = world.hire(ends_on=date(2026, 11, 23))
    world.sign_in(person, "office")
    world.at(datetime(2026, 11, 26, tzinfo=UTC))
    assert apply_due(world.database, now=world.clock()) == 1
    row = world.principal(person)
    assert (row.standing, row.access_epoch, row.enrolment_epoch) == (Standing.LEFT, 2, 2)
    assert world.entitled(person) == set()
    assert {d.operation for d in world.deliveries(principal_id=person)} == {"provision", "deprovision", "logout"}


def test_offboarding_ends_sessions_and_grants_and_plans_every_account_and_participant(world: World) -> None:
    person = world.hire()
    world.sign_in(person, "office")
    world.sign_in(person, "wiki")
    result = world.change(intake.Offboard(principal_id=person))
    assert result.left == [person]
    with world.database.read() as session:
        for model in (SsoSession, Grant):
            alive = session.execute(
                select(func.count()).where(model.principal_id == person, model.ended_at.is_(None))
            ).scalar_one()
            assert alive == 0
    case = result.cases[person]
    planned = {(d.channel, d.operation, d.required_grade) for d in world.deliveries(case_id=case)}
    assert planned == {("scim", "deprovision", 2), ("backchannel_logout", "logout", 1)}
    (account,) = world.accounts(person)
    assert account.desired_state == "inactive"


def test_a_leave_waits_for_no_statement_whose_answer_it_does_not_need(world: World) -> None:
    """What SQLAlchemy sends is waited for: a leave sends kept statements and rows alone (`idhub.kept.ahead`)."""
    person = world.hire()
    world.sign_in(person, "office")
    waited_for: list[str] = []

    def hear(_connection: Any, cursor: Any, text: str, *_: Any) -> None:
        if cursor is not None:
            waited_for.append(text)

    with world.database.transaction() as session:
        event.listen(world.database.engine, "before_cursor_execute", hear)
        try:
            commands.offboard(session, CALLER, person, now=world.clock())
        finally:
            event.remove(world.database.engine, "before_cursor_execute", hear)
    assert waited_for == []
    assert {d.operation for d in world.deliveries(principal_id=person)} == {"provision", "deprovision", "logout"}


def test_offboarding_reaches_accounts_whose_entitlement_was_withdrawn_before(world: World) -> None:
    person = world.hire()
    post = world.employments(person)[0]
    world.change(intake.Move(principal_id=person, employment_id=post.id, values={"type": EmploymentType.CONTRACTOR}))
    assert world.entitled(person) == {world.wiki}
    result = world.change(intake.Offboard(principal_id=person))
    assert [d.channel for d in world.deliveries(case_id=result.cases[person])] == ["scim"]


def test_offboarding_twice_names_the_same_case_and_changes_nothing(world: World) -> None:
    person = world.hire()
    first = world.change(intake.Offboard(principal_id=person))
    events = len(world.events("person.offboarded"))
    second = world.change(intake.Offboard(principal_id=person))
    assert second.cases == first.cases
    assert second.changed == []
    assert len(world.events("person.offboarded")) == events


def test_one_of_two_employments_ending_is_a_move_not_a_leave(world: World) -> None:
    person = world.hire()
    world.change(intake.AddEmployment(principal_id=person, employment=world.facts(organization_id=world.berlin))).only()
    hq = next(e for e in world.employments(person) if e.company_code == "HQ")
    world.sign_in(person, "office")
    result = world.change(intake.EndEmployment(principal_id=person, employment_id=hq.id))
    assert result.left == []
    row = world.principal(person)
    assert (row.standing, row.access_epoch, row.organization_id) == (Standing.ACTIVE, 1, world.berlin)
    assert world.entitled(person) == {world.wiki}
    ended = {d.channel for d in world.deliveries(principal_id=person) if d.operation != "provision"}
    assert ended == {"scim", "backchannel_logout"}


def test_suspension_raises_the_access_epoch_alone_and_reactivation_restores_access_but_no_session(world: World) -> None:
    person = world.hire()
    session_id = world.sign_in(person, "office")
    world.change(intake.Suspend(principal_id=person, reason="inquiry"))
    row = world.principal(person)
    assert (row.standing, row.access_epoch, row.enrolment_epoch) == (Standing.SUSPENDED, 2, 1)
    assert world.entitled(person) == {world.office, world.wiki}
    assert world.deliveries(principal_id=person)[-2:][0].operation in {"deprovision", "logout"}
    world.change(intake.Reactivate(principal_id=person))
    row = world.principal(person)
    assert (row.standing, row.access_epoch) == (Standing.ACTIVE, 2)
    with world.database.read() as session:
        assert session.execute(select(SsoSession.ended_at).where(SsoSession.id == session_id)).scalar() is not None
    assert world.deliveries(principal_id=person)[-1].operation == "provision"


def test_rehire_on_the_same_number_opens_the_post_again_under_new_epochs(world: World) -> None:
    person = world.hire(employee_number="QY777")
    world.change(intake.Offboard(principal_id=person))
    world.clock.advance(timedelta(days=30))
    world.change(
        intake.AddEmployment(
            principal_id=person, employment=world.facts(employee_number="QY777", starts_on=date(2026, 12, 1))
        )
    ).only()
    row = world.principal(person)
    assert (row.standing, row.access_epoch, row.enrolment_epoch) == (Standing.ACTIVE, 2, 2)
    assert len(world.employments(person)) == 1
    assert world.entitled(person) == {world.office, world.wiki}
    assert len(world.events("person.rehired")) == 1


def test_scheduled_offboarding_keeps_access_until_then_and_can_be_taken_back(world: World) -> None:
    person = world.hire(ends_on=date(2027, 5, 31))
    at = world.clock() + timedelta(days=7)
    first = world.change(intake.Offboard(principal_id=person, at=at))
    assert first.left == []
    assert world.principal(person).access_ends_at == at
    world.change(intake.CancelOffboarding(principal_id=person)).only()
    # The end that the contract had before comes back.
    assert world.employments(person)[0].ends_on == date(2027, 5, 31)
    world.at(at + timedelta(days=1))
    assert apply_due(world.database, now=world.clock()) == 0
    assert world.principal(person).standing == Standing.ACTIVE


def test_scheduled_offboarding_runs_its_own_case_when_it_is_due(world: World) -> None:
    person = world.hire()
    at = world.clock() + timedelta(days=7)
    scheduled = world.change(intake.Offboard(principal_id=person, at=at, plan_fingerprint="abcd"))
    world.at(at)
    assert apply_due(world.database, now=world.clock()) == 1
    assert {d.case_id for d in world.deliveries(principal_id=person, operation="deprovision")} == set(
        scheduled.cases.values()
    )


def test_leaving_cannot_be_put_off_by_another_offboarding(world: World) -> None:
    person = world.hire(ends_on=date(2026, 11, 30))
    ends_at = world.principal(person).access_ends_at
    world.change(intake.Offboard(principal_id=person, at=world.clock() + timedelta(days=365)))
    assert world.principal(person).access_ends_at == ends_at


def test_refused_change_of_a_batch_leaves_the_others_and_an_event(world: World) -> None:
    person, nobody = world.hire(), "per_0000000000000000000000000"
    result = world.change(
        intake.CancelOffboarding(principal_id=person),
        intake.Suspend(principal_id=nobody),
        intake.UpdatePerson(principal_id=person, values={"display_name": "王小磊"}),
    )
    assert [type(r.error) for r in result.refused] == [Conflict, NotFound]
    assert len(world.events("person.change_refused")) == 2
    assert len(world.events("person.updated")) == 1


def test_employee_number_taken_within_a_company_is_refused_and_changes_nothing(world: World) -> None:
    world.hire(employee_number="QY1")
    before = _count_principals(world)
    with pytest.raises(Conflict) as refusal:
        world.hire(employee_number="QY1")
    assert refusal.value.field == "employee_number"
    assert _count_principals(world) == before


def _count_principals(world: World) -> int:
    with world.database.read() as session:
        return session.execute(select(func.count()).select_from(Principal)).scalar_one()


def test_end_before_start_is_refused(world: World) -> None:
    with pytest.raises(Invalid) as refusal:
        world.hire(starts_on=date(2026, 5, 2), ends_on=date(2026, 5, 1))
    assert (refusal.value.field, refusal.value.rule) == ("end_date", "end_before_start")


def test_employment_history_answers_as_it_was_and_as_it_was_known(world: World) -> None:
    person = world.hire(title="工程师")
    hired = world.clock()
    world.clock.advance(timedelta(days=10))
    post = world.employments(person)[0]
    world.change(intake.Move(principal_id=person, employment_id=post.id, values={"title": "经理"}))
    moved = world.clock()
    with world.database.read() as session:
        rows = session.execute(
            select(EmploymentPeriod.__table__).where(EmploymentPeriod.employment_id == post.id)
        ).all()
    believed = [r for r in rows if r.superseded_at is None]
    assert [(r.facts["title"], r.valid_to) for r in sorted(believed, key=lambda r: r.valid_from)] == [
        ("工程师", moved),
        ("经理", None),
    ]
    known_then = [r for r in rows if r.recorded_at <= hired and (r.superseded_at is None or r.superseded_at > hired)]
    assert [(r.facts["title"], r.valid_to) for r in known_then] == [("工程师", None)]


def test_entitlement_history_keeps_what_was(world: World) -> None:
    person = world.hire()
    began = world.clock()
    world.clock.advance(timedelta(days=1))
    world.change(intake.Offboard(principal_id=person))
    with world.database.read() as session:
        rows = session.execute(
            select(Entitlement.__table__).where(
                Entitlement.principal_id == person, Entitlement.application_id == world.office
            )
        ).all()
    assert sorted((r.valid_from, r.valid_to, r.superseded_at is None) for r in rows if r.superseded_at is None) == [
        (began, world.clock(), True)
    ]
    assert [r.valid_to for r in rows if r.superseded_at is not None] == [None]


def test_service_of_a_leaver_goes_to_the_manager_with_a_rotation_deadline(world: World) -> None:
    manager = world.hire("方志远")
    person = world.hire(manager_id=manager)
    service = new_id("svc")
    with world.database.transaction() as session:
        session.add(
            Principal(
                id=service,
                kind=PrincipalKind.SERVICE,
                organization_id=world.hq,
                standing=Standing.ACTIVE,
                access_starts_at=world.clock(),
                access_ends_at=world.clock() + timedelta(days=365),
                owner_id=person,
                created_at=world.clock(),
                changed_at=world.clock(),
            )
        )
    world.change(intake.Offboard(principal_id=person))
    row = world.principal(service)
    assert (row.owner_id, row.standing) == (manager, Standing.ACTIVE)
    assert row.rotation_due_at is not None
    assert len(world.events("principal.handed_over")) == 1


def test_nobody_ends_their_own_access_in_the_console(world: World) -> None:
    from idhub.authority import Action, Subject
    from idhub.changes import Actor

    person = world.hire()
    subject = Subject(principal_id=person, actions=frozenset(Action))
    me = commands.Caller(subject=subject, actor=Actor(kind="person", id=person), door="console")
    with pytest.raises(Conflict) as refusal, world.database.transaction() as session:
        commands.offboard(session, me, person, now=world.clock())
    assert refusal.value.rule == "self"
    assert world.principal(person).standing == Standing.ACTIVE


def test_transition_that_fails_leaves_neither_effect_nor_event(world: World) -> None:
    person = world.hire()
    before = _count_events(world)
    with pytest.raises(RuntimeError), world.database.transaction() as session:
        commands.offboard(session, CALLER, person, now=world.clock())
        raise RuntimeError
    assert world.principal(person).standing == Standing.ACTIVE
    assert world.deliveries(operation="deprovision") == []
    assert _count_events(world) == before


def _count_events(world: World) -> int:
    with world.database.read() as session:
        return session.execute(select(func.count()).select_from(audit_events)).scalar_one()


@pytest.mark.parametrize("name", ["qy000001", "QY000001", "HQ/QY000001", "总部/QY000001", "QY000001@QIYUE.example"])
def test_person_is_found_by_anything_that_names_them(world: World, name: str) -> None:
    person = world.hire()
    with world.database.read() as session:
        assert find_person(session, name) == person


def test_number_that_two_companies_gave_is_ambiguous(world: World) -> None:
    world.hire(employee_number="7")
    world.hire(employee_number="7", organization_id=world.berlin)
    with world.database.read() as session:
        with pytest.raises(Conflict):
            find_person(session, "7")
        assert find_person(session, "BER/7")


def test_standing_and_epochs_are_written_by_the_one_door_alone() -> None:
    """Invariant 1: no other module of the hub holds a statement that could change a principal."""
    root = Path(__file__).parents[2] / "idhub"
    verbs = r"\b(?:update|insert|delete|upsert|bulk_insert)\(\s*(?:session,\s*)?Principal\b"
    writes = re.compile(verbs + r"|(?<!class )\bPrincipal\(")
    writers = {p.relative_to(root).as_posix() for p in root.rglob("*.py") if writes.search(p.read_text("utf-8"))}
    assert writers == {"lifecycle/owned.py", "lifecycle/records.py"}
