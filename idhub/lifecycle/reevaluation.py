"""After rules changed: everybody is looked at again, in bounded batches that go on after a restart."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from idhub.changes import SYSTEM, Actor
from idhub.db import Database
from idhub.directory.kinds import PrincipalKind, Standing
from idhub.directory.tables import Installation, Principal
from idhub.lifecycle.intake import Reevaluate
from idhub.lifecycle.pace import GoesOn, Pace, nobody_else
from idhub.lifecycle.transition import transition

Progress = Callable[[int, int], None]
"""(done, of how many)"""


def is_behind(database: Database) -> bool:
    """Whether `reevaluate_pending` has something to do."""
    behind = select(Installation.rules_version).where(Installation.rules_version != Installation.evaluated_version)
    with database.read() as session:
        return session.execute(behind).first() is not None


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
    nothing is lost when a process stops in between: the batch is looked at again.
    """
    looked_at = 0
    pace = Pace(database.dialect)
    total: int | None = None
    people = (Principal.kind == PrincipalKind.PERSON, Principal.standing != Standing.LEFT)
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
            with database.transaction() as session, pace.work_on(len(batch)):
                transition(session, [Reevaluate(principal_id=p) for p in batch], now=clock(), actor=actor, door=door)
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
