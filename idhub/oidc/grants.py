"""The token endpoint's grants: what each needs, what it stores, what it answers."""

import base64
import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from idhub.credentials import opaque, spending
from idhub.credentials.predicate import Refused
from idhub.credentials.spending import Caller, Issued, Mint
from idhub.credentials.store import Store
from idhub.keys import Keyring
from idhub.oidc.claims import SCOPES, access_token, id_token
from idhub.oidc.clients import Client
from idhub.oidc.errors import OAuthError, invalid_grant, invalid_request
from idhub.oidc.parameters import Parameters, scope_values
from idhub.settings import Settings

# RFC 7636 section 4.1.
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")
# RFC 9068 tokens are believed by verifiers that never ask; that is how long a leaver's may go on working there.
_SELF_CONTAINED_MAX: Final = timedelta(minutes=5)
_PERSON_SCOPES: Final = frozenset(SCOPES)

# Whoever makes up a value meets no row, and so no transaction that records it.
_NOT_FOUND: Final = frozenset({"code_unknown", "refresh_unknown"})

GRANT_TYPES: Final = ("authorization_code", "refresh_token", "client_credentials")


@dataclass(frozen=True, slots=True)
class _Values:
    """Values of the tokens about to be issued; made before the transaction, given out after it."""

    access: str
    """The opaque token, or the `jti` of a self-contained one."""
    refresh: str | None


class Grants:
    """Answers token requests of authenticated clients."""

    def __init__(self, settings: Settings, keyring: Keyring, store: Store) -> None:
        self._settings = settings
        self._keyring = keyring
        self._store = store
        self._by_type: Mapping[str, Callable[[Client, Caller, Parameters, datetime], Awaitable[dict[str, Any]]]] = {
            "authorization_code": self._authorization_code,
            "refresh_token": self._refresh_token,
            "client_credentials": self._client_credentials,
        }

    async def answer(self, client: Client, caller: Caller, parameters: Parameters, *, now: datetime) -> dict[str, Any]:
        """The token response (RFC 6749 section 5.1).

        Raises:
            OAuthError: the request is refused; what the refusal wrote is committed.
        """
        parameters.check()
        grant_type = parameters.require("grant_type")
        grant = self._by_type.get(grant_type)
        if grant is None:
            raise OAuthError("unsupported_grant_type", "grant_type is not supported.")
        if grant_type not in client.grant_types:
            raise OAuthError("unauthorized_client", f"This client may not use {grant_type}.")
        return await grant(client, caller, parameters, now)

    async def _authorization_code(
        self, client: Client, caller: Caller, parameters: Parameters, now: datetime
    ) -> dict[str, Any]:
        code = parameters.require("code")
        redirect_uri = parameters.require("redirect_uri")
        # RFC 7636 section 4.5; there is always a challenge, so there must be a verifier (RFC 9700 section 2.1.1).
        verifier = parameters.require("code_verifier")
        if not _VERIFIER.fullmatch(verifier):
            raise invalid_request("code_verifier must be 43 to 128 unreserved characters.", reason="code_verifier")
        if not opaque.looks_valid("ac", code):
            raise invalid_grant("code_unknown")
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        values, mint = self._prepare(client, has_refresh="refresh_token" in client.grant_types)
        outcome = await self._store.write(
            lambda: spending.redeem_code(
                caller,
                code_hash=opaque.hash_of(code),
                redirect_uri=redirect_uri,
                challenge=challenge,
                mint=mint,
                now=now,
            )
        )
        return self._answer(client, outcome, values, now)

    async def _refresh_token(
        self, client: Client, caller: Caller, parameters: Parameters, now: datetime
    ) -> dict[str, Any]:
        token = parameters.require("refresh_token")
        wanted = parameters.get("scope")
        scope = None if wanted is None else " ".join(scope_values(wanted))
        if not opaque.looks_valid("rt", token):
            raise invalid_grant("refresh_unknown")
        values, mint = self._prepare(client, has_refresh=True)
        outcome = await self._store.write(
            lambda: spending.refresh(
                caller,
                token_hash=opaque.hash_of(token),
                scope=scope or None,
                mint=mint,
                rotates=client.rotates_refresh,
                now=now,
            )
        )
        if outcome == Refused("scope_exceeds_grant"):
            exceeds = OAuthError("invalid_scope", "scope exceeds what was granted.", reason="exceeds_grant")
            exceeds.is_recorded = True
            raise exceeds
        return self._answer(client, outcome, values, now)

    async def _client_credentials(
        self, client: Client, caller: Caller, parameters: Parameters, now: datetime
    ) -> dict[str, Any]:
        principal_id = client.service_principal_id
        # RFC 6749 section 4.4: confidential clients only.
        if principal_id is None or client.is_public:
            raise OAuthError("unauthorized_client", "This client has no service identity.", reason="no_service")
        allowed = client.scopes - _PERSON_SCOPES
        wanted = parameters.get("scope")
        scope = sorted(allowed) if wanted is None else scope_values(wanted)
        if not set(scope) <= allowed:
            raise OAuthError("invalid_scope", "scope names something that this client may not ask for.")
        values, mint = self._prepare(client, has_refresh=False)
        outcome = await self._store.write(
            lambda: spending.issue_for_service(
                caller,
                principal_id=principal_id,
                application_id=client.application_id,
                scope=" ".join(scope),
                mint=mint,
                now=now,
            )
        )
        return self._answer(client, outcome, values, now, has_id_token=False)

    def _prepare(self, client: Client, *, has_refresh: bool) -> tuple[_Values, Mint]:
        is_self_contained = client.has_self_contained_tokens
        lifetime = self._settings.access_token_lifetime
        if client.access_token_seconds is not None:
            lifetime = timedelta(seconds=client.access_token_seconds)
        if is_self_contained:
            lifetime = min(lifetime, _SELF_CONTAINED_MAX)
        access = secrets.token_urlsafe(24) if is_self_contained else opaque.make("at")
        refresh = opaque.make("rt") if has_refresh else None
        mint = Mint(
            access_hash=opaque.hash_of(access),
            audience=client.audience,
            access_lifetime=lifetime,
            is_self_contained=is_self_contained,
            refresh_hash=None if refresh is None else opaque.hash_of(refresh),
            refresh_idle=self._settings.refresh_idle,
            refresh_lifetime=self._settings.refresh_lifetime,
        )
        return _Values(access, refresh), mint

    def _answer(
        self, client: Client, outcome: Issued | Refused, values: _Values, now: datetime, *, has_id_token: bool = True
    ) -> dict[str, Any]:
        if isinstance(outcome, Refused):
            raise invalid_grant(outcome.reason, is_recorded=outcome.reason not in _NOT_FOUND)
        access = values.access
        if client.has_self_contained_tokens:
            access = access_token(self._keyring, self._settings.issuer, client, outcome, jti=values.access, now=now)
        answer: dict[str, Any] = {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": int((outcome.access_expires_at - now).total_seconds()),
            "scope": outcome.scope,
        }
        if outcome.has_refresh:
            answer["refresh_token"] = values.refresh
        if has_id_token and "openid" in outcome.scope.split():
            answer["id_token"] = id_token(
                self._keyring, self._settings.issuer, client, outcome, access_value=access, now=now
            )
        return answer
