"""The catalogue of events and their canonical bytes.

An event says who did what to what, through which door, with which outcome. Its canonical form is RFC 8785 JSON
(sorted keys, integers only, NFC strings) in which no character can break a line or turn the direction of a text: what
is hashed is what is stored is what is exported. Personal values never enter it: it carries salted commitments, and the
plain text lives beside it where it can be erased (`audit.personal`).

An actor who is a person appears by id alone. Their name would survive their erasure; readers resolve the id.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias, cast

import orjson

from audit.errors import InvalidEvent

JsonValue: TypeAlias = "bool | int | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"

SCHEMA_VERSION: Final = 1
IDENTIFIER_LIMIT: Final = 256
TEXT_LIMIT: Final = 2_048
PERSONAL_LIMIT: Final = 1_024
BODY_LIMIT: Final = 16_384
DEPTH_LIMIT: Final = 8
# RFC 8785 section 3.2.2.3 counts in IEEE 754 doubles; beyond this an integer is no longer exact in one.
INTEGER_LIMIT: Final = 2**53 - 1

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class EventClass(StrEnum):
    """How an event is written and how long it matters (design: three classes)."""

    CHANGE = "change"
    """A state change; written in the transaction of its effect."""
    CREDENTIAL = "credential"
    """A credential issued, spent, revoked or refused; the answer waits for its commit."""
    ACCESS = "access"
    """A read or a refusal; anonymous ones are aggregated by their writer."""


class EventType(StrEnum):
    """Everything that can be recorded, as `object.verb`. A closed list; each member has its class and its sentence."""

    event_class: EventClass
    description: str

    def __new__(cls, value: str, event_class: EventClass = EventClass.CHANGE, description: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.event_class = event_class
        member.description = description
        return member

    PERSON_ONBOARDED = "person.onboarded", EventClass.CHANGE, "A person became active for the first time."
    PERSON_INVITED = "person.invited", EventClass.CHANGE, "A first sign-in link was made for a person."
    PERSON_MOVED = "person.moved", EventClass.CHANGE, "A person's company, department or post changed."
    PERSON_UPDATED = "person.updated", EventClass.CHANGE, "A person's attributes changed."
    PERSON_SUSPENDED = "person.suspended", EventClass.CHANGE, "A person's access was paused."
    PERSON_REACTIVATED = "person.reactivated", EventClass.CHANGE, "A suspended person became active again."
    PERSON_OFFBOARDED = "person.offboarded", EventClass.CHANGE, "A person left; all access ended."
    PERSON_OFFBOARDING_SCHEDULED = "person.offboarding_scheduled", EventClass.CHANGE, "A leave was set for an instant."
    PERSON_OFFBOARDING_CANCELLED = "person.offboarding_cancelled", EventClass.CHANGE, "A scheduled leave was withdrawn."
    PERSON_REHIRED = "person.rehired", EventClass.CHANGE, "A person who had left came back under a new epoch."
    PERSON_STARTED = "person.started", EventClass.CHANGE, "A staged person's first day came; access began."
    CREDENTIALS_ENDED = "person.credentials_ended", EventClass.CHANGE, "Everything issued to a person stopped working."
    CLIENT_CREDENTIALS_ENDED = "client.credentials_ended", EventClass.CHANGE, "Grants of a client stopped working."
    CHANGE_REFUSED = "person.change_refused", EventClass.CHANGE, "A change contradicted what is and was not made."
    SERVICE_REGISTERED = "service.registered", EventClass.CHANGE, "A service identity was made for an application."
    SERVICE_CHANGED = "service.changed", EventClass.CHANGE, "A service identity got another owner or expiry."
    PRINCIPAL_HANDED_OVER = "principal.handed_over", EventClass.CHANGE, "A leaver's service or device got a new owner."
    PERSON_ERASED = "person.erased", EventClass.CHANGE, "Personal values of a person were erased from the audit trail."

    EMPLOYMENT_STARTED = "employment.started", EventClass.CHANGE, "A post in an organization began."
    EMPLOYMENT_CHANGED = "employment.changed", EventClass.CHANGE, "A post changed its department, title, type or dates."
    EMPLOYMENT_ENDED = "employment.ended", EventClass.CHANGE, "A post in an organization ended."

    IMPORT_UPLOADED = "import.uploaded", EventClass.CHANGE, "An HR file was brought by a page, to be previewed."
    IMPORT_CONFIRMED = "import.confirmed", EventClass.CHANGE, "A previewed HR file was confirmed, to be taken in."
    IMPORT_ENDED = "import.ended", EventClass.CHANGE, "A file that was brought by a page was forgotten without effect."
    IMPORT_FINISHED = "import.finished", EventClass.CHANGE, "A file or directory read was applied."
    IMPORT_ROW_REFUSED = "import.row_refused", EventClass.CHANGE, "A row was refused; line, field and rule are named."
    IMPORT_QUARANTINED = "import.quarantined", EventClass.CHANGE, "The mass-change brake held changes back."
    IMPORT_RELEASED = "import.released", EventClass.CHANGE, "Held changes were released by two people."

    ORGANIZATION_CREATED = "organization.created", EventClass.CHANGE, "An organization was added."
    ORGANIZATION_CHANGED = "organization.changed", EventClass.CHANGE, "An organization changed."
    DEPARTMENT_CREATED = "department.created", EventClass.CHANGE, "A department was added."
    DEPARTMENT_CHANGED = "department.changed", EventClass.CHANGE, "A department changed."

    GROUP_CREATED = "group.created", EventClass.CHANGE, "A group was added."
    GROUP_CHANGED = "group.changed", EventClass.CHANGE, "A group's name or members changed."
    GROUP_ENDED = "group.ended", EventClass.CHANGE, "A group ended."

    ENTITLEMENT_ENTITLED = "entitlement.entitled", EventClass.CHANGE, "A principal may enter an application in a role."
    ENTITLEMENT_WITHDRAWN = "entitlement.withdrawn", EventClass.CHANGE, "That right ended."
    ACCOUNT_LINKED = "account.linked", EventClass.CHANGE, "An account in another system was recognised as a person's."
    ACCOUNT_PROVISIONED = "account.provisioned", EventClass.CHANGE, "An account was made in another system."
    ACCOUNT_UPDATED = "account.updated", EventClass.CHANGE, "An account in another system was brought up to date."
    ACCOUNT_DEACTIVATED = "account.deactivated", EventClass.CHANGE, "An account in another system was switched off."
    ACCOUNT_REACTIVATED = "account.reactivated", EventClass.CHANGE, "An account in another system was switched on."
    ACCOUNT_DELETED = "account.deleted", EventClass.CHANGE, "An account in another system was deleted, its time over."
    ADOPTION_REJECTED = "adoption.rejected", EventClass.CHANGE, "An account found there was decided to be nobody's."
    GROUP_PUSHED = "group.pushed", EventClass.CHANGE, "A group in another system was made, renamed, filled or removed."
    SYNC_CHANGED = "sync.changed", EventClass.CHANGE, "A run over all accounts began, was paused, went on or ended."
    APPLICATION_DISCOVERED = "application.discovered", EventClass.CHANGE, "What an application can do was read anew."
    APPLICATION_TOKEN_STAGED = (
        "application.token_staged",
        EventClass.CHANGE,
        "A new credential for an application was put beside the present one.",
    )
    APPLICATION_TOKEN_SWITCHED = (
        "application.token_switched",
        EventClass.CHANGE,
        "An application's new credential took the place of the old one.",
    )
    APPLICATION_TOKEN_EXPIRES = (
        "application.token_expires",
        EventClass.CHANGE,
        "The credential for an application ends soon, or has ended.",
    )
    APPLICATION_CREATED = "application.created", EventClass.CHANGE, "An application was connected."
    APPLICATION_CHANGED = "application.changed", EventClass.CHANGE, "An application's configuration changed."
    PROVIDER_CREATED = "provider.created", EventClass.CHANGE, "An identity provider was connected."
    PROVIDER_CHANGED = "provider.changed", EventClass.CHANGE, "An identity provider's configuration changed."
    SCIM_JOB_ACCEPTED = "scim_job.accepted", EventClass.CHANGE, "A bulk request of a SCIM sender waits to be worked."
    SCIM_JOB_ENDED = "scim_job.ended", EventClass.CHANGE, "A bulk request of a SCIM sender is done or cancelled."
    SCIM_STREAM_CREATED = "scim_stream.created", EventClass.CHANGE, "A receiver of SCIM events was named."
    SCIM_STREAM_PAUSED = "scim_stream.paused", EventClass.CHANGE, "A receiver of SCIM events is to wait."
    SCIM_STREAM_RESUMED = "scim_stream.resumed", EventClass.CHANGE, "A receiver of SCIM events is told again."
    SCIM_STREAM_REMOVED = "scim_stream.removed", EventClass.CHANGE, "A receiver of SCIM events is told no more."
    SCIM_EXTENSION_CHANGED = "scim_extension.changed", EventClass.CHANGE, "Attributes of a SCIM extension changed."
    RULE_CHANGED = "rule.changed", EventClass.CHANGE, "A birthright rule was added, changed or removed."

    RECONCILE_ASKED = "reconcile.asked", EventClass.CHANGE, "Somebody asked for an application to be compared now."
    RECONCILE_FINISHED = "reconcile.finished", EventClass.CHANGE, "What an application holds was compared."
    FINDING_OPENED = "finding.opened", EventClass.CHANGE, "Something that does not agree was found."
    FINDING_REOPENED = "finding.reopened", EventClass.CHANGE, "A finding that was over was found again."
    FINDING_ACCEPTED = "finding.accepted", EventClass.CHANGE, "Somebody sees to a finding."
    FINDING_DISMISSED = "finding.dismissed", EventClass.CHANGE, "A finding was registered as an exception."
    FINDING_TAKEN_BACK = "finding.taken_back", EventClass.CHANGE, "A decision about a finding was taken back."
    FINDING_HELD = "finding.held", EventClass.CHANGE, "The mass-change brake held a remedy back."
    FINDING_RELEASED = "finding.released", EventClass.CHANGE, "Held remedies were released by two people."
    FINDING_DONE = "finding.done", EventClass.CHANGE, "A finding does not stand any more."

    DELIVERY_PLANNED = "delivery.planned", EventClass.CHANGE, "An effect towards an account was planned."
    DELIVERY_SENT = "delivery.sent", EventClass.CHANGE, "A delivery was tried."
    DELIVERY_DONE = "delivery.done", EventClass.CHANGE, "A delivery reached its grade."
    DELIVERY_RETRIED = "delivery.retried", EventClass.CHANGE, "A delivery failed and will be tried again."
    DELIVERY_DEAD = "delivery.dead", EventClass.CHANGE, "A delivery was given up and needs attention."
    DELIVERY_AWAITS_REVIEW = "delivery.awaits_review", EventClass.CHANGE, "Somebody has to say whose an account is."
    DELIVERY_REQUEUED = "delivery.requeued", EventClass.CHANGE, "A delivery that waited for somebody was put back."
    DELIVERY_SUPERSEDED = "delivery.superseded", EventClass.CHANGE, "A later delivery of its lane made one moot."
    DELIVERY_HELD = "delivery.held", EventClass.CHANGE, "An application's deliveries stand still."
    DELIVERY_RESUMED = "delivery.resumed", EventClass.CHANGE, "An application's deliveries go on."
    CASE_COMPLETED = "case.completed", EventClass.CHANGE, "Every row of a case reached its required grade."
    RECEIPT_ISSUED = "receipt.issued", EventClass.CHANGE, "A version of a receipt was signed."

    LOGIN_SUCCEEDED = "login.succeeded", EventClass.CREDENTIAL, "A person signed in; their session began."
    LOGIN_FAILED = "login.failed", EventClass.CREDENTIAL, "A sign-in was refused."
    LOGIN_THROTTLED = "login.throttled", EventClass.CREDENTIAL, "Sign-in attempts were slowed down."
    SESSION_ENDED = "session.ended", EventClass.CREDENTIAL, "A single sign-on session ended."
    PASSWORD_SET = "password.set", EventClass.CREDENTIAL, "A first password was set."
    PASSWORD_CHANGED = "password.changed", EventClass.CREDENTIAL, "A password was changed."
    INVITATION_ISSUED = "invitation.issued", EventClass.CREDENTIAL, "A one-time link was issued."
    INVITATION_USED = "invitation.used", EventClass.CREDENTIAL, "A one-time link was spent."
    IDENTITY_LINKED = (
        "identity.linked",
        EventClass.CREDENTIAL,
        "An account at an identity provider was linked to a person.",
    )
    IDENTITY_UNLINKED = "identity.unlinked", EventClass.CREDENTIAL, "Such a link was taken away."
    CONSENT_GIVEN = "consent.given", EventClass.CREDENTIAL, "A person let a client act for them."
    CONSENT_DENIED = "consent.denied", EventClass.CREDENTIAL, "A person refused a client."
    AUTHORIZATION_REFUSED = "authorization.refused", EventClass.CREDENTIAL, "An authorization request was refused."
    TICKET_ISSUED = "ticket.issued", EventClass.CREDENTIAL, "A service ticket was issued to a CAS application."
    TICKET_VALIDATED = "ticket.validated", EventClass.CREDENTIAL, "A ticket was spent; its application came in."
    TICKET_REFUSED = "ticket.refused", EventClass.CREDENTIAL, "A service ticket was not believed."
    ASSERTION_ISSUED = "assertion.issued", EventClass.CREDENTIAL, "An assertion about a person was issued."
    CODE_ISSUED = "code.issued", EventClass.CREDENTIAL, "An authorization code was issued."
    CODE_REPLAYED = "code.replayed", EventClass.CREDENTIAL, "A spent code came again; what it produced was revoked."
    TOKEN_ISSUED = "token.issued", EventClass.CREDENTIAL, "Tokens were issued."
    TOKEN_REFRESHED = "token.refreshed", EventClass.CREDENTIAL, "A refresh token was rotated."
    TOKEN_REPLAYED = "token.replayed", EventClass.CREDENTIAL, "A used refresh token came again; its family ended."
    TOKEN_REVOKED = "token.revoked", EventClass.CREDENTIAL, "A token was revoked."
    TOKEN_REFUSED = "token.refused", EventClass.CREDENTIAL, "A token request was refused."
    LOGOUT_REQUESTED = "logout.requested", EventClass.CREDENTIAL, "A logout was asked for."
    LOGOUT_ANSWERED = "logout.answered", EventClass.CREDENTIAL, "An application said whether it signed a person out."
    ROLE_ASSIGNED = "role.assigned", EventClass.CHANGE, "A role over the hub was given."
    ROLE_REMOVED = "role.removed", EventClass.CHANGE, "A role over the hub was taken."
    API_TOKEN_CREATED = "api_token.created", EventClass.CHANGE, "A token for the administration API was made."
    API_TOKEN_REVOKED = "api_token.revoked", EventClass.CHANGE, "A token for the administration API was revoked."
    KEY_CREATED = "key.created", EventClass.CHANGE, "A signing key was made."
    KEY_ROTATED = "key.rotated", EventClass.CHANGE, "A signing key was replaced."
    KEY_REVOKED = "key.revoked", EventClass.CHANGE, "A signing key was revoked; nothing that it signs counts."
    SETTINGS_APPLIED = "settings.applied", EventClass.CHANGE, "A configuration file was applied."
    HUB_STARTED = "hub.started", EventClass.CHANGE, "A process of the hub started."
    HUB_RECOVERY = "hub.recovery", EventClass.CHANGE, "The hub found itself behind its witness: recovery mode."
    WITNESS_BEGUN = "hub.witness_begun", EventClass.CHANGE, "The witness file was not there and was begun anew."
    CHECKPOINT_SIGNED = "checkpoint.signed", EventClass.CHANGE, "A checkpoint was signed on demand."
    AUDIT_PRUNED = "audit.pruned", EventClass.CHANGE, "A range of exported events was removed under retention."

    TOKEN_INTROSPECTED = "token.introspected", EventClass.ACCESS, "A client asked about tokens."
    USERINFO_READ = "userinfo.read", EventClass.ACCESS, "A client read claims of a person."
    AUTHORIZATION_DENIED = "authorization.denied", EventClass.ACCESS, "An actor lacked the right for an action."
    REQUEST_REFUSED = "request.refused", EventClass.ACCESS, "A request was malformed or anonymous and was refused."
    PAGE_VIEWED = "page.viewed", EventClass.ACCESS, "A page with personal data was opened."
    EXPORT_MADE = "export.made", EventClass.ACCESS, "A list was exported; the row count is in the details."
    AUDIT_EXPORTED = "audit.exported", EventClass.ACCESS, "The audit trail was exported."


FORMER_TYPES: Final = ("code.redeemed", "session.app_joined", "session.started")
"""Types that nothing writes any more. Events of theirs are proven, found, shown and exported like any other."""

ActorKind = Literal["person", "service", "device", "client", "system", "cli", "anonymous"]


# Tuples: one is made for every event, and a frozen dataclass takes five times as long to make.
class Actor(NamedTuple):
    """Who did it. The name of a person or of an anonymous actor is for the caller's use only and is not recorded."""

    kind: ActorKind
    id: str
    name: str = ""
    session_id: str | None = None
    ip: str | None = None


_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Event(NamedTuple):
    """One thing that happened. `personal` holds what must be erasable; `details` what need not be."""

    type: EventType
    at: datetime
    actor: Actor
    door: str
    target_kind: str
    target_id: str
    outcome: Literal["success", "failure"] = "success"
    reason: str | None = None
    person_id: str | None = None
    organization_id: str | None = None
    application_id: str | None = None
    case_id: str | None = None
    delivery_id: str | None = None
    request_id: str | None = None
    details: Mapping[str, JsonValue] = _NOTHING
    personal: Mapping[str, str] = _NOTHING


# What could end a line, hide text or turn its direction: C0, DEL, C1, soft hyphen and other invisible characters,
# bidirectional controls, line and paragraph separators, surrogates, BOM, interlinear marks, noncharacters, tags.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)
_UNSAFE_IN_NAME: Final = re.compile("[^\x20-\x7e]")
_ALPHABET: Final = "0123456789abcdefghijklmnopqrstuv"
_PAIRS: Final = tuple(high + low for high in _ALPHABET for low in _ALPHABET)


def _visible(found: re.Match[str]) -> str:
    return f"\\u{{{ord(found.group()):04x}}}"


def clean_text(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return `text` in NFC, on one line, with unsafe characters spelled out, visibly cut after `limit` characters."""
    # What may be shown holds nothing unsafe; the other way round a look is needed.
    if text.isprintable() and len(text) <= limit:
        return text if text.isascii() else unicodedata.normalize("NFC", text)
    cut = ""
    if len(text) > limit:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        cut = f"…[{len(text) - limit} characters cut, sha256 {digest}]"
        text = text[:limit]
    if _UNSAFE.search(text):
        text = _UNSAFE.sub(_visible, text)
    return unicodedata.normalize("NFC", text) + cut


def to_micros(at: datetime) -> int:
    """Return microseconds since 1970 UTC.

    Raises:
        InvalidEvent: the datetime has no time zone.
    """
    if at.tzinfo is None:
        raise InvalidEvent("an event's time needs a time zone")
    return (at - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the aware UTC datetime of stored microseconds."""
    return _EPOCH + timedelta(microseconds=micros)


def new_event_ids(count: int) -> list[str]:
    """Return `count` ids `evt_...`, time-ordered: 50 bits of milliseconds, 60 random bits, a counter.

    Raises:
        ValueError: more than 2**20 ids were asked for at once.
    """
    if count > 1 << 20:
        raise ValueError("a batch holds at most 1,048,576 events")
    drawn = int.from_bytes(os.urandom(8), "big") >> 4
    head = _head_of_ids(time.time_ns() // 1_000_000)
    middle = (
        f"{_PAIRS[drawn >> 50]}{_PAIRS[drawn >> 40 & 1023]}{_PAIRS[drawn >> 30 & 1023]}"
        f"{_PAIRS[drawn >> 20 & 1023]}{_PAIRS[drawn >> 10 & 1023]}{_PAIRS[drawn & 1023]}"
    )
    prefix = head + middle
    return [prefix + _PAIRS[number >> 10] + _PAIRS[number & 1023] for number in range(count)]


@lru_cache(maxsize=1)
def _head_of_ids(milliseconds: int) -> str:
    """What ids of one millisecond begin with."""
    return "evt_" + "".join(_PAIRS[milliseconds >> shift & 1023] for shift in range(40, -1, -10))


# Names in details that were found clean: a few hundred in a running hub; bounded, should others choose them.
_clean_names: Final[set[str]] = set()
_CLEAN_NAMES_LIMIT: Final = 4_096


def _name(key: object) -> str:
    if not isinstance(key, str):
        raise InvalidEvent("a key in an event's details is not text")
    # Sorting by code point equals RFC 8785's sorting by UTF-16 unit as long as names are ASCII.
    if not (key.isascii() and key.isprintable()):
        key = _UNSAFE_IN_NAME.sub(_visible, unicodedata.normalize("NFC", key))
        return clean_text(key, IDENTIFIER_LIMIT)
    if len(key) <= IDENTIFIER_LIMIT and len(_clean_names) < _CLEAN_NAMES_LIMIT:
        _clean_names.add(str(key))
    return clean_text(key, IDENTIFIER_LIMIT)


def _canonical(value: object, depth: int = 0) -> JsonValue:
    """Return `value` as something that has exactly one JSON text.

    Raises:
        InvalidEvent: a float, an integer beyond 2**53-1, an unknown type, a doubled key, or too deep a nesting.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return clean_text(str(value))
    if isinstance(value, int):
        if not -INTEGER_LIMIT <= value <= INTEGER_LIMIT:
            raise InvalidEvent("an integer in an event is too large to be exact everywhere; use text")
        return int(value)
    if depth >= DEPTH_LIMIT:
        raise InvalidEvent("an event's details are nested too deeply")
    if isinstance(value, Mapping):
        cleaned = {_name(key): _canonical(one, depth + 1) for key, one in value.items()}
        if len(cleaned) != len(value):
            raise InvalidEvent("two keys in an event's details become one")
        return cleaned
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [_canonical(one, depth + 1) for one in value]
    raise InvalidEvent(f"a {type(value).__name__} in an event has no canonical form")


def identifier(text: str) -> str:
    """Return an identifier as it is stored."""
    return clean_text(text, IDENTIFIER_LIMIT)


_OPTIONAL: Final = (
    "reason",
    "person_id",
    "organization_id",
    "application_id",
    "case_id",
    "delivery_id",
    "request_id",
)
# Between these places an event has nothing but texts.
_DOOR: Final = 3
_DETAILS: Final = 14
_NAMELESS: Final = frozenset({"person", "anonymous"})
_PLAIN: Final = frozenset({str, int, bool, type(None)})
# An integer that is not exact everywhere, and a type that JSON has no word for, are refused instead of bent.
_AT_ONCE: Final = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)


def _normalized(event: Event) -> Event:
    """Return `event` with every identifier as it will be stored, so that columns and body say the same."""
    changes: dict[str, Any] = {}
    for name in ("door", "target_kind", "target_id", *_OPTIONAL):
        value = getattr(event, name)
        if value is not None:
            cleaned = identifier(value)
            if cleaned is not value:
                changes[name] = cleaned
    actor = event.actor
    values = (actor.id, actor.name, actor.session_id, actor.ip)
    safe = tuple(None if one is None else identifier(one) for one in values)
    if safe != values:
        changes["actor"] = Actor(actor.kind, safe[0] or "", safe[1] or "", safe[2], safe[3])
    return event._replace(**changes) if changes else event


def canonical_bytes(event: Event, *, event_id: str, commitments: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes that are hashed, stored and exported for `event`. RFC 8785, integers only.

    `commitments` are hexadecimal SHA-256 values, one for each field of `event.personal` (`audit.personal.commitment`).
    Details that make the body larger than `BODY_LIMIT` bytes are replaced by their length and hash.

    Raises:
        InvalidEvent: something in the event has no canonical form.
    """
    return encoded(event, event_id=event_id, commitments=commitments, micros=to_micros(event.at))[1]


def encoded(event: Event, *, event_id: str, commitments: Mapping[str, str] | None, micros: int) -> tuple[Event, bytes]:
    """Return an event as its columns must show it, and its canonical bytes (`canonical_bytes`).

    Nearly every event is clean as it comes: what the JSON encoder makes of it is canonical then, and a look at those
    bytes shows whether it was. Anything else is cleaned text by text, at several times the cost.
    """
    body = _body(event, event_id, commitments, micros)
    made = _encoded_at_once(event, body)
    if made is not None:
        return event, made
    event = _normalized(event)
    return event, _encoded_with_care(event, _body(event, event_id, commitments, micros))


def _body(event: Event, event_id: str, commitments: Mapping[str, str] | None, micros: int) -> dict[str, object]:
    # Unpacked, in the order of their fields: to ask a tuple for one after another costs more.
    (
        kind, _, who, door, target_kind, target_id, outcome, reason, person_id, organization_id, application_id,
        case_id, delivery_id, request_id, details, _,
    ) = event  # fmt: skip
    body: dict[str, object] = {
        "actor": _actor(who),
        "at": micros,
        "class": kind.event_class._value_,
        "door": door,
        "event_id": event_id,
        "outcome": outcome,
        "schema_version": SCHEMA_VERSION,
        "target": {"id": target_id, "kind": target_kind},
        "type": kind._value_,
    }
    if reason is not None:
        body["reason"] = reason
    if person_id is not None:
        body["person_id"] = person_id
    if organization_id is not None:
        body["organization_id"] = organization_id
    if application_id is not None:
        body["application_id"] = application_id
    if case_id is not None:
        body["case_id"] = case_id
    if delivery_id is not None:
        body["delivery_id"] = delivery_id
    if request_id is not None:
        body["request_id"] = request_id
    if details:
        body["details"] = details
    if commitments:
        body["personal"] = commitments
    return body


def _actor(who: Actor) -> dict[str, str]:
    actor_kind, actor_id, name, session_id, ip = who
    actor: dict[str, str] = {"id": actor_id, "kind": actor_kind}
    if name and actor_kind not in _NAMELESS:
        actor["name"] = name
    if session_id is not None:
        actor["session_id"] = session_id
    if ip is not None:
        actor["ip"] = ip
    return actor


def _encoded_at_once(event: Event, body: Mapping[str, object]) -> bytes | None:
    """Return the canonical bytes of an event that needs no cleaning, None when it may need some."""
    details = body.get("details")
    if details is not None and not _is_plain(details):
        return None
    try:
        made = orjson.dumps(body, option=_AT_ONCE)
    except TypeError:
        return None
    # What JSON escapes and what cleaning would change shows as a backslash, DEL or a byte beyond ASCII. No text is
    # longer than allowed where the whole is not; identifiers have a lower limit of their own.
    if b"\\" in made or not made.isascii() or b"\x7f" in made or len(made) > TEXT_LIMIT:
        return None
    # Where all that the event brings along is no longer than one identifier may be, none of them needs a look.
    if len(made) - _frame(body) <= IDENTIFIER_LIMIT:
        return made
    longest = max(map(len, filter(None, (*event.actor, *event[_DOOR:_DETAILS]))))
    return None if longest > IDENTIFIER_LIMIT else made


def _frame(body: Mapping[str, Any]) -> int:
    """How many bytes at least of an encoded event are none of its identifiers."""
    return _LEAST + len(body["event_id"]) + _COMMITTED * len(body.get("personal", ()))


_LEAST: Final = len(
    '{"actor":{"id":"","kind":""},"at":0,"class":"","door":"","event_id":"","outcome":"","schema_version":1,'
    '"target":{"id":"","kind":""},"type":""}'
)
_COMMITTED: Final = 64


def _is_plain(value: object, depth: int = DEPTH_LIMIT) -> bool:
    """Tell whether details hold only what has one text in JSON, under names that were found clean before."""
    kind = type(value)
    if kind is dict:
        members = cast("dict[object, object]", value)
        if not _clean_names.issuperset(members):
            return False
        items: Collection[object] = members.values()
    elif kind is list or kind is tuple:
        items = cast("Collection[object]", value)
    else:
        return kind in _PLAIN or isinstance(value, StrEnum)
    if depth <= 0:
        return False
    # A loop: this is done for every event, and a generator costs more than the look.
    for one in items:  # noqa: SIM110
        if type(one) not in _PLAIN and not _is_plain(one, depth - 1):
            return False
    return True


def _encoded_with_care(event: Event, body: dict[str, object]) -> bytes:
    if event.details:
        body["details"] = _canonical(event.details)
    made = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    if len(made) > BODY_LIMIT and event.details:
        details = orjson.dumps(body["details"], option=orjson.OPT_SORT_KEYS)
        body["details"] = {"bytes": len(details), "cut": True, "sha256": hashlib.sha256(details).hexdigest()}
        made = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return made
