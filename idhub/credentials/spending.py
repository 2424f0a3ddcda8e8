"""Issuing and spending tokens: the rules, as operations of the narrow store (`idhub.credentials.store`).

Each operation is one transaction. What it issues rests on a grant; it locks the principal, asks the use predicate, and
claims what is single-use by one conditional statement before it stores anything. A refusal is a result: what it wrote
(a replay ends the grant) commits with it.
"""

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, Final, NamedTuple

from idhub.changes import Actor, Event, EventType
from idhub.credentials.operations import DURABLE, LOCK, LOCK_CODE, Operation, Row, record, together
from idhub.credentials.predicate import Refused, first_failing
from idhub.db import from_micros, new_id, to_micros

OFFLINE_ACCESS = "offline_access"
_SECOND: Final = 1_000_000
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


class Caller(NamedTuple):
    """The authenticated client, for the audit log."""

    client_id: str
    ip: str | None
    request_id: str | None = None

    @property
    def actor(self) -> Actor:
        """The client as actor of an event."""
        return Actor(kind="client", id=self.client_id, ip=self.ip)


class Mint(NamedTuple):
    """What to store for the tokens about to be issued; values were made outside, only hashes come in.

    Args:
        access_hash: of the opaque value, or of the `jti` of a self-contained token.
        refresh_hash: None: no refresh token is issued.
    """

    access_hash: str
    audience: str
    access_lifetime: timedelta
    is_self_contained: bool
    refresh_hash: str | None = None
    refresh_idle: timedelta = timedelta(0)
    refresh_lifetime: timedelta = timedelta(0)


class Issued(NamedTuple):
    """Tokens that were stored, and what they say."""

    grant_id: str
    principal_id: str
    principal_kind: str
    sub: str
    sid: str | None
    scope: str
    nonce: str | None
    amr_json: str | None
    authenticated_at: datetime | None
    access_expires_at: datetime
    has_refresh: bool


class Active(NamedTuple):
    """A token that may be used now."""

    principal_id: str
    sub: str
    client_id: str
    scope: str
    audience: str | None
    issued_at: int
    expires_at: int
    """Seconds since 1970, as a protocol tells them."""


def redeem_code(
    caller: Caller, *, code_hash: str, redirect_uri: str, challenge: str, mint: Mint, now: datetime
) -> Operation[Issued | Refused]:
    """Spend an authorization code and store what it authorizes.

    The code is locked for this operation alone before it is looked at, and claimed by one conditional UPDATE with what
    is minted, so of many concurrent redemptions exactly one succeeds. Any use after the first ends the grant: every
    token that it produced is dead.

    Args:
        challenge: S256 of the verifier that was sent.

    RFC 6749 section 4.1.3; RFC 7636 section 4.6; RFC 9700 section 2.1.1.
    """
    _, rows = yield together((LOCK_CODE, {"code_hash": code_hash}), ("code.use", {"code_hash": code_hash, "now": now}))
    if not rows:
        return Refused("code_unknown")
    code = rows[0]
    # RFC 6749 section 4.1.3: the code was issued to the authenticated client.
    if code["code_client_id"] != caller.client_id:
        return (yield from _refuse(caller, code, "code_of_another_client", now))
    if code["expires_at"] <= to_micros(now) and code["spent_at"] is None:
        return (yield from _refuse(caller, code, "code_expired", now))
    # RFC 6749 section 4.1.3: redirect_uri is identical to the one of the authorization request.
    if code["redirect_uri"] != redirect_uri:
        return (yield from _refuse(caller, code, "redirect_uri_differs", now))
    # RFC 7636 section 4.6.
    if not hmac.compare_digest(code["code_challenge"].encode(), challenge.encode()):
        return (yield from _refuse(caller, code, "verifier_differs", now))
    if code["spent_at"] is not None:
        return (yield from _replayed(caller, code, EventType.CODE_REPLAYED, "code_spent", now))
    refused = _unusable(code, now)
    if refused is not None:
        return (yield from _refuse(caller, code, refused.reason, now))
    yield "code.claim", {"code_hash": code_hash, "now": now}
    issued: Issued = yield from _store(
        caller, code, mint, scope=code["grant_scope"], token_scope=code["grant_scope"], now=now, nonce=code["nonce"]
    )
    yield record([_issued_event(caller, code, issued, now, grant_type="authorization_code")])
    return issued


def refresh(
    caller: Caller, *, token_hash: str, scope: str | None, mint: Mint, rotates: bool, now: datetime
) -> Operation[Issued | Refused]:
    """Spend a refresh token and store its successor with a new access token.

    A token that was spent before ends the grant, with the whole family (RFC 9700 section 4.14.2): it cannot be told
    which of the two holders is the thief. Where the client does not rotate, the token stays and its idle end moves.

    Args:
        scope: what was asked for; must lie within the token's (RFC 6749 section 6). None: all of it.
    """
    rows = yield "refresh.find", {"token_hash": token_hash}
    if not rows:
        return Refused("refresh_unknown")
    token = rows[0]
    if token["token_client_id"] != caller.client_id:
        return (yield from _refuse(caller, token, "refresh_of_another_client", now))
    grant = yield from _locked_grant(token, now)
    if token["revoked_at"] is not None:
        return (yield from _refuse(caller, token, "refresh_revoked", now))
    if token["spent_at"] is not None:
        return (yield from _replayed(caller, token, EventType.TOKEN_REPLAYED, "refresh_spent", now))
    if min(token["idle_expires_at"], token["expires_at"]) <= to_micros(now):
        return (yield from _refuse(caller, token, "refresh_expired", now))
    if scope is not None and not set(scope.split()) <= set(token["scope"].split()):
        return (yield from _refuse(caller, token, "scope_exceeds_grant", now))
    refused = _unusable(grant, now)
    if refused is not None:
        return (yield from _refuse(caller, token, refused.reason, now))
    if rotates:
        claimed = yield "refresh.claim", {"token_hash": token_hash, "now": now}
    else:
        idle = min(now + mint.refresh_idle, from_micros(token["expires_at"]))
        claimed = yield "refresh.extend", {"token_hash": token_hash, "idle_expires_at": idle}
    if not claimed:
        return (yield from _replayed(caller, token, EventType.TOKEN_REPLAYED, "refresh_spent", now))
    issued: Issued = yield from _store(
        caller,
        grant,
        mint,
        scope=scope or token["scope"],
        token_scope=token["scope"],
        now=now,
        family=token if rotates else None,
        has_refresh=True,
    )
    yield record([_issued_event(caller, token, issued, now)])
    return issued


def issue_for_service(
    caller: Caller, *, principal_id: str, application_id: str, scope: str, mint: Mint, now: datetime
) -> Operation[Issued | Refused]:
    """Store an access token for a service identity that acts for itself (RFC 6749 section 4.4)."""
    about = {"application_id": application_id, "service_id": principal_id}
    find = {"client_id": caller.client_id, "principal_id": principal_id, "scope": scope, "now": now}
    _, found = yield together((LOCK, {"principal_id": principal_id}), ("service.use", find))
    if not found:
        rows = yield "principal.epochs", {"principal_id": principal_id, "now": now}
        if not rows or not rows[0]["ok_standing"]:
            return (yield from _refuse(caller, about, "standing", now))
        epochs, grant_id = rows[0], new_id("grt")
        yield (
            "grant.insert",
            {
                "id": grant_id,
                "principal_id": principal_id,
                "client_id": caller.client_id,
                "application_id": application_id,
                "session_id": None,
                "participant_id": None,
                "scope": scope,
                "access_epoch": epochs["access_epoch"],
                "enrolment_epoch": epochs["enrolment_epoch"],
                "installation_epoch": epochs["installation_epoch"],
                "authenticated_at": None,
                "created_at": now,
                "ended_at": None,
                "end_reason": None,
            },
        )
        found = yield "grant.use", {"grant_id": grant_id, "now": now}
    grant = found[0]
    refused = first_failing(grant)
    if refused is not None:
        return (yield from _refuse(caller, about, refused.reason, now))
    issued: Issued = yield from _store(caller, grant, mint, scope=scope, token_scope=scope, now=now)
    yield record([_issued_event(caller, about, issued, now, grant_type="client_credentials")])
    return issued


def look_up(token_hash: str, *, is_refresh: bool, now: datetime) -> Operation[Active | Refused]:
    """What a token says, if it may be used now. Writes nothing."""
    rows = yield "refresh.use" if is_refresh else "access.use", {"token_hash": token_hash, "now": now}
    if not rows:
        return Refused("token_unknown")
    row = rows[0]
    if row["revoked_at"] is not None:
        return Refused("token_revoked")
    expires_at = row["expires_at"]
    if is_refresh:
        expires_at = min(expires_at, row["idle_expires_at"])
        if row["spent_at"] is not None:
            return Refused("token_spent")
    if expires_at <= to_micros(now):
        return Refused("token_expired")
    refused = first_failing(row)
    if refused is not None:
        return refused
    return Active(
        principal_id=row["principal_id"],
        sub=row["sub"] or row["principal_id"],
        client_id=row["token_client_id"],
        scope=row["scope"],
        audience=None if is_refresh else row["audience"],
        issued_at=row["issued_at"] // _SECOND,
        expires_at=expires_at // _SECOND,
    )


class Subject(NamedTuple):
    """A person whose claims a token may read."""

    token: Active
    person: Mapping[str, Any] | None
    employments: list[Mapping[str, Any]]


def read_subject(token_hash: str, *, now: datetime) -> Operation[Subject | Refused]:
    """The person behind an access token, for the claims that its scope permits. Writes nothing."""
    active = yield from look_up(token_hash, is_refresh=False, now=now)
    if isinstance(active, Refused):
        return active
    who = {"principal_id": active.principal_id}
    people, employments = yield together(("person.find", who), ("employments.find", who))
    # Sorted here: a sorter costs SQLite more than the rest of the statement.
    posts: list[Mapping[str, Any]] = sorted(map(dict, employments), key=itemgetter("id"))
    return Subject(active, dict(people[0]) if people else None, posts)


def revoke(caller: Caller, *, token_hash: str, now: datetime) -> Operation[Refused | None]:
    """Revoke a token of this client (RFC 7009 section 2.1). Unknown tokens are no error: they are already of no use.

    A refresh token takes its grant with it, access tokens included; an access token goes alone.
    """
    rows = yield "refresh.find", {"token_hash": token_hash}
    is_refresh = bool(rows)
    if not is_refresh:
        rows = yield "access.find", {"token_hash": token_hash}
    if not rows:
        return None
    token = rows[0]
    if token["token_client_id"] != caller.client_id:
        return (yield from _refuse(caller, token, "token_of_another_client", now))
    yield DURABLE, {}
    # What a transition changes is changed in one order, and nobody waits for it with rows in hand.
    yield LOCK, {"principal_id": token["principal_id"]}
    if is_refresh:
        yield "family.revoke", {"grant_id": token["grant_id"], "now": now}
        changed = yield "grant.end", {"grant_id": token["grant_id"], "reason": "token_revoked", "now": now}
    else:
        changed = yield "access.revoke", {"token_hash": token_hash, "now": now}
    if changed:
        kind = "refresh_token" if is_refresh else "access_token"
        yield record([_event(caller, EventType.TOKEN_REVOKED, token, now, details={"token": kind})])
    return None


def _locked_grant(about: Row, now: datetime) -> Operation[Row]:
    """Lock the principal and look at the grant: what a transition did before is seen, one that comes later waits."""
    use = "grant.use", {"grant_id": about["grant_id"], "now": now}
    _, found = yield together((LOCK, {"principal_id": about["principal_id"]}), use)
    grant: Row = found[0]
    return grant


def _unusable(grant: Row, now: datetime) -> Refused | None:
    refused = first_failing(grant)
    if refused is None and _session_end(grant) <= now:
        return Refused("session_expired")
    return refused


def _session_end(grant: Row) -> datetime:
    """When what rests on the grant ends at the latest: with its session, unless it may act offline."""
    if grant["session_expires_at"] is None or OFFLINE_ACCESS in grant["grant_scope"].split():
        return _NEVER
    return from_micros(grant["session_expires_at"])


def _store(
    caller: Caller,
    grant: Row,
    mint: Mint,
    *,
    scope: str,
    token_scope: str,
    now: datetime,
    nonce: str | None = None,
    family: Row | None = None,
    has_refresh: bool = False,
) -> Operation[Issued]:
    session_end = _session_end(grant)
    access_expires_at = min(now + mint.access_lifetime, session_end)
    family_end = from_micros(family["expires_at"]) if family is not None else now + mint.refresh_lifetime
    refresh_expires_at = min(family_end, session_end)
    yield (
        "access.insert",
        {
            "token_hash": mint.access_hash,
            "grant_id": grant["grant_id"],
            "client_id": caller.client_id,
            "scope": scope,
            "audience": mint.audience,
            "issued_at": now,
            "expires_at": access_expires_at,
            "revoked_at": None,
        },
    )
    is_new = mint.refresh_hash is not None and (family is not None or not has_refresh)
    if is_new:
        yield (
            "refresh.insert",
            {
                "token_hash": mint.refresh_hash,
                "family_id": family["family_id"] if family is not None else new_id("fam"),
                "grant_id": grant["grant_id"],
                "client_id": caller.client_id,
                # RFC 6749 section 6: a narrower access token does not narrow the refresh token.
                "scope": token_scope,
                "issued_at": now,
                "idle_expires_at": min(now + mint.refresh_idle, refresh_expires_at),
                "expires_at": refresh_expires_at,
                "spent_at": None,
                "revoked_at": None,
            },
        )
    if mint.is_self_contained and grant["participant_id"] is not None:
        # What a verifier that never asks goes on accepting until then: the receipt states it.
        yield (
            "participant.residual",
            {"participant_id": grant["participant_id"], "expires_at": access_expires_at, "now": now},
        )
    return Issued(
        grant_id=grant["grant_id"],
        principal_id=grant["principal_id"],
        principal_kind=grant["principal_kind"],
        sub=grant["sub"] or grant["principal_id"],
        sid=grant["sid"],
        scope=scope,
        nonce=nonce,
        amr_json=grant["amr"],
        authenticated_at=None if grant["authenticated_at"] is None else from_micros(grant["authenticated_at"]),
        access_expires_at=access_expires_at,
        has_refresh=is_new,
    )


def _refuse(caller: Caller, about: Row, reason: str, now: datetime) -> Operation[Refused]:
    yield record([_event(caller, EventType.TOKEN_REFUSED, about, now, reason=f"invalid_grant.{reason}")])
    return Refused(reason)


def _replayed(caller: Caller, about: Row, kind: EventType, reason: str, now: datetime) -> Operation[Refused]:
    # Before anything is written: what a replay ends stays ended after a loss of power.
    yield DURABLE, {}
    yield "family.revoke", {"grant_id": about["grant_id"], "now": now}
    yield "grant.end", {"grant_id": about["grant_id"], "reason": reason, "now": now}
    yield record([_event(caller, kind, about, now, reason=f"invalid_grant.{reason}")])
    return Refused(reason)


def _event(
    caller: Caller,
    kind: EventType,
    about: Row,
    now: datetime,
    *,
    reason: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> Event:
    fields = dict(about)
    return Event(
        type=kind,
        at=now,
        actor=caller.actor,
        door="oidc",
        target_kind="client",
        target_id=caller.client_id,
        outcome="success" if reason is None else "failure",
        reason=reason,
        person_id=fields.get("principal_id"),
        application_id=fields.get("application_id"),
        request_id=caller.request_id,
        details={**{name: fields[name] for name in ("grant_id", "service_id") if fields.get(name)}, **(details or {})},
    )


def _issued_event(caller: Caller, about: Row, issued: Issued, now: datetime, *, grant_type: str | None = None) -> Event:
    """One event for tokens and for what was spent to get them; a refresh has a type of its own."""
    details: dict[str, Any] = {"grant_id": issued.grant_id, "scope": issued.scope, "refresh": issued.has_refresh}
    if grant_type is None:
        return _event(caller, EventType.TOKEN_REFRESHED, about, now, details=details)
    return _event(caller, EventType.TOKEN_ISSUED, about, now, details={**details, "grant_type": grant_type})
