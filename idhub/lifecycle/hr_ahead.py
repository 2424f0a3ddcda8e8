"""Reading an HR file ahead of its import: rows judged, compared with what was said last time, and joiners made ready.

Owns: everything about a row that needs no lock, so that the one writer of an SQLite file is busy with writing alone.
For a large file it happens in a process of its own (`ReaderApart`), a batch or two ahead of the writer; for a small one
in the same process (`Reader`). Both answer the same questions. The process is ours: it gets the master key and the
database's address through its standard input, and what it answers is trusted as far as our own code is.

Does not own: whether a row is right (`providers.hr_file`), or what follows from it (`hr_plan`, `transition`). What is
made ready here is compared again by the database when it is written: numbers and people are unique there.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson
from sqlalchemy import select

from audit.events import new_event_ids
from audit.personal import seal_ahead
from idhub.db import Database, among, chunked, create_database, new_ids
from idhub.directory.search_terms import Searchable, terms_of
from idhub.directory.tables import Employment, SourceRecord
from idhub.errors import Unavailable
from idhub.keys import Keyring, MasterKey
from idhub.lifecycle import intake
from idhub.lifecycle.events import PERSONAL
from idhub.lifecycle.hr_companies import Companies
from idhub.lifecycle.records import login_names_of
from idhub.settings import Settings
from providers.base import Completeness
from providers.hr_file import HrFile, HrFileRefused, HrRow, RefusedRow, RowProblem

PROVIDER = "hr_file"
NATIONAL_ID = "person.national_id"
BATCH = 2_000
_WORTH_A_PROCESS = 1 << 20
"""Bytes of a file from which reading ahead in a process of its own pays for starting it."""
_PIPE_BYTES = 1 << 20


class Joiner(NamedTuple):
    """A row about nobody known, with what its person will need."""

    principal_id: str
    national_id_hash: str | None
    raw_sealed: bytes
    ready: intake.Ready


class Ahead(NamedTuple):
    """What a stretch of the file says."""

    rows: int
    unchanged: int
    news: list[HrRow]
    """Rows that say something else than last time."""
    joiners: list[Joiner | None]
    """Beside each of `news`: what is ready of somebody whom nothing is known about."""
    refused: list[RefusedRow]
    notices: list[RowProblem]
    named: list[str]
    """Keys of companies named for the first time."""
    texts: dict[str, str]
    """How unknown companies among them were written."""


class Reader:
    """The HR file read in this process."""

    def __init__(self, database: Database, path: Path, companies: Companies, keyring: Keyring) -> None:
        self._database, self._path, self._companies, self._keyring = database, path, companies, keyring
        self._named: set[str] = set()
        self._file = HrFile(path, company_key=companies.key)
        self.digest, self.encoding = self._file.digest, self._file.encoding
        self.unknown_columns = self._file.unknown_columns

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def batches(self) -> Iterator[Ahead]:
        """The whole file, once, in order."""
        records = self._file.records()
        while part := list(islice(records, BATCH)):
            yield self._ahead(part)

    def completeness(self) -> Completeness:
        """The proof over `batches`."""
        return self._file.completeness()

    def listed(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Of (company key, employee number) pairs: whether some row was about it."""
        return [self._file.has_listed(key, number) for key, number in pairs]

    def again(self, lines: Iterable[int]) -> Iterator[list[HrRow]]:
        """The rows of some lines a second time; None of them when the file is another one by now."""
        wanted = set(lines)
        with HrFile(self._path, company_key=self._companies.key) as file:
            if file.digest != self.digest:
                raise FileChanged
            rows = (row for row in file.records() if isinstance(row, HrRow) and row.line in wanted)
            while part := list(islice(rows, BATCH)):
                yield part

    def _ahead(self, part: Sequence[HrRow | RefusedRow]) -> Ahead:
        rows = [row for row in part if isinstance(row, HrRow)]
        refused = [row for row in part if isinstance(row, RefusedRow)]
        named = []
        for key in dict.fromkeys(row.company_key if isinstance(row, HrRow) else row.company for row in part):
            if key is not None and key not in self._named:
                self._named.add(key)
                named.append(key)
        news, are_known = self._compare(rows)
        return Ahead(
            len(part),
            len(rows) - len(news),
            news,
            self._make_ready(news, are_known),
            refused,
            [row.notice for row in rows if row.notice is not None],
            named,
            {key: self._companies.text_of(key) for key in named if self._companies.is_unknown(key)},
        )

    def _compare(self, rows: Sequence[HrRow]) -> tuple[list[HrRow], set[int]]:
        """Rows that say something new, and the lines of those among them about a number that is known here."""
        keys = {self._companies.source_key(row): row for row in rows}
        said: dict[str, str] = {}
        posts: set[tuple[str, str]] = set()
        with self._database.read() as session:
            for part in chunked(list(keys), BATCH):
                found = session.execute(
                    select(SourceRecord.key, SourceRecord.content_hash).where(
                        SourceRecord.provider == PROVIDER, SourceRecord.key.in_(among(session, part))
                    )
                )
                said.update((key, content_hash) for key, content_hash in found)
            news = [row for key, row in keys.items() if said.get(key) != row.digest.hex()]
            numbers: dict[str, list[str]] = {}
            for row in news:
                organization_id = self._companies.id_of(row.company_key)
                if organization_id is not None:
                    numbers.setdefault(organization_id, []).append(row.employee_number)
            for organization_id, listed in numbers.items():
                held = session.execute(
                    select(Employment.employee_number).where(
                        Employment.organization_id == organization_id,
                        Employment.employee_number.in_(among(session, listed)),
                    )
                )
                posts.update((organization_id, number) for number in held.scalars())
        known = {
            row.line
            for row in news
            if self._companies.source_key(row) in said
            or (self._companies.id_of(row.company_key) or "", row.employee_number) in posts
        }
        return news, known

    def _make_ready(self, rows: Sequence[HrRow], known: set[int]) -> list[Joiner | None]:
        ids, event_ids = new_ids("per", len(rows)), new_event_ids(len(rows))
        ready: list[Joiner | None] = []
        for row, principal_id, event_id in zip(rows, ids, event_ids, strict=True):
            if row.line in known:
                ready.append(None)
                continue
            values = person_values(row)
            personal = {name: values[name] for name in PERSONAL if values[name]}
            numbers = (row.employee_number,)
            found_by = (row.name, row.given_name, row.family_name, row.email, row.mobile)
            national_id_hash = None
            if row.national_id:
                national_id_hash = self._keyring.blind_index(NATIONAL_ID, row.national_id.upper())
            ready.append(
                Joiner(
                    principal_id,
                    national_id_hash,
                    seal_said(self._keyring, self._companies.source_key(row), row),
                    intake.Ready(
                        terms_of(Searchable("", *found_by[:3], numbers, *found_by[3:])),
                        login_names_of(numbers, row.email, row.mobile),
                        seal_ahead(event_id, principal_id, personal, self._keyring),
                    ),
                )
            )
        return ready


class FileChanged(Exception):
    """The file is another one than was read first."""


def person_values(row: HrRow) -> dict[str, Any]:
    """A row's attributes of the person."""
    return {
        "display_name": row.name,
        "given_name": row.given_name or None,
        "family_name": row.family_name or None,
        "email": row.email,
        "mobile": row.mobile,
    }


def seal_said(keyring: Keyring, key: str, row: HrRow) -> bytes:
    """What a row says, sealed under the name of its source record."""
    raw = {
        **person_values(row),
        "status": row.status.value,
        "company": row.company,
        "department": "/".join(row.department),
        "title": row.title,
        "type": row.employment_type.value,
        "start_date": row.start_on.isoformat(),
        "end_date": row.end_on.isoformat() if row.end_on else None,
        "manager": row.manager_employee_number,
    }
    return keyring.seal(said_context(key), orjson.dumps(raw))


def said_context(key: str) -> str:
    """Name that a sealed source record is bound to."""
    return f"source_records:{PROVIDER}:{key}"


def open_reader(database: Database, path: Path, companies: Companies, keyring: Keyring) -> "Reader | ReaderApart":
    """Open an HR file, in a process of its own where that pays.

    Raises:
        HrFileRefused: the whole file is refused.
        OSError: it cannot be read.
    """
    if path.stat().st_size < _WORTH_A_PROCESS or (os.cpu_count() or 1) < 2:
        return Reader(database, path, companies, keyring)
    return ReaderApart(database, path, companies, keyring)


class ReaderApart:
    """The HR file read by a process of its own, which works ahead until the pipe between us is full."""

    def __init__(self, database: Database, path: Path, companies: Companies, keyring: Keyring) -> None:
        # -P: modules come from where ours come from, never from the folder that somebody happens to stand in.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise Unavailable("The reading process has no pipes.")
        self._to, self._from = self._process.stdin, self._process.stdout
        _widen(self._from)
        try:
            self._tell("open", database.url, str(path.absolute()), companies, keyring.master.raw)
            self.digest, self.encoding, self.unknown_columns = self._hear()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._to.close()
        self._from.close()
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def batches(self) -> Iterator[Ahead]:
        """The whole file, once, in order."""
        self._tell("batches")
        while (ahead := self._hear()) is not None:
            yield ahead

    def completeness(self) -> Completeness:
        """The proof over `batches`."""
        self._tell("completeness")
        proof: Completeness = self._hear()
        return proof

    def listed(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Of (company key, employee number) pairs: whether some row was about it."""
        self._tell("listed", list(pairs))
        found: list[bool] = self._hear()
        return found

    def again(self, lines: Iterable[int]) -> Iterator[list[HrRow]]:
        """The rows of some lines a second time."""
        self._tell("again", list(lines))
        while (rows := self._hear()) is not None:
            yield rows

    def _tell(self, *request: Any) -> None:
        pickle.dump(request, self._to, protocol=5)
        self._to.flush()

    def _hear(self) -> Any:
        try:
            said, value = pickle.load(self._from)  # noqa: S301 - our own process, through a pipe nobody else holds
        except (EOFError, pickle.UnpicklingError) as error:
            raise Unavailable("The process that reads the HR file has ended.") from error
        if said == "refused":
            raise HrFileRefused(*value)
        if said == "changed":
            raise FileChanged
        if said == "failed":
            raise OSError(*value)
        return value


def _widen(pipe: Any) -> None:
    """Let a pipe hold a batch, where the system can: the reader goes on while the writer writes."""
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


class _Server:
    """The reading process: answers one parent until that closes the pipe."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests, self._answers = requests, answers

    def run(self) -> None:
        """Answer every request in turn."""
        reader: Reader | None = None
        with suppress(EOFError, BrokenPipeError):
            while True:
                what, *given = pickle.load(self._requests)  # noqa: S301 - our own parent, through a pipe of our own
                try:
                    if what == "open":
                        reader = self._open(*given)
                    elif reader is not None:
                        self._answer(getattr(reader, what)(*given))
                except HrFileRefused as error:
                    self._say((error.code, error.description, error.description_zh), "refused")
                except FileChanged:
                    self._say(None, "changed")
                except BrokenPipeError:
                    return
                except OSError as error:
                    self._say((error.errno, error.strerror), "failed")

    def _open(self, url: str, path: str, companies: Companies, raw: bytes) -> Reader:
        database = create_database(Settings(database_url=url, database_pool_size=2))
        reader = Reader(database, Path(path), companies, Keyring(MasterKey(raw), ()))
        self._say((reader.digest, reader.encoding, reader.unknown_columns))
        return reader

    def _answer(self, value: Any) -> None:
        if isinstance(value, Iterator):
            for part in value:
                self._say(part)
            value = None
        self._say(value)

    def _say(self, value: Any, said: str = "value") -> None:
        pickle.dump((said, value), self._answers, protocol=5)
        self._answers.flush()


def serve() -> None:
    """Be the reading process."""
    _Server(sys.stdin.buffer, sys.stdout.buffer).run()
