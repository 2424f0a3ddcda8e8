"""A person as a SCIM user, and what an application's user lacks of it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from idhub.errors import Invalid
from scim.client import enterprise
from scim.schemas import attribute, is_active

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
    locale: str | None = None
    company_code: str | None = None
    department_path: str | None = None
    employment_type: str | None = None
    roles: tuple[str, ...] = ()
    """Roles in the application that it is entitled to."""

    def facts(self) -> dict[str, Any]:
        """The attributes by the names that expressions use."""
        return {
            "id": self.principal_id,
            "display_name": self.display_name,
            "given_name": self.given_name,
            "family_name": self.family_name,
            "email": self.email,
            "mobile": self.mobile,
            "locale": self.locale,
            "employee_number": self.employee_number,
            "title": self.title,
            "company": self.organization,
            "company_code": self.company_code,
            "department": self.department,
            "department_path": self.department_path,
            "employment_type": self.employment_type,
            "manager_account": self.manager_external_id,
            "roles": list(self.roles),
        }


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


DEFAULT_KINDS: Final[Mapping[str, frozenset[str]]] = {
    "emails": frozenset({"work"}),
    "phoneNumbers": frozenset({"mobile"}),
}
"""By multi-valued attribute, the types of the entries that the hub keeps."""


def differences(
    desired: Attributes,
    actual: Mapping[str, Any],
    *,
    kinds: Mapping[str, frozenset[str]] = DEFAULT_KINDS,
    one_value_each: bool = False,
) -> dict[str, Any]:
    """What an update must send so that `actual` says what `desired` says; empty when it does.

    Mail addresses and numbers of other types than ours, and parts of a name that we do not keep, are the
    application's: they stay.

    Args:
        kinds: types of entries that are ours, by multi-valued attribute.
        one_value_each: the application keeps a single value of multi-valued attributes: it is ours.
    """
    changes: dict[str, Any] = {}
    for path, wanted in desired.items():
        held = attribute(actual, path)
        if path in kinds:
            change = _entries_change(wanted, held, kinds=None if one_value_each else kinds[path])
        else:
            change = _change(path, wanted, held)
        if change is not _SAME:
            changes[path] = change
    if desired.get("active") is True and is_active(actual) is True:
        changes.pop("active", None)
    return changes


_SAME: Final = object()


def _change(path: str, wanted: Any, held: Any) -> Any:
    if wanted is None:
        return _SAME if held in (None, "", [], {}) else None
    if path == "userName":
        # RFC 7643 section 4.1.1: case-insensitive; a service may keep it in its own case.
        return _SAME if isinstance(held, str) and held.lower() == wanted.lower() else wanted
    if isinstance(wanted, Mapping):
        parts = held if isinstance(held, Mapping) else {}
        if all(attribute(parts, part) == value for part, value in wanted.items()):
            return _SAME
        # A manager is replaced whole: displayName and $ref are the old manager's.
        return dict(wanted) if path == MANAGER else _laid_over(parts, wanted)
    return _SAME if held == wanted else wanted


def _laid_over(parts: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The parts with ours in them, whatever case the application spells names in."""
    ours = {part.lower() for part in wanted}
    return {**{part: value for part, value in parts.items() if part.lower() not in ours}, **wanted}


def _entries_change(wanted: Sequence[Mapping[str, Any]] | None, held: Any, *, kinds: frozenset[str] | None) -> Any:
    """The list of a multi-valued attribute with our entries in it and the application's beside them."""
    entries = [dict(entry) for entry in held if isinstance(entry, Mapping)] if isinstance(held, list) else []
    new = [dict(entry) for entry in wanted or ()]
    values = [entry.get("value") for entry in new]
    # Some services keep no types: there an entry is ours by its value.
    ours = [entry for entry in entries if kinds is None or _is_ours(entry, kinds, values)]
    others = [entry for entry in entries if entry not in ours]
    if len(ours) == len(new) and all(any(_says(entry, one) for entry in ours) for one in new):
        return _SAME
    if any(entry.get("primary") for entry in new):
        # RFC 7643 section 2.4: primary may be true once.
        others = [_laid_over(one, {"primary": False}) if attribute(one, "primary") else one for one in others]
    return [*others, *new] or None


def _is_ours(entry: Mapping[str, Any], kinds: frozenset[str], values: Sequence[Any]) -> bool:
    kind = attribute(entry, "type")
    return kind in kinds or (kind is None and attribute(entry, "value") in values)


def _says(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether an entry holds what ours says; which one is primary is the application's, and so is a missing type."""
    return all(
        attribute(held, part) == value or (part == "type" and attribute(held, part) is None)
        for part, value in wanted.items()
        if part != "primary"
    )
