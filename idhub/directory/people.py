"""Reading people: finding one by anything that names them, showing one, listing many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Select, bindparam, or_, select
from sqlalchemy.orm import Session

from idhub.db import chunked
from idhub.directory.kinds import EmploymentState, EmploymentType, Standing
from idhub.directory.names import LONGEST, login_name_candidates, may_name
from idhub.directory.tables import Department, Employment, LoginName, Organization, Person, Principal, SourceRecord
from idhub.errors import Conflict, NotFound


@dataclass(frozen=True, kw_only=True, slots=True)
class EmploymentView:
    """One employment, with names instead of ids."""

    id: str
    organization_id: str
    company: str
    company_en: str | None
    company_code: str
    time_zone: str
    department_id: str | None
    department: str | None
    employee_number: str
    type: EmploymentType
    title: str | None
    manager_id: str | None
    manager: str | None
    state: EmploymentState
    starts_on: date
    ends_on: date | None
    starts_at: datetime
    ends_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonView:
    """One person, as pages and commands show them."""

    id: str
    display_name: str
    given_name: str | None
    family_name: str | None
    email: str | None
    mobile: str | None
    locale: str | None
    standing: Standing
    organization_id: str
    access_starts_at: datetime
    access_ends_at: datetime | None
    access_epoch: int
    enrolment_epoch: int
    version: int
    main_employment_id: str | None
    created_at: datetime
    changed_at: datetime
    employments: Sequence[EmploymentView] = ()

    @property
    def main(self) -> EmploymentView | None:
        """The main employment."""
        return next((e for e in self.employments if e.id == self.main_employment_id), None)

    @property
    def employee_number(self) -> str:
        """Number of the main employment."""
        return self.main.employee_number if self.main else ""


def find_person(session: Session, text: str, *, within: Select[str] | None = None) -> str:
    """Principal id of the one person that `text` names: id, `company/number`, employee number, mail or mobile.

    Args:
        within: ids of the organizations that whoever asks may see; people of others do not exist for them.

    Raises:
        NotFound: nobody is named so.
        Conflict: several are; the sentence says how to be exact.
    """
    value = text.strip()
    found = session.execute(_named(value, within)).scalars().all() if may_name(value) else []
    if not found:
        raise NotFound(f"Nobody is named {value[:LONGEST]!r}.", field="person", rule="person.unknown")
    if len(found) > 1:
        raise Conflict(
            f"Several people are named {value!r}; say company/number.", field="person", rule="person.ambiguous"
        )
    return found[0]


def _named(value: str, within: Select[str] | None) -> Select[str]:
    """Two people at most whom `value` names."""
    statement = select(Principal.id).join(Person, Person.id == Principal.id)
    if value.startswith("per_"):
        statement = statement.where(Principal.id == value)
    elif "/" in value:
        company, _, number = value.rpartition("/")
        posts = (
            select(Employment.principal_id)
            .join(Organization, Organization.id == Employment.organization_id)
            .where(
                or_(Organization.code == company, Organization.name == company), Employment.employee_number == number
            )
        )
        statement = statement.where(Principal.id.in_(posts))
    else:
        names = select(LoginName.principal_id).where(LoginName.value.in_(login_name_candidates(value)))
        statement = statement.where(Principal.id.in_(names))
    if within is not None:
        statement = statement.where(Principal.organization_id.in_(within))
    return statement.limit(2)


# Made once: building a statement costs more than what it asks.
_PEOPLE = (
    select(
        Person.id,
        Person.display_name,
        Person.given_name,
        Person.family_name,
        Person.email,
        Person.mobile,
        Person.locale,
        Principal.standing,
        Principal.organization_id,
        Principal.access_starts_at,
        Principal.access_ends_at,
        Principal.access_epoch,
        Principal.enrolment_epoch,
        Principal.version,
        Person.main_employment_id,
        Principal.created_at,
        Principal.changed_at,
    )
    .join(Principal, Principal.id == Person.id)
    .where(Person.id.in_(bindparam("ids", expanding=True)))
)
_EMPLOYMENTS = (
    select(
        Employment.principal_id,
        Employment.id,
        Employment.organization_id,
        Employment.department_id,
        Employment.employee_number,
        Employment.type,
        Employment.title,
        Employment.manager_id,
        Employment.state,
        Employment.starts_on,
        Employment.ends_on,
        Employment.starts_at,
        Employment.ends_at,
        Organization.name,
        Organization.name_en,
        Organization.code,
        Organization.time_zone,
        Department.path,
    )
    .join(Organization, Organization.id == Employment.organization_id)
    .outerjoin(Department, Department.id == Employment.department_id)
    .where(Employment.principal_id.in_(bindparam("ids", expanding=True)))
    .order_by(Employment.starts_at, Employment.id)
)


def show_people(session: Session, principal_ids: Sequence[str]) -> dict[str, PersonView]:
    """People by id, each with employments, in three queries whatever their number."""
    views: dict[str, PersonView] = {}
    for part in chunked(principal_ids):
        employments = _employments(session, part)
        rows = session.connection().execute(_PEOPLE, {"ids": part})
        for row in rows:
            values = row._mapping
            views[row.id] = PersonView(
                **{name: values[name] for name in values},
                employments=employments.get(row.id, ()),
            )
    return views


def show_person(session: Session, principal_id: str) -> PersonView:
    """One person with employments.

    Raises:
        NotFound: there is no such person.
    """
    found = show_people(session, [principal_id])
    if principal_id not in found:
        raise NotFound("There is no such person.", field="person", rule="person.unknown")
    return found[principal_id]


def _employments(session: Session, principal_ids: Sequence[str]) -> Mapping[str, Sequence[EmploymentView]]:
    rows = session.connection().execute(_EMPLOYMENTS, {"ids": principal_ids}).all()
    manager_ids = {row.manager_id for row in rows if row.manager_id}
    managers: dict[str, str] = {}
    for part in chunked(sorted(manager_ids)):
        found = session.execute(select(Person.id, Person.display_name).where(Person.id.in_(part)))
        managers.update((row.id, row.display_name) for row in found)
    result: dict[str, list[EmploymentView]] = {}
    for e in rows:
        result.setdefault(e.principal_id, []).append(
            EmploymentView(
                id=e.id,
                organization_id=e.organization_id,
                company=e.name,
                company_en=e.name_en,
                company_code=e.code,
                time_zone=e.time_zone,
                department_id=e.department_id,
                department=e.path,
                employee_number=e.employee_number,
                type=EmploymentType(e.type),
                title=e.title,
                manager_id=e.manager_id,
                manager=managers.get(e.manager_id or ""),
                state=EmploymentState(e.state),
                starts_on=e.starts_on,
                ends_on=e.ends_on,
                starts_at=e.starts_at,
                ends_at=e.ends_at,
            )
        )
    return result


@dataclass(frozen=True, slots=True)
class SourceView:
    """What a provider last said of a person."""

    provider: str
    key: str
    state: str
    seen_at: datetime


def sources_of(session: Session, principal_id: str) -> list[SourceView]:
    """What each provider last said of the person."""
    rows = session.execute(
        select(SourceRecord.provider, SourceRecord.key, SourceRecord.state, SourceRecord.seen_at)
        .where(SourceRecord.principal_id == principal_id)
        .order_by(SourceRecord.provider, SourceRecord.key)
    )
    return [SourceView(*row) for row in rows]
