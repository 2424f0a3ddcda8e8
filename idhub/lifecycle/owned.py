"""What has an owner: services and devices. Registered behind the one door, and handed on when their owner leaves."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BindParameter, bindparam, select, update
from sqlalchemy.orm import Session

from idhub.access.entitlements import entitle
from idhub.db import bulk_insert, chunked
from idhub.directory.kinds import PrincipalKind, Standing
from idhub.directory.tables import Employment, Person, Principal
from idhub.kept import Answer, Kept
from idhub.lifecycle.intake import RegisterService

ROTATION_PERIOD = timedelta(days=14)
"""How long services and devices of a leaver may keep their credentials."""
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_OWNED = Kept(
    select(Principal.id, Principal.owner_id)
    .where(Principal.owner_id.in_(_IDS))
    .order_by(Principal.id)
    .with_for_update(key_share=True)
)
_LONGEST_LINE = 12
"""Managers above a leaver who are asked before what they owned has no owner; ends also where managers form a ring."""


def ask(session: Session, leavers: Iterable[str]) -> list[Answer]:
    """Ask for services and devices of leavers (`hand_over`), and lock them."""
    return [_OWNED.ask(session, ids=part) for part in chunked(sorted(leavers))]


def hand_over(
    session: Session, owned: Iterable[Answer], leavers: Mapping[str, str | None], *, now: datetime
) -> list[tuple[str, str, str | None]]:
    """Give services and devices of leavers to their manager, with a deadline to rotate their credentials.

    One leaver must not stop production: what the person owned goes on, what was personal is dead. A manager who has
    left too, or leaves in the same batch, takes nothing over: the next one above does.

    Args:
        leavers: leaver -> manager who takes over, None when there is none.

    Returns: (owned principal, leaver, new owner) of each.
    """
    handed: list[tuple[str, str, str | None]] = []
    for asked in owned:
        rows = asked.rows()
        if not rows:
            continue
        takers = _takers(session, {row.owner_id: leavers[row.owner_id] for row in rows if row.owner_id is not None})
        for owned_id, leaver in ((row.id, row.owner_id) for row in rows if row.owner_id is not None):
            session.execute(
                update(Principal)
                .where(Principal.id == owned_id)
                .values(owner_id=takers[leaver], rotation_due_at=now + ROTATION_PERIOD, version=Principal.version + 1)
                .execution_options(synchronize_session=False)
            )
            handed.append((owned_id, leaver, takers[leaver]))
    return handed


def _takers(session: Session, managers: Mapping[str, str | None]) -> dict[str, str | None]:
    """Leaver -> the nearest manager above who has not left; None where there is none within a few steps."""
    takers: dict[str, str | None] = {}
    above = dict(managers)
    for _ in range(_LONGEST_LINE):
        asked = sorted({manager for manager in above.values() if manager is not None})
        found = {
            row.id: (Standing(row.standing), row.manager_id)
            for row in session.execute(
                select(Principal.id, Principal.standing, Employment.manager_id)
                .join(Person, Person.id == Principal.id)
                .outerjoin(Employment, Employment.id == Person.main_employment_id)
                .where(Principal.id.in_(asked))
            )
        }
        for leaver, manager in list(above.items()):
            standing, next_manager = found.get(manager or "", (Standing.LEFT, None))
            if standing != Standing.LEFT or manager is None:
                takers[leaver] = manager
                del above[leaver]
            else:
                above[leaver] = next_manager
        if not above:
            break
    return {**dict.fromkeys(managers), **takers}


def register(
    session: Session, changes: Sequence[RegisterService], *, now: datetime
) -> list[tuple[RegisterService, bool]]:
    """Store service identities. Returns each that is new (True) or changed (False); what was so already is left out.

    A service holds its application's entitlement directly; it is no person and no rule reaches it.
    """
    done: list[tuple[RegisterService, bool]] = []
    for change in changes:
        known = session.execute(
            select(Principal.owner_id, Principal.access_ends_at)
            .where(Principal.id == change.principal_id, Principal.kind == PrincipalKind.SERVICE)
            .with_for_update()
        ).one_or_none()
        values = {
            "organization_id": change.organization_id,
            "owner_id": change.owner_id,
            "access_ends_at": change.ends_at,
            "changed_at": now,
        }
        if known is None:
            row = {
                "id": change.principal_id,
                "kind": PrincipalKind.SERVICE,
                "standing": Standing.ACTIVE,
                "access_epoch": 1,
                "enrolment_epoch": 1,
                "access_starts_at": now,
                "version": 1,
                "created_at": now,
                **values,
            }
            bulk_insert(session, Principal, [row])
            entitle(session, [(change.principal_id, (change.application_id, "service"), "direct", "service")], now=now)
        elif (known.owner_id, known.access_ends_at) != (change.owner_id, change.ends_at):
            session.execute(
                update(Principal)
                .where(Principal.id == change.principal_id)
                .values(version=Principal.version + 1, **values)
                .execution_options(synchronize_session=False)
            )
        else:
            continue
        done.append((change, known is None))
    return done
