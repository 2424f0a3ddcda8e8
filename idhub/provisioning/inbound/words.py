"""What a sender's words mean here: company, department, manager, today. For one transaction: each is looked up once."""

from datetime import date, datetime
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.authority import Action, authorize
from idhub.directory.kinds import Standing
from idhub.directory.organizations import ensure_department, find_organization
from idhub.directory.tables import Employment, Organization, Person, Principal
from idhub.errors import NotFound, NotPermitted
from idhub.provisioning.inbound.person_resource import Said
from idhub.provisioning.inbound.sender import ExternalIds, Sender, visible_people
from scim.errors import InvalidValue
from scim.schemas import ENTERPRISE_USER


class Words:
    """The words of one sender."""

    def __init__(self, session: Session, sender: Sender, external: ExternalIds, *, now: datetime) -> None:
        self._session, self._sender, self._external, self._now = session, sender, external, now
        self._companies: dict[str, str | None] = {}
        self._departments: dict[tuple[str, str], str] = {}
        self._managers: dict[tuple[str, str], str | None] = {}
        self._days: dict[str, date] = {}

    def company(self, said: Said, *, default: str | None = None) -> str:
        """The company that the resource names, when the sender may speak for it; else its own, or the one it had.

        Raises:
            InvalidValue: there is none of these.
        """
        named = None if said.company is None else self._named(said.company)
        fallback = named or default or self._sender.organization_id
        if fallback is None:
            raise InvalidValue(
                "organization of the enterprise extension must name a company of the group.",
                attribute=f"{ENTERPRISE_USER}:organization",
            )
        return fallback

    def _named(self, text: str) -> str | None:
        if text not in self._companies:
            try:
                found: str | None = find_organization(self._session, text)
                authorize(self._session, self._sender.caller.subject, Action.PEOPLE_CHANGE, organization_id=found)
            except (NotFound, NotPermitted):
                # Not permitted is as if it did not exist: a sender learns nothing of other companies.
                found = None
            self._companies[text] = found
        return self._companies[text]

    def department(self, organization_id: str, said: Said) -> str | None:
        """The department's id, made where the company has none of that path.

        Raises:
            Invalid: the word is no path.
        """
        if said.department is None:
            return None
        key = (organization_id, said.department)
        if key not in self._departments:
            self._departments[key] = ensure_department(self._session, *key, now=self._now)
        return self._departments[key]

    def manager(self, organization_id: str, said: Said, own_id: str | None) -> str | None:
        """The manager's id; one who does not exist, has left or is the person themself is no manager.

        HR systems say their own key, or the number: whom this sender calls so, then who has it in the same company.
        """
        if said.manager is None:
            return None
        key = (organization_id, said.manager)
        if key not in self._managers:
            self._managers[key] = self._find_manager(*key)
        found = self._managers[key]
        return None if found == own_id else found

    def _find_manager(self, organization_id: str, word: str) -> str | None:
        numbered = select(Employment.principal_id).where(
            Employment.organization_id == organization_id, Employment.employee_number == word
        )
        people = visible_people(self._session, self._sender).where(Principal.standing != Standing.LEFT).limit(1)
        for meant in (Person.id == word, Person.id == self._external.find(word), Person.id.in_(numbered)):
            found = self._session.execute(people.where(meant)).scalar_one_or_none()
            if found is not None:
                return found
        return None

    def today(self, organization_id: str) -> date:
        """The date at the company's place."""
        if organization_id not in self._days:
            zone = self._session.execute(
                select(Organization.time_zone).where(Organization.id == organization_id)
            ).scalar_one()
            self._days[organization_id] = self._now.astimezone(ZoneInfo(zone)).date()
        return self._days[organization_id]


def number_from(user_name: str) -> str:
    """An employee number for somebody whose sender gives none: the userName, as far as a number may be written so."""
    number = "".join(character for character in user_name if not character.isspace() and character != "/")[:64]
    return number or "scim"
