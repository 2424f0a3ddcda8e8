"""A payroll file against the register: paid and gone, paid and unknown, one human under two names."""

from datetime import date
from pathlib import Path
from time import process_time

import pytest
from sqlalchemy import insert, update

from idhub.changes import COMMAND_LINE
from idhub.db import new_id
from idhub.directory.kinds import OrganizationKind
from idhub.directory.organizations import create_organization
from idhub.directory.tables import Employment, LoginName, Organization, Person, Principal
from idhub.errors import Invalid
from idhub.lifecycle.hr_ahead import NATIONAL_ID
from idhub.provisioning.reconcile.register import check_register, match_payroll
from idhub.provisioning.reconcile.run import Report
from providers.hr_file import RefusedRow
from providers.hr_file.payroll import PayrollFile, PayrollRow
from tests.provisioning.reconcile.conftest import Ground

sqlite_only = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
HEAD = "company,employee_number,period,national_id\n"


@pytest.fixture
def root(ground: Ground) -> str:
    """The company of the scene under a root, as installed hubs have one."""
    return ground.scene.organization_id


def match(ground: Ground, path: Path, text: str, *, dry_run: bool = False) -> Report:
    file = path / "payroll.csv"
    file.write_text(text, encoding="utf-8")
    scene = ground.scene
    return match_payroll(scene.database, scene.keyring, file, clock=scene.clock, actor=COMMAND_LINE, dry_run=dry_run)


def leave(ground: Ground, person_id: str, *, last_day: date) -> None:
    ground.scene.leave(person_id)
    with ground.scene.database.transaction() as session:
        session.execute(
            update(Employment)
            .where(Employment.principal_id == person_id)
            .values(state="ended", ends_on=last_day, ends_at=ground.scene.clock())
        )


def national_id(ground: Ground, person_id: str, value: str) -> None:
    with ground.scene.database.transaction() as session:
        session.execute(
            update(Person)
            .where(Person.id == person_id)
            .values(national_id_hash=ground.scene.keyring.blind_index(NATIONAL_ID, value))
        )


def test_every_kind_of_ghost_on_the_payroll(ground: Ground, tmp_path: Path) -> None:
    ground.scene.person("works")
    left = ground.scene.person("left")
    leave(ground, left, last_day=date(2026, 9, 30))
    last = ground.scene.person("last")
    leave(ground, last, last_day=date(2026, 11, 12))
    other = ground.scene.person("other")
    national_id(ground, other, "110101199003070012")
    gone = ground.scene.person("gone")
    national_id(ground, gone, "110101199003070099")
    leave(ground, gone, last_day=date(2026, 6, 30))
    report = match(
        ground,
        tmp_path,
        HEAD
        + "总部,QY-works,2026-11,\n"
        + "HQ,QY-left,2026-11,\n"
        + "HQ,QY-last,2026-11,\n"
        + "HQ,QY-nobody,2026-11,\n"
        + "HQ,QY-works2,2026-11,110101199003070012\n"
        + "HQ,Z9,2026-11,110101199003070099\n",
    )
    assert report.is_complete
    found = {finding.subject: finding for finding in ground.findings()}
    assert {subject: (f.kind, f.basis, f.principal_id) for subject, f in found.items()} == {
        "总部/QY-left": ("ghost_paid", "employee_number", left),
        "总部/QY-nobody": ("ghost_paid", "none", None),
        "总部/QY-works2": ("question", "national_id", other),
        "总部/Z9": ("ghost_paid", "national_id", gone),
    }
    assert found["总部/QY-left"].evidence["left_on"] == "2026-09-30"
    assert "110101199003070099" not in str([finding.evidence for finding in found.values()])


@sqlite_only
def test_two_numbers_of_one_human_are_a_duplicate(ground: Ground, tmp_path: Path) -> None:
    first, second = ground.scene.person("first"), ground.scene.person("second")
    national_id(ground, first, "X1")
    match(ground, tmp_path, HEAD + "HQ,QY-second,,X1\n")
    finding = ground.findings()[0]
    assert (finding.kind, finding.evidence["people"]) == ("duplicate_person", sorted([first, second]))


@sqlite_only
def test_next_payroll_closes_what_is_gone_of_the_companies_it_names(ground: Ground, tmp_path: Path) -> None:
    ground.scene.person("works")
    with ground.scene.database.transaction() as session:
        session.execute(
            insert(Organization).values(
                id=new_id("org"),
                parent_id=ground.scene.organization_id,
                kind="subsidiary",
                code="S2",
                name="分公司",
                time_zone="Asia/Shanghai",
                created_at=ground.scene.clock(),
            )
        )
    match(ground, tmp_path, HEAD + "HQ,QY-nobody,,\nS2,N1,,\n")
    assert ground.kinds() == {"总部/QY-nobody": "ghost_paid", "分公司/N1": "ghost_paid"}
    assert match(ground, tmp_path, HEAD + "HQ,QY-works,,\n").closed == 1
    assert ground.kinds() == {"分公司/N1": "ghost_paid"}


@sqlite_only
def test_refused_row_breaks_the_proof_and_closes_nothing(ground: Ground, tmp_path: Path) -> None:
    match(ground, tmp_path, HEAD + "HQ,QY-nobody,,\n")
    report = match(ground, tmp_path, HEAD + "HQ,=cmd(),,\nHQ,QY-x,2026-13,\nHQ,,,\n")
    assert not report.is_complete
    assert report.gaps == (
        "line 2: employee_number: formula_prefix",
        "line 3: period: impossible_date",
        "line 4: employee_number: required",
    )
    assert ground.kinds() == {"总部/QY-nobody": "ghost_paid"}


@sqlite_only
def test_dry_run_of_a_payroll_writes_nothing(ground: Ground, tmp_path: Path) -> None:
    assert match(ground, tmp_path, HEAD + "HQ,QY-nobody,,\n", dry_run=True).found == {"ghost_paid": 1}
    assert ground.findings() == []
    assert ground.event_types() == []


@sqlite_only
@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("name,number\n", "payroll.missing_columns"),
        ("company,company,employee_number\n", "payroll.repeated_column"),
        ("", "payroll.missing_columns"),
    ],
)
def test_file_that_is_no_payroll_is_refused_by_its_rule(ground: Ground, tmp_path: Path, text: str, rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        match(ground, tmp_path, text)
    assert (refused.value.field, refused.value.rule) == ("payroll", rule)


def test_workbook_is_read_as_the_csv_is(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["employee_number", "company", "extra"])
    sheet.append(["000123", "总部", "x"])
    book.save(tmp_path / "payroll.xlsx")
    with PayrollFile(tmp_path / "payroll.xlsx") as file:
        assert list(file.records()) == [PayrollRow(2, "总部", "000123", "", "", "")]
        assert file.unknown_columns == ("extra",)
        assert file.completeness().is_complete


def test_payroll_cell_of_nothing_but_accents_is_refused_as_fast_as_any(tmp_path: Path) -> None:
    path = tmp_path / "payroll.csv"
    accents = "\u0301\u0327" * 60_000
    path.write_text(f"{HEAD}HQ,1,,{accents}\n", encoding="utf-8")
    began = process_time()
    with PayrollFile(path) as file:
        (refused,) = file.records()
    assert process_time() - began < 2
    assert isinstance(refused, RefusedRow)
    assert [(problem.field, problem.rule.value) for problem in refused.problems] == [("national_id", "too_long")]


@sqlite_only
def test_register_finds_people_of_one_mail_and_asks_about_likeness(ground: Ground) -> None:
    scene = ground.scene
    people = {name: scene.person(name, mobile=None) for name in ("a", "b")}
    people |= {name: scene.person(name, mobile="13900000001") for name in ("c", "d")}
    with scene.database.transaction() as session:
        session.execute(insert(LoginName).values(value="a@corp.example", principal_id=people["b"], kind="email"))

    def check() -> Report:
        return check_register(scene.database, clock=scene.clock, actor=COMMAND_LINE)

    assert check().found == {"duplicate_person": 1, "question": 1}
    found = {finding.kind: finding for finding in ground.findings()}
    assert found["duplicate_person"].evidence["people"] == sorted([people["a"], people["b"]])
    assert found["question"].evidence["why"] == "name_and_phone"
    with scene.database.transaction() as session:
        session.execute(update(Principal).where(Principal.id == people["b"]).values(standing="left"))
        session.execute(update(Person).where(Person.id == people["c"]).values(display_name="另一人"))
    assert check().closed == 2
    assert ground.kinds() == {}


@sqlite_only
def test_people_of_two_companies_are_shown_to_whoever_sees_both(ground: Ground) -> None:
    """A finding names everybody it is of: in one company it would tell who of another has this mobile."""
    scene = ground.scene
    ours, theirs = (scene.person(name, mobile="13900000001") for name in ("c", "d"))
    with scene.database.transaction() as session:
        root = scene.organization_id

        def company(code: str, parent: str) -> str:
            return create_organization(
                session, code=code, name=code, kind=OrganizationKind.COMPANY, parent_id=parent, time_zone="UTC",
                now=scene.clock(),
            )  # fmt: skip

        one, other = company("ONE", root), company("OTHER", root)
        below = company("BELOW", one)

    def place(*organizations: str) -> str:
        with scene.database.transaction() as session:
            for person, organization_id in zip((ours, theirs), organizations, strict=True):
                move = update(Principal).where(Principal.id == person)
                session.execute(move.values(organization_id=organization_id))
        check_register(scene.database, clock=scene.clock, actor=COMMAND_LINE)
        (finding,) = ground.findings()
        return finding.organization_id

    # The same finding, wherever its people are by then.
    assert place(one, one) == one
    assert place(one, other) == root
    assert place(one, below) == one
