"""Reading an HR file ahead of its import: rows judged, compared with what was said last time, and joiners made ready.

Owns: everything about a row that needs no lock, so that the one writer of an SQLite file is busy with writing alone.
For a large file it happens in a process of its own (`ReaderApart`), a batch or two ahead of the writer; for a small one
in the same process (`Reader`). Both answer the same questions. The process is ours: it gets the master key and the
database's address through its standard input, and what it answers is trusted as far as our own code is.

Does not own: whether a row is right (`providers.hr_file`), or what follows from it (`hr_plan`, `transition`). What is
made ready here is compared again by the database when it is written: numbers and people are unique there.
"""

from __future__ import annotations

import copy
import gc
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import orjson
from sqlalchemy import BindParameter, bindparam, select
from sqlalchemy.orm import Session

from idhub.changes import Actor
from idhub.db import Database, new_ids, open_database
from idhub.directory.kinds import EmploymentState, EmploymentType
from idhub.directory.search_terms import load_readings
from idhub.directory.tables import Employment, Person, SourceRecord
from idhub.errors import Unavailable
from idhub.kept import Kept
from idhub.keys import Keyring, MasterKey
from idhub.lifecycle import intake, ready, records
from idhub.lifecycle.hr_companies import Companies, Foreseen
from idhub.lifecycle.ready import Newcomer
from providers.base import Completeness
from providers.hr_file import EmploymentType as HrEmploymentType
from providers.hr_file import HrFile, HrFileRefused, HrRow, HrStatus, RefusedRow, RowProblem

PROVIDER = "hr_file"
NATIONAL_ID = "person.national_id"
BATCH = 256
"""Rows read at once; people who are new among them are written at once, which keeps locks short on slow machines."""
_MOST_HUMANS = 40_000
_WORTH_A_PROCESS = 1 << 20
"""Bytes of a file from which reading ahead in a process of its own pays for starting it."""
_PIPE_BYTES = 1 << 20
_KEPT_AHEAD = 32
"""Batches read while the writer waits for a lock or the disk, somewhat less than a megabyte each."""
_LOOK_SECONDS = 0.002
_STEP_BACK = 5
"""Niceness of the reading process: a third of what another busy process gets; on an idle machine a whole core."""
_HEAD = struct.Struct("<Q?")
"""Before what the reading process says: its length, and whether more of the same answer follows."""

# What is asked of every stretch of the file: building a statement would cost more than what it asks.
_VALUES: BindParameter[Any] = bindparam("values", expanding=True)
_SAID = Kept(
    select(SourceRecord.key, SourceRecord.content_hash).where(
        SourceRecord.provider == PROVIDER, SourceRecord.key.in_(_VALUES)
    )
)
_HELD = Kept(
    select(Employment.employee_number).where(
        Employment.organization_id == bindparam("organization_id"), Employment.employee_number.in_(_VALUES)
    )
)
_HUMANS = Kept(select(Person.national_id_hash).where(Person.national_id_hash.in_(_VALUES)))


class Terms(NamedTuple):
    """Of the run that reads: what rows made ahead name. In a dry run nobody is made ready."""

    run_id: str
    now: datetime
    actor: Actor
    door: str
    request_id: str | None
    is_dry_run: bool


class Ready(NamedTuple):
    """Rows about people nobody knows, made ready for the one door but for their managers."""

    lines: list[int]
    managers: list[tuple[int, tuple[str, str]]]
    """Number in the group, and the manager's (company key, employee number)."""
    foreseen: Foreseen
    joiners: records.Joiners


class Ahead(NamedTuple):
    """What a stretch of the file says."""

    rows: int
    unchanged: int
    news: list[HrRow]
    """Rows that say something else than last time, of people who may be known."""
    foreseen: Foreseen | None
    """Where these rows belong, so that what they make has the ids that rows made ready further on will name."""
    ready: Ready | None
    refused: list[RefusedRow]
    notices: list[RowProblem]
    named: list[str]
    """Keys of companies named for the first time."""
    texts: dict[str, str]
    """How unknown companies among them were written."""


class _Stranger(NamedTuple):
    """A row about nobody known: the key of its source record, and the keyed hash of its national id."""

    key: str
    row: HrRow
    human: str | None


class Reader:
    """The HR file read in this process."""

    def __init__(self, database: Database, path: Path, companies: Companies, keyring: Keyring, terms: Terms) -> None:
        # A copy: what is foreseen here is not made yet.
        self._database, self._path, self._companies, self._keyring = database, path, copy.deepcopy(companies), keyring
        self._terms = terms
        self._named: set[str] = set()
        self._humans: dict[str, None] = {}
        # What was empty when the file was opened is not asked for every row: whoever comes in meanwhile is found by the
        # database when the rows are written.
        with database.read() as session:
            said = select(SourceRecord.key).where(SourceRecord.provider == PROVIDER).limit(1)
            self._has_spoken = session.execute(said).first() is not None
            self._staffed = set(session.execute(select(Employment.organization_id).distinct()).scalars())
        self._file = HrFile(path, company_key=self._companies.key)
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
            rows = (row for row in file.records(only=wanted) if isinstance(row, HrRow))
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
        # Read at once: while a snapshot is open, SQLite's log cannot begin anew.
        with self._database.read() as session:
            news, strangers = self._compare(session, rows)
            foreseen = self._foresee(session, news) if news and not self._terms.is_dry_run else None
            theirs = self._foresee(session, (one.row for one in strangers)) if strangers else None
        made = None if theirs is None else self._make_ready(strangers, theirs)
        return Ahead(
            len(part),
            len(rows) - len(news) - len(strangers),
            news,
            foreseen,
            made,
            refused,
            [row.notice for row in rows if row.notice is not None],
            named,
            {key: self._companies.text_of(key) for key in named if self._companies.is_unknown(key)},
        )

    def _compare(self, session: Session, rows: Sequence[HrRow]) -> tuple[list[HrRow], list[_Stranger]]:
        """Rows that say something new: those about somebody who may be known, and those about nobody known."""
        keyed = {self._companies.source_key(row): row for row in rows}
        said: dict[str, str] = {}
        if self._has_spoken:
            said = dict(_SAID.all(session, values=list(keyed)))
        strange: list[_Stranger] = []
        news: list[HrRow] = []
        for key, row in keyed.items():
            before = said.get(key)
            if before is None and not self._terms.is_dry_run:
                human = None
                if row.national_id:
                    human = self._keyring.blind_index(NATIONAL_ID, row.national_id.upper())
                strange.append(_Stranger(key, row, human))
            elif before != row.digest.hex():
                news.append(row)
        if not strange:
            return news, []
        posts, humans = self._known_posts(session, strange), self._known_humans(session, strange)
        strangers: list[_Stranger] = []
        for one in strange:
            human = one.human
            if human is not None:
                if human in humans or human in self._humans:
                    news.append(one.row)
                    continue
                self._humans[human] = None
            if posts and (self._companies.id_of(one.row.company_key) or "", one.row.employee_number) in posts:
                news.append(one.row)
            else:
                strangers.append(one)
        self._forget_humans()
        return news, strangers

    def _known_posts(self, session: Session, strange: Iterable[_Stranger]) -> set[tuple[str, str]]:
        """Posts of these numbers that another door has made."""
        numbers: dict[str, list[str]] = {}
        for one in strange:
            organization_id = self._companies.id_of(one.row.company_key)
            if organization_id in self._staffed:
                numbers.setdefault(organization_id, []).append(one.row.employee_number)
        posts: set[tuple[str, str]] = set()
        for organization_id, listed in numbers.items():
            held = _HELD.scalars(session, organization_id=organization_id, values=listed)
            posts.update((organization_id, number) for number in held)
        return posts

    def _known_humans(self, session: Session, strange: Iterable[_Stranger]) -> set[str]:
        hashes = [one.human for one in strange if one.human is not None]
        return set(_HUMANS.scalars(session, values=hashes)) if hashes else set()

    def _forget_humans(self) -> None:
        """What was read long ago is in the database by now."""
        if len(self._humans) > _MOST_HUMANS:
            self._humans = dict.fromkeys(islice(self._humans, _MOST_HUMANS // 2, None))

    def _foresee(self, session: Session, rows: Iterable[HrRow]) -> Foreseen:
        return self._companies.foresee(session, ((row.company_key, row.department) for row in rows))

    def _make_ready(self, strangers: Sequence[_Stranger], foreseen: Foreseen) -> Ready:
        companies, terms = self._companies, self._terms
        newcomers: list[Newcomer] = []
        managers: list[tuple[int, tuple[str, str]]] = []
        sealed = self._keyring.seal_all([(said_context(one.key), _said(one.row)) for one in strangers])
        ids = new_ids("per", len(strangers))
        places: dict[tuple[str, tuple[str, ...]], tuple[str, str]] = {}
        todays: dict[str, date] = {}
        for number, ((key, row, human), raw_sealed, principal_id) in enumerate(
            zip(strangers, sealed, ids, strict=True)
        ):
            # Unpacked: to ask a tuple for one after another costs more.
            (
                _, employee_number, name, given_name, family_name, email, mobile, _, company_key, department, title,
                manager, _, kind, starts_on, ends_on, status, _, digest, _,
            ) = row  # fmt: skip
            place = places.get((company_key, department))
            if place is None:
                organization_id = foreseen.companies[company_key]
                department_id = foreseen.departments[organization_id, "/".join(department)]
                place = places[company_key, department] = organization_id, department_id
            if manager:
                managers.append((number, manager_place(companies, row)))
            state = "present"
            if ends_on is not None or status is HrStatus.LEFT:
                today = todays.get(company_key)
                if today is None:
                    today = todays[company_key] = companies.today(company_key, now=terms.now)
                ends_on = end_of_new(row, today)
                state = "left" if is_over(row, today) else state
            person = {
                "display_name": name,
                "given_name": given_name or None,
                "family_name": family_name or None,
                "email": email,
                "mobile": mobile,
                "locale": None,
                "national_id_hash": human,
            }
            mark = intake.SourceMark(PROVIDER, key, place[0], digest.hex(), terms.run_id, state, raw_sealed)
            newcomers.append(
                Newcomer(
                    principal_id,
                    person,
                    *place,
                    employee_number,
                    _TYPES[kind._value_],
                    title or None,
                    starts_on,
                    ends_on,
                    _NEW_STATES[status._value_],
                    mark,
                )
            )
        joiners = ready.make(
            newcomers,
            foreseen.zones,
            sealer=self._keyring,
            now=terms.now,
            actor=terms.actor,
            door=terms.door,
            request_id=terms.request_id,
        )
        # Here and not in the writing process, which waits for the disk besides.
        return Ready([one.row.line for one in strangers], managers, foreseen, records.indexed(joiners))


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


def facts_of(
    row: HrRow,
    organization_id: str,
    department_id: str | None,
    *,
    manager_id: str | None = None,
    ends_on: date | None = None,
) -> intake.EmploymentFacts:
    """A row's post, its end the row's own unless another is given."""
    return intake.EmploymentFacts(
        organization_id=organization_id,
        employee_number=row.employee_number,
        type=_TYPES[row.employment_type._value_],
        starts_on=row.start_on,
        department_id=department_id,
        title=row.title or None,
        manager_id=manager_id,
        ends_on=ends_on or row.end_on,
        state=_NEW_STATES[row.status._value_],
    )


# By value: the hash of a member is worked out anew each time.
_TYPES = {kind.value: EmploymentType(kind.value) for kind in HrEmploymentType}
_NEW_STATES = {
    HrStatus.ACTIVE.value: EmploymentState.ACTIVE,
    HrStatus.LEFT.value: EmploymentState.ENDED,
    HrStatus.SUSPENDED.value: EmploymentState.SUSPENDED,
}


def is_over(row: HrRow, today: date) -> bool:
    """Whether the row says that the post has ended; `today` is the date at the company's place."""
    return row.status is HrStatus.LEFT or (row.end_on is not None and row.end_on < today)


def end_of_new(row: HrRow, today: date) -> date | None:
    """The last day of a post that nobody knows yet.

    Of somebody who had left before the hub heard of them it is known or, at the latest, yesterday.
    """
    if row.status is not HrStatus.LEFT:
        return row.end_on
    yesterday = today - timedelta(days=1)
    return max(row.start_on, min(row.end_on or yesterday, yesterday))


def manager_place(companies: Companies, row: HrRow) -> tuple[str, str]:
    """Company key and employee number of the manager that a row names."""
    company = companies.key(row.manager_company) if row.manager_company else row.company_key
    return company, row.manager_employee_number or ""


def seal_said(keyring: Keyring, key: str, row: HrRow) -> bytes:
    """What a row says, sealed under the name of its source record."""
    return keyring.seal(said_context(key), _said(row))


def _said(row: HrRow) -> bytes:
    (
        _, _, name, given_name, family_name, email, mobile, company, _, department, title, manager, _, kind, start_on,
        end_on, status, _, _, _,
    ) = row  # fmt: skip
    return orjson.dumps(
        {
            "display_name": name,
            "given_name": given_name or None,
            "family_name": family_name or None,
            "email": email,
            "mobile": mobile,
            "status": status._value_,
            "company": company,
            "department": "/".join(department),
            "title": title,
            "type": kind._value_,
            "start_date": start_on,
            "end_date": end_on,
            "manager": manager,
        }
    )


def said_context(key: str) -> str:
    """Name that a sealed source record is bound to."""
    return f"source_records:{PROVIDER}:{key}"


def open_reader(
    database: Database,
    path: Path,
    companies: Companies,
    keyring: Keyring,
    terms: Terms,
    *,
    meanwhile: Callable[[], None] = lambda: None,
) -> Reader | ReaderApart:
    """Open an HR file, in a process of its own where that pays.

    Args:
        meanwhile: what may be done while such a process starts.

    Raises:
        HrFileRefused: the whole file is refused.
        OSError: it cannot be read.
    """
    if path.stat().st_size < _WORTH_A_PROCESS or (os.cpu_count() or 1) < 2:
        meanwhile()
        return Reader(database, path, companies, keyring, terms)
    return ReaderApart(database, path, companies, keyring, terms, meanwhile)


class _Process(Protocol):
    """A process that we began: `subprocess.Popen`, or one that is a copy of this."""

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class _Copy:
    """A process that began as a copy of this one."""

    def __init__(self, pid: int) -> None:
        self._pid, self._status = pid, -1

    def kill(self) -> None:
        """End it at once."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, when it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not, after so many seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._pid:
            ended, status = os.waitpid(self._pid, 0 if deadline is None else os.WNOHANG)
            if ended:
                self._pid, self._status = 0, os.waitstatus_to_exitcode(status)
            elif deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("hr_file", timeout or 0)
            else:
                time.sleep(_LOOK_SECONDS)
        return self._status


def _begin(database: Database) -> tuple[_Process, IO[bytes], IO[bytes]]:
    """Begin a reading process. Returns it, what it is told through, and what it is heard through.

    A copy of this process has all our modules and begins at once; a new interpreter loads them for half a second. But a
    copy of a process with other threads may hold their locks for ever, and SQLite does not know of copies: it would
    take the locks of connections that are open here for its own.
    """
    if _has_one_thread():
        database.dispose()
        if not _is_open(database):
            # Here, where both have them from it.
            load_readings()
            return _copy()
    # -P: modules come from where ours come from, never from the folder that somebody happens to stand in.
    process = subprocess.Popen(
        # Neither modules nor rows form cycles (fifty objects of 30,000 rows): looking for them takes a tenth of the
        # start, and half a microsecond a row.
        [sys.executable, "-P", "-c", f"import gc; gc.disable(); from {__name__} import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if process.stdin is None or process.stdout is None:
        raise Unavailable("The reading process has no pipes.")
    return process, process.stdin, process.stdout


def _has_one_thread() -> bool:
    """Whether this process has one thread, of whatever library."""
    return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1


def _is_open(database: Database) -> bool:
    """Whether this process has a file of the database open, through whatever connection."""
    file = database.engine.url.database if database.dialect == "sqlite" else None
    if not file:
        return False
    mine = os.path.realpath(file)
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith(mine):
                return True
    return False


def _copy() -> tuple[_Process, IO[bytes], IO[bytes]]:
    there, told = os.pipe()
    heard, here = os.pipe()
    pid = os.fork()
    if pid:
        os.close(there)
        os.close(here)
        return _Copy(pid), os.fdopen(told, "wb"), os.fdopen(heard, "rb")
    try:
        os.close(told)
        os.close(heard)
        serve(os.fdopen(there, "rb"), os.fdopen(here, "wb"))
    except BaseException:
        # What stands above us is the parent's work, not ours.
        traceback.print_exc()
    finally:
        os._exit(1)


class ReaderApart:
    """The HR file read by a process of its own, which works ahead until the pipe between us is full."""

    def __init__(
        self,
        database: Database,
        path: Path,
        companies: Companies,
        keyring: Keyring,
        terms: Terms,
        meanwhile: Callable[[], None],
    ) -> None:
        self._process, self._to, self._from = _begin(database)
        self._kept: queue.Queue[bytes] = queue.Queue(_KEPT_AHEAD)
        self._listener: threading.Thread | None = None
        _widen(self._from)
        try:
            address = database.url, database.is_pooled
            self._tell("open", address, str(path.absolute()), companies, keyring.master.raw, terms)
            meanwhile()
            self.digest, self.encoding, self.unknown_columns = self._hear()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._to.close()
        if self._listener is not None and self._listener.is_alive():
            # Nobody wants the rest of the file.
            self._process.kill()
            while self._listener.is_alive():
                with suppress(queue.Empty):
                    self._kept.get(timeout=0.1)
        self._from.close()
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def batches(self) -> Iterator[Ahead]:
        """The whole file, once, in order."""
        self._tell("batches")
        # The pipe holds less than a batch; what was heard stays packed until its turn comes.
        self._listener = threading.Thread(target=self._listen, name="hr_file", daemon=True)
        self._listener.start()
        while (ahead := _understood(self._kept.get())) is not None:
            yield ahead

    def _listen(self) -> None:
        more = True
        while more:
            packed, more = self._hear_packed()
            self._kept.put(packed)

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
        return _understood(self._hear_packed()[0])

    def _hear_packed(self) -> tuple[bytes, bool]:
        """What is said next, and whether more of the same answer follows; nothing when the process has ended."""
        head = self._from.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return b"", False
        size, more = _HEAD.unpack(head)
        packed = self._from.read(size)
        return (packed, more) if len(packed) == size else (b"", False)


def _understood(packed: bytes) -> Any:
    """What the reading process said."""
    if not packed:
        raise Unavailable("The process that reads the HR file has ended.")
    said, value = pickle.loads(packed)  # noqa: S301 - our own process, through a pipe nobody else holds
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

    def __init__(self, requests: IO[bytes], answers: IO[bytes]) -> None:
        self._requests, self._answers = requests, answers
        self._database: Database | None = None

    def close(self) -> None:
        """Let the database go."""
        if self._database is not None:
            self._database.dispose()

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

    def _open(self, address: tuple[str, bool], path: str, companies: Companies, raw: bytes, terms: Terms) -> Reader:
        url, is_pooled = address
        self._database = open_database(url, pool_size=2, is_pooled=is_pooled)
        reader = Reader(self._database, Path(path), companies, Keyring(MasterKey(raw), ()), terms)
        self._say((reader.digest, reader.encoding, reader.unknown_columns))
        return reader

    def _answer(self, value: Any) -> None:
        if isinstance(value, Iterator):
            for part in value:
                self._say(part, more=True)
            value = None
        self._say(value)

    def _say(self, value: Any, said: str = "value", *, more: bool = False) -> None:
        packed = pickle.dumps((said, value), protocol=5)
        self._answers.write(_HEAD.pack(len(packed), more))
        self._answers.write(packed)
        self._answers.flush()


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Let this process look for cycles seldom while the block lasts.

    Rows come by the thousand and form none: looking after every few hundred costs a tenth of the time.
    """
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def serve(requests: IO[bytes] | None = None, answers: IO[bytes] | None = None) -> None:
    """Be the reading process, heard and answering through these or its standard input and output. Does not return.

    It steps back behind whoever is waited for: the writer, which holds the lock that everybody needs, and sign-ins.
    """
    # Who stops the import stops the parent, and with it what we read from.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_STEP_BACK)
    gc.disable()
    server = _Server(requests or sys.stdin.buffer, answers or sys.stdout.buffer)
    server.run()
    server.close()
    # At once: what is left has nothing to put away, and the writer waits for us.
    os._exit(0)
