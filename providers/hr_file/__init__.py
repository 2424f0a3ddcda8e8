"""The HR file: CSV or XLSX, streamed into typed rows or refusals with line, field and rule.

Owns: bytes to rows (encoding, CSV structure, a defused workbook), the row rules that need no database, the proof that
the whole file was read, and the report of refused rows. Does not own: whether a company or a manager exists, what a row
changes, and who is absent; that is the hub's (`idhub.lifecycle.hr_import`).

Entry points: `HrFile` (read), `HrRow` and `RefusedRow` (what it yields), `HrFileRefused` (the whole file is refused),
`write_error_report` (refused rows as CSV that no spreadsheet executes).
"""

from providers.hr_file.report import write_error_report
from providers.hr_file.rows import (
    COLUMNS,
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    EmploymentType,
    HrFileRefused,
    HrRow,
    HrStatus,
    RefusedRow,
    RowProblem,
    Rule,
)
from providers.hr_file.source import HrFile
from providers.hr_file.table import HrFileLimits

__all__ = [
    "COLUMNS",
    "OPTIONAL_COLUMNS",
    "REQUIRED_COLUMNS",
    "EmploymentType",
    "HrFile",
    "HrFileLimits",
    "HrFileRefused",
    "HrRow",
    "HrStatus",
    "RefusedRow",
    "RowProblem",
    "Rule",
    "write_error_report",
]
