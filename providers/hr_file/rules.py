"""The rules one row is judged by. No input or output; the only state is what earlier rows of the same file said.

Shape: a fast path that proves a row good with a handful of C-speed checks and per-distinct-value caches, and a slow
path that runs only for rows that failed it and names everything that is wrong. Both read the same limits and patterns;
a row that the fast path doubts and the slow path clears (say, a value padded with an ideographic space) goes in.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from datetime import date
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from providers.hr_file.rows import (
    BIDI,
    COLUMNS,
    FORMULA_CHARACTERS,
    FORMULA_PREFIX,
    EmploymentType,
    HrRow,
    HrStatus,
    RefusedRow,
    RowProblem,
    Rule,
    excerpt,
)

# The order rows are judged in: COLUMNS with mobile last, the only column that may begin with "+".
JUDGED = (*(column for column in COLUMNS if column != "mobile"), "mobile")

# Characters a value may have; a department's limit is per part of its path.
LIMITS = {
    "employee_number": 64,
    "name": 128,
    "given_name": 100,
    "family_name": 100,
    "email": 254,
    "company": 128,
    "department": 128,
    "title": 128,
    "manager_employee_number": 64,
    "employment_type": 32,
    "start_date": 32,
    "end_date": 32,
    "status": 32,
    "manager_company": 128,
    "national_id": 64,
    "mobile": 32,
}
MAX_DEPTH = 16
MAX_PATH = 1000
FIRST_YEAR, LAST_YEAR = 1900, 2199
# No more than four code points become one in NFC, so that what is longer than this is too long in any form. Putting
# accents in order takes the square of their number, minutes for a line of a megabyte: it is cut before.
_LONGEST = tuple(4 * (MAX_PATH if column == "department" else LIMITS[column]) + 1 for column in JUDGED)

_SHORT_ROW = 2_000
"""Characters up to which a row is looked at as it is."""
_CACHED_VALUES = 50_000
_EDGE = " \u3000\u00a0"
_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FORMULA_IN_ROW = re.compile(f"\x1f[ {FORMULA_CHARACTERS}](?=[^\x1f]*\x1f)")
_EMAIL = re.compile(
    r"(?=.{3,254}\Z)(?=[^@]{1,64}@)[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9]"
)
_MOBILE = re.compile(r"\+?[0-9(][0-9 ().-]{3,30}[0-9]")
# Beside blanks: what nobody sees (joiners, fillers, variation selectors; other invisible characters are refused in
# every value), and the full-width forms that an input method writes in place of ASCII.
_NUMBER = re.compile(
    "[^\\s/\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uff01-\uff5e\uffa0\U000e0100-\U000e01ef]{1,64}"
)
_MOBILE_PLAIN = re.compile(r"\+?[0-9]{5,15}")
_MOBILE_PUNCTUATION = str.maketrans("", "", " ().-")


_MeaningT = TypeVar("_MeaningT")


class _Refused(ValueError):
    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self.rule = rule


def default_company_key(company: str) -> str:
    """Return the key companies of a file are told apart by when nobody knows their codes: the case-folded name."""
    return company.casefold()


class RowJudge:
    """Judges the rows of one file, in order; remembers which employee numbers were listed.

    The memory of a listed number is the 64-bit hash of (company, number) in a set: about 75 bytes a row, the only thing
    that grows with the file (75 MB for a million rows). Two different keys share a hash once in 37 million such files.
    """

    def __init__(self, company_key: Callable[[str], str] = default_company_key) -> None:
        self._listed: set[int] = set()
        self._starts = _Cache(_start_date)
        self._ends = _Cache(_end_date)
        self._paths = _Cache(_path)
        self._companies = _Cache(lambda company: _company(company, company_key))
        self._types = {kind.value: kind for kind in EmploymentType}
        self._states = {status.value: status for status in HrStatus}

    def has_listed(self, company_key: str, employee_number: str) -> bool:
        """Whether a row so far, refused ones included, was about this employee number of this company."""
        return hash((company_key, employee_number)) in self._listed

    def judge(self, line: int, cells: tuple[str, ...]) -> HrRow | RefusedRow:
        """Return the typed row, or everything that is wrong with it. `cells` are in the order of `JUDGED`."""
        joined = "\x1f" + "\x1f".join(cells)
        if (
            not "".join(cells).isprintable()
            or _FORMULA_IN_ROW.search(joined)
            or " \x1f" in joined
            or joined[-1] == " "
            or "\x1f " in joined
            or not (joined.isascii() or (len(joined) < _SHORT_ROW and unicodedata.is_normalized("NFC", joined)))
        ):
            cells = _composed(cells)
            joined = "\x1f" + "\x1f".join(cells)
            if _character_problems(line, cells):
                return self._refuse(line, cells, self._problems(line, cells))
        (
            number, name, given, family, email, company, department, title, manager, kind, start, end, status,
            manager_company, national_id, mobile,
        ) = cells  # fmt: skip
        try:
            company_key = self._companies[company]
            path = self._paths[department]
            start_on = self._starts[start]
            end_on = self._ends[end]
            employment_type = self._types[kind]
            state = self._states[status]
        except (KeyError, _Refused):
            return self._refuse(line, cells, self._problems(line, cells))
        if (
            not _NUMBER.fullmatch(number)
            or not name
            or len(name) > 128
            or len(given) > 100
            or len(family) > 100
            or len(title) > 128
            or len(manager) > 64
            or len(manager_company) > 128
            or len(national_id) > 64
            or (email and not _EMAIL.fullmatch(email))
            or (end_on is not None and end_on < start_on)
        ):
            return self._refuse(line, cells, self._problems(line, cells))
        if mobile and not _MOBILE_PLAIN.fullmatch(mobile):
            plain = _plain_mobile(mobile)
            if plain is None:
                return self._refuse(line, cells, self._problems(line, cells))
            mobile = plain
        key = hash((company_key, number))
        if key in self._listed:
            return self._refuse(line, cells, self._problems(line, cells))
        self._listed.add(key)
        notice = None
        if manager == number and (not manager_company or self._companies[manager_company] == company_key):
            notice = RowProblem(line, "manager_employee_number", Rule.OWN_MANAGER, excerpt("", manager))
            manager = manager_company = ""
        return HrRow(
            line, number, name, given, family, email or None, mobile or None, company, company_key, path, title,
            manager or None, manager_company or None, employment_type, start_on, end_on, state, national_id or None,
            blake2b(joined.encode(), digest_size=16).digest(), notice,
        )  # fmt: skip

    def refuse_cells(self, line: int, cells: tuple[str, ...], problems: Sequence[RowProblem]) -> RefusedRow:
        """Refuse a row whose cells are of the wrong type, with whatever else is wrong with it."""
        cells = _composed(cells)
        named = {problem.field for problem in problems}
        further = [problem for problem in self._problems(line, cells) if problem.field not in named]
        return self._refuse(line, cells, [*problems, *further])

    def _refuse(self, line: int, cells: tuple[str, ...], problems: Sequence[RowProblem]) -> RefusedRow:
        """Refuse, but remember whom the row was about: somebody listed badly is not absent."""
        by_name = dict(zip(JUDGED, cells, strict=True))
        bad = {problem.field for problem in problems if problem.rule is not Rule.REPEATED_EMPLOYEE_NUMBER}
        company = None if "company" in bad else self._companies[by_name["company"]]
        number = None if "employee_number" in bad else by_name["employee_number"]
        if company is not None and number is not None:
            self._listed.add(hash((company, number)))
        return RefusedRow(line, tuple(problems), tuple(by_name[column] for column in COLUMNS), company, number)

    def _problems(self, line: int, cells: tuple[str, ...]) -> list[RowProblem]:
        """Name everything that is wrong with a row, in the order of the columns; at most one rule a field."""
        found: list[RowProblem] = _character_problems(line, cells)
        named = {problem.field for problem in found}
        by_name = dict(zip(JUDGED, cells, strict=True))
        for field in COLUMNS:
            if field in named:
                continue
            value = by_name[field]
            rule = self._rule_broken(field, value)
            if rule is not None:
                found.append(RowProblem(line, field, rule, excerpt(field, value)))
        found.sort(key=lambda problem: COLUMNS.index(problem.field))
        named = {problem.field for problem in found}
        if not named & {"start_date", "end_date"}:
            end_on = self._ends[by_name["end_date"]]
            if end_on is not None and end_on < self._starts[by_name["start_date"]]:
                found.append(RowProblem(line, "end_date", Rule.END_BEFORE_START, by_name["end_date"]))
        if not named & {"company", "employee_number"}:
            number = by_name["employee_number"]
            if self.has_listed(self._companies[by_name["company"]], number):
                problem = RowProblem(line, "employee_number", Rule.REPEATED_EMPLOYEE_NUMBER, excerpt("", number))
                found.append(problem)
        return found

    def _rule_broken(self, field: str, value: str) -> Rule | None:
        """Return the first rule a single value breaks."""
        if field == "employee_number" and not value:
            return Rule.MISSING_EMPLOYEE_NUMBER
        if field != "department" and len(value) > LIMITS[field]:
            return Rule.TOO_LONG
        if field == "employee_number" and not _NUMBER.fullmatch(value):
            return Rule.INVALID_EMPLOYEE_NUMBER
        if field == "name" and not value:
            return Rule.REQUIRED
        if field == "email" and value and not _EMAIL.fullmatch(value):
            return Rule.INVALID_EMAIL
        if field == "mobile" and value and _plain_mobile(value) is None:
            return Rule.INVALID_MOBILE
        if field == "employment_type" and value not in self._types:
            return Rule.UNKNOWN_EMPLOYMENT_TYPE
        if field == "status" and value not in self._states:
            return Rule.UNKNOWN_STATUS
        caches: dict[str, _Cache[Any]] = {
            "company": self._companies,
            "department": self._paths,
            "start_date": self._starts,
            "end_date": self._ends,
        }
        if field in caches:
            try:
                caches[field][value]
            except _Refused as refusal:
                return refusal.rule
        return None


class _Cache(dict[str, _MeaningT], Generic[_MeaningT]):
    """What each distinct value means, worked out once; emptied before hostile variety could fill the memory."""

    def __init__(self, read: Callable[[str], _MeaningT]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, text: str) -> _MeaningT:
        meaning = self._read(text)
        if len(self) >= _CACHED_VALUES:
            self.clear()
        self[text] = meaning
        return meaning


def _character_problems(line: int, cells: Sequence[str]) -> list[RowProblem]:
    """Find values that hold what no value may hold, or begin like a formula."""
    found = []
    for field, value in zip(JUDGED, cells, strict=True):
        rule = None
        if not value.isprintable() and any(map(_is_forbidden, value)):
            rule = Rule.BIDI_CHARACTER if BIDI.search(value) else Rule.CONTROL_CHARACTER
        elif field != "mobile" and FORMULA_PREFIX.match(value):
            rule = Rule.FORMULA_PREFIX
        if rule is not None:
            found.append(RowProblem(line, field, rule, excerpt(field, value)))
    return found


def _is_forbidden(char: str) -> bool:
    """Whether a character is a control, invisible, a lone surrogate, a line separator or no character at all.

    Private use (old GBK names) and code points newer than this Python's Unicode (rare CJK names) are allowed.
    """
    category = unicodedata.category(char)
    if category == "Cn":
        return ord(char) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(char) <= 0xFDEF
    return category in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _start_date(text: str) -> date:
    if not text:
        raise _Refused(Rule.REQUIRED)
    return _date(text)


def _end_date(text: str) -> date | None:
    return _date(text) if text else None


def _date(text: str) -> date:
    if not _ISO_DATE.fullmatch(text):
        raise _Refused(Rule.IMPOSSIBLE_DATE)
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise _Refused(Rule.IMPOSSIBLE_DATE) from None
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise _Refused(Rule.DATE_OUT_OF_RANGE)
    return day


def _composed(cells: tuple[str, ...]) -> tuple[str, ...]:
    trimmed = [cell.strip(_EDGE)[:longest] for cell, longest in zip(cells, _LONGEST, strict=True)]
    return tuple(cell if cell.isascii() else unicodedata.normalize("NFC", cell) for cell in trimmed)


def _path(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip(_EDGE) for part in text.split("/"))
    if not all(parts):
        raise _Refused(Rule.EMPTY_PATH_PART)
    if len(text) > MAX_PATH:
        raise _Refused(Rule.TOO_LONG)
    if len(parts) > MAX_DEPTH:
        raise _Refused(Rule.TOO_DEEP)
    if any(len(part) > LIMITS["department"] for part in parts):
        raise _Refused(Rule.TOO_LONG)
    if any(FORMULA_PREFIX.match(part) for part in parts):
        raise _Refused(Rule.FORMULA_PREFIX)
    return parts


def _company(text: str, company_key: Callable[[str], str]) -> str:
    if not text:
        raise _Refused(Rule.REQUIRED)
    if len(text) > LIMITS["company"]:
        raise _Refused(Rule.TOO_LONG)
    return company_key(text)


def _plain_mobile(text: str) -> str | None:
    """Return a mobile number without its punctuation, or None when it is none."""
    if not _MOBILE.fullmatch(text):
        return None
    plain = text.translate(_MOBILE_PUNCTUATION)
    return plain if _MOBILE_PLAIN.fullmatch(plain) else None
