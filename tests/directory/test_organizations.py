"""The trees: closure rows, paths, finding."""

import pytest
from sqlalchemy import select

from idhub.db import Database
from idhub.directory.kinds import OrganizationKind
from idhub.directory.organizations import (
    ROOT_CODE,
    all_organizations,
    bump_rules_version,
    create_organization,
    department_paths,
    ensure_department,
    ensure_departments,
    find_organization,
    install,
    parse_department_path,
    root_organization,
)
from idhub.directory.tables import Department, DepartmentClosure, Installation, OrganizationClosure
from idhub.errors import Conflict, Invalid, NotFound
from tests.support.clock import Clock


@pytest.fixture
def root(database: Database, clock: Clock) -> str:
    with database.transaction() as session:
        assert install(session, time_zone="Asia/Shanghai", now=clock())
        return root_organization(session)


def make(database: Database, clock: Clock, parent: str, code: str, name: str) -> str:
    with database.transaction() as session:
        return create_organization(
            session,
            code=code,
            name=name,
            kind=OrganizationKind.COMPANY,
            parent_id=parent,
            time_zone="Asia/Shanghai",
            now=clock(),
        )


def test_installing_twice_makes_one_root(database: Database, clock: Clock, root: str) -> None:
    with database.transaction() as session:
        assert not install(session, time_zone="Europe/Berlin", now=clock())
        assert root_organization(session) == root
        assert all_organizations(session)[root].time_zone == "Asia/Shanghai"


def test_a_hub_that_was_never_started_has_no_root(database: Database) -> None:
    with database.read() as session, pytest.raises(NotFound, match="no organization yet"):
        root_organization(session)


def test_the_closure_holds_every_pair_with_its_depth(database: Database, clock: Clock, root: str) -> None:
    company = make(database, clock, root, "HQ", "总部")
    plant = make(database, clock, company, "HQ-1", "一厂")
    with database.read() as session:
        rows = session.execute(
            select(OrganizationClosure.ancestor_id, OrganizationClosure.descendant_id, OrganizationClosure.depth)
        )
        assert {tuple(row) for row in rows} == {
            (root, root, 0),
            (company, company, 0),
            (plant, plant, 0),
            (root, company, 1),
            (company, plant, 1),
            (root, plant, 2),
        }
        assert all_organizations(session)[plant].ancestors == ("HQ-1", "HQ", ROOT_CODE)


def test_an_organization_is_found_by_id_code_or_name(database: Database, clock: Clock, root: str) -> None:
    company = make(database, clock, root, "HQ", "总部")
    with database.read() as session:
        assert {find_organization(session, text) for text in (company, "HQ", "总部")} == {company}
        assert find_organization(session, "Group") == root
        for text in ("hq", "", "a\0b", "\ud800", "x" * 9_000):
            with pytest.raises(NotFound) as refused:
                find_organization(session, text)
            assert refused.value.rule == "organization.unknown"
            assert len(refused.value.description) < 1_000


@pytest.mark.parametrize(("code", "name"), [("HQ", "another"), ("another", "总部")])
def test_code_and_name_are_taken_once(database: Database, clock: Clock, root: str, code: str, name: str) -> None:
    make(database, clock, root, "HQ", "总部")
    with pytest.raises(Conflict) as refused:
        make(database, clock, root, code, name)
    assert refused.value.rule == "taken"


def test_departments_are_made_with_everything_above_them_once(database: Database, clock: Clock, root: str) -> None:
    wanted = [(root, "研发/底盘/电控"), (root, "研发/车身"), (root, "研发")]
    with database.transaction() as session:
        ids, made = ensure_departments(session, wanted, now=clock())
        assert sorted(path for _, path in made) == ["研发", "研发/底盘", "研发/底盘/电控", "研发/车身"]
        assert set(ids) == set(wanted)
    with database.transaction() as session:
        again, made = ensure_departments(session, wanted, now=clock())
        assert made == []
        assert again == ids
        assert department_paths(session, ids.values()) == {ids[pair]: pair[1] for pair in wanted}
        top, leaf = ids[root, "研发"], ids[root, "研发/底盘/电控"]
        depth = select(DepartmentClosure.depth).where(
            DepartmentClosure.ancestor_id == top, DepartmentClosure.descendant_id == leaf
        )
        assert session.execute(depth).scalar_one() == 2
        assert session.execute(select(Department.parent_id).where(Department.id == top)).scalar_one() is None


def test_the_same_path_in_two_companies_is_two_departments(database: Database, clock: Clock, root: str) -> None:
    company = make(database, clock, root, "HQ", "总部")
    with database.transaction() as session:
        ids, _ = ensure_departments(session, [(root, "研发"), (company, "研发")], now=clock())
    assert len(set(ids.values())) == 2


def test_a_typed_path_is_brought_into_one_form(database: Database, clock: Clock, root: str) -> None:
    assert parse_department_path(" 研发 / 底盘 ") == "研发/底盘"
    assert parse_department_path("Ku\u0308che") == "K\u00fcche"
    with database.transaction() as session:
        assert ensure_department(session, root, " 研发 ", now=clock()) == ensure_department(
            session, root, "研发", now=clock()
        )


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("", "empty_path_part"),
        ("研发//底盘", "empty_path_part"),
        ("/研发", "empty_path_part"),
        ("研发/ ", "empty_path_part"),
        ("/".join("a" * 17), "too_deep"),
        ("a" * 129, "too_long"),
        ("/".join(["a" * 120] * 9), "too_long"),
        ("研\0发", "control_character"),
        ("研\u202e发", "control_character"),
        ("研\n发", "control_character"),
        ("\ud800", "control_character"),
    ],
)
def test_a_path_that_is_none_is_refused(path: str, rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_department_path(path)
    assert (refused.value.field, refused.value.rule) == ("department", rule)


def test_a_new_rules_version_asks_for_reevaluation_only_where_access_may_change(database: Database, root: str) -> None:
    def versions() -> tuple[int, int]:
        with database.read() as session:
            row = session.execute(select(Installation.rules_version, Installation.evaluated_version)).one()
            return row.rules_version, row.evaluated_version

    with database.transaction() as session:
        bump_rules_version(session, reevaluate=False)
    assert versions() == (2, 2)
    with database.transaction() as session:
        bump_rules_version(session, reevaluate=True)
    assert versions() == (3, 2)
    with database.transaction() as session:
        bump_rules_version(session, reevaluate=False)
    assert versions() == (4, 2), "what is still to be looked at is not forgotten"
