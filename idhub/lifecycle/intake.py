"""Validated wishes: what can be asked of the one door.

A change is a frozen value whose fields already passed their rules; whoever makes one (console, API, HR file, command
line) has looked up organizations and departments before.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, NamedTuple

from idhub.directory.kinds import EmploymentState, EmploymentType
from idhub.errors import Invalid

_CONTROL_CATEGORIES = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_EMAIL = re.compile(
    r"[^@\s\"(),:;<>\[\\\]]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9-]{2,63}"
)
_MOBILE = re.compile(r"\+?[0-9][0-9 ()-]{3,30}")
_NUMBER = re.compile(r"[^\s/]{1,64}")
LIMITS: Mapping[str, int] = {
    "display_name": 200,
    "given_name": 100,
    "family_name": 100,
    "email": 254,
    "mobile": 32,
    "title": 200,
    "reason": 500,
    "locale": 16,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonFacts:
    """What is known of a human, apart from employments."""

    display_name: str
    given_name: str | None = None
    family_name: str | None = None
    email: str | None = None
    mobile: str | None = None
    locale: str | None = None
    national_id_hash: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EmploymentFacts:
    """One post. `ends_on` is the last working day; `state` only tells ended or suspended ones from the others."""

    organization_id: str
    employee_number: str
    type: EmploymentType
    starts_on: date
    department_id: str | None = None
    title: str | None = None
    manager_id: str | None = None
    ends_on: date | None = None
    state: EmploymentState = EmploymentState.ACTIVE


class SourceMark(NamedTuple):
    """What a provider said, stored with the change that follows from it. A tuple: a million are made."""

    provider: str
    key: str
    scope: str
    content_hash: str
    generation: str
    state: str = "present"
    raw_sealed: bytes | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Onboard:
    """A new person with a first employment."""

    principal_id: str
    person: PersonFacts
    employment: EmploymentFacts
    source: SourceMark | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AddEmployment:
    """A further employment of a known person; of one who has left, this is the rehire."""

    principal_id: str
    employment: EmploymentFacts
    source: SourceMark | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdatePerson:
    """New values of a person's attributes (names of `PersonFacts`)."""

    principal_id: str
    values: Mapping[str, str | None]
    source: SourceMark | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """New values of an employment (names of `EmploymentFacts`, except `state`)."""

    principal_id: str
    employment_id: str
    values: Mapping[str, Any]
    source: SourceMark | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EndEmployment:
    """End one employment: after its last working day, at an instant, or now. The last one to end is the leave."""

    principal_id: str
    employment_id: str
    last_day: date | None = None
    at: datetime | None = None
    reason: str | None = None
    source: SourceMark | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspend:
    """Hold access back; of one employment or, when none is named, of all."""

    principal_id: str
    employment_id: str | None = None
    reason: str | None = None
    source: SourceMark | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reactivate:
    """Undo a suspension; nothing issued before it works again."""

    principal_id: str
    employment_id: str | None = None
    reason: str | None = None
    source: SourceMark | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Offboard:
    """End every employment: now, or at an instant to come.

    Args:
        plan_fingerprint: of the preview that was confirmed; kept with the case and compared with what happens.
    """

    principal_id: str
    at: datetime | None = None
    is_emergency: bool = False
    reason: str | None = None
    plan_fingerprint: str | None = None
    source: SourceMark | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CancelOffboarding:
    """Take a scheduled offboarding back before its time has come.

    Args:
        previous_ends: last working days that the schedule overwrote, by employment; the one door fills them in.
        previous_instants: of those that ended at an instant of their own, that instant.
    """

    principal_id: str
    reason: str | None = None
    previous_ends: Mapping[str, date | None] = field(default_factory=dict)
    previous_instants: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class EndCredentials:
    """Everything issued so far stops working (password reset, compromise, "end all"); standing stays."""

    principal_id: str
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisterService:
    """A service identity that acts for an application, or a new owner or expiry of a known one.

    Args:
        ends_at: first instant without access; services always have one.
    """

    principal_id: str
    organization_id: str
    application_id: str
    ends_at: datetime
    owner_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reevaluate:
    """Look again: dates that have come due, rules that have changed."""

    principal_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SetSource:
    """Only the provider's record changes; nobody's standing does."""

    principal_id: str
    source: SourceMark
    employment_id: str | None = None


Change = (
    Onboard
    | AddEmployment
    | UpdatePerson
    | Move
    | EndEmployment
    | Suspend
    | Reactivate
    | Offboard
    | CancelOffboarding
    | EndCredentials
    | RegisterService
    | Reevaluate
    | SetSource
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A change of a batch that was not made, and why; the others were."""

    change: Change
    error: Exception
    details: Mapping[str, Any] = field(default_factory=dict)


def clean_text(value: str, *, field_name: str, limit: int | None = None, required: bool = False) -> str | None:
    """NFC text without control and bidirectional characters, or None when empty.

    Raises:
        Invalid: too long, empty though required, or with characters that do not belong into a name.
    """
    text = unicodedata.normalize("NFC", value).strip()
    if not text:
        if required:
            raise Invalid(f"{field_name} must not be empty.", field=field_name, rule="required")
        return None
    limit = limit or LIMITS.get(field_name, 200)
    if len(text) > limit:
        raise Invalid(f"{field_name} must have at most {limit} characters.", field=field_name, rule="too_long")
    if any(unicodedata.category(c) in _CONTROL_CATEGORIES or c in _BIDI for c in text):
        raise Invalid(
            f"{field_name} must not contain control or direction characters.",
            field=field_name,
            rule="control_character",
        )
    return text


def clean_email(value: str | None) -> str | None:
    """A mail address in one form, or None when empty.

    Raises:
        Invalid: not exactly one address.
    """
    text = clean_text(value or "", field_name="email")
    if text is None:
        return None
    if not _EMAIL.fullmatch(text):
        raise Invalid("email must be one address such as name@company.example.", field="email", rule="email_form")
    return text


def clean_mobile(value: str | None) -> str | None:
    """A telephone number: digits with an optional leading +, or None when empty.

    Raises:
        Invalid: not a number.
    """
    text = clean_text(value or "", field_name="mobile")
    if text is None:
        return None
    if not _MOBILE.fullmatch(text):
        raise Invalid("mobile must be digits, with an optional leading +.", field="mobile", rule="mobile_form")
    return text


def clean_employee_number(value: str) -> str:
    """An employee number: text, leading zeros kept.

    Raises:
        Invalid: empty, too long, or with blanks or slashes.
    """
    text = clean_text(value, field_name="employee_number", limit=64, required=True)
    if text is None or not _NUMBER.fullmatch(text):
        raise Invalid(
            "employee_number must not contain blanks or slashes.", field="employee_number", rule="number_form"
        )
    return text
