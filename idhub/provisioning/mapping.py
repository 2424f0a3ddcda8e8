"""A person as a SCIM user, and what an application's user lacks of it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal

import orjson

from idhub.errors import Invalid
from scim.client import enterprise
from scim.schemas import attribute, is_active

UserNameAttribute = Literal["email", "employee_number"]

EMPLOYEE_NUMBER: Final = enterprise("employeeNumber")
ORGANIZATION: Final = enterprise("organization")
DEPARTMENT: Final = enterprise("department")
MANAGER: Final = enterprise("manager")

Attributes = Mapping[str, Any]
"""Values by SCIM path; None: the person has no such value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonFacts:
    """What the directory says of a person now; of the post, the main employment.

    `manager_external_id` is the manager's account in the same application, by that application's own id.
    """

    principal_id: str
    display_name: str
    given_name: str | None = None
    family_name: str | None = None
    email: str | None = None
    mobile: str | None = None
    employee_number: str | None = None
    title: str | None = None
    organization: str | None = None
    department: str | None = None
    manager_external_id: str | None = None


def user_name_of(person: PersonFacts, preferred: str) -> str:
    """What the person is called in an application: the attribute it prefers, or the other where that is empty.

    Raises:
        Invalid: the person has neither mail nor employee number.
    """
    choices = (person.employee_number, person.email)
    found = next(filter(None, choices if preferred == "employee_number" else reversed(choices)), None)
    if found is None:
        raise Invalid(
            "This person has neither mail nor employee number, so there is no userName.",
            field="email",
            rule="provisioning.user_name",
        )
    return found


def user_attributes(person: PersonFacts, *, user_name: str) -> dict[str, Any]:
    """The active SCIM user of a person (RFC 7643 sections 4.1 and 4.3). externalId is the principal's id, for life."""
    name = {
        "formatted": person.display_name,
        "familyName": person.family_name,
        "givenName": person.given_name,
    }
    return {
        "externalId": person.principal_id,
        "userName": user_name,
        "name": {part: value for part, value in name.items() if value},
        "displayName": person.display_name,
        "title": person.title or None,
        "active": True,
        "emails": [{"value": person.email, "type": "work", "primary": True}] if person.email else None,
        "phoneNumbers": [{"value": person.mobile, "type": "mobile"}] if person.mobile else None,
        EMPLOYEE_NUMBER: person.employee_number or None,
        ORGANIZATION: person.organization or None,
        DEPARTMENT: person.department or None,
        MANAGER: {"value": person.manager_external_id} if person.manager_external_id else None,
    }


def present(attributes: Attributes) -> dict[str, Any]:
    """The attributes that have a value: what a create sends."""
    return {path: value for path, value in attributes.items() if value is not None}


def attributes_hash(attributes: Attributes) -> str:
    """SHA-256 over the canonical form: tells later whether anything changed since the application confirmed it."""
    return sha256(orjson.dumps(present(attributes), option=orjson.OPT_SORT_KEYS)).hexdigest()


def differences(desired: Attributes, actual: Mapping[str, Any]) -> dict[str, Any]:
    """What an update must send so that `actual` says what `desired` says; empty when it does.

    Mail addresses and numbers of other types than ours, and parts of a name that we do not keep, are the
    application's: they stay.
    """
    changes: dict[str, Any] = {}
    for path, wanted in desired.items():
        held = attribute(actual, path)
        change = _change(path, wanted, held)
        if change is not _SAME:
            changes[path] = change
    if desired.get("active") is True and is_active(actual) is True:
        changes.pop("active", None)
    return changes


_SAME: Final = object()
_KINDS: Final = {"emails": "work", "phoneNumbers": "mobile"}


def _change(path: str, wanted: Any, held: Any) -> Any:
    if path in _KINDS:
        return _entries_change(wanted, held, kind=_KINDS[path])
    if wanted is None:
        return _SAME if held in (None, "", [], {}) else None
    if path == "userName":
        # RFC 7643 section 4.1.1: case-insensitive; a service may keep it in its own case.
        return _SAME if isinstance(held, str) and held.lower() == wanted.lower() else wanted
    if isinstance(wanted, Mapping):
        parts = held if isinstance(held, Mapping) else {}
        if all(parts.get(part) == value for part, value in wanted.items()):
            return _SAME
        # A manager is replaced whole: displayName and $ref are the old manager's.
        return dict(wanted) if path == MANAGER else {**parts, **wanted}
    return _SAME if held == wanted else wanted


def _entries_change(wanted: Sequence[Mapping[str, Any]] | None, held: Any, *, kind: str) -> Any:
    """The list of a multi-valued attribute with our one entry in it and the application's beside it."""
    entries = [dict(entry) for entry in held if isinstance(entry, Mapping)] if isinstance(held, list) else []
    ours = [entry for entry in entries if entry.get("type") == kind]
    others = [entry for entry in entries if entry.get("type") != kind]
    new = [dict(entry) for entry in wanted or ()]
    if [entry.get("value") for entry in ours] == [entry["value"] for entry in new]:
        return _SAME
    if any(entry.get("primary") for entry in new):
        # RFC 7643 section 2.4: primary may be true once.
        others = [{**entry, "primary": False} if entry.get("primary") else entry for entry in others]
    return [*others, *new] or None
