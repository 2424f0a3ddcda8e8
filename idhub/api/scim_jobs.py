"""Bulk requests that are worked later: kept, shown, cancelled, and done operation by operation by the worker.

An operation's effect and the note that it is done commit together, so that a job goes on after a crash where it was,
and no operation is done twice however many processes try. The token that asked must still work when one is done.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import Any, TypeAlias

import orjson
import structlog
from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.orm import Session

from idhub.api.access import ApiCaller, caller_of
from idhub.api.scim_desk import (
    PREFIX,
    Desk,
    DeskServices,
    Later,
    TooOften,
    base_url_of,
    record_refusals,
    translated,
)
from idhub.changes import SYSTEM, Event, EventType, record
from idhub.credentials.tables import ApiToken
from idhub.db import Database, bulk_insert, new_id
from idhub.errors import Unavailable
from idhub.lifecycle.doors import Door
from idhub.provisioning.events.feed import complete_answers, feed_of, name_transaction, release_answers
from idhub.provisioning.inbound.tables import ScimJob, ScimJobOperation
from scim import bulk
from scim.errors import NotFound, RequestError
from scim.messages import Forbidden, ScimRequest, ScimResponse, error_response

KEPT = timedelta(days=7)
"""How long results can be read."""
_MOST_OPEN = 10
_OPEN = ("waiting", "running")
_LOG = structlog.get_logger(__name__)


class Jobs:
    """See `scim.server.Jobs`."""

    def __init__(self, desk: Desk, caller: ApiCaller) -> None:
        self._desk, self._caller = desk, caller
        self._services = desk.services

    def accept(self, message: bulk.Message) -> bulk.Progress:
        """See `scim.server.Jobs.accept`."""
        if not self._caller.writes:
            raise Forbidden("This token changes nothing.")
        now, job_id = self._services.clock(), new_id("job")
        turns = {place: turn for turn, place in enumerate(bulk.order_of(message.operations))}
        rows = [
            {
                "job_id": job_id,
                "place": place,
                "turn": turns[place],
                "sent": self._services.keyring.seal(_context(job_id, place), _written(operation)),
                "bulk_id": operation.bulk_id,
                "is_done": False,
                "resource_id": None,
                "result": None,
            }
            for place, operation in enumerate(message.operations)
        ]
        values: dict[str, Any] = {
            "id": job_id,
            "token_id": self._caller.token_id,
            "request_id": self._caller.lifecycle.request_id,
            "status": "waiting",
            "reason": None,
            "total": len(rows),
            "done": 0,
            "errors": 0,
            "fail_on_errors": message.fail_on_errors,
            "created_at": now,
            "finished_at": None,
        }
        with translated(), self._services.database.transaction() as session:
            mine = select(func.count()).where(ScimJob.token_id == self._caller.token_id, ScimJob.status.in_(_OPEN))
            if session.execute(mine).scalar_one() >= _MOST_OPEN:
                raise TooOften(60, f"This token has {_MOST_OPEN} bulk requests under way.")
            bulk_insert(session, ScimJob, [values])
            bulk_insert(session, ScimJobOperation, rows)
            record(session, [self._event(EventType.SCIM_JOB_ACCEPTED, job_id, {"operations": len(rows)})])
        return bulk.Progress(id=job_id, status="waiting", total=len(rows), created_at=now)

    def show(self, job_id: str, *, start_index: int, count: int) -> bulk.Progress:
        """See `scim.server.Jobs.show`."""
        with translated(), self._services.database.read() as session:
            job = self._own(session, job_id)
            results = session.execute(
                select(ScimJobOperation.result)
                .where(ScimJobOperation.job_id == job_id, ScimJobOperation.result.is_not(None))
                .order_by(ScimJobOperation.place)
                .offset(start_index - 1)
                .limit(count)
            ).scalars()
            return bulk.Progress(
                id=job.id,
                status=job.status,
                total=job.total,
                done=job.done,
                errors=job.errors,
                created_at=job.created_at,
                finished_at=job.finished_at,
                reason=job.reason,
                start_index=start_index,
                results=list(results),
            )

    def cancel(self, job_id: str) -> None:
        """See `scim.server.Jobs.cancel`."""
        if not self._caller.writes:
            raise Forbidden("This token changes nothing.")
        with translated(), self._services.database.transaction() as session:
            self._own(session, job_id)
            if end_job(session, job_id, "cancelled", reason="cancelled by the sender", now=self._services.clock()):
                record(session, [self._event(EventType.SCIM_JOB_ENDED, job_id, {"status": "cancelled"})])

    def _own(self, session: Session, job_id: str) -> ScimJob:
        """A job of this very token, or of one of the same name and company: of a sender that changed its token."""
        job = session.get(ScimJob, job_id)
        if job is not None and job.token_id != self._caller.token_id:
            asked = session.execute(
                select(ApiToken.name, ApiToken.organization_id).where(ApiToken.id == job.token_id)
            ).one_or_none()
            if asked is None or tuple(asked) != (self._caller.name, self._caller.subject.organization_id):
                job = None
        if job is None:
            raise NotFound("There is no such bulk request.")
        return job

    def _event(self, kind: EventType, job_id: str, details: dict[str, Any]) -> Event:
        return _event(kind, self._caller, job_id, details, now=self._services.clock())


def _event(kind: EventType, caller: ApiCaller, job_id: str, details: dict[str, Any], *, now: datetime) -> Event:
    return Event(
        type=kind,
        at=now,
        actor=caller.lifecycle.actor,
        door=Door.SCIM,
        target_kind="scim_job",
        target_id=job_id,
        request_id=caller.lifecycle.request_id,
        details=details,
    )


def _context(job_id: str, place: int) -> str:
    return f"scim_job_operations:{job_id}:{place}"


def _written(operation: bulk.Operation) -> bytes:
    return orjson.dumps([operation.method, operation.path, operation.data, operation.bulk_id, operation.version])


def end_job(session: Session, job_id: str, status: str, *, reason: str | None, now: datetime) -> bool:
    """Nothing more of a job will be done; False where that was so already. What was sent is forgotten."""
    ended = session.execute(
        update(ScimJob)
        .where(ScimJob.id == job_id, ScimJob.status.in_(_OPEN))
        .values(status=status, reason=reason, finished_at=now)
        .returning(ScimJob.id)
        .execution_options(synchronize_session=False)
    ).first()
    if ended is None:
        return False
    release_answers(session, job_id)
    session.execute(
        update(ScimJobOperation)
        .where(ScimJobOperation.job_id == job_id)
        .values(sent=None)
        .execution_options(synchronize_session=False)
    )
    return True


# --- working ----------------------------------------------------------------------------------------------------------


class _Fault(RequestError):
    """A fault of ours."""

    status = 500


class _Superseded(Exception):
    """Another process has done the operation, or the job has ended: nothing of this attempt stays."""


def has_jobs(database: Database) -> bool:
    """Whether there is anything to work."""
    with database.read() as session:
        return session.execute(select(ScimJob.id).where(ScimJob.status.in_(_OPEN)).limit(1)).first() is not None


def work_jobs(services: DeskServices, *, seconds: float) -> int:
    """Do operations of waiting jobs, oldest job first, for about so many seconds. Returns how many were done."""
    until, done = monotonic() + seconds, 0
    looked_at: list[str] = []
    while monotonic() < until:
        oldest = (
            select(ScimJob)
            .where(ScimJob.status.in_(_OPEN), ScimJob.id.not_in(looked_at))
            .order_by(ScimJob.created_at, ScimJob.id)
            .limit(1)
        )
        with services.database.read() as session:
            job = session.execute(oldest).scalar_one_or_none()
        if job is None:
            break
        # One that must wait, for the rate of its token, does not hold up the others.
        looked_at.append(job.id)
        done += _Run(services, job).work(until)
    return done


_Work: TypeAlias = tuple[ScimJobOperation, bulk.Operation]


class _Run:
    """Works one job until it is done or the time is over."""

    def __init__(self, services: DeskServices, job: ScimJob) -> None:
        self._services, self._job = services, job
        self._sender: tuple[str, str | None] = ("", None)
        """Name and company of the token that asked; known once there is a desk."""
        self._base_url = base_url_of(services)

    def work(self, until: float) -> int:
        done = 0
        while monotonic() < until:
            batch = self._next()
            if not batch:
                self._end("done", None)
                return done
            desk = self._desk()
            if desk is None:
                return done
            operations = [self._opened(row) for row in batch]
            if None in operations:
                return done
            for part in bulk.batches(
                [each for each in operations if each is not None], most=desk[0].server.made_together
            ):
                rows, batch = batch[: len(part)], batch[len(part) :]
                works = list(zip(rows, part, strict=True))
                for goes_on in bulk.in_turn(works, partial(self._do_together, desk[0]), partial(self._do, *desk)):
                    if not goes_on:
                        return done
                    done += 1
                if monotonic() >= until:
                    return done
        return done

    def _next(self) -> list[ScimJobOperation]:
        with self._services.database.read() as session:
            return list(
                session.execute(
                    select(ScimJobOperation)
                    .where(ScimJobOperation.job_id == self._job.id, ScimJobOperation.is_done.is_(False))
                    .order_by(ScimJobOperation.turn)
                    .limit(50)
                ).scalars()
            )

    def _desk(self) -> tuple[Desk, ApiCaller] | None:
        """The sender's desk, as far as its token reaches now; None, and the job has ended, where it does not work."""
        with self._services.database.read() as session:
            caller = caller_of(
                session,
                self._job.token_id,
                door=Door.SCIM,
                now=self._services.clock(),
                request_id=self._job.request_id,
            )
        if caller is None or not caller.writes:
            self._end("cancelled", "the token does not work any more")
            return None
        self._sender = (caller.name, caller.subject.organization_id)
        try:
            return Desk(self._services, caller), caller
        except Forbidden as error:
            self._end("cancelled", error.description[:120])
            return None

    def _opened(self, row: ScimJobOperation) -> bulk.Operation | None:
        """What was sent; None, where the job is over."""
        if row.sent is None:
            return None
        try:
            sent = orjson.loads(self._services.keyring.open(_context(row.job_id, row.place), row.sent))
        except Unavailable:
            _LOG.exception("scim.job_unreadable", job=row.job_id)
            self._end("cancelled", "what was sent cannot be opened any more")
            return None
        return bulk.Operation(**dict(zip(("method", "path", "data", "bulk_id", "version"), sent, strict=True)))

    def _do_together(self, desk: Desk, works: Sequence[_Work]) -> Sequence[bool]:
        """Do operations that make resources in one transaction, as `_do` does one.

        Raises:
            NotTogether: they must be done one by one.
        """
        rows = [row for row, _ in works]

        @contextmanager
        def writing() -> Iterator[Any]:
            with translated(), self._services.database.transaction() as session:
                store = desk.store(session)
                yield store
                self._note(session, works, store.made)

        try:
            results = desk.server.make_together([operation for _, operation in works], writing)
            with self._services.database.transaction(durable=False) as session:
                self._keep(session, rows, results)
        except _Superseded:
            return [False]
        except bulk.NotTogether:
            raise
        except Exception as error:
            # As in `_do`: alone, whose fault it is shows, and the others are not held up.
            _LOG.exception("scim.job_failed_together", job=self._job.id, place=rows[0].place)
            raise bulk.NotTogether from error
        return [True] * len(works)

    def _do(self, desk: Desk, caller: ApiCaller, work: _Work) -> bool:
        """Do one operation. False: the job is another's, or over."""
        row, operation = work

        @contextmanager
        def writing() -> Iterator[Any]:
            with translated(), self._services.database.transaction() as session:
                desk.count_in(session)
                name_transaction(session, f"{row.job_id}:{row.place}")
                store = desk.store(session)
                yield store
                # With the effect: whatever happens after the commit, it is not done again.
                self._note(session, [work], store.made)

        def answer(request: ScimRequest) -> ScimResponse:
            try:
                return desk.server.answer(request, writing)
            except _Superseded:
                raise
            except Exception:
                # A fault of ours is this operation's alone: it must not hold up the others for ever.
                _LOG.exception("scim.job_failed", job=row.job_id, place=row.place)
                return error_response(_Fault("Something went wrong here; it was recorded."))

        try:
            result = bulk.run_one(operation, self._made(operation), answer, base_url=self._base_url)
            if isinstance(result.error, Later | TooOften):
                # Not the operation's fault: it keeps its turn.
                return False
            with self._services.database.transaction(durable=False) as session:
                if result.error is not None:
                    self._note(session, [work], ())
                self._keep(session, [row], [result])
        except _Superseded:
            return False
        if result.error is not None:
            record_refusals(self._services, caller, f"{operation.method} {PREFIX}/Bulk", [result.error])
        return self._goes_on(result)

    def _made(self, operation: bulk.Operation) -> dict[str, str]:
        needed = operation.needs
        if not needed:
            return {}
        with self._services.database.read() as session:
            rows = session.execute(
                select(ScimJobOperation.bulk_id, ScimJobOperation.resource_id).where(
                    ScimJobOperation.job_id == self._job.id,
                    ScimJobOperation.bulk_id.in_(needed),
                    ScimJobOperation.resource_id.is_not(None),
                )
            )
            return {row.bulk_id: row.resource_id for row in rows}

    def _note(self, session: Session, works: Sequence[_Work], made: Sequence[str]) -> None:
        """That operations are done, and what each of them made, if they made anything.

        Raises:
            _Superseded: another process has noted one of them, or the job has ended.
        """
        open_job = select(ScimJob.id).where(ScimJob.id == self._job.id, ScimJob.status.in_(_OPEN))
        if session.execute(open_job.with_for_update()).first() is None:
            raise _Superseded
        ids: Sequence[str | None] = made or [None] * len(works)
        known = [(row.place, _least(operation)) for row, operation in works]
        noted = session.connection().execute(
            _NOTE,
            [
                {"of_job": self._job.id, "of_place": place, "made": resource_id, "told": told}
                for (place, told), resource_id in zip(known, ids, strict=True)
            ],
        )
        if noted.rowcount != len(works):
            raise _Superseded
        session.execute(
            update(ScimJob)
            .where(ScimJob.id == self._job.id)
            .values(done=ScimJob.done + len(works), status="running")
            .execution_options(synchronize_session=False)
        )
        if (feed := feed_of(session)) is not None:
            feed.answer(session, self._sender, self._job.id, known, now=self._services.clock())

    def _keep(self, session: Session, rows: Sequence[ScimJobOperation], results: Sequence[bulk.Result]) -> None:
        told = {row.place: bulk.shown(result) for row, result in zip(rows, results, strict=True)}
        session.connection().execute(
            _KEEP, [{"of_job": row.job_id, "of_place": row.place, "told": told[row.place]} for row in rows]
        )
        complete_answers(session, self._job.id, list(told.items()))
        errors = sum(result.error is not None for result in results)
        if errors:
            session.execute(
                update(ScimJob)
                .where(ScimJob.id == self._job.id)
                .values(errors=ScimJob.errors + errors)
                .execution_options(synchronize_session=False)
            )

    def _goes_on(self, result: bulk.Result) -> bool:
        most = self._job.fail_on_errors
        if result.error is None or most is None:
            return True
        with self._services.database.read() as session:
            errors = session.execute(select(ScimJob.errors).where(ScimJob.id == self._job.id)).scalar_one()
        if errors < most:
            return True
        self._end("done", f"{errors} errors, as failOnErrors says")
        return False

    def _end(self, status: str, reason: str | None) -> None:
        now = self._services.clock()
        with self._services.database.transaction() as session:
            if end_job(session, self._job.id, status, reason=reason, now=now):
                event = Event(
                    type=EventType.SCIM_JOB_ENDED,
                    at=now,
                    actor=SYSTEM,
                    door=Door.SCIM,
                    target_kind="scim_job",
                    target_id=self._job.id,
                    request_id=self._job.request_id,
                    details={"status": status, "reason": reason},
                )
                record(session, [event])


def _least(operation: bulk.Operation) -> dict[str, Any]:
    """What is known of an operation whose effect is there: it was done; the rest follows when nothing interrupts."""
    known = {"method": operation.method, "status": "200"}
    return known if operation.bulk_id is None else {"bulkId": operation.bulk_id, **known}


_OF_ROW = (ScimJobOperation.job_id == bindparam("of_job"), ScimJobOperation.place == bindparam("of_place"))
_NOTE = (
    update(ScimJobOperation)
    .where(*_OF_ROW, ScimJobOperation.is_done.is_(False))
    .values(is_done=True, sent=None, resource_id=bindparam("made"), result=bindparam("told"))
)
_KEEP = update(ScimJobOperation).where(*_OF_ROW).values(result=bindparam("told"))


def purge_jobs(database: Database, *, now: datetime) -> int:
    """Forget jobs whose results have been there for a week; returns how many."""
    with database.transaction(durable=False) as session:
        old = (
            session.execute(
                select(ScimJob.id).where(ScimJob.finished_at < now - KEPT).order_by(ScimJob.finished_at).limit(20)
            )
            .scalars()
            .all()
        )
        session.execute(delete(ScimJobOperation).where(ScimJobOperation.job_id.in_(old)))
        session.execute(delete(ScimJob).where(ScimJob.id.in_(old)))
    return len(old)
