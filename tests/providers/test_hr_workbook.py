"""XLSX: what is read of a workbook, and what a hostile one cannot do (security catalogue X04)."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from providers.hr_file import COLUMNS, HrFile, HrFileLimits, HrFileRefused
from tests.providers.hr_samples import faults, read, row


def workbook(path: Path, rows: list[Mapping[str, Any]], **formats: str) -> Path:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(COLUMNS)
    for values in rows:
        sheet.append([values.get(column) or None for column in COLUMNS])
    for column, number_format in formats.items():
        for cells in sheet.iter_rows(min_row=2, min_col=COLUMNS.index(column) + 1, max_col=COLUMNS.index(column) + 1):
            cells[0].number_format = number_format
    book.save(path)
    return path


def rewritten(path: Path, part: str, change: Callable[[bytes], bytes]) -> Path:
    """Rewrite one part of a workbook."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[part] = change(parts[part])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def refusal(path: Path, limits: HrFileLimits | None = None) -> HrFileRefused:
    with pytest.raises(HrFileRefused) as caught:
        HrFile(path, limits=limits or HrFileLimits())
    return caught.value


SHEET = "xl/worksheets/sheet1.xml"


def test_workbook_of_text_cells_reads_like_csv(tmp_path: Path) -> None:
    path = workbook(tmp_path / "hr.xlsx", [row(), row(employee_number="2", title="", end_date="2026-01-01")])
    accepted, refused, file = read(path)
    assert refused == []
    assert file.encoding == "xlsx"
    assert [(each.line, each.employee_number, each.title) for each in accepted] == [
        (2, "000123", "工程师"),
        (3, "2", ""),
    ]
    assert file.completeness().is_complete


def test_dates_as_date_cells_are_read(tmp_path: Path) -> None:
    values = {**row(), "start_date": date(2024, 2, 29), "end_date": datetime(2026, 3, 1)}  # noqa: DTZ001
    (read_row,), _, _ = read(workbook(tmp_path / "hr.xlsx", [values]))
    assert (read_row.start_on, read_row.end_on) == (date(2024, 2, 29), date(2026, 3, 1))


def test_chinese_date_formats_are_dates(tmp_path: Path) -> None:
    path = workbook(tmp_path / "hr.xlsx", [{**row(), "start_date": 45351}], start_date='yyyy"年"m"月"d"日"')
    (read_row,), _, _ = read(path)
    assert read_row.start_on == date(2024, 2, 29)


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"employee_number": 123}, "employee_number", "cell_type"),
        ({"manager_employee_number": 7}, "manager_employee_number", "cell_type"),
        ({"national_id": 110101199001011234}, "national_id", "cell_type"),
        ({"start_date": 45351}, "start_date", "cell_type"),
        ({"start_date": datetime(2024, 2, 29, 12, 30)}, "start_date", "cell_type"),  # noqa: DTZ001
        ({"name": True}, "name", "cell_type"),
        ({"name": "#REF!"}, "name", "cell_type"),
        ({"name": "=1+1"}, "name", "formula_prefix"),
        ({"status": "gone"}, "status", "unknown_status"),
    ],
)
def test_cell_that_needs_a_guess_is_refused(tmp_path: Path, changes: dict[str, Any], field: str, rule: str) -> None:
    _, refused, _ = read(workbook(tmp_path / "hr.xlsx", [{**row(), **changes}]))
    assert faults(refused) == [(2, field, rule)]


def test_mobile_as_a_number_loses_nothing_and_goes_in(tmp_path: Path) -> None:
    (read_row,), _, _ = read(workbook(tmp_path / "hr.xlsx", [{**row(), "mobile": 13800000001}]))
    assert read_row.mobile == "13800000001"


def test_row_beyond_the_header_is_refused_and_breaks_the_proof(tmp_path: Path) -> None:
    path = tmp_path / "hr.xlsx"
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(COLUMNS)
    sheet.append([*row().values(), *[None] * 100, "far away"])
    book.save(path)
    _, refused, file = read(path)
    assert faults(refused) == [(2, "", "column_count")]
    assert not file.completeness().is_complete


def test_second_sheet_is_said_and_breaks_the_proof(tmp_path: Path) -> None:
    path = workbook(tmp_path / "hr.xlsx", [row()])
    book = openpyxl.load_workbook(path)
    book.create_sheet("more")
    book.save(path)
    _, _, file = read(path)
    assert file.completeness().gaps == ("the workbook has 2 sheets; only the first was read",)


@pytest.mark.parametrize("part", [SHEET, "xl/workbook.xml", "xl/styles.xml", "xl/_rels/workbook.xml.rels"])
def test_x04_dtd_in_any_part_is_refused(tmp_path: Path, part: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("top secret")
    dtd = f'<!DOCTYPE x [<!ENTITY leak SYSTEM "{secret.as_uri()}">]>'.encode()

    def attack(content: bytes) -> bytes:
        return dtd + content[content.index(b"?>") + 2 :] if content.startswith(b"<?xml") else dtd + content

    path = rewritten(workbook(tmp_path / "hr.xlsx", [row()]), part, attack)
    assert refusal(path).description == "the workbook declares a DTD or entities"


def test_x04_dtd_in_utf16_is_refused(tmp_path: Path) -> None:
    def attack(content: bytes) -> bytes:
        text = content.decode().partition("?>")[2] if content.startswith(b"<?xml") else content.decode()
        return ('<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE x [<!ENTITY a "b">]>' + text).encode("utf-16")

    path = rewritten(workbook(tmp_path / "hr.xlsx", [row()]), SHEET, attack)
    assert refusal(path).description == "the workbook declares a DTD or entities"


def test_x04_expansion_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = rewritten(workbook(tmp_path / "hr.xlsx", [row()]), SHEET, lambda content: content + b" " * 30_000_000)
    assert path.stat().st_size < 100_000
    assert refusal(path, HrFileLimits(max_expanded_bytes=20_000_000)).code == "too_large"


def test_x04_row_of_a_million_cells_costs_no_memory(tmp_path: Path) -> None:
    def attack(content: bytes) -> bytes:
        cells = b'<row r="2">' + b"".join(b"<c><v>1</v></c>" for _ in range(1_000_000)) + b"</row>"
        return content.replace(b"</sheetData>", cells + b"</sheetData>")

    path = rewritten(workbook(tmp_path / "hr.xlsx", []), SHEET, attack)
    tracemalloc.start()
    try:
        assert refusal(path).code == "workbook"
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "rows",
    [
        b'<row r="99999999999"/>',
        b'<row r="0"/>',
        b'<row r="2"/><row r="2"/>',
        b'<row r="2"><c r="B2"/><c r="A2"/></row>',
        b'<row r="2"><c r="../x"/></row>',
        b'<row r="2"><c t="s"><v>99999</v></c></row>',
        b'<row r="2"><c t="s"><v>-1</v></c></row>',
        b'<row r="2"><c t="inlineStr"><is><t>' + b"x" * 40_000 + b"</t></is></c></row>",
        b'<row r="two"/>',
        b"<row>",
    ],
)
def test_sheet_no_spreadsheet_writes_is_refused_whole(tmp_path: Path, rows: bytes) -> None:
    path = workbook(tmp_path / "hr.xlsx", [])
    rewritten(path, SHEET, lambda content: content.replace(b"</sheetData>", rows + b"</sheetData>"))
    assert refusal(path).code == "workbook"


def test_too_many_rows_are_refused_whole(tmp_path: Path) -> None:
    path = workbook(tmp_path / "hr.xlsx", [row(employee_number=str(number)) for number in range(11)])
    assert refusal(path, HrFileLimits(max_rows=10)).code == "too_many_rows"


@pytest.mark.parametrize("content", [b"PK\x03\x04 nothing", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 old workbook"])
def test_damaged_or_old_workbook_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hr.xlsx"
    path.write_bytes(content)
    assert refusal(path).code == "workbook"


def test_cut_off_workbook_is_refused(tmp_path: Path) -> None:
    path = workbook(tmp_path / "hr.xlsx", [row()])
    path.write_bytes(path.read_bytes()[:-300])
    assert refusal(path).code == "workbook"


def test_zip_without_a_workbook_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hr.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert refusal(path).code == "workbook"
