"""What the API's routes share: services, the visible person, outcomes."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict
from sqlalchemy.orm import Session

from idhub.api.access import ApiCaller
from idhub.authority import Action, authorize
from idhub.db import Database
from idhub.directory.people import PersonView, find_person, show_person
from idhub.errors import NotFound, NotPermitted
from idhub.keys import Keyring
from idhub.lifecycle.transition import TransitionResult
from idhub.oidc.journal import Journal
from idhub.settings import Settings


class ApiServices(Protocol):
    """The part of `idhub.app.Services` that the API uses."""

    @property
    def settings(self) -> Settings:
        """Settings of the installation."""

    @property
    def database(self) -> Database:
        """The one database."""

    @property
    def keyring(self) -> Keyring:
        """Keys by purpose."""

    @property
    def journal(self) -> Journal:
        """Counts refusals of nobody in particular."""

    @property
    def clock(self) -> Callable[[], datetime]:
        """The present."""


class Body(BaseModel):
    """A request body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


def visible(session: Session, caller: ApiCaller, person: str, action: Action) -> PersonView:
    """The person, if the caller may do `action` to them; what is outside the scope does not exist."""
    found = show_person(session, find_person(session, person))
    permit(session, caller, action, found.organization_id)
    return found


def permit(session: Session, caller: ApiCaller, action: Action, organization_id: str) -> None:
    """Refuse what the token may not do at all; what lies outside its company does not exist."""
    authorize(session, caller.subject, action)
    try:
        authorize(session, caller.subject, action, organization_id=organization_id)
    except NotPermitted as error:
        raise NotFound("There is no such thing, or you may not see it.", rule="scope") from error


def outcome(result: TransitionResult) -> dict[str, Any]:
    """What a transition of one person came to."""
    return {
        "changed": bool(result.changed),
        "left": bool(result.left),
        "deliveries": result.deliveries,
        "case": next(iter(result.cases.values()), None),
    }
