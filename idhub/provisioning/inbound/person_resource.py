"""A person as a SCIM user: what a sender's resource says of a person, and what is shown of one. Pure.

The directory's attributes are the truth for what it models; whatever else a sender says is kept beside them (`extras`)
and shown again, without meaning anything here. Roles and entitlements of a sender are such words: no hub role, group
or entitlement follows from them.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from idhub.directory.kinds import EmploymentType, Standing
from idhub.errors import Invalid
from idhub.lifecycle.intake import LIMITS, clean_email, clean_mobile
from scim.schemas import ENTERPRISE_USER, USER, Resource

LONGEST_USER_NAME: Final = 254
SHOWN_ACTIVE: Final = (Standing.ACTIVE, Standing.STAGED)
"""Standings of which `active` is true."""
_SHOWN_BY_DIRECTORY: Final = "~"
"""Marks, in a kept list, the value that stands in the directory: it is filled in when shown."""
UNSAID: Final = "~unsaid"
"""Names, in what is kept, of attributes that the directory has a value for and the sender never said."""
REMOVED_ACTIVE: Final = "~active"
"""Among these: the sender took `active` away of somebody who was not."""
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_CJK: Final = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
_TYPES: Final[Mapping[str, EmploymentType]] = {
    "employee": EmploymentType.REGULAR,
    **{kind.value: kind for kind in EmploymentType},
}
_SHOWN_TYPES: Final[Mapping[str, str]] = {kind.value: kind.value.capitalize() for kind in EmploymentType}
_IN_DIRECTORY: Final = frozenset(
    {"schemas", "userName", "externalId", "displayName", "title", "active", "locale", "name", "userType", "groups"}
)

_SHOWN_APART: Final = frozenset({UNSAID, "name", ENTERPRISE_USER, "locale", "userType", "emails", "phoneNumbers"})
"""What is kept in parts, of which the directory has others."""
_NOTHING: Final[tuple[Any, ...]] = (None, "", [], {})
_IN_EMPLOYMENT: Final = frozenset({"employeeNumber", "department", "organization", "manager"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a resource says, sorted by where it belongs.

    Args:
        person: values of the person's attributes; None where there is none.
        company, department, manager: as words; the directory decides whether they name anything.
        extras: what the directory has no place for.
    """

    user_name: str
    external_id: str | None
    active: bool | None
    person: Mapping[str, str | None]
    employee_number: str | None
    employment_type: EmploymentType | None
    title: str | None
    company: str | None
    department: str | None
    manager: str | None
    extras: Resource = field(default_factory=dict)


def user_name_key(user_name: str) -> str:
    """The one form in which names are compared: NFKC, case-folded, without blanks around it and what cannot be seen.

    Raises:
        Invalid: nothing is left, or it is too long.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", user_name).casefold())
    key = "".join(c for c in folded if unicodedata.category(c) not in _INVISIBLE).strip()
    if not key or max(len(key), len(user_name)) > LONGEST_USER_NAME:
        raise Invalid(
            f"userName has 1 to {LONGEST_USER_NAME} characters that can be seen.", field="userName", rule="user_name"
        )
    return key


def read_said(resource: Mapping[str, Any]) -> Said:
    """Sort what a resource says.

    Raises:
        Invalid: a value that the directory takes and that breaks its rules; `field` is the SCIM attribute.
    """
    name: Mapping[str, str] = resource.get("name") or {}
    enterprise: Mapping[str, Any] = resource.get(ENTERPRISE_USER) or {}
    user_name = unicodedata.normalize("NFC", resource["userName"]).strip()
    display_name = resource.get("displayName") or name.get("formatted") or _composed(name) or user_name
    email, emails = _split(resource.get("emails") or [], "work", _email)
    mobile, phones = _split(resource.get("phoneNumbers") or [], "mobile", _mobile, only_of_type=True)
    locale = resource.get("locale")
    fits = locale is None or len(locale) <= LIMITS["locale"]
    kept_name = {part: value for part, value in name.items() if part not in {"familyName", "givenName"}}
    if kept_name.get("formatted") == display_name:
        del kept_name["formatted"]
    manager = (enterprise.get("manager") or {}).get("value")
    extras: Resource = {
        **{key: value for key, value in resource.items() if key not in _IN_DIRECTORY and key != ENTERPRISE_USER},
        UNSAID: [path for path, value in said_of_derived(resource).items() if value is None],
        "name": kept_name,
        "emails": emails,
        "phoneNumbers": phones,
        "userType": resource.get("userType"),
        "locale": None if fits else locale,
        ENTERPRISE_USER: {key: value for key, value in enterprise.items() if key not in _IN_EMPLOYMENT},
    }
    return Said(
        user_name=user_name,
        external_id=resource.get("externalId"),
        active=resource.get("active"),
        person={
            "display_name": display_name,
            "given_name": name.get("givenName"),
            "family_name": name.get("familyName"),
            "email": email,
            "mobile": mobile,
            "locale": locale if fits else None,
        },
        employee_number=enterprise.get("employeeNumber"),
        employment_type=_TYPES.get((resource.get("userType") or "").lower()),
        title=resource.get("title"),
        company=enterprise.get("organization"),
        department=enterprise.get("department"),
        manager=manager,
        extras=_filled(extras),
    )


def said_of_derived(resource: Mapping[str, Any]) -> dict[str, Any]:
    """What the resource says of each attribute that the directory has a value for in any case."""
    name, enterprise = resource.get("name") or {}, resource.get(ENTERPRISE_USER) or {}
    return {
        "displayName": resource.get("displayName"),
        "name.formatted": name.get("formatted"),
        "active": resource.get("active"),
        "userType": resource.get("userType"),
        "employeeNumber": enterprise.get("employeeNumber"),
        "organization": enterprise.get("organization"),
    }


def _composed(name: Mapping[str, str]) -> str | None:
    family, given = name.get("familyName"), name.get("givenName")
    if family and given:
        return family + given if _CJK.search(family + given) else f"{given} {family}"
    return family or given


def _email(value: str) -> str | None:
    try:
        return clean_email(value)
    except Invalid as error:
        raise Invalid(error.description, field="emails", rule=error.rule) from error


def _mobile(value: str) -> str | None:
    try:
        # RFC 3966: as a URI, with dashes and dots between the digits.
        return clean_mobile(value.removeprefix("tel:").replace(".", "-"))
    except Invalid:
        return None


def _split(entries: Sequence[Resource], kind: str, clean: Any, *, only_of_type: bool = False) -> tuple[Any, Any]:
    """The one value that the directory keeps, and the list with that value left out and its place marked."""
    ours = [entry for entry in entries if (entry.get("type") or "").lower() == kind]
    primary = [entry for entry in entries if entry.get("primary") is True]
    chosen = next(iter(ours or (() if only_of_type else primary or entries)), None)
    value = clean(chosen["value"]) if chosen is not None and chosen.get("value") else None
    if value is None:
        return None, list(entries)
    kept = [
        {_SHOWN_BY_DIRECTORY: True, **{key: part for key, part in entry.items() if key != "value"}}
        if entry is chosen
        else entry
        for entry in entries
    ]
    # As sent, where the directory's own form differs from it.
    if chosen is not None and chosen["value"] != value:
        kept[[entry is chosen for entry in entries].index(True)]["value"] = chosen["value"]
    return value, kept


class Row(NamedTuple):
    """A person as read for showing: the directory's values, and what senders said. As stored, for pages are long."""

    id: str
    display_name: str
    given_name: str | None
    family_name: str | None
    email: str | None
    mobile: str | None
    locale: str | None
    standing: str
    version: int
    created_at: int
    """Microseconds since 1970, like every instant here."""
    changed_at: int
    employee_number: str | None
    """Of the main post, as what follows; None: there is no post."""
    employment_type: str | None
    title: str | None
    manager_id: str | None
    company: str | None
    company_code: str | None
    department: str | None
    said_name: str | None
    """`userName`; None: no sender has named the person."""
    extras: str | None
    said_version: int | None
    said_at: int | None
    external_id: str | None
    is_mail_taken: bool | None
    """Whether the mail, in small letters, also names somebody else; None where a sender has named the person."""
    names_version: int | None
    """See `ScimNames`."""
    has_groups: bool
    """Whether they belong to any group now."""


def user_resource(row: Row, user_name: str, extras: Mapping[str, Any], *, base_url: str) -> Resource:
    """The resource of a person as every sender has it: without `own_part`, `id` and `meta`.

    With what follows from what was said. Whoever changes what is made here, or of what, counts `documents.RULES` up.
    """
    if not extras and row.employee_number is not None:
        return _plain_resource(row, user_name, base_url=base_url)
    name: Resource = {"formatted": row.display_name}
    resource: Resource = {
        "schemas": [USER, ENTERPRISE_USER],
        "userName": user_name,
        "displayName": row.display_name,
        "active": row.standing in SHOWN_ACTIVE,
        "name": name,
    }
    if extras:
        resource |= {key: value for key, value in extras.items() if key not in _SHOWN_APART and value not in _NOTHING}
        name |= {part: value for part, value in (extras.get("name") or {}).items() if value not in _NOTHING}
    if row.family_name:
        name["familyName"] = row.family_name
    if row.given_name:
        name["givenName"] = row.given_name
    _add_single(resource, row, extras)
    if emails := _joined(extras.get("emails"), row.email, "work"):
        resource["emails"] = emails
    if phones := _joined(extras.get("phoneNumbers"), row.mobile, "mobile"):
        resource["phoneNumbers"] = phones
    enterprise = _enterprise(row, extras.get(ENTERPRISE_USER), base_url)
    if enterprise:
        resource[ENTERPRISE_USER] = enterprise
    if extras or not enterprise:
        resource["schemas"] = _used(resource)
    return resource


def _plain_resource(row: Row, user_name: str, *, base_url: str) -> Resource:
    """The same of somebody with a post of whom no sender has said anything more: of most people of most lists."""
    name: Resource = {"formatted": row.display_name}
    if row.family_name:
        name["familyName"] = row.family_name
    if row.given_name:
        name["givenName"] = row.given_name
    resource: Resource = {
        "schemas": [USER, ENTERPRISE_USER],
        "userName": user_name,
        "displayName": row.display_name,
        "active": row.standing in SHOWN_ACTIVE,
        "name": name,
    }
    if row.locale:
        resource["locale"] = row.locale
    if row.employment_type:
        resource["userType"] = _SHOWN_TYPES[row.employment_type]
    if row.title:
        resource["title"] = row.title
    if row.email is not None:
        resource["emails"] = [{"value": row.email, "type": "work"}]
    if row.mobile is not None:
        resource["phoneNumbers"] = [{"value": row.mobile, "type": "mobile"}]
    enterprise: Resource = {"employeeNumber": row.employee_number, "organization": row.company}
    if row.department is not None:
        enterprise["department"] = row.department
    if row.manager_id is not None:
        enterprise["manager"] = {"value": row.manager_id, "$ref": f"{base_url}/Users/{row.manager_id}"}
    resource[ENTERPRISE_USER] = enterprise
    return resource


def own_part(external_id: str | None, groups: Sequence[tuple[str, str]], *, base_url: str) -> Resource:
    """What one sender sees of a person: what it calls them, and those of their groups that it may see."""
    part: Resource = {}
    if external_id:
        part["externalId"] = external_id
    if groups:
        part["groups"] = [
            {"value": group_id, "$ref": f"{base_url}/Groups/{group_id}", "display": title, "type": "direct"}
            for group_id, title in groups
        ]
    return part


def _add_single(resource: Resource, row: Row, extras: Mapping[str, Any]) -> None:
    """Attributes of one value that may be missing."""
    if locale := row.locale or extras.get("locale"):
        resource["locale"] = locale
    if user_type := _user_type(extras.get("userType"), row.employment_type):
        resource["userType"] = user_type
    if row.title:
        resource["title"] = row.title


def _enterprise(row: Row, kept: Mapping[str, Any] | None, base_url: str) -> Resource:
    """The enterprise extension: what is kept of it, and the main post."""
    enterprise: Resource = dict(kept) if kept else {}
    if row.employee_number is not None:
        enterprise["employeeNumber"] = row.employee_number
        enterprise.setdefault("organization", row.company)
        if row.department is not None:
            enterprise["department"] = row.department
        if row.manager_id is not None:
            enterprise["manager"] = {"value": row.manager_id, "$ref": f"{base_url}/Users/{row.manager_id}"}
    return enterprise


def shown_part(whole: Resource, extras: Mapping[str, Any]) -> Resource:
    """What a sender reads back of a resource: it would take a value that it removed for one that was not removed.

    That somebody is not active is shown, unless the sender took just that away.
    """
    unsaid = extras.get(UNSAID)
    if not unsaid:
        return whole
    resource = {**whole, "name": dict(whole.get("name") or {}), ENTERPRISE_USER: dict(whole.get(ENTERPRISE_USER) or {})}
    for path in unsaid:
        if path == REMOVED_ACTIVE or (path == "active" and not resource["active"] and REMOVED_ACTIVE not in unsaid):
            continue
        head, _, part = path.rpartition(".")
        holder = (
            resource["name"]
            if head == "name"
            else resource[ENTERPRISE_USER]
            if path in resource[ENTERPRISE_USER]
            else resource
        )
        holder.pop(part, None)
    shown = _filled(resource)
    shown["schemas"] = _used(shown)
    return shown


def _used(resource: Resource) -> list[str]:
    """The URNs of what a resource has values of."""
    return [USER, *(name for name in resource if ":" in name)]


def _user_type(said: str | None, kind: str | None) -> str | None:
    if said is not None and (kind is None or _TYPES.get(said.lower(), kind) == kind):
        return said
    return None if kind is None else _SHOWN_TYPES[kind]


def _joined(kept: Sequence[Mapping[str, Any]] | None, value: str | None, kind: str) -> list[Resource]:
    """A kept list with the directory's value in its place; without one, that value alone."""
    if not kept:
        return [] if value is None else [{"value": value, "type": kind}]
    shown: list[Resource] = []
    has_place = False
    for entry in kept:
        if _SHOWN_BY_DIRECTORY not in entry:
            shown.append(dict(entry))
            continue
        has_place = True
        if value is not None:
            parts = {key: part for key, part in entry.items() if key not in {_SHOWN_BY_DIRECTORY, "value"}}
            shown.append({"value": entry.get("value") if _means(entry.get("value"), value) else value, **parts})
    if not has_place and value is not None:
        shown.insert(0, {"value": value, "type": kind})
    return shown


def _means(said: Any, value: str) -> bool:
    return isinstance(said, str) and (_mobile(said) == value or said.strip() == value)


def _filled(values: Mapping[str, Any]) -> Resource:
    return {key: value for key, value in values.items() if value not in _NOTHING}
