"""The vocabulary of the HR file: its columns, its rules, and what one row becomes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import NamedTuple

from providers.base import ProviderError

REQUIRED_COLUMNS = (
    "employee_number",
    "name",
    "given_name",
    "family_name",
    "email",
    "mobile",
    "company",
    "department",
    "title",
    "manager_employee_number",
    "employment_type",
    "start_date",
    "end_date",
    "status",
)
OPTIONAL_COLUMNS = ("manager_company", "national_id")
COLUMNS = REQUIRED_COLUMNS + OPTIONAL_COLUMNS


class EmploymentType(StrEnum):
    """Closed set of the column `employment_type`."""

    REGULAR = "regular"
    CONTRACTOR = "contractor"
    INTERN = "intern"
    DISPATCHED = "dispatched"


class HrStatus(StrEnum):
    """Closed set of the column `status`."""

    ACTIVE = "active"
    LEFT = "left"
    SUSPENDED = "suspended"


class Rule(StrEnum):
    """Every rule a row can break; the value is stable, tested and written to the audit log.

    `unknown_manager`, `reused_employee_number`, `another_number`, `national_id_of_another`, `left_elsewhere`, `beyond`
    and `conflict` need the directory: the hub finds them.
    """

    REQUIRED = "required"
    MISSING_EMPLOYEE_NUMBER = "missing_employee_number"
    REPEATED_EMPLOYEE_NUMBER = "repeated_employee_number"
    INVALID_EMPLOYEE_NUMBER = "invalid_employee_number"
    REUSED_EMPLOYEE_NUMBER = "reused_employee_number"
    ANOTHER_NUMBER = "another_number"
    NATIONAL_ID_OF_ANOTHER = "national_id_of_another"
    LEFT_ELSEWHERE = "left_elsewhere"
    BEYOND = "beyond"
    CONFLICT = "conflict"
    IMPOSSIBLE_DATE = "impossible_date"
    DATE_OUT_OF_RANGE = "date_out_of_range"
    END_BEFORE_START = "end_before_start"
    UNKNOWN_STATUS = "unknown_status"
    UNKNOWN_EMPLOYMENT_TYPE = "unknown_employment_type"
    UNKNOWN_MANAGER = "unknown_manager"
    OWN_MANAGER = "own_manager"
    EMPTY_PATH_PART = "empty_path_part"
    TOO_DEEP = "too_deep"
    CONTROL_CHARACTER = "control_character"
    BIDI_CHARACTER = "bidi_character"
    FORMULA_PREFIX = "formula_prefix"
    TOO_LONG = "too_long"
    INVALID_EMAIL = "invalid_email"
    INVALID_MOBILE = "invalid_mobile"
    CELL_TYPE = "cell_type"
    COLUMN_COUNT = "column_count"
    MALFORMED_CSV = "malformed_csv"
    UNTERMINATED_QUOTE = "unterminated_quote"


MESSAGES: dict[Rule, tuple[str, str]] = {
    Rule.REQUIRED: ("a value is required", "必须填写"),
    Rule.MISSING_EMPLOYEE_NUMBER: ("the employee number is missing", "缺少工号"),
    Rule.REPEATED_EMPLOYEE_NUMBER: (
        "this employee number already stands in an earlier row of the same company",
        "同一公司内工号重复，前面的行已使用",
    ),
    Rule.INVALID_EMPLOYEE_NUMBER: (
        "an employee number must not contain blanks, slashes, full-width or invisible characters",
        "工号不能含有空格、斜杠、全角字符或不可见字符",
    ),
    Rule.REUSED_EMPLOYEE_NUMBER: (
        "this employee number is another human's; a number is never handed on",
        "该工号属于另一个人；工号不可转给他人",
    ),
    Rule.ANOTHER_NUMBER: (
        "this name with this mail or mobile has another number here: correct it, or give both rows a national_id",
        "该公司已有姓名及邮箱或手机号相同而工号不同的人员：请更正工号，或两行均填写 national_id",
    ),
    Rule.NATIONAL_ID_OF_ANOTHER: (
        "the national id belongs to somebody of another name: correct it, or the name",
        "该证件号属于另一姓名的人员：请更正证件号或姓名",
    ),
    Rule.LEFT_ELSEWHERE: (
        "this person was offboarded here; a new start date after that day brings them back",
        "此人已在本系统离职；如重新入职，请填写离职之后的新开始日期",
    ),
    Rule.BEYOND: (
        "this person holds a role over the hub that reaches further than yours",
        "此人的平台角色超出你的权限范围",
    ),
    Rule.CONFLICT: ("the row contradicts what is known and was not applied", "该行与现有数据冲突，未应用"),
    Rule.IMPOSSIBLE_DATE: ("not a calendar date of the form YYYY-MM-DD", "不是有效日期（格式 YYYY-MM-DD）"),
    Rule.DATE_OUT_OF_RANGE: (
        "the year must lie between 1900 and 2199; leave an open end empty",
        "年份须在 1900 至 2199 之间；无结束日期请留空",
    ),
    Rule.END_BEFORE_START: ("the end date lies before the start date", "结束日期早于开始日期"),
    Rule.UNKNOWN_STATUS: ("the status must be active, left or suspended", "状态须为 active、left 或 suspended"),
    Rule.UNKNOWN_EMPLOYMENT_TYPE: (
        "the type must be regular, contractor, intern or dispatched",
        "用工类型须为 regular、contractor、intern 或 dispatched",
    ),
    Rule.UNKNOWN_MANAGER: (
        "nobody has the manager's employee number; the row goes in without a manager",
        "找不到该上级工号；该行已导入，但未设置上级",
    ),
    Rule.OWN_MANAGER: (
        "somebody cannot be their own manager; the row goes in without a manager",
        "上级不能是本人；该行已导入，但未设置上级",
    ),
    Rule.EMPTY_PATH_PART: ("the department path has an empty part", "部门路径中有空的层级"),
    Rule.TOO_DEEP: ("the department path has more than 16 parts", "部门路径超过 16 层"),
    Rule.CONTROL_CHARACTER: ("the value holds a control or invisible character", "含有控制字符或不可见字符"),
    Rule.BIDI_CHARACTER: ("the value holds a character that changes the writing direction", "含有改变书写方向的字符"),
    Rule.FORMULA_PREFIX: (
        "the value begins like a spreadsheet formula (= + - @)",
        "以公式字符（= + - @）开头",
    ),
    Rule.TOO_LONG: ("the value is too long", "内容过长"),
    Rule.INVALID_EMAIL: ("not an e-mail address", "不是有效的邮箱地址"),
    Rule.INVALID_MOBILE: ("not a mobile number of 5 to 15 digits", "不是有效的手机号（5 至 15 位数字）"),
    Rule.CELL_TYPE: (
        "the cell's type does not fit: numbers and dates may already have lost what was written; format it as text",
        "单元格类型不符：数字或日期可能已丢失原始内容，请设为文本格式",
    ),
    Rule.COLUMN_COUNT: ("the row has more or fewer values than the header", "该行列数与表头不一致"),
    Rule.MALFORMED_CSV: ("the row is not well-formed CSV (RFC 4180)", "该行不是合法的 CSV（RFC 4180）"),
    Rule.UNTERMINATED_QUOTE: (
        "a quoted value is never closed: the file seems half-written",
        "引号未闭合：文件可能未写完整",
    ),
}

_SHOWN = 40
_UNSHOWN_FIELDS = frozenset({"national_id"})


def excerpt(field: str, value: str) -> str:
    """Return at most 40 characters of `value`, one line, unprintable ones escaped; identity numbers never."""
    if field in _UNSHOWN_FIELDS:
        return "***" if value else ""
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in value[:_SHOWN])
    return shown + ("..." if len(value) > _SHOWN else "")


@dataclass(frozen=True, slots=True)
class RowProblem:
    """One rule broken at one place. `line` is the physical line (CSV) or the row (XLSX), the header being 1."""

    line: int
    field: str
    rule: Rule
    value_excerpt: str

    @property
    def message_en(self) -> str:
        """What is wrong, in English, without the value."""
        return MESSAGES[self.rule][0]

    @property
    def message_zh(self) -> str:
        """What is wrong, in Chinese, without the value."""
        return MESSAGES[self.rule][1]


class HrRow(NamedTuple):
    """One accepted row, normalised: NFC, trimmed, typed; leading zeros kept.

    A named tuple, because a frozen dataclass of this size costs five times as much to make, a million times per file.
    `digest` is over the normalised values only: neither column order nor encoding changes it.
    `notice` is set when the row goes in without the manager it named (`own_manager`).
    """

    line: int
    employee_number: str
    name: str
    given_name: str
    family_name: str
    email: str | None
    mobile: str | None
    company: str
    company_key: str
    department: tuple[str, ...]
    title: str
    manager_employee_number: str | None
    manager_company: str | None
    employment_type: EmploymentType
    start_on: date
    end_on: date | None
    status: HrStatus
    national_id: str | None
    digest: bytes
    notice: RowProblem | None


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that does not go in, with everything that is wrong with it and what it said (for the error report)."""

    line: int
    problems: tuple[RowProblem, ...]
    values: tuple[str, ...]
    company: str | None = None
    employee_number: str | None = None


class HrFileRefused(ProviderError):
    """The whole file is refused and nothing of it was yielded, or reading stopped at a limit.

    `code` is stable: encoding, not_a_table, missing_columns, repeated_column, too_many_columns, too_many_rows,
    too_large, line_too_long, workbook, empty.
    """

    def __init__(self, code: str, description: str, description_zh: str, *, cause: str | None = None) -> None:
        super().__init__(description, cause=cause)
        self.code = code
        self.description_zh = description_zh


BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
FORMULA_CHARACTERS = "=+\\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212"
FORMULA_PREFIX = re.compile(f"[{FORMULA_CHARACTERS}]")
