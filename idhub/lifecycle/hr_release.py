"""What the brake of the HR file holds, and its release by two people, company by company.

A first yes waits for a second, of another person, about the same company of the same run; it counts as long as whoever
said it may still release there. Nobody says yes to a run that holds a change of their own. What two people have
approved is carried out in batches by whoever comes first: the command that took the second yes, or the worker, which
also goes on where one of them was stopped.

What was said since comes first. While a newer file is being read (`hr_runs`) nothing is released of the companies that
it may speak for, since it may list them as before; whoever it has spoken of, who works elsewhere by now, or who left
and began anew, stays, and the held change is dropped.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from typing import Any

import orjson
from sqlalchemy import ColumnElement, and_, case, distinct, exists, func, not_, select, update
from sqlalchemy.orm import Session, aliased

from idhub.authority import Action, still_counts
from idhub.changes import Actor, Event, EventType, record
from idhub.db import Database, chunked
from idhub.directory.kinds import Standing
from idhub.directory.tables import Employment, LoginName, Person, Principal, SourceRecord
from idhub.errors import Conflict, NotFound
from idhub.keys import Keyring
from idhub.lifecycle import hr_runs, intake
from idhub.lifecycle.hr_ahead import PROVIDER
from idhub.lifecycle.hr_brake import APPROVED, DROPPED, HELD, PENDING, RELEASED, end_posts, seal_context
from idhub.lifecycle.hr_plan import Leaving
from idhub.lifecycle.pace import GoesOn, Pace, nobody_else
from idhub.lifecycle.tables import HeldChange

_ANY_APPROVED = select(exists().where(HeldChange.state == APPROVED))


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


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldGroup:
    """What a run holds of one company, and how far its release is.

    Args:
        waiting: changes without two approvals; `approved`: with both and not carried out yet; `released`: carried out.
        first_approver: who has said yes to what waits; None: nobody.
    """

    run_id: str
    organization_id: str
    held_at: datetime
    waiting: int
    approved: int
    released: int
    first_approver: str | None


@dataclass(frozen=True, slots=True)
class Release:
    """What an approval came to.

    `waiting` for another person, `approved` by two, or `released`; `left`: people who have left by it.
    """

    state: str
    changes: int
    left: int = 0


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


def held_groups(session: Session, *, run_id: str | None = None) -> list[HeldGroup]:
    """What is held or being released, by run and company, newest first. One that is released whole is over."""

    def number_of(state: str) -> Any:
        return func.sum(case((HeldChange.state == state, 1), else_=0))

    query = (
        select(
            HeldChange.run_id,
            HeldChange.organization_id,
            func.max(HeldChange.held_at).label("held_at"),
            number_of(HELD).label("waiting"),
            number_of(APPROVED).label("approved"),
            number_of(RELEASED).label("released"),
            func.max(case((HeldChange.state == HELD, HeldChange.first_approver))).label("first_approver"),
        )
        .where(HeldChange.provider == PROVIDER)
        .group_by(HeldChange.run_id, HeldChange.organization_id)
        .having(number_of(HELD) + number_of(APPROVED) > 0)
        .order_by(HeldChange.run_id.desc(), HeldChange.organization_id)
    )
    if run_id is not None:
        query = query.where(HeldChange.run_id == run_id)
    return [HeldGroup(**row._mapping) for row in session.execute(query)]


def approve(
    session: Session, run_id: str, organization_ids: Collection[str], *, approver: Actor, now: datetime
) -> Release:
    """Say yes to what a run holds of these companies. The first yes waits; the second, of another person, approves.

    A first yes of somebody who has left since, or lost the right to it, is none: this one is the first then. Who may
    approve is the caller's to ask of `authorize` (`import.release`), in each company. Carries nothing out
    (`carry_out`).

    Raises:
        NotFound: the run holds nothing there.
        Conflict: the same person approved before, and nobody else since; or a colleague with the same mail or mobile,
            who is the same human under another account; a change of their own is held; a newer file is being read.
    """
    hr_runs.end_silent(session, now=now)
    if any(run.concerns(organization_ids) for run in hr_runs.open_after(session, run_id, now=now)):
        raise Conflict(
            "A newer file is being read: wait for it, it may say otherwise.", field="run", rule="release.newer_run"
        )
    if session.execute(select(_holds_own(run_id, approver.id))).scalar():
        raise Conflict(
            "A change of your own is held here: two other people must approve this release.",
            field="approver",
            rule="release.own_row",
        )
    approved = waiting = 0
    for part in chunked(sorted(set(organization_ids))):
        here = (HeldChange.run_id == run_id, HeldChange.organization_id.in_(part), HeldChange.state == HELD)
        _forget_void(session, run_id, here)
        same = _accounts_of(session, approver.id)
        # Second yes before first: what the same call has just said yes to is no second one.
        approved += session.connection().execute(
            update(HeldChange)
            .where(*here, HeldChange.first_approver.is_not(None), HeldChange.first_approver.not_in(same))
            .values(state=APPROVED, second_approver=approver.id, decided_at=now)
        ).rowcount  # fmt: skip
        waiting += session.connection().execute(
            update(HeldChange).where(*here, HeldChange.first_approver.is_(None)).values(first_approver=approver.id)
        ).rowcount  # fmt: skip
    if not approved and not waiting:
        if session.execute(select(exists().where(HeldChange.run_id == run_id, HeldChange.state == HELD))).scalar():
            raise Conflict("A second person must approve this release.", field="approver", rule="release.same_person")
        raise NotFound("This import holds nothing back.", field="run", rule="release.nothing_held")
    if waiting:
        record(session, [_event(run_id, approver, "waiting", waiting, now=now)])
    if approved:
        record(session, [_event(run_id, approver, "approved", approved, now=now)])
    return Release("waiting", waiting) if waiting else Release("approved", approved)


def _waits_for(run: hr_runs.OpenRun) -> ColumnElement[bool]:
    """Held changes that this run, which is under way, may say otherwise about."""
    older = HeldChange.run_id < run.id
    return older if run.within is None else and_(older, HeldChange.organization_id.in_(run.within))


def _holds_own(run_id: str, principal_id: str) -> ColumnElement[bool]:
    """Whether a run holds a change of this person's."""
    return exists().where(
        HeldChange.run_id == run_id, HeldChange.principal_id == principal_id, HeldChange.state.in_(PENDING)
    )


def _accounts_of(session: Session, principal_id: str) -> list[str]:
    """The person, and whoever has the same mail or mobile: two accounts of one human are not two people."""
    own = aliased(LoginName)
    found = session.execute(
        select(LoginName.principal_id)
        .join(own, own.value == LoginName.value)
        .where(own.principal_id == principal_id, own.kind.in_(("email", "mobile")))
    ).scalars()
    return [principal_id, *found]


def _forget_void(session: Session, run_id: str, here: Sequence[ColumnElement[bool]]) -> None:
    """Forget first approvals of people who may not give them any more, or whose own change is held since."""
    given = select(HeldChange.organization_id, HeldChange.first_approver).where(
        *here, HeldChange.first_approver.is_not(None)
    )
    for organization_id, first in session.execute(given.distinct()).all():
        if first is not None and (
            not still_counts(session, first, Action.IMPORT_RELEASE, organization_id=organization_id)
            or session.execute(select(_holds_own(run_id, first))).scalar()
        ):
            session.execute(
                update(HeldChange)
                .where(*here, HeldChange.organization_id == organization_id, HeldChange.first_approver == first)
                .values(first_approver=None)
                .execution_options(synchronize_session=False)
            )


def approve_release(database: Database, run_id: str, *, keyring: Keyring, approver: Actor, now: datetime) -> Release:
    """Say yes to all that a run holds, and carry out at once what has two approvals.

    Raises:
        NotFound: the run holds nothing.
        Conflict: the same person approved before.
    """
    with database.transaction() as session:
        companies = [group.organization_id for group in held_groups(session, run_id=run_id)]
        said = approve(session, run_id, companies, approver=approver, now=now)
    carry_out(database, keyring, now=now, run_id=run_id)
    if said.state == "waiting":
        return said
    with database.read() as session:
        changes, left = session.execute(
            select(
                func.count(),
                func.count(distinct(case((Principal.standing == Standing.LEFT, HeldChange.principal_id)))),
            )
            .join(Principal, Principal.id == HeldChange.principal_id)
            .where(HeldChange.run_id == run_id, HeldChange.state == RELEASED)
        ).one()
    return Release("released", changes, left)


def has_work(database: Database, *, now: datetime) -> bool:
    """Whether `carry_out` has something to do."""
    with database.read() as session:
        return bool(session.execute(_ANY_APPROVED).scalar()) or hr_runs.has_silent(session, now=now)


def carry_out(
    database: Database, keyring: Keyring, *, now: datetime, run_id: str | None = None, goes_on: GoesOn = nobody_else
) -> int:
    """Let approved changes happen, a batch a transaction. Returns how many did. Several processes may do it at once.

    Runs that ended before their end are noted first: nothing waits for them.
    """
    done = 0
    pace = Pace(database.dialect)
    if not has_work(database, now=now):
        return 0
    while True:
        with database.transaction() as session:
            batch = _next_batch(session, run_id, pace.size, now=now)
            if not batch:
                return done
            with pace.work_on(len(batch)):
                for _, of_one in groupby(batch, key=lambda row: (row.run_id, row.second_approver)):
                    _release(session, list(of_one), keyring, now=now)
            done += len(batch)
        if not goes_on(len(batch)):
            return done
        database.give_way()


def _next_batch(session: Session, run_id: str | None, size: int, *, now: datetime) -> Sequence[HeldChange]:
    hr_runs.end_silent(session, now=now)
    waiting = [_waits_for(run) for run in hr_runs.open_after(session, "", now=now)]
    query = select(HeldChange).where(HeldChange.state == APPROVED, *map(not_, waiting))
    if run_id is not None:
        query = query.where(HeldChange.run_id == run_id)
    order = (HeldChange.run_id, HeldChange.second_approver, HeldChange.id)
    return session.execute(query.order_by(*order).limit(size).with_for_update()).scalars().all()


def _release(session: Session, rows: Sequence[HeldChange], keyring: Keyring, *, now: datetime) -> None:
    run_id, approver = rows[0].run_id, _person(session, rows[0].second_approver or "")
    opened = {row.id: _reopen(session, row, keyring) for row in rows}
    stale = _overtaken(session, run_id, opened)
    leaving = [each for held_id, (each, _) in opened.items() if held_id not in stale]
    end_posts(session, leaving, now=now, actor=approver, door="hr_file", request_id=None)
    for state, ids in ((RELEASED, opened.keys() - stale), (DROPPED, stale)):
        if ids:
            session.execute(
                update(HeldChange)
                .where(HeldChange.id.in_(ids))
                .values(state=state)
                .execution_options(synchronize_session=False)
            )
    for organization_id in sorted({row.organization_id for row in rows}):
        ours = (HeldChange.run_id == run_id, HeldChange.organization_id == organization_id)
        if not session.execute(select(exists().where(*ours, HeldChange.state == APPROVED))).scalar():
            done = session.execute(select(func.count()).where(*ours, HeldChange.state == RELEASED)).scalar_one()
            record(session, [_event(run_id, approver, "released", done, now=now, organization_id=organization_id)])


def _overtaken(session: Session, run_id: str, opened: Mapping[str, tuple[Leaving, str | None]]) -> set[str]:
    """Of held changes by id: those about somebody of whom the source has spoken since, or whose post is another now."""
    keys = [each.mark.key for each, _ in opened.values()]
    later = set(
        session.execute(
            select(SourceRecord.key).where(
                SourceRecord.provider == PROVIDER, SourceRecord.key.in_(keys), SourceRecord.generation > run_id
            )
        ).scalars()
    )
    posts = {
        employment_id: (organization_id, starts_on.isoformat())
        for employment_id, organization_id, starts_on in session.execute(
            select(Employment.id, Employment.organization_id, Employment.starts_on).where(
                Employment.id.in_([each.employment_id for each, _ in opened.values()])
            )
        )
    }
    return {
        held_id
        for held_id, (each, began_on) in opened.items()
        if each.mark.key in later
        or posts.get(each.employment_id, ("", None))
        != (each.organization_id, began_on or posts.get(each.employment_id, ("", None))[1])
    }


def _person(session: Session, principal_id: str) -> Actor:
    name = session.execute(select(Person.display_name).where(Person.id == principal_id)).scalar()
    return Actor(kind="person", id=principal_id, name=name or principal_id)


def _reopen(session: Session, row: HeldChange, keyring: Keyring) -> tuple[Leaving, str | None]:
    """The leave, and the first day that the post had when it was held; None: held by an older version."""
    said = orjson.loads(keyring.open(seal_context(row.id), row.change_sealed or b""))
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
        generation=row.run_id,
        state=said["state"],
        raw_sealed=raw,
    )
    leaving = Leaving(
        kind=row.kind,
        organization_id=row.organization_id,
        principal_id=row.principal_id,
        employment_id=row.employment_id or "",
        last_day=date.fromisoformat(said["last_day"]) if said["last_day"] else None,
        mark=mark,
    )
    return leaving, said.get("starts_on")


def _event(
    run_id: str, approver: Actor, state: str, changes: int, *, now: datetime, organization_id: str | None = None
) -> Event:
    return Event(
        type=EventType.IMPORT_RELEASED,
        at=now,
        actor=approver,
        door="hr_file",
        target_kind="import",
        target_id=run_id,
        organization_id=organization_id,
        details={"state": state, "changes": changes},
    )
