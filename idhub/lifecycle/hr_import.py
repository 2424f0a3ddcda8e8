"""The HR-file door: a file in, people joined, moved and left through the one door, a report out.

Owns: the run (batches, order, what counts as absent, the report). Does not own: the file's rules (`providers.hr_file`),
what a row changes (`hr_plan`), the brake (`hr_brake`), standing (`transition`).

Order of a run: joiners and changes as the file is read; then managers who stood further down in the file; then leaves,
said or by absence, under the brake. Every batch is a transaction of its own, on SQLite of about 50 ms; a run that was
interrupted is repeated and goes on where it was, because rows that went in change nothing the second time.

Entry point: `import_file`.
"""

import gc
import time
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from sqlalchemy import exists, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from idhub.authority import Action, Subject, administrators_now, holders_among, is_covered
from idhub.changes import Actor, Event, EventType, record
from idhub.db import Database, chunked, new_id
from idhub.directory.kinds import EmploymentState
from idhub.directory.search_terms import load_readings
from idhub.directory.tables import Employment, Organization, SourceRecord
from idhub.errors import Conflict, IdhubError, Invalid
from idhub.keys import Keyring
from idhub.lifecycle import hr_brake, hr_runs, intake
from idhub.lifecycle.hr_ahead import (
    BATCH,
    PROVIDER,
    Ahead,
    FileChanged,
    Reader,
    Ready,
    Terms,
    manager_place,
)
from idhub.lifecycle.hr_apart import ReaderApart, open_reader
from idhub.lifecycle.hr_brake import DEFAULT_BRAKE, Brake
from idhub.lifecycle.hr_companies import Companies, Mark
from idhub.lifecycle.hr_plan import UNSETTLED, BatchPlan, Leaders, Leaving, Planner
from idhub.lifecycle.hr_runs import DOOR
from idhub.lifecycle.joiners import Joiners, content_hash_of, numbers_of, settle
from idhub.lifecycle.ports import listener_of, planners_of
from idhub.lifecycle.tables import SourceRun
from idhub.lifecycle.transition import transition
from providers.base import Completeness
from providers.hr_file import HrFileRefused, HrRow, RefusedRow, RowProblem, Rule

T = TypeVar("T")
OnLeaving = Callable[[Sequence[Leaving], Sequence[Leaving]], None]
MAX_LISTED = 1_000
"""Problems that a report keeps; beyond, they are only counted."""
MAX_ROW_EVENTS = 200
"""Refused rows that get an event each; beyond, `import.finished` has their number."""
# A transaction is made of pieces: SQLite has one writer at a time, and after each piece whoever waits is let through.
# A piece is shortest while somebody waits, longest while nobody does; it grows by a quarter each time nobody did.
_SLICE_SECONDS = {"sqlite": (0.02, 0.07), "postgresql": (0.5, 0.5)}
_GROWTH = 1.25
_LARGEST = 2_000
# Joiners of one transaction while nobody waits, times `Database.steps`. The more, the fewer pages each of them writes;
# a commit of so many takes about as long as a piece or two.
_MOST_JOINERS = {"sqlite": 4_000, "postgresql": _LARGEST}
# Below, the fixed cost of a transaction would be most of it. One who is changed takes the time of ten joiners.
_FEWEST_JOINERS, _FEWEST_CHANGED = 250, 25
# Rows kept back until there are so many: joiners go in before them, and the more of these go in together the better.
_NEWS_AT_ONCE = 1_000
_ABSENT_PAGE = 2_000
_HELD_AT_ONCE = 500
_MORE_THAN_CHANCE = 5
"""So many people of a company do not all go within a day, however small it is: the file is of another company."""


@dataclass(slots=True)
class ImportReport:
    """What a run came to, or in a dry run would come to.

    Args:
        refused: rows that did not go in; `problems` says why, line by line (the first thousand).
        notices: rows that went in, but not wholly (a manager unknown or themself).
        would_leave: employments that the file ends, before the brake; `left` is how many people left.
        quarantined: employments whose end is held for a release by two people.
        superseded: rows about somebody of whom a run that began later has spoken meanwhile; they changed nothing.
        companies_not_named: companies that files have spoken for and this one does not: their people stay as they are.
        absence_unproven: companies in which nobody was taken for absent, and `gaps` why.
    """

    run_id: str
    file_digest: str
    encoding: str
    is_snapshot: bool
    is_dry_run: bool
    rows: int = 0
    unchanged: int = 0
    superseded: int = 0
    new: int = 0
    added: int = 0
    changed: int = 0
    suspended: int = 0
    reactivated: int = 0
    rehired: int = 0
    would_leave: int = 0
    absent: int = 0
    left: int = 0
    refused: int = 0
    quarantined: int = 0
    problems: list[RowProblem] = field(default_factory=list)
    notices: list[RowProblem] = field(default_factory=list)
    notice_count: int = 0
    companies_not_named: list[str] = field(default_factory=list)
    gaps: tuple[str, ...] = ()
    absence_unproven: list[str] = field(default_factory=list)
    unknown_columns: tuple[str, ...] = ()
    created_companies: list[str] = field(default_factory=list)
    created_departments: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether the whole file was read without a structural error, and no later run speaks for its companies."""
        return not self.gaps

    def counts(self) -> dict[str, int]:
        """The numbers, for events and the list of runs."""
        names = (
            *("rows", "unchanged", "superseded", "new", "added", "changed", "suspended", "reactivated", "rehired"),
            *("would_leave", "absent", "left", "refused", "quarantined", "notice_count", "created_departments"),
        )
        return {name: getattr(self, name) for name in names}


def import_file(
    database: Database,
    path: Path,
    *,
    keyring: Keyring,
    snapshot: bool,
    dry_run: bool,
    now: datetime,
    actor: Actor,
    progress: Callable[[int], None] | None = None,
    on_refused: Callable[[RefusedRow], None] | None = None,
    on_leaving: OnLeaving | None = None,
    within: Collection[str] | None = None,
    brake: Brake = DEFAULT_BRAKE,
    allow_replay: bool = False,
    request_id: str | None = None,
) -> ImportReport:
    """Take an HR file in.

    Opens its own transactions, a batch each; call it outside of one. A dry run writes nothing.

    Args:
        snapshot: the file lists everybody of the companies it names; False: only listed rows act.
        progress: told the number of rows read so far, about once a batch.
        on_refused: given every row that the file's own rules refuse, for the error report.
        on_leaving: told, before it happens, whose access the file takes and what the brake holds of it.
        within: organizations that whoever imports may speak for; None: all, and new ones.
        allow_replay: take a file again although a newer one has spoken for its companies since.

    Raises:
        Invalid: the whole file is refused (`rule` is `hr_file.` and the code); nothing was applied. Or it names a
            company beyond `within`: then reading stopped there.
        Conflict: an older file again, after a newer one: it would undo what happened since.
        OSError: the file cannot be read.
    """
    with database.read() as session:
        companies = Companies(session)
        active = hr_brake.active_posts(session)

    def load() -> None:
        """Load what takes a fifth of a second of modules and tables, before anybody waits for our lock."""
        if not dry_run:
            with database.read() as session:
                planners_of(session)
                listener_of(session)
            load_readings()

    terms = Terms(new_id("run"), now, actor, DOOR, request_id, dry_run)
    try:
        reader = open_reader(database, path, companies, keyring, terms, meanwhile=load)
    except HrFileRefused as error:
        rule = f"hr_file.{error.code}"
        if not dry_run:
            with database.transaction() as session:
                record(
                    session, [_finished(terms.run_id, actor, now=now, reason=rule, details={}, request_id=request_id)]
                )
        raise Invalid(error.description, field="file", rule=rule) from error
    with closing(reader), database.filling_indexes(), _seldom_collected():
        run = _Run(
            database=database,
            reader=reader,
            companies=companies,
            keyring=keyring,
            report=ImportReport(terms.run_id, reader.digest, reader.encoding, snapshot, dry_run),
            now=now,
            actor=actor,
            brake=brake,
            active=active,
            progress=progress or (lambda _rows: None),
            on_refused=on_refused or (lambda _row: None),
            on_leaving=on_leaving or (lambda _go, _held: None),
            within=None if within is None else frozenset(within),
            request_id=request_id,
        )
        if not allow_replay:
            run.refuse_replay()
        return run.run()


@dataclass(slots=True)
class _Run:
    """One file on its way in."""

    database: Database
    reader: Reader | ReaderApart
    companies: Companies
    keyring: Keyring
    report: ImportReport
    now: datetime
    actor: Actor
    brake: Brake
    active: dict[hr_brake.Place, int]
    progress: Callable[[int], None]
    on_refused: Callable[[RefusedRow], None]
    on_leaving: OnLeaving
    within: frozenset[str] | None
    request_id: str | None
    pulse: hr_runs.Pulse | None = None
    """Whether the run goes on; None: a dry run."""
    size: int = 50
    joining: int = _FEWEST_JOINERS
    """How many joiners a piece of a transaction takes; `size` is of those who are changed one by one."""
    pieces: int = 1
    """How many pieces a transaction may have now."""
    slice: float = 0.0
    """Seconds that a piece may take now."""
    worked: float = 0.0
    """Seconds in transactions since their size was last set."""
    joiners: list[Ready] = field(default_factory=list)
    """Read and not written yet, as are `news`."""
    news: list[HrRow] = field(default_factory=list)
    leaving: list[Leaving] = field(default_factory=list)
    deferred: "array[int]" = field(default_factory=lambda: array("Q"))
    missed: "array[int]" = field(default_factory=lambda: array("Q"))
    """Lines of joiners who could not join together: somebody had made one of them meanwhile. They are read again."""
    named: dict[str, None] = field(default_factory=dict)
    """Keys of the companies that the file names."""
    leaders: Leaders = field(default_factory=Leaders)
    doubles: "array[int]" = field(default_factory=lambda: array("Q"))
    """Lines of people whom their company has under another number."""
    ending: dict[str, date | None] | None = None
    """Once all is read: posts that the file ends, with their last days."""
    kept: set[str] = field(default_factory=set)
    """Posts that nobody is absent from: a row that was refused is about them."""
    emptied: set[str] = field(default_factory=set)
    """Companies of which the file lists nobody who was there."""
    humans: dict[str, str] = field(default_factory=dict)
    """In a dry run: people planned so far, by keyed national id."""

    @property
    def _most_joiners(self) -> int:
        return _MOST_JOINERS[self.database.dialect] * self.database.steps

    def refuse_replay(self) -> None:
        """Refuse a file that was taken in before, if a newer one has spoken for its companies since."""
        with self.database.read() as session:
            runs = session.execute(
                select(SourceRun.content_hash, SourceRun.counts)
                .where(SourceRun.provider == PROVIDER, SourceRun.finished_at.is_not(None))
                .order_by(SourceRun.id.desc())
                .limit(1_000)
            ).all()
        newer: set[str] = set()
        for content_hash, counts in runs:
            spoke_for = set(counts.get("companies", ()))
            if content_hash == self.reader.digest:
                if newer & spoke_for:
                    raise Conflict(
                        "This file was imported before, and a newer one since; importing it again would undo that.",
                        field="file",
                        rule="hr_file.replayed",
                    )
                return
            newer |= spoke_for

    def run(self) -> ImportReport:
        """Do it all, in order."""
        report = self.report
        report.unknown_columns = self.reader.unknown_columns
        with nullcontext() if report.is_dry_run else self._begun() as self.pulse:
            self._take_all()
        self.progress(report.rows)
        return report

    def _take_all(self) -> None:
        report = self.report
        for ahead in self.reader.batches():
            self._take_in(ahead)
            self.progress(report.rows)
        self._join()
        self._take_news()
        proof = self.reader.completeness()
        report.gaps = proof.gaps
        if report.is_snapshot and not report.rows:
            self._refuse_empty()
        self._read_missed()
        self._settle_doubles()
        self._settle_managers()
        if report.is_snapshot:
            self._find_absent(proof)
        self._let_go()
        report.created_companies = list(self.companies.created)
        report.created_departments = self.companies.created_departments
        self._finish()

    def _refuse_empty(self) -> NoReturn:
        """An export that found nobody says nothing about anybody; taken for a success, it would be found in weeks."""
        self.report.gaps = (*self.report.gaps, "the file lists nobody")
        self._finish()
        raise Invalid(
            "The file has a header and no rows; nothing was changed. Export it again, or use --changes where nothing "
            "has changed.",
            field="file",
            rule="hr_file.empty",
        )

    def _list(self, problems: Iterable[RowProblem]) -> None:
        room = MAX_LISTED - len(self.report.problems)
        self.report.problems += islice(problems, max(0, room))

    def _notice(self, notices: Sequence[RowProblem]) -> None:
        self.report.notice_count += len(notices)
        self.report.notices += notices[: max(0, MAX_LISTED - len(self.report.notices))]

    def _begun(self) -> hr_runs.Pulse:
        return hr_runs.Pulse(
            self.database,
            self.report.run_id,
            is_snapshot=self.report.is_snapshot,
            digest=self.reader.digest,
            within=self.within,
            actor=self.actor,
            now=self.now,
            request_id=self.request_id,
        )

    def _go_on(self) -> None:
        """Go on only as long as nobody took the run for ended.

        Raises:
            Unavailable: somebody did.
        """
        if self.pulse is not None:
            self.pulse.check()

    def _take_in(self, ahead: Ahead) -> None:
        """Note what a stretch of the file says; apply its news in small transactions."""
        self._go_on()
        report = self.report
        report.rows += ahead.rows
        report.unchanged += ahead.unchanged
        self.companies.learn(ahead.texts)
        self._stay_within(ahead)
        self.named.update(dict.fromkeys(ahead.named))
        for refused in ahead.refused:
            report.refused += 1
            self.on_refused(refused)
            self._list(refused.problems)
        self._notice(ahead.notices)
        for foreseen in (ahead.foreseen, ahead.ready and ahead.ready.foreseen):
            if foreseen is not None:
                self.companies.expect(foreseen)
        if ahead.ready is not None:
            self.joiners.append(ahead.ready)
            enough = min(self.joining * self.pieces, self._most_joiners)
            if sum(len(group.lines) for group in self.joiners) + BATCH // 2 >= enough:
                self._join()
        self.news += ahead.news
        if len(self.news) >= _NEWS_AT_ONCE:
            # They may be further posts of those who are about to join.
            self._join()
            self._take_news()

    def _take_news(self) -> None:
        rows, self.news = self.news, []
        for plan in self._apply_all(rows):
            self._account(plan)

    def _stay_within(self, ahead: Ahead) -> None:
        """Let nobody speak for a company that is not theirs, nor ask through a manager's number who is there.

        Raises:
            Invalid: the file names one.
        """
        if self.within is None:
            return
        led = [manager_place(self.companies, row)[0] for row in ahead.news if row.manager_employee_number]
        led += [place[0] for _, place in (ahead.ready.managers if ahead.ready else ())]
        for key in dict.fromkeys((*ahead.named, *led)):
            if self.companies.id_of(key) not in self.within:
                raise Invalid(
                    f"The file names a company that you are not responsible for: {self.companies.name_of(key)}.",
                    field="company",
                    rule="hr_file.beyond",
                )

    def _beyond(self, session: Session, principal_ids: Collection[str]) -> set[str]:
        """Of these people, those whose hub roles reach further than the role of whoever imports (decision 0033)."""
        if self.within is None:
            return set()
        asks = Subject(principal_id=self.actor.id)
        return {
            principal_id
            for principal_id in holders_among(session, principal_ids)
            if not is_covered(session, asks, Action.PEOPLE_CHANGE, principal_id)
        }

    def _join(self) -> None:
        """Let the joiners read so far join, in few transactions; where one contradicts what is, rows are read again."""
        groups, self.joiners = self.joiners, []
        while groups:
            del groups[: self._join_first(groups)]

    def _join_first(self, groups: Sequence[Ready]) -> int:
        """Let the first groups join, in one transaction that ends when somebody waits. Returns how many are done."""
        # No lock is held while the reading process is waited for: what a transaction may take in is there.
        pieces = list(islice(_pieces(groups, self.joining), self.pieces))
        mark = self.companies.mark()

        def work(session: Session) -> tuple[int, list[int]] | None:
            self.companies.rewind(mark)
            done, unsettled = 0, list[int]()
            context: dict[str, Any] = {"now": self.now, "actor": self.actor, "door": DOOR}
            for piece in pieces:
                if done and self.database.is_awaited():
                    break
                if not all(self.companies.came_true(session, group.foreseen, **context) for group in piece):
                    if done:
                        break
                    return None
                settled, lines = self._settled(session, piece)
                transition(session, (), joiners=settled, request_id=self.request_id, **context)
                unsettled += lines
                done += len(piece)
            return done, unsettled

        try:
            joined = self.database.run(self._timed(work))
        except (IdhubError, IntegrityError):
            self._back_to(mark)
            if len(pieces) > 1:
                # Those who contradict nothing join.
                self.pieces = 1
                return 0
            joined = None
        if joined is None:
            done = len(pieces[0])
            for group in pieces[0]:
                self.missed.extend(group.lines)
        else:
            done, unsettled = joined
            self.report.new += sum(len(group.lines) for group in groups[:done])
            self.deferred.extend(unsettled)
        people = sum(len(group.lines) for group in groups[:done])
        has_waited = self._give_way() or done < sum(map(len, pieces))
        self.joining = self._fitting(people, _FEWEST_JOINERS)
        self.pieces = 1 if has_waited else min(2 * self.pieces, -(-self._most_joiners // self.joining))
        return done

    def _timed(self, work: Callable[[Session], T]) -> Callable[[Session], T]:
        """`work`, counting its own seconds alone: a smaller transaction waits as long for its turn and the disk."""

        def timed(session: Session) -> T:
            began = time.perf_counter()
            try:
                return work(session)
            finally:
                self.worked += time.perf_counter() - began

        return timed

    def _give_way(self) -> bool:
        """Let whoever waits write; transactions are short as long as somebody does. Returns whether somebody did."""
        shortest, longest = _SLICE_SECONDS[self.database.dialect]
        has_waited = self.database.give_way()
        self.slice = shortest if has_waited else min(longest, max(shortest, self.slice) * _GROWTH)
        return has_waited

    def _fitting(self, rows: int, fewest: int) -> int:
        """How many rows fill a transaction, after one of so many."""
        worked, self.worked = max(self.worked, 1e-4), 0.0
        return max(fewest, min(_LARGEST, int(rows * self.slice / worked)))

    def _settled(self, session: Session, groups: Sequence[Ready]) -> tuple[list[Joiners], list[int]]:
        """The groups with their managers, and the lines of those whose manager is not known yet."""
        made: dict[tuple[str, str], str] = {}
        for group in groups:
            made.update(numbers_of(group.joiners))
        # Few lead many: each is looked up once.
        places = {
            named: (self._org(named[0]), named[1])
            for named in {named for group in groups for _, named in group.managers}
        }
        wanted: dict[str, set[str]] = {}
        for organization_id, employee_number in places.values():
            wanted.setdefault(organization_id, set()).add(employee_number)
        self.leaders.find(session, wanted)
        leaders = {named: made.get(place) or self.leaders.get(place) for named, place in places.items()}
        settled: list[Joiners] = []
        unsettled: list[int] = []
        for group in groups:
            managers: dict[int, str] = {}
            hashes: dict[int, str] = {}
            for number, named in group.managers:
                manager_id = leaders[named]
                if manager_id is not None:
                    managers[number] = manager_id
                else:
                    hashes[number] = content_hash_of(group.joiners, number) + UNSETTLED
                    unsettled.append(group.lines[number])
            settled.append(settle(group.joiners, managers, hashes))
        return settled, unsettled

    def _org(self, company_key: str) -> str:
        return self.companies.id_of(company_key) or company_key

    def _back_to(self, mark: Mark) -> None:
        """A transaction was rolled back: what it made is not there, and somebody else may have made it."""
        self.companies.rewind(mark)
        self.leaders = Leaders()
        with self.database.read() as session:
            self.companies.refresh(session)

    def _apply_all(self, rows: Sequence[HrRow]) -> Iterator[BatchPlan]:
        """Apply rows in transactions that grow or shrink towards the time slice."""
        start = 0
        while start < len(rows):
            part = rows[start : start + self.size]
            start += len(part)
            yield from self._apply(part)
            if self.report.is_dry_run:
                continue
            self._give_way()
            self.size = self._fitting(len(part), _FEWEST_CHANGED)

    def _apply(self, rows: Sequence[HrRow], *, is_retry: bool = False) -> Iterator[BatchPlan]:
        """Apply rows in one transaction; when it fails as a whole, halve it until the row that does is alone."""
        if self.report.is_dry_run:
            with self.database.read() as session:
                yield self._plan(session, rows, {})
            return
        mark = self.companies.mark()

        def work(session: Session) -> BatchPlan:
            self.companies.rewind(mark)
            return self._apply_in(session, rows)

        try:
            plan = self.database.run(self._timed(work))
        except (IdhubError, IntegrityError):
            self._back_to(mark)
            if len(rows) > 1:
                half = len(rows) // 2
                yield from self._apply(rows[:half])
                yield from self._apply(rows[half:])
            elif not is_retry:
                yield from self._apply(rows, is_retry=True)
            else:
                line = rows[0].line
                problem = RowProblem(line, "employee_number", Rule.CONFLICT, "")
                yield BatchPlan(problems=[problem], refused_lines={line})
            return
        yield plan

    def _apply_in(self, session: Session, rows: Sequence[HrRow]) -> BatchPlan:
        context: dict[str, Any] = {"now": self.now, "actor": self.actor, "door": DOOR}
        self.companies.ensure(session, (row.company_key for row in rows), **context)
        places = ((self.companies.id_of(row.company_key) or "", row.department) for row in rows)
        departments = self.companies.departments(session, places, **context)
        plan = self._plan(session, rows, departments)
        if plan.changes:
            result = transition(session, plan.changes, request_id=self.request_id, **context)
            self._refuse(plan, result.refused)
        return plan

    def _plan(
        self,
        session: Session,
        rows: Sequence[HrRow],
        departments: dict[tuple[str, tuple[str, ...]], str],
    ) -> BatchPlan:
        if self.report.is_dry_run:
            departments = self.companies.known_departments(session, rows)
        planner = Planner(
            session,
            rows,
            self.companies,
            self.keyring,
            self.humans if self.report.is_dry_run else {},
            run_id=self.report.run_id,
            now=self.now,
            departments=departments,
            leaders=self.leaders,
            ending=self.ending,
            beyond=self._beyond,
        )
        return planner.run()

    def _refuse(self, plan: BatchPlan, refused: Sequence[intake.Refused]) -> None:
        for each in refused:
            line = plan.lines.get(each.change.principal_id, 0)
            name = (each.error.field if isinstance(each.error, IdhubError) else None) or ""
            plan.refused_lines.add(line)
            plan.problems.append(RowProblem(line, name, Rule.CONFLICT, ""))

    def _account(self, plan: BatchPlan) -> None:
        report = self.report
        for what, count in plan.counts.items():
            setattr(report, what, getattr(report, what) + count)
        report.refused += len(plan.refused_lines)
        self._list(problem for problem in plan.problems if problem.line in plan.refused_lines)
        self._notice([problem for problem in plan.problems if problem.line not in plan.refused_lines])
        self.leaving += plan.leaving
        self.deferred.extend(plan.deferred)
        self.doubles.extend(plan.doubles)
        self.kept |= plan.kept

    def _read_missed(self) -> None:
        if self.missed:
            self._again(self.missed, self._take_again)

    def _settle_doubles(self) -> None:
        """Rows about people under another number, now that the file has said what becomes of the one that is known."""
        self.ending = {each.employment_id: each.last_day for each in self.leaving if each.kind == "left"}
        if self.doubles:
            self._again(self.doubles, self._take_again)

    def _take_again(self, rows: list[HrRow]) -> None:
        for plan in self._apply_all(rows):
            self._account(plan)

    def _again(self, lines: Iterable[int], take: Callable[[list[HrRow]], None]) -> None:
        """Read rows of the file a second time."""
        try:
            for part in self.reader.again(lines):
                self._go_on()
                take(part)
        except FileChanged:
            self.report.gaps = (*self.report.gaps, "the file was changed while it was read")

    def _settle_managers(self) -> None:
        """Second pass over the file, for rows whose manager stood further down, or nowhere."""
        if not self.deferred:
            return
        unsettled: list[HrRow] = []
        self._again(self.deferred, unsettled.extend if self.report.is_dry_run else self._settle)
        # Asked when the rows have all been heard: the reader answers one question at a time.
        listed = self.reader.listed([manager_place(self.companies, row) for row in unsettled])
        self._notice([_unknown_manager(row) for row, is_listed in zip(unsettled, listed, strict=True) if not is_listed])

    def _settle(self, part: list[HrRow]) -> None:
        by_line = {row.line: row for row in part}
        for plan in self._apply_all(part):
            self._notice([problem for problem in plan.problems if problem.rule is Rule.OWN_MANAGER])
            self._notice([_unknown_manager(by_line[line]) for line in plan.deferred])

    def _find_absent(self, proof: Completeness) -> None:
        """Whom the file should list and does not; only where it proves that it is complete, and is the newest."""
        with self.database.read() as session:
            newer, is_another_open = _spoken_since(session, self.report.run_id)
        if is_another_open:
            self.report.gaps = (*self.report.gaps, "a run that began later has not come to its end")
        for key in self.named:
            organization_id = self.companies.id_of(key)
            if organization_id is None:
                continue
            if self.report.gaps or organization_id in newer or not proof.proves_absence_in(key):
                self.report.absence_unproven.append(self.companies.name_of(key))
                continue
            with self.database.read() as session:
                present, absent = self._absent_in(session, key, organization_id)
                if len(absent) == present >= _MORE_THAN_CHANCE and not self._kept_in(session, organization_id):
                    self.emptied.add(organization_id)
            self.report.absent += len(absent)
            self.leaving += absent
        with self.database.read() as session:
            self.report.companies_not_named = self._not_named(session)
        if newer & {self.companies.id_of(key) for key in self.named}:
            self.report.gaps = (*self.report.gaps, "a run that began later has spoken for its companies")

    def _not_named(self, session: Session) -> list[str]:
        """Companies with people whom files have listed, and no row of this one."""
        named = {self.companies.id_of(key) for key in self.named}
        listed = exists().where(
            SourceRecord.provider == PROVIDER, SourceRecord.scope == Organization.id, SourceRecord.state == "present"
        )
        rows = session.execute(select(Organization.id, Organization.name).where(listed).order_by(Organization.name))
        return [name for organization_id, name in rows if organization_id not in named]

    def _absent_in(self, session: Session, key: str, organization_id: str) -> tuple[int, list[Leaving]]:
        """Of whom the company had before by the file's word and of whom no row of this one was written: how many, and
        who of them it does not list.
        """
        present, absent = 0, list[Leaving]()
        after = ""
        while True:
            page = session.execute(
                select(
                    SourceRecord.key,
                    SourceRecord.raw_sealed,
                    Employment.id,
                    Employment.principal_id,
                    Employment.employee_number,
                    Employment.created_at,
                )
                .join(Employment, Employment.id == SourceRecord.employment_id)
                .where(
                    SourceRecord.provider == PROVIDER,
                    SourceRecord.scope == organization_id,
                    SourceRecord.state == "present",
                    SourceRecord.generation != self.report.run_id,
                    SourceRecord.key > after,
                    Employment.organization_id == organization_id,
                    Employment.state != EmploymentState.ENDED,
                )
                .order_by(SourceRecord.key)
                .limit(_ABSENT_PAGE)
            ).all()
            listed = self.reader.listed([(key, row.employee_number) for row in page])
            present += sum(row.created_at < self.now for row in page)
            absent += [
                self._gone(row, organization_id)
                for row, is_listed in zip(page, listed, strict=True)
                if not is_listed and row.id not in self.kept
            ]
            if len(page) < _ABSENT_PAGE:
                return present, absent
            after = page[-1].key

    def _kept_in(self, session: Session, organization_id: str) -> bool:
        """Whether this run wrote of anybody whom the company had before."""
        of_before = exists().where(
            SourceRecord.provider == PROVIDER,
            SourceRecord.scope == organization_id,
            SourceRecord.state == "present",
            SourceRecord.generation == self.report.run_id,
            Employment.id == SourceRecord.employment_id,
            Employment.organization_id == organization_id,
            Employment.state != EmploymentState.ENDED,
            Employment.created_at < self.now,
        )
        return bool(session.execute(select(of_before)).scalar())

    def _gone(self, row: Any, organization_id: str) -> Leaving:
        mark = intake.SourceMark(
            provider=PROVIDER,
            key=row.key,
            scope=organization_id,
            content_hash="",
            generation=self.report.run_id,
            state="left",
            raw_sealed=row.raw_sealed,
        )
        return Leaving(
            kind="absent",
            organization_id=organization_id,
            principal_id=row.principal_id,
            employment_id=row.id,
            last_day=None,
            mark=mark,
        )

    def _let_go(self) -> None:
        """Leaves, said and by absence, as far as the brake lets them."""
        if self.pulse is not None:
            self.pulse.say()
        self._go_on()
        report = self.report
        with self.database.read() as session:
            self.leaving = _not_superseded(session, self.leaving, report.run_id)
            report.would_leave = sum(each.kind in {"left", "absent"} for each in self.leaving)
            unlikely = [each for each in self.leaving if each.kind == "absent" and each.organization_id in self.emptied]
            likely = [
                each for each in self.leaving if each.kind != "absent" or each.organization_id not in self.emptied
            ]
            spared = self._ended_by_nobody_alone(session)
            unlikely += [each for each in likely if each.principal_id in spared]
            likely = [each for each in likely if each.principal_id not in spared]
            go, held = hr_brake.divide(session, likely, self.active, self.brake, now=self.now)
            held += unlikely
        report.quarantined = len(held)
        self.on_leaving(go, held)
        if report.is_dry_run:
            return
        for part in _batches(go, min(self.size, 100)):
            held += self._end(part)
        report.quarantined = len(held)
        for part in _batches(held, _HELD_AT_ONCE):
            with self.database.transaction() as session:
                hr_brake.hold(session, part, self.keyring, run_id=report.run_id, now=self.now)
            self.database.give_way()
        with self.database.transaction() as session:
            hr_brake.record_held(session, held, run_id=report.run_id, now=self.now, actor=self.actor)
            if report.is_snapshot and report.is_complete:
                spoken_for = (self.companies.id_of(key) or "" for key in self.named)
                hr_brake.drop_stale(session, spoken_for, run_id=report.run_id, now=self.now)

    def _ended_by_nobody_alone(self, session: Session) -> set[str]:
        """Whose leaves wait for two people, however few: the importing person's own, and all administrators' at once.

        The command line may do it: it names an administrator again.
        """
        if self.actor.kind != "person":
            return set()
        leaving = {each.principal_id for each in self.leaving}
        administrators = set(administrators_now(session))
        return leaving & ({self.actor.id} | (administrators if administrators <= leaving else set()))

    def _end(self, leaving: Sequence[Leaving]) -> list[Leaving]:
        """Let them go, as far as the brake still lets them: another run may have had its part meanwhile.

        Returns whom it holds after all.
        """
        with self.database.transaction() as session:
            hr_brake.lock(session, {each.organization_id for each in leaving})
            leaving = _not_superseded(session, leaving, self.report.run_id)
            go, held = hr_brake.divide(session, leaving, self.active, self.brake, now=self.now)
            left, refused = hr_brake.end_posts(
                session, go, now=self.now, actor=self.actor, door=DOOR, request_id=self.request_id
            )
            self.report.left += left
            self.report.refused += len(refused)
        return held

    def _finish(self) -> None:
        report = self.report
        if report.is_dry_run:
            return
        company_ids = sorted(filter(None, (self.companies.id_of(key) for key in self.named)))
        listed = [
            {"line": problem.line, "field": problem.field, "rule": problem.rule.value}
            for problem in (*report.problems, *report.notices)[:MAX_ROW_EVENTS]
        ]
        with self.database.transaction() as session:
            ended = session.execute(
                update(SourceRun)
                .where(SourceRun.id == report.run_id, SourceRun.broken_at.is_(None))
                .values(
                    finished_at=self.now,
                    is_complete=report.is_complete,
                    counts={**report.counts(), "companies": company_ids},
                    problems=listed,
                )
                .returning(SourceRun.id)
                .execution_options(synchronize_session=False)
            )
            if ended.first() is None:
                raise hr_runs.taken_for_ended()
            details = {
                **report.counts(),
                "file_sha256": report.file_digest,
                "encoding": report.encoding,
                "is_snapshot": report.is_snapshot,
                "is_complete": report.is_complete,
                "companies_created": len(report.created_companies),
            }
            refusals = [
                Event(
                    type=EventType.IMPORT_ROW_REFUSED,
                    at=self.now,
                    actor=self.actor,
                    door=DOOR,
                    target_kind="import",
                    target_id=report.run_id,
                    outcome="failure",
                    reason=problem.rule.value,
                    request_id=self.request_id,
                    details={"line": problem.line, "field": problem.field, "rule": problem.rule.value},
                )
                for problem in report.problems[:MAX_ROW_EVENTS]
            ]
            finished = _finished(
                report.run_id, self.actor, now=self.now, reason=None, details=details, request_id=self.request_id
            )
            record(session, [*refusals, finished])


def _spoken_since(session: Session, run_id: str) -> tuple[set[str], bool]:
    """Companies for which runs spoke that began after this one; and whether one of them has not come to its end."""
    runs = session.execute(
        select(SourceRun.finished_at, SourceRun.counts).where(SourceRun.provider == PROVIDER, SourceRun.id > run_id)
    ).all()
    return {company for run in runs for company in run.counts.get("companies", ())}, any(
        run.finished_at is None for run in runs
    )


def _not_superseded(session: Session, leaving: Sequence[Leaving], run_id: str) -> list[Leaving]:
    """Leaves that no later word of the source contradicts.

    A later run has said something else of this very row, or it was a complete file of the company and would have ended
    the post itself.
    """
    spoken: set[str] = set()
    for counts in session.execute(
        select(SourceRun.counts).where(
            SourceRun.provider == PROVIDER,
            SourceRun.id > run_id,
            SourceRun.finished_at.is_not(None),
            SourceRun.is_complete,
            SourceRun.is_snapshot,
        )
    ).scalars():
        spoken.update(counts.get("companies", ()))
    later: set[str] = set()
    for part in chunked([each.mark.key for each in leaving], 1_000):
        rows = select(SourceRecord.key).where(
            SourceRecord.provider == PROVIDER, SourceRecord.key.in_(part), SourceRecord.generation > run_id
        )
        later.update(session.execute(rows).scalars())
    return [each for each in leaving if each.organization_id not in spoken and each.mark.key not in later]


def _pieces(groups: Iterable[Ready], people: int) -> Iterator[list[Ready]]:
    """Groups together, in their order: whatever is nearest to so many people."""
    piece: list[Ready] = []
    size = 0
    for group in groups:
        piece.append(group)
        size += len(group.lines)
        if size + BATCH // 2 >= people:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _batches(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(rows)
    while part := list(islice(rest, size)):
        yield part


def _unknown_manager(row: HrRow) -> RowProblem:
    return RowProblem(row.line, "manager_employee_number", Rule.UNKNOWN_MANAGER, row.manager_employee_number or "")


def _finished(
    run_id: str,
    actor: Actor,
    *,
    now: datetime,
    reason: str | None,
    details: dict[str, Any],
    request_id: str | None,
) -> Event:
    return Event(
        type=EventType.IMPORT_FINISHED,
        at=now,
        actor=actor,
        door=DOOR,
        target_kind="import",
        target_id=run_id,
        outcome="failure" if reason else "success",
        reason=reason,
        request_id=request_id,
        details=details,
    )


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Let this process look for cycles seldom while the block lasts.

    Rows come by the thousand and form none: looking after every few hundred costs a tenth of the time.
    """
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
