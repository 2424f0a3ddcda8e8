"""Findings that no application says: people of the register who are one human, and what a payroll file contradicts.

Nobody is merged here and no pay is stopped: these findings are for people to act upon.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from idhub.changes import Actor, record
from idhub.db import Database, among, new_id
from idhub.directory.kinds import Standing
from idhub.directory.names import LoginNameKind
from idhub.directory.organizations import common_organizations, root_organization
from idhub.directory.tables import Employment, LoginName, Person, Principal
from idhub.errors import Invalid
from idhub.keys import Keyring
from idhub.lifecycle.hr_ahead import NATIONAL_ID
from idhub.lifecycle.hr_companies import Companies
from idhub.provisioning.reconcile import findings, lookup
from idhub.provisioning.reconcile.findings import Place
from idhub.provisioning.reconcile.judge import Verdict
from idhub.provisioning.reconcile.kinds import PROPOSALS, Kind
from idhub.provisioning.reconcile.run import COMPLETE, INCOMPLETE, Progress, Report, finished
from idhub.provisioning.reconcile.scratch import Scratch
from idhub.provisioning.reconcile.tables import ReconcileRun
from providers.hr_file import HrFileRefused, RefusedRow
from providers.hr_file.payroll import PayrollFile, PayrollRow

_BATCH = 1_000
_WRITE = 50
_SHARED_BY = 3
"""From so many people on, a mail address is a shared one and says nothing of who is who."""
_MAX_GAP = 300


def match_payroll(
    database: Database,
    keyring: Keyring,
    path: Path,
    *,
    clock: Callable[[], datetime],
    actor: Actor,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Hold a payroll file against the register: paid, and left or unknown; one human under two names.

    Opens its own transactions; call it outside of one.

    Raises:
        Invalid: the whole file is refused (`rule` is `payroll.` and the code).
        OSError: the file cannot be read.
    """
    now = clock()
    report = Report(
        run_id=new_id("rec"), application_id=None, application="", source="payroll", is_dry_run=dry_run, started_at=now
    )
    with database.read() as session:
        companies, register = Companies(session), lookup.register(session)
    try:
        file = PayrollFile(path)
    except HrFileRefused as error:
        raise Invalid(error.description, field="payroll", rule=f"payroll.{error.code}") from error
    named: set[str | None] = set()
    with file, Scratch() as scratch:
        records = file.records()
        try:
            while part := list(islice(records, _BATCH)):
                rows = [row for row in part if not isinstance(row, RefusedRow)]
                named |= {companies.id_of(companies.key(row.company)) for row in rows}
                with database.read() as session:
                    judge = _Payroll(session, keyring, companies, register.is_complete, now=now)
                    scratch.add_verdicts(judge.verdicts(rows))
                report.read += len(part)
                if progress is not None:
                    progress(report.read, None)
        except HrFileRefused as error:
            raise Invalid(error.description, field="payroll", rule=f"payroll.{error.code}") from error
        proof = file.completeness()
        report.total, report.is_complete = proof.records, proof.is_complete
        report.gaps = tuple(gap[:_MAX_GAP] for gap in proof.gaps)
        _settle(database, scratch, report, clock=clock, actor=actor, within=named)
    return report


class _Payroll:
    """Judges rows of a payroll file within one snapshot."""

    def __init__(
        self, session: Session, keyring: Keyring, companies: Companies, register_is_complete: bool, *, now: datetime
    ) -> None:
        self._session, self._keyring, self._companies = session, keyring, companies
        self._register_is_complete, self._now = register_is_complete, now

    def verdicts(self, rows: list[PayrollRow]) -> Iterator[Verdict]:
        """What does not agree, of a batch."""
        posts = self._posts(rows)
        hashes = {
            row.line: self._keyring.blind_index(NATIONAL_ID, row.national_id.upper()) for row in rows if row.national_id
        }
        humans = self._humans(set(hashes.values()))
        for row in rows:
            organization_id = self._companies.id_of(self._companies.key(row.company))
            post = posts.get((organization_id or "", row.employee_number))
            human = humans.get(hashes.get(row.line, ""))
            verdict = self._judge(row, organization_id, post, human)
            if verdict is not None:
                yield verdict

    def _judge(self, row: PayrollRow, organization_id: str | None, post: Any, human: Any) -> Verdict | None:
        if post is not None and human is not None and post.principal_id != human.id:
            people = sorted((post.principal_id, human.id))
            return self._verdict(Kind.DUPLICATE_PERSON, row, organization_id, "national_id", human, people=people)
        if post is not None:
            if post.state == "ended" and self._ended_before(post.ends_on, row.period):
                basis = "national_id" if human is not None else "employee_number"
                return self._verdict(
                    Kind.GHOST_PAID, row, organization_id, basis, post, left_on=str(post.ends_on or "")
                )
            return None
        if human is not None:
            kind = Kind.GHOST_PAID if human.standing == Standing.LEFT else Kind.QUESTION
            return self._verdict(kind, row, organization_id, "national_id", human, why="number_unknown")
        if self._register_is_complete:
            return self._verdict(Kind.GHOST_PAID, row, organization_id, "none", None, why="nobody")
        return self._verdict(Kind.QUESTION, row, organization_id, "none", None, why="register_incomplete")

    def _ended_before(self, ends_on: date | None, period: str) -> bool:
        """Whether the last working day lies before the month that is paid; the month of a last day is paid rightly."""
        month = period or f"{self._now:%Y-%m}"
        return ends_on is None or f"{ends_on:%Y-%m}" < month

    def _verdict(
        self, kind: Kind, row: PayrollRow, organization_id: str | None, basis: str, person: Any, **more: Any
    ) -> Verdict:
        company = self._companies.name_of(self._companies.key(row.company))
        subject = f"{company}/{row.employee_number}"
        evidence: dict[str, Any] = {
            "payroll": {"line": row.line, "company": company, "period": row.period},
            "organization_id": organization_id,
            **{name: value for name, value in more.items() if value},
        }
        if person is not None:
            evidence["register"] = {"standing": str(person.standing)}
        principal_id = None if person is None else getattr(person, "principal_id", None) or person.id
        return Verdict(kind, subject[:255], subject[:254], basis, evidence, principal_id, None, PROPOSALS[kind])

    def _posts(self, rows: list[PayrollRow]) -> dict[tuple[str, str], Any]:
        wanted: dict[str, list[str]] = {}
        for row in rows:
            organization_id = self._companies.id_of(self._companies.key(row.company))
            if organization_id is not None:
                wanted.setdefault(organization_id, []).append(row.employee_number)
        found: dict[tuple[str, str], Any] = {}
        for organization_id, numbers in wanted.items():
            posts = self._session.execute(
                select(
                    Employment.employee_number,
                    Employment.principal_id,
                    Employment.state,
                    Employment.ends_on,
                    Principal.standing,
                )
                .join(Principal, Principal.id == Employment.principal_id)
                .where(
                    Employment.organization_id == organization_id,
                    Employment.employee_number.in_(among(self._session, numbers)),
                )
            )
            found.update({(organization_id, post.employee_number): post for post in posts})
        return found

    def _humans(self, hashes: set[str]) -> dict[str, Any]:
        if not hashes:
            return {}
        rows = self._session.execute(
            select(Person.national_id_hash, Person.id, Principal.standing)
            .join(Principal, Principal.id == Person.id)
            .where(Person.national_id_hash.in_(among(self._session, sorted(hashes))))
        )
        return {str(row.national_id_hash): row for row in rows}


def check_register(database: Database, *, clock: Callable[[], datetime], actor: Actor, dry_run: bool = False) -> Report:
    """Look for people who are one human: the same mail of record (strong), the same name and telephone (a question).

    Opens its own transactions; call it outside of one.
    """
    now = clock()
    report = Report(
        run_id=new_id("rec"), application_id=None, application="", source="register", is_dry_run=dry_run, started_at=now
    )
    with Scratch() as scratch:
        with database.read() as session:
            by_mail = list(_sharing(session, "email"))
            by_phone = list(_sharing(session, "mobile"))
            places = common_organizations(session, {_organizations(people) for people in (*by_mail, *by_phone)})
            report.read = lookup.register(session).active
        scratch.add_verdicts(_duplicates(by_mail, places, Kind.DUPLICATE_PERSON, "mail"))
        alike = [people for people in by_phone if len({person.display_name for person in people}) < len(people)]
        scratch.add_verdicts(_duplicates(alike, places, Kind.QUESTION, "name_and_phone"))
        report.total, report.is_complete = report.read, True
        _settle(database, scratch, report, clock=clock, actor=actor)
    return report


def _sharing(session: Session, kind: LoginNameKind) -> Iterator[list[Any]]:
    """People who have not left and share a login name, few enough that it is not a shared one by intention."""
    works_here = (LoginName.kind == kind, Principal.standing != Standing.LEFT)
    shared = (
        select(LoginName.value)
        .join(Principal, Principal.id == LoginName.principal_id)
        .where(*works_here)
        .group_by(LoginName.value)
        .having(func.count() > 1, func.count() <= _SHARED_BY)
    )
    rows = session.execute(
        select(LoginName.value, Person.id, Person.display_name, Principal.organization_id, Person.national_id_hash)
        .join(Principal, Principal.id == LoginName.principal_id)
        .join(Person, Person.id == Principal.id)
        .where(LoginName.value.in_(shared), *works_here)
        .order_by(LoginName.value, Person.id)
    )
    together: list[Any] = []
    for row in rows:
        if together and together[0].value != row.value:
            yield together
            together = []
        together.append(row)
    if together:
        yield together


def _organizations(people: Iterable[Any]) -> frozenset[str]:
    return frozenset(person.organization_id for person in people)


def _duplicates(
    groups: Iterable[list[Any]], places: Mapping[frozenset[str], str], kind: Kind, basis: str
) -> Iterator[Verdict]:
    for people in groups:
        hashes = [person.national_id_hash for person in people]
        if all(hashes) and len(set(hashes)) == len(hashes):
            # Two national ids are two humans, whatever they share.
            continue
        ids = [person.id for person in people]
        # It names them all: who may not see one of them is not told.
        place = places[_organizations(people)]
        evidence = {"people": ids, "organization_id": place, "register": {"records": len(ids)}}
        if kind == Kind.QUESTION:
            evidence["why"] = basis
        subject = " / ".join(person.display_name for person in people)[:254]
        yield Verdict(kind, f"{basis}:{','.join(ids)}"[:255], subject, basis, evidence, ids[0], None, PROPOSALS[kind])


def _settle(
    database: Database,
    scratch: Scratch,
    report: Report,
    *,
    clock: Callable[[], datetime],
    actor: Actor,
    within: set[str | None] | None = None,
) -> None:
    """Write down what was found; close what is gone when the whole was read.

    Args:
        within: organizations that the source spoke for, None among them for unknown ones; None: all.
    """
    report.found = scratch.counts()
    if report.is_dry_run:
        report.finished_at = clock()
        return
    with database.read() as session:
        root = root_organization(session)
    place = Place(report.run_id, report.source, None, root, None)
    for verdicts in scratch.verdicts(_WRITE):
        by_organization: dict[str, list[Verdict]] = {}
        for verdict in verdicts:
            by_organization.setdefault(verdict.evidence.get("organization_id") or root, []).append(verdict)

        def write(session: Session, parts: dict[str, list[Verdict]] = by_organization) -> list[findings.Written]:
            return [
                findings.write(session, replace(place, organization_id=organization_id), part, now=clock())
                for organization_id, part in sorted(parts.items())
            ]

        for written in database.run(write):
            report.opened += written.opened
            report.reopened += written.reopened
        scratch.note_found([findings.fingerprint_of(place, verdict) for verdict in verdicts])
        database.give_way()
    if report.is_complete:
        spoken_for = None if within is None else {organization_id or root for organization_id in within}
        _close_gone(database, scratch, report, place, clock=clock, within=spoken_for)
    report.finished_at = clock()
    database.run(lambda session: _note(session, report, root, actor))


def _close_gone(
    database: Database,
    scratch: Scratch,
    report: Report,
    place: Place,
    *,
    clock: Callable[[], datetime],
    within: set[str] | None,
) -> None:
    after = ""
    while True:
        with database.read() as session:
            rows = findings.live(session, place, after=after, limit=_BATCH)
        if not rows:
            return
        after = rows[-1].id
        gone = [
            row.id
            for row in rows
            if not scratch.is_found(row.fingerprint) and (within is None or row.organization_id in within)
        ]
        for start in range(0, len(gone), _WRITE):
            part = gone[start : start + _WRITE]

            def close(session: Session, ids: list[str] = part) -> int:
                return findings.close(session, place, ids, now=clock(), why="gone")

            report.closed += database.run(close)
            database.give_way()


def _note(session: Session, report: Report, root: str, actor: Actor) -> None:
    now = report.finished_at or report.started_at
    session.add(
        ReconcileRun(
            id=report.run_id,
            source=report.source,
            application_id=None,
            state=COMPLETE if report.is_complete else INCOMPLETE,
            started_at=report.started_at,
            finished_at=now,
            total=report.total,
            read=report.read,
            gaps=list(report.gaps),
            counts=report.counts(),
            started_by=actor.id,
        )
    )
    session.flush()
    record(session, [finished(report, root, actor, now=now)])
