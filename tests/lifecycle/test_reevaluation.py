"""After rules changed everybody is looked at again: all, once, from where it stopped."""

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from idhub.access.rules import set_rules
from idhub.db import new_id
from idhub.directory.kinds import EmploymentType
from idhub.directory.organizations import bump_rules_version
from idhub.directory.tables import Employment, Installation
from idhub.errors import Invalid
from idhub.lifecycle import intake
from idhub.lifecycle.reevaluation import MOST_NOTED, has_work, reevaluate_pending, unevaluated
from idhub.lifecycle.tables import UnevaluatedPerson
from tests.lifecycle.world import World

EVERYBODY = "employments.companyCode pr"


def _rules(world: World, application: str, *texts: tuple[str, str]) -> None:
    with world.database.transaction() as session:
        set_rules(session, application, list(texts), now=world.clock())
        bump_rules_version(session, reevaluate=True)


def _review(world: World) -> int:
    return reevaluate_pending(world.database, clock=world.clock)


def _mark(world: World) -> tuple[int, int, str | None]:
    with world.database.read() as session:
        row = session.execute(
            select(Installation.rules_version, Installation.evaluated_version, Installation.evaluated_up_to)
        ).one()
        return row.rules_version, row.evaluated_version, row.evaluated_up_to


def test_new_rule_entitles_and_provisions_who_is_there(world: World) -> None:
    person = world.hire(type=EmploymentType.CONTRACTOR)
    _rules(world, world.office, ("member", EVERYBODY))
    assert _review(world) == 1
    assert world.entitled(person) == {world.office, world.wiki}
    assert [d.operation for d in world.deliveries(principal_id=person)] == ["provision"]
    assert _review(world) == 0
    version, evaluated, up_to = _mark(world)
    assert (version, up_to) == (evaluated, None)


def test_rule_that_is_gone_withdraws_and_ends_what_rested_on_it(world: World) -> None:
    person = world.hire()
    world.sign_in(person, "office")
    _rules(world, world.office)
    _review(world)
    assert world.entitled(person) == {world.wiki}
    assert {d.operation for d in world.deliveries(principal_id=person)} == {"provision", "deprovision", "logout"}
    # No leave: the deprovision belongs to no case.
    assert {d.case_id for d in world.deliveries(principal_id=person)} == {None}
    assert world.principal(person).access_epoch == 1


def test_person_who_left_is_entitled_to_nothing_by_any_rule(world: World) -> None:
    person = world.hire()
    world.change(intake.Offboard(principal_id=person))
    deliveries = len(world.deliveries())
    _rules(world, world.office, ("member", EVERYBODY), ("admin", "id pr"))
    assert _review(world) == 0
    world.change(intake.Reevaluate(principal_id=person))
    assert world.entitled(person) == set()
    assert len(world.deliveries()) == deliveries


def test_suspended_person_follows_the_rules_when_back(world: World) -> None:
    person = world.hire()
    world.change(intake.Suspend(principal_id=person))
    _rules(world, world.office)
    _review(world)
    world.change(intake.Reactivate(principal_id=person))
    assert world.entitled(person) == {world.wiki}
    (account,) = world.accounts(person)
    assert account.desired_state == "inactive"


def test_rules_that_change_in_the_middle_begin_the_look_anew(world: World) -> None:
    people = sorted(world.hire(type=EmploymentType.CONTRACTOR) for _ in range(3))
    _rules(world, world.office, ("member", EVERYBODY))
    with world.database.transaction() as session:
        session.execute(update(Installation).values(evaluated_up_to=people[1]))
    _rules(world, world.wiki)
    assert _review(world) == 3
    assert [world.entitled(p) for p in people] == [{world.office}] * 3


def test_look_goes_on_where_it_stopped(world: World) -> None:
    people = sorted(world.hire(type=EmploymentType.CONTRACTOR) for _ in range(3))
    _rules(world, world.office, ("member", EVERYBODY))
    with world.database.transaction() as session:
        session.execute(update(Installation).values(evaluated_up_to=people[1]))
    assert _review(world) == 1
    assert world.office in world.entitled(people[2])


def test_progress_is_told(world: World) -> None:
    for _ in range(2):
        world.hire()
    _rules(world, world.office, ("member", EVERYBODY))
    told: list[tuple[int, int]] = []
    reevaluate_pending(world.database, clock=world.clock, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (2, 2)
    assert all(done <= total for done, total in told)


@pytest.mark.parametrize(
    "text", ["", "employments.companyCode", "x eq", "(", 'employments[company eq "a"', "id eq 1 or"]
)
def test_rule_that_cannot_be_used_is_refused_and_changes_nothing(world: World, text: str) -> None:
    before = _mark(world)
    with pytest.raises(Invalid) as refusal:
        _rules(world, world.office, ("member", EVERYBODY), ("bad", text))
    assert (refusal.value.field, refusal.value.rule) == ("rule", "rule.syntax")
    assert _mark(world) == before
    assert world.office in world.entitled(world.hire())


def test_newcomer_during_a_look_is_not_looked_at_twice_and_has_the_new_rules(world: World) -> None:
    _rules(world, world.office)
    person = new_id("per")
    newcomer = intake.Onboard(
        principal_id=person, person=intake.PersonFacts(display_name="新人"), employment=world.facts()
    )
    world.change(newcomer).only()
    assert world.entitled(person) == {world.wiki}
    _review(world)
    assert world.entitled(person) == {world.wiki}


def _break(world: World, *people: str, kind: str = "bogus") -> None:
    """Give their posts a type that nobody can read; or take it back."""
    with world.database.transaction() as session:
        session.execute(update(Employment).where(Employment.principal_id.in_(people)).values(type=kind))


def _noted(world: World) -> list[tuple[str, int]]:
    with world.database.read() as session:
        return [(each.principal_id, each.attempts) for each in unevaluated(session)]


def test_somebody_on_whom_the_look_fails_holds_up_nobody_else_and_is_tried_again(world: World) -> None:
    people = sorted(world.hire(type=EmploymentType.CONTRACTOR) for _ in range(5))
    broken = people[1]
    _break(world, broken)
    _rules(world, world.office, ("member", EVERYBODY))
    assert _review(world) == 5
    assert [world.entitled(person) for person in people if person != broken] == [{world.office, world.wiki}] * 4
    version, evaluated, up_to = _mark(world)
    assert (version, up_to) == (evaluated, None)
    assert _noted(world) == [(broken, 1)]
    assert not has_work(world.database, now=world.clock())
    world.clock.advance(minutes=1)
    assert has_work(world.database, now=world.clock())
    _review(world)
    assert _noted(world) == [(broken, 2)]
    world.clock.advance(seconds=119)
    assert not has_work(world.database, now=world.clock())
    _break(world, broken, kind="contractor")
    world.clock.advance(seconds=1)
    _review(world)
    assert world.entitled(broken) == {world.office, world.wiki}
    assert _noted(world) == []
    assert not has_work(world.database, now=world.clock() + timedelta(days=1))


def test_a_look_that_fails_on_too_many_stops_and_goes_on_when_it_can(world: World) -> None:
    """Then it is not they who are the cause."""
    noted = [new_id("per") for _ in range(MOST_NOTED)]
    person = intake.PersonFacts(display_name="王磊")
    world.change(*(intake.Onboard(principal_id=each, person=person, employment=world.facts()) for each in noted))
    # Whom the look passes over stays noted.
    world.change(*(intake.Offboard(principal_id=each) for each in noted))
    broken = world.hire(type=EmploymentType.CONTRACTOR)
    _break(world, broken)
    row = {"error": "ValueError", "attempts": 1, "since": world.clock(), "again_at": world.clock() + timedelta(days=1)}
    with world.database.transaction() as session:
        session.add_all(UnevaluatedPerson(principal_id=each, **row) for each in noted)
    _rules(world, world.office, ("member", EVERYBODY))
    with pytest.raises(ValueError, match="bogus"):
        _review(world)
    version, evaluated, _ = _mark(world)
    assert version > evaluated
    assert len(_noted(world)) == MOST_NOTED
    _break(world, broken, kind="contractor")
    _review(world)
    assert world.office in world.entitled(broken)
    world.clock.advance(days=1)
    while has_work(world.database, now=world.clock()):
        _review(world)
    assert _noted(world) == []


def test_the_longest_pause_is_an_hour(world: World) -> None:
    person = world.hire()
    _break(world, person)
    _rules(world, world.office, ("member", EVERYBODY))
    for _ in range(8):
        _review(world)
        world.clock.advance(hours=1)
    assert _noted(world) == [(person, 8)]
