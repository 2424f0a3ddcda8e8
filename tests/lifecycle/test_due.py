"""What comes due: at its instant, once, after any downtime, however many and however many workers."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import select, update

from idhub.credentials.predicate import may_act
from idhub.db import new_id
from idhub.directory.kinds import Standing
from idhub.directory.tables import Employment, Principal
from idhub.lifecycle import intake
from idhub.lifecycle.due import apply_due, due_principals
from idhub.lifecycle.pace import GoesOn
from tests.lifecycle.world import World


def _may_act(world: World, person: str) -> bool:
    with world.database.read() as session:
        found = select(Principal.id).where(Principal.id == person, may_act(world.clock()))
        return session.execute(found).first() is not None


@pytest.mark.parametrize(
    ("last_day", "zone", "end"),
    [
        (date(2026, 12, 31), "hq", datetime(2026, 12, 31, 16, tzinfo=UTC)),
        (date(2027, 3, 28), "berlin", datetime(2027, 3, 28, 22, tzinfo=UTC)),
        (date(2026, 12, 31), "berlin", datetime(2026, 12, 31, 23, tzinfo=UTC)),
    ],
)
def test_access_ends_at_the_local_instant_whether_a_worker_looks_or_not(
    world: World, last_day: date, zone: str, end: datetime
) -> None:
    person = world.hire(organization_id=getattr(world, zone), ends_on=last_day)
    world.at(end - timedelta(microseconds=1))
    assert _may_act(world, person)
    assert apply_due(world.database, now=world.clock()) == 0
    world.at(end)
    assert not _may_act(world, person)
    assert world.principal(person).standing == Standing.ACTIVE
    assert apply_due(world.database, now=world.clock()) == 1
    assert world.principal(person).standing == Standing.LEFT
    assert apply_due(world.database, now=world.clock()) == 0


def test_start_gives_nothing_before_its_local_instant(world: World) -> None:
    person = world.hire(organization_id=world.berlin, starts_on=date(2026, 12, 1))
    start = datetime(2026, 11, 30, 23, tzinfo=UTC)
    world.at(start - timedelta(microseconds=1))
    assert apply_due(world.database, now=world.clock()) == 0
    assert not _may_act(world, person)
    assert world.entitled(person) == set()
    world.at(start)
    assert apply_due(world.database, now=world.clock()) == 1
    assert _may_act(world, person)


def test_start_and_end_that_both_passed_in_a_downtime_are_a_leave_without_a_stay(world: World) -> None:
    person = world.hire(starts_on=date(2026, 11, 25), ends_on=date(2026, 11, 27))
    world.at(datetime(2026, 12, 5, tzinfo=UTC))
    assert apply_due(world.database, now=world.clock()) == 1
    row = world.principal(person)
    assert (row.standing, row.enrolment_epoch) == (Standing.LEFT, 2)
    assert world.entitled(person) == set()
    assert world.deliveries(principal_id=person) == []


def test_suspended_person_whose_contract_ends_leaves(world: World) -> None:
    person = world.hire(ends_on=date(2026, 11, 25))
    world.change(intake.Suspend(principal_id=person))
    world.at(datetime(2026, 11, 25, 16, tzinfo=UTC))
    assert apply_due(world.database, now=world.clock()) == 1
    assert world.principal(person).standing == Standing.LEFT
    assert [d.operation for d in world.deliveries(principal_id=person)][-1] == "deprovision"


def test_end_of_one_of_two_posts_is_a_move(world: World) -> None:
    person = world.hire(ends_on=date(2026, 11, 25))
    world.change(intake.AddEmployment(principal_id=person, employment=world.facts(organization_id=world.berlin))).only()
    assert world.entitled(person) == {world.office, world.wiki}
    world.at(datetime(2026, 11, 25, 16, tzinfo=UTC))
    assert apply_due(world.database, now=world.clock()) == 1
    row = world.principal(person)
    assert (row.standing, row.access_epoch, row.access_ends_at) == (Standing.ACTIVE, 1, None)
    assert world.entitled(person) == {world.wiki}


def test_several_workers_make_each_leave_once(world: World) -> None:
    people = [world.hire(ends_on=date(2026, 11, 25)) for _ in range(8)]
    world.at(datetime(2026, 11, 26, tzinfo=UTC))
    assert len(due_principals(world.database, now=world.clock(), limit=3)) == 3
    with ThreadPoolExecutor(2) as pool:
        done = [f.result(60) for f in [pool.submit(apply_due, world.database, now=world.clock()) for _ in range(2)]]
    apply_due(world.database, now=world.clock())
    assert sum(done) <= 8
    assert {world.principal(p).standing for p in people} == {Standing.LEFT}
    assert len(world.events("person.offboarded")) == 8
    assert [d.operation for d in world.deliveries(channel="scim")].count("deprovision") == 8


def test_nothing_due_changes_nothing(world: World) -> None:
    person = world.hire()
    before = world.principal(person)
    world.clock.advance(days=400)
    assert apply_due(world.database, now=world.clock()) == 0
    assert world.principal(person) == before


def test_somebody_whose_change_fails_holds_up_nobody_else(world: World) -> None:
    broken, other = (world.hire(ends_on=date(2026, 11, 23)) for _ in range(2))
    with world.database.transaction() as session:
        session.execute(update(Employment).where(Employment.principal_id == broken).values(type="bogus"))
    world.at(datetime(2026, 11, 25, tzinfo=UTC))
    assert apply_due(world.database, now=world.clock()) == 1
    assert world.principal(other).standing == Standing.LEFT
    assert not _may_act(world, broken)
    assert due_principals(world.database, now=world.clock()) == [broken]


def _stopping(told: list[int]) -> GoesOn:
    """Takes note of what it is told, and lets nobody go on."""

    def goes_on(people: int) -> bool:
        told.append(people)
        return False

    return goes_on


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_somebody_else_may_go_on_with_what_is_left(world: World) -> None:
    people = [world.hire(name, ends_on=date(2026, 11, 25)) for name in ("王磊", "李娜", "张伟")]
    world.at(datetime(2026, 11, 25, 16, tzinfo=UTC))
    told: list[int] = []
    first = apply_due(world.database, now=world.clock(), goes_on=_stopping(told))
    assert told == [first]
    assert first < len(people)
    assert apply_due(world.database, now=world.clock()) == len(people) - first


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_many_are_left_to_somebody_else_before_the_first_is_begun(world: World) -> None:
    last = date(2026, 11, 25)
    people = [(new_id("per"), intake.PersonFacts(display_name=f"王{n}")) for n in range(60)]
    world.change(
        *(intake.Onboard(principal_id=i, person=who, employment=world.facts(ends_on=last)) for i, who in people)
    )
    world.at(datetime(2026, 11, 25, 16, tzinfo=UTC))
    told: list[int] = []
    assert apply_due(world.database, now=world.clock(), goes_on=_stopping(told)) == 0
    assert told == [50]
    assert apply_due(world.database, now=world.clock()) == 60
