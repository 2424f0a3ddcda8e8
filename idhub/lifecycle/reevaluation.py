"""After rules changed: everybody is looked at again, in bounded batches that go on after a restart.

Somebody on whom it fails holds up nobody else: they are noted with the kind of the error, `idhub doctor` names them,
and they are tried again, ever less often, until it succeeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from idhub.changes import SYSTEM, Actor
from idhub.db import Database
from idhub.directory.kinds import PrincipalKind, Standing
from idhub.directory.tables import Installation, Principal
from idhub.lifecycle.intake import Reevaluate
from idhub.lifecycle.pace import GoesOn, Pace, nobody_else
from idhub.lifecycle.tables import UnevaluatedPerson
from idhub.lifecycle.transition import transition

_AGAIN_AFTER: Final = timedelta(minutes=1)
_AGAIN_AT_THE_LATEST_AFTER: Final = timedelta(hours=1)
_TRIED_AT_ONCE: Final = 50
MOST_NOTED: Final = 100
"""When it fails on more people, it is not they who are the cause: nothing goes on then."""
_log = structlog.get_logger(__name__)

Progress = Callable[[int, int], None]
"""(done, of how many)"""


@dataclass(frozen=True, slots=True)
class Unevaluated:
    """Somebody who is not brought up to the newest rules, since when, and the kind of error that it ended with."""

    principal_id: str
    error: str
    attempts: int
    since: datetime


def has_work(database: Database, *, now: datetime) -> bool:
    """Whether `reevaluate_pending` has something to do."""
    behind = select(Installation.rules_version).where(Installation.rules_version != Installation.evaluated_version)
    with database.read() as session:
        return bool(session.execute(behind).first() or _due(session, 1, now=now))


def unevaluated(session: Session) -> list[Unevaluated]:
    """People on whom the look failed, oldest first."""
    query = select(UnevaluatedPerson).order_by(UnevaluatedPerson.since, UnevaluatedPerson.principal_id)
    return [
        Unevaluated(row.principal_id, row.error, row.attempts, row.since) for row in session.execute(query).scalars()
    ]


def reevaluate_pending(
    database: Database,
    *,
    clock: Callable[[], datetime],
    actor: Actor = SYSTEM,
    door: str = "schedule",
    progress: Progress | None = None,
    goes_on: GoesOn = nobody_else,
) -> int:
    """Bring entitlements up to the newest rules, if they are behind. Returns how many people were looked at.

    Several processes may call it at once. A batch is one transaction, and the stored mark moves forward after it;
    nothing is lost when a process stops in between: the batch is looked at again. Those on whom it failed before are
    tried again first, where it is time.

    Raises:
        Exception: what it failed with on yet another person, of more than `MOST_NOTED`.
    """

    def look(principal_ids: Sequence[str]) -> None:
        changes = [Reevaluate(principal_id=principal_id) for principal_id in principal_ids]
        with database.transaction() as session, pace.work_on(len(changes)):
            transition(session, changes, now=clock(), actor=actor, door=door)

    looked_at = 0
    pace = Pace(database.dialect)
    total: int | None = None
    people = (Principal.kind == PrincipalKind.PERSON, Principal.standing != Standing.LEFT)
    with database.read() as session:
        due = _due(session, _TRIED_AT_ONCE, now=clock())
    for principal_id in due:
        _try_alone(database, principal_id, look, now=clock())
    while True:
        with database.read() as session:
            mark = session.execute(
                select(Installation.rules_version, Installation.evaluated_version, Installation.evaluated_up_to)
            ).one_or_none()
            if mark is None or mark.rules_version == mark.evaluated_version:
                return looked_at
            if total is None:
                total = session.execute(select(func.count()).select_from(Principal).where(*people)).scalar_one()
            batch = (
                session.execute(
                    select(Principal.id)
                    .where(*people, Principal.id > (mark.evaluated_up_to or ""))
                    .order_by(Principal.id)
                    .limit(pace.size)
                )
                .scalars()
                .all()
            )
        if batch:
            try:
                look(batch)
            except Exception:
                _log.exception("rules.batch_failed", people=len(batch))
                for principal_id in batch:
                    _try_alone(database, principal_id, look, now=clock())
        # In a transaction of its own: held while people are locked, the row would deadlock with transitions that read
        # the rules under it (`transition._entitle`).
        with database.transaction() as session:
            _move_mark(session, mark, batch[-1] if batch else None)
        database.give_way()
        looked_at += len(batch)
        if progress is not None and total:
            progress(min(looked_at, total), total)
        if not goes_on(len(batch)):
            return looked_at


def _due(session: Session, most: int, *, now: datetime) -> Sequence[str]:
    query = select(UnevaluatedPerson.principal_id).where(UnevaluatedPerson.again_at <= now)
    return session.execute(query.order_by(UnevaluatedPerson.again_at).limit(most)).scalars().all()


def _try_alone(database: Database, principal_id: str, look: Callable[[Sequence[str]], None], *, now: datetime) -> None:
    """Look at one person; note it if that fails, and forget it if it does not."""
    try:
        look([principal_id])
    except Exception as error:
        _log.exception("rules.failed", person=principal_id)
        # Where the database is gone this fails too, and nobody is passed over.
        with database.transaction() as session:
            _note(session, principal_id, error, now=now)
        return
    with database.transaction() as session:
        session.execute(delete(UnevaluatedPerson).where(UnevaluatedPerson.principal_id == principal_id))


def _note(session: Session, principal_id: str, error: Exception, *, now: datetime) -> None:
    kind = type(error).__name__[:120]
    row = session.get(UnevaluatedPerson, principal_id, with_for_update=True)
    if row is not None:
        after = min(_AGAIN_AFTER * 2 ** min(row.attempts, 10), _AGAIN_AT_THE_LATEST_AFTER)
        row.error, row.attempts, row.again_at = kind, row.attempts + 1, now + after
        return
    if session.execute(select(func.count()).select_from(UnevaluatedPerson)).scalar_one() >= MOST_NOTED:
        raise error
    session.add(
        UnevaluatedPerson(principal_id=principal_id, error=kind, attempts=1, since=now, again_at=now + _AGAIN_AFTER)
    )


def _move_mark(session: Session, mark: Any, last: str | None) -> None:
    """Forward from where this process read it; another that was quicker, or newer rules, win."""
    values: dict[str, int | str | None] = {"evaluated_up_to": last}
    if last is None:
        values["evaluated_version"] = mark.rules_version
    session.execute(
        update(Installation)
        .where(
            Installation.rules_version == mark.rules_version,
            Installation.evaluated_version == mark.evaluated_version,
            Installation.evaluated_up_to.is_not_distinct_from(mark.evaluated_up_to),
        )
        .values(**values)
        .execution_options(synchronize_session=False)
    )
