"""Authority over the hub itself: who may do what, to whom.

Hub roles are assigned by people or the command line only; no rule, group, SCIM attribute or HR file reaches them.
One function decides (`authorize`), and the same scope filters queries (`visible_organizations`). Read from the
database on every use: a role removed is gone at the next request.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import ForeignKey, Index, Integer, Select, String, select, text, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from idhub.db import Base, Instant, chunked, new_id
from idhub.directory.kinds import Standing
from idhub.directory.tables import OrganizationClosure, Principal
from idhub.errors import Conflict, NotPermitted

NEVER: Final = datetime.max.replace(tzinfo=UTC)
"""When access ends that has no end."""
_HELD = text("removed_at IS NULL")


class HubRole(StrEnum):
    """Roles over the hub. The auditor's excludes the others: nobody audits what they did."""

    ADMINISTRATOR = "administrator"
    HR = "hr"
    AUDITOR = "auditor"


class Action(StrEnum):
    """What can be asked of the hub."""

    PEOPLE_READ = "people.read"
    PEOPLE_CHANGE = "people.change"
    PEOPLE_OFFBOARD = "people.offboard"
    PEOPLE_INVITE = "people.invite"
    IMPORT_RUN = "import.run"
    IMPORT_RELEASE = "import.release"
    RECEIPT_READ = "receipt.read"
    APPLICATION_READ = "application.read"
    APPLICATION_CHANGE = "application.change"
    DELIVERY_READ = "delivery.read"
    DELIVERY_RETRY = "delivery.retry"
    FINDING_READ = "finding.read"
    FINDING_DECIDE = "finding.decide"
    FINDING_RELEASE = "finding.release"
    RECONCILE_RUN = "reconcile.run"
    AUDIT_READ = "audit.read"
    AUDIT_EXPORT = "audit.export"
    ROLE_ASSIGN = "role.assign"


ROLE_ACTIONS: Mapping[HubRole, frozenset[Action]] = {
    HubRole.HR: frozenset(
        {
            Action.PEOPLE_READ,
            Action.PEOPLE_CHANGE,
            Action.PEOPLE_OFFBOARD,
            Action.PEOPLE_INVITE,
            Action.IMPORT_RUN,
            Action.IMPORT_RELEASE,
            Action.RECEIPT_READ,
            Action.FINDING_READ,
            Action.FINDING_DECIDE,
            Action.FINDING_RELEASE,
        }
    ),
    HubRole.ADMINISTRATOR: frozenset(
        {
            Action.PEOPLE_READ,
            Action.PEOPLE_INVITE,
            Action.RECEIPT_READ,
            Action.APPLICATION_READ,
            Action.APPLICATION_CHANGE,
            Action.DELIVERY_READ,
            Action.DELIVERY_RETRY,
            Action.FINDING_READ,
            Action.FINDING_DECIDE,
            Action.FINDING_RELEASE,
            Action.RECONCILE_RUN,
            Action.ROLE_ASSIGN,
        }
    ),
    HubRole.AUDITOR: frozenset(
        {
            Action.PEOPLE_READ,
            Action.RECEIPT_READ,
            Action.APPLICATION_READ,
            Action.DELIVERY_READ,
            Action.FINDING_READ,
            Action.AUDIT_READ,
            Action.AUDIT_EXPORT,
        }
    ),
}


class RoleAssignment(Base):
    """A hub role of a person over an organization's subtree; dies with the enrolment epoch it was given in."""

    __tablename__ = "role_assignments"
    __table_args__ = (
        Index(
            "uq_role_assignments_held",
            "principal_id",
            "role",
            "organization_id",
            unique=True,
            sqlite_where=_HELD,
            postgresql_where=_HELD,
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"))
    role: Mapped[HubRole] = mapped_column(String(24))
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    enrolment_epoch: Mapped[int] = mapped_column(Integer)
    assigned_at: Mapped[datetime] = mapped_column(Instant)
    assigned_by: Mapped[str] = mapped_column(String(60))
    removed_at: Mapped[datetime | None] = mapped_column(Instant)


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """Who asks: a signed-in person, a token, or the command line on the hub's own machine.

    Args:
        principal_id: the person or service behind it; None for the command line and tokens that it made.
        is_local: the command line: everything is permitted, because whoever runs it already owns the data folder.
        actions: of a token: what its scopes permit; None: decided by roles.
        organization_id: of a token limited to a company: the root of the subtree it may touch.
    """

    principal_id: str | None = None
    is_local: bool = False
    actions: frozenset[Action] | None = None
    organization_id: str | None = field(default=None)


LOCAL = Subject(is_local=True)


def roles_of(session: Session, principal_id: str) -> list[tuple[HubRole, str]]:
    """Roles that the person holds now, each with the root of its subtree."""
    rows = session.execute(
        select(RoleAssignment.role, RoleAssignment.organization_id)
        .join(Principal, Principal.id == RoleAssignment.principal_id)
        .where(
            RoleAssignment.principal_id == principal_id,
            RoleAssignment.removed_at.is_(None),
            RoleAssignment.enrolment_epoch == Principal.enrolment_epoch,
            Principal.standing == Standing.ACTIVE,
        )
    )
    return [(HubRole(role), organization_id) for role, organization_id in rows]


def scope_roots(session: Session, subject: Subject, action: Action) -> list[str] | None:
    """Roots of the subtrees in which the subject may do `action`; None means everywhere, an empty list nowhere."""
    if subject.is_local:
        return None
    if subject.actions is not None:
        if action not in subject.actions:
            return []
        return None if subject.organization_id is None else [subject.organization_id]
    if subject.principal_id is None:
        return []
    return [root for role, root in roles_of(session, subject.principal_id) if action in ROLE_ACTIONS[role]]


def visible_organizations(session: Session, subject: Subject, action: Action) -> Select[str] | None:
    """Subquery of organization ids in which the subject may do `action`; None when there is no limit.

    The same scope that `authorize` checks, for filtering lists, totals and pickers.
    """
    roots = scope_roots(session, subject, action)
    if roots is None:
        return None
    return select(OrganizationClosure.descendant_id).where(OrganizationClosure.ancestor_id.in_(roots))


def may(session: Session, subject: Subject, action: Action, *, organization_id: str | None = None) -> bool:
    """Whether the subject may do `action` in the organization (or anywhere at all, when none is named)."""
    roots = scope_roots(session, subject, action)
    if roots is None:
        return True
    if not roots:
        return False
    if organization_id is None:
        return True
    held = session.execute(
        select(OrganizationClosure.descendant_id)
        .where(OrganizationClosure.ancestor_id.in_(roots), OrganizationClosure.descendant_id == organization_id)
        .limit(1)
    ).first()
    return held is not None


def still_counts(session: Session, approver_id: str, action: Action, *, organization_id: str) -> bool:
    """Whether a first approval counts when the second comes: whoever gave it may give it still, there.

    Two people release means two who may, at the moment of the release; who left or lost the role since is none of them.
    """
    return may(session, Subject(principal_id=approver_id), action, organization_id=organization_id)


def authorize(session: Session, subject: Subject, action: Action, *, organization_id: str | None = None) -> None:
    """Permit or refuse.

    Args:
        organization_id: where the thing acted upon belongs; None: the action as such (a list, which is filtered).

    Raises:
        NotPermitted: no role or scope of the subject covers it.
    """
    if not may(session, subject, action, organization_id=organization_id):
        raise NotPermitted("You do not have the right to do this here.", rule=f"authority.{action.value}")


def is_covered(session: Session, subject: Subject, action: Action, principal_id: str) -> bool:
    """Whether the subject may do `action` in every place in which the person holds a hub role.

    What gives access back or changes how somebody signs in is asked so, beside `authorize`: whoever may act on the
    people of one company gets no hold over a colleague's authority elsewhere.
    """
    roots = scope_roots(session, subject, action)
    return roots is None or are_roles_within(session, principal_id, roots)


def are_roles_within(session: Session, principal_id: str, roots: Sequence[str]) -> bool:
    """Whether every hub role of the person lies in these subtrees; a suspended person's count, they come back."""
    held = set(session.scalars(_held_places(principal_id)))
    if not held:
        return True
    within = session.scalars(
        select(OrganizationClosure.descendant_id).where(
            OrganizationClosure.ancestor_id.in_(roots), OrganizationClosure.descendant_id.in_(held)
        )
    )
    return held <= set(within)


def holds_any_role(session: Session, principal_id: str) -> bool:
    """Whether the person holds a hub role, wherever and whatever their standing."""
    return session.execute(_held_places(principal_id).limit(1)).first() is not None


def cover(session: Session, subject: Subject, action: Action, principal_id: str) -> None:
    """Permit or refuse, as `is_covered` says.

    Raises:
        NotPermitted: the person holds a hub role where the subject may not do this.
    """
    if not is_covered(session, subject, action, principal_id):
        raise NotPermitted(
            "This person holds a role over the hub that reaches further than yours; "
            "somebody whose role covers it must do this.",
            field="person",
            rule="authority.beyond",
        )


def _held_places(principal_id: str) -> Select[str]:
    return (
        select(RoleAssignment.organization_id)
        .join(Principal, Principal.id == RoleAssignment.principal_id)
        .where(
            RoleAssignment.principal_id == principal_id,
            RoleAssignment.removed_at.is_(None),
            RoleAssignment.enrolment_epoch == Principal.enrolment_epoch,
        )
    )


@dataclass(frozen=True, slots=True)
class HeldRole:
    """A hub role that somebody holds now."""

    principal_id: str
    role: HubRole
    organization_id: str
    assigned_at: datetime
    assigned_by: str


def held_roles(session: Session) -> list[HeldRole]:
    """Every hub role that is held now, by role; one who is suspended holds theirs again when they come back."""
    rows = session.execute(
        select(
            RoleAssignment.principal_id,
            RoleAssignment.role,
            RoleAssignment.organization_id,
            RoleAssignment.assigned_at,
            RoleAssignment.assigned_by,
        )
        .join(Principal, Principal.id == RoleAssignment.principal_id)
        .where(
            RoleAssignment.removed_at.is_(None),
            RoleAssignment.enrolment_epoch == Principal.enrolment_epoch,
            Principal.standing != Standing.LEFT,
        )
        .order_by(RoleAssignment.role, RoleAssignment.assigned_at, RoleAssignment.id)
    )
    return [HeldRole(row[0], HubRole(row[1]), *row[2:]) for row in rows]


def holders_among(session: Session, principal_ids: Collection[str]) -> list[str]:
    """Who of these people holds a hub role, wherever and whatever their standing."""
    found: list[str] = []
    for part in chunked(sorted(principal_ids), 1_000):
        held = select(RoleAssignment.principal_id).join(Principal, Principal.id == RoleAssignment.principal_id)
        mine = (
            RoleAssignment.principal_id.in_(part),
            RoleAssignment.removed_at.is_(None),
            RoleAssignment.enrolment_epoch == Principal.enrolment_epoch,
        )
        found += session.scalars(held.where(*mine).distinct())
    return found


def assign_role(
    session: Session, principal_id: str, role: HubRole, *, organization_id: str, now: datetime, assigned_by: str
) -> bool:
    """Give a person a hub role over an organization's subtree. Returns False when they already hold it.

    Raises:
        Conflict: the person has left, or holds a role that excludes this one.
    """
    row = session.execute(
        select(Principal.enrolment_epoch, Principal.standing, Principal.kind)
        .where(Principal.id == principal_id)
        .with_for_update(key_share=True)
    ).one()
    if row.standing == Standing.LEFT or row.kind != "person":
        raise Conflict("Hub roles are for people who have not left.", field="person", rule="role.standing")
    held = session.execute(
        select(RoleAssignment.role, RoleAssignment.organization_id).where(
            RoleAssignment.principal_id == principal_id,
            RoleAssignment.removed_at.is_(None),
            RoleAssignment.enrolment_epoch == row.enrolment_epoch,
        )
    ).all()
    if any((held_role == HubRole.AUDITOR) != (role == HubRole.AUDITOR) for held_role, _ in held):
        raise Conflict("The auditor's role excludes every other hub role.", field="role", rule="role.exclusive")
    if (role, organization_id) in {(r, o) for r, o in held}:
        return False
    session.execute(
        update(RoleAssignment)
        .where(
            RoleAssignment.principal_id == principal_id,
            RoleAssignment.role == role,
            RoleAssignment.organization_id == organization_id,
            RoleAssignment.removed_at.is_(None),
        )
        .values(removed_at=now)
    )
    session.add(
        RoleAssignment(
            id=new_id("rol"),
            principal_id=principal_id,
            role=role,
            organization_id=organization_id,
            enrolment_epoch=row.enrolment_epoch,
            assigned_at=now,
            assigned_by=assigned_by,
        )
    )
    session.flush()
    return True


def remove_role(session: Session, principal_id: str, role: HubRole, *, now: datetime, keeps_last: bool = True) -> int:
    """Take a hub role from a person, wherever they hold it. Returns how many assignments ended.

    Args:
        keeps_last: refuse to take it from the last administrator.

    Raises:
        Conflict: they are the last administrator.
    """
    if keeps_last and role == HubRole.ADMINISTRATOR and is_last_administrator(session, principal_id):
        raise Conflict("This is the last administrator; name another first.", field="person", rule="last_administrator")
    return len(
        session.execute(
            update(RoleAssignment)
            .where(
                RoleAssignment.principal_id == principal_id,
                RoleAssignment.role == role,
                RoleAssignment.removed_at.is_(None),
            )
            .values(removed_at=now)
            .returning(RoleAssignment.id)
            .execution_options(synchronize_session=False)
        ).all()
    )


def administrators_now(session: Session) -> list[str]:
    """People who are administrators now; locks nobody, so it is good for what may be asked again."""
    return list(session.execute(_administrators().distinct()).scalars())


def administrators(session: Session) -> list[str]:
    """People who are administrators now, locked, so that two last ones cannot remove each other at once."""
    held = _administrators()
    session.execute(
        select(Principal.id).where(Principal.id.in_(held)).order_by(Principal.id).with_for_update(key_share=True)
    )
    return list(session.execute(held.distinct()).scalars())


def is_last_administrator(session: Session, principal_id: str) -> bool:
    """Whether nobody else is an administrator now. Locks administrators, but only when the person is one.

    Whoever then changes the person holds their lock already; locking the administrators on the way to somebody else
    would run into batches that lock people in order.
    """
    if session.execute(_administrators().where(RoleAssignment.principal_id == principal_id)).first() is None:
        return False
    return administrators(session) == [principal_id]


def administered_until(session: Session, *, besides: str | None = None) -> datetime | None:
    """When the access of the last administrator ends, by the dates that are known; `NEVER`: somebody stays.

    None: nobody is an administrator. `besides` is not counted.
    """
    held = _administrators().where(RoleAssignment.principal_id != (besides or ""))
    ends = session.execute(select(Principal.access_ends_at).where(Principal.id.in_(held))).scalars()
    return max((end or NEVER for end in ends), default=None)


def leaves_nobody(session: Session, principal_id: str, at: datetime) -> bool:
    """Whether an end of this person's access at `at` brings nearer the day from which on nobody is an administrator.

    Several may have an end each, and of each it may look as if the others stayed. Locks administrators, as
    `is_last_administrator` does.
    """
    if session.execute(_administrators().where(RoleAssignment.principal_id == principal_id)).first() is None:
        return False
    administrators(session)
    until, others = administered_until(session), administered_until(session, besides=principal_id)
    return until is not None and max(at, others or at) < until


def _administrators() -> Select[str]:
    return (
        select(RoleAssignment.principal_id)
        .join(Principal, Principal.id == RoleAssignment.principal_id)
        .where(
            RoleAssignment.role == HubRole.ADMINISTRATOR,
            RoleAssignment.removed_at.is_(None),
            RoleAssignment.enrolment_epoch == Principal.enrolment_epoch,
            Principal.standing == Standing.ACTIVE,
        )
    )
