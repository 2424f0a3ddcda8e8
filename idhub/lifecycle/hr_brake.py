"""The mass-change brake of the HR file, and what two people release.

More leaves than a company plausibly has, in one file or in 24 hours, are not believed: what the file says outright goes
up to the limit, the rest is held. The same limit, of its own people, holds for every department. A suspension, and a
start put off, take access as a leave does and count as one. Absence is weaker than a word: once the limit is passed,
nobody leaves for being absent. Held changes touch nobody until two different people have said so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import orjson
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from idhub.changes import Actor, Event, EventType, record
from idhub.db import Database, bulk_insert, chunked, new_id
from idhub.directory.kinds import EmploymentState
from idhub.directory.tables import Employment, Person, SourceRecord
from idhub.errors import Conflict, NotFound
from idhub.keys import Keyring
from idhub.lifecycle import intake
from idhub.lifecycle.hr_ahead import PROVIDER
from idhub.lifecycle.hr_plan import Leaving
from idhub.lifecycle.pace import Pace
from idhub.lifecycle.tables import HeldChange, LeaveCount
from idhub.lifecycle.transition import transition

HELD, RELEASED, DROPPED = "held", "released", "dropped"


@dataclass(frozen=True, slots=True)
class Brake:
    """How many may leave a company, or a department of it, before nothing more is believed.

    Args:
        floor: leaves that are always plausible.
        per_mille: of the active people there, where that is more.
        window: time over which the leaves that this source caused are added up.
    """

    floor: int = 20
    per_mille: int = 20
    window: timedelta = timedelta(hours=24)

    def limit(self, active: int) -> int:
        """Leaves that a company or department of `active` people may have in one window."""
        return max(self.floor, active * self.per_mille // 1000)


DEFAULT_BRAKE = Brake()


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldView:
    """One held change, as the list of a release shows it."""

    id: str
    run_id: str
    organization_id: str
    principal_id: str
    display_name: str
    employee_number: str
    kind: str
    held_at: datetime
    first_approver: str | None


@dataclass(frozen=True, slots=True)
class Release:
    """What an approval came to: `waiting` for another person, or `released`, with the people who left."""

    state: str
    changes: int
    left: int = 0


Place = tuple[str, str | None]
"""A company, or with its id a department of it."""


def active_posts(session: Session) -> dict[Place, int]:
    """Active posts of every company and every department."""
    rows = session.execute(
        select(Employment.organization_id, Employment.department_id, func.count())
        .where(Employment.state == EmploymentState.ACTIVE)
        .group_by(Employment.organization_id, Employment.department_id)
    )
    active: dict[Place, int] = {}
    for organization_id, department_id, count in rows:
        for place in dict.fromkeys(((organization_id, None), (organization_id, department_id))):
            active[place] = active.get(place, 0) + count
    return active


def divide(
    session: Session, leaving: Sequence[Leaving], active: Mapping[Place, int], brake: Brake, *, now: datetime
) -> tuple[list[Leaving], list[Leaving]]:
    """Split leaves into those that go and those that are held: by departments first, what is left by companies."""
    departments = _departments_of(session, leaving)
    used = _counted(session, {each.organization_id for each in leaving}, since=now - brake.window)
    go, held = list(leaving), list[Leaving]()
    for is_by_department in (True, False):
        by_place: dict[Place, list[Leaving]] = {}
        for each in go:
            department_id = departments.get(each.employment_id) if is_by_department else None
            by_place.setdefault((each.organization_id, department_id), []).append(each)
        go = []
        for place, listed in by_place.items():
            allowed = max(0, brake.limit(active.get(place, 0)) - used.get(place, 0))
            if len(listed) <= allowed:
                go += listed
                continue
            said = [each for each in listed if each.kind != "absent"]
            go += said[:allowed]
            held += [*said[allowed:], *(each for each in listed if each.kind == "absent")]
    return go, held


def _departments_of(session: Session, leaving: Sequence[Leaving]) -> dict[str, str]:
    """The department of each post that has one."""
    found: dict[str, str] = {}
    for part in chunked([each.employment_id for each in leaving], 1_000):
        rows = session.execute(select(Employment.id, Employment.department_id).where(Employment.id.in_(part)))
        found.update((employment_id, department_id) for employment_id, department_id in rows if department_id)
    return found


def _counted(session: Session, organization_ids: Iterable[str], *, since: datetime) -> dict[Place, int]:
    """Leaves of the window, of companies and of their departments."""
    counted: dict[Place, int] = {}
    for part in chunked(sorted(organization_ids), 1_000):
        rows = session.execute(
            select(LeaveCount.organization_id, LeaveCount.department_id, func.sum(LeaveCount.leaves))
            .where(LeaveCount.provider == PROVIDER, LeaveCount.organization_id.in_(part), LeaveCount.at > since)
            .group_by(LeaveCount.organization_id, LeaveCount.department_id)
        )
        for organization_id, department_id, leaves in rows:
            for place in dict.fromkeys(((organization_id, None), (organization_id, department_id))):
                counted[place] = counted.get(place, 0) + int(leaves)
    return counted


def end_posts(
    session: Session, leaving: Sequence[Leaving], *, now: datetime, actor: Actor, door: str, request_id: str | None
) -> tuple[int, list[intake.Refused]]:
    """Take the access and count it for the brake's window. Returns how many people left, and what was refused."""
    changes = [_wish(each) for each in leaving]
    departments = _departments_of(session, leaving)
    result = transition(session, changes, now=now, actor=actor, door=door, request_id=request_id)
    counts: dict[Place, int] = {}
    for each in leaving:
        place = (each.organization_id, departments.get(each.employment_id))
        counts[place] = counts.get(place, 0) + 1
    bulk_insert(
        session,
        LeaveCount,
        [
            {
                "id": new_id("lvc"),
                "provider": PROVIDER,
                "organization_id": organization_id,
                "department_id": department_id,
                "at": now,
                "leaves": count,
            }
            for (organization_id, department_id), count in counts.items()
        ],
    )
    return len(result.left), result.refused


def _wish(each: Leaving) -> intake.Change:
    reason = f"hr_file.{each.kind}"
    principal_id, employment_id, mark = each.principal_id, each.employment_id, each.mark
    if each.kind == "suspended":
        return intake.Suspend(principal_id=principal_id, employment_id=employment_id, reason=reason, source=mark)
    if each.kind == "put_off":
        values = {"starts_on": each.last_day}
        return intake.Move(principal_id=principal_id, employment_id=employment_id, values=values, source=mark)
    return intake.EndEmployment(
        principal_id=principal_id, employment_id=employment_id, last_day=each.last_day, reason=reason, source=mark
    )


def hold(session: Session, held: Sequence[Leaving], keyring: Keyring, *, run_id: str, now: datetime) -> None:
    """Store what the brake holds back, a part at a time. What was held before takes the newer run's word."""
    for part in chunked([each.employment_id for each in held], 1_000):
        session.execute(
            update(HeldChange)
            .where(HeldChange.state == HELD, HeldChange.provider == PROVIDER, HeldChange.employment_id.in_(part))
            .values(state=DROPPED, decided_at=now)
            .execution_options(synchronize_session=False)
        )
    rows = []
    for each in held:
        held_id = new_id("hld")
        said = {
            "last_day": each.last_day.isoformat() if each.last_day else None,
            "key": each.mark.key,
            "scope": each.mark.scope,
            "content_hash": each.mark.content_hash,
            "state": each.mark.state,
            "raw": each.mark.raw_sealed.hex() if each.mark.raw_sealed else None,
        }
        rows.append(
            {
                "id": held_id,
                "run_id": run_id,
                "provider": PROVIDER,
                "organization_id": each.organization_id,
                "principal_id": each.principal_id,
                "employment_id": each.employment_id,
                "kind": each.kind,
                "change_sealed": keyring.seal(_context(held_id), orjson.dumps(said)),
                "state": HELD,
                "held_at": now,
                "first_approver": None,
                "second_approver": None,
                "decided_at": None,
            }
        )
    bulk_insert(session, HeldChange, rows)


def record_held(session: Session, held: Iterable[Leaving], *, run_id: str, now: datetime, actor: Actor) -> None:
    """Say what a run holds back, with one event a company."""
    counts: dict[str, int] = {}
    for each in held:
        counts[each.organization_id] = counts.get(each.organization_id, 0) + 1
    record(
        session,
        [
            Event(
                type=EventType.IMPORT_QUARANTINED,
                at=now,
                actor=actor,
                door="hr_file",
                target_kind="import",
                target_id=run_id,
                organization_id=organization_id,
                details={"held": count},
            )
            for organization_id, count in counts.items()
        ],
    )


def drop_stale(session: Session, organization_ids: Iterable[str], *, run_id: str, now: datetime) -> int:
    """Drop what earlier runs held in companies that a complete newer file has spoken for. Returns how many."""
    dropped = 0
    for part in chunked(sorted(set(organization_ids)), 1_000):
        result = session.connection().execute(
            update(HeldChange)
            .where(
                HeldChange.state == HELD,
                HeldChange.provider == PROVIDER,
                HeldChange.organization_id.in_(part),
                HeldChange.run_id != run_id,
            )
            .values(state=DROPPED, decided_at=now)
        )
        dropped += result.rowcount
    return dropped


def list_held(session: Session, *, run_id: str | None = None, limit: int = 200) -> list[HeldView]:
    """Held changes, oldest first."""
    query = (
        select(
            HeldChange.id,
            HeldChange.run_id,
            HeldChange.organization_id,
            HeldChange.principal_id,
            Person.display_name,
            Employment.employee_number,
            HeldChange.kind,
            HeldChange.held_at,
            HeldChange.first_approver,
        )
        .join(Person, Person.id == HeldChange.principal_id)
        .join(Employment, Employment.id == HeldChange.employment_id)
        .where(HeldChange.state == HELD)
        .order_by(HeldChange.id)
        .limit(limit)
    )
    if run_id is not None:
        query = query.where(HeldChange.run_id == run_id)
    return [HeldView(**row._mapping) for row in session.execute(query)]


def approve_release(database: Database, run_id: str, *, keyring: Keyring, approver: Actor, now: datetime) -> Release:
    """Say yes to what a run holds. The first yes waits; the second, of another person, lets the leaves happen.

    Who may approve is the caller's to ask of `authorize` (`import.release`). Commits in batches; a release that was
    interrupted goes on with the next yes.

    Raises:
        NotFound: the run holds nothing.
        Conflict: the same person approved before.
    """
    with database.transaction() as session:
        waiting = session.execute(
            select(func.count(), func.max(HeldChange.first_approver)).where(
                HeldChange.run_id == run_id, HeldChange.state == HELD
            )
        ).one()
        if not waiting[0]:
            raise NotFound("This import holds nothing back.", field="run", rule="release.nothing_held")
        if waiting[1] is None:
            session.execute(
                update(HeldChange)
                .where(HeldChange.run_id == run_id, HeldChange.state == HELD)
                .values(first_approver=approver.id)
                .execution_options(synchronize_session=False)
            )
            record(session, [_released(run_id, approver, "waiting", int(waiting[0]), now=now)])
            return Release("waiting", int(waiting[0]))
        if waiting[1] == approver.id:
            raise Conflict("A second person must approve this release.", field="approver", rule="release.same_person")
    return _release(database, run_id, keyring, approver, now=now)


def _release(database: Database, run_id: str, keyring: Keyring, approver: Actor, *, now: datetime) -> Release:
    changes = left = 0
    pace = Pace(database.dialect)
    while True:
        with database.transaction() as session:
            rows = (
                session.execute(
                    select(HeldChange)
                    .where(HeldChange.run_id == run_id, HeldChange.state == HELD)
                    .order_by(HeldChange.id)
                    .limit(pace.size)
                    .with_for_update()
                )
                .scalars()
                .all()
            )
            if rows:
                with pace.work_on(len(rows)):
                    leaving = [_reopen(session, row, keyring, run_id) for row in rows]
                    gone, _ = end_posts(session, leaving, now=now, actor=approver, door="hr_file", request_id=None)
                left += gone
                changes += len(rows)
                session.execute(
                    update(HeldChange)
                    .where(HeldChange.id.in_([row.id for row in rows]))
                    .values(state=RELEASED, second_approver=approver.id, decided_at=now)
                    .execution_options(synchronize_session=False)
                )
            else:
                record(session, [_released(run_id, approver, "released", changes, now=now)])
                return Release("released", changes, left)
        database.give_way()


def _reopen(session: Session, row: HeldChange, keyring: Keyring, run_id: str) -> Leaving:
    said = orjson.loads(keyring.open(_context(row.id), row.change_sealed or b""))
    raw = bytes.fromhex(said["raw"]) if said.get("raw") else None
    if raw is None:
        # Held by an older version: what was said before is all that is left.
        raw = session.execute(
            select(SourceRecord.raw_sealed).where(SourceRecord.provider == PROVIDER, SourceRecord.key == said["key"])
        ).scalar_one_or_none()
    mark = intake.SourceMark(
        provider=PROVIDER,
        key=said["key"],
        scope=said["scope"],
        content_hash=said["content_hash"],
        generation=run_id,
        state=said["state"],
        raw_sealed=raw,
    )
    return Leaving(
        kind=row.kind,
        organization_id=row.organization_id,
        principal_id=row.principal_id,
        employment_id=row.employment_id or "",
        last_day=date.fromisoformat(said["last_day"]) if said["last_day"] else None,
        mark=mark,
    )


def _released(run_id: str, approver: Actor, state: str, changes: int, *, now: datetime) -> Event:
    return Event(
        type=EventType.IMPORT_RELEASED,
        at=now,
        actor=approver,
        door="hr_file",
        target_kind="import",
        target_id=run_id,
        details={"state": state, "changes": changes},
    )


def _context(held_id: str) -> str:
    return f"held_changes:{held_id}"
