"""Runs of the HR file: that they go on, that they came to their end, or that they ended before it.

A run that is under way says so every few seconds, from a thread of its own: its rows may wait long for others. One that
fails says that too. One whose process was killed says nothing any more, and is found by its silence, on whatever host;
nobody waits for it then. A run that was silent and lives is told so, and gives up: what it passed over was not kept for
it meanwhile.
"""

import threading
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Literal

import structlog
from sqlalchemy import ColumnElement, and_, false, func, insert, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from idhub.changes import SYSTEM, Actor, Event, EventType, record
from idhub.db import Database
from idhub.delivery.leases import CLOCKS_DIFFER
from idhub.errors import Unavailable
from idhub.lifecycle.hr_ahead import PROVIDER
from idhub.lifecycle.tables import SourceRun

DOOR: Final = "hr_file"
SILENCE: Final = timedelta(seconds=30) + CLOCKS_DIFFER
"""Who was silent for so long has ended: three words were missed, and clocks differ."""
_EVERY: Final = 10.0
_UNTOLD: Final = timedelta(hours=1)
"""A run of an older version, which does not say that it goes on, has ended when it takes longer."""
FAILED: Final = "hr_file.failed"
BROKEN_OFF: Final = "hr_file.broken_off"

State = Literal["under way", "finished", "broken off"]
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that is under way. `within`: organizations that it may speak for; None: all."""

    id: str
    within: frozenset[str] | None

    def concerns(self, organization_ids: Collection[str]) -> bool:
        """Whether it may speak for one of them."""
        return self.within is None or not self.within.isdisjoint(organization_ids)


@dataclass(frozen=True, slots=True)
class RunView:
    """One run, as `idhub people runs` shows it."""

    id: str
    started_at: datetime
    finished_at: datetime | None
    state: State
    is_complete: bool
    is_snapshot: bool
    started_by: str
    counts: dict[str, Any]


class Pulse:
    """A run from its first row to its last word: says that it goes on while the block lasts, and when it fails.

    Args:
        now: when it began; time goes on from there.
        within: organizations that it may speak for; None: all.
        every: seconds between two words.
    """

    def __init__(
        self,
        database: Database,
        run_id: str,
        *,
        is_snapshot: bool,
        digest: str,
        within: frozenset[str] | None,
        actor: Actor,
        now: datetime,
        request_id: str | None,
        every: float = _EVERY,
    ) -> None:
        self._database, self._run_id, self._actor, self._request_id = database, run_id, actor, request_id
        self._began_at, self._began, self._every = now, time.monotonic(), every
        self._is_over = threading.Event()
        self._is_given_up = False
        # Daemon: it keeps no process alive that is told to end.
        self._thread = threading.Thread(target=self._keep_saying, name="hr run", daemon=True)
        with database.transaction() as session:
            session.execute(
                insert(SourceRun).values(
                    id=run_id,
                    provider=PROVIDER,
                    started_at=now,
                    seen_at=now,
                    is_complete=False,
                    is_snapshot=is_snapshot,
                    content_hash=digest,
                    counts={},
                    problems=[],
                    started_by=actor.id,
                    within=None if within is None else sorted(within),
                )
            )

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()
        if kind is not None:
            # Where the database is gone, silence says it.
            with suppress(SQLAlchemyError), self._database.transaction() as session:
                mine = SourceRun.id == self._run_id
                _end(session, mine, FAILED, self._actor, now=self._now(), request_id=self._request_id)

    def check(self) -> None:
        """Go on only as long as nobody took the run for ended, as far as was heard at the last word.

        Raises:
            Unavailable: somebody did.
        """
        if self._is_given_up:
            raise taken_for_ended()

    def say(self) -> None:
        """Say that the run goes on, and hear whether it may. Opens its own transaction."""
        with self._database.transaction(durable=False) as session:
            mine = (SourceRun.id == self._run_id, *_UNENDED)
            said = update(SourceRun).where(*mine).values(seen_at=self._now()).returning(SourceRun.id)
            if session.execute(said.execution_options(synchronize_session=False)).first() is None:
                self._is_given_up = True

    def _now(self) -> datetime:
        return self._began_at + timedelta(seconds=time.monotonic() - self._began)

    def _keep_saying(self) -> None:
        while not self._is_given_up and not self._is_over.wait(self._every):
            try:
                self.say()
            except SQLAlchemyError as error:
                _log.warning("hr_run.not_said", run=self._run_id, error=type(error).__name__)


def taken_for_ended() -> Unavailable:
    """What a run says that was silent for too long."""
    return Unavailable(
        "This import was silent for so long that it was taken for ended, and what waited for it went on. Import the "
        "file again."
    )


def open_after(session: Session, run_id: str, *, now: datetime) -> list[OpenRun]:
    """Runs under way that began after this one (every one: an empty id); one that is silent has ended."""
    rows = session.execute(
        select(SourceRun.id, SourceRun.within).where(SourceRun.id > run_id, *_UNENDED, ~_is_silent(now))
    )
    return [OpenRun(row.id, None if row.within is None else frozenset(row.within)) for row in rows]


def has_silent(session: Session, *, now: datetime) -> bool:
    """Whether `end_silent` finds anything."""
    return session.execute(select(SourceRun.id).where(*_UNENDED, _is_silent(now)).limit(1)).first() is not None


def end_silent(session: Session, *, now: datetime) -> int:
    """Note of runs whose process has ended that they did. Returns how many.

    To be called before anything happens that a living run would have kept from happening.
    """
    if not has_silent(session, now=now):
        return 0
    return _end(session, _is_silent(now), BROKEN_OFF, SYSTEM, now=now, request_id=None)


def last_runs(session: Session, *, now: datetime, limit: int = 20) -> list[RunView]:
    """The last reads of the HR file, newest first."""
    query = select(SourceRun).where(SourceRun.provider == PROVIDER).order_by(SourceRun.id.desc()).limit(limit)
    return [
        RunView(
            run.id, run.started_at, run.finished_at, state_of(run, now=now), run.is_complete, run.is_snapshot,
            run.started_by, run.counts,
        )
        for run in session.execute(query).scalars()
    ]  # fmt: skip


def state_of(run: Any, *, now: datetime) -> State:
    """How a run is, by `finished_at`, `broken_at`, `seen_at` and `started_at`."""
    if run.finished_at is not None:
        return "finished"
    earliest, latest = _heard_between(now)
    is_heard = run.started_at > now - _UNTOLD if run.seen_at is None else earliest < run.seen_at <= latest
    return "under way" if is_heard and run.broken_at is None else "broken off"


_UNENDED: Final[tuple[ColumnElement[bool], ...]] = (
    SourceRun.provider == PROVIDER,
    SourceRun.finished_at.is_(None),
    SourceRun.broken_at.is_(None),
)


def _heard_between(now: datetime) -> tuple[datetime, datetime]:
    """When a living run has spoken last. What says later than this spoke by a clock that was wrong."""
    return now - SILENCE, now + CLOCKS_DIFFER


def _is_silent(now: datetime) -> ColumnElement[bool]:
    earliest, latest = _heard_between(now)
    is_heard = or_(
        and_(SourceRun.seen_at > earliest, SourceRun.seen_at <= latest),
        and_(SourceRun.seen_at.is_(None), SourceRun.started_at > now - _UNTOLD),
    )
    return func.coalesce(is_heard, false()).is_(false())


def _end(
    session: Session, which: ColumnElement[bool], reason: str, actor: Actor, *, now: datetime, request_id: str | None
) -> int:
    ended = session.execute(
        update(SourceRun)
        .where(which, *_UNENDED)
        .values(broken_at=now)
        .returning(SourceRun.id)
        .execution_options(synchronize_session=False)
    ).scalars()
    events = [
        Event(
            type=EventType.IMPORT_FINISHED,
            at=now,
            actor=actor,
            door=DOOR,
            target_kind="import",
            target_id=run_id,
            outcome="failure",
            reason=reason,
            request_id=request_id,
            details={},
        )
        for run_id in ended
    ]
    record(session, events)
    return len(events)
