"""What would be sent for one person, and how that differs from what the application was last known to have. Pure reads.

Also runs the tests that a mapping brings along in configuration.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.access.tables import Account
from idhub.errors import Invalid, NotFound
from idhub.provisioning.outbound import records
from idhub.provisioning.outbound.expressions import NAMES
from idhub.provisioning.outbound.mapping import PersonFacts, present
from idhub.provisioning.outbound.mapping_rules import ApplicationMapping, value_at
from scim.dialects import DIALECTS, adapted
from scim.schemas import USER, Resource, with_changes

_FACTS_BY_NAME = {"id": "principal_id", "company": "organization", "manager_account": "manager_external_id"}


@dataclass(frozen=True, slots=True)
class Line:
    """One attribute: what it would be, what it was last known to be, and the rule that makes it, where there is one."""

    path: str
    value: Any
    known: Any
    rule: str | None

    @property
    def is_changed(self) -> bool:
        """Whether an update would send it."""
        return bool(self.value != self.known)


@dataclass(frozen=True, slots=True)
class Preview:
    """What provisioning would make of one person in one application.

    Args:
        resource: the user as a create would send it.
        is_wanted: whether the person may have the account now; otherwise nothing is sent.
        missing: attributes that the application requires and that this person has no value of.
        is_known: whether anything is known of what the application has; otherwise every line is new.
    """

    principal_id: str
    is_wanted: bool
    account_state: str | None
    resource: Resource
    lines: Sequence[Line]
    missing: Sequence[str]
    is_known: bool


def preview(session: Session, application_id: str, principal_id: str, *, now: datetime) -> Preview:
    """Preview one person.

    Raises:
        NotFound: no such person, or the application has no SCIM target.
        Invalid: the mapping makes no userName of this person.
    """
    target = records.targets(session, [application_id]).get(application_id)
    if target is None:
        raise NotFound("This application has no SCIM target.", field="application", rule="scim.none")
    person = records.person_facts(session, principal_id, application_id, now=now)
    if person is None:
        raise NotFound("There is no such person.", field="person", rule="person.unknown")
    dialect = DIALECTS[target.dialect].learned(target.capabilities)
    mapping = target.mapping
    desired = present(dialect.supported(mapping.attributes(person)))
    account = session.execute(
        select(Account.known_state, Account.known_attributes).where(
            Account.application_id == application_id, Account.principal_id == principal_id, Account.slot == "main"
        )
    ).one_or_none()
    known: Mapping[str, Any] = (account.known_attributes if account else None) or {}
    texts: dict[str, list[str]] = {}
    for rule in mapping.rules:
        texts.setdefault(rule.place.top, []).append(
            f"{rule.path}: {rule.expression.text if rule.expression else 'null'}"
        )
    return Preview(
        principal_id=principal_id,
        is_wanted=bool(person.roles),
        account_state=account.known_state if account else None,
        resource=with_changes({"schemas": [USER]}, adapted(desired, dialect)),
        lines=[
            Line(path, desired.get(path), known.get(path), "\n".join(texts[path]) if path in texts else None)
            for path in sorted({*desired, *known}, key=lambda path: (path.startswith("urn:"), path.lower()))
        ],
        missing=dialect.missing(desired),
        is_known=bool(known),
    )


@dataclass(frozen=True, slots=True)
class MappingTest:
    """A test of a mapping: a person, by facts or by what is known of one, and what must come of them."""

    facts: PersonFacts
    expect: Mapping[str, Any] = field(default_factory=dict)


def facts_of(given: Mapping[str, Any]) -> PersonFacts:
    """A person made up for a test, by the names that expressions use.

    Raises:
        Invalid: a name that no person has; rule `mapping.test`.
    """
    unknown = sorted(set(given) - set(NAMES))
    if unknown:
        raise Invalid(f"{unknown[0]!r} is no attribute of a person ({', '.join(NAMES)}).", rule="mapping.test")
    known = {one.name for one in fields(PersonFacts)}
    values = {_FACTS_BY_NAME.get(name, name): value for name, value in given.items()}
    roles = tuple(values.pop("roles", None) or ())
    made = {"principal_id": "per_test", "display_name": "", **{k: v for k, v in values.items() if k in known}}
    return PersonFacts(**made, roles=roles)


def run_test(mapping: ApplicationMapping, test: MappingTest) -> None:
    """Check one test.

    Raises:
        Invalid: `field` is the path that came out differently; the sentence shows both values. Rule `mapping.test`.
    """
    attributes = mapping.attributes(test.facts)
    for path, wanted in test.expect.items():
        value = value_at(attributes, path)
        if value != wanted:
            raise Invalid(f"{path} is {value!r}, and the test expects {wanted!r}.", field=path, rule="mapping.test")
