"""What console, API and command line may ask, for whom, and in which words they are refused."""

from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from audit.tables import audit_events
from idhub.authority import Action, HubRole, Subject, assign_role, remove_role
from idhub.changes import COMMAND_LINE, Actor
from idhub.directory.kinds import Standing
from idhub.directory.organizations import root_organization
from idhub.directory.people import show_person
from idhub.directory.tables import Principal
from idhub.errors import Conflict, IdhubError, Invalid, NotFound, NotPermitted
from idhub.lifecycle import commands, intake
from idhub.lifecycle.commands import Caller
from idhub.lifecycle.doors import ENDS_EMPLOYMENTS, Door
from idhub.lifecycle.transition import transition
from tests.lifecycle.world import CALLER, World


def _token(*actions: Action, organization: str | None = None) -> Caller:
    subject = Subject(actions=frozenset(actions), organization_id=organization)
    return Caller(subject=subject, actor=Actor(kind="client", id="tok_1"), door="api", request_id="req_1")


def _signed_in(person: str) -> Caller:
    return Caller(subject=Subject(principal_id=person), actor=Actor(kind="person", id=person), door="console")


def _do(world: World, name: str, caller: Caller, *args: Any, **values: Any) -> Any:
    with world.database.transaction() as session:
        return getattr(commands, name)(session, caller, *args, now=world.clock(), **values)


def _counts(world: World) -> tuple[int, int]:
    with world.database.read() as session:
        people = session.execute(select(func.count()).select_from(Principal)).scalar_one()
        return people, session.execute(select(func.count()).select_from(audit_events)).scalar_one()


def _post(world: World, **values: Any) -> dict[str, Any]:
    return {
        "organization_id": world.hq,
        "employee_number": "N1",
        "employment_type": "regular",
        "starts_on": date(2026, 1, 1),
        **values,
    }


@pytest.mark.parametrize(
    ("person", "post", "field", "rule"),
    [
        ({"display_name": ""}, {}, "display_name", "required"),
        ({"display_name": "  "}, {}, "display_name", "required"),
        ({}, {}, "display_name", "required"),
        ({"display_name": "x" * 201}, {}, "display_name", "too_long"),
        ({"display_name": "a\u202eb"}, {}, "display_name", "control_character"),
        ({"display_name": "a\0b"}, {}, "display_name", "control_character"),
        ({"display_name": "a\ud800b"}, {}, "display_name", "control_character"),
        ({"display_name": "a\nb"}, {}, "display_name", "control_character"),
        ({"display_name": "a", "email": "a@b"}, {}, "email", "email_form"),
        ({"display_name": "a", "email": "a@b.example, c@d.example"}, {}, "email", "email_form"),
        ({"display_name": "a", "mobile": "call me"}, {}, "mobile", "mobile_form"),
        ({"display_name": "a", "national_id_hash": "x"}, {}, "national_id_hash", "attribute.unknown"),
        ({"display_name": "a", "standing": "active"}, {}, "standing", "attribute.unknown"),
        ({"display_name": "a"}, {"employee_number": ""}, "employee_number", "required"),
        ({"display_name": "a"}, {"employee_number": "a/b"}, "employee_number", "number_form"),
        ({"display_name": "a"}, {"employee_number": "a b"}, "employee_number", "number_form"),
        ({"display_name": "a"}, {"employee_number": "x" * 65}, "employee_number", "too_long"),
        ({"display_name": "a"}, {"employment_type": "king"}, "employment_type", "employment_type"),
        ({"display_name": "a"}, {"ends_on": date(2025, 12, 31)}, "end_date", "end_before_start"),
        ({"display_name": "a"}, {"title": "x" * 201}, "title", "too_long"),
    ],
)
def test_newcomer_who_breaks_a_rule_is_refused_by_field_and_nothing_is_written(
    world: World, person: dict[str, str], post: dict[str, Any], field: str, rule: str
) -> None:
    before = _counts(world)
    with pytest.raises(Invalid) as refusal:
        _do(world, "onboard", CALLER, person=person, **_post(world, **post))
    assert (refusal.value.field, refusal.value.rule) == (field, rule)
    assert _counts(world) == before


def test_right_over_a_company_is_needed_for_each_command(world: World) -> None:
    person = world.hire()
    before = _counts(world), world.principal(person)
    asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("onboard", (), {"person": {"display_name": "a"}, **_post(world)}),
        ("rehire", (person,), _post(world)),
        ("move", (person,), {"employment_id": world.employments(person)[0].id, "values": {"title": "x"}}),
        ("update_person", (person,), {"values": {"display_name": "x"}}),
        ("suspend", (person,), {}),
        ("reactivate", (person,), {}),
        ("offboard", (person,), {}),
        ("cancel_offboarding", (person,), {}),
        ("end_credentials", (person,), {}),
    ]
    change, leave = Action.PEOPLE_CHANGE, Action.PEOPLE_OFFBOARD
    for name, args, values in asked:
        needed = leave if "offboard" in name else change
        without = _token(*(set(Action) - {needed}))
        elsewhere = _token(*Action, organization=world.berlin)
        for caller in (without, elsewhere, Caller(subject=Subject(), actor=COMMAND_LINE, door="api")):
            with pytest.raises(NotPermitted) as refusal:
                _do(world, name, caller, *args, **values)
            assert refusal.value.rule == f"authority.{needed.value}"
    assert (_counts(world), world.principal(person)) == before


def test_hr_leaves_and_administrators_do_not_offboard(world: World) -> None:
    hr, administrator, person = world.hire(), world.hire(), world.hire()
    for principal_id, role in ((hr, HubRole.HR), (administrator, HubRole.ADMINISTRATOR)):
        with world.database.transaction() as session:
            assign_role(
                session,
                principal_id,
                role,
                organization_id=root_organization(session),
                now=world.clock(),
                assigned_by="test",
            )
    with pytest.raises(NotPermitted):
        _do(world, "offboard", _signed_in(administrator), person)
    assert _do(world, "offboard", _signed_in(hr), person).left == [person]
    (event,) = world.events("person.offboarded")
    assert event.actor_id == hr


@pytest.mark.parametrize("name", ["offboard", "suspend"])
def test_nobody_ends_their_own_access_nor_the_last_administrators(world: World, name: str) -> None:
    hr, administrator = world.hire(), world.hire()
    for principal_id, role in ((hr, HubRole.HR), (administrator, HubRole.ADMINISTRATOR)):
        with world.database.transaction() as session:
            assign_role(
                session,
                principal_id,
                role,
                organization_id=root_organization(session),
                now=world.clock(),
                assigned_by="test",
            )
    for target, rule in ((hr, "self"), (administrator, "last_administrator")):
        with pytest.raises(Conflict) as refusal:
            _do(world, name, _signed_in(hr), target)
        assert refusal.value.rule == rule
        assert world.principal(target).standing == Standing.ACTIVE
    # Whoever runs the command line owns the data folder.
    _do(world, name, CALLER, administrator)
    assert world.principal(administrator).standing != Standing.ACTIVE


def _with_role(world: World, role: HubRole, place: str | None = None, **values: Any) -> str:
    person = world.hire(**values)
    with world.database.transaction() as session:
        assign_role(
            session, person, role, organization_id=place or root_organization(session), now=world.clock(),
            assigned_by="test",
        )  # fmt: skip
    return person


def _company_callers(world: World) -> list[Caller]:
    return [
        _token(*Action, organization=world.hq),
        _signed_in(_with_role(world, HubRole.HR, world.hq)),
    ]


def test_hr_of_a_company_gets_no_hold_over_an_authority_that_reaches_further(world: World) -> None:
    """What gives access back or changes how somebody signs in needs a caller who covers the person's hub roles."""
    _with_role(world, HubRole.ADMINISTRATOR)
    callers = _company_callers(world)
    person = _with_role(world, HubRole.ADMINISTRATOR)
    post = world.employments(person)[0].id
    asked: list[tuple[str, dict[str, Any]]] = [
        ("update_person", {"values": {"email": "evil@qiyue.example"}}),
        ("update_person", {"values": {"email": None}}),
        ("update_person", {"values": {"mobile": "+8613900000000"}}),
        ("move", {"employment_id": post, "values": {"employee_number": "EVIL"}}),
        ("reactivate", {}),
        ("cancel_offboarding", {}),
    ]
    before = _counts(world), world.principal(person), world.employments(person)
    for caller in callers:
        for name, values in asked:
            with pytest.raises(NotPermitted) as refused:
                _do(world, name, caller, person, **values)
            assert (refused.value.field, refused.value.rule) == ("person", "authority.beyond"), name
    assert (_counts(world), world.principal(person), world.employments(person)) == before
    # What is no name to sign in with is HR's, and so is the end of a post.
    for caller in callers:
        _do(world, "update_person", caller, person, values={"display_name": f"王{caller.door}"})
        _do(world, "move", caller, person, employment_id=post, values={"title": caller.door})
    _do(world, "suspend", callers[1], person)
    for caller in callers:
        with pytest.raises(NotPermitted):
            _do(world, "reactivate", caller, person)
    group = _signed_in(_with_role(world, HubRole.HR))
    _do(world, "reactivate", group, person)
    _do(world, "update_person", group, person, values={"email": "new@qiyue.example"})
    assert _do(world, "offboard", callers[1], person).left == [person]


def test_a_further_post_is_no_way_to_give_an_authority_back(world: World) -> None:
    """Beside a suspended post it makes them active again, beside a scheduled leave it lets nobody leave."""
    callers = _company_callers(world)
    suspended, leaving, former = (_with_role(world, HubRole.AUDITOR) for _ in range(3))
    for person in (suspended, leaving, former):
        _do(world, "rehire", CALLER, person, **_post(world, employee_number=f"F{person}"))
    _do(world, "suspend", CALLER, suspended)
    _do(world, "offboard", CALLER, leaving, at=world.clock() + timedelta(days=1))
    # One post of theirs has ended; a later end would open it again.
    ended = world.employments(former)[1].id
    _do(world, "move", CALLER, former, employment_id=ended, values={"ends_on": date(2026, 1, 2)})
    _do(world, "suspend", CALLER, former)
    before = _counts(world), [world.principal(p) for p in (suspended, leaving, former)]
    later: dict[str, Any] = {"employment_id": ended, "values": {"ends_on": None}}
    for caller in callers:
        for name, person, values in (
            ("rehire", suspended, _post(world)),
            ("rehire", suspended, _post(world, starts_on=date(2050, 1, 1))),
            ("rehire", leaving, _post(world)),
            ("rehire", former, _post(world)),
            ("move", former, later),
        ):
            with pytest.raises(NotPermitted) as refused:
                _do(world, name, caller, person, **values)
            assert (refused.value.field, refused.value.rule) == ("person", "authority.beyond"), name
    assert (_counts(world), [world.principal(p) for p in (suspended, leaving, former)]) == before
    group = _signed_in(_with_role(world, HubRole.HR))
    _do(world, "rehire", group, suspended, **_post(world))
    _do(world, "move", group, former, **later)
    assert [world.principal(p).standing for p in (suspended, former)] == [Standing.ACTIVE] * 2


def test_an_address_that_stays_is_no_change_and_a_role_that_is_covered_is_none_beyond(world: World) -> None:
    callers = _company_callers(world)
    auditor = _with_role(world, HubRole.AUDITOR)
    with world.database.read() as session:
        email = show_person(session, auditor).email
    own = _with_role(world, HubRole.ADMINISTRATOR, world.hq)
    for number, caller in enumerate(callers):
        _do(world, "update_person", caller, auditor, values={"email": email, "display_name": "审"})
        _do(world, "update_person", caller, own, values={"email": f"own{number}@qiyue.example"})
    with world.database.transaction() as session:
        remove_role(session, auditor, HubRole.AUDITOR, now=world.clock())
    for number, caller in enumerate(callers):
        _do(world, "update_person", caller, auditor, values={"email": f"free{number}@qiyue.example"})


def test_a_role_of_before_a_leave_holds_nothing_back(world: World) -> None:
    callers = _company_callers(world)
    person = _with_role(world, HubRole.AUDITOR)
    _do(world, "offboard", CALLER, person)
    _do(world, "rehire", CALLER, person, **_post(world))
    _do(world, "update_person", callers[0], person, values={"email": "again@qiyue.example"})


def test_an_end_date_is_no_way_around_the_last_administrator(world: World) -> None:
    """A post that ends sooner is a leave by another name, when it is the only one."""
    hr, administrator = _with_role(world, HubRole.HR), _with_role(world, HubRole.ADMINISTRATOR)
    post = world.employments(administrator)[0].id
    for caller in (_signed_in(hr), _token(*Action)):
        for day in (date(2020, 1, 2), date(2050, 1, 1)):
            with pytest.raises(Conflict) as refused:
                _do(world, "move", caller, administrator, employment_id=post, values={"ends_on": day})
            assert refused.value.rule == "last_administrator"
    with pytest.raises(Conflict) as refused:
        own = world.employments(hr)[0].id
        _do(world, "move", _signed_in(hr), hr, employment_id=own, values={"ends_on": date(2020, 1, 2)})
    assert refused.value.rule == "self"
    assert world.principal(administrator).access_ends_at is None
    _do(world, "move", CALLER, administrator, employment_id=post, values={"ends_on": date(2050, 1, 1)})
    # Later than it was, or one of two: nothing ends by it.
    _do(world, "move", _signed_in(hr), administrator, employment_id=post, values={"ends_on": date(2051, 1, 1)})
    _do(world, "rehire", CALLER, administrator, **_post(world))
    _do(world, "move", _signed_in(hr), administrator, employment_id=post, values={"ends_on": date(2020, 1, 2)})
    assert world.principal(administrator).standing == Standing.ACTIVE


def test_ends_of_several_leave_no_day_on_which_nobody_administers(world: World) -> None:
    hr = _signed_in(_with_role(world, HubRole.HR))
    one, two = (_with_role(world, HubRole.ADMINISTRATOR) for _ in range(2))
    posts = {person: world.employments(person)[0].id for person in (one, two)}

    def end(person: str, day: date, caller: Caller = hr) -> None:
        _do(world, "move", caller, person, employment_id=posts[person], values={"ends_on": day})

    end(one, date(2050, 12, 31))
    for day in (date(2049, 1, 1), date(2050, 12, 31), date(2060, 1, 1)):
        for caller in (hr, _token(*Action)):
            with pytest.raises(Conflict) as refused:
                end(two, day, caller)
            assert refused.value.rule == "nobody_administers"
    with pytest.raises(Conflict) as refused:
        _do(world, "offboard", hr, two, at=world.clock() + timedelta(days=9))
    assert refused.value.rule == "nobody_administers"
    assert world.principal(two).access_ends_at is None
    # Of several who all end, each may end sooner that is not the last of them.
    end(two, date(2060, 1, 1), CALLER)
    end(one, date(2049, 1, 1))
    with pytest.raises(Conflict):
        end(two, date(2059, 1, 1))
    # Whoever is named beside them stays; a leave now is never held up while there is anybody else.
    three = _with_role(world, HubRole.ADMINISTRATOR)
    end(two, date(2059, 1, 1))
    _do(world, "offboard", hr, three)
    assert world.principal(three).standing == Standing.LEFT


def test_two_posts_that_end_are_an_end(world: World) -> None:
    hr, administrator = _signed_in(_with_role(world, HubRole.HR)), _with_role(world, HubRole.ADMINISTRATOR)
    _do(world, "rehire", CALLER, administrator, **_post(world))
    first, second = (post.id for post in world.employments(administrator))
    _do(world, "move", hr, administrator, employment_id=first, values={"ends_on": date(2050, 1, 1)})
    with pytest.raises(Conflict) as refused:
        _do(world, "move", hr, administrator, employment_id=second, values={"ends_on": date(2050, 1, 1)})
    assert refused.value.rule == "last_administrator"
    assert world.principal(administrator).access_ends_at is None


def test_emergency_names_no_time(world: World) -> None:
    person = world.hire()
    with pytest.raises(Invalid) as refusal:
        _do(world, "offboard", CALLER, person, is_emergency=True, at=world.clock() + timedelta(days=1))
    assert (refusal.value.field, refusal.value.rule) == ("effective_at", "emergency.time")
    assert world.principal(person).access_ends_at is None


def test_time_in_the_past_is_now(world: World) -> None:
    person = world.hire()
    result = _do(world, "offboard", CALLER, person, at=world.clock() - timedelta(days=9))
    assert result.left == [person]
    assert world.principal(person).access_ends_at == world.clock()


@pytest.mark.parametrize("name", ["offboard", "suspend", "reactivate", "cancel_offboarding"])
def test_nobody_is_not_found(world: World, name: str) -> None:
    with pytest.raises(NotFound):
        _do(world, name, CALLER, "per_unknown")


def test_post_of_somebody_else_is_not_theirs(world: World) -> None:
    person, other = world.hire(), world.hire()
    with pytest.raises(NotFound) as refusal:
        _do(
            world,
            "move",
            CALLER,
            person,
            employment_id=world.employments(other)[0].id,
            values={"title": "x"},
        )
    assert refusal.value.rule == "employment.unknown"
    assert world.employments(other)[0].title is None


def test_nobody_manages_themself(world: World) -> None:
    person = world.hire()
    post = world.employments(person)[0]
    with pytest.raises(Invalid) as refusal:
        _do(world, "move", CALLER, person, employment_id=post.id, values={"manager_id": person})
    assert refusal.value.rule == "manager.self"


@pytest.mark.parametrize("reason", ["x" * 501, "a\u202eb", "a\0b"])
def test_reason_is_text_of_bounded_length(world: World, reason: str) -> None:
    person = world.hire()
    with pytest.raises(Invalid) as refusal:
        _do(world, "offboard", CALLER, person, reason=reason)
    assert refusal.value.field == "reason"


def test_leave_asked_for_again_names_its_case_and_a_person_who_left_is_not_suspended(world: World) -> None:
    person = world.hire()
    case = _do(world, "offboard", CALLER, person).cases[person]
    assert _do(world, "offboard", CALLER, person).cases[person] == case
    for name, rule in (("suspend", "suspend.left"), ("reactivate", "reactivate.left")):
        with pytest.raises(Conflict) as refusal:
            _do(world, name, CALLER, person)
        assert refusal.value.rule == rule


def test_rehire_on_a_live_number_is_refused(world: World) -> None:
    person = world.hire(employee_number="N1")
    with pytest.raises(Conflict) as refusal:
        _do(world, "rehire", CALLER, person, **_post(world))
    assert refusal.value.rule == "employment.live_already"


def test_number_of_another_person_is_taken_also_by_rehire(world: World) -> None:
    world.hire(employee_number="N1")
    person = world.hire()
    _do(world, "offboard", CALLER, person)
    with pytest.raises(Conflict) as refusal:
        _do(world, "rehire", CALLER, person, **_post(world))
    assert refusal.value.rule == "employee_number.taken"
    assert world.principal(person).standing == Standing.LEFT


# ---------------------------------------------------------------------- doors


def test_unknown_door_is_a_defect(world: World) -> None:
    person = world.hire()
    with pytest.raises(ValueError, match="back"):
        world.change(intake.Offboard(principal_id=person), door="back")


@pytest.mark.parametrize("door", sorted(set(Door) - ENDS_EMPLOYMENTS))
def test_door_that_ends_nobody_makes_no_change_of_standing(world: World, door: Door) -> None:
    person = world.hire()
    post = world.employments(person)[0]
    changes: list[intake.Change] = [
        intake.Offboard(principal_id=person),
        intake.Suspend(principal_id=person),
        intake.Reactivate(principal_id=person),
        intake.Move(principal_id=person, employment_id=post.id, values={"title": "x"}),
        intake.UpdatePerson(principal_id=person, values={"email": None}),
        intake.AddEmployment(principal_id=person, employment=world.facts()),
        intake.CancelOffboarding(principal_id=person),
    ]
    for change in changes:
        with pytest.raises(NotPermitted) as refusal, world.database.transaction() as session:
            transition(
                session,
                [intake.EndCredentials(principal_id=person), change],
                now=world.clock(),
                actor=COMMAND_LINE,
                door=door,
            )
        assert refusal.value.rule == "door"
    assert world.principal(person).access_epoch == 1
    world.change(intake.EndCredentials(principal_id=person), door=door).only()
    row = world.principal(person)
    assert (row.standing, row.access_epoch, row.enrolment_epoch) == (Standing.ACTIVE, 2, 1)


def test_refusal_of_one_change_is_an_error_for_one_and_a_line_for_many(world: World) -> None:
    person = world.hire()
    result = world.change(intake.CancelOffboarding(principal_id=person))
    assert isinstance(result.refused[0].error, IdhubError)
    with pytest.raises(Conflict):
        result.only()


def _naming(world: World, person: str, **values: Any) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Every command that names a manager or a department."""
    employment_id = world.employments(person)[0].id
    return [
        ("onboard", (), {"person": {"display_name": "新人"}, **_post(world, **values)}),
        ("rehire", (person,), _post(world, **values)),
        ("move", (person,), {"employment_id": employment_id, "values": values}),
    ]


@pytest.mark.parametrize("what", ["left", "unknown", "a service"])
def test_a_manager_is_somebody_who_is_here_whatever_the_door(world: World, what: str) -> None:
    """Console, API and command line come through these commands alike."""
    person, manager = world.hire("林晓雯"), "per_nobody"
    rule = "manager.unknown"
    if what == "left":
        manager, rule = world.hire("何慕青"), "manager.left"
        world.change(intake.Offboard(principal_id=manager))
    elif what == "a service":
        manager = "svc_one"
        world.change(
            intake.RegisterService(
                principal_id=manager, organization_id=world.hq, application_id=world.office,
                ends_at=world.clock() + timedelta(days=1), owner_id=None,
            )
        )  # fmt: skip
    before = _counts(world)
    for name, args, values in _naming(world, person, manager_id=manager):
        with pytest.raises(IdhubError) as refused:
            _do(world, name, CALLER, *args, **values)
        assert (refused.value.field, refused.value.rule) == ("manager", rule), name
    assert _counts(world) == before


def test_a_department_is_one_of_the_company_whatever_the_door(world: World) -> None:
    """Neither an unknown one nor another company's, and never reported as a number that is taken."""
    from idhub.directory.organizations import ensure_department

    person = world.hire("林晓雯")
    with world.database.transaction() as session:
        elsewhere = ensure_department(session, world.berlin, "研发", now=world.clock())
    before = _counts(world)
    for department in ("dep_nothing", elsewhere):
        for name, args, values in _naming(world, person, department_id=department):
            with pytest.raises(NotFound) as refused:
                _do(world, name, CALLER, *args, **values)
            assert (refused.value.field, refused.value.rule) == ("department", "department.unknown"), name
    assert _counts(world) == before


def test_a_manager_who_leaves_later_does_not_hold_up_their_people(world: World) -> None:
    """Who was named while here stays named; another change of the post goes through."""
    manager, person = world.hire("何慕青"), world.hire("林晓雯")
    employment_id = world.employments(person)[0].id
    _do(world, "move", CALLER, person, employment_id=employment_id, values={"manager_id": manager})
    world.change(intake.Offboard(principal_id=manager))
    _do(world, "move", CALLER, person, employment_id=employment_id, values={"title": "Lead", "manager_id": manager})
    assert world.employments(person)[0].title == "Lead"


@pytest.mark.parametrize("field", ["manager_id", "department_id"])
def test_what_names_nothing_is_not_reported_as_a_taken_number(world: World, field: str) -> None:
    """A file or a schedule comes without the commands: the one door itself says what was wrong."""
    from idhub.db import new_id

    person = intake.PersonFacts(display_name="新人")
    change = intake.Onboard(principal_id=new_id("per"), person=person, employment=world.facts(**{field: "x_unknown"}))
    with pytest.raises(Conflict) as refused:
        world.change(change, door="hr_file")
    assert refused.value.rule == "reference.unknown"
    assert refused.value.field is None
