"""Scopes of tokens: what each may do, in the administration API and in SCIM."""

from collections.abc import Iterable, Mapping

from idhub.authority import Action
from idhub.errors import Invalid

SCOPES: Mapping[str, frozenset[Action]] = {
    "people:read": frozenset({Action.PEOPLE_READ, Action.RECEIPT_READ}),
    "people:write": frozenset(
        {
            Action.PEOPLE_READ,
            Action.PEOPLE_CHANGE,
            Action.PEOPLE_OFFBOARD,
            Action.PEOPLE_INVITE,
            Action.RECEIPT_READ,
        }
    ),
    "receipts:read": frozenset({Action.RECEIPT_READ}),
    "applications:read": frozenset({Action.APPLICATION_READ, Action.DELIVERY_READ}),
    "applications:write": frozenset(
        {Action.APPLICATION_READ, Action.APPLICATION_CHANGE, Action.DELIVERY_READ, Action.DELIVERY_RETRY}
    ),
    "findings:read": frozenset({Action.FINDING_READ}),
    "findings:write": frozenset({Action.FINDING_READ, Action.FINDING_DECIDE, Action.RECONCILE_RUN}),
    "audit:read": frozenset({Action.AUDIT_READ, Action.AUDIT_EXPORT}),
}
"""Scope -> actions. No scope reaches hub roles: those are assigned by people and the command line."""

SCIM_SCOPES: Mapping[str, frozenset[Action]] = {
    "scim:read": frozenset({Action.PEOPLE_READ}),
    "scim:write": frozenset({Action.PEOPLE_READ, Action.PEOPLE_CHANGE, Action.PEOPLE_OFFBOARD}),
}
"""Scopes of the SCIM server. They open nothing else, and the API's scopes do not open it."""
ALL_SCOPES: Mapping[str, frozenset[Action]] = {**SCOPES, **SCIM_SCOPES}


def check_scopes(wanted: Iterable[str]) -> tuple[str, ...]:
    """The scopes, once each.

    Raises:
        Invalid: one is unknown, or none is named.
    """
    scopes = tuple(dict.fromkeys(part for text in wanted for part in text.replace(",", " ").split()))
    unknown = next((scope for scope in scopes if scope not in ALL_SCOPES), None)
    if unknown is not None or not scopes:
        raise Invalid(
            f"There is no scope {unknown!r}; there are {', '.join(ALL_SCOPES)}.", field="scope", rule="scope.unknown"
        )
    return scopes


def actions_of(scopes: Iterable[str], *, known: Mapping[str, frozenset[Action]] = SCOPES) -> frozenset[Action]:
    """Everything the scopes permit behind one door; scopes that it does not know permit nothing."""
    return frozenset(action for scope in scopes for action in known.get(scope, frozenset()))
