"""People as SCIM shows them, read in three statements whatever their number."""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    or_,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy.orm import Session, aliased

from idhub.db import chunked, execute_planned, given, given_value
from idhub.directory.names import stored_login_name
from idhub.directory.tables import (
    Department,
    Employment,
    LoginName,
    Organization,
    Person,
    Principal,
)
from idhub.provisioning.inbound.person_resource import SHOWN_ACTIVE, Row
from idhub.provisioning.inbound.tables import ScimExternalId, ScimUser


def _micros(column: Any) -> Any:
    """An instant as it is stored: making datetimes of those that nobody looks at costs a fifth of a page."""
    return type_coerce(column, BigInteger)


_OTHERS, _OTHER_NAMES = aliased(ScimUser), aliased(LoginName)
_MAIL = func.lower(Person.email)
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
    # Of whom a sender has named, nobody asks. Letters beyond ASCII fold otherwise: `fallback_names`.
    case(
        (ScimUser.user_name.is_not(None), None),
        else_=or_(
            select(func.count()).where(_OTHER_NAMES.value == _MAIL).scalar_subquery() > 1,
            exists().where(_OTHERS.user_name_key == _MAIL),
        ),
    ).label("is_mail_taken"),
)


class People(NamedTuple):
    """Whom a list is about: as ids, and the same people as rows."""

    ids: Select[str]
    rows: Select[Any]
    """Columns in the order of `Row`; with the parameter `provider`."""
    provider: str
    """Whose external ids are meant."""
    is_lasting: bool = False
    """Whether `rows` is the same object each time: what is made of it is worth keeping."""

    def where(self, *conditions: ColumnElement[bool]) -> "People":
        """Those of whom the conditions hold, which may name `Person`, `Principal` and `ScimUser`."""
        return People(self.ids.where(*conditions), self.rows.where(*conditions), self.provider)

    def read(self, session: Session, rows: Select[Any], **values: Any) -> list[Row]:
        """Run a statement that was made out of `rows`, with values of its parameters."""
        return [Row._make(each) for each in self.read_wide(session, rows, **values)]

    def read_wide(self, session: Session, rows: Select[Any], **values: Any) -> Sequence[Any]:
        """The same of a statement that has more columns behind those of `Row`."""
        asked = {"provider": self.provider, **values}
        connection = session.connection()
        return (execute_planned(connection, rows, asked) if self.is_lasting else connection.execute(rows, asked)).all()


# Made once: building a statement costs more than what it asks.
_IDS = (
    select(Person.id).join(Principal, Principal.id == Person.id).outerjoin(ScimUser, ScimUser.principal_id == Person.id)
)
_ROWS = (
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
)
_PRESENT = People(_IDS, _ROWS, "").where(or_(Principal.standing.in_(SHOWN_ACTIVE), ScimUser.deleted_at.is_(None)))


def present(provider: str) -> People:
    """Everybody whom no sender has deleted."""
    return _PRESENT._replace(provider=provider, is_lasting=True)


@cache
def _page(is_sqlite: bool) -> Select[Any]:
    return _ROWS.where(Person.id.in_(given("given", is_sqlite=is_sqlite)))


@cache
def _taken(is_sqlite: bool) -> Any:
    values = given("given", is_sqlite=is_sqlite)
    return union_all(
        select(LoginName.value).where(LoginName.value.in_(values)).group_by(LoginName.value).having(func.count() > 1),
        select(ScimUser.user_name_key).where(ScimUser.user_name_key.in_(values)),
    )


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
        asked = {"given": given_value(part), "provider": provider}
        for row in execute_planned(connection, statement, asked).all():
            found[row[0]] = Row._make(row)
    return [found[each] for each in ids if each in found]


def fallback_names(session: Session, people: Sequence[Row]) -> dict[str, str]:
    """What people are called whom no sender has named: their mail when it is nobody else's, or company/number."""
    mails = {
        person.id: stored_login_name("email", person.email)
        for person in people
        if person.email and not person.email.isascii()
    }
    shared: set[str] = set()
    connection = session.connection()
    is_sqlite = connection.dialect.name == "sqlite"
    for part in chunked(list(set(mails.values()))):
        asked = {"given": given_value(part)}
        shared.update([row[0] for row in execute_planned(connection, _taken(is_sqlite), asked).all()])
    return {
        person.id: person.email
        if person.email and not (mails[person.id] in shared if person.id in mails else person.is_mail_taken)
        else f"{person.company_code}/{person.employee_number}"
        if person.employee_number is not None
        else person.id
        for person in people
    }
