"""One HR file, opened: header, rows judged in order, and the proof that all of it was read."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Self

from providers.base import Completeness
from providers.hr_file.opening import table_in
from providers.hr_file.rows import (
    COLUMNS,
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    HrFileRefused,
    HrRow,
    RefusedRow,
    RowProblem,
    Rule,
    excerpt,
)
from providers.hr_file.rules import JUDGED, RowJudge, default_company_key
from providers.hr_file.table import WHOLE_ROW, HrFileLimits, Record, Table
from providers.hr_file.workbook import WorkbookTable

_DEFAULT_LIMITS = HrFileLimits()


class HrFile:
    """An HR file as a directory source: `with HrFile(path) as file: for row in file.records(): ...`.

    Opening inspects the whole file (encoding, container, limits) and its header; what is refused whole is refused
    here, before a single row. The content decides between CSV and XLSX, never the file's name.

    `company_key` maps what the column `company` says to the key by which companies are told apart; whoever knows the
    companies' codes and names passes a function that gives both the same key. Memory stays flat but for the set of
    listed employee numbers, about 75 bytes a row (see `RowJudge`).

    Raises:
        HrFileRefused: see its codes.
        OSError: the file cannot be opened.
    """

    name = "hr_file"

    def __init__(
        self,
        path: Path,
        *,
        limits: HrFileLimits = _DEFAULT_LIMITS,
        company_key: Callable[[str], str] = default_company_key,
    ) -> None:
        self._stream = path.open("rb")
        try:
            self._opened_as = _identity(self._stream.fileno())
            self._table: Table = table_in(self._stream, self._opened_as[0], limits)
            self._records: Generator[Record, None, None] = self._table.records()
            self._read_header(limits)
        except BaseException:
            if hasattr(self, "_records"):
                self._records.close()
            self._stream.close()
            raise
        self._judge = RowJudge(company_key)
        self._gaps: list[str] = []
        self._uncertain: set[str] = set()
        self._count = 0
        self._is_exhausted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what `completeness` and `has_listed` know stays."""
        self._records.close()
        self._stream.close()

    @property
    def digest(self) -> str:
        """SHA-256 of the file's bytes, hexadecimal."""
        return self._table.digest

    @property
    def encoding(self) -> str:
        """How the file was read: utf-8, utf-8-sig, gb18030 or xlsx."""
        return self._table.encoding

    def has_listed(self, company_key: str, employee_number: str) -> bool:
        """Whether a row read so far, refused ones included, was about this employee number of this company."""
        return self._judge.has_listed(company_key, employee_number)

    def records(self, *, only: Container[int] | None = None) -> Iterator[HrRow | RefusedRow]:
        """Yield every row of the file in its order, typed or refused; rows without any value are passed over.

        Args:
            only: lines to judge; the others are merely passed. What was read so proves nothing about the file.
        """
        judge = self._judge.judge
        width, pick = self._width, self._pick
        last_was_refused = False
        for line, cells, faults in self._records:
            if (only is not None and line not in only) or (not any(cells) and not faults):
                continue
            self._count += 1
            if not faults and len(cells) == width:
                cells.append("")
                row: HrRow | RefusedRow = judge(line, pick(cells))
            else:
                row = self._judge_odd(line, cells, faults)
            last_was_refused = type(row) is RefusedRow
            if isinstance(row, RefusedRow):
                self._note_refusal(row)
            yield row
        if last_was_refused and self._table.has_open_end:
            self._gaps.append("the last row is faulty and has no line ending: the file seems half-written")
        if _identity(self._stream.fileno()) != self._opened_as:
            self._gaps.append("the file was changed while it was read")
        self._is_exhausted = only is None

    def completeness(self) -> Completeness:
        """Return the proof over what `records` yielded; before its end there is none.

        A scope is uncertain when a row of that company was refused in a way that leaves open whom it was about: its
        employee number was unreadable, or taken by an earlier row.
        """
        gaps = [*self._table.gaps, *self._gaps]
        if not self._is_exhausted:
            gaps.append("the file was not read to its end")
        return Completeness(self._count, self.digest, tuple(gaps), frozenset(self._uncertain))

    def _read_header(self, limits: HrFileLimits) -> None:
        _line, header, faults = next(self._records, (1, [], ()))
        if any(index == WHOLE_ROW and rule is Rule.COLUMN_COUNT for index, rule in faults) or (
            len(header) > limits.max_columns
        ):
            raise HrFileRefused(
                "too_many_columns", f"the header has more than {limits.max_columns} columns", "表头列数超过上限"
            )
        if not any(header):
            raise HrFileRefused("empty", "the file has no header", "文件没有表头")
        names = [cell.strip().removeprefix("\ufeff").strip() for cell in header]
        repeated = sorted({name for name in names if name and names.count(name) > 1})
        if repeated:
            listed = ", ".join(excerpt("", name) for name in repeated)
            raise HrFileRefused("repeated_column", f"columns named twice: {listed}", f"重复的列：{listed}")
        missing = [column for column in REQUIRED_COLUMNS if column not in names]
        if missing:
            hint = " (the columns must be separated by commas)" if len(names) == 1 else ""
            listed = ", ".join(missing)
            raise HrFileRefused("missing_columns", f"missing columns: {listed}{hint}", f"缺少列：{listed}")
        self.unknown_columns = tuple(excerpt("", name) for name in names if name and name not in COLUMNS)
        self.has_national_ids = "national_id" in names
        self._names = names
        self._width = len(names)
        places = {name: index for index, name in enumerate(names)} | {
            column: self._width for column in OPTIONAL_COLUMNS if column not in names
        }
        self._pick: Callable[[list[str]], tuple[str, ...]] = itemgetter(*[places[column] for column in JUDGED])

    def _judge_odd(self, line: int, cells: list[str], faults: Sequence[tuple[int, Rule]]) -> HrRow | RefusedRow:
        """Judge a record whose shape or cell types are not those of a plain row."""
        whole = next((rule for index, rule in faults if index == WHOLE_ROW), None)
        if whole is None and isinstance(self._table, WorkbookTable):
            cells += [""] * (self._width - len(cells))
        if whole is None and len(cells) != self._width:
            whole = Rule.COLUMN_COUNT
        if whole is not None:
            shown = excerpt("", ",".join(cells[:3])) if cells else ""
            return RefusedRow(line, (RowProblem(line, "", whole, shown),), tuple(cells[: len(COLUMNS)]))
        picked = self._pick([*cells, ""])
        problems = [
            RowProblem(line, self._names[index], rule, excerpt(self._names[index], cells[index]))
            for index, rule in faults
            if self._names[index] in COLUMNS and self._names[index] != "mobile"
        ]
        if problems:
            return self._judge.refuse_cells(line, picked, problems)
        return self._judge.judge(line, picked)

    def _note_refusal(self, row: RefusedRow) -> None:
        if row.company is None:
            self._gaps.append(f"line {row.line}: the row could not be told to any company")
        elif row.employee_number is None or any(
            problem.rule is Rule.REPEATED_EMPLOYEE_NUMBER for problem in row.problems
        ):
            self._uncertain.add(row.company)


def _identity(descriptor: int) -> tuple[int, int]:
    """Return size and modification time: a file that changes while it is read proves nothing."""
    facts = os.fstat(descriptor)
    return facts.st_size, facts.st_mtime_ns
