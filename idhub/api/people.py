"""People: list, read, hire, change, move."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.api.access import ApiCaller, Caller
from idhub.api.errors import create_route_class
from idhub.api.shared import PREFIX, TAGS, ApiServices, Body, Day, Text, find_visible, outcome, permit, visible
from idhub.api.views import person_summary, person_view
from idhub.authority import Action, authorize, visible_organizations
from idhub.directory.organizations import ensure_department, find_organization
from idhub.directory.people import show_people, show_person
from idhub.directory.search import LONGEST_QUERY, find_people, within
from idhub.directory.tables import Employment, Person, Principal
from idhub.errors import Conflict, NotFound
from idhub.lifecycle import commands


class EmploymentBody(Body):
    """A post. `department` is a path with /; it is made when it is new."""

    company: Text
    employee_number: Annotated[str, Field(min_length=1, max_length=64)]
    employment_type: Literal["regular", "contractor", "intern", "dispatched"] = "regular"
    start_date: Day
    end_date: Day | None = None
    department: Annotated[str, Field(max_length=1_000)] | None = None
    title: Annotated[str, Field(max_length=200)] | None = None
    manager: Text | None = None


class OnboardBody(Body):
    """A person with a first employment."""

    display_name: Text
    given_name: Annotated[str, Field(max_length=100)] | None = None
    family_name: Annotated[str, Field(max_length=100)] | None = None
    email: Annotated[str, Field(max_length=254)] | None = None
    mobile: Annotated[str, Field(max_length=32)] | None = None
    locale: Annotated[str, Field(max_length=16)] | None = None
    employment: EmploymentBody


class UpdateBody(Body):
    """New values of attributes; those left out stay."""

    display_name: Text | None = None
    given_name: Annotated[str, Field(max_length=100)] | None = None
    family_name: Annotated[str, Field(max_length=100)] | None = None
    email: Annotated[str, Field(max_length=254)] | None = None
    mobile: Annotated[str, Field(max_length=32)] | None = None
    locale: Annotated[str, Field(max_length=16)] | None = None


def create_router(services: ApiServices) -> APIRouter:
    """Routes of people."""
    router = APIRouter(prefix=PREFIX, tags=TAGS, route_class=create_route_class(services))
    database = services.database

    @router.get("/people")
    def list_people(
        caller: Caller,
        q: Annotated[str, Query(max_length=LONGEST_QUERY)] = "",
        after: Annotated[str, Query(max_length=40)] = "",
        size: Annotated[int, Query(ge=1, le=100)] = 50,
    ) -> Any:
        """People in the token's scope, in order of their ids; `next` is the cursor of the following page.

        With `q` those whom it names (name, pinyin, initials, employee number, mail, mobile), best matches first; a page
        may then hold fewer than `size`, and the first one more: whom `q` names exactly.
        """
        with database.read(keeps_plans=bool(q)) as session:
            authorize(session, caller.subject, Action.PEOPLE_READ)
            scope = visible_organizations(session, caller.subject, Action.PEOPLE_READ)
            statement = select(Person.id).join(Principal, Principal.id == Person.id)
            if scope is not None:
                statement = statement.where(within(scope) if q else Principal.organization_id.in_(scope))
            ids: Sequence[str]
            if q:
                places = None if scope is None else session.execute(scope).scalars().all()
                hits = find_people(session, q, statement, organizations=places, beside=after or None, limit=size)
                ids, following = hits.ids, hits.last if hits.has_more else None
            else:
                page = statement.where(Person.id > after).order_by(Person.id).limit(size + 1)
                found = session.execute(page).scalars().all()
                ids, following = found[:size], found[size - 1] if len(found) > size else None
            people = show_people(session, ids)
        return {"people": [person_summary(people[person_id]) for person_id in ids], "next": following}

    @router.post("/people", status_code=201)
    def onboard_person(caller: Caller, body: OnboardBody) -> Any:
        """Hire a person. Whoever had this number in this company and left is rehired."""

        def work(session: Session) -> Any:
            now = services.clock()
            post = _post(session, caller, body.employment, now=now)
            known = session.execute(
                select(Employment.principal_id).where(
                    Employment.organization_id == post["organization_id"],
                    Employment.employee_number == body.employment.employee_number,
                )
            ).scalar()
            if known is not None:
                commands.rehire(session, caller.lifecycle, known, now=now, **post)
                person_id = known
            else:
                person = body.model_dump(exclude={"employment"})
                person_id = commands.onboard(session, caller.lifecycle, person=person, now=now, **post)
            return person_view(show_person(session, person_id))

        return database.run(work)

    @router.get("/people/{person}")
    def read_person(caller: Caller, person: str) -> Any:
        """One person: by id, employee number, mail or mobile."""
        with database.read() as session:
            return person_view(visible(session, caller, person, Action.PEOPLE_READ))

    @router.patch("/people/{person}")
    def update_person(caller: Caller, person: str, body: UpdateBody) -> Any:
        """Change attributes."""

        def work(session: Session) -> Any:
            found = visible(session, caller, person, Action.PEOPLE_CHANGE)
            values = body.model_dump(exclude_unset=True)
            commands.update_person(session, caller.lifecycle, found.id, values=values, now=services.clock())
            return person_view(show_person(session, found.id))

        return database.run(work)

    @router.post("/people/{person}/employments", status_code=201)
    def add_employment(caller: Caller, person: str, body: EmploymentBody) -> Any:
        """A further employment; of one who has left, the rehire: nothing from before works again."""

        def work(session: Session) -> Any:
            now = services.clock()
            found = visible(session, caller, person, Action.PEOPLE_CHANGE)
            result = commands.rehire(
                session, caller.lifecycle, found.id, now=now, **_post(session, caller, body, now=now)
            )
            return {**outcome(result), "person": person_view(show_person(session, found.id))}

        return database.run(work)

    return router


def _post(session: Session, caller: ApiCaller, body: EmploymentBody, *, now: datetime) -> dict[str, Any]:
    organization_id = company_of(session, caller, body.company)
    return {
        "organization_id": organization_id,
        "employee_number": body.employee_number,
        "employment_type": body.employment_type,
        "starts_on": body.start_date,
        "ends_on": body.end_date,
        "department_id": department_of(session, organization_id, body.department, now=now),
        "title": body.title,
        "manager_id": manager_of(session, caller, body.manager),
    }


def company_of(session: Session, caller: ApiCaller, text: str) -> str:
    """Id of a company in which the token may change people."""
    unknown = NotFound(f"There is no organization {text!r}.", field="company", rule="organization.unknown")
    authorize(session, caller.subject, Action.PEOPLE_CHANGE)
    try:
        organization_id = find_organization(session, text)
    except NotFound:
        raise unknown from None
    permit(session, caller, Action.PEOPLE_CHANGE, organization_id, unknown=unknown)
    return organization_id


def manager_of(session: Session, caller: ApiCaller, text: str | None) -> str | None:
    """Id of a manager whom the token may see."""
    if not text:
        return None
    try:
        return find_visible(session, caller, text, Action.PEOPLE_READ)
    except (NotFound, Conflict) as error:
        raise type(error)(error.description, field="manager", rule=error.rule) from error


def department_of(session: Session, organization_id: str, path: str | None, *, now: datetime) -> str | None:
    """Id of a department by path, made when it is new."""
    return ensure_department(session, organization_id, path, now=now) if path else None
