"""The organization tree and the department trees: reading, and creating with their closure rows."""

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, insert, or_, select
from sqlalchemy.orm import Session

from idhub.db import bulk_insert, chunked, new_id
from idhub.directory.kinds import OrganizationKind
from idhub.directory.names import LONGEST, may_name
from idhub.directory.tables import Department, DepartmentClosure, Installation, Organization, OrganizationClosure
from idhub.errors import Conflict, Invalid, NotFound
from idhub.kept import Kept

ROOT_CODE = "GROUP"
MAX_DEPTH = 16
MAX_PART = 128
MAX_PATH = 1_000
NO_IDS: Mapping[tuple[str, str], str] = {}
_CONTROL_CATEGORIES = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, slots=True)
class OrganizationView:
    """One organization."""

    id: str
    parent_id: str | None
    kind: OrganizationKind
    code: str
    name: str
    name_en: str | None
    time_zone: str
    ancestors: tuple[str, ...]
    """Codes of itself and all above it."""


_VIEW = (
    Organization.id,
    Organization.parent_id,
    Organization.kind,
    Organization.code,
    Organization.name,
    Organization.name_en,
    Organization.time_zone,
)
"""What an `OrganizationView` begins with."""


def all_organizations(session: Session) -> dict[str, OrganizationView]:
    """Every organization by id; there are hundreds, not thousands."""
    rows = session.execute(select(*_VIEW)).all()
    parents = {row.id: row.parent_id for row in rows}
    codes = {row.id: row.code for row in rows}

    def chain(organization_id: str | None) -> tuple[str, ...]:
        found: list[str] = []
        while organization_id is not None and len(found) < len(parents) + 1:
            found.append(codes[organization_id])
            organization_id = parents[organization_id]
        return tuple(found)

    return {row.id: OrganizationView(*row, chain(row.id)) for row in rows}


# Made once: building a statement costs more than what it asks.
_ONES = Kept(select(*_VIEW).where(Organization.id.in_(bindparam("ids", expanding=True))))
_ABOVE = Kept(
    select(OrganizationClosure.descendant_id, Organization.code)
    .join(Organization, Organization.id == OrganizationClosure.ancestor_id)
    .where(OrganizationClosure.descendant_id.in_(bindparam("ids", expanding=True)))
    .order_by(OrganizationClosure.descendant_id, OrganizationClosure.depth)
)


def organizations_of(session: Session, organization_ids: Iterable[str]) -> dict[str, OrganizationView]:
    """These organizations by id; the cost does not grow with the number of partners."""
    found: dict[str, OrganizationView] = {}
    for part in chunked(sorted(set(organization_ids))):
        asked, ones = _ABOVE.ask(session, ids=part), _ONES.ask(session, ids=part)
        above: dict[str, list[str]] = {}
        for descendant_id, code in asked.rows():
            above.setdefault(descendant_id, []).append(code)
        for row in ones.rows():
            values: Any = (*row, tuple(above.get(row.id, ())))
            found[row.id] = OrganizationView(*values)
    return found


def common_organizations(session: Session, groups: Iterable[frozenset[str]]) -> dict[frozenset[str], str]:
    """Of each set of organizations the lowest one that holds them all: whoever sees it sees each of them."""
    wanted = set(groups)
    above: dict[str, dict[str, int]] = {}
    for part in chunked(sorted(set().union(*wanted))):
        rows = session.execute(
            select(OrganizationClosure.descendant_id, OrganizationClosure.ancestor_id, OrganizationClosure.depth).where(
                OrganizationClosure.descendant_id.in_(part)
            )
        )
        for descendant_id, ancestor_id, depth in rows:
            above.setdefault(descendant_id, {})[ancestor_id] = depth
    found = {}
    for group in wanted:
        one = above[min(group)]
        common = set.intersection(*(set(above[organization_id]) for organization_id in group))
        found[group] = min(common, key=lambda ancestor_id: one[ancestor_id])
    return found


def find_organization(session: Session, text: str) -> str:
    """Id of the organization of that id, code or name.

    Raises:
        NotFound: there is none.
    """
    statement = select(Organization.id).where(
        or_(
            Organization.id == text,
            Organization.code == text,
            Organization.name == text,
            Organization.name_en == text,
        )
    )
    found = session.execute(statement).scalars().first() if may_name(text) else None
    if found is None:
        raise NotFound(
            f"There is no organization {text[:LONGEST]!r}.", field="organization", rule="organization.unknown"
        )
    return found


def root_organization(session: Session) -> str:
    """Id of the root of the tree, made with the installation.

    Raises:
        NotFound: the hub was never started.
    """
    found = session.execute(select(Organization.id).where(Organization.parent_id.is_(None))).scalars().first()
    if found is None:
        raise NotFound("The hub has no organization yet; run `idhub migrate` first.", rule="organization.root")
    return found


def create_organization(
    session: Session,
    *,
    code: str,
    name: str,
    kind: OrganizationKind,
    parent_id: str | None,
    time_zone: str,
    now: datetime,
    name_en: str | None = None,
    organization_id: str | None = None,
) -> str:
    """Add an organization under a parent, under the id given or a new one. Returns its id.

    Raises:
        Conflict: code or name is taken.
    """
    taken = session.execute(
        select(Organization.id).where(or_(Organization.code == code, Organization.name == name))
    ).first()
    if taken:
        raise Conflict(f"There is an organization {code!r} or {name!r} already.", field="company", rule="taken")
    organization_id = organization_id or new_id("org")
    session.execute(
        insert(Organization).values(
            id=organization_id,
            parent_id=parent_id,
            kind=kind,
            code=code,
            name=name,
            name_en=name_en,
            time_zone=time_zone,
            created_at=now,
        )
    )
    closure = [{"ancestor_id": organization_id, "descendant_id": organization_id, "depth": 0}]
    if parent_id is not None:
        above = session.execute(
            select(OrganizationClosure.ancestor_id, OrganizationClosure.depth).where(
                OrganizationClosure.descendant_id == parent_id
            )
        )
        closure += [
            {"ancestor_id": ancestor, "descendant_id": organization_id, "depth": depth + 1} for ancestor, depth in above
        ]
    bulk_insert(session, OrganizationClosure, closure)
    return organization_id


def parse_department_path(path: str) -> str:
    """A department path in one form: NFC, no blanks around its parts. The limits are those of an HR file.

    Raises:
        Invalid: an empty part, too long, too deep, or characters that no name has.
    """
    parts = [part.strip() for part in unicodedata.normalize("NFC", path).split("/")]
    if not all(parts):
        raise Invalid("department must not have empty parts.", field="department", rule="empty_path_part")
    if len(parts) > MAX_DEPTH:
        raise Invalid(f"department must be at most {MAX_DEPTH} levels deep.", field="department", rule="too_deep")
    normal = "/".join(parts)
    if len(normal) > MAX_PATH or any(len(part) > MAX_PART for part in parts):
        raise Invalid(
            f"department must have at most {MAX_PART} characters a part and {MAX_PATH} in all.",
            field="department",
            rule="too_long",
        )
    if any(unicodedata.category(c) in _CONTROL_CATEGORIES or c in _BIDI for c in normal):
        raise Invalid(
            "department must not contain control or direction characters.",
            field="department",
            rule="control_character",
        )
    return normal


def ensure_department(session: Session, organization_id: str, path: str, *, now: datetime) -> str:
    """Id of the department of that path as somebody typed it, made when it is new.

    Raises:
        Invalid: it is not a path.
    """
    normal = parse_department_path(path)
    ids, _ = ensure_departments(session, [(organization_id, normal)], now=now)
    return ids[organization_id, normal]


def ensure_departments(
    session: Session,
    wanted: Iterable[tuple[str, str]],
    *,
    now: datetime,
    ids: Mapping[tuple[str, str], str] = NO_IDS,
) -> tuple[dict[tuple[str, str], str], list[tuple[str, str]]]:
    """Departments by (organization id, path with /), made where missing with everything above them.

    Args:
        ids: under which those that are missing are made; others get a new one.

    Returns the ids of all that were asked for, and the (organization id, path) pairs that were made.
    """
    paths: set[tuple[str, str]] = set()
    asked = set(wanted)
    for organization_id, path in asked:
        parts = path.split("/")
        paths.update((organization_id, "/".join(parts[:depth])) for depth in range(1, len(parts) + 1))
    known = known_departments(session, paths)
    missing = sorted(paths - known.keys(), key=lambda pair: (pair[0], pair[1].count("/"), pair[1]))
    if missing:
        rows = []
        for organization_id, path in missing:
            department_id = known[(organization_id, path)] = ids.get((organization_id, path)) or new_id("dep")
            parent_path, _, name = path.rpartition("/")
            rows.append(
                {
                    "id": department_id,
                    "organization_id": organization_id,
                    "parent_id": known[(organization_id, parent_path)] if parent_path else None,
                    "name": name,
                    "path": path,
                    "created_at": now,
                }
            )
        bulk_insert(session, Department, rows)
        closure = []
        for organization_id, path in missing:
            parts = path.split("/")
            closure += [
                {
                    "ancestor_id": known[(organization_id, "/".join(parts[:depth]))],
                    "descendant_id": known[(organization_id, path)],
                    "depth": len(parts) - depth,
                }
                for depth in range(1, len(parts) + 1)
            ]
        bulk_insert(session, DepartmentClosure, closure)
    return {pair: known[pair] for pair in asked}, missing


def known_departments(session: Session, paths: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Ids of those that exist, by (organization id, path with /)."""
    known: dict[tuple[str, str], str] = {}
    by_organization: dict[str, list[str]] = {}
    for organization_id, path in paths:
        by_organization.setdefault(organization_id, []).append(path)
    for organization_id, listed in by_organization.items():
        for part in chunked(listed):
            rows = session.execute(
                select(Department.path, Department.id).where(
                    Department.organization_id == organization_id, Department.path.in_(part)
                )
            )
            known.update({(organization_id, path): department_id for path, department_id in rows})
    return known


def department_paths(session: Session, department_ids: Iterable[str]) -> Mapping[str, str]:
    """Paths by department id."""
    found: dict[str, str] = {}
    for part in chunked(sorted(set(department_ids))):
        rows = session.execute(select(Department.id, Department.path).where(Department.id.in_(part)))
        found.update((row.id, row.path) for row in rows)
    return found


def recovery_reason(session: Session) -> str | None:
    """Why the hub is in recovery mode, None when it is not (`idhub.recovery`)."""
    return session.execute(select(Installation.recovery_reason).where(Installation.id == 1)).scalar()


def install(session: Session, *, time_zone: str, now: datetime) -> bool:
    """Make the installation row and the root organization of an empty hub. Returns False when they exist."""
    if session.execute(select(Installation.id)).first():
        return False
    session.execute(insert(Installation).values(id=1, epoch=1, rules_version=1, evaluated_version=1, created_at=now))
    create_organization(
        session,
        code=ROOT_CODE,
        name="集团",
        name_en="Group",
        kind=OrganizationKind.GROUP,
        parent_id=None,
        time_zone=time_zone,
        now=now,
    )
    return True


def bump_rules_version(session: Session, *, reevaluate: bool) -> None:
    """Configuration changed: caches bound to the old version are void.

    Args:
        reevaluate: who is entitled may have changed: everybody must be looked at again (`lifecycle.reevaluation`).
    """
    installation = session.execute(select(Installation).with_for_update()).scalar_one()
    is_behind = installation.evaluated_version != installation.rules_version
    installation.rules_version += 1
    if reevaluate:
        installation.evaluated_up_to = None
    elif not is_behind:
        installation.evaluated_version = installation.rules_version
    session.flush()
    session.expunge(installation)
