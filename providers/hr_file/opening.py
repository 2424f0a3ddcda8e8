"""Opening a file of records: its content, never its name, decides between CSV and workbook."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from providers.hr_file.rows import HrFileRefused
from providers.hr_file.table import HrFileLimits, Table
from providers.hr_file.text import CsvTable
from providers.hr_file.workbook import WorkbookTable

_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"


def table_in(stream: BinaryIO, size: int, limits: HrFileLimits) -> Table:
    """The table in an open file of `size` bytes.

    Raises:
        HrFileRefused: see its codes.
    """
    if size > limits.max_bytes:
        raise HrFileRefused("too_large", "the file is larger than the limit", "文件超过大小上限")
    magic = stream.read(4)
    if magic == _OLE:
        raise HrFileRefused(
            "workbook",
            "this is an old .xls or an encrypted workbook; save it as .xlsx or CSV",
            "这是旧版 .xls 或已加密的工作簿；请另存为 .xlsx 或 CSV",
        )
    return WorkbookTable(stream, limits) if magic == _ZIP else CsvTable(stream, limits)


def open_path(path: Path, limits: HrFileLimits) -> tuple[BinaryIO, Table]:
    """Open a file for reading its table; the caller closes the stream.

    Raises:
        HrFileRefused: see its codes.
        OSError: the file cannot be opened.
    """
    stream = path.open("rb")
    try:
        return stream, table_in(stream, path.stat().st_size, limits)
    except BaseException:
        stream.close()
        raise
