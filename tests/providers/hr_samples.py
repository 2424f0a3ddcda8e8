"""Rows and files for the HR file's tests."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from providers.hr_file import COLUMNS, REQUIRED_COLUMNS, HrFile, HrRow, RefusedRow

GOOD = {
    "employee_number": "000123",
    "name": "张伟",
    "given_name": "伟",
    "family_name": "张",
    "email": "wei.zhang@qiyue.example",
    "mobile": "+8613800000001",
    "company": "总部",
    "department": "信息技术/平台",
    "title": "工程师",
    "manager_employee_number": "000001",
    "employment_type": "regular",
    "start_date": "2024-02-29",
    "end_date": "",
    "status": "active",
    "manager_company": "",
    "national_id": "",
}


def row(**changes: str) -> dict[str, str]:
    """Return a faultless row with some values changed."""
    return {**GOOD, **changes}


def write_csv(
    path: Path,
    rows: Iterable[Mapping[str, str]],
    *,
    columns: Iterable[str] = COLUMNS,
    encoding: str = "utf-8",
) -> Path:
    """Write rows as a CSV file."""
    columns = list(columns)
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows([values.get(column, "") for column in columns] for values in rows)
    return path


def header_line() -> str:
    """Return the header with every column a file must have."""
    return ",".join(REQUIRED_COLUMNS) + "\n"


def read(path: Path) -> tuple[list[HrRow], list[RefusedRow], HrFile]:
    """Read a whole file; the file object comes back closed, for its proof."""
    accepted: list[HrRow] = []
    refused: list[RefusedRow] = []
    with HrFile(path) as file:
        for record in file.records():
            if isinstance(record, HrRow):
                accepted.append(record)
            else:
                refused.append(record)
    return accepted, refused, file


def faults(refused: Iterable[RefusedRow]) -> list[tuple[int, str, str]]:
    """Return (line, field, rule) of every problem."""
    return [(problem.line, problem.field, problem.rule.value) for row in refused for problem in row.problems]
