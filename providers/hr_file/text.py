"""CSV as bytes to records: which encoding, how many lines, and which records are not well-formed."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Generator, Iterator
from hashlib import sha256
from typing import BinaryIO

from providers.hr_file.rows import HrFileRefused, Rule
from providers.hr_file.table import WHOLE_ROW, HrFileLimits, Record

_CHUNK = 1 << 20
_MAX_RECORD_LINES = 64
# UTF-8 sequences by chance in GB18030 text: a first name of three characters passes as UTF-8 once in 200 files, 32
# sequences in a row never. A file that held as many good ones and then a bad one is damaged UTF-8, not GB18030.
_SURELY_UTF8 = 32
# The other way round, strict GB18030 reads most Chinese UTF-8, as other characters: sixteen of them in a row, with
# nothing but ASCII between, are no GB18030 by chance.
_UTF8_WITHIN = re.compile(rb"[\xe3-\xe9\xef][\x80-\xbf]{2}(?:[\x00-\x7f]*[\xe3-\xe9\xef][\x80-\xbf]{2}){15}")
_LONGEST_RUN = 4096


class _RunawayQuote(Exception):
    """A record swallowed more lines than any record has: its quote was never closed."""


class CsvTable:
    """The records of a CSV file (RFC 4180, comma, any line ending) in UTF-8 with or without BOM, or GB18030.

    Making one reads the file once, with flat memory, to decide the encoding strictly and to refuse bombs before
    anything is yielded.

    Raises:
        HrFileRefused: encoding, too_many_rows, line_too_long.
    """

    def __init__(self, stream: BinaryIO, limits: HrFileLimits) -> None:
        self._stream = stream
        self.gaps: list[str] = []
        self.digest, self.encoding, self._has_open_end = _inspect(stream, limits)

    @property
    def has_open_end(self) -> bool:
        """Whether the last line lacks its line ending: with a faulty last row, the file is half-written."""
        return self._has_open_end

    def records(self) -> Generator[Record, None, None]:
        """Yield (line, cells, faults) for every record, the header first; records of several lines break the proof."""
        self._stream.seek(0)
        text = io.TextIOWrapper(self._stream, encoding=self.encoding, errors="strict", newline="")
        pending = 0

        def lines() -> Iterator[str]:
            nonlocal pending
            for line in text:
                pending += 1
                if pending > _MAX_RECORD_LINES:
                    raise _RunawayQuote
                yield line

        reader = csv.reader(lines(), strict=True)
        try:
            while True:
                pending = 0
                first = reader.line_num + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except _RunawayQuote:
                    self.gaps.append(f"line {first}: a quoted value is not closed; the rest of the file was not read")
                    yield first, [], ((WHOLE_ROW, Rule.UNTERMINATED_QUOTE),)
                    return
                except csv.Error as error:
                    half_written = "unexpected end of data" in str(error)
                    self.gaps.append(f"line {first}: not well-formed CSV")
                    rule = Rule.UNTERMINATED_QUOTE if half_written else Rule.MALFORMED_CSV
                    yield first, [], ((WHOLE_ROW, rule),)
                    continue
                if pending > 1:
                    self.gaps.append(f"line {first}: a quoted value runs over several lines and may hide rows")
                yield first, cells, ()
        finally:
            text.detach()


def _inspect(stream: BinaryIO, limits: HrFileLimits) -> tuple[str, str, bool]:
    """Return the SHA-256 of the file, its encoding, and whether its last line lacks a line ending."""
    digest = sha256()
    utf8 = codecs.getincrementaldecoder("utf-8")("strict")
    fed = decoded = 0
    is_utf8, has_bom = True, False
    line_feeds = carriage_returns = 0
    last = b""
    stream.seek(0)
    while chunk := stream.read(_CHUNK):
        if not fed:
            has_bom = chunk.startswith(codecs.BOM_UTF8)
        digest.update(chunk)
        feeds, returns = chunk.count(b"\n"), chunk.count(b"\r")
        if len(chunk) == _CHUNK and not feeds and not returns:
            raise HrFileRefused("line_too_long", "a line is longer than 1 MiB", "某一行超过 1 MiB")
        line_feeds, carriage_returns = line_feeds + feeds, carriage_returns + returns
        if max(line_feeds, carriage_returns) > limits.max_rows + 1:
            raise _too_many_rows(limits)
        if is_utf8:
            try:
                decoded += len(utf8.decode(chunk))
            except UnicodeDecodeError as error:
                good = error.object[: error.start]
                _refuse_damaged_utf8(has_bom, fed - decoded + len(good) - len(good.decode()))
                is_utf8 = False
        fed += len(chunk)
        last = chunk
    if is_utf8:
        try:
            utf8.decode(b"", final=True)
        except UnicodeDecodeError:
            _refuse_damaged_utf8(has_bom, fed - decoded)
            is_utf8 = False
    has_open_end = bool(last) and not last.endswith((b"\n", b"\r"))
    if is_utf8:
        return digest.hexdigest(), "utf-8-sig" if has_bom else "utf-8", has_open_end
    _require_gb18030(stream)
    return digest.hexdigest(), "gb18030", has_open_end


def _refuse_damaged_utf8(has_bom: bool, extra_bytes: int) -> None:
    """Refuse a file whose beginning is UTF-8 beyond doubt, instead of reading the whole as something else."""
    if has_bom or extra_bytes > _SURELY_UTF8:
        raise HrFileRefused(
            "encoding",
            "the file begins as UTF-8 but holds bytes that are not: it is damaged or cut off",
            "文件以 UTF-8 开头，但含有无效字节：文件已损坏或不完整",
        )


def _require_gb18030(stream: BinaryIO) -> None:
    """Refuse a file that is not GB18030 from its first byte to its last."""
    decoder = codecs.getincrementaldecoder("gb18030")("strict")
    stream.seek(0)
    try:
        tail = b""
        while chunk := stream.read(_CHUNK):
            decoder.decode(chunk)
            if _UTF8_WITHIN.search(tail + chunk):
                raise HrFileRefused(
                    "encoding",
                    "the file is GB18030 in one part and UTF-8 in another; nothing of it was read",
                    "文件一部分为 GB18030 编码，另一部分为 UTF-8 编码；未导入任何内容",
                )
            tail = chunk[-_LONGEST_RUN:]
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise HrFileRefused(
            "encoding",
            "the file is neither UTF-8 nor GB18030 throughout; nothing of it was read",
            "文件既不是完整的 UTF-8 也不是完整的 GB18030 编码；未导入任何内容",
        ) from error


def _too_many_rows(limits: HrFileLimits) -> HrFileRefused:
    return HrFileRefused(
        "too_many_rows",
        f"the file has more than {limits.max_rows} rows",
        f"文件超过 {limits.max_rows} 行",
    )
