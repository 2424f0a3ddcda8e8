"""The report of refused rows is safe to open and loses no structure (security catalogue X01, X02)."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from providers.hr_file import COLUMNS, RefusedRow, RowProblem, Rule, write_error_report
from providers.hr_file.report import safe_cell
from tests.providers.hr_samples import read, row, write_csv


@pytest.mark.parametrize(
    "value",
    [
        *["=cmd|'/C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\tx", "\rx", "\n=1"],
        *[";=1", " =1", "＝1", "＋1", "'=1", '"=1'],
    ],
)
def test_x01_value_that_could_be_a_formula_gets_an_apostrophe(value: str) -> None:
    assert safe_cell(value) == "'" + value


@pytest.mark.parametrize("value", ["", "张伟", "a=b", "1-2", "wei@qiyue.example", "a\nb"])
def test_x01_plain_value_stays_as_it_is(value: str) -> None:
    assert safe_cell(value) == value


def test_x02_structure_round_trips() -> None:
    nasty = ('say "hi"', "a,b", "two\r\nlines", "\ufeffbom", "nul\x00", "汉字")
    refused = RefusedRow(7, (RowProblem(7, "name", Rule.CONTROL_CHARACTER, ""),), nasty)
    stream = io.StringIO(newline="")
    assert write_error_report(stream, [refused]) == 1
    text = stream.getvalue()
    assert text.endswith('"\r\n')
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[1][:3] == ["7", "name", "control_character"]
    assert tuple(rows[1][5:11]) == nasty


def test_report_names_every_problem_and_leaves_identity_numbers_out(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "hr.csv", [row(name="=1", status="?", national_id="110101199001011234")])
    _, refused, _ = read(path)
    report = tmp_path / "report.csv"
    with report.open("w", encoding="utf-8-sig", newline="") as stream:
        write_error_report(stream, refused)
    content = report.read_text(encoding="utf-8-sig")
    assert "110101199001011234" not in content
    rows = list(csv.DictReader(io.StringIO(content)))
    assert [(each["line"], each["field"], each["rule"]) for each in rows] == [
        ("2", "name", "formula_prefix"),
        ("2", "status", "unknown_status"),
    ]
    assert rows[0]["name"] == "'=1"
    assert rows[0]["message"] == "the value begins like a spreadsheet formula (= + - @)"
    assert rows[0]["说明"] == "以公式字符（= + - @）开头"
    assert "national_id" in COLUMNS
