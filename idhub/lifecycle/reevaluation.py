"""After rules changed: everybody is looked at again, in bounded batches that go on after a restart."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import func, select, update

from idhub.changes import SYSTEM, Actor
from idhub.db import Database
from idhub.directory.tables import Installation, Principal, PrincipalKind, Standing
from idhub.lifecycle.intake import Reevaluate
from idhub.lifecycle.transition import transition

_BATCH = 250
Progress = Callable[[int, int], None]
"""(done, of how many)"""


def reevaluate_pending(
    database: Database,
    *,
    clock: Callable[[], datetime],
    actor: Actor = SYSTEM,
    door: str = "schedule",
    progress: Progress | None = None,
) -> int:
    """Bring entitlements up to the newest rules, if they are behind. Returns how many people were looked at.

    Several processes may call it at once; a batch is one transaction and moves a stored mark forward.
    """
    looked_at = 0
    total: int | None = None
    while True:
        with database.transaction() as session:
            mark = session.execute(
                select(
                    Installation.rules_version, Installation.evaluated_version, Installation.evaluated_up_to
                ).with_for_update()
            ).one_or_none()
            if mark is None or mark.rules_version == mark.evaluated_version:
                return looked_at
            people = (Principal.kind == PrincipalKind.PERSON, Principal.standing != Standing.LEFT)
            if total is None:
                total = session.execute(select(func.count()).select_from(Principal).where(*people)).scalar_one()
            batch = (
                session.execute(
                    select(Principal.id)
                    .where(*people, Principal.id > (mark.evaluated_up_to or ""))
                    .order_by(Principal.id)
                    .limit(_BATCH)
                )
                .scalars()
                .all()
            )
            if batch:
                transition(session, [Reevaluate(principal_id=p) for p in batch], now=clock(), actor=actor, door=door)
                values: dict[str, int | str | None] = {"evaluated_up_to": batch[-1]}
            else:
                values = {"evaluated_version": mark.rules_version, "evaluated_up_to": None}
            session.execute(
                update(Installation)
                .where(Installation.rules_version == mark.rules_version)
                .values(**values)
                .execution_options(synchronize_session=False)
            )
        looked_at += len(batch)
        if progress is not None and total:
            progress(min(looked_at, total), total)
