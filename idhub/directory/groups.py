"""Static groups and who belongs to them, on both time axes."""

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Select, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from idhub.db import bulk_insert, chunked, given, given_value, new_id
from idhub.directory.tables import Group, GroupMember
from idhub.errors import Conflict, Invalid, NotFound
from idhub.kept import Planned

LONGEST_NAME = 200
_UNWANTED = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp", "Cf"})


def clean_group_name(name: str) -> str:
    """The name in NFC without blanks around it.

    Raises:
        Invalid: empty, too long, or with characters that cannot be seen.
    """
    text = unicodedata.normalize("NFC", name).strip()
    if not 0 < len(text) <= LONGEST_NAME:
        raise Invalid(f"A group's name has 1 to {LONGEST_NAME} characters.", field="displayName", rule="too_long")
    if any(unicodedata.category(character) in _UNWANTED for character in text):
        raise Invalid(
            "A group's name has characters that cannot be seen.", field="displayName", rule="control_character"
        )
    return text


def create_group(session: Session, name: str, *, organization_id: str, now: datetime) -> str:
    """Make an empty group. Returns its id.

    Raises:
        Invalid: the name is none.
        Conflict: another group has it.
    """
    clean = clean_group_name(name)
    _check_free(session, clean, None)
    group_id = new_id("grp")
    bulk_insert(
        session,
        Group,
        [
            {
                "id": group_id,
                "organization_id": organization_id,
                "name": clean,
                "rule": None,
                "version": 1,
                "created_at": now,
                "changed_at": now,
                "ended_at": None,
            }
        ],
    )
    return group_id


def lock_group(session: Session, group_id: str) -> Group:
    """The group, locked until the transaction ends.

    Raises:
        NotFound: there is none, or it has ended.
    """
    found = session.execute(
        select(Group).where(Group.id == group_id, Group.ended_at.is_(None)).with_for_update()
    ).scalar_one_or_none()
    if found is None:
        raise NotFound("There is no such group.", field="group", rule="group.unknown")
    return found


def rename_group(session: Session, group: Group, name: str, *, now: datetime) -> None:
    """Give a locked group another name.

    Raises:
        Invalid, Conflict: as `create_group`.
    """
    clean = clean_group_name(name)
    _check_free(session, clean, group.id)
    _set(session, group, {"name": clean}, now=now)


def touch_group(session: Session, group: Group, *, now: datetime) -> None:
    """Note that something about a locked group changed."""
    _set(session, group, {}, now=now)


def end_group(session: Session, group: Group, *, now: datetime) -> Sequence[str]:
    """End a locked group; its name is free again. Returns who belonged to it."""
    members = members_of(session, [group.id]).get(group.id, ())
    change_members(session, group.id, join=(), leave=members, now=now)
    # The name column is unique over groups that ended too; an ended one goes by its id.
    _set(session, group, {"name": group.id, "ended_at": now}, now=now)
    return members


def members_of(session: Session, group_ids: Collection[str]) -> Mapping[str, Sequence[str]]:
    """Who belongs to each group now, in the order in which they came."""
    found: dict[str, list[str]] = {}
    for part in chunked(sorted(group_ids)):
        rows = session.execute(
            select(GroupMember.group_id, GroupMember.principal_id)
            .where(GroupMember.group_id.in_(part), *_CURRENT)
            .order_by(GroupMember.id)
        )
        for group_id, principal_id in rows:
            found.setdefault(group_id, []).append(principal_id)
    return found


def groups_of(session: Session, principal_ids: Collection[str]) -> Mapping[str, Sequence[tuple[str, str]]]:
    """(id, name) of the groups that each person belongs to now, by name."""
    found: dict[str, list[tuple[str, str]]] = {}
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    for part in chunked(list(principal_ids)):
        for row in _GROUPS[is_sqlite].all(session, {"ids": given_value(part)}):
            found.setdefault(row[0], []).append((row[1], row[2]))
    return found


def with_member(principal_id: str) -> Select[str]:
    """Ids of the groups to which somebody belongs now."""
    return select(GroupMember.group_id).where(GroupMember.principal_id == principal_id, *_CURRENT)


def change_members(
    session: Session, group_id: str, *, join: Collection[str], leave: Collection[str], now: datetime
) -> None:
    """Let people join and leave a locked group. What was believed before stays readable."""
    for part in chunked(sorted(leave)):
        rows = session.execute(
            update(GroupMember)
            .where(GroupMember.group_id == group_id, GroupMember.principal_id.in_(part), *_CURRENT)
            .values(superseded_at=now)
            .returning(GroupMember.principal_id, GroupMember.valid_from)
            .execution_options(synchronize_session=False)
        ).all()
        bulk_insert(
            session,
            GroupMember,
            (_member(group_id, row.principal_id, row.valid_from, now, now=now) for row in rows if row.valid_from < now),
        )
    bulk_insert(session, GroupMember, (_member(group_id, each, now, None, now=now) for each in join))


_CURRENT = (GroupMember.superseded_at.is_(None), GroupMember.valid_to.is_(None))


def has_groups(principal_id: InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """Column beside the table of a principal's or a person's id: whether they belong to any group now."""
    # No EXISTS: PostgreSQL would read all memberships to have them at hand.
    own = select(GroupMember.id).where(GroupMember.principal_id == principal_id, *_CURRENT).limit(1)
    return own.correlate(principal_id.class_).scalar_subquery().is_not(None)


# Made once: building a statement costs more than what it asks.
_GROUPS = {
    is_sqlite: Planned(
        select(GroupMember.principal_id, Group.id, Group.name)
        .join(Group, Group.id == GroupMember.group_id)
        .where(GroupMember.principal_id.in_(given("ids", is_sqlite=is_sqlite)), *_CURRENT)
        .order_by(Group.name)
    )
    for is_sqlite in (True, False)
}


def _member(
    group_id: str, principal_id: str, valid_from: datetime, valid_to: datetime | None, *, now: datetime
) -> dict[str, object]:
    return {
        "id": new_id("mem"),
        "group_id": group_id,
        "principal_id": principal_id,
        "valid_from": valid_from,
        "valid_to": valid_to,
        "recorded_at": now,
        "superseded_at": None,
    }


def _set(session: Session, group: Group, values: Mapping[str, object], *, now: datetime) -> None:
    session.execute(
        update(Group)
        .where(Group.id == group.id)
        .values(version=Group.version + 1, changed_at=now, **values)
        .execution_options(synchronize_session=False)
    )
    session.expire(group)


def _check_free(session: Session, name: str, own_id: str | None) -> None:
    taken = session.execute(select(Group.id).where(Group.name == name)).scalar_one_or_none()
    if taken is not None and taken != own_id:
        raise Conflict("Another group has this name.", field="displayName", rule="group.taken")
