"""What one account is, from what is known of it and what its application says. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import orjson

from idhub.directory.names import stored_login_name
from idhub.errors import Invalid
from idhub.provisioning.outbound.mapping import EMPLOYEE_NUMBER, ORGANIZATION, differences
from idhub.provisioning.outbound.mapping_rules import ApplicationMapping
from idhub.provisioning.outbound.records import PersonThere
from idhub.provisioning.reconcile.kinds import PROPOSALS, Kind, Proposal
from scim.dialects import Dialect
from scim.errors import remote_text
from scim.schemas import Resource, attribute, is_active

_VALUE = 120
_PATHS = 20
_VALUES = 5


@dataclass(frozen=True, slots=True)
class Seen:
    """One account as its application showed it. Texts are cleaned and bounded; `resource` is as it came."""

    external_id: str
    asked_at: datetime
    active: bool | None
    external_ref: str | None
    """externalId: what whoever made it calls it."""
    user_name: str
    display_name: str
    employee_number: str | None
    organization: str | None
    mails: tuple[str, ...]
    resource: Resource

    @property
    def is_alive(self) -> bool:
        """Not said to be off."""
        return self.active is not False


@dataclass(frozen=True, slots=True)
class Known:
    """The account as the hub knows it."""

    account_id: str
    principal_id: str | None
    is_service: bool
    desired_state: str
    known_state: str
    observed_at: datetime | None
    is_busy: bool
    """Something is on its way to it: what is seen now is not what will be."""


@dataclass(frozen=True, slots=True)
class Match:
    """Who is behind an account without a link, by strong keys alone."""

    basis: str
    people: tuple[str, ...] = ()

    @property
    def principal_id(self) -> str | None:
        """The one person, where there is one."""
        return self.people[0] if len(self.people) == 1 else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One contradiction."""

    kind: Kind
    external_id: str
    subject: str
    basis: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    principal_id: str | None = None
    account_id: str | None = None
    proposal: Proposal = Proposal.ASK

    def but(self, kind: Kind, **evidence: Any) -> "Verdict":
        """The same account under another word."""
        return replace(self, kind=kind, proposal=PROPOSALS[kind], evidence={**self.evidence, **evidence})


@dataclass(frozen=True, slots=True)
class Terms:
    """What an application's accounts are judged by."""

    application_id: str
    mapping: ApplicationMapping
    dialect: Dialect
    service_accounts: frozenset[str]
    """userNames, case-folded."""
    register_is_complete: bool


def seen_of(user: Resource, asked_at: datetime) -> Seen:
    """What is kept of a resource."""
    values = attribute(user, "emails")
    entries = values[:_VALUES] if isinstance(values, list) else []
    mails = [entry.get("value") for entry in entries if isinstance(entry, Mapping)]
    user_name = _text(attribute(user, "userName"))
    if "@" in user_name:
        mails.append(user_name)
    reference = attribute(user, "externalId")
    return Seen(
        external_id=str(user["id"]),
        asked_at=asked_at,
        active=is_active(user),
        external_ref=reference if isinstance(reference, str) and 0 < len(reference) <= 200 else None,
        user_name=user_name,
        display_name=_text(attribute(user, "displayName")) or _text(_formatted(user)),
        employee_number=_text(attribute(user, EMPLOYEE_NUMBER)) or None,
        organization=_text(attribute(user, ORGANIZATION)) or None,
        mails=tuple(
            dict.fromkeys(
                stored_login_name("email", mail) for mail in mails if isinstance(mail, str) and len(mail) <= 254
            )
        ),
        resource=user,
    )


def _formatted(user: Resource) -> Any:
    name = attribute(user, "name")
    return attribute(name, "formatted") if isinstance(name, Mapping) else None


def _text(value: Any) -> str:
    return remote_text(value)[:254]


def judge_linked(known: Known, seen: Seen, person: PersonThere | None, terms: Terms) -> Verdict | None:
    """An account that the hub has a person for."""
    if person is None:
        return None
    if not seen.is_alive:
        if person.is_wanted and known.desired_state == "active":
            return _verdict(Kind.DISABLED_THERE, seen, "link", known, person)
        return None
    if known.known_state == "inactive" and known.desired_state == "inactive" and seen.active:
        return _verdict(Kind.REENABLED, seen, "link", known, person)
    if person.standing == "left":
        return _verdict(Kind.LEFT_ALIVE, seen, "link", known, person)
    if not person.is_wanted:
        return _verdict(Kind.UNENTITLED, seen, "link", known, person)
    drifted = _drift(seen.resource, person, terms)
    return _verdict(Kind.DRIFT, seen, "link", known, person, differences=drifted) if drifted else None


def judge_unlinked(
    known: Known | None, seen: Seen, match: Match, people: Mapping[str, PersonThere], terms: Terms
) -> Verdict | None:
    """An account that the hub has nobody for; `known` is there when the hub has dealt with it before."""
    if not seen.is_alive:
        return None
    if known is not None and known.known_state == "inactive" and seen.active:
        return _verdict(Kind.REENABLED, seen, match.basis, known, people.get(match.principal_id or ""))
    if len(match.people) > 1:
        return _verdict(Kind.QUESTION, seen, "several", known, None, why="several_people", people=len(match.people))
    person = people.get(match.principal_id or "")
    if person is None:
        if not terms.register_is_complete:
            return _verdict(Kind.QUESTION, seen, "none", known, None, why="register_incomplete")
        return _verdict(Kind.GHOST, seen, "none", known, None)
    if person.standing == "left":
        return _verdict(Kind.LEFT_ALIVE, seen, match.basis, known, person)
    if not person.is_wanted and person.standing != "staged":
        return _verdict(Kind.UNENTITLED, seen, match.basis, known, person)
    return _verdict(Kind.ORPHAN, seen, match.basis, known, person)


def is_service(seen: Seen, known: Known | None, terms: Terms) -> bool:
    """Whether it is nobody's by intention."""
    return (known is not None and known.is_service) or seen.user_name.casefold() in terms.service_accounts


def is_old_news(known: Known | None, seen: Seen) -> bool:
    """Whether something newer is known, or something is on its way: nothing is concluded then."""
    if known is None:
        return False
    return known.is_busy or (known.observed_at is not None and known.observed_at >= seen.asked_at)


def _verdict(
    kind: Kind, seen: Seen, basis: str, known: Known | None, person: PersonThere | None, **evidence: Any
) -> Verdict:
    account: dict[str, Any] = {"active": seen.active, "user_name": seen.user_name}
    if seen.display_name:
        account["display_name"] = seen.display_name
    meta = attribute(seen.resource, "meta")
    changed = attribute(meta, "lastModified") if isinstance(meta, Mapping) else None
    if isinstance(changed, str):
        account["changed"] = remote_text(changed)[:40]
    if known is not None:
        account["known_state"] = known.known_state
    said: dict[str, Any] = {"account": account, "seen_at": seen.asked_at.isoformat(), **evidence}
    if person is not None:
        said["register"] = {"standing": person.standing, "entitled": person.is_wanted}
    return Verdict(
        kind=kind,
        external_id=seen.external_id,
        subject=seen.user_name or seen.external_id[:254],
        basis=basis,
        evidence=said,
        principal_id=person.facts.principal_id if person is not None else None,
        account_id=known.account_id if known is not None else None,
        proposal=PROPOSALS[kind],
    )


def _drift(resource: Resource, person: PersonThere, terms: Terms) -> dict[str, Any]:
    """Attributes that are not what provisioning would make them: path to should and is."""
    try:
        desired = terms.dialect.changeable(terms.dialect.supported(terms.mapping.attributes(person.facts)))
    except Invalid:
        return {}
    changes = differences(desired, resource, kinds=terms.mapping.kinds, one_value_each=terms.dialect.one_value_each)
    changes.pop("active", None)
    return {
        path: {"should": _shown(desired.get(path)), "is": _shown(attribute(resource, path))}
        for path in sorted(changes)[:_PATHS]
    }


def _shown(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        value = orjson.dumps(value).decode()
    return remote_text(value)[:_VALUE]


def narrowed(sets: Sequence[tuple[str, frozenset[str]]]) -> Match:
    """Who is meant by several strong keys, strongest first: whom all of them name; one alone decides nothing against
    another."""
    named = [(basis, people) for basis, people in sets if people]
    if not named:
        return Match("none")
    common = frozenset.intersection(*(people for _, people in named))
    if len(common) == 1:
        return Match(named[0][0], tuple(common))
    return Match("several", tuple(sorted(frozenset.union(*(people for _, people in named)))))
