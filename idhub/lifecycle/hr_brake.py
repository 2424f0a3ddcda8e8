"""The mass-change brake of the HR file: what goes, what is held.

More leaves than a company plausibly has, in one file or in 24 hours, are not believed: what the file says outright goes
up to the limit, the rest is held. The same limit, of its own people, holds for every department. A suspension, and a
start put off, take access as a leave does and count as one. Absence is weaker than a word: once the limit is passed,
nobody leaves for being absent. Held changes touch nobody until two different people have said so (`hr_release`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import orjson
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from idhub.changes import Actor, Event, EventType, record
from idhub.db import bulk_insert, chunked, new_id
from idhub.directory.kinds import EmploymentState
from idhub.directory.tables import Employment, Organization
from idhub.keys import Keyring
from idhub.lifecycle import intake
from idhub.lifecycle.hr_ahead import PROVIDER
from idhub.lifecycle.hr_plan import Leaving
from idhub.lifecycle.tables import HeldChange, LeaveCount
from idhub.lifecycle.transition import transition

HELD, APPROVED, RELEASED, DROPPED = "held", "approved", "released", "dropped"
PENDING = (HELD, APPROVED)
"""Not carried out yet: a newer word of the source takes its place."""


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


def lock(session: Session, organization_ids: Iterable[str]) -> None:
    """Let nobody else count leaves of these companies until this transaction ends: runs share one limit.

    On SQLite the write transaction itself does it.
    """
    # NO KEY UPDATE on PostgreSQL: rows that only name the company are written meanwhile.
    session.execute(
        select(Organization.id)
        .where(Organization.id.in_(sorted(organization_ids)))
        .order_by(Organization.id)
        .with_for_update(key_share=True)
    ).all()


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


def _starts_of(session: Session, leaving: Sequence[Leaving]) -> dict[str, date]:
    """The first day of each post."""
    found: dict[str, date] = {}
    for part in chunked([each.employment_id for each in leaving], 1_000):
        rows = session.execute(select(Employment.id, Employment.starts_on).where(Employment.id.in_(part)))
        found.update((employment_id, starts_on) for employment_id, starts_on in rows)
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
            .where(HeldChange.state.in_(PENDING), HeldChange.provider == PROVIDER, HeldChange.employment_id.in_(part))
            .values(state=DROPPED, decided_at=now)
            .execution_options(synchronize_session=False)
        )
    begun = _starts_of(session, held)
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
            "starts_on": begun.get(each.employment_id),
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
                "change_sealed": keyring.seal(seal_context(held_id), orjson.dumps(said)),
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
                HeldChange.state.in_(PENDING),
                HeldChange.provider == PROVIDER,
                HeldChange.organization_id.in_(part),
                HeldChange.run_id != run_id,
            )
            .values(state=DROPPED, decided_at=now)
        )
        dropped += result.rowcount
    return dropped


def seal_context(held_id: str) -> str:
    """What the sealed change of a held row is bound to."""
    return f"held_changes:{held_id}"
