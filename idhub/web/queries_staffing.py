"""Read-only queries behind the forms of onboarding, move and rehire: pickers and what a number or name leads to."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.orm import Session

from idhub.authority import Action, Subject, visible_organizations
from idhub.directory.kinds import EmploymentState, Standing
from idhub.directory.names import may_name
from idhub.directory.people import find_person
from idhub.directory.search import find_people, within
from idhub.directory.tables import Department, Employment, Organization, OrganizationClosure, Person, Principal
from idhub.errors import Conflict, Invalid, NotFound
from idhub.web.listing import values

PICKER_LIMIT = 20


@dataclass(frozen=True, slots=True)
class Company:
    """An organization in which the visitor may employ people."""

    id: str
    code: str
    name: str
    name_en: str | None
    time_zone: str

    def shown(self, english: bool) -> str:
        """Its name in the language of the page."""
        return (self.name_en or self.name) if english else self.name


@dataclass(frozen=True, slots=True)
class Candidate:
    """A person as a picker shows them. `number` with the company's code names them exactly."""

    id: str
    display_name: str
    company_code: str
    company: str
    company_en: str | None
    number: str
    title: str | None

    @property
    def key(self) -> str:
        """What one types to name this person and nobody else."""
        return f"{self.company_code}/{self.number}"


class SeveralPeople(Conflict):
    """A text names several people; `named` lists them, so that one can be named exactly."""

    def __init__(self, named: Sequence[Candidate]) -> None:
        super().__init__("Several people are named so; say company/number.", field="manager", rule="manager.ambiguous")
        self.named = named


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose number it is in a company."""

    principal_id: str
    display_name: str
    standing: str
    is_live: bool
    organization_id: str


def companies(session: Session, subject: Subject, text: str = "", *, limit: int = PICKER_LIMIT) -> Sequence[Company]:
    """Organizations in which the subject may change people, top first; of a search, those whose code or name has it."""
    statement = (
        _companies(session, subject)
        .join(OrganizationClosure, OrganizationClosure.descendant_id == Organization.id)
        .group_by(
            Organization.id, Organization.code, Organization.name, Organization.name_en, Organization.time_zone
        )
        .order_by(func.count(), Organization.code)
        .limit(limit)
    )  # fmt: skip
    if words := text.strip().lower():
        statement = statement.where(
            or_(
                func.lower(Organization.code).contains(words, autoescape=True),
                func.lower(Organization.name).contains(words, autoescape=True),
                func.lower(Organization.name_en).contains(words, autoescape=True),
            )
        )
    return [Company(*values(row)) for row in session.execute(statement)]


def company_named(session: Session, subject: Subject, text: str) -> Company:
    """The organization of that id, code or name.

    Raises:
        Invalid: none was named.
        NotFound: there is none, or the subject may not employ people there: the same answer.
    """
    words = text.strip()
    if not words:
        raise Invalid("company must not be empty.", field="company", rule="required")
    named = or_(
        Organization.id == words,
        Organization.code == words,
        Organization.name == words,
        Organization.name_en == words,
    )
    row = session.execute(_companies(session, subject).where(named)).first() if may_name(words) else None
    if row is None:
        raise NotFound("There is no such organization.", field="company", rule="organization.unknown")
    return Company(*values(row))


def _companies(session: Session, subject: Subject) -> Select[str, str, str, str | None, str]:
    statement = select(
        Organization.id, Organization.code, Organization.name, Organization.name_en, Organization.time_zone
    )
    visible = visible_organizations(session, subject, Action.PEOPLE_CHANGE)
    return statement if visible is None else statement.where(Organization.id.in_(visible))


def candidates(session: Session, subject: Subject, text: str, *, limit: int = PICKER_LIMIT) -> Sequence[Candidate]:
    """People who have not left and whose name, number, mail or mobile begins with every word of `text`."""
    statement = _candidates(session, subject)
    visible = visible_organizations(session, subject, Action.PEOPLE_READ)
    organizations = None if visible is None else session.execute(visible).scalars().all()
    hits = find_people(session, text, statement, organizations=organizations, limit=limit)
    rows = {row[0]: Candidate(*values(row)) for row in session.execute(statement.where(Person.id.in_(hits.ids)))}
    return [rows[person_id] for person_id in hits.ids[:limit] if person_id in rows]


def manager_named(session: Session, subject: Subject, text: str) -> Candidate:
    """The one person whom `text` names: number, company/number, mail, mobile, id, or the whole name.

    Raises:
        NotFound: nobody whom the subject may see, or somebody who has left.
        SeveralPeople: it names more than one.
    """
    words = text.strip()
    visible = visible_organizations(session, subject, Action.PEOPLE_READ)
    try:
        person_id = find_person(session, words, within=visible)
        found = [Candidate(*values(row)) for row in session.execute(_candidates(session, subject, person_id))]
    except NotFound:
        found = [] if not may_name(words) else _called(session, subject, Person.display_name == words)
    except Conflict:
        found = _called(session, subject, Employment.employee_number == words)
    if not found:
        raise NotFound("Nobody is named so.", field="manager", rule="manager.unknown")
    if len(found) > 1:
        raise SeveralPeople(found)
    return found[0]


def _called(session: Session, subject: Subject, criterion: object) -> list[Candidate]:
    statement = _candidates(session, subject).where(criterion).order_by(Person.id).limit(6)  # type: ignore[arg-type]
    return [Candidate(*values(row)) for row in session.execute(statement)]


def _candidates(
    session: Session, subject: Subject, person_id: str | None = None
) -> Select[str, str, str, str, str | None, str, str | None]:
    statement = (
        select(
            Person.id,
            Person.display_name,
            Organization.code,
            Organization.name,
            Organization.name_en,
            Employment.employee_number,
            Employment.title,
        )
        .join(Employment, and_(Employment.principal_id == Person.id, Employment.id == Person.main_employment_id))
        .join(Principal, Principal.id == Person.id)
        .join(Organization, Organization.id == Employment.organization_id)
        .where(Principal.standing != Standing.LEFT)
    )
    visible = visible_organizations(session, subject, Action.PEOPLE_READ)
    if visible is not None:
        statement = statement.where(within(visible))
    return statement if person_id is None else statement.where(Person.id == person_id)


def holder_of(session: Session, organization_id: str, employee_number: str) -> Holder | None:
    """Who has or had this number in this company."""
    row = session.execute(
        select(
            Employment.principal_id, Person.display_name, Principal.standing, Employment.state,
            Principal.organization_id,
        )
        .join(Person, Person.id == Employment.principal_id)
        .join(Principal, Principal.id == Employment.principal_id)
        .where(Employment.organization_id == organization_id, Employment.employee_number == employee_number)
    ).first()  # fmt: skip
    if row is None:
        return None
    return Holder(row[0], row[1], row[2], row[3] != EmploymentState.ENDED, row[4])


def has_department(session: Session, organization_id: str, path: str) -> bool:
    """Whether the company has a department of this path already."""
    statement = select(Department.id).where(Department.organization_id == organization_id, Department.path == path)
    return session.execute(statement).first() is not None
