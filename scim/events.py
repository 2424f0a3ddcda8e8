"""SCIM security events (RFC 9967): their names, and the claims of a security event token (RFC 8417). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeAlias

_PREFIX: Final = "urn:ietf:params:scim:event:"
MEDIA_TYPE: Final = "application/secevent+jwt"
"""Of a token that is sent (RFC 8935 section 2.1)."""
TOKEN_TYPE: Final = "secevent+jwt"  # noqa: S105 - no secret
"""Of the token's header (RFC 8417 section 2.3)."""


class Kind(StrEnum):
    """What happened, by the end of its URI (RFC 9967 section 7.4); where it has two forms, of the one without data."""

    ADDED = "feed:add"
    """Somebody else's until now: came within what the receiver may see."""
    REMOVED = "feed:remove"
    """Went out of what the receiver may see; the resource goes on."""
    CREATED = "prov:create:notice"
    PATCHED = "prov:patch:notice"
    REPLACED = "prov:put:notice"
    DELETED = "prov:delete"
    ACTIVATED = "prov:activate"
    DEACTIVATED = "prov:deactivate"
    ANSWERED = "misc:asyncresp"
    """An operation of an asynchronous request is done."""

    @property
    def uri(self) -> str:
        """The event's URI; where it has two forms, of the one that names attributes."""
        return _PREFIX + self.value

    @property
    def full_uri(self) -> str:
        """URI of the form that carries data; of an event that has one form, its own."""
        return self.uri.replace(":notice", ":full")


PLAIN: Final[Mapping[str, Kind]] = {kind.uri: kind for kind in Kind}
"""Events that name attributes and hold no values."""
LISTING: Final = frozenset({Kind.CREATED, Kind.PATCHED, Kind.REPLACED})
"""Section 2.4: these have two forms; one names the attributes, the other carries data."""
BY_URI: Final[Mapping[str, Kind]] = {**PLAIN, **{kind.full_uri: kind for kind in Kind if kind in LISTING}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One thing that happened to a resource.

    Args:
        attributes: paths of what was made, changed or removed (RFC 7644 section 3.5.2), where the kind lists them.
        payload: of `ANSWERED`: the operation of a BulkResponse.
    """

    kind: Kind
    attributes: Sequence[str] = ()
    payload: Mapping[str, Any] = field(default_factory=dict)


Full: TypeAlias = Callable[[Kind, Sequence[str]], "dict[str, Any] | None"]
"""Payload with data of an event that has two forms and names these attributes; None: it is told without."""


def payloads(happenings: Iterable[Happening], full: Full = lambda _kind, _names: None) -> dict[str, dict[str, Any]]:
    """The `events` claim of what one transaction did to one resource.

    Of a resource that is gone only that is told; of a new one, everything as part of its making.
    """
    listed = list(happenings)
    kinds = {each.kind for each in listed}
    for last in (Kind.DELETED, Kind.REMOVED):
        if last in kinds:
            # Section 2.4.4: no `feed:remove` beside it.
            return {last.uri: {}}
    names = list(dict.fromkeys(name for each in listed for name in each.attributes))
    told: dict[str, dict[str, Any]] = {}
    for kind in Kind:
        if kind not in kinds or (Kind.CREATED in kinds and kind in {Kind.PATCHED, Kind.REPLACED, Kind.ADDED}):
            continue
        if kind in LISTING:
            data = full(kind, names)
            # Section 2.4: data or the names of attributes, never both.
            told[kind.uri if data is None else kind.full_uri] = {"attributes": names} if data is None else data
        else:
            told[kind.uri] = dict(next(each.payload for each in listed if each.kind is kind))
    return told


def token_claims(
    *,
    issuer: str,
    audience: str,
    token_id: str,
    issued_at: int,
    transaction: str,
    subject: Mapping[str, Any],
    events: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Claims of a token. `sub` and `exp` have no place in it (RFC 8417 sections 2.2 and 3; RFC 9967 section 2.1).

    Args:
        subject: `uri`, the path below the server's address, and what else names the resource.
    """
    return {
        "iss": issuer,
        "aud": [audience],
        "iat": issued_at,
        "jti": token_id,
        "txn": transaction,
        "sub_id": {"format": "scim", **subject},
        "events": {uri: dict(payload) for uri, payload in events.items()},
    }
