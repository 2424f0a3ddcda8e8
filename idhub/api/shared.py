"""What the API's routes share: services, the visible person, outcomes."""

from datetime import date, datetime
from enum import Enum
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.access.applications import find_application
from idhub.access.tables import Application
from idhub.admission import Admission
from idhub.api.access import ApiCaller
from idhub.authority import Action, authorize, visible_organizations
from idhub.directory.calendar import parse_day, parse_instant
from idhub.directory.people import PersonView, find_person, show_person
from idhub.errors import Invalid, NotFound, NotPermitted
from idhub.gateway import HubServices
from idhub.lifecycle.transition import TransitionResult

PREFIX = "/api/v1"
TAGS: list[str | Enum] = ["v1"]
T_co = TypeVar("T_co", covariant=True)


class ApiServices(HubServices, Protocol):
    """The part of `idhub.app.Services` that the API uses."""

    @property
    def admission(self) -> Admission:
        """Lanes of requests."""


def _day(value: object) -> date:
    return _parsed(parse_day, value)


def _instant(value: object) -> datetime:
    return _parsed(parse_instant, value)


class _Parser(Protocol[T_co]):
    def __call__(self, text: str, *, field: str) -> T_co: ...


def _parsed(parse: "_Parser[T_co]", value: object) -> T_co:
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "Input should be a valid string")
    try:
        return parse(value, field="it")
    except Invalid as error:
        # The API's translator names the field in front of the sentence.
        raise PydanticCustomError("date_or_time", "{sentence}", {"sentence": error.description.rstrip(".")}) from error


Text = Annotated[str, Field(min_length=1, max_length=200)]
Reason = Annotated[str, Field(max_length=500)]
Day = Annotated[date, BeforeValidator(_day)]
Instant = Annotated[datetime, BeforeValidator(_instant)]


class Body(BaseModel):
    """A request body: unknown fields and control characters are refused."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    @field_validator("*")
    @classmethod
    def _no_control_characters(cls, value: Any) -> Any:
        if isinstance(value, str) and any(c < " " or c == "\x7f" for c in value):
            raise PydanticCustomError("control_character", "must not contain control characters")
        return value


def find_visible(session: Session, caller: ApiCaller, person: str, action: Action) -> str:
    """Id of the person, if the token may do `action` to them; people outside its company do not exist for it."""
    authorize(session, caller.subject, action)
    return find_person(session, person, within=visible_organizations(session, caller.subject, action))


def visible(session: Session, caller: ApiCaller, person: str, action: Action) -> PersonView:
    """The person, if the token may do `action` to them; people outside its company do not exist for it."""
    return show_person(session, find_visible(session, caller, person, action))


def visible_application(session: Session, caller: ApiCaller, text: str, action: Action) -> str:
    """Id of the application, if the token may do `action` to it; those outside its company do not exist for it."""
    authorize(session, caller.subject, action)
    unknown = NotFound("There is no such application.", field="application", rule="application.unknown")
    try:
        application_id = find_application(session, text)
    except NotFound:
        raise unknown from None
    organization_id = session.scalars(select(Application.organization_id).where(Application.id == application_id)).one()
    permit(session, caller, action, organization_id, unknown=unknown)
    return application_id


def permit(session: Session, caller: ApiCaller, action: Action, organization_id: str, *, unknown: NotFound) -> None:
    """Refuse what the token may not do at all; what lies outside its company does not exist.

    Args:
        unknown: what is raised of a thing that does not exist, so that the two cannot be told apart.
    """
    authorize(session, caller.subject, action)
    try:
        authorize(session, caller.subject, action, organization_id=organization_id)
    except NotPermitted:
        raise unknown from None


def outcome(result: TransitionResult) -> dict[str, Any]:
    """What a transition of one person came to."""
    return {
        "changed": bool(result.changed),
        "left": bool(result.left),
        "deliveries": result.deliveries,
        "case": next(iter(result.cases.values()), None),
    }
