"""A page of people as SCIM shows them, read in three statements whatever its length."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Select, Text, and_, bindparam, cast, func, select, type_coerce, union_all
from sqlalchemy.orm import Session

from idhub.db import chunked, json_text
from idhub.directory.names import login_name_candidates
from idhub.directory.tables import Department, Employment, LoginName, Organization, Person, Principal
from idhub.provisioning.inbound.person_resource import Row
from idhub.provisioning.inbound.tables import ScimExternalId, ScimUser


def _micros(column: Any) -> Any:
    """An instant as it is stored: making datetimes of those that nobody looks at costs a fifth of a page."""
    return type_coerce(column, BigInteger)


# In the order of `Row`'s fields.
_COLUMNS: tuple[Any, ...] = (
    Person.id,
    Person.display_name,
    Person.given_name,
    Person.family_name,
    Person.email,
    Person.mobile,
    Person.locale,
    type_coerce(Principal.standing, Text),
    Principal.version,
    _micros(Principal.created_at),
    _micros(Principal.changed_at),
    Employment.employee_number,
    type_coerce(Employment.type, Text),
    Employment.title,
    Employment.manager_id,
    Organization.name,
    Organization.code,
    Department.path,
    ScimUser.user_name,
    type_coerce(ScimUser.extras, Text),
    ScimUser.version.label("said_version"),
    _micros(ScimUser.changed_at).label("said_at"),
    ScimExternalId.external_id,
)


# Made once for each database: building a statement costs more than what it asks.
@cache
def _page(is_sqlite: bool) -> Select[Any]:
    return (
        select(*_COLUMNS)
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
        .where(Person.id.in_(_given(is_sqlite)))
    )


@cache
def _taken(is_sqlite: bool) -> Any:
    given = _given(is_sqlite)
    return union_all(
        select(LoginName.value).where(LoginName.value.in_(given)).group_by(LoginName.value).having(func.count() > 1),
        select(ScimUser.user_name_key).where(ScimUser.user_name_key.in_(given)),
    )


def _given(is_sqlite: bool) -> Any:
    """The bound list `given`, one value to the database whatever its length (`idhub.db.among`)."""
    if is_sqlite:
        return select(func.json_each(bindparam("given", type_=Text)).table_valued("value").c.value)
    return select(func.unnest(cast(bindparam("given", type_=ARRAY(Text)), ARRAY(Text))))


def read_rows(session: Session, ids: Sequence[str], *, provider: str) -> list[Row]:
    """Rows of people, in the order of ids; of somebody who does not exist there is none.

    Args:
        provider: whose external ids are meant.
    """
    found: dict[str, Row] = {}
    connection = session.connection()
    is_sqlite = connection.dialect.name == "sqlite"
    statement = _page(is_sqlite)
    for part in chunked(ids):
        asked = {"given": json_text(list(part)) if is_sqlite else list(part), "provider": provider}
        for row in connection.execute(statement, asked).all():
            found[row[0]] = Row._make(row)
    return [found[each] for each in ids if each in found]


def fallback_names(session: Session, people: Sequence[Row]) -> dict[str, str]:
    """What people are called whom no sender has named: their mail when it is nobody else's, or company/number."""
    candidates = {
        candidate: person.id for person in people if person.email for candidate in login_name_candidates(person.email)
    }
    shared: set[str] = set()
    connection = session.connection()
    is_sqlite = connection.dialect.name == "sqlite"
    for part in chunked(sorted(candidates)):
        asked = {"given": json_text(list(part)) if is_sqlite else list(part)}
        shared.update([row[0] for row in connection.execute(_taken(is_sqlite), asked).all()])
    own = {person_id for candidate, person_id in candidates.items() if candidate not in shared}
    return {
        person.id: person.email
        if person.email and person.id in own
        else f"{person.company_code}/{person.employee_number}"
        if person.employee_number is not None
        else person.id
        for person in people
    }
