"""HR files that are brought by a page: kept sealed, previewed, confirmed, taken in, forgotten.

Owns: what is kept of such a file and for how long, whose claim on it counts, and what a preview says. Does not own: the
file's rules and effects (`hr_import`), the process that works here (`idhub.hr_process`), or pages.

A file lies sealed in the database, in parts, until it is taken in or given up, an hour without a confirmation at the
longest; it is opened in memory alone. One is worked on at a time, by whoever has the lease of the worker's job; a
claim on the row, asked at every step of progress, ends one who was taken for dead. What was interrupted begins anew:
rows that went in say nothing new.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from idhub.authority import Action, Subject, may, visible_organizations
from idhub.changes import SYSTEM, Actor, Event, EventType, record
from idhub.db import Database, bulk_insert, new_id
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Installation, Person
from idhub.errors import Conflict, IdhubError, Invalid, NotFound
from idhub.keys import Keyring
from idhub.lifecycle.hr_import import ImportReport, import_file
from idhub.lifecycle.hr_plan import Leaving
from idhub.lifecycle.hr_runs import DOOR
from idhub.lifecycle.tables import HrUpload, HrUploadPart, SourceRun
from providers.hr_file import HrFileRefused, RowProblem

KEPT_UNCONFIRMED: Final = timedelta(hours=1)
KEPT_CONFIRMED: Final = timedelta(hours=24)
"""When nobody could take it in for so long, it is old news."""
KEPT_FINISHED: Final = timedelta(days=7)
"""How long the page of one that is over can be read; the file itself is gone."""
MOST_ATTEMPTS: Final = 5
"""A process that works on it may end so often: a file that ends it each time is given up."""
LISTED: Final = 50
UNCONFIRMED: Final = ("receiving", "waiting", "previewed")
OPEN: Final = (*UNCONFIRMED, "confirmed")
_DUE: Final = ("waiting", "confirmed")
_PART_BYTES: Final = 256 * 1024
"""Sealed and written in a transaction of its own: on SQLite nobody waits longer than for one of these."""
_PROGRESS_SECONDS: Final = 0.5


class Superseded(Exception):
    """Another process has the claim, or the upload is over: nothing more is to be done."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What a process needs of an upload that it works on."""

    id: str
    claim: str
    uploaded_by: str
    epoch: int
    digest: str
    is_snapshot: bool
    is_confirmed: bool


@dataclass(slots=True)
class _Leavers:
    """Of whom a file takes access, and what the brake holds of it."""

    goes: list[Leaving] = field(default_factory=list)
    held: list[Leaving] = field(default_factory=list)

    def note(self, goes: Sequence[Leaving], held: Sequence[Leaving]) -> None:
        """Hear it of the import."""
        self.goes, self.held = list(goes), list(held)


# ------------------------------------------------------------------ what a page does


def receive(
    database: Database,
    keyring: Keyring,
    content: bytes,
    *,
    file_name: str,
    is_snapshot: bool,
    by: Actor,
    now: datetime,
    request_id: str | None,
) -> str:
    """Keep a file for its preview; one of the same person that is not confirmed yet gives way. Returns its id.

    Opens its own transactions.

    Raises:
        Conflict: a file of the same person is being taken in; or this one was given up while it came.
    """
    upload_id, digest = new_id("upl"), sha256(content).hexdigest()
    details = {"size": len(content), "file_sha256": digest, "is_snapshot": is_snapshot}
    with database.transaction() as session:
        mine = select(HrUpload.id, HrUpload.state).where(HrUpload.uploaded_by == by.id, HrUpload.state.in_(OPEN))
        for row in session.execute(mine.with_for_update()).all():
            if row.state == "confirmed":
                raise Conflict("Your last file is being brought in.", field="file", rule="upload.under_way")
            _end(session, row.id, "cancelled", by=by, now=now, request_id=request_id)
        epoch = session.execute(select(Installation.epoch)).scalar_one()
        session.add(
            HrUpload(
                id=upload_id, uploaded_by=by.id, epoch=epoch, file_name=file_name[:120], size=len(content),
                digest=digest, is_snapshot=is_snapshot, state="receiving", created_at=now,
                expires_at=now + KEPT_UNCONFIRMED,
            )
        )  # fmt: skip
        record(session, [_event(EventType.IMPORT_UPLOADED, upload_id, by, details, now=now, request_id=request_id)])
    for place, start in enumerate(range(0, len(content), _PART_BYTES)):
        sealed = keyring.seal(_context(upload_id, place), content[start : start + _PART_BYTES])
        with database.transaction(durable=False) as session:
            bulk_insert(session, HrUploadPart, [{"upload_id": upload_id, "place": place, "sealed": sealed}])
    with database.transaction() as session:
        if _set(session, upload_id, HrUpload.state == "receiving", state="waiting"):
            return upload_id
        # What came after it was given up.
        _forget(session, upload_id)
    raise Conflict("This file was given up while it came.", field="file", rule="upload.given_up")


def own(session: Session, upload_id: str, principal_id: str) -> HrUpload:
    """An upload of this person's.

    Raises:
        NotFound: there is none of theirs.
    """
    found = session.get(HrUpload, upload_id)
    if found is None or found.uploaded_by != principal_id:
        raise NotFound("There is no such file.")
    return found


def open_of(session: Session, principal_id: str) -> str | None:
    """The upload of this person that is not over, if there is one."""
    mine = (HrUpload.uploaded_by == principal_id, HrUpload.state.in_(OPEN))
    return session.execute(select(HrUpload.id).where(*mine).order_by(HrUpload.created_at.desc()).limit(1)).scalar()


def confirm(session: Session, upload_id: str, *, by: Actor, now: datetime, request_id: str | None) -> None:
    """Let the worker take a previewed file in.

    Raises:
        Conflict: there is nothing to confirm; or another import began since the preview, which is made anew.
    """
    shown = session.execute(select(HrUpload.preview).where(HrUpload.id == upload_id).with_for_update()).scalar_one()
    if not _set(
        session,
        upload_id,
        HrUpload.state == "previewed",
        state="confirmed",
        claim=None,
        attempts=0,
        rows=0,
        confirmed_at=now,
        expires_at=now + KEPT_CONFIRMED,
    ):
        raise Conflict("There is nothing to confirm any more.", field="step", rule="upload.not_previewed")
    if shown.get("last_run") != _last_run(session):
        _set(session, upload_id, state="waiting", preview={}, confirmed_at=None, expires_at=now + KEPT_UNCONFIRMED)
        return
    details = {"file_sha256": session.execute(select(HrUpload.digest).where(HrUpload.id == upload_id)).scalar_one()}
    record(session, [_event(EventType.IMPORT_CONFIRMED, upload_id, by, details, now=now, request_id=request_id)])


def cancel(session: Session, upload_id: str, *, by: Actor, now: datetime, request_id: str | None) -> None:
    """Give up a file that is not confirmed, and forget it.

    Raises:
        Conflict: it is confirmed, or over.
    """
    is_open = HrUpload.state.in_(UNCONFIRMED)
    if not _end(session, upload_id, "cancelled", is_open, by=by, now=now, request_id=request_id):
        raise Conflict("This file cannot be given up any more.", field="step", rule="upload.not_open")


# ------------------------------------------------------------------ what the worker's process does


def has_due(database: Database) -> bool:
    """Whether a file waits to be previewed or taken in, or is in the hands of a process that may have ended."""
    with database.read() as session:
        return session.execute(select(HrUpload.id).where(HrUpload.state.in_(_DUE)).limit(1)).first() is not None


def work_next(
    database: Database, keyring: Keyring, *, clock: Callable[[], datetime], beat: Callable[[], None] = lambda: None
) -> bool:
    """Preview or take in the next file: confirmed ones first, then the oldest. False: there is none.

    Args:
        beat: called at every step of progress; may raise to end the work, which begins anew then.

    Raises:
        Superseded: another process took the claim.
    """
    work = _claim(database, now=clock())
    if work is None:
        return False
    _Progress(database, work, beat).told(0)
    try:
        with database.read() as session:
            epoch = session.execute(select(Installation.epoch)).scalar_one()
            within, may_import = _reach(session, work.uploaded_by)
        if epoch != work.epoch:
            _close(database, work, "expired", {"rule": "upload.restored"}, now=clock())
        elif not may_import:
            _close(database, work, "refused", {"rule": "upload.not_permitted"}, now=clock())
        else:
            _take(database, keyring, work, within, clock, beat)
    except (Invalid, Conflict) as error:
        # Anything else may pass: the next process tries again.
        _close(database, work, "refused", _words(error), now=clock())
    return True


def _take(
    database: Database,
    keyring: Keyring,
    work: _Work,
    within: frozenset[str] | None,
    clock: Callable[[], datetime],
    beat: Callable[[], None],
) -> None:
    leavers, progress = _Leavers(), _Progress(database, work, beat)
    with database.read() as session:
        name = session.execute(select(Person.display_name).where(Person.id == work.uploaded_by)).scalar()
        last_run = _last_run(session)
    with _opened(database, keyring, work) as path:
        report = import_file(
            database,
            path,
            keyring=keyring,
            snapshot=work.is_snapshot,
            dry_run=not work.is_confirmed,
            now=clock(),
            actor=Actor(kind="person", id=work.uploaded_by, name=name or work.uploaded_by),
            progress=progress.told,
            on_leaving=leavers.note,
            within=within,
            request_id=work.id,
        )
    if work.is_confirmed:
        _close(database, work, "done", _told(report), now=clock())
        return
    preview = {
        **_told(report),
        "last_run": last_run,
        "goes": [_who(each) for each in leavers.goes[:LISTED]],
        "holds": [_who(each) for each in leavers.held[:LISTED]],
        "go_count": len(leavers.goes),
        "hold_count": len(leavers.held),
        "at": clock().isoformat(),
    }
    with database.transaction() as session:
        now = clock()
        held = (HrUpload.claim == work.claim, HrUpload.state == "waiting")
        if not _set(
            session, work.id, *held, state="previewed", claim=None, attempts=0, rows=report.rows, preview=preview,
            expires_at=now + KEPT_UNCONFIRMED,
        ):  # fmt: skip
            raise Superseded


class _Progress:
    """Tells the row how far the work is, and hears of it whether the claim still counts."""

    def __init__(self, database: Database, work: _Work, beat: Callable[[], None]) -> None:
        self._database, self._work, self._beat = database, work, beat
        self._at = float("-inf")

    def told(self, rows: int) -> None:
        """So many rows were read.

        Raises:
            Superseded: the claim is another's.
        """
        self._beat()
        if time.monotonic() - self._at < _PROGRESS_SECONDS:
            return
        self._at = time.monotonic()
        with self._database.transaction(durable=False) as session:
            held = (HrUpload.claim == self._work.claim, HrUpload.state.in_(_DUE))
            if not _set(session, self._work.id, *held, rows=rows):
                raise Superseded


def _claim(database: Database, *, now: datetime) -> _Work | None:
    while True:
        with database.transaction() as session:
            order = (HrUpload.state != "confirmed", HrUpload.created_at, HrUpload.id)
            row = session.execute(
                select(HrUpload).where(HrUpload.state.in_(_DUE)).order_by(*order).limit(1).with_for_update()
            ).scalar_one_or_none()
            if row is None:
                return None
            if row.attempts >= MOST_ATTEMPTS or row.expires_at <= now:
                state = "failed" if row.attempts >= MOST_ATTEMPTS else "expired"
                _end(session, row.id, state, by=SYSTEM, now=now, request_id=None)
                continue
            claim = new_id("clm")
            _set(session, row.id, claim=claim, attempts=row.attempts + 1, rows=0)
            return _Work(
                row.id, claim, row.uploaded_by, row.epoch, row.digest, row.is_snapshot, row.state == "confirmed"
            )


def _reach(session: Session, principal_id: str) -> tuple[frozenset[str] | None, bool]:
    """What somebody may speak for in a file (None: every company, and new ones), and whether they may bring one in."""
    subject = Subject(principal_id=principal_id)
    if may(session, subject, Action.IMPORT_RUN, organization_id=root_organization(session)):
        return None, True
    visible = visible_organizations(session, subject, Action.IMPORT_RUN)
    within = frozenset(session.execute(visible).scalars()) if visible is not None else frozenset()
    return within, bool(within)


@contextmanager
def _opened(database: Database, keyring: Keyring, work: _Work) -> Iterator[Path]:
    """The file in the clear, in memory alone, under a name by which our own processes can open it.

    Raises:
        Conflict: parts of it are missing, or it is another one.
    """
    with _in_memory() as (descriptor, path):
        digest, place = sha256(), 0
        while True:
            with database.read() as session:
                sealed = session.execute(
                    select(HrUploadPart.sealed).where(HrUploadPart.upload_id == work.id, HrUploadPart.place == place)
                ).scalar()
            if sealed is None:
                break
            part = keyring.open(_context(work.id, place), sealed)
            digest.update(part)
            os.write(descriptor, part)
            place += 1
        if digest.hexdigest() != work.digest:
            raise Conflict("The file that is kept is not the one that came.", field="file", rule="upload.damaged")
        yield path


@contextmanager
def _in_memory() -> Iterator[tuple[int, Path]]:
    if sys.platform == "linux":
        descriptor = os.memfd_create("hr-file", os.MFD_CLOEXEC)
        try:
            # By our number: the process that reads opens it too.
            yield descriptor, Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        finally:
            os.close(descriptor)
    else:
        # Nothing like it has a name here; the file is there for us alone while it is read.
        with tempfile.NamedTemporaryFile(prefix="hr-file-") as stored:
            yield stored.fileno(), Path(stored.name)


# ------------------------------------------------------------------ what is forgotten


def purge(database: Database, *, now: datetime) -> int:
    """Forget files that nobody confirmed in time or took in, and rows of those that are long over. Returns how many."""
    late = or_(
        HrUpload.state.in_(UNCONFIRMED) & (HrUpload.expires_at <= now),
        (HrUpload.state == "confirmed") & (HrUpload.expires_at <= now) & HrUpload.claim.is_(None),
    )
    with database.read() as session:
        ids = list(session.execute(select(HrUpload.id).where(late)).scalars())
        old = list(session.execute(select(HrUpload.id).where(HrUpload.finished_at < now - KEPT_FINISHED)).scalars())
    if not ids and not old:
        return 0
    with database.transaction() as session:
        for upload_id in ids:
            _end(session, upload_id, "expired", late, by=SYSTEM, now=now, request_id=None)
        session.execute(delete(HrUpload).where(HrUpload.id.in_(old)))
    return len(ids) + len(old)


def _close(database: Database, work: _Work, state: str, outcome: dict[str, Any], *, now: datetime) -> None:
    with database.transaction() as session:
        held = (HrUpload.claim == work.claim, HrUpload.state.in_(_DUE))
        if not _end(session, work.id, state, *held, by=SYSTEM, now=now, request_id=None, outcome=outcome):
            raise Superseded


def _end(
    session: Session,
    upload_id: str,
    state: str,
    *only: ColumnElement[bool],
    by: Actor,
    now: datetime,
    request_id: str | None,
    outcome: dict[str, Any] | None = None,
) -> bool:
    """Nothing more of an upload will be done, and the file is forgotten. False where that was so already."""
    values = {"state": state, "finished_at": now, "outcome": outcome or {}, "claim": None}
    if not _set(session, upload_id, HrUpload.state.in_(OPEN), *only, **values):
        return False
    _forget(session, upload_id)
    if state != "done":
        details = {"state": state, "reason": (outcome or {}).get("rule")}
        record(session, [_event(EventType.IMPORT_ENDED, upload_id, by, details, now=now, request_id=request_id)])
    return True


def _forget(session: Session, upload_id: str) -> None:
    parts = delete(HrUploadPart).where(HrUploadPart.upload_id == upload_id)
    session.execute(parts.execution_options(synchronize_session=False))


def _set(session: Session, upload_id: str, *only: ColumnElement[bool], **values: Any) -> bool:
    changed = session.execute(
        update(HrUpload)
        .where(HrUpload.id == upload_id, *only)
        .values(**values)
        .returning(HrUpload.id)
        .execution_options(synchronize_session=False)
    ).first()
    return changed is not None


def _last_run(session: Session) -> str | None:
    """The run that began last; another one since means that a preview is old."""
    return session.execute(select(func.max(SourceRun.id))).scalar()


def _told(report: ImportReport) -> dict[str, Any]:
    return {
        "run": report.run_id,
        **report.counts(),
        "encoding": report.encoding,
        "gaps": list(report.gaps),
        "unproven": report.absence_unproven[:LISTED],
        "columns": list(report.unknown_columns[:LISTED]),
        "companies": report.created_companies[:LISTED],
        "problems": [_line(problem) for problem in report.problems[:LISTED]],
        "notices": [_line(problem) for problem in report.notices[:LISTED]],
    }


def _line(problem: RowProblem) -> dict[str, Any]:
    return {"line": problem.line, "field": problem.field, "rule": problem.rule.value}


def _who(each: Leaving) -> dict[str, str]:
    return {"kind": each.kind, "employment": each.employment_id, "person": each.principal_id}


def _words(error: IdhubError) -> dict[str, Any]:
    """Why nothing goes in: the rule, and the words of whoever found it, which name no value of a person."""
    cause = error.__cause__
    words = {"rule": error.rule, "en": error.description}
    if isinstance(cause, HrFileRefused):
        words |= {"en": cause.description, "zh": cause.description_zh}
    return words


def _event(
    kind: EventType, upload_id: str, by: Actor, details: dict[str, Any], *, now: datetime, request_id: str | None
) -> Event:
    return Event(
        type=kind,
        at=now,
        actor=by,
        door=DOOR,
        target_kind="upload",
        target_id=upload_id,
        request_id=request_id,
        details=details,
    )


def _context(upload_id: str, place: int) -> str:
    """What a sealed part is bound to."""
    return f"hr_upload_parts:{upload_id}:{place}"
