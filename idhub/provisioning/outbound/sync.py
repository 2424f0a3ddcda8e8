"""Runs over every account of an application: the initial load, and a full resync.

A run plans few deliveries at a time, so that an account that must be switched off meanwhile never waits behind the
whole company; how fast it goes is what the application answers and what its pace allows. It can be paused, goes on
where it stopped, and survives a restart: its place is a row.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from idhub.access.tables import Account, Application, ScimTarget
from idhub.changes import Actor, Event, EventType, record
from idhub.db import new_id
from idhub.delivery.tables import Delivery
from idhub.errors import Conflict, NotFound
from idhub.provisioning.outbound.planner import hold_people, plan_provisions
from idhub.provisioning.outbound.tables import SyncRun

AHEAD: Final = 1_000
"""Deliveries of an application that wait or are being sent at a time, at most, while a run goes on."""
_PART: Final = 200
"""Planned in one transaction, after which others may write to a SQLite database."""

Step = Literal["pause", "resume", "cancel"]
STEPS: Final[tuple[Step, ...]] = ("pause", "resume", "cancel")
_AFTER: Final[dict[Step, tuple[str, str]]] = {
    "pause": ("running", "paused"),
    "resume": ("paused", "running"),
    "cancel": ("running", "cancelled"),
}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the newest run is, and how the accounts of the application are."""

    run_id: str | None
    state: str | None
    total: int
    planned: int
    waiting: int
    """Deliveries to accounts that are not over."""
    dead: int
    accounts: int
    """Accounts that are to be alive."""
    alive: int
    """Of those, the ones that the application has confirmed."""
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def done(self) -> int:
        """Accounts of the run that were looked at and answered."""
        return max(0, self.planned - self.waiting)


def start(session: Session, application_id: str, *, now: datetime, actor: Actor, door: str) -> str:
    """Begin a run over all accounts that are to be alive. Returns its id.

    Raises:
        NotFound: the application has no SCIM target.
        Conflict: a run is under way already.
    """
    target = session.execute(
        select(ScimTarget.application_id).where(ScimTarget.application_id == application_id).with_for_update()
    ).first()
    if target is None:
        raise NotFound("This application has no SCIM target.", field="application", rule="scim.none")
    under_way = session.scalar(
        select(SyncRun.id).where(SyncRun.application_id == application_id, SyncRun.state.in_(("running", "paused")))
    )
    if under_way is not None:
        raise Conflict("A run over this application's accounts is under way.", field="application", rule="sync.running")
    run = SyncRun(
        id=new_id("syn"),
        application_id=application_id,
        state="running",
        total=_count(session, application_id),
        planned=0,
        started_by=f"{actor.kind}:{actor.id}"[:60],
        started_at=now,
    )
    session.add(run)
    session.flush()
    _record(session, run, "started", now=now, actor=actor, door=door)
    return run.id


def take_step(session: Session, application_id: str, step: Step, *, now: datetime, actor: Actor, door: str) -> None:
    """Pause, resume or cancel the run that is under way.

    Raises:
        Conflict: there is none that this could be done to.
    """
    before, after = _AFTER[step]
    states = ("running", "paused") if step == "cancel" else (before,)
    run = session.scalars(
        select(SyncRun)
        .where(SyncRun.application_id == application_id, SyncRun.state.in_(states))
        .order_by(SyncRun.id.desc())
        .limit(1)
        .with_for_update()
    ).one_or_none()
    if run is None:
        raise Conflict(f"There is no run to {step}.", field="application", rule="sync.state")
    run.state = after
    run.finished_at = now if after == "cancelled" else None
    session.flush()
    _record(session, run, after, now=now, actor=actor, door=door)


def progress(session: Session, application_id: str) -> Progress:
    """How far it is."""
    run = session.scalars(
        select(SyncRun).where(SyncRun.application_id == application_id).order_by(SyncRun.id.desc()).limit(1)
    ).one_or_none()
    rows = session.execute(
        select(Delivery.state, func.count().label("many"))
        .where(
            Delivery.application_id == application_id,
            Delivery.state.in_(("pending", "leased", "dead")),
            Delivery.operation == "provision",
        )
        .group_by(Delivery.state)
    )
    states: dict[str, int] = {row.state: row.many for row in rows}
    alive = session.scalar(
        select(func.count()).where(
            Account.application_id == application_id,
            Account.desired_state == "active",
            Account.known_state == "active",
        )
    )
    return Progress(
        run_id=run.id if run else None,
        state=run.state if run else None,
        total=run.total if run else 0,
        planned=run.planned if run else 0,
        waiting=states.get("pending", 0) + states.get("leased", 0),
        dead=states.get("dead", 0),
        accounts=_count(session, application_id),
        alive=alive or 0,
        started_at=run.started_at if run else None,
        finished_at=run.finished_at if run else None,
    )


def under_way(session: Session) -> list[str]:
    """Ids of the runs that go on."""
    return list(
        session.scalars(
            select(SyncRun.id)
            .join(Application, Application.id == SyncRun.application_id)
            .where(SyncRun.state == "running", Application.is_enabled)
            .order_by(SyncRun.id)
        )
    )


def advance(session: Session, *, run_id: str, now: datetime, ahead: int = AHEAD) -> int:
    """Plan the next part of a run, if the part before it is nearly over. Returns how many deliveries were planned."""
    run = session.scalars(select(SyncRun).where(SyncRun.id == run_id).with_for_update()).one()
    if run.state != "running":
        return 0
    unfinished = unfinished_of(session, run.application_id)
    room = room_beside(unfinished, ahead=ahead)
    if not room:
        return 0
    rows = session.execute(
        select(Account.id, Account.principal_id)
        .where(
            Account.application_id == run.application_id,
            Account.id > (run.cursor or ""),
            Account.slot == "main",
            Account.desired_state == "active",
            Account.principal_id.is_not(None),
        )
        .order_by(Account.id)
        .limit(room)
    ).all()
    if not rows:
        if not unfinished:
            run.state, run.finished_at = "done", now
            session.flush()
            _record(session, run, "done", now=now, actor=Actor(kind="system", id="hub", name="idhub"), door="worker")
        return 0
    hold_people(session, (row.principal_id for row in rows))
    # Whoever lost the right while the locks were awaited has a deprovision planned, which must stay the last word.
    still = set(
        session.scalars(
            select(Account.id).where(Account.id.in_([row.id for row in rows]), Account.desired_state == "active")
        )
    )
    planned = len(plan_provisions(session, run.application_id, (row for row in rows if row.id in still), now=now))
    run.cursor, run.planned = rows[-1].id, run.planned + len(rows)
    session.flush()
    return planned


def unfinished_of(session: Session, application_id: str) -> int:
    """Deliveries of an application that wait or are being sent."""
    unfinished = session.scalar(
        select(func.count()).where(Delivery.application_id == application_id, Delivery.state.in_(("pending", "leased")))
    )
    return unfinished or 0


def room_beside(unfinished: int, *, ahead: int = AHEAD) -> int:
    """How many deliveries to plan now, beside those; 0 until it is worth a transaction."""
    room = min(ahead - unfinished, _PART)
    return room if room >= min(ahead, _PART) // 2 else 0


def _count(session: Session, application_id: str) -> int:
    found = session.scalar(
        select(func.count()).where(
            Account.application_id == application_id,
            Account.slot == "main",
            Account.desired_state == "active",
            Account.principal_id.is_not(None),
        )
    )
    return found or 0


def _record(session: Session, run: SyncRun, what: str, *, now: datetime, actor: Actor, door: str) -> None:
    event = Event(
        type=EventType.SYNC_CHANGED,
        at=now,
        actor=actor,
        door=door,
        target_kind="application",
        target_id=run.application_id,
        application_id=run.application_id,
        reason=what,
        details={"run": run.id, "total": run.total, "planned": run.planned},
    )
    record(session, [event])
