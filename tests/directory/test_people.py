"""Finding one person by anything that names them, and showing many in few statements."""

import pytest
from sqlalchemy import event, select

from idhub.db import Database
from idhub.directory.people import find_person, show_people, show_person
from idhub.directory.tables import OrganizationClosure
from idhub.errors import Conflict, NotFound
from idhub.keys import Keyring
from tests.lifecycle.world import World
from tests.support.clock import Clock


@pytest.fixture
def world(database: Database, keyring: Keyring, clock: Clock) -> World:
    return World(database, keyring, clock)


def test_a_person_is_found_by_whatever_names_them(world: World) -> None:
    wang = world.hire("王磊", employee_number="QY1")
    with world.database.read() as session:
        for text in (wang, "QY1", "qy1", " QY1 ", "HQ/QY1", "总部/QY1", "qy1@qiyue.example"):
            assert find_person(session, text) == wang


def test_a_number_of_two_companies_names_nobody_until_the_company_is_said(world: World) -> None:
    here = world.hire("王磊", employee_number="1001")
    there = world.hire("Anna", employee_number="1001", organization_id=world.berlin)
    with world.database.read() as session:
        with pytest.raises(Conflict, match="say company/number") as refused:
            find_person(session, "1001")
        assert refused.value.rule == "person.ambiguous"
        assert find_person(session, "HQ/1001") == here
        assert find_person(session, "BER/1001") == there


def test_people_outside_the_scope_do_not_exist(world: World) -> None:
    here = world.hire("王磊", employee_number="1001")
    there = world.hire("Anna", employee_number="1001", organization_id=world.berlin)
    scope = select(OrganizationClosure.descendant_id).where(OrganizationClosure.ancestor_id == world.hq)
    with world.database.read() as session:
        assert find_person(session, "1001", within=scope) == here
        for text in (there, "BER/1001"):
            with pytest.raises(NotFound) as hidden:
                find_person(session, text, within=scope)
            with pytest.raises(NotFound) as absent:
                find_person(session, text.replace("1", "9"), within=scope)
            assert (hidden.value.rule, hidden.value.field) == (absent.value.rule, absent.value.field)


@pytest.mark.parametrize(
    "text", ["", "nobody", "per_0", "HQ/", "/1", "a\0b", "per_\0", "HQ/\0", "\ud800", "x" * 70_000]
)
def test_what_names_nobody_is_said_so(world: World, text: str) -> None:
    with world.database.read() as session, pytest.raises(NotFound) as refused:
        find_person(session, text)
    assert refused.value.rule == "person.unknown"
    assert len(refused.value.description) < 1_000


def test_many_are_shown_in_as_many_statements_as_one(world: World) -> None:
    boss = world.hire("陈静")
    people = [world.hire(f"员工{i}", manager_id=boss) for i in range(5)]
    counts = []
    for wanted in ([people[0]], people):
        statements: list[str] = []

        def count(*args: object, into: list[str] = statements) -> None:
            into.append(str(args[2]))

        event.listen(world.database.engine, "before_cursor_execute", count)
        with world.database.read() as session:
            views = show_people(session, wanted)
        event.remove(world.database.engine, "before_cursor_execute", count)
        counts.append(len(statements))
        assert list(views) == sorted(views)
        assert all(view.main is not None and view.main.manager == "陈静" for view in views.values())
    assert counts[0] == counts[1]


def test_somebody_who_is_not_there_cannot_be_shown(world: World) -> None:
    with world.database.read() as session, pytest.raises(NotFound):
        show_person(session, "per_none")
