"""The SCIM server's store: the directory, as one sender sees and changes it, inside one transaction."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.authority import Action, authorize
from idhub.directory.tables import Group, Principal
from idhub.errors import Conflict, IdhubError, Invalid, NotPermitted
from idhub.errors import NotFound as Missing
from idhub.keys import Keyring
from idhub.provisioning.events.feed import replacing
from idhub.provisioning.inbound.documents import Document
from idhub.provisioning.inbound.groups import Groups
from idhub.provisioning.inbound.sender import Sender
from idhub.provisioning.inbound.terms import may_write
from idhub.provisioning.inbound.users import Users
from scim.attributes import ResourceType, Schema
from scim.bulk import NotTogether
from scim.errors import InvalidValue, NotFound, NotUnique, RequestError
from scim.messages import Forbidden
from scim.reading import keep_immutable
from scim.schemas import ENTERPRISE_USER, Resource
from scim.server import Page, Stored
from scim.standard import GROUP_TYPE, USER_TYPE
from scim.wishes import Query

KINDS: Final = (USER_TYPE, GROUP_TYPE)


def kinds_with(extensions: Sequence[Schema]) -> tuple[ResourceType, ...]:
    """The resource types, with extensions that the installation registered for people."""
    return (replace(USER_TYPE, extensions=(*USER_TYPE.extensions, *extensions)), GROUP_TYPE)


class DirectoryStore:
    """See `scim.server.Store`. Commits nothing."""

    def __init__(
        self,
        session: Session,
        sender: Sender,
        keyring: Keyring,
        kinds: Mapping[str, ResourceType],
        *,
        base_url: str,
        now: datetime,
        count: Callable[[int], None],
    ) -> None:
        """
        Args:
            kinds: the resource types as the sender may have them, by name.
            count: told how many resources are about to be made at once; may refuse.
        """
        self._session, self._sender, self._count = session, sender, count
        self.made: list[str] = []
        """Ids of what was made, in order."""
        self._users = Users(session, sender, keyring, kinds.get("User", USER_TYPE), base_url=base_url, now=now)
        self._groups = Groups(session, sender, kinds.get("Group", GROUP_TYPE), base_url=base_url, now=now)

    @property
    def documents(self) -> Sequence[Document]:
        """What lists had to make, for `keep_documents`."""
        return self._users.made

    def get(self, kind: ResourceType, resource_id: str, *, shows: Callable[[str], bool]) -> Stored:
        """See `scim.server.Store.get`."""
        with _Translated():
            self._authorize(Action.PEOPLE_READ)
            if kind.name == "Group" and not shows("members"):
                return _only(self._groups.show([resource_id], with_members=False))
            return self._one(kind, resource_id)

    def find(self, kind: ResourceType, query: Query) -> Page:
        """See `scim.server.Store.find`."""
        with _Translated():
            self._authorize(Action.PEOPLE_READ)
            return self._of(kind).find(query)

    def create(self, kind: ResourceType, resource: Resource) -> Stored:
        """See `scim.server.Store.create`."""
        with _Translated():
            self._authorize(Action.PEOPLE_CHANGE)
            if _is_nameless(kind, resource):
                raise Forbidden(f"This token may not name a {kind.name}, and so not make one.")
            known = self._users.known(resource) if kind.name == "User" and self._sender.terms.post_replaces else None
            if known is not None:
                held = self._locked(kind, known)
                with replacing(self._session, known):
                    self._users.change(held, keep_immutable(held.resource, resource, kind), replaces=True)
                self.made.append(known)
                return self._one(kind, known)._replace(is_new=False)
            self.made.append(self._of(kind).create(resource))
            return self._one(kind, self.made[-1])

    def create_all(self, kind: ResourceType, resources: Sequence[Resource]) -> Sequence[Stored]:
        """See `scim.server.Store.create_all`."""
        with _Translated():
            self._authorize(Action.PEOPLE_CHANGE)
            if kind.name != "User" or any(map(partial(_is_nameless, kind), resources)):
                raise NotTogether
            self._count(len(resources))
            self.made += self._users.create_all(resources)
            return self._users.show(self.made[-len(resources) :])

    def change(
        self, kind: ResourceType, resource_id: str, change: Callable[[Stored], Resource], *, replaces: bool
    ) -> Stored:
        """See `scim.server.Store.change`."""
        with _Translated():
            self._authorize(Action.PEOPLE_CHANGE)
            held = self._locked(kind, resource_id)
            new = change(held)
            is_unsaid = replaces and kind.name == "User" and "active" not in new
            if new == held.resource and not is_unsaid:
                return held
            with replacing(self._session, held.id) if replaces else nullcontext():
                self._of(kind).change(held, new, replaces=replaces)
            return self._one(kind, resource_id)

    def delete(self, kind: ResourceType, resource_id: str, check: Callable[[Stored], None]) -> None:
        """See `scim.server.Store.delete`."""
        with _Translated():
            self._authorize(Action.PEOPLE_OFFBOARD)
            if not may_write(self._sender.terms, "active" if kind.name == "User" else "members"):
                raise Forbidden(f"This token may not end a {kind.name}.")
            held = self._locked(kind, resource_id)
            check(held)
            self._of(kind).delete(held)

    def me(self) -> tuple[ResourceType, str] | None:
        """See `scim.server.Store.me`."""
        principal_id = self._sender.caller.subject.principal_id
        return None if principal_id is None else (self._users.kind, principal_id)

    def _authorize(self, action: Action) -> None:
        authorize(self._session, self._sender.caller.subject, action)

    def _of(self, kind: ResourceType) -> Users | Groups:
        return self._users if kind.name == "User" else self._groups

    def _one(self, kind: ResourceType, resource_id: str) -> Stored:
        return _only(self._of(kind).show([resource_id]))

    def _locked(self, kind: ResourceType, resource_id: str) -> Stored:
        column = Principal.id if kind.name == "User" else Group.id
        self._session.execute(select(column).where(column == resource_id).with_for_update())
        return self._one(kind, resource_id)


def _is_nameless(kind: ResourceType, resource: Resource) -> bool:
    """Whether a required attribute is missing: reading lets it only where the terms make it read-only."""
    return any(attribute.required and attribute.name not in resource for attribute in kind.schema.attributes)


def _only(found: Sequence[Stored]) -> Stored:
    if not found:
        raise NotFound("There is no such resource.")
    return found[0]


class _Translated:
    """Errors of the domain in the words of SCIM, each naming what was sent."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, IdhubError):
            return
        raise to_scim(error) from error


_NAMES: Final = {
    "display_name": "displayName",
    "given_name": "name.givenName",
    "family_name": "name.familyName",
    "email": "emails",
    "mobile": "phoneNumbers",
    "title": "title",
    "employee_number": f"{ENTERPRISE_USER}:employeeNumber",
    "department": f"{ENTERPRISE_USER}:department",
    "manager": f"{ENTERPRISE_USER}:manager",
    "organization": f"{ENTERPRISE_USER}:organization",
}


def to_scim(error: IdhubError) -> RequestError:
    """The error as a sender of SCIM reads it."""
    attribute = _NAMES.get(error.field or "", error.field)
    match error:
        case Missing():
            return NotFound(error.description, attribute=attribute)
        case NotPermitted():
            return Forbidden(error.description, attribute=attribute)
        case Conflict():
            return NotUnique(error.description, attribute=attribute)
        case Invalid():
            return InvalidValue(error.description, attribute=attribute)
    raise error
