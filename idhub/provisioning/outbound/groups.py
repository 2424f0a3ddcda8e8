"""Groups that applications are to have, and who belongs to them there.

A group comes out of a group of the directory, or out of everybody in a role of the application. Its delivery is
level-triggered like an account's: it compares who should be in it with whom the application accepted, and sends the
difference, in parts that the application takes. Only accounts that the application has confirmed as active can be
members, so accounts always come before memberships; whoever lost the account leaves the group with the next delivery.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, and_, delete, exists, literal, or_, select, update
from sqlalchemy.orm import Session

from idhub.access.tables import Account, Application, Entitlement, ScimTarget
from idhub.changes import SYSTEM, Event, EventType, record
from idhub.db import bulk_insert, chunked, new_id
from idhub.delivery import queue
from idhub.delivery.channel import Grade, LeasedDelivery, Outcome, PlannedDelivery
from idhub.delivery.tables import Delivery
from idhub.directory.tables import Group, GroupMember
from idhub.provisioning.outbound.options import WantedGroup
from idhub.provisioning.outbound.planner import CHANNEL
from idhub.provisioning.outbound.run import NeedsSomebody, Talk, id_of
from idhub.provisioning.outbound.tables import OutboundGroup, OutboundMember
from scim.errors import RemoteConflict, RemoteNotFound
from scim.group_client import GroupClient, members_of
from scim.schemas import attribute

_MOST_PARTS = 20
"""Requests of one delivery; what is left goes with the next one, so that the queue's turns stay short."""


def lane_of_group(group_id: str) -> str:
    """Lane of an outbound group: its deliveries go one by one."""
    return f"scim:group:{group_id}"


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What a delivery has to bring about."""

    id: str
    name: str
    is_wanted: bool
    external_id: str | None
    known_name: str | None
    wanted: frozenset[str]
    known: frozenset[str]


async def push_group(talk: Talk) -> Outcome:
    """Make the application's group what it should be.

    Raises:
        RemoteError, NeedsSomebody: translated by the channel; what was accepted until then is written down.
    """
    if talk.client.dialect.groups == "none":
        raise NeedsSomebody("This application has no groups that can be changed by SCIM.")
    plan = await talk.read(lambda session: _plan_of(session, talk.delivery))
    talk.grade = Grade.E1
    if plan is None:
        talk.evidence["action"] = "none"
        return talk.outcome("done")
    client = GroupClient(talk.client)
    if not plan.is_wanted:
        return await _remove(talk, client, plan)
    group_id, known = await _ensure(talk, client, plan)
    if plan.known_name not in (None, plan.name) and group_id == plan.external_id:
        if not talk.client.dialect.renames_groups:
            raise NeedsSomebody("This application renames no groups. Take the old name, or make a new group.")
        await client.rename(group_id, plan.name)
        await _note(talk, plan, group_id, add=(), remove=())
        talk.evidence["renamed"] = True
    add, remove = sorted(plan.wanted - known), sorted(known - plan.wanted)
    parts = list(client.parts(add, remove))
    for added, removed in parts[:_MOST_PARTS]:
        await client.change_members(group_id, add=added, remove=removed)
        await _note(talk, plan, group_id, add=added, remove=removed)
    is_over = len(parts) <= _MOST_PARTS
    talk.evidence |= {"added": len(add), "removed": len(remove), "parts": len(parts)}
    await talk.write(lambda session: _synced(session, plan.id, is_over, now=talk.clock.now()))
    return talk.outcome("done")


async def _ensure(talk: Talk, client: GroupClient, plan: GroupPlan) -> tuple[str, frozenset[str]]:
    """The group's id there, made or found, and whom it has."""
    if plan.external_id is not None:
        try:
            group = await client.get(plan.external_id)
        except RemoteNotFound:
            talk.evidence["group"] = "gone"
        else:
            # What the application shows counts, where it shows members at all.
            shown = frozenset(members_of(group)) if talk.client.dialect.shows_members else plan.known
            return plan.external_id, shown
    found = await client.find(plan.name)
    if len(found) > 1:
        raise NeedsSomebody(f"The application has {len(found)} groups of the name {plan.name!r}. Keep one of them.")
    if found:
        group = found[0]
        owner = attribute(group, "externalId")
        if owner not in (None, "", plan.id):
            raise NeedsSomebody(f"The application's group {plan.name!r} carries another externalId: it is not ours.")
        talk.evidence["action"] = "adopted"
    else:
        try:
            group = await client.create(plan.name, external_id=plan.id)
        except RemoteConflict as conflict:
            raise NeedsSomebody(f"The application refuses a group {plan.name!r}. {conflict.description}") from conflict
        talk.evidence["action"] = "created"
    group_id = id_of(group)
    if await talk.read(lambda session: _is_another(session, plan, talk.delivery, group_id)):
        raise NeedsSomebody(f"The application's group {plan.name!r} is already linked to another group.")
    shown = frozenset(members_of(group))
    await talk.write(lambda session: _begin(session, plan, group_id, shown, now=talk.clock.now()))
    return group_id, shown


async def _remove(talk: Talk, client: GroupClient, plan: GroupPlan) -> Outcome:
    if plan.external_id is not None:
        await client.delete(plan.external_id)
    talk.evidence["action"] = "removed"
    await talk.write(lambda session: _forget(session, plan, talk.delivery, now=talk.clock.now()))
    return talk.outcome("done")


async def _note(talk: Talk, plan: GroupPlan, group_id: str, *, add: Sequence[str], remove: Sequence[str]) -> None:
    now = talk.clock.now()
    await talk.write(lambda session: _keep(session, plan, talk.delivery, group_id, add=add, remove=remove, now=now))


# --- what is read and written ----------------------------------------------------------------------------------------


def _plan_of(session: Session, delivery: LeasedDelivery) -> GroupPlan | None:
    row = session.get(OutboundGroup, str(delivery.payload.get("group", "")))
    if row is None or row.application_id != delivery.application_id:
        return None
    return GroupPlan(
        id=row.id,
        name=row.name,
        is_wanted=row.is_wanted,
        external_id=row.external_id,
        known_name=row.known_name,
        wanted=frozenset(session.scalars(wanted_members(row))) if row.is_wanted else frozenset(),
        known=frozenset(session.scalars(select(OutboundMember.user_id).where(OutboundMember.group_id == row.id))),
    )


def _is_another(session: Session, plan: GroupPlan, delivery: LeasedDelivery, group_id: str) -> bool:
    """Whether our records give this group of the application to another one of ours."""
    linked = select(OutboundGroup.id).where(
        OutboundGroup.application_id == delivery.application_id,
        OutboundGroup.external_id == group_id,
        OutboundGroup.id != plan.id,
    )
    return session.scalar(linked.limit(1)) is not None


def wanted_members(group: OutboundGroup) -> Select[str | None]:
    """The application's ids of everybody who should be in the group: members with an account that is alive there."""
    if group.source_kind == "group":
        belongs = exists().where(
            GroupMember.group_id == group.source_ref,
            GroupMember.principal_id == Account.principal_id,
            GroupMember.superseded_at.is_(None),
            GroupMember.valid_to.is_(None),
        )
    else:
        belongs = exists().where(
            Entitlement.principal_id == Account.principal_id,
            Entitlement.application_id == Account.application_id,
            Entitlement.role == group.source_ref,
            Entitlement.superseded_at.is_(None),
            Entitlement.valid_to.is_(None),
        )
    return select(Account.external_id).where(
        Account.application_id == group.application_id,
        Account.slot == "main",
        Account.known_state == "active",
        Account.desired_state == "active",
        Account.external_id.is_not(None),
        belongs,
    )


def _begin(session: Session, plan: GroupPlan, group_id: str, members: Collection[str], *, now: datetime) -> None:
    session.execute(
        update(OutboundGroup)
        .where(OutboundGroup.id == plan.id)
        .values(external_id=group_id, known_name=plan.name, synced_at=now)
    )
    session.execute(delete(OutboundMember).where(OutboundMember.group_id == plan.id))
    bulk_insert(session, OutboundMember, ({"group_id": plan.id, "user_id": one} for one in sorted(members)))


def _keep(
    session: Session,
    plan: GroupPlan,
    delivery: LeasedDelivery,
    group_id: str,
    *,
    add: Sequence[str],
    remove: Sequence[str],
    now: datetime,
) -> None:
    session.execute(
        update(OutboundGroup)
        .where(OutboundGroup.id == plan.id)
        .values(external_id=group_id, known_name=plan.name, synced_at=now)
    )
    for part in chunked([*add, *remove]):
        session.execute(
            delete(OutboundMember).where(OutboundMember.group_id == plan.id, OutboundMember.user_id.in_(part))
        )
    bulk_insert(session, OutboundMember, ({"group_id": plan.id, "user_id": one} for one in add))
    record(session, [_event(plan, delivery, {"added": len(add), "removed": len(remove)}, now=now)])


def _synced(session: Session, group_id: str, is_over: bool, *, now: datetime) -> None:
    values = {"synced_at": now} if is_over else {"synced_at": now, "dirty_at": now}
    session.execute(update(OutboundGroup).where(OutboundGroup.id == group_id).values(values))


def _forget(session: Session, plan: GroupPlan, delivery: LeasedDelivery, *, now: datetime) -> None:
    session.execute(delete(OutboundMember).where(OutboundMember.group_id == plan.id))
    session.execute(delete(OutboundGroup).where(OutboundGroup.id == plan.id, OutboundGroup.is_wanted.is_(False)))
    record(session, [_event(plan, delivery, {"removed_group": True}, now=now)])


def _event(plan: GroupPlan, delivery: LeasedDelivery, details: Mapping[str, int], *, now: datetime) -> Event:
    return Event(
        type=EventType.GROUP_PUSHED,
        at=now,
        actor=SYSTEM,
        door="worker",
        target_kind="group",
        target_id=plan.id,
        application_id=delivery.application_id,
        delivery_id=delivery.id,
        details={"name": plan.name, **details},
    )


# --- configuration and planning --------------------------------------------------------------------------------------


def set_wanted(session: Session, application_id: str, wanted: Sequence[WantedGroup], *, now: datetime) -> None:
    """Make the application's outbound groups what configuration names; what it names no more is removed there."""
    held = {
        (row.source_kind, row.source_ref): row
        for row in session.scalars(select(OutboundGroup).where(OutboundGroup.application_id == application_id))
    }
    names = {one.ref: name for one, name in _names(session, wanted)}
    for one in wanted:
        name = one.name or names[one.ref]
        row = held.pop((one.kind, one.ref), None)
        if row is None:
            session.add(
                OutboundGroup(
                    id=new_id("ogr"),
                    application_id=application_id,
                    source_kind=one.kind,
                    source_ref=one.ref,
                    name=name,
                    is_wanted=True,
                    known_version=0,
                    dirty_at=now,
                    created_at=now,
                )
            )
        elif (row.name, row.is_wanted) != (name, True):
            row.name, row.is_wanted, row.dirty_at = name, True, now
    for row in held.values():
        if row.is_wanted:
            row.is_wanted, row.dirty_at = False, now
    session.flush()


def _names(session: Session, wanted: Sequence[WantedGroup]) -> list[tuple[WantedGroup, str]]:
    ids = [one.ref for one in wanted if one.kind == "group"]
    names = {row[0]: row[1] for row in session.execute(select(Group.id, Group.name).where(Group.id.in_(ids)))}
    return [(one, names.get(one.ref, one.ref)) for one in wanted]


def _due(now: datetime) -> Select[OutboundGroup, int, str, datetime | None]:
    changed = and_(OutboundGroup.source_kind == "group", Group.version != OutboundGroup.known_version)
    return (
        select(OutboundGroup, Group.version, Group.name, Group.ended_at)
        .join(ScimTarget, ScimTarget.application_id == OutboundGroup.application_id)
        .join(Application, Application.id == OutboundGroup.application_id)
        .outerjoin(Group, Group.id == OutboundGroup.source_ref)
        .where(
            Application.is_enabled,
            or_(OutboundGroup.dirty_at <= now, changed),
            ~exists().where(
                Delivery.lane == literal("scim:group:").concat(OutboundGroup.id),
                Delivery.state.in_(("pending", "leased")),
            ),
        )
        .order_by(OutboundGroup.id)
    )


def is_due(session: Session, *, now: datetime) -> bool:
    """Whether `plan_due` would plan anything."""
    return session.execute(_due(now).limit(1)).first() is not None


def plan_due(session: Session, *, now: datetime, limit: int = 200) -> int:
    """Plan deliveries for groups that may have changed and have none waiting. Returns how many."""
    rows = session.execute(_due(now).limit(limit)).all()
    planned = []
    for row, version, name, ended_at in rows:
        if version is not None:
            if row.name == row.known_name and ended_at is None and name != row.name and not _is_renamed(session, row):
                row.name = name
            row.known_version = version
        row.dirty_at = None
        planned.append(
            PlannedDelivery(
                application_id=row.application_id,
                channel=CHANNEL,
                lane=lane_of_group(row.id),
                operation="group",
                payload={"group": row.id},
                required_grade=Grade.E1,
            )
        )
    session.flush()
    queue.plan(session, planned, now=now)
    return len(planned)


def _is_renamed(session: Session, row: OutboundGroup) -> bool:
    """Whether configuration gives it a name of its own, which a rename in the directory does not change."""
    options = session.scalar(select(ScimTarget.options).where(ScimTarget.application_id == row.application_id))
    listed = (options or {}).get("groups") or []
    return any(one.get("group") == row.source_ref and one.get("name") for one in listed)
