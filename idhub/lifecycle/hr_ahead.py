"""Reading an HR file ahead of its import: rows judged, compared with what was said last time, and joiners made ready.

Owns: everything about a row that needs no lock, so that the one writer of an SQLite file is busy with writing alone.
For a large file it happens in a process of its own (`hr_apart`), some batches ahead of the writer; for a small one in
the same process. Both answer the same questions.

Does not own: whether a row is right (`providers.hr_file`), or what follows from it (`hr_plan`, `transition`). What is
made ready here is compared again by the database when it is written: numbers and people are unique there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from sqlalchemy import BindParameter, bindparam, select
from sqlalchemy.orm import Session

from idhub.changes import Actor
from idhub.db import Database, new_ids
from idhub.directory.kinds import EmploymentState, EmploymentType
from idhub.directory.tables import Employment, Person, SourceRecord
from idhub.kept import Kept
from idhub.keys import Keyring
from idhub.lifecycle import hr_doubles, intake, ready
from idhub.lifecycle.events import Occasion
from idhub.lifecycle.hr_companies import Companies, Foreseen
from idhub.lifecycle.joiners import Joiners, indexed
from idhub.lifecycle.ready import Newcomer
from providers.base import Completeness
from providers.hr_file import EmploymentType as HrEmploymentType
from providers.hr_file import HrFile, HrRow, HrStatus, RefusedRow, RowProblem

PROVIDER = "hr_file"
NATIONAL_ID = "person.national_id"
HELD_ELSEWHERE = "held_elsewhere"
"""Of what was said: the row suspends somebody whom another door had suspended before, who alone ends that."""
BATCH = 256
"""Rows read at once; people who are new among them are written at once, which keeps locks short on slow machines."""
_MOST_HUMANS = 40_000

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
    joiners: Joiners


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
        """The rows of some lines a second time, in the order of the file; refused ones are passed over.

        Raises:
            FileChanged: the file is another one by now; it is noticed before the first row.
        """
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
        doubles = self._doubles(session, strangers)
        news += [one.row for one in strangers if one.row.line in doubles]
        return news, [one for one in strangers if one.row.line not in doubles]

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

    def _doubles(self, session: Session, strangers: Iterable[_Stranger]) -> dict[int, str]:
        """Those whom their company may have under another number, by line; a company without staff has nobody."""
        candidates = []
        for one in strangers:
            organization_id = self._companies.id_of(one.row.company_key)
            if organization_id in self._staffed:
                candidates.append(hr_doubles.Candidate(one.row, organization_id, one.human))
        return hr_doubles.find(session, candidates)

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
            Occasion(terms.now, terms.actor, terms.door, terms.request_id),
            sealer=self._keyring,
        )
        # Here and not in the writing process, which waits for the disk besides.
        return Ready([one.row.line for one in strangers], managers, foreseen, indexed(joiners))


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


def seal_said(keyring: Keyring, key: str, row: HrRow, *, is_held_elsewhere: bool = False) -> bytes:
    """What a row says, sealed under the name of its source record."""
    said = _said(row)
    if is_held_elsewhere:
        said = orjson.dumps({**orjson.loads(said), HELD_ELSEWHERE: True})
    return keyring.seal(said_context(key), said)


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
