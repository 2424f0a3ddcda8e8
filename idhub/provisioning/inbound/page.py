"""A page of people as SCIM shows them, read in few statements whatever its length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, and_, bindparam, func, select, union_all
from sqlalchemy.orm import Session

from idhub.db import chunked
from idhub.directory.kinds import EmploymentType, Standing
from idhub.directory.names import login_name_candidates
from idhub.directory.tables import Department, Employment, LoginName, Organization, Person, Principal
from idhub.provisioning.inbound.tables import ScimExternalId, ScimUser


class Post(NamedTuple):
    """The main post, as far as it is shown."""

    employee_number: str
    type: EmploymentType
    title: str | None
    manager_id: str | None
    company: str
    company_code: str
    department: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """A person as they are shown, and what senders said of them: None where no sender has."""

    id: str
    display_name: str
    given_name: str | None
    family_name: str | None
    email: str | None
    mobile: str | None
    locale: str | None
    standing: Standing
    version: int
    created_at: datetime
    changed_at: datetime
    main: Post | None
    said_name: str | None
    extras: Mapping[str, Any]
    said_version: int
    external_id: str | None


# Made once: building a statement costs more than what it asks.
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_PAGE = (
    select(
        Person.id,
        Person.display_name,
        Person.given_name,
        Person.family_name,
        Person.email,
        Person.mobile,
        Person.locale,
        Principal.standing,
        Principal.version,
        Principal.created_at,
        Principal.changed_at,
        Employment.employee_number,
        Employment.type,
        Employment.title,
        Employment.manager_id,
        Organization.name,
        Organization.code,
        Department.path,
        ScimUser.user_name,
        ScimUser.extras,
        ScimUser.version.label("said_version"),
        ScimUser.changed_at.label("said_at"),
        ScimExternalId.external_id,
    )
    .join(Principal, Principal.id == Person.id)
    .outerjoin(Employment, Employment.id == Person.main_employment_id)
    .outerjoin(Organization, Organization.id == Employment.organization_id)
    .outerjoin(Department, Department.id == Employment.department_id)
    .outerjoin(ScimUser, ScimUser.principal_id == Person.id)
    .outerjoin(
        ScimExternalId,
        and_(
            ScimExternalId.resource_id == Person.id,
            ScimExternalId.provider == bindparam("provider"),
            ScimExternalId.kind == "User",
        ),
    )
    .where(Person.id.in_(_IDS))
)
_TAKEN = union_all(
    select(LoginName.value).where(LoginName.value.in_(_IDS)).group_by(LoginName.value).having(func.count() > 1),
    select(ScimUser.user_name_key).where(ScimUser.user_name_key.in_(_IDS)),
)


def read_rows(session: Session, ids: Sequence[str], *, provider: str) -> list[Row]:
    """Rows of people, in the order of ids; of somebody who does not exist there is none.

    Args:
        provider: whose external ids are meant.
    """
    found: dict[str, Row] = {}
    connection = session.connection()
    for part in chunked(ids):
        for row in connection.execute(_PAGE, {"ids": part, "provider": provider}):
            main = None
            if row[11] is not None:
                main = Post(row[11], EmploymentType(row[12]), row[13], row[14], row[15], row[16], row[17])
            changed_at = row[10] if row[21] is None else max(row[10], row[21])
            found[row[0]] = Row(
                *row[:7],
                Standing(row[7]),
                row[8],
                row[9],
                changed_at,
                main,
                row[18],
                row[19] or {},
                row[20] or 0,
                row[22],
            )
    return [found[each] for each in ids if each in found]


def fallback_names(session: Session, people: Sequence[Row]) -> dict[str, str]:
    """What people are called whom no sender has named: their mail when it is nobody else's, or company/number."""
    candidates = {
        candidate: person.id for person in people if person.email for candidate in login_name_candidates(person.email)
    }
    shared: set[str] = set()
    connection = session.connection()
    for part in chunked(sorted(candidates)):
        shared.update(connection.execute(_TAKEN, {"ids": part}).scalars())
    own = {person_id for candidate, person_id in candidates.items() if candidate not in shared}
    return {
        person.id: person.email
        if person.email and person.id in own
        else f"{person.main.company_code}/{person.main.employee_number}"
        if person.main
        else person.id
        for person in people
    }
