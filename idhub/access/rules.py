"""Birthright rules: who is entitled to what, in SCIM filter syntax over a person.

Hub roles are not reachable from here: a rule names an application and a role inside it, nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.access.tables import Application, EntitlementRule
from idhub.db import new_id
from idhub.errors import Invalid
from idhub.kept import Kept
from scim.errors import InvalidFilter
from scim.filters import AttributeSpec, Predicate, compile_predicate

_TEXT = AttributeSpec()
_EXACT = AttributeSpec(case_exact=True)

PERSON_ATTRIBUTES: Mapping[str, AttributeSpec] = {
    "id": _EXACT,
    "displayName": _TEXT,
    "email": _TEXT,
    "locale": _TEXT,
    "employments": AttributeSpec(
        type="complex",
        multi_valued=True,
        sub_attributes={
            "company": _TEXT,
            "companyCode": _TEXT,
            "companyKind": _TEXT,
            "within": AttributeSpec(multi_valued=True),
            "department": _TEXT,
            "departmentPath": _TEXT,
            "title": _TEXT,
            "type": _TEXT,
            "employeeNumber": _EXACT,
            "startDate": AttributeSpec(type="date"),
            "endDate": AttributeSpec(type="date"),
        },
    ),
}
"""What a rule may ask. `employments` holds those active now; `within` the codes of the company and all above it."""


@dataclass(frozen=True, slots=True)
class BirthrightRule:
    """One rule that holds now, ready to be asked."""

    id: str
    application_id: str
    role: str
    matches: Predicate


# Asked by every batch that changes people.
_CURRENT = Kept(
    select(EntitlementRule.id, EntitlementRule.application_id, EntitlementRule.role, EntitlementRule.rule)
    .join(Application, Application.id == EntitlementRule.application_id)
    .where(
        EntitlementRule.superseded_at.is_(None),
        EntitlementRule.valid_to.is_(None),
        Application.is_enabled.is_(True),
    )
    .order_by(EntitlementRule.id)
)


@lru_cache(maxsize=4096)
def compile_rule(text: str) -> Predicate:
    """The predicate of a rule's text.

    Raises:
        Invalid: not SCIM filter syntax, or about an attribute that people do not have.
    """
    try:
        return compile_predicate(text, attributes=PERSON_ATTRIBUTES)
    except InvalidFilter as error:
        raise Invalid(f"The rule cannot be used: {error}", field="rule", rule="rule.syntax") from error


def current_rules(session: Session) -> list[BirthrightRule]:
    """Every rule of an enabled application that holds now."""
    # A kept statement sends nothing that the session still holds back.
    session.flush()
    return [BirthrightRule(r.id, r.application_id, r.role, compile_rule(r.rule)) for r in _CURRENT.all(session)]


def wanted_by_rules(rules: Sequence[BirthrightRule], document: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """(application, role) -> id of the first rule that entitles the person of `document`."""
    wanted: dict[tuple[str, str], str] = {}
    for rule in rules:
        if rule.matches(document):
            wanted.setdefault((rule.application_id, rule.role), rule.id)
    return wanted


def set_rules(session: Session, application_id: str, wanted: Sequence[tuple[str, str]], *, now: datetime) -> bool:
    """Make `wanted` (role, text) the application's rules. Returns whether anything changed.

    The rules that were stay readable with their end; who follows is decided by re-evaluating people.

    Raises:
        Invalid: a rule cannot be used.
    """
    for _, text in wanted:
        compile_rule(text)
    rows = session.execute(
        select(EntitlementRule)
        .where(
            EntitlementRule.application_id == application_id,
            EntitlementRule.superseded_at.is_(None),
            EntitlementRule.valid_to.is_(None),
        )
        .with_for_update()
    ).scalars()
    held = {(row.role, row.rule): row for row in rows}
    gone = [row for key, row in held.items() if key not in set(wanted)]
    new = [key for key in dict.fromkeys(wanted) if key not in held]
    for row in gone:
        row.superseded_at = now
        session.add(
            EntitlementRule(
                id=new_id("rul"),
                application_id=application_id,
                role=row.role,
                rule=row.rule,
                valid_from=row.valid_from,
                valid_to=now,
                recorded_at=now,
            )
        )
    for role, text in new:
        session.add(
            EntitlementRule(
                id=new_id("rul"), application_id=application_id, role=role, rule=text, valid_from=now, recorded_at=now
            )
        )
    session.flush()
    return bool(gone or new)
