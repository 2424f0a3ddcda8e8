"""People as SCIM shows them, read in three statements whatever their number.

Lists read them with their documents (`Met`); whoever has none that holds is read whole (`Row`). Whose document is all
that is shown of them is met as that document, from brace to brace.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    not_,
    or_,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from idhub.db import Brief, chunked, execute_planned, given, given_value, in_one_piece, taken_apart
from idhub.directory.groups import has_groups
from idhub.directory.kinds import PrincipalKind
from idhub.directory.names import stored_login_name
from idhub.directory.tables import (
    Department,
    Employment,
    LoginName,
    Organization,
    Person,
    Principal,
)
from idhub.kept import Planned
from idhub.provisioning.inbound.documents import Form, id_of
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
    has_groups(Person.id).label("has_groups"),
)


def _marked(condition: ColumnElement[bool], letter: str) -> ColumnElement[str]:
    return case((condition, literal_column(f"'{letter}'", Text)), else_=literal_column("''", Text))


_SHOWN: Final = "s"
_IS_ALL_SHOWN: Final = (
    f"found.is_plain = '{_SHOWN}' AND found.body IS NOT NULL AND found.has_groups = '' AND found.external_id IS NULL"
)
_IS_MET: Final = "is_met"
_BRACE: Final = b"{"
_DOT: Final[ColumnElement[str]] = literal_column("'.'", Text)
_HOLDS: Final = and_(
    ScimDocument.person_version == Principal.version,
    ScimDocument.said_version == func.coalesce(ScimUser.version, 0),
    ScimDocument.names_version == _NAMES_VERSION,
    ScimDocument.rules == bindparam("rules"),
    # Whether somebody else has the mail may change without a change of the person.
    or_(
        ScimDocument.mail_key.is_(None),
        _is_taken(ScimDocument.mail_key.expression) == ScimDocument.is_mail_taken,
    ),
)


def _met_columns(person_id: InstrumentedAttribute[str]) -> tuple[Any, ...]:
    """In the order of `Met`'s fields."""
    return (
        person_id,
        cast(Principal.version, Text)
        .concat(_DOT)
        .concat(cast(func.coalesce(ScimUser.version, 0), Text))
        .concat(_DOT)
        .concat(ScimDocument.digest)
        .label("version"),
        _micros(Principal.created_at),
        case(
            (_micros(ScimUser.changed_at) > _micros(Principal.changed_at), _micros(ScimUser.changed_at)),
            else_=_micros(Principal.changed_at),
        ).label("changed_at"),
        _marked(has_groups(person_id), "g").label("has_groups"),
        case(
            (
                and_(ScimDocument.is_plain, bindparam("shows_plain", type_=Boolean)),
                literal_column(f"'{_SHOWN}'", Text),
            ),
            (ScimDocument.is_plain, literal_column("'p'", Text)),
            else_=literal_column("''", Text),
        ).label("is_plain"),
        _marked(ScimDocument.is_all.expression, "a").label("is_all"),
        ScimExternalId.external_id,
        case((_HOLDS, ScimDocument.body)).label("body"),
    )


class Met(NamedTuple):
    """A person as a list meets them: with their document, where there is one that holds. Texts as they are stored.

    Of whom nothing but the document is shown, that stands in place of a `Met`, in bytes.
    """

    id: bytes
    version: bytes
    """Of the resource, whose last part is the document's digest."""
    created_at: bytes
    """Microseconds since 1970, as is the next."""
    changed_at: bytes
    has_groups: bytes
    """Empty: it is not so. The same of the next two."""
    is_plain: bytes
    is_all: bytes
    external_id: bytes
    """As JSON; empty: there is none."""
    body: bytes
    """Complete; empty: there is no document, or it does not hold any more."""


class Unless(NamedTuple):
    """A reason to read nobody, and the word that says it."""

    holds: ColumnElement[bool]
    word: str


class People(NamedTuple):
    """Whom a list is about: as ids, and the same people as rows."""

    ids: Select[str]
    rows: Select[Any]
    """Columns in the order of `Met`; with the parameters `provider` and `rules`."""
    bare: Select[Any]
    """The same as `rows`, for walks that do not name `Person`: that table is only in it where a condition may."""
    whole: Select[Any]
    """Columns in the order of `Row`; with the parameter `provider`."""
    provider: str
    """Whose external ids are meant."""
    form: Form | None
    """By which documents must have been made; None: none is asked for."""
    shows_plain: bool = False
    """Whether nothing is left out of a document that is plain (`ScimDocument.is_plain`)."""
    is_looked_at: bool = False
    """Whether a filter looks at everybody, unless a walk is sure of them."""
    is_lasting: bool = False
    """Whether `rows` is the same object each time: what is made of it is worth keeping."""
    values: Mapping[str, Any] = MappingProxyType({})
    """Of parameters that these statements have besides."""

    def where(self, *conditions: ColumnElement[bool]) -> "People":
        """Those of whom the conditions hold, which may name `Person`, `Principal` and `ScimUser`."""
        rows = self.rows.where(*conditions)
        return self._replace(
            ids=self.ids.where(*conditions),
            rows=rows,
            bare=rows,
            whole=self.whole.where(*conditions),
            is_lasting=False,
        )

    def where_kept(self, condition: ColumnElement[bool], values: Mapping[str, Any]) -> "People":
        """The same where the condition is one of few objects that stay, with parameters, and does not name `Person`."""
        if not self.is_lasting:
            return self.where(condition)._replace(values=values)
        key = (id(self.rows), id(condition))
        if key not in _NARROWED:
            _NARROWED[key] = (self.where(condition)._replace(bare=self.bare.where(condition)), condition)
        narrowed = _NARROWED[key][0]
        return self._replace(
            ids=narrowed.ids, rows=narrowed.rows, bare=narrowed.bare, whole=narrowed.whole, values=values
        )

    def read(self, session: Session, rows: Select[Any], **values: Any) -> list[Met | bytes]:
        """Run a statement that was made out of `rows` or `bare`, with values of its parameters."""
        return [
            each[0] if each[0][:1] == _BRACE else Met._make(each) for each in self.read_wide(session, rows, **values)
        ]

    def read_wide(
        self, session: Session, rows: Select[Any], *, unless: Sequence[Unless] = (), **values: Any
    ) -> Sequence[Sequence[bytes]]:
        """The same of a statement that has more columns behind its own; a document has only these behind it. A column
        `is_met` says whether a filter need not look.

        Args:
            unless: the first of these that holds is answered instead, by its word as the one value of one row, and
                nobody is read. For the same `rows` always the same.
        """
        is_sqlite = session.get_bind().dialect.name == "sqlite"
        if not self.is_lasting:
            packed = _packed(rows, unless, is_sqlite=is_sqlite)
        elif (found := _PACKED.get((id(rows), is_sqlite))) is not None:
            packed = found
        else:
            packed = _PACKED[id(rows), is_sqlite] = staying(_packed(rows, unless, is_sqlite=is_sqlite))
        shown = self.shows_plain and (not self.is_looked_at or _IS_MET in rows.selected_columns)
        asked = self._asked(values) | {"shows_plain": shown}
        planned = _STAYING.get(id(packed))
        text = self._execute(session, packed, asked)[0][0] if planned is None else planned.piece(session, asked)
        piece = text.encode() if isinstance(text, str) else text or b""
        return taken_apart(piece if self.form is None else self.form.full(piece))

    def read_ids(self, session: Session, ids: Select[Any], **values: Any) -> list[str]:
        """The same of a statement that was made out of `ids`."""
        return [row[0] for row in self._run(session, ids, values)]

    def read_whole(self, session: Session, rows: Select[Any], **values: Any) -> list[Row]:
        """The same of a statement that was made out of `whole`."""
        return [Row._make(each) for each in self._run(session, rows, values)]

    def _run(self, session: Session, statement: Select[Any], values: Mapping[str, Any]) -> Sequence[Any]:
        asked, planned = self._asked(values), _STAYING.get(id(statement))
        return self._execute(session, statement, asked) if planned is None else planned.all(session, asked)

    def _asked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        rules = None if self.form is None else self.form.rules
        return {"provider": self.provider, "rules": rules, **self.values, **values}

    def _execute(self, session: Session, statement: Select[Any], asked: Mapping[str, Any]) -> Sequence[Any]:
        connection = session.connection()
        if self.is_lasting:
            # The same each time, but made anew.
            return execute_planned(connection, statement, asked).all()
        return connection.execute(statement, asked).all()


# By statements, and conditions, that stay.
_NARROWED: Final[dict[tuple[int, int], tuple[People, ColumnElement[bool]]]] = {}
_PACKED: Final[dict[tuple[int, bool], Select[Any]]] = {}
_STAYING: Final[dict[int, Planned]] = {}


def staying(statement: Select[Any]) -> Select[Any]:
    """A statement that stays as long as the process: what it takes to send it is kept."""
    _STAYING[id(statement)] = Planned(statement)
    return statement


def _packed(rows: Select[Any], unless: Sequence[Unless], *, is_sqlite: bool) -> Select[Any]:
    more = tuple(rows.selected_columns.keys()[len(Met._fields) :])
    where = f"{_IS_ALL_SHOWN} AND found.{_IS_MET}" if _IS_MET in more else _IS_ALL_SHOWN
    piece = in_one_piece(rows, is_sqlite=is_sqlite, words=("external_id", *more), brief=Brief(where, ("body", *more)))
    if not unless:
        return piece
    # Both databases read nobody for the page where another answer is chosen.
    said = [(each.holds, literal_column(f"'{each.word}'", Text)) for each in unless]
    return select(case(*said, else_=piece.scalar_subquery()).label("piece"))


def _called(person_id: InstrumentedAttribute[str]) -> ColumnElement[bool]:
    return and_(
        ScimExternalId.resource_id == person_id,
        ScimExternalId.provider == bindparam("provider"),
        ScimExternalId.kind == "User",
    )


def _with_documents(people: Select[Any], person_id: InstrumentedAttribute[str]) -> Select[Any]:
    return (
        people.outerjoin(ScimUser, ScimUser.principal_id == person_id)
        .outerjoin(ScimExternalId, _called(person_id))
        # By its key alone: PostgreSQL would take what else must hold for a reason to read all documents first; and by
        # no column of the order of the list: it would read documents from the first on to join them in order.
        .outerjoin(ScimDocument, ScimDocument.principal_id == person_id.concat(""))
    )


# Made once: building a statement costs more than what it asks.
_IDS = (
    select(Person.id).join(Principal, Principal.id == Person.id).outerjoin(ScimUser, ScimUser.principal_id == Person.id)
)
_MET = _with_documents(select(*_met_columns(Person.id)).join(Principal, Principal.id == Person.id), Person.id)
# Whoever is a person has a row of people: what nobody asks for is not looked up.
_BARE = _with_documents(select(*_met_columns(Principal.id)).select_from(Principal), Principal.id).where(
    Principal.kind == PrincipalKind.PERSON.value
)
_ROWS = (
    select(*_COLUMNS)
    .join(Principal, Principal.id == Person.id)
    .outerjoin(Employment, Employment.id == Person.main_employment_id)
    .outerjoin(Organization, Organization.id == Employment.organization_id)
    .outerjoin(Department, Department.id == Employment.department_id)
    .outerjoin(ScimUser, ScimUser.principal_id == Person.id)
    .outerjoin(ScimExternalId, _called(Person.id))
)
_IS_PRESENT = or_(Principal.standing.in_(SHOWN_ACTIVE), ScimUser.deleted_at.is_(None))
_PRESENT = People(
    _IDS.where(_IS_PRESENT), _MET.where(_IS_PRESENT), _BARE.where(_IS_PRESENT), _ROWS.where(_IS_PRESENT), "", None
)
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
    return _BARE.where(Principal.id.in_(given("given", is_sqlite=is_sqlite)))


@cache
def _page(is_sqlite: bool) -> Planned:
    return Planned(_ROWS.where(Person.id.in_(given("given", is_sqlite=is_sqlite))))


@cache
def _taken(is_sqlite: bool) -> Planned:
    values = given("given", is_sqlite=is_sqlite)
    shared = (
        select(LoginName.value).where(LoginName.value.in_(values)).group_by(LoginName.value).having(func.count() > 1)
    )
    return Planned(union_all(shared, select(ScimUser.user_name_key).where(ScimUser.user_name_key.in_(values))))


def read_rows(session: Session, ids: Sequence[str], *, provider: str) -> list[Row]:
    """Rows of people, in the order of ids; of somebody who does not exist there is none.

    Args:
        provider: whose external ids are meant.
    """
    statement = _page(session.get_bind().dialect.name == "sqlite")
    found = {row[0]: Row._make(row) for row in _given(session, statement, ids, provider=provider)}
    return [found[each] for each in ids if each in found]


def read_met(session: Session, ids: Sequence[str], people: People) -> list[Met | bytes]:
    """The same with their documents; `people` says whose external ids are meant, and documents by which rules."""
    statement = _met(session.get_bind().dialect.name == "sqlite")
    lasting = people._replace(is_lasting=True)
    found = {
        met_id(met): met for part in chunked(ids) for met in lasting.read(session, statement, given=given_value(part))
    }
    return [found[each] for each in ids if each in found]


def met_id(met: Met | bytes) -> str:
    """Whom a list met."""
    return id_of(met) if isinstance(met, bytes) else met.id.decode()


def _given(session: Session, statement: Planned, ids: Sequence[str], **asked: str) -> Iterator[Any]:
    for part in chunked(ids):
        yield from statement.all(session, {"given": given_value(part), **asked})


def fallback_names(session: Session, people: Sequence[Row]) -> dict[str, str]:
    """What people are called whom no sender has named: their mail when it is nobody else's, or company/number."""
    mails = {
        person.id: stored_login_name("email", person.email)
        for person in people
        if person.email and not person.email.isascii()
    }
    taken = _taken(session.get_bind().dialect.name == "sqlite")
    shared = {row[0] for row in _given(session, taken, list(set(mails.values())))}
    return {
        person.id: person.email
        if person.email and not (mails[person.id] in shared if person.id in mails else person.is_mail_taken)
        else f"{person.company_code}/{person.employee_number}"
        if person.employee_number is not None
        else person.id
        for person in people
    }
