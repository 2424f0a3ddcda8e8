"""People as SCIM shows them, read in three statements whatever their number.

Lists read them with their documents (`Met`); whoever has none that holds is read whole (`Row`).
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Text,
    and_,
    bindparam,
    case,
    func,
    not_,
    or_,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy.orm import Session, aliased

from idhub.db import chunked, execute_planned, given, given_value
from idhub.directory.groups import HAS_GROUPS
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
from idhub.provisioning.inbound.tables import ScimDocument, ScimExternalId, ScimNames, ScimUser


def _micros(column: Any) -> Any:
    """An instant as it is stored: making datetimes of those that nobody looks at costs a fifth of a page."""
    return type_coerce(column, BigInteger)


_OTHERS, _OTHER_NAMES = aliased(ScimUser), aliased(LoginName)


def _is_taken(mail: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a mail address in small letters names more than one."""
    return or_(
        select(func.count()).where(_OTHER_NAMES.value == mail).scalar_subquery() > 1,
        # Not whether there is one: PostgreSQL would read all names to have them at hand.
        select(func.count()).where(_OTHERS.user_name_key == mail).scalar_subquery() > 0,
    )


_NAMES_VERSION = select(ScimNames.version).where(ScimNames.id == 1).scalar_subquery()
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
        else_=_is_taken(func.lower(Person.email)),
    ).label("is_mail_taken"),
    _NAMES_VERSION.label("names_version"),
    HAS_GROUPS.label("has_groups"),
)
# In the order of `Met`'s fields.
_MET_COLUMNS: tuple[Any, ...] = (
    Person.id,
    Principal.version,
    _micros(Principal.created_at),
    _micros(Principal.changed_at),
    ScimUser.version.label("said_version"),
    _micros(ScimUser.changed_at).label("said_at"),
    ScimExternalId.external_id,
    ScimDocument.digest,
    ScimDocument.is_plain,
    ScimDocument.is_all,
    HAS_GROUPS.label("has_groups"),
    # Whether somebody else has the mail may change without a change of the person.
    case(
        (
            and_(
                ScimDocument.person_version == Principal.version,
                ScimDocument.said_version == func.coalesce(ScimUser.version, 0),
                ScimDocument.names_version == _NAMES_VERSION,
                ScimDocument.rules == bindparam("rules"),
                or_(
                    ScimDocument.mail_key.is_(None),
                    _is_taken(ScimDocument.mail_key.expression) == ScimDocument.is_mail_taken,
                ),
            ),
            ScimDocument.body,
        ),
    ).label("body"),
)


class Met(NamedTuple):
    """A person as a list meets them: with their document, where there is one that holds."""

    id: str
    version: int
    created_at: int
    """Microseconds since 1970, like every instant here."""
    changed_at: int
    said_version: int | None
    said_at: int | None
    external_id: str | None
    digest: str | None
    is_plain: bool | None
    is_all: bool | None
    has_groups: bool
    body: bytes | None
    """None: there is no document, or it does not hold any more."""


class People(NamedTuple):
    """Whom a list is about: as ids, and the same people as rows."""

    ids: Select[str]
    rows: Select[Any]
    """Columns in the order of `Met`; with the parameters `provider` and `rules`."""
    whole: Select[Any]
    """Columns in the order of `Row`; with the parameter `provider`."""
    provider: str
    """Whose external ids are meant."""
    rules: str
    """By which documents must have been made."""
    is_lasting: bool = False
    """Whether `rows` is the same object each time: what is made of it is worth keeping."""

    def where(self, *conditions: ColumnElement[bool]) -> "People":
        """Those of whom the conditions hold, which may name `Person`, `Principal` and `ScimUser`."""
        return self._replace(
            ids=self.ids.where(*conditions),
            rows=self.rows.where(*conditions),
            whole=self.whole.where(*conditions),
            is_lasting=False,
        )

    def read(self, session: Session, rows: Select[Any], **values: Any) -> list[Met]:
        """Run a statement that was made out of `rows`, with values of its parameters."""
        return [Met._make(each) for each in self.read_wide(session, rows, **values)]

    def read_ids(self, session: Session, ids: Select[Any], **values: Any) -> list[str]:
        """The same of a statement that was made out of `ids`."""
        return [each[0] for each in self.read_wide(session, ids, **values)]

    def read_whole(self, session: Session, rows: Select[Any], **values: Any) -> list[Row]:
        """The same of a statement that was made out of `whole`."""
        return [Row._make(each) for each in self.read_wide(session, rows, **values)]

    def read_wide(self, session: Session, rows: Select[Any], **values: Any) -> Sequence[Any]:
        """The same of a statement that has more columns behind its own."""
        asked = {"provider": self.provider, "rules": self.rules, **values}
        connection = session.connection()
        return (execute_planned(connection, rows, asked) if self.is_lasting else connection.execute(rows, asked)).all()


# Made once: building a statement costs more than what it asks.
_IDS = (
    select(Person.id).join(Principal, Principal.id == Person.id).outerjoin(ScimUser, ScimUser.principal_id == Person.id)
)
_CALLED = and_(
    ScimExternalId.resource_id == Person.id,
    ScimExternalId.provider == bindparam("provider"),
    ScimExternalId.kind == "User",
)
_MET = (
    select(*_MET_COLUMNS)
    .join(Principal, Principal.id == Person.id)
    .outerjoin(ScimUser, ScimUser.principal_id == Person.id)
    .outerjoin(ScimExternalId, _CALLED)
    # By its key alone: PostgreSQL would take what else must hold for a reason to read all documents first; and by no
    # column of the order of the list: it would read documents from the first on to join them in order.
    .outerjoin(ScimDocument, ScimDocument.principal_id == Person.id.concat(""))
)
_ROWS = (
    select(*_COLUMNS)
    .join(Principal, Principal.id == Person.id)
    .outerjoin(Employment, Employment.id == Person.main_employment_id)
    .outerjoin(Organization, Organization.id == Employment.organization_id)
    .outerjoin(Department, Department.id == Employment.department_id)
    .outerjoin(ScimUser, ScimUser.principal_id == Person.id)
    .outerjoin(ScimExternalId, _CALLED)
)
_IS_PRESENT = or_(Principal.standing.in_(SHOWN_ACTIVE), ScimUser.deleted_at.is_(None))
_PRESENT = People(_IDS, _MET, _ROWS, "", "").where(_IS_PRESENT)
DELETED: Final = (
    select(func.count())
    .select_from(ScimUser)
    .join(Principal, Principal.id == ScimUser.principal_id)
    .where(not_(_IS_PRESENT))
)
"""How many people a sender has deleted, whoever it was: all who are not `present`."""


def present(provider: str) -> People:
    """Everybody whom no sender has deleted."""
    return _PRESENT._replace(provider=provider, is_lasting=True)


@cache
def _met(is_sqlite: bool) -> Select[Any]:
    return _MET.where(Person.id.in_(given("given", is_sqlite=is_sqlite)))


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
    statement = _page(session.get_bind().dialect.name == "sqlite")
    found = {row[0]: Row._make(row) for row in _given(session, statement, ids, provider=provider)}
    return [found[each] for each in ids if each in found]


def read_met(session: Session, ids: Sequence[str], people: People) -> list[Met]:
    """The same with their documents; `people` says whose external ids are meant, and documents by which rules."""
    statement = _met(session.get_bind().dialect.name == "sqlite")
    asked = {"provider": people.provider, "rules": people.rules}
    found = {row[0]: Met._make(row) for row in _given(session, statement, ids, **asked)}
    return [found[each] for each in ids if each in found]


def _given(session: Session, statement: Select[Any], ids: Sequence[str], **asked: str) -> Iterator[Any]:
    connection = session.connection()
    for part in chunked(ids):
        yield from execute_planned(connection, statement, {"given": given_value(part), **asked})


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
