"""Users of the SCIM server: people of the directory, as a sender sees and changes them.

Whatever changes a person's standing goes through `lifecycle.commands` and so through the one door. The sender's terms
say what its words end; `active: true` of somebody who has left is a rehire under new epochs.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from idhub.authority import Action, authorize
from idhub.directory.kinds import EmploymentState, EmploymentType, Standing
from idhub.directory.names import login_name_candidates
from idhub.directory.people import PersonView, show_person
from idhub.directory.tables import Employment, LoginName, Person, Principal
from idhub.keys import Keyring
from idhub.lifecycle import commands, intake
from idhub.provisioning.inbound.joining import Joining
from idhub.provisioning.inbound.kept import Kept
from idhub.provisioning.inbound.person_resource import (
    SHOWN_ACTIVE,
    Said,
    read_said,
    user_name_key,
)
from idhub.provisioning.inbound.sender import (
    ExternalIds,
    Sender,
    check_return,
    end_person,
)
from idhub.provisioning.inbound.shown import ShownUsers
from idhub.provisioning.inbound.tables import ScimUser
from idhub.provisioning.inbound.terms import Ending
from idhub.provisioning.inbound.words import Words, number_from
from scim.attributes import ResourceType
from scim.errors import NotUnique
from scim.schemas import Resource
from scim.server import Stored


class Users(ShownUsers):
    """See `scim.server.Store`; its methods for users, without the protocol's errors."""

    def __init__(
        self, session: Session, sender: Sender, keyring: Keyring, kind: ResourceType, *, base_url: str, now: datetime
    ) -> None:
        super().__init__(session, sender, keyring, kind, base_url=base_url)
        self._now = now
        self._external = ExternalIds(session, sender.provider, "User")
        self._words = Words(session, sender, self._external, now=now)
        self._kept = Kept(session, sender, keyring, kind, self._external, now=now)

    # --- users: changing ----------------------------------------------------------------------------------------------

    def known(self, resource: Resource) -> str | None:
        """Whom this sender calls by the resource's `externalId`, and may see."""
        said = resource.get("externalId")
        found = None if said is None else self._external.find(said)
        if found is None:
            return None
        return self._session.execute(self.visible().where(Person.id == found)).scalar_one_or_none()

    def create(self, resource: Resource) -> str:
        """Onboard who is sent, or bring back who had this number there and has left; returns the person's id.

        Raises:
            NotUnique: a name is somebody else's.
            NotPermitted: the sender may not change people of that company.
        """
        # RFC 7643 section 4.1.1 leaves the default to the server: who is sent is active, unless it says otherwise.
        said = read_said({"active": True, **resource})
        organization_id = self._words.company(said)
        authorize(self._session, self._sender.caller.subject, Action.PEOPLE_CHANGE, organization_id=organization_id)
        number = intake.clean_employee_number(said.employee_number or number_from(said.user_name))
        known = self._leaver(organization_id, number)
        self._check_names(said, known)
        post: dict[str, Any] = {
            "organization_id": organization_id,
            "employee_number": number,
            "employment_type": said.employment_type or EmploymentType.REGULAR,
            "starts_on": self._words.today(organization_id),
            "department_id": self._words.department(organization_id, said),
            "title": said.title,
            "manager_id": self._words.manager(organization_id, said, known),
        }
        if known is None:
            principal_id = commands.onboard(
                self._session, self._sender.caller, person=said.person, now=self._now, **post
            )
        else:
            # One human is one person for life: who had this number and left comes back, and nothing from before works.
            principal_id = known
            self._bring_back(principal_id, post)
            commands.update_person(self._session, self._sender.caller, principal_id, values=said.person, now=self._now)
        self._kept.keep(principal_id, said, has_returned=True)
        if not said.active:
            self._end(principal_id, self._sender.terms.inactive, "active is false")
        return principal_id

    def create_all(self, resources: Sequence[Resource]) -> list[str]:
        """`create` of several at once, who are all new and have nothing to do with each other.

        Raises:
            NotTogether: some are not so.
        """
        joining = Joining(self._session, self._sender, self._words, self._kept, self._external, now=self._now)
        return joining.join(resources)

    def change(self, held: Stored, resource: Resource, *, replaces: bool) -> None:
        """Bring a person and their post to what `resource` says, and standing to what its `active` means by the terms.

        Raises:
            NotUnique: a name is somebody else's.
        """
        before, said = read_said(held.resource), read_said(resource)
        principal_id, caller, now = held.id, self._sender.caller, self._now
        if (said.user_name, said.person["email"]) != (before.user_name, before.person["email"]):
            self._check_names(said, principal_id, before=before)
        values = {name: value for name, value in said.person.items() if value != before.person[name]}
        if values:
            commands.update_person(self._session, caller, principal_id, values=values, now=now)
        person = show_person(self._session, principal_id)
        returns = bool(said.active) and person.standing not in SHOWN_ACTIVE
        if returns:
            check_return(self._session, self._sender, principal_id)
        if returns and person.standing == Standing.LEFT:
            self._rehire(person, said)
        else:
            self._move(person, before, said)
            if returns:
                commands.reactivate(self._session, caller, principal_id, now=now, reason="SCIM: active is true")
        was_removed = said.active is None and before.active is False and not replaces
        self._kept.keep(principal_id, said, has_returned=returns, hides_standing=was_removed)
        if person.standing in SHOWN_ACTIVE:
            if said.active is False:
                self._end(principal_id, self._sender.terms.inactive, "active is false")
            elif said.active is None and (replaces or before.active is not None):
                self._end(principal_id, self._sender.terms.unsaid, "active was left out")

    def _end(self, principal_id: str, ending: Ending, why: str) -> None:
        end_person(self._session, self._sender, principal_id, ending, now=self._now, reason=f"SCIM: {why}")

    def _bring_back(self, principal_id: str, post: Mapping[str, Any]) -> None:
        """Somebody who left, under new epochs; or whom a DELETE suspended, in the post they have."""
        check_return(self._session, self._sender, principal_id)
        person = show_person(self._session, principal_id)
        if person.standing == Standing.LEFT:
            commands.rehire(self._session, self._sender.caller, principal_id, now=self._now, **post)
            return
        commands.reactivate(
            self._session, self._sender.caller, principal_id, now=self._now, reason="SCIM: the resource was sent again"
        )
        if person.main is not None:
            values = {"type": post["employment_type"]}
            values |= {name: post[name] for name in ("department_id", "title", "manager_id")}
            commands.move(
                self._session,
                self._sender.caller,
                principal_id,
                employment_id=person.main.id,
                values=values,
                now=self._now,
            )

    def _move(self, person: PersonView, before: Said, said: Said) -> None:
        post = person.main
        if post is None or post.state == EmploymentState.ENDED:
            return
        values: dict[str, Any] = {}
        organization_id = post.organization_id
        if said.company != before.company:
            organization_id = self._words.company(said, default=post.organization_id)
            if organization_id != post.organization_id:
                values["organization_id"] = organization_id
        if said.department != before.department or "organization_id" in values:
            values["department_id"] = self._words.department(organization_id, said)
        if said.title != before.title:
            values["title"] = said.title
        if said.manager != before.manager:
            values["manager_id"] = self._words.manager(organization_id, said, person.id)
        if said.employment_type not in {before.employment_type, None}:
            values["type"] = said.employment_type
        if said.employee_number not in {before.employee_number, None}:
            values["employee_number"] = intake.clean_employee_number(said.employee_number)
        if values:
            commands.move(
                self._session,
                self._sender.caller,
                person.id,
                employment_id=post.id,
                values=values,
                now=self._now,
            )

    def _rehire(self, person: PersonView, said: Said) -> None:
        post = person.main
        organization_id = self._words.company(said, default=post.organization_id if post else None)
        commands.rehire(
            self._session,
            self._sender.caller,
            person.id,
            organization_id=organization_id,
            employee_number=said.employee_number or (post.employee_number if post else number_from(said.user_name)),
            employment_type=said.employment_type or EmploymentType.REGULAR,
            starts_on=self._words.today(organization_id),
            department_id=self._words.department(organization_id, said),
            title=said.title,
            manager_id=self._words.manager(organization_id, said, person.id),
            now=self._now,
        )

    def delete(self, held: Stored) -> None:
        """End a person as the sender's terms say of DELETE; their resource is there no more for this sender."""
        person = show_person(self._session, held.id)
        self._kept.keep(held.id, read_said(held.resource), deleted_at=self._now)
        self._external.forget(held.id)
        ending = self._sender.terms.deleted
        if person.standing in SHOWN_ACTIVE or (ending is Ending.LEAVE and person.standing != Standing.LEFT):
            self._end(held.id, ending, "the resource was deleted")

    # --- users: who is meant ------------------------------------------------------------------------------------------

    def _leaver(self, organization_id: str, number: str) -> str | None:
        """Who had this number in this company and has left, or was deleted by a sender whose DELETE suspends.

        Somebody else who has the number keeps it, and `onboard` refuses.
        """
        was_deleted = select(ScimUser.principal_id).where(ScimUser.deleted_at.is_not(None))
        return self._session.execute(
            select(Principal.id)
            .join(Employment, Employment.principal_id == Principal.id)
            .where(
                Employment.organization_id == organization_id,
                Employment.employee_number == number,
                or_(
                    Principal.standing == Standing.LEFT,
                    and_(Principal.standing == Standing.SUSPENDED, Principal.id.in_(was_deleted)),
                ),
            )
            .with_for_update(of=Principal)
        ).scalar_one_or_none()

    def _check_names(self, said: Said, own_id: str | None, *, before: Said | None = None) -> None:
        """Refuse a userName or mail by which somebody else is known: it would take their place, or their sign-in.

        Raises:
            NotUnique: it is another's.
        """
        key = user_name_key(said.user_name)
        taken = self._session.execute(
            select(ScimUser.principal_id)
            .where(ScimUser.user_name_key == key, ScimUser.principal_id != (own_id or ""), _is_present())
            .join(Principal, Principal.id == ScimUser.principal_id)
        ).first()
        names = [("userName", said.user_name)] if before is None or before.user_name != said.user_name else []
        email = said.person["email"]
        if email and (before is None or before.person["email"] != email):
            names.append(("emails", email))
        for attribute, name in names:
            other = self._session.execute(
                select(LoginName.principal_id)
                .join(Principal, Principal.id == LoginName.principal_id)
                .where(
                    LoginName.value.in_(login_name_candidates(name)),
                    LoginName.principal_id != (own_id or ""),
                    LoginName.kind != "employee_number" if attribute == "userName" else LoginName.kind == "email",
                    Principal.standing != Standing.LEFT,
                )
                .limit(1)
            ).first()
            if other is not None:
                raise NotUnique(f"{attribute} is another person's.", attribute=attribute)
        if taken is not None:
            raise NotUnique("userName is another person's.", attribute="userName")


def _is_present() -> ColumnElement[bool]:
    return or_(Principal.standing.in_(SHOWN_ACTIVE), ScimUser.deleted_at.is_(None))
