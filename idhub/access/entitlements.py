"""Entitlements of people, changed set by set, on two time axes.

Called by `lifecycle.transition` alone for people's standing and rules; direct entitlements come through it too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from idhub.access.tables import Entitlement
from idhub.db import bulk_insert, chunked, new_id, new_ids
from idhub.kept import Answer, Kept

Key = tuple[str, str]
"""(application id, role)"""


# Made once: building a statement costs more than what it asks.
_HELD = Kept(
    select(
        Entitlement.id,
        Entitlement.principal_id,
        Entitlement.application_id,
        Entitlement.role,
        Entitlement.reason_kind,
        Entitlement.reason_ref,
        Entitlement.valid_from,
    ).where(
        Entitlement.principal_id.in_(bindparam("people", expanding=True)),
        Entitlement.superseded_at.is_(None),
        Entitlement.valid_to.is_(None),
    )
)
_SUPERSEDE = Kept(
    update(Entitlement)
    .where(Entitlement.id.in_(bindparam("ids", expanding=True)))
    .values(superseded_at=bindparam("at"))
)


@dataclass(frozen=True, slots=True)
class Held:
    """An entitlement that holds now."""

    id: str
    principal_id: str
    application_id: str
    role: str
    reason_kind: str
    reason_ref: str | None
    valid_from: datetime


@dataclass(frozen=True, slots=True)
class EntitlementChange:
    """An entitlement that began or ended with a transition."""

    principal_id: str
    application_id: str
    role: str
    is_entitled: bool
    reason_kind: str
    reason_ref: str | None


def ask_held(session: Session, principal_ids: Sequence[str]) -> list[Answer]:
    """Ask for the entitlements of these principals that hold now (`held_of`)."""
    return [_HELD.ask(session, people=part) for part in chunked(principal_ids)]


def held_of(answers: Iterable[Answer]) -> dict[str, list[Held]]:
    """Entitlements that hold now, by principal."""
    found: dict[str, list[Held]] = {}
    for asked in answers:
        for row in asked.rows():
            found.setdefault(row.principal_id, []).append(Held(*row))
    return found


def held_by(session: Session, principal_ids: Sequence[str]) -> dict[str, list[Held]]:
    """Entitlements that hold now, by principal."""
    return held_of(ask_held(session, principal_ids))


def difference(
    held: Sequence[Held], wanted: Mapping[Key, str], *, keeps_direct: bool
) -> tuple[list[Held], list[tuple[Key, str]]]:
    """What to withdraw and what to entitle, of one principal.

    Args:
        wanted: (application, role) -> id of the rule that wants it.
        keeps_direct: whether entitlements that rest on no rule stay; a leave keeps nothing.
    """
    gone = [
        h for h in held if (h.application_id, h.role) not in wanted and not (keeps_direct and h.reason_kind != "rule")
    ]
    present = {(h.application_id, h.role) for h in held}
    return gone, [(key, rule_id) for key, rule_id in wanted.items() if key not in present]


def withdraw(session: Session, held: Sequence[Held], *, now: datetime) -> None:
    """End entitlements: close the belief, keep what was as a row with its end."""
    for part in chunked([h.id for h in held]):
        _SUPERSEDE.run(session, ids=part, at=now)
    bulk_insert(
        session,
        Entitlement,
        (
            {
                "id": key,
                "principal_id": h.principal_id,
                "application_id": h.application_id,
                "role": h.role,
                "reason_kind": h.reason_kind,
                "reason_ref": h.reason_ref,
                "valid_from": min(h.valid_from, now),
                "valid_to": now,
                "recorded_at": now,
                "superseded_at": None,
            }
            for key, h in zip(new_ids("ent", len(held)), held, strict=True)
        ),
    )


def entitle(session: Session, wanted: Iterable[tuple[str, Key, str, str]], *, now: datetime) -> None:
    """Begin entitlements: (principal, (application, role), reason kind, reason reference)."""
    bulk_insert(
        session,
        Entitlement,
        (
            {
                "id": new_id("ent"),
                "principal_id": principal_id,
                "application_id": application_id,
                "role": role,
                "reason_kind": reason_kind,
                "reason_ref": reason_ref,
                "valid_from": now,
                "valid_to": None,
                "recorded_at": now,
                "superseded_at": None,
            }
            for principal_id, (application_id, role), reason_kind, reason_ref in wanted
        ),
    )
