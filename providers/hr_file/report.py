"""The report of refused rows: CSV that opens in any spreadsheet and is executed by none."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from typing import TextIO

from providers.hr_file.rows import COLUMNS, FORMULA_CHARACTERS, RefusedRow

_DANGEROUS = re.compile(f"[\\s;,|'\"]*[{FORMULA_CHARACTERS}]|[\t\r\n]")
_UNSHOWN = {"national_id"}


def safe_cell(value: str) -> str:
    """Return a value that no spreadsheet takes for a formula: an apostrophe stands before what could be one.

    OWASP ASVS 5.0, 1.2.10; also full-width signs, and separators or white space before the sign.
    """
    return "'" + value if _DANGEROUS.match(value) else value


def write_error_report(stream: TextIO, refused: Iterable[RefusedRow]) -> int:
    """Write one line per problem with the row as it was read, every value quoted; return the number of lines.

    Open `stream` with `encoding="utf-8-sig", newline=""`, so that spreadsheets see the encoding. Identity numbers are
    left out. RFC 4180.
    """
    shown = [column for column in COLUMNS if column not in _UNSHOWN]
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
    writer.writerow(["line", "field", "rule", "message", "说明", *shown])
    written = 0
    for row in refused:
        values = dict(zip(COLUMNS, row.values, strict=False))
        cells = [safe_cell(values.get(column, "")) for column in shown]
        for problem in row.problems:
            place = [str(problem.line), safe_cell(problem.field), problem.rule.value]
            writer.writerow([*place, problem.message_en, problem.message_zh, *cells])
            written += 1
    return written
