"""People made ready ahead of the one door: what is written of them is what is written of anybody who joins."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy import select

from audit.tables import audit_events, audit_personal
from idhub.changes import COMMAND_LINE
from idhub.db import Base, new_id
from idhub.directory.kinds import EmploymentState
from idhub.directory.search import find_people
from idhub.directory.tables import Employment, EmploymentPeriod, LoginName, Person, Principal, SourceRecord
from idhub.errors import Conflict, IdhubError, NotPermitted
from idhub.lifecycle import intake, ready
from idhub.lifecycle.events import Occasion
from idhub.lifecycle.joiners import Joiners, indexed, settle
from idhub.lifecycle.ready import Newcomer
from idhub.lifecycle.transition import TransitionResult, transition
from tests.lifecycle.world import World

DOOR = "hr_file"
MANAGER = "王磊"


@dataclass(frozen=True)
class Candidate:
    """Somebody who may join either way: with others, made ready ahead, or alone."""

    principal_id: str
    person: intake.PersonFacts
    employment: intake.EmploymentFacts
    source: intake.SourceMark

    @property
    def newcomer(self) -> Newcomer:
        post = self.employment
        facts = (post.organization_id, post.department_id, post.employee_number, post.type, post.title)
        dates = (post.starts_on, post.ends_on, post.state)
        return Newcomer(self.principal_id, asdict(self.person), *facts, *dates, self.source)


def candidate(world: World, name: str, **employment: Any) -> Candidate:
    facts = world.facts(**employment)
    number = facts.employee_number
    return Candidate(
        new_id("per"),
        intake.PersonFacts(
            display_name=name,
            given_name="小明",
            family_name="单",
            email=f"{number}@qiyue.example",
            mobile=f"+86138{number[-6:]}00",
            national_id_hash=f"hash-{number}",
        ),
        facts,
        intake.SourceMark(
            provider=DOOR,
            key=f"HQ/{number}",
            scope=facts.organization_id,
            content_hash=f"said-{number}",
            generation="run_1",
            raw_sealed=b"sealed",
        ),
    )


def made(world: World, *people: Candidate, zone: str = "Asia/Shanghai") -> Joiners:
    return ready.make(
        [person.newcomer for person in people],
        {world.hq: zone},
        Occasion(world.clock(), COMMAND_LINE, DOOR, None),
        sealer=world.keyring,
    )


def join(world: World, *groups: Joiners, door: str = DOOR) -> TransitionResult:
    with world.database.transaction() as session:
        return transition(session, (), joiners=groups, now=world.clock(), actor=COMMAND_LINE, door=door)


def everything(world: World, person: Candidate) -> str:
    """What the database holds of somebody, with the names that are theirs alone replaced."""
    with world.database.read() as session:
        (post,) = session.execute(
            select(Employment.__table__).where(Employment.principal_id == person.principal_id)
        ).all()
        found: dict[str, list[dict[str, Any]]] = {}
        wanted: list[tuple[type[Base], str, str]] = [
            (Principal, "id", person.principal_id),
            (Person, "id", person.principal_id),
            (Employment, "principal_id", person.principal_id),
            (EmploymentPeriod, "employment_id", post.id),
            (LoginName, "principal_id", person.principal_id),
            (SourceRecord, "principal_id", person.principal_id),
        ]
        for model, column, key in wanted:
            rows = session.execute(select(model.__table__).where(getattr(model, column) == key)).mappings()
            found[model.__tablename__] = [{f"{name}": value for name, value in row.items()} for row in rows]
        events = session.execute(
            select(audit_events)
            .where(audit_events.c.person_id == person.principal_id, audit_events.c.type == "person.onboarded")
            .order_by(audit_events.c.id)
        ).all()
        found["events"] = [orjson.loads(event.body) for event in events]
        held = session.execute(select(audit_personal).where(audit_personal.c.person_id == person.principal_id)).all()
        found["personal"] = [{"rows": len(held)}]
    found["login_names"].sort(key=lambda row: row["kind"])
    for body in found["events"]:
        body["personal"] = sorted(body["personal"])
    for row in found["people"]:
        assert row["search_place"] > 0
        row["search_place"] = "<place>"
    text = orjson.dumps(found, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    own = (
        (person.principal_id, "<person>"),
        (post.id, "<post>"),
        (person.employment.employee_number.lower(), "<number>"),
        (person.employment.employee_number, "<number>"),
        (person.employment.employee_number[-6:], "<digits>"),
        (person.employment.employee_number[-6:][::-1], "<stigid>"),
        *((found_id["id"], "<period>") for found_id in found["employment_periods"]),
        *((body["event_id"], "<event>") for body in found["events"]),
    )
    for name, shown in own:
        text = text.replace(name, shown)
    return text


@pytest.mark.parametrize(
    "employment",
    [
        {},
        {"starts_on": date(2027, 3, 1), "ends_on": date(2027, 9, 30)},
        {"state": EmploymentState.SUSPENDED, "title": '"manager_id":null'},
        {"starts_on": date(2020, 3, 1), "ends_on": date(2020, 9, 30)},
        {"starts_on": date(2020, 3, 1), "ends_on": date(2020, 3, 1), "state": EmploymentState.ENDED},
    ],
)
def test_joiners_made_ahead_leave_what_joiners_one_by_one_leave(world: World, employment: dict[str, Any]) -> None:
    manager = world.hire(MANAGER)
    one, other = (
        candidate(world, "单小明", employee_number=number, **employment) for number in ("QY918273", "QY546372")
    )
    group = settle(made(world, one), {0: manager}, {0: one.source.content_hash + "?"})
    assert join(world, group).changed == [one.principal_id]
    world.change(
        intake.Onboard(
            principal_id=other.principal_id,
            person=other.person,
            employment=replace(other.employment, manager_id=manager),
            source=other.source._replace(content_hash=other.source.content_hash + "?"),
        ),
        door=DOOR,
    ).only()
    assert everything(world, one) == everything(world, other)
    is_active = not employment
    for person in (one, other):
        assert world.entitled(person.principal_id) == ({world.office, world.wiki} if is_active else set())
        assert len(world.deliveries(principal_id=person.principal_id)) == int(is_active)
    with world.database.read() as session:
        found = find_people(session, "danxiaoming", select(Person.id))
    assert set(found.ids) == {one.principal_id, other.principal_id}


def test_joiners_who_contradict_what_is_do_not_join_and_nobody_with_them(world: World) -> None:
    world.hire(employee_number="QY000777")
    one, taken = candidate(world, "甲"), candidate(world, "乙", employee_number="QY000777")
    with pytest.raises(Conflict) as caught:
        join(world, made(world, one), made(world, taken))
    assert caught.value.rule == "employee_number.taken"
    with world.database.read() as session:
        assert session.execute(select(Person.id).where(Person.id == one.principal_id)).first() is None


@pytest.mark.parametrize("stale", ["moment", "zone", "company"])
def test_joiners_made_for_another_moment_or_place_do_not_join(world: World, stale: str) -> None:
    group = made(world, candidate(world, "甲"), zone="Europe/Berlin" if stale == "zone" else "Asia/Shanghai")
    if stale == "moment":
        world.clock.advance(timedelta(seconds=1))
    elif stale == "company":
        group = group._replace(zones={"org_unknown": "Asia/Shanghai"})
    with pytest.raises(IdhubError) as caught:
        join(world, group)
    assert caught.value.rule == "joiners.stale"


def test_nobody_joins_through_a_door_that_changes_no_standing(world: World) -> None:
    with pytest.raises(NotPermitted):
        join(world, made(world, candidate(world, "甲")), door="login")


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_lines_of_the_index_travel_between_processes_and_so_does_that_there_are_none(world: World) -> None:
    group = indexed(made(world, candidate(world, "甲")))
    assert group.search is not None and group.search.lines
    nothing = group._replace(search=group.search._replace(lines=[], owners=[]))
    for sent in (group, nothing):
        arrived = copy.copy(sent)  # by what pickle uses
        assert arrived.search is not None and sent.search is not None
        assert (arrived.search.lines, arrived.search.owners) == (sent.search.lines, sent.search.owners)
