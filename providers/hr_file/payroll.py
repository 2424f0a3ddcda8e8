"""A payroll file: who is paid, by which company, for which month. CSV or XLSX, streamed.

Columns `company` and `employee_number`; optional `period` (YYYY-MM, the month paid for), `national_id` and `name`. A
row with a fault is refused by itself and breaks the proof that the whole file was read: whom it was about is not known.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from providers.base import Completeness
from providers.hr_file.opening import open_path
from providers.hr_file.rows import BIDI, FORMULA_PREFIX, HrFileRefused, RefusedRow, RowProblem, Rule, excerpt
from providers.hr_file.rules import LIMITS
from providers.hr_file.table import WHOLE_ROW, HrFileLimits

PAYROLL_REQUIRED = ("company", "employee_number")
PAYROLL_COLUMNS = (*PAYROLL_REQUIRED, "period", "national_id", "name")
_PERIOD = re.compile(r"(19|20|21)\d\d-(0[1-9]|1[0-2])")
_EDGE = " \u3000\u00a0"
_MAX_GAPS = 20
_OTHERS = 32
"""Characters of a value that an HR file does not have."""


class PayrollRow(NamedTuple):
    """One row, trimmed and in NFC; leading zeros kept. `period` is YYYY-MM or empty."""

    line: int
    company: str
    employee_number: str
    period: str
    national_id: str
    name: str


class PayrollFile:
    """`with PayrollFile(path) as file: for row in file.records(): ...`, then `file.completeness()`.

    Raises:
        HrFileRefused: see its codes.
        OSError: the file cannot be opened.
    """

    name = "payroll"

    def __init__(self, path: Path, *, limits: HrFileLimits | None = None) -> None:
        self._stream, self._table = open_path(path, limits or HrFileLimits())
        self._records = self._table.records()
        self._gaps: list[str] = []
        self._count = 0
        self._is_exhausted = False
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what `completeness` knows stays."""
        self._records.close()
        self._stream.close()

    def records(self) -> Iterator[PayrollRow | RefusedRow]:
        """Every row, once, in order."""
        for line, cells, faults in self._records:
            row = self._judge(line, cells, dict(faults))
            if row is None:
                continue
            self._count += 1
            if isinstance(row, RefusedRow):
                self._gap(f"line {line}: {row.problems[0].field or 'row'}: {row.problems[0].rule.value}")
            yield row
        self._is_exhausted = True

    def completeness(self) -> Completeness:
        """The proof over `records`."""
        gaps = [*self._table.gaps, *self._gaps]
        if not self._is_exhausted:
            gaps.append("the file was not read to its end")
        return Completeness(self._count, self._table.digest, tuple(gaps[:_MAX_GAPS]))

    def _read_header(self) -> None:
        _line, header, _faults = next(self._records, (1, [], ()))
        names = [cell.strip().removeprefix("\ufeff").strip() for cell in header]
        repeated = sorted({name for name in names if name and names.count(name) > 1})
        if repeated:
            listed = ", ".join(excerpt("", name) for name in repeated)
            raise HrFileRefused("repeated_column", f"columns named twice: {listed}", f"重复的列：{listed}")
        if missing := [column for column in PAYROLL_REQUIRED if column not in names]:
            listed = ", ".join(missing)
            raise HrFileRefused("missing_columns", f"missing columns: {listed}", f"缺少列：{listed}")
        self.unknown_columns = tuple(excerpt("", name) for name in names if name and name not in PAYROLL_COLUMNS)
        self._width = len(names)
        self._places = {name: index for index, name in enumerate(names) if name in PAYROLL_COLUMNS}

    def _judge(self, line: int, cells: list[str], faults: dict[int, Rule]) -> PayrollRow | RefusedRow | None:
        if WHOLE_ROW in faults:
            return _refused(line, "", faults[WHOLE_ROW], "")
        if not any(cells):
            return None
        if len(cells) > self._width or (len(cells) < self._width and self._table.encoding != "xlsx"):
            return _refused(line, "", Rule.COLUMN_COUNT, "")
        cells = [*cells, *[""] * (self._width - len(cells))]
        values = dict.fromkeys(PAYROLL_COLUMNS, "")
        for name, place in self._places.items():
            # What is longer is too long in any form (see `rules`).
            longest = 4 * LIMITS.get(name, _OTHERS) + 1
            value = unicodedata.normalize("NFC", cells[place].strip(_EDGE)[:longest])
            rule = faults.get(place) or _broken_rule(name, value)
            if rule is not None:
                return _refused(line, name, rule, value)
            values[name] = value
        return PayrollRow(line, **values)

    def _gap(self, words: str) -> None:
        if len(self._gaps) < _MAX_GAPS:
            self._gaps.append(words)


def _broken_rule(name: str, value: str) -> Rule | None:
    if not value:
        return Rule.REQUIRED if name in PAYROLL_REQUIRED else None
    if not value.isprintable():
        return Rule.BIDI_CHARACTER if BIDI.search(value) else Rule.CONTROL_CHARACTER
    if FORMULA_PREFIX.match(value):
        return Rule.FORMULA_PREFIX
    if len(value) > LIMITS.get(name, _OTHERS):
        return Rule.TOO_LONG
    if name == "period" and not _PERIOD.fullmatch(value):
        return Rule.IMPOSSIBLE_DATE
    return None


def _refused(line: int, name: str, rule: Rule, value: str) -> RefusedRow:
    return RefusedRow(line, (RowProblem(line, name, rule, excerpt(name, value)),), ())
