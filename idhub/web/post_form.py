"""The fields of a post as a form sends them: read all at once, each error beside its field, values kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from gettext import NullTranslations
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from fastapi import Request
from sqlalchemy.orm import Session

from idhub.directory.kinds import EmploymentType
from idhub.directory.organizations import ensure_department, parse_department_path
from idhub.directory.people import EmploymentView, PersonView
from idhub.errors import Conflict, IdhubError, Invalid, NotFound
from idhub.lifecycle import intake
from idhub.pages import N_, Formatter
from idhub.web import labels
from idhub.web.forms import Form
from idhub.web.instants import parse_date
from idhub.web.labels import Translate
from idhub.web.queries_staffing import (
    PICKER_LIMIT,
    Candidate,
    Company,
    SeveralPeople,
    companies,
    company_named,
    has_department,
    manager_named,
)
from idhub.web.refusals import refusal_words
from idhub.web.services import WebServices
from idhub.web.visit import Visitor

T = TypeVar("T")
PERSON_FIELDS = ("display_name", "given_name", "family_name", "email", "mobile")
POST_FIELDS = (
    "company", "employee_number", "employment_type", "department", "title", "manager", "start_date", "end_date",
)  # fmt: skip
FIELD_NAMES: Mapping[str, str] = {
    "display_name": N_("Full name"),
    "given_name": N_("Given name"),
    "family_name": N_("Family name"),
    "email": N_("Mail"),
    "mobile": N_("Mobile"),
    "company": N_("Company"),
    "employee_number": N_("Employee number"),
    "employment_type": N_("Employment type"),
    "department": N_("Department"),
    "title": N_("Title"),
    "manager": N_("Manager"),
    "start_date": N_("First day"),
    "end_date": N_("Last day"),
}
CONTROLS: Mapping[str, int] = {"csrf_token": 200, "step": 20, "fingerprint": 40}
CHANGED = N_("What would follow has changed since you read it. Read it again, then confirm.")
_LONGEST = 2_000
_SEVERAL = N_("Several people are named so: %(people)s. Write company/number.")


def fields(*names: str) -> dict[str, int]:
    """Fields and their longest values, for `form_of`; what is too long for its field is said beside it."""
    return {**dict.fromkeys(names, _LONGEST), **CONTROLS}


@dataclass(frozen=True, slots=True)
class Post:
    """A post that was read without an error."""

    company: Company
    employee_number: str
    type: EmploymentType
    department: str | None
    is_new_department: bool
    title: str | None
    manager: Candidate | None
    starts_on: date
    ends_on: date | None

    def command_values(self, session: Session, *, now: datetime) -> dict[str, Any]:
        """As `lifecycle.commands` takes them; makes the department when it is new."""
        return {
            "organization_id": self.company.id,
            "employee_number": self.employee_number,
            "employment_type": self.type,
            "starts_on": self.starts_on,
            "department_id": self.department_id(session, now=now),
            "title": self.title,
            "manager_id": self.manager.id if self.manager else None,
            "ends_on": self.ends_on,
        }

    def department_id(self, session: Session, *, now: datetime) -> str | None:
        """Of the department, made when it is new."""
        if self.department is None:
            return None
        return ensure_department(session, self.company.id, self.department, now=now)

    def is_held_by(self, person: PersonView) -> bool:
        """Whether the person has exactly this post: a form that was sent twice."""
        return any(
            (e.organization_id, e.employee_number, e.type, e.department, e.title, e.manager_id, e.starts_on, e.ends_on)
            == (
                self.company.id, self.employee_number, self.type, self.department, self.title,
                self.manager.id if self.manager else None, self.starts_on, self.ends_on,
            )
            and e.state != "ended"
            for e in person.employments
        )  # fmt: skip


@dataclass(slots=True)
class Reader:
    """Reads the fields of one form; what breaks a rule lands in `errors`, by field."""

    session: Session
    visitor: Visitor
    values: Mapping[str, str]
    t: Translate
    now: datetime
    zone: str
    errors: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, read: Callable[[str], T]) -> T | None:
        """The value of a field, or None with its error noted."""
        try:
            return read(self.values[name])
        except SeveralPeople as error:
            people = ", ".join(f"{one.display_name} {one.key}" for one in error.named)
            self.errors[name] = self.t(_SEVERAL) % {"people": people}
        except IdhubError as error:
            self.errors[name] = refusal_words(error, self.t)
        return None

    def refuse(self, error: IdhubError) -> None:
        """Note what the lifecycle refused, beside the field that it names where the form has it."""
        name = error.field or ""
        self.errors[name if name in self.values else ""] = refusal_words(error, self.t)

    def person(self) -> dict[str, str | None]:
        """Names, mail and mobile."""
        found: dict[str, str | None] = {}
        for name in PERSON_FIELDS:
            if name == "email":
                found[name] = self.take(name, intake.clean_email)
            elif name == "mobile":
                found[name] = self.take(name, intake.clean_mobile)
            else:
                found[name] = self.take(name, lambda text, name=name: _clean(text, name))  # type: ignore[misc]
        return found

    def post(self, *, known: EmploymentView | None = None) -> Post | None:
        """The post, or None when a field of it breaks a rule.

        Args:
            known: of a move, the employment as it is: number and first day are its own, and an end that is not touched
                may lie in the past.
        """
        company = self.take("company", lambda text: company_named(self.session, self.visitor.subject, text))
        zone = company.time_zone if company else self.zone
        number = known.employee_number if known else self.take("employee_number", intake.clean_employee_number)
        kind = self.take("employment_type", _employment_type)
        department = self.take("department", lambda text: parse_department_path(text) if text.strip() else None)
        title = self.take("title", lambda text: intake.clean_text(text, field_name="title"))
        manager = self.take("manager", self._manager)
        starts_on = known.starts_on if known else self.take("start_date", lambda text: self._first_day(text, zone))
        last_known = known.ends_on if known else None
        ends_on = self.take("end_date", lambda text: self._last_day(text, zone, starts_on, last_known))
        if self.errors or company is None or number is None or kind is None or starts_on is None:
            return None
        is_new = department is not None and not has_department(self.session, company.id, department)
        return Post(company, number, kind, department, is_new, title, manager, starts_on, ends_on)

    def _manager(self, text: str) -> Candidate | None:
        return manager_named(self.session, self.visitor.subject, text) if text.strip() else None

    def _first_day(self, text: str, zone: str) -> date:
        day = parse_date(text, zone, now=self.now, field="start_date")
        if day is None:
            raise Invalid("start_date must not be empty.", field="start_date", rule="required")
        return day

    def _last_day(self, text: str, zone: str, starts_on: date | None, known: date | None) -> date | None:
        day = parse_date(text, zone, now=self.now, field="end_date")
        if day is None or day == known:
            return day
        if starts_on is not None and day < starts_on:
            raise Invalid("The end date lies before the start date.", field="end_date", rule="end_before_start")
        if day < self.now.astimezone(ZoneInfo(zone)).date():
            raise Invalid("The last day has passed.", field="end_date", rule="end.past")
        return day


def _clean(text: str, name: str) -> str | None:
    return intake.clean_text(text, field_name=name, required=name == "display_name")


def _employment_type(text: str) -> EmploymentType:
    try:
        return EmploymentType(text)
    except ValueError as error:
        raise Invalid(
            "employment_type is none of the listed.", field="employment_type", rule="employment_type"
        ) from error


def reader_of(
    session: Session, visitor: Visitor, form: Form, services: WebServices, t: Translate, *, now: datetime
) -> Reader:
    """A reader of one form."""
    return Reader(session, visitor, form, t, now, services.settings.time_zone)


def values_of(post: EmploymentView, *, manager_key: str) -> dict[str, str]:
    """An employment as the form shows it."""
    return {
        "company": post.company_code,
        "employee_number": post.employee_number,
        "employment_type": post.type.value,
        "department": post.department or "",
        "title": post.title or "",
        "manager": manager_key,
        "start_date": post.starts_on.isoformat(),
        "end_date": post.ends_on.isoformat() if post.ends_on else "",
    }


def key_of(session: Session, visitor: Visitor, person_id: str | None) -> str:
    """What names a manager in the form; nothing for one who has left or is out of the visitor's sight."""
    if person_id is None:
        return ""
    try:
        return manager_named(session, visitor.subject, person_id).key
    except (NotFound, Conflict):
        return ""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the form offers: few companies as a list, many by search."""

    companies: Sequence[tuple[str, str]] | None
    types: Sequence[tuple[str, str]]


def choices(session: Session, visitor: Visitor, *, english: bool, t: Translate) -> Choices:
    """The choices of a post's form."""
    listed = companies(session, visitor.subject, limit=PICKER_LIMIT + 1)
    return Choices(
        [(one.code, one.shown(english)) for one in listed] if len(listed) <= PICKER_LIMIT else None,
        [(code, t(name)) for code, name in labels.EMPLOYMENT_TYPE.items()],
    )


def formatter_at(services: WebServices, request: Request, zone: str) -> Formatter:
    """Dates and times on the clocks of a company's place."""
    return Formatter(services.pages.language(request), zone, NullTranslations())
