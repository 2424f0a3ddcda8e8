"""Every rule a row can break, by line, field and rule."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from time import process_time

import pytest

from providers.hr_file import EmploymentType, HrStatus, Rule
from providers.hr_file.rows import MESSAGES
from tests.providers.hr_samples import faults, read, row, write_csv

BROKEN = [
    ({"employee_number": ""}, "employee_number", "missing_employee_number"),
    ({"employee_number": "   "}, "employee_number", "missing_employee_number"),
    ({"employee_number": "12 3"}, "employee_number", "invalid_employee_number"),
    ({"employee_number": "HQ/123"}, "employee_number", "invalid_employee_number"),
    ({"department": "/".join(["x" * 120] * 9)}, "department", "too_long"),
    ({"name": ""}, "name", "required"),
    ({"company": ""}, "company", "required"),
    ({"start_date": ""}, "start_date", "required"),
    ({"start_date": "2026-02-30"}, "start_date", "impossible_date"),
    ({"start_date": "2023-02-29"}, "start_date", "impossible_date"),
    ({"start_date": "20260101"}, "start_date", "impossible_date"),
    ({"start_date": "2026-W01-1"}, "start_date", "impossible_date"),
    ({"start_date": "01.02.2026"}, "start_date", "impossible_date"),
    ({"start_date": "2026-1-1"}, "start_date", "impossible_date"),
    ({"start_date": "２０２６-01-01"}, "start_date", "impossible_date"),
    ({"start_date": "2026-01-01T00:00:00"}, "start_date", "impossible_date"),
    ({"end_date": "2026-13-01"}, "end_date", "impossible_date"),
    ({"end_date": "9999-12-31"}, "end_date", "date_out_of_range"),
    ({"start_date": "0001-01-01"}, "start_date", "date_out_of_range"),
    ({"start_date": "2026-05-02", "end_date": "2026-05-01"}, "end_date", "end_before_start"),
    ({"status": "retired"}, "status", "unknown_status"),
    ({"status": ""}, "status", "unknown_status"),
    ({"status": "Active"}, "status", "unknown_status"),
    ({"employment_type": "freelancer"}, "employment_type", "unknown_employment_type"),
    ({"employment_type": ""}, "employment_type", "unknown_employment_type"),
    ({"department": ""}, "department", "empty_path_part"),
    ({"department": "制造//车间"}, "department", "empty_path_part"),
    ({"department": "/制造"}, "department", "empty_path_part"),
    ({"department": "制造/ "}, "department", "empty_path_part"),
    ({"department": "/".join("abcdefghijklmnopq")}, "department", "too_deep"),
    ({"name": "张\x07伟"}, "name", "control_character"),
    ({"name": "张\x00伟"}, "name", "control_character"),
    ({"title": "a\nb"}, "title", "control_character"),
    ({"title": "\tboss"}, "title", "control_character"),
    ({"title": "\r=1+1"}, "title", "control_character"),
    ({"name": "ad\u200bmin"}, "name", "control_character"),
    ({"name": "line\u2028break"}, "name", "control_character"),
    ({"department": "IT\x1b[31m"}, "department", "control_character"),
    ({"name": "evil\u202egnp.exe"}, "name", "bidi_character"),
    ({"title": "\u2066x\u2069"}, "title", "bidi_character"),
    ({"name": "=cmd|'/C calc'!A0"}, "name", "formula_prefix"),
    ({"given_name": "+1"}, "given_name", "formula_prefix"),
    ({"family_name": "-1"}, "family_name", "formula_prefix"),
    ({"title": "@SUM(A1)"}, "title", "formula_prefix"),
    ({"title": "  =1+1"}, "title", "formula_prefix"),
    ({"title": "＝1+1"}, "title", "formula_prefix"),
    ({"title": "＋1"}, "title", "formula_prefix"),
    ({"title": "－1"}, "title", "formula_prefix"),
    ({"title": "＠SUM"}, "title", "formula_prefix"),
    ({"email": "=a@qiyue.example"}, "email", "formula_prefix"),
    ({"employee_number": "=1"}, "employee_number", "formula_prefix"),
    ({"department": "制造/=1"}, "department", "formula_prefix"),
    ({"company": "@dealer"}, "company", "formula_prefix"),
    ({"national_id": "-1"}, "national_id", "formula_prefix"),
    ({"employee_number": "9" * 65}, "employee_number", "too_long"),
    ({"name": "x" * 129}, "name", "too_long"),
    ({"given_name": "x" * 101}, "given_name", "too_long"),
    ({"family_name": "x" * 101}, "family_name", "too_long"),
    ({"title": "x" * 129}, "title", "too_long"),
    ({"company": "x" * 129}, "company", "too_long"),
    ({"department": "x" * 129}, "department", "too_long"),
    ({"email": "x" * 250 + "@a.example"}, "email", "too_long"),
    ({"national_id": "1" * 65}, "national_id", "too_long"),
    ({"manager_employee_number": "1" * 65}, "manager_employee_number", "too_long"),
    ({"manager_company": "x" * 129}, "manager_company", "too_long"),
    ({"email": "wei.zhang"}, "email", "invalid_email"),
    ({"email": "a..b@qiyue.example"}, "email", "invalid_email"),
    ({"email": ".a@qiyue.example"}, "email", "invalid_email"),
    ({"email": "a@b@qiyue.example"}, "email", "invalid_email"),
    ({"email": "a@qiyue"}, "email", "invalid_email"),
    ({"email": "a@-qiyue.example"}, "email", "invalid_email"),
    ({"email": "a b@qiyue.example"}, "email", "invalid_email"),
    ({"email": "x" * 65 + "@qiyue.example"}, "email", "invalid_email"),
    ({"mobile": "1234"}, "mobile", "invalid_mobile"),
    ({"mobile": "=1380000000"}, "mobile", "invalid_mobile"),
    ({"mobile": "13800000000000001"}, "mobile", "invalid_mobile"),
    ({"mobile": "138-CALL-ME"}, "mobile", "invalid_mobile"),
    ({"mobile": "++8613800000000"}, "mobile", "invalid_mobile"),
]


@pytest.mark.parametrize(("changes", "field", "rule"), BROKEN)
def test_row_breaking_a_rule_is_refused_by_line_field_and_rule(
    tmp_path: Path, changes: dict[str, str], field: str, rule: str
) -> None:
    path = write_csv(tmp_path / "hr.csv", [row(employee_number="1"), row(**{"employee_number": "2"} | changes)])
    accepted, refused, _ = read(path)
    assert [each.employee_number for each in accepted] == ["1"]
    assert faults(refused) == [(3, field, rule)]


def test_every_rule_has_a_sentence_in_both_languages() -> None:
    assert set(MESSAGES) == set(Rule)
    assert all(english and chinese for english, chinese in MESSAGES.values())


def test_all_problems_of_a_row_are_reported_together(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "hr.csv", [row(name="=x", start_date="nope", status="?", email="nobody")])
    _, refused, _ = read(path)
    assert faults(refused) == [
        (2, "name", "formula_prefix"),
        (2, "email", "invalid_email"),
        (2, "start_date", "impossible_date"),
        (2, "status", "unknown_status"),
    ]


def test_good_row_is_typed_and_keeps_leading_zeros(tmp_path: Path) -> None:
    changes = {"mobile": "+86 (138) 0000-0001", "end_date": "2026-12-31", "employment_type": "contractor"}
    path = write_csv(tmp_path / "hr.csv", [row(**changes)])
    (read_row,), refused, _ = read(path)
    assert refused == []
    assert read_row.employee_number == "000123"
    assert read_row.manager_employee_number == "000001"
    assert read_row.department == ("信息技术", "平台")
    assert read_row.mobile == "+8613800000001"
    assert (read_row.start_on, read_row.end_on) == (date(2024, 2, 29), date(2026, 12, 31))
    assert read_row.employment_type is EmploymentType.CONTRACTOR
    assert read_row.status is HrStatus.ACTIVE
    assert read_row.notice is None


def test_empty_email_mobile_manager_and_end_are_allowed(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "hr.csv", [row(email="", mobile="", manager_employee_number="", end_date="")])
    (read_row,), refused, _ = read(path)
    assert refused == []
    nothing = (read_row.email, read_row.mobile, read_row.manager_employee_number, read_row.end_on, read_row.national_id)
    assert nothing == (None,) * 5


def test_values_are_trimmed_and_composed(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "hr.csv", [row(name="\u3000Ju\u0308rgen Weiß ", department=" IT / Cloud ")])
    (read_row,), _, _ = read(path)
    assert read_row.name == "J\u00fcrgen Weiß"
    assert read_row.department == ("IT", "Cloud")


def test_cell_of_nothing_but_accents_is_refused_as_fast_as_any(tmp_path: Path) -> None:
    """Putting accents in order takes the square of their number: these took twelve seconds each, a megabyte minutes."""
    accents = "a" + "\u0301\u0327" * 60_000
    path = write_csv(tmp_path / "hr.csv", [row(name=accents), row(employee_number="2", department=accents)])
    began = process_time()
    accepted, refused, _ = read(path)
    assert process_time() - began < 2
    assert accepted == []
    assert faults(refused) == [(2, "name", "too_long"), (3, "department", "too_long")]


def test_accents_and_blanks_that_leave_no_more_than_the_limit_go_in(tmp_path: Path) -> None:
    # Four code points each, one when composed.
    name = "\u03b1\u0313\u0300\u0345" * 128
    path = write_csv(tmp_path / "hr.csv", [row(name=" " * 9_000 + name + " " * 9_000)])
    (read_row,), _, _ = read(path)
    assert read_row.name == "\u1f82" * 128


@pytest.mark.parametrize("name", ["\U00031351", "\ue000张", "O'Brien-Smith", "𠮷野", "José"])
def test_rare_and_private_use_name_characters_go_in(tmp_path: Path, name: str) -> None:
    (read_row,), _, _ = read(write_csv(tmp_path / "hr.csv", [row(name=name)]))
    assert read_row.name == name


def test_d32_second_row_of_an_employee_number_is_refused_and_the_first_goes_in(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "hr.csv",
        [
            row(employee_number="0007", name="甲"),
            row(employee_number="7", name="乙"),
            row(employee_number="0007", name="丙"),
            row(employee_number="0007", name="丁", company="柏林"),
        ],
    )
    accepted, refused, _ = read(path)
    assert [(each.name, each.employee_number) for each in accepted] == [("甲", "0007"), ("乙", "7"), ("丁", "0007")]
    assert faults(refused) == [(4, "employee_number", "repeated_employee_number")]


def test_number_of_a_refused_row_counts_as_listed_and_taken(tmp_path: Path) -> None:
    """Somebody who is listed badly is not absent, and no second row may stand in for them."""
    path = write_csv(tmp_path / "hr.csv", [row(employee_number="5", status="?"), row(employee_number="5")])
    accepted, refused, file = read(path)
    assert accepted == []
    assert faults(refused) == [(2, "status", "unknown_status"), (3, "employee_number", "repeated_employee_number")]
    assert file.has_listed("总部", "5")
    assert not file.has_listed("总部", "6")


def test_own_manager_goes_in_without_a_manager_and_is_listed(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "hr.csv",
        [
            row(employee_number="1", manager_employee_number="1"),
            row(employee_number="2", manager_employee_number="2", manager_company="总部"),
            row(employee_number="3", manager_employee_number="3", manager_company="柏林"),
        ],
    )
    accepted, refused, _ = read(path)
    assert refused == []
    assert [each.manager_employee_number for each in accepted] == [None, None, "3"]
    notices = [(each.notice.line, each.notice.field, each.notice.rule) for each in accepted if each.notice]
    assert notices == [
        (2, "manager_employee_number", Rule.OWN_MANAGER),
        (3, "manager_employee_number", Rule.OWN_MANAGER),
    ]


def test_digest_depends_on_what_the_row_says_and_not_on_how(tmp_path: Path) -> None:
    plain = write_csv(tmp_path / "a.csv", [row()])
    shuffled = write_csv(tmp_path / "b.csv", [row()], columns=[*reversed(list(row()))], encoding="gb18030")
    changed = write_csv(tmp_path / "c.csv", [row(title="经理")])
    digests = [read(path)[0][0].digest for path in (plain, shuffled, changed)]
    assert digests[0] == digests[1] != digests[2]


def test_excerpt_is_one_short_line_and_never_an_identity_number(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "hr.csv", [row(name="x\u202e\n" + "y" * 200, national_id="=110101199001011234")])
    _, refused, _ = read(path)
    excerpts = {problem.field: problem.value_excerpt for problem in refused[0].problems}
    assert excerpts["name"].startswith("x\\u202e\\u000ay")
    assert len(excerpts["name"]) < 60
    assert excerpts["national_id"] == "***"
