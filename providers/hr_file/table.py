"""What a CSV file and a workbook have in common below the rules: records of text cells, and limits."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from providers.hr_file.rows import Rule

WHOLE_ROW = -1
"""Index of a fault that is the record's, not one cell's."""

Record = tuple[int, list[str], Sequence[tuple[int, Rule]]]
"""Line, cells, and faults as (index of the cell, rule)."""


@dataclass(frozen=True, slots=True)
class HrFileLimits:
    """What a file may cost. Sizes are in bytes, expanded ones after decompression; the defaults are design limits."""

    max_bytes: int = 2 << 30
    max_rows: int = 2_000_000
    max_columns: int = 64
    max_parts: int = 1_000
    max_expanded_bytes: int = 1 << 30
    max_shared_string_bytes: int = 64 << 20


class Table(Protocol):
    """An opened file of records. `digest` is the file's SHA-256; `gaps` is complete once `records` is exhausted."""

    digest: str
    encoding: str
    gaps: list[str]

    @property
    def has_open_end(self) -> bool:
        """Whether the file's last record could be cut off without that being visible in its structure."""
        ...

    def records(self) -> Generator[Record, None, None]:
        """Yield every record, the header first."""
        ...
