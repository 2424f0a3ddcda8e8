"""XLSX as records of text cells: a small streaming reader that refuses everything a hostile workbook could do.

openpyxl's read-only mode builds an element tree per row, so one row of ten million cells exhausts the memory, and it
reads about 5,000 rows a second. This reader keeps one row and the shared strings, and knows only what an HR file needs:
text, whole numbers, dates. ECMA-376 part 1, sections 18.3 (worksheets), 18.4 (shared strings), 18.8 (styles).
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Generator, Iterator
from datetime import date, timedelta
from hashlib import sha256
from typing import BinaryIO
from xml.sax import SAXException
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl

from defusedxml import DefusedXmlException
from defusedxml.expatreader import DefusedExpatParser

from providers.hr_file.rows import HrFileRefused, Rule
from providers.hr_file.table import WHOLE_ROW, HrFileLimits, Record

_CHUNK = 1 << 16
_SILENT_CHUNKS = 16
_MAX_CELL = 32_767
_MAX_SHEET_ROWS = 1_048_576
_MAX_SHEET_COLUMNS = 16_384
_FIRST_SERIAL = 61
_BUILT_IN_DATES = frozenset([*range(14, 18), 22, *range(27, 37), *range(50, 59)])
_LITERALS = re.compile(r'"[^"]*"|\\.|_.|\*.|\[[^\]]*\]')
_REFERENCE = re.compile(r"([A-Z]{1,3})([0-9]{1,7})")


def _refused(description: str, description_zh: str) -> HrFileRefused:
    return HrFileRefused("workbook", description, description_zh)


def _unreadable() -> HrFileRefused:
    return _refused("the workbook is damaged or not an XLSX workbook", "工作簿已损坏，或不是 XLSX 文件")


def _too_large() -> HrFileRefused:
    return HrFileRefused("too_large", "the workbook expands beyond the limit", "工作簿解压后超过上限")


class WorkbookTable:
    """The records of the first sheet of an XLSX workbook.

    Making one checks the container against the limits and parses the whole sheet once, so that nothing is yielded of
    a workbook that would not parse to its end. A DTD anywhere is refused: it is what entities (XXE, billion laughs)
    need and no spreadsheet program writes one.

    Raises:
        HrFileRefused: workbook, too_large, too_many_rows.
    """

    encoding = "xlsx"
    has_open_end = False

    def __init__(self, stream: BinaryIO, limits: HrFileLimits) -> None:
        self.gaps: list[str] = []
        self.digest = _digest(stream)
        self._limits = limits
        try:
            self._archive = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise _unreadable() from error
        self._check_container()
        self._sheet, uses_1904 = self._first_sheet()
        self._epoch = date(1904, 1, 1) if uses_1904 else date(1899, 12, 30)
        self._strings = self._shared_strings()
        self._date_styles = self._read_date_styles()
        for _ in self.records():
            pass

    def records(self) -> Generator[Record, None, None]:
        """Yield (row, cells, faults) for every row of the sheet that has cells, the header first."""
        handler = _SheetHandler(self._strings, self._date_styles, self._epoch, self._limits)
        for _ in self._parse(self._sheet, handler, self._limits.max_expanded_bytes):
            yield from handler.take()
        yield from handler.take()

    def _check_container(self) -> None:
        parts = self._archive.infolist()
        if len(parts) > self._limits.max_parts:
            raise _refused("the workbook has too many parts", "工作簿包含的部件过多")
        if len({part.filename for part in parts}) != len(parts):
            raise _refused("the workbook has two parts of one name", "工作簿中有重名的部件")
        if any(part.flag_bits & 0x1 for part in parts):
            raise _refused("the workbook is encrypted", "工作簿已加密")
        if sum(part.file_size for part in parts) > self._limits.max_expanded_bytes:
            raise _too_large()

    def _first_sheet(self) -> tuple[str, bool]:
        """Return the part of the first worksheet and whether its dates count from 1904."""
        workbook = self._attributes("xl/workbook.xml", {"sheet", "workbookPr"})
        relations = self._attributes("xl/_rels/workbook.xml.rels", {"Relationship"})
        sheets = [found for tag, found in workbook if tag == "sheet"]
        if not sheets:
            raise _refused("the workbook has no sheet", "工作簿没有工作表")
        if len(sheets) > 1:
            self.gaps.append(f"the workbook has {len(sheets)} sheets; only the first was read")
        wanted = next((value for key, value in sheets[0].items() if key.endswith(":id")), None)
        target = next((found.get("Target", "") for _, found in relations if found.get("Id") == wanted), "")
        path = target.removeprefix("/") if target.startswith("/") else f"xl/{target}"
        if path not in self._archive.namelist():
            raise _unreadable()
        epoch = next((found.get("date1904", "0") for tag, found in workbook if tag == "workbookPr"), "0")
        return path, epoch in {"1", "true"}

    def _shared_strings(self) -> list[str]:
        if "xl/sharedStrings.xml" not in self._archive.namelist():
            return []
        handler = _StringsHandler()
        for _ in self._parse("xl/sharedStrings.xml", handler, self._limits.max_shared_string_bytes):
            pass
        return handler.strings

    def _read_date_styles(self) -> frozenset[int]:
        """Return the cell styles (s="...") that show their number as a date."""
        if "xl/styles.xml" not in self._archive.namelist():
            return frozenset()
        handler = _StylesHandler()
        for _ in self._parse("xl/styles.xml", handler, self._limits.max_shared_string_bytes):
            pass
        return frozenset(
            style for style, number_format in enumerate(handler.cell_formats) if handler.is_date(number_format)
        )

    def _attributes(self, part: str, tags: set[str]) -> list[tuple[str, dict[str, str]]]:
        handler = _AttributesHandler(tags)
        for _ in self._parse(part, handler, _CHUNK * _SILENT_CHUNKS):
            pass
        return handler.found

    def _parse(self, part: str, handler: _Handler, max_bytes: int) -> Iterator[None]:
        """Parse one part in bounded pieces; yields after each so that the caller can take what was read."""
        parser = DefusedExpatParser(forbid_dtd=True, forbid_entities=True, forbid_external=True)
        parser.setContentHandler(handler)
        read = silent = 0
        try:
            with self._archive.open(part) as stream:
                while chunk := stream.read(_CHUNK):
                    read += len(chunk)
                    if read > max_bytes:
                        raise _too_large()
                    before = handler.events
                    parser.feed(chunk)
                    silent = silent + 1 if handler.events == before else 0
                    if silent > _SILENT_CHUNKS:
                        raise _refused("the workbook holds an oversized token", "工作簿包含超大的标记")
                    yield
                parser.close()
        except DefusedXmlException as error:
            raise _refused("the workbook declares a DTD or entities", "工作簿声明了 DTD 或实体") from error
        except (SAXException, zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, OSError) as error:
            raise _unreadable() from error
        except NotImplementedError as error:
            raise _refused("the workbook uses an unknown compression", "工作簿使用了未知的压缩方式") from error


class _Handler(ContentHandler):
    """Counts events, so that a token that never ends is noticed."""

    def __init__(self) -> None:
        super().__init__()
        self.events = 0


class _AttributesHandler(_Handler):
    def __init__(self, tags: set[str]) -> None:
        super().__init__()
        self._tags = tags
        self.found: list[tuple[str, dict[str, str]]] = []

    def startElement(self, name: str, attrs: AttributesImpl) -> None:  # noqa: N802
        self.events += 1
        tag = name.rpartition(":")[2]
        if tag in self._tags:
            self.found.append((tag, dict(attrs)))


class _StylesHandler(_Handler):
    def __init__(self) -> None:
        super().__init__()
        self.cell_formats: list[int] = []
        self._formats: dict[int, str] = {}
        self._in_cell_formats = False

    def is_date(self, number_format: int) -> bool:
        """Whether a number format shows a calendar date."""
        if number_format in self._formats:
            return bool(re.search("[dy]", _LITERALS.sub("", self._formats[number_format]).lower()))
        return number_format in _BUILT_IN_DATES

    def startElement(self, name: str, attrs: AttributesImpl) -> None:  # noqa: N802
        self.events += 1
        tag = name.rpartition(":")[2]
        if tag == "numFmt":
            self._formats[int(attrs.get("numFmtId", "0"))] = attrs.get("formatCode", "")
        elif tag == "cellXfs":
            self._in_cell_formats = True
        elif tag == "xf" and self._in_cell_formats:
            self.cell_formats.append(int(attrs.get("numFmtId", "0")))

    def endElement(self, name: str) -> None:  # noqa: N802
        if name.rpartition(":")[2] == "cellXfs":
            self._in_cell_formats = False


class _TextHandler(_Handler):
    """Gathers the text of `t` (and of cells `v`, `f`), leaving out phonetic readings."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[str] = []
        self._length = 0
        self._takes = False
        self._phonetic = 0

    def characters(self, content: str) -> None:
        self.events += 1
        if self._takes and not self._phonetic:
            self._length += len(content)
            if self._length > _MAX_CELL:
                raise _refused("a cell holds more than 32,767 characters", "单元格超过 32,767 个字符")
            self._pieces.append(content)

    def _text(self) -> str:
        text = "".join(self._pieces)
        self._pieces.clear()
        self._length = 0
        return text


class _StringsHandler(_TextHandler):
    def __init__(self) -> None:
        super().__init__()
        self.strings: list[str] = []

    def startElement(self, name: str, attrs: AttributesImpl) -> None:  # noqa: N802
        self.events += 1
        tag = name.rpartition(":")[2]
        self._takes = tag == "t"
        self._phonetic += tag == "rPh"

    def endElement(self, name: str) -> None:  # noqa: N802
        tag = name.rpartition(":")[2]
        self._takes = False
        self._phonetic -= tag == "rPh"
        if tag == "si":
            self.strings.append(self._text())


class _SheetHandler(_TextHandler):
    """Turns cells into text; a cell whose type cannot be text without a guess becomes a fault.

    Numbers come with `Rule.CELL_TYPE` unless they show a date: the caller forgives it where digits are all there is
    to lose (mobile). A formula becomes "=..." and is refused like any other value that begins so.
    """

    def __init__(self, strings: list[str], date_styles: frozenset[int], epoch: date, limits: HrFileLimits) -> None:
        super().__init__()
        self._strings, self._date_styles, self._epoch, self._limits = strings, date_styles, epoch, limits
        self._ready: list[Record] = []
        self._row = 0
        self._rows = 0
        self._column = -1
        self._cells: dict[int, str] = {}
        self._faults: list[tuple[int, Rule]] = []
        self._type = "n"
        self._style = 0
        self._value = ""
        self._formula: str | None = None

    def take(self) -> list[Record]:
        """Return the rows finished since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def startElement(self, name: str, attrs: AttributesImpl) -> None:  # noqa: N802
        self.events += 1
        tag = name.rpartition(":")[2]
        if tag == "c":
            self._start_cell(attrs)
        elif tag in {"v", "t", "f"}:
            self._takes = True
        elif tag == "rPh":
            self._phonetic += 1
        elif tag == "row":
            self._start_row(attrs)

    def endElement(self, name: str) -> None:  # noqa: N802
        tag = name.rpartition(":")[2]
        self._takes = False
        if tag == "v":
            self._value = self._text()
        elif tag == "t":
            self._value += self._text()
        elif tag == "f":
            self._formula = self._text()
        elif tag == "c":
            self._end_cell()
        elif tag == "rPh":
            self._phonetic -= 1
        elif tag == "row":
            self._end_row()

    def _start_row(self, attrs: AttributesImpl) -> None:
        row = int(attrs.get("r", str(self._row + 1)))
        if not self._row < row <= _MAX_SHEET_ROWS:
            raise _unreadable()
        self._row = row
        self._column = -1
        self._cells = {}
        self._faults = []

    def _start_cell(self, attrs: AttributesImpl) -> None:
        reference = attrs.get("r")
        if reference is None:
            self._column += 1
        else:
            match = _REFERENCE.fullmatch(reference)
            if match is None:
                raise _unreadable()
            column = -1
            for letter in match[1]:
                column = (column + 1) * 26 + ord(letter) - 65
            if column <= self._column:
                raise _unreadable()
            self._column = column
        if self._column >= _MAX_SHEET_COLUMNS:
            raise _unreadable()
        self._type = attrs.get("t", "n")
        self._style = int(attrs.get("s", "0"))
        self._value = ""
        self._formula = None

    def _end_cell(self) -> None:
        text, fault = self._read_cell()
        if not text and not fault:
            return
        if self._column >= self._limits.max_columns:
            self._faults.append((WHOLE_ROW, Rule.COLUMN_COUNT))
            return
        self._cells[self._column] = text
        if fault:
            self._faults.append((self._column, Rule.CELL_TYPE))

    def _read_cell(self) -> tuple[str, bool]:
        """Return the cell as text, and whether its type is at fault."""
        value = self._value
        if self._formula is not None:
            return "=" + self._formula, False
        if not value:
            return "", False
        if self._type == "s":
            index = int(value)
            if not 0 <= index < len(self._strings):
                raise _unreadable()
            return self._strings[index], False
        if self._type in {"inlineStr", "str"}:
            return value, False
        if self._type == "d":
            day, _, time = value.partition("T")
            return (day, False) if not time.strip("0:.Z") else (value, True)
        if self._type != "n":
            return value, True
        number = float(value)
        if self._style in self._date_styles:
            serial = int(number) if _FIRST_SERIAL <= number < 1_000_000 else -1
            return ((self._epoch + timedelta(days=serial)).isoformat(), False) if serial == number else (value, True)
        return (str(int(number)) if number.is_integer() and abs(number) < 1e15 else value), True

    def _end_row(self) -> None:
        if not self._cells and not self._faults:
            return
        self._rows += 1
        if self._rows > self._limits.max_rows + 1:
            raise HrFileRefused(
                "too_many_rows", f"the file has more than {self._limits.max_rows} rows", "文件行数超过上限"
            )
        width = max(self._cells, default=-1) + 1
        cells = [self._cells.get(index, "") for index in range(width)]
        self._ready.append((self._row, cells, tuple(dict.fromkeys(self._faults))))


def _digest(stream: BinaryIO) -> str:
    digest = sha256()
    stream.seek(0)
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    stream.seek(0)
    return digest.hexdigest()
