"""What the rows of an HR file change: compares them with the directory and makes wishes for the one door.

Decides and reads; writes nothing but companies and departments that do not exist. Rules that bind every row:

- A row that says what it said last time changes nothing, whatever happened here since.
- One human across companies is found by the keyed hash of the national id, never by a name, a mail or a number.
- The file ends and revives what the file itself said. Somebody offboarded or suspended through another door comes back
  only by a start date after the leave, or by that other door.
- What a run that began later has said of a row stands: an older file that is still being read does not undo it.
- A row that contradicts in everything who somebody is, is another human's: refused, nobody is renamed into a colleague.
- What takes access (a leave, a suspension, a start put off) is only collected: the mass-change brake decides on all of
  it together (`hr_brake`).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from idhub.db import among, chunked, new_id
from idhub.directory.kinds import EmploymentState, EmploymentType, Standing
from idhub.directory.tables import Employment, Person, Principal, SourceRecord
from idhub.keys import Keyring
from idhub.lifecycle import hr_doubles, intake
from idhub.lifecycle.hr_ahead import (
    HELD_ELSEWHERE,
    NATIONAL_ID,
    PROVIDER,
    end_of_new,
    facts_of,
    is_over,
    manager_place,
    person_values,
    said_context,
    seal_said,
)
from idhub.lifecycle.hr_companies import Companies
from providers.hr_file import HrRow, HrStatus, RowProblem, Rule

SOON = timedelta(days=30)
"""An end date that comes nearer than this counts as a leave for the brake."""
_MOST_LEADERS = 100_000
UNSETTLED = "?"
"""Marks the hash of a row that must be looked at again: its manager is unknown, or it was not applied."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaving:
    """Somebody whose access the file takes; `mark` is what the source will have said when it has.

    Args:
        kind: left or absent (the post ends), suspended, put_off (a post that has begun is to begin later).
        last_day: last working day; of a post that is put off its new first day.
    """

    kind: str
    organization_id: str
    principal_id: str
    employment_id: str
    last_day: date | None
    mark: intake.SourceMark


@dataclass(slots=True)
class BatchPlan:
    """Wishes of a batch, in order, and what is to be said about its rows."""

    changes: list[intake.Change] = field(default_factory=list)
    leaving: list[Leaving] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)
    refused_lines: set[int] = field(default_factory=set)
    deferred: list[int] = field(default_factory=list)
    """Lines whose manager is not known yet."""
    doubles: list[int] = field(default_factory=list)
    """Lines of people whom the company has under another number: what becomes of that one, the whole file says."""
    kept: set[str] = field(default_factory=set)
    """Posts of theirs, which nobody is absent from."""
    lines: dict[str, int] = field(default_factory=dict)
    """Principal -> the line that spoke of them last."""
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        """One more of `what`."""
        self.counts[what] = self.counts.get(what, 0) + 1


@dataclass(frozen=True, slots=True)
class _Said:
    """What the source said last."""

    content_hash: str
    state: str
    generation: str
    raw: Mapping[str, Any]

    @property
    def is_suspended(self) -> bool:
        """Whether the source itself holds the post."""
        return self.raw.get("status") == HrStatus.SUSPENDED and not self.raw.get(HELD_ELSEWHERE)


@dataclass(slots=True)
class _Human:
    """Who is known by a national id: how they are called, and the companies that they have or had a post in."""

    display_name: str
    has_left: bool
    companies: set[str] = field(default_factory=set)


class Leaders:
    """Managers that a file names, by (organization id, number): few people lead many. A number is never handed on."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}

    def find(self, session: Session, wanted: Mapping[str, set[str]]) -> None:
        """Look up those not known yet."""
        if len(self._known) > _MOST_LEADERS:
            self._known.clear()
        for organization_id, numbers in wanted.items():
            missing = [number for number in numbers if (organization_id, number) not in self._known]
            for part in chunked(missing, 1_000):
                rows = session.execute(
                    select(Employment.employee_number, Employment.principal_id).where(
                        Employment.organization_id == organization_id,
                        Employment.employee_number.in_(among(session, part)),
                    )
                )
                self._known.update(((organization_id, number), principal_id) for number, principal_id in rows)

    def get(self, place: tuple[str, str]) -> str | None:
        """The principal, if found."""
        return self._known.get(place)


class Planner:
    """Plans one batch of rows inside one transaction; reads only.

    `leaders` are shared by all batches of a run. `ending` are posts that the file ends, with their last days, once all
    of it is read; None before that. `departments` are ids by (organization, path). `humans` are principals
    by keyed national id, of people planned and not yet written: the batch's, or in a dry run all so far. A company that
    is not made (dry run) goes by its key. `beyond` names those of some people whom the importing person may only let
    go.
    """

    def __init__(
        self,
        session: Session,
        rows: Sequence[HrRow],
        companies: Companies,
        keyring: Keyring,
        humans: dict[str, str],
        *,
        run_id: str,
        now: datetime,
        departments: Mapping[tuple[str, tuple[str, ...]], str],
        leaders: Leaders,
        ending: Mapping[str, date | None] | None = None,
        beyond: Callable[[Session, Collection[str]], set[str]] = lambda _session, _people: set(),
    ) -> None:
        self._rows, self._companies, self._keyring = rows, companies, keyring
        self._run_id, self._now, self._departments = run_id, now, departments
        self._humans = humans
        self._called: dict[str, _Human] = {}
        self._leaders = leaders
        self._ending = ending
        self._organizations: dict[str, str] = {}
        self.plan = BatchPlan()
        self._national_ids: dict[int, str] = {}
        for row in rows:
            if row.national_id:
                self._national_ids[row.line] = keyring.blind_index(NATIONAL_ID, row.national_id.upper())
        self._made: dict[tuple[str, str], str] = {}
        numbers, managers = self._wanted_numbers()
        self._posts = _load_posts(session, numbers)
        leaders.find(session, managers)
        self._said = self._load_said(session)
        self._load_humans(session)
        self._doubles = hr_doubles.find(session, list(self._newcomers()))
        here = {post.principal_id for post in self._posts.values()}
        here |= {self._humans[human] for human in self._national_ids.values() if human in self._humans}
        self._beyond = beyond(session, here)

    def run(self) -> BatchPlan:
        """Plan every row."""
        for row in self._rows:
            known = self._posts.get((self._org(row.company_key), row.employee_number))
            if known is None:
                self._plan_new(row)
            elif known.principal_id in self._beyond:
                self._plan_beyond(row, known)
            else:
                self._plan_known(row, known)
        return self.plan

    def _org(self, company_key: str) -> str:
        found = self._organizations.get(company_key)
        if found is None:
            found = self._organizations[company_key] = self._companies.id_of(company_key) or company_key
        return found

    def _key(self, row: HrRow) -> str:
        return self._companies.source_key(row)

    def _today(self, row: HrRow) -> date:
        return self._companies.today(row.company_key, now=self._now)

    def _wanted_numbers(self) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
        """Numbers by organization: of rows whose post may be known, and of managers."""
        numbers: dict[str, set[str]] = {}
        managers: dict[str, set[str]] = {}
        for row in self._rows:
            numbers.setdefault(self._org(row.company_key), set()).add(row.employee_number)
            if row.manager_employee_number:
                company_key, number = manager_place(self._companies, row)
                managers.setdefault(self._org(company_key), set()).add(number)
        return numbers, managers

    def _load_said(self, session: Session) -> dict[str, _Said]:
        found: dict[str, _Said] = {}
        keys = [self._key(row) for row in self._rows]
        for part in chunked(keys, 1_000):
            for row in session.execute(
                select(
                    SourceRecord.key,
                    SourceRecord.content_hash,
                    SourceRecord.state,
                    SourceRecord.generation,
                    SourceRecord.raw_sealed,
                ).where(SourceRecord.provider == PROVIDER, SourceRecord.key.in_(among(session, part)))
            ):
                raw = orjson.loads(self._keyring.open(said_context(row.key), row.raw_sealed)) if row.raw_sealed else {}
                found[row.key] = _Said(row.content_hash, row.state, row.generation, raw)
        return found

    def _load_humans(self, session: Session) -> None:
        for part in chunked(sorted(set(self._national_ids.values())), 1_000):
            rows = session.execute(
                select(
                    Person.national_id_hash,
                    Person.id,
                    Person.display_name,
                    Principal.standing,
                    Employment.organization_id,
                )
                .join(Principal, Principal.id == Person.id)
                .join(Employment, Employment.principal_id == Person.id)
                .where(Person.national_id_hash.in_(among(session, part)))
            )
            for found, principal_id, display_name, standing, organization_id in rows:
                self._humans[found or ""] = principal_id
                self._called.setdefault(principal_id, _Human(display_name, standing == Standing.LEFT)).companies.add(
                    organization_id
                )

    def _newcomers(self) -> Iterator[hr_doubles.Candidate]:
        for row in self._rows:
            place, human = self._org(row.company_key), self._national_ids.get(row.line)
            if (place, row.employee_number) not in self._posts and (human is None or human not in self._humans):
                yield hr_doubles.Candidate(row, place, human)

    def _is_double(self, row: HrRow) -> bool:
        """Whether the company has them under another number; refuses the row, or puts it off until all is read."""
        employment_id = self._doubles.get(row.line)
        if employment_id is None:
            return False
        if self._ending is None:
            self.plan.doubles.append(row.line)
            return True
        if hr_doubles.ends_before(self._ending, employment_id, row):
            return False
        self.plan.kept.add(employment_id)
        self._refuse(row, "employee_number", Rule.ANOTHER_NUMBER)
        return True

    def _plan_new(self, row: HrRow) -> None:
        """A number that its company never had: a new person, or a further post of a known one."""
        if self._is_double(row):
            return
        human = self._national_ids.get(row.line)
        principal_id = self._humans.get(human) if human else None
        is_new = principal_id is None
        if principal_id in self._beyond:
            self._refuse(row, "employee_number", Rule.BEYOND)
            return
        if principal_id is not None and self._is_called_otherwise(row, principal_id):
            self._refuse(row, "national_id", Rule.NATIONAL_ID_OF_ANOTHER)
            return
        if principal_id is None:
            principal_id = new_id("per")
            if human:
                self._humans[human] = principal_id
                self._called[principal_id] = _Human(row.name, has_left=False)
        if human and principal_id in self._called:
            self._called[principal_id].companies.add(self._org(row.company_key))
        self._made[(self._org(row.company_key), row.employee_number)] = principal_id
        self.plan.lines[principal_id] = row.line
        manager_id, is_settled = self._manager(row, principal_id)
        facts = facts_of(
            row,
            self._org(row.company_key),
            self._department(row),
            manager_id=manager_id,
            ends_on=end_of_new(row, self._today(row)),
        )
        mark = self._mark(row, is_settled=is_settled)
        if is_new:
            person = intake.PersonFacts(**person_values(row), national_id_hash=human)
            self.plan.changes.append(
                intake.Onboard(principal_id=principal_id, person=person, employment=facts, source=mark)
            )
        else:
            self.plan.changes.append(intake.AddEmployment(principal_id=principal_id, employment=facts, source=mark))
        self.plan.count("new" if is_new else "added")

    def _plan_known(self, row: HrRow, known: Row[Any]) -> None:
        human = self._national_ids.get(row.line)
        said = self._said.get(self._key(row))
        if said is not None and (what := self._said_before(row, said)):
            self.plan.count(what)
            return
        self.plan.lines[known.principal_id] = row.line
        if self._is_another_human(row, known, human, said):
            self._refuse(row, "employee_number", Rule.REUSED_EMPLOYEE_NUMBER)
            return
        manager_id, is_settled = self._manager(row, known.principal_id)
        changes: list[intake.Change] = []
        if known.id == known.main_employment_id:
            values = self._new_person_values(row, known, said)
            if human and known.national_id_hash is None and human not in self._humans:
                values["national_id_hash"] = human
                self._humans[human] = known.principal_id
            if values:
                changes.append(intake.UpdatePerson(principal_id=known.principal_id, values=values))
        is_over = self._is_over(row)
        if known.state == EmploymentState.ENDED:
            if not is_over and not self._revive(row, known, said, manager_id, changes):
                return
        elif is_over or self._ends_soon(row, known):
            self._plan_changes(row, known, self._moved(row, known, manager_id, keeps_end=True), changes)
            self._leave(row, known, is_settled=is_settled)
            return
        else:
            moved = self._moved(row, known, manager_id, keeps_end=False)
            is_held = row.status is HrStatus.SUSPENDED and known.state != EmploymentState.SUSPENDED
            is_put_off = known.state == EmploymentState.ACTIVE and row.start_on > self._today(row)
            if is_held or is_put_off:
                # Access ends with it, so that the brake has a word. A row that says both is looked at again.
                if is_put_off:
                    moved.pop("starts_on", None)
                self._plan_changes(row, known, moved, changes)
                self._take(row, known, is_held=is_held, is_settled=is_settled and not (is_held and is_put_off))
                return
            if moved:
                changes.append(_move(known, moved))
            changes += self._reactivation(row, known, said)
        self._finish(row, known, said, changes, is_settled=is_settled)

    def _plan_beyond(self, row: HrRow, known: Row[Any]) -> None:
        """Of somebody with authority elsewhere a company's file may say that they left, and nothing else."""
        said = self._said.get(self._key(row))
        if said is not None and (what := self._said_before(row, said)):
            self.plan.count(what)
            return
        self.plan.lines[known.principal_id] = row.line
        is_another = self._is_another_human(row, known, self._national_ids.get(row.line), said)
        if self._is_over(row) and known.state != EmploymentState.ENDED and not is_another:
            self._leave(row, known, is_settled=True)
        else:
            self._refuse(row, "employee_number", Rule.BEYOND)

    def _said_before(self, row: HrRow, said: _Said) -> str | None:
        """Whether another run has spoken of the row since the reader looked: the same, or a later word that stands."""
        if said.content_hash == row.digest.hex():
            return "unchanged"
        return "superseded" if said.generation > self._run_id else None

    def _is_another_human(self, row: HrRow, known: Row[Any], human: str | None, said: _Said | None) -> bool:
        """A number is never handed on: national ids that differ say so, and after a leave another name does.

        While they are here another name alone is a marriage. With another mail and another mobile it is a colleague
        whose facts stand in their row, by a merge of two rows or a column sorted without the others.
        """
        if human and known.national_id_hash:
            return bool(human != known.national_id_hash)
        if human and human in self._humans:
            return bool(self._humans[human] != known.principal_id)
        if known.state == EmploymentState.ENDED:
            return bool(known.display_name != row.name)
        raw: Mapping[str, Any] = said.raw if said else {}
        return known.id == known.main_employment_id and all(
            value is not None
            and getattr(known, name) is not None
            and value not in {getattr(known, name), raw.get(name)}
            for name, value in (("display_name", row.name), ("email", row.email), ("mobile", row.mobile))
        )

    def _is_called_otherwise(self, row: HrRow, principal_id: str) -> bool:
        """Whether the national id of a row is somebody's who goes by another name, where that says who is meant.

        Another company may write a name in other letters. The same one does not, and who left is not brought back on
        one number that may be mistyped.
        """
        human = self._called.get(principal_id)
        if human is None or human.display_name == row.name:
            return False
        return human.has_left or self._org(row.company_key) in human.companies

    def _is_over(self, row: HrRow) -> bool:
        return is_over(row, self._today(row))

    def _ends_soon(self, row: HrRow, known: Row[Any]) -> bool:
        """An end that is new or earlier than before, and near: a leave, as far as the brake is concerned."""
        if row.end_on is None or (known.ends_on is not None and known.ends_on <= row.end_on):
            return False
        return row.end_on < self._today(row) + SOON

    def _take(self, row: HrRow, known: Row[Any], *, is_held: bool, is_settled: bool) -> None:
        if is_held:
            self.plan.count("suspended")
        self.plan.leaving.append(
            Leaving(
                kind="suspended" if is_held else "put_off",
                organization_id=known.organization_id,
                principal_id=known.principal_id,
                employment_id=known.id,
                last_day=None if is_held else row.start_on,
                mark=self._mark(row, is_settled=is_settled, state="present"),
            )
        )

    def _leave(self, row: HrRow, known: Row[Any], *, is_settled: bool) -> None:
        today = self._today(row)
        last_day = row.end_on
        if row.status is HrStatus.LEFT and (last_day is None or last_day >= today):
            last_day = None
        state = "left" if self._is_over(row) else "present"
        self.plan.leaving.append(
            Leaving(
                kind="left",
                organization_id=known.organization_id,
                principal_id=known.principal_id,
                employment_id=known.id,
                last_day=last_day,
                mark=self._mark(row, is_settled=is_settled, state=state),
            )
        )

    def _revive(
        self, row: HrRow, known: Row[Any], said: _Said | None, manager_id: str | None, changes: list[intake.Change]
    ) -> bool:
        """Bring an ended post back, if the file may: it ended it itself, or names a start after the leave."""
        is_own_word = said is not None and said.state == "left"
        begins_anew = known.ends_on is not None and row.start_on > known.ends_on
        if not is_own_word and not begins_anew:
            self._refuse(row, "status", Rule.LEFT_ELSEWHERE)
            return False
        values = self._moved(row, known, manager_id, keeps_end=False) | {"ends_on": row.end_on}
        changes.append(_move(known, values))
        if row.status is HrStatus.SUSPENDED:
            changes.append(intake.Suspend(principal_id=known.principal_id, employment_id=known.id))
        self.plan.count("rehired")
        return True

    def _reactivation(self, row: HrRow, known: Row[Any], said: _Said | None) -> list[intake.Change]:
        is_own_word = said is not None and said.is_suspended
        if row.status is HrStatus.ACTIVE and known.state == EmploymentState.SUSPENDED and is_own_word:
            self.plan.count("reactivated")
            return [intake.Reactivate(principal_id=known.principal_id, employment_id=known.id)]
        return []

    def _moved(self, row: HrRow, known: Row[Any], manager_id: str | None, *, keeps_end: bool) -> dict[str, Any]:
        """Facts of the post that the row says otherwise. A manager that is not known yet leaves the old one."""
        wanted: dict[str, Any] = {
            "department_id": self._department(row),
            "title": row.title or None,
            "type": EmploymentType(row.employment_type.value),
            "starts_on": row.start_on,
        }
        if not keeps_end:
            wanted["ends_on"] = row.end_on
        if manager_id is not None or row.manager_employee_number is None:
            wanted["manager_id"] = manager_id
        return {name: value for name, value in wanted.items() if getattr(known, name) != value}

    def _new_person_values(self, row: HrRow, known: Row[Any], said: _Said | None) -> dict[str, str | None]:
        """Attributes that the row says otherwise; what the file never knew it does not empty."""
        raw = said.raw if said else {}
        return {
            name: value
            for name, value in person_values(row).items()
            if value != getattr(known, name) and (value is not None or raw.get(name))
        }

    def _plan_changes(self, row: HrRow, known: Row[Any], moved: dict[str, Any], changes: list[intake.Change]) -> None:
        """Changes of somebody who is leaving: they go in now, the leave when the brake has decided."""
        if moved:
            changes.append(_move(known, moved))
        if changes:
            self.plan.changes += changes
            self.plan.count("changed")

    def _finish(
        self, row: HrRow, known: Row[Any], said: _Said | None, changes: list[intake.Change], *, is_settled: bool
    ) -> None:
        is_held = row.status is HrStatus.SUSPENDED and known.state == EmploymentState.SUSPENDED
        mark = self._mark(
            row,
            is_settled=is_settled,
            state="left" if self._is_over(row) else "present",
            is_held_elsewhere=is_held and not (said is not None and said.is_suspended),
        )
        if changes:
            self.plan.count("changed")
        if changes or said is None or (said.content_hash, said.state) != (mark.content_hash, mark.state):
            self.plan.changes += changes
            self.plan.changes.append(
                intake.SetSource(principal_id=known.principal_id, employment_id=known.id, source=mark)
            )

    def _refuse(self, row: HrRow, name: str, rule: Rule) -> None:
        self.plan.refused_lines.add(row.line)
        if row.line in self.plan.deferred:
            self.plan.deferred.remove(row.line)
        self.plan.problems.append(RowProblem(row.line, name, rule, ""))

    def _manager(self, row: HrRow, principal_id: str) -> tuple[str | None, bool]:
        """The manager's principal, and whether that is settled: an unknown one may still come in this file."""
        if row.manager_employee_number is None:
            return None, True
        company_key, number = manager_place(self._companies, row)
        place = (self._org(company_key), number)
        found = self._made.get(place) or self._leaders.get(place)
        if found == principal_id:
            problem = RowProblem(row.line, "manager_employee_number", Rule.OWN_MANAGER, row.manager_employee_number)
            self.plan.problems.append(problem)
            return None, True
        if found is None:
            self.plan.deferred.append(row.line)
            return None, False
        return found, True

    def _department(self, row: HrRow) -> str | None:
        return self._departments.get((self._org(row.company_key), row.department))

    def _mark(
        self, row: HrRow, *, is_settled: bool, state: str | None = None, is_held_elsewhere: bool = False
    ) -> intake.SourceMark:
        key = self._key(row)
        return intake.SourceMark(
            provider=PROVIDER,
            key=key,
            scope=self._org(row.company_key),
            content_hash=row.digest.hex() + ("" if is_settled else UNSETTLED),
            generation=self._run_id,
            state=state or ("left" if self._is_over(row) else "present"),
            raw_sealed=seal_said(self._keyring, key, row, is_held_elsewhere=is_held_elsewhere),
        )


def _move(known: Row[Any], values: Mapping[str, Any]) -> intake.Move:
    return intake.Move(principal_id=known.principal_id, employment_id=known.id, values=values)


def _load_posts(session: Session, wanted: Mapping[str, set[str]]) -> dict[tuple[str, str], Row[Any]]:
    """Posts by (organization, number), each with its person."""
    found: dict[tuple[str, str], Row[Any]] = {}
    columns = (
        *(Employment.id, Employment.principal_id, Employment.organization_id, Employment.employee_number),
        *(Employment.department_id, Employment.title, Employment.type, Employment.starts_on, Employment.ends_on),
        *(Employment.manager_id, Employment.state, Person.main_employment_id, Person.national_id_hash),
        *(Person.display_name, Person.given_name, Person.family_name, Person.email, Person.mobile),
    )
    for organization_id, numbers in wanted.items():
        for part in chunked(sorted(numbers), 1_000):
            rows = session.execute(
                select(*columns)
                .join(Person, Person.id == Employment.principal_id)
                .where(
                    Employment.organization_id == organization_id, Employment.employee_number.in_(among(session, part))
                )
            )
            found.update({(row.organization_id, row.employee_number): row for row in rows})
    return found
