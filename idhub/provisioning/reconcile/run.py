"""One run: all accounts of one application read, compared, matched; what was found written down and acted upon.

Reading happens outside of transactions and one page at a time; what is written, is written in short batches under the
run's lease, so that of two processes one reconciles an application. What follows from *absence* needs the reader's
proof; what was *seen* counts in any case.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import update
from sqlalchemy.orm import Session

from idhub.access.reconcile_plan import PlanView, note_run, plan_of
from idhub.changes import Actor, Event, EventType, record
from idhub.db import Database, new_id
from idhub.delivery.http import OutboundHttp
from idhub.delivery.leases import HeldLease, hold, release, still_held
from idhub.errors import Conflict, Unavailable
from idhub.keys import Keyring
from idhub.lifecycle.hr_brake import Brake
from idhub.provisioning.reconcile import findings, lookup, remedy
from idhub.provisioning.reconcile.findings import DOOR, Place
from idhub.provisioning.reconcile.judge import Terms, Verdict, seen_of
from idhub.provisioning.reconcile.kinds import PROPOSALS, Kind, Policy
from idhub.provisioning.reconcile.reading import AccountReader, Source, source_of
from idhub.provisioning.reconcile.scratch import Scratch
from idhub.provisioning.reconcile.tables import ReconcileRun
from scim.errors import RemoteError

RUNNING, COMPLETE, INCOMPLETE = "running", "complete", "incomplete"
_LEASE = timedelta(minutes=5)
_RETRY = timedelta(hours=1)
"""How soon an incomplete run is tried again."""
_TELL = timedelta(seconds=2)
_WRITE = 50
_LOOK = 500
_MAX_GAP = 300
_FEW = 10
"""Below so many accounts, a half that is gone is no sign of a blind reader."""
_LOG = structlog.get_logger(__name__)


@dataclass(kw_only=True, slots=True)
class Report:
    """What a run came to.

    Args:
        found: by kind, what this run saw (in a dry run: would have written).
        total: how many accounts the application says it has.
        gaps: why nothing was concluded from absence.
    """

    run_id: str
    application_id: str | None
    application: str
    source: str = "scim"
    is_dry_run: bool = False
    started_at: datetime
    finished_at: datetime | None = None
    is_complete: bool = False
    total: int | None = None
    read: int = 0
    gaps: tuple[str, ...] = ()
    found: dict[str, int] = field(default_factory=dict)
    opened: int = 0
    reopened: int = 0
    closed: int = 0
    disabled: int = 0
    held: int = 0

    def counts(self) -> dict[str, Any]:
        """The numbers, for the list of runs and for the log."""
        names = ("opened", "reopened", "closed", "disabled", "held")
        return {"found": self.found, **{name: getattr(self, name) for name in names}}


Progress = Callable[[int, int | None], None]


def reconcile(
    database: Database,
    keyring: Keyring,
    http: OutboundHttp,
    application_id: str,
    *,
    clock: Callable[[], datetime],
    actor: Actor,
    dry_run: bool = False,
    progress: Progress | None = None,
    brake: Brake = remedy.DEFAULT_BRAKE,
) -> Report:
    """Compare an application's accounts with what they should be.

    Opens its own transactions; call it outside of one, in a thread without an event loop.

    Raises:
        NotFound: the application has no SCIM target.
        Conflict: it is being reconciled already.
    """
    now = clock()
    with database.read() as session:
        source = source_of(session, application_id)
        plan = plan_of(session, application_id)
        register = lookup.register(session)
        place = findings.place_of(session, application_id, run_id=new_id("rec"), policy=Policy(plan.policy))
    report = Report(
        run_id=place.run_id,
        application_id=application_id,
        application=source.slug,
        is_dry_run=dry_run,
        started_at=now,
    )
    lease = hold(database, lease_of(application_id), place.run_id, now=now, lifetime=_LEASE)
    if lease is None:
        raise Conflict("This application is being reconciled already.", field="application", rule="reconcile.running")
    run = _Run(
        database=database,
        keyring=keyring,
        http=http,
        clock=clock,
        actor=actor,
        place=place,
        source=source,
        plan=plan,
        terms=_terms(source, plan, register.is_complete),
        report=report,
        lease=lease,
        progress=progress or (lambda _read, _total: None),
        brake=brake,
        told_at=now,
    )
    try:
        return run.run()
    finally:
        release(database, run.lease, now=clock())


def lease_of(application_id: str) -> str:
    """Name of the lease that whoever compares the application holds."""
    return f"reconcile:{application_id}"


def _terms(source: Source, plan: PlanView, register_is_complete: bool) -> Terms:
    names = [*plan.service_accounts, *([source.control_user_name] if source.control_user_name else [])]
    return Terms(
        application_id=source.application_id,
        mapping=source.mapping,
        dialect=source.dialect,
        service_accounts=frozenset(name.casefold() for name in names),
        register_is_complete=register_is_complete,
    )


@dataclass(kw_only=True, slots=True)
class _Run:
    database: Database
    keyring: Keyring
    http: OutboundHttp
    clock: Callable[[], datetime]
    actor: Actor
    place: Place
    source: Source
    plan: PlanView
    terms: Terms
    report: Report
    lease: HeldLease
    progress: Progress
    brake: Brake
    told_at: datetime

    def run(self) -> Report:
        report = self.report
        if not report.is_dry_run:
            self._write(self._begin)
        try:
            with Scratch() as scratch:
                self._read(scratch)
                self._conclude(scratch)
                report.found = scratch.counts()
                if not report.is_dry_run:
                    self._write_down(scratch)
                    self._close_gone(scratch)
                    if report.is_complete and self.place.policy == Policy.DISABLE:
                        self._disable()
        except BaseException:
            if not report.is_dry_run:
                report.is_complete, report.gaps = False, (*report.gaps, "The run was broken off.")
                self._finish()
            raise
        if not report.is_dry_run:
            self._finish()
        report.finished_at = self.clock()
        return report

    # ---- reading

    def _read(self, scratch: Scratch) -> None:
        report = self.report
        try:
            reader = AccountReader(self.source, self.database, self.keyring, self.http, clock=self.clock)
        except (Unavailable, RemoteError) as error:
            report.gaps = (error.description[:_MAX_GAP],)
            return
        for page in reader.pages():
            seen = [seen_of(user, page.asked_at) for user in page.users]
            with self.database.read() as session:
                judged = lookup.judge_page(session, seen, self.terms, now=page.asked_at)
            scratch.add(judged)
            self._renew()
            self.progress(reader.read, reader.total)
            self._tell(reader.read, reader.total)
        proof = reader.proof(distinct=scratch.distinct())
        report.total, report.read = proof.total, proof.read
        report.is_complete, report.gaps = proof.is_complete, tuple(gap[:_MAX_GAP] for gap in proof.gaps)

    def _tell(self, read: int, total: int | None) -> None:
        """How far it is, for whoever looks; now and then."""
        now = self.clock()
        if self.report.is_dry_run or now - self.told_at < _TELL:
            return
        self.told_at = now
        told = update(ReconcileRun).where(ReconcileRun.id == self.report.run_id).values(read=read, total=total)
        self._write(lambda session: session.execute(told.execution_options(synchronize_session=False)))

    def _renew(self) -> None:
        held = hold(self.database, self.lease.name, self.lease.holder, now=self.clock(), lifetime=_LEASE)
        if held is None or held.token != self.lease.token:
            raise Conflict("Another process has taken this run over.", field="application", rule="reconcile.overtaken")

    # ---- what follows from the whole

    def _conclude(self, scratch: Scratch) -> None:
        scratch.mark_duplicates()
        for rows in scratch.ghosts():
            with self.database.read() as session:
                names, phones = lookup.likeness(
                    session, [name for _, name, _ in rows if name], [phone for _, _, phone in rows if phone]
                )
            alike = []
            for number, name, phone in rows:
                found = {"name": names.get(name or "", 0), "phone": phones.get(lookup.phone_key(phone), 0)}
                if any(found.values()):
                    alike.append((number, {key: count for key, count in found.items() if count}))
            scratch.ask_about(alike)
        if self.report.is_complete:
            self._conclude_from_absence(scratch)

    def _conclude_from_absence(self, scratch: Scratch) -> None:
        missing: list[Verdict] = []
        expected = absent = 0
        for rows, busy in self._should_be_there():
            there = scratch.seen([row.external_id for row in rows])
            for row in rows:
                expected += 1
                if row.external_id in there:
                    continue
                absent += 1
                is_old = row.observed_at is not None and row.observed_at >= self.report.started_at
                if row.id not in busy and not is_old:
                    missing.append(_missing(row, self.report.started_at))
        if expected and (absent == expected or (expected >= _FEW and absent * 2 > expected)):
            # A credential that sees only a part of the accounts gives a list that is whole in itself.
            self.report.is_complete = False
            self.report.gaps = (
                f"Of {expected} accounts that were alive, {absent} were not listed: that is not believed.",
            )
            return
        scratch.add_verdicts(missing)

    def _should_be_there(self) -> Iterator[tuple[Any, set[str]]]:
        after = ""
        while True:
            with self.database.read() as session:
                rows = lookup.should_be_there(session, self.source.application_id, after=after)
                busy = lookup.busy_accounts(session, [row.id for row in rows])
            if not rows:
                return
            yield rows, busy
            after = rows[-1].id

    # ---- writing

    def _write(self, work: Callable[[Session], Any]) -> Any:
        """One short transaction under the lease: a run that was overtaken writes nothing more."""

        def fenced(session: Session) -> Any:
            if not still_held(session, self.lease):
                raise Conflict(
                    "Another process has taken this run over.", field="application", rule="reconcile.overtaken"
                )
            return work(session)

        result = self.database.run(fenced)
        self.database.give_way()
        return result

    def _begin(self, session: Session) -> None:
        # Whoever held the lease before and never finished was stopped.
        session.execute(
            update(ReconcileRun)
            .where(ReconcileRun.application_id == self.source.application_id, ReconcileRun.state == RUNNING)
            .values(state=INCOMPLETE, finished_at=self.report.started_at, gaps=["The run was broken off."])
            .execution_options(synchronize_session=False)
        )
        session.add(
            ReconcileRun(
                id=self.report.run_id,
                source="scim",
                application_id=self.source.application_id,
                state=RUNNING,
                started_at=self.report.started_at,
                read=0,
                gaps=[],
                counts={},
                started_by=self.actor.id,
            )
        )

    def _write_down(self, scratch: Scratch) -> None:
        for part in scratch.verdicts(_WRITE):
            verdicts = part

            def write(session: Session, verdicts: list[Verdict] = verdicts) -> findings.Written:
                return findings.write(session, self.place, verdicts, now=self.clock())

            written = self._write(write)
            self.report.opened += written.opened
            self.report.reopened += written.reopened
            scratch.note_found([findings.fingerprint_of(self.place, verdict) for verdict in verdicts])

    def _close_gone(self, scratch: Scratch) -> None:
        after = ""
        while True:
            with self.database.read() as session:
                rows = findings.live(session, self.place, after=after, limit=_LOOK)
            if not rows:
                return
            after = rows[-1].id
            there = scratch.seen([row.external_id for row in rows if row.external_id])
            gone = []
            for row in rows:
                if scratch.is_found(row.fingerprint):
                    continue
                is_skipped = there.get(row.external_id)
                # Seen and in order; or, where the whole was proven, not there any more.
                if is_skipped is False or (is_skipped is None and self.report.is_complete):
                    gone.append(row.id)

            def close(session: Session, ids: list[str] = gone) -> int:
                closed = findings.close(session, self.place, ids, now=self.clock(), why="gone")
                remedy.prove_gone(session, self.place, ids, now=self.clock())
                return closed

            if gone:
                self.report.closed += self._write(close)

    def _disable(self) -> None:
        while True:
            acted = self._write(
                lambda session: remedy.automatic(session, self.place, now=self.clock(), brake=self.brake)
            )
            self.report.disabled += len(acted.deliveries)
            self.report.held += len(acted.held)
            if not acted.deliveries and not acted.held:
                return

    def _pause(self) -> timedelta:
        return self.plan.every if self.report.is_complete else min(self.plan.every, _RETRY)

    def _finish(self) -> None:
        report, now = self.report, self.clock()
        state = COMPLETE if report.is_complete else INCOMPLETE

        def finish(session: Session) -> None:
            session.execute(
                update(ReconcileRun)
                .where(ReconcileRun.id == report.run_id)
                .values(
                    state=state,
                    finished_at=now,
                    total=report.total,
                    read=report.read,
                    gaps=list(report.gaps),
                    counts=report.counts(),
                )
                .execution_options(synchronize_session=False)
            )
            note_run(
                session,
                self.source.application_id,
                next_run_at=now + self._pause() if self.plan.every else None,
                completed_at=report.started_at if report.is_complete else None,
            )
            record(session, [finished(report, self.place.organization_id, self.actor, now=now)])

        # Without the fence: it says what this run did, whoever goes on.
        self.database.run(finish)


def finished(report: Report, organization_id: str | None, actor: Actor, *, now: datetime) -> Event:
    """The event of a run that is over."""
    return Event(
        type=EventType.RECONCILE_FINISHED,
        at=now,
        actor=actor,
        door=DOOR,
        target_kind="reconcile_run",
        target_id=report.run_id,
        outcome="success" if report.is_complete else "failure",
        reason=None if report.is_complete else "incomplete",
        organization_id=organization_id,
        application_id=report.application_id,
        details={
            "source": report.source,
            "total": report.total,
            "read": report.read,
            "gaps": list(report.gaps),
            **report.counts(),
        },
    )


def _missing(row: Any, at: datetime) -> Verdict:
    return Verdict(
        kind=Kind.MISSING,
        external_id=row.external_id,
        subject=row.user_name or row.external_id[:254],
        basis="link",
        evidence={"account": {"active": None, "user_name": row.user_name or ""}, "seen_at": at.isoformat()},
        principal_id=row.principal_id,
        account_id=row.id,
        proposal=PROPOSALS[Kind.MISSING],
    )
