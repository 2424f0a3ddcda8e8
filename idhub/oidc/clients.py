"""Clients: their registration as the protocol needs it, and their authentication."""

import binascii
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.access.tables import Application, OidcClient
from idhub.credentials.operations import Operation
from idhub.credentials.store import Store
from idhub.directory.tables import Person
from idhub.oidc.errors import OAuthError
from idhub.oidc.parameters import Parameters

_CACHE_SECONDS: Final = 1.0
_CACHE_SIZE: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A registration."""

    client_id: str
    application_id: str
    service_principal_id: str | None
    auth_method: str
    secret_hash: str | None
    redirect_uris: tuple[str, ...]
    post_logout_redirect_uris: tuple[str, ...]
    grant_types: frozenset[str]
    scopes: frozenset[str]
    access_token_format: str
    access_token_seconds: int | None
    id_token_alg: str
    audience: str
    rotates_refresh: bool
    requires_consent: bool
    sector: str | None
    is_native: bool
    is_enabled: bool
    application_name: str = ""
    application_name_zh: str | None = None
    application_owner: str | None = None
    """Name of the person who answers for the application."""

    @property
    def is_public(self) -> bool:
        """It has no secret: whoever knows its id can speak for it."""
        return self.auth_method == "none"

    @property
    def guessed_at(self) -> str | None:
        """What a wrong secret was a guess at, for counting; None: it is disabled, nobody is recognised as it."""
        return self.secret_hash or "" if self.is_enabled else None

    @property
    def has_self_contained_tokens(self) -> bool:
        """Its access tokens are RFC 9068 JWTs; otherwise opaque."""
        return self.access_token_format == "jwt"  # noqa: S105 - a format


_OF_APPLICATION: Final = {
    "application_name": Application.name,
    "application_name_zh": Application.name_zh,
    "application_owner": Person.display_name,
}
_COLUMNS: Final = tuple(
    OidcClient.__table__.columns[name] if name not in _OF_APPLICATION else _OF_APPLICATION[name].label(name)
    for name in Client.__dataclass_fields__
)
_LISTS: Final = {
    "redirect_uris": tuple,
    "post_logout_redirect_uris": tuple,
    "grant_types": frozenset,
    "scopes": frozenset,
}


def _client(row: Mapping[str, Any], *, is_raw: bool) -> Client:
    fields: dict[str, Any] = {name: row[name] for name in Client.__dataclass_fields__}
    for name, kind in _LISTS.items():
        fields[name] = kind(orjson.loads(fields[name]) if is_raw else fields[name])
    for name in ("rotates_refresh", "requires_consent", "is_native", "is_enabled"):
        fields[name] = bool(fields[name])
    fields["audience"] = fields["audience"] or fields["client_id"]
    return Client(**fields)


def find_client(session: Session, client_id: str) -> Client | None:
    """The registration, read now."""
    row = session.execute(
        select(*_COLUMNS)
        .join(Application, Application.id == OidcClient.application_id)
        .outerjoin(Person, Person.id == Application.owner_id)
        .where(OidcClient.client_id == client_id)
    ).first()
    return None if row is None else _client(dict(row._mapping), is_raw=False)


class ClientCache:
    """Registrations for the hot endpoints, at most one second old.

    Whether a client is enabled at the moment of use is asked again by the use predicate, which is never cached.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._clients: OrderedDict[str, tuple[float, Client]] = OrderedDict()

    async def find(self, client_id: str) -> Client | None:
        """The registration, None when there is none."""
        # Age of a cache, not time that decides anything: the machine's own clock.
        now = time.monotonic()
        kept = self._clients.get(client_id)
        if kept is not None and now - kept[0] <= _CACHE_SECONDS:
            return kept[1]
        found = await self._store.read(lambda: reading_client(client_id))
        self._clients.pop(client_id, None)
        if found is not None:
            self._clients[client_id] = now, found
            while len(self._clients) > _CACHE_SIZE:
                self._clients.popitem(last=False)
        return found


def reading_client(client_id: str) -> Operation[Client | None]:
    """The registration, read now."""
    rows = yield "client.find", {"client_id": client_id}
    return _client(rows[0], is_raw=True) if rows else None


class Presented(NamedTuple):
    """What a request presented to authenticate its client."""

    client_id: str
    secret: str | None
    method: str


def presented(authorization: bytes | None, parameters: Parameters) -> Presented:
    """What the request presents; exactly one way (RFC 6749 section 2.3).

    Raises:
        OAuthError: invalid_client or invalid_request.
    """
    posted_id, posted_secret = parameters.get("client_id"), parameters.get("client_secret")
    if "client_assertion" in parameters.values or "client_assertion_type" in parameters.values:
        raise OAuthError("invalid_client", "client_assertion is not supported.", reason="client.assertion")
    if authorization is None:
        if posted_id is None:
            raise OAuthError("invalid_client", "Client authentication is missing.", reason="client.missing")
        method = "none" if posted_secret is None else "client_secret_post"
        return Presented(posted_id, posted_secret, method)
    client_id, secret = _basic(authorization)
    if posted_secret is not None:
        raise OAuthError("invalid_request", "Use one way of client authentication only.", reason="client.two_ways")
    if posted_id is not None and posted_id != client_id:
        raise OAuthError("invalid_request", "client_id differs from the authenticated client.", reason="client.two_ids")
    return Presented(client_id, secret, "client_secret_basic")


def _basic(authorization: bytes) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(b" ")
    if scheme.lower() != b"basic" or len(encoded) > 2_048:
        raise _malformed()
    try:
        decoded = binascii.a2b_base64(encoded.strip(), strict_mode=True)
        client_id, colon, secret = decoded.partition(b":")
        # RFC 6749 section 2.3.1: both parts are form-encoded before they are joined.
        if b"%" in decoded or b"+" in decoded:
            client_id, secret = (unquote_to_bytes(part.replace(b"+", b" ")) for part in (client_id, secret))
        parts = client_id.decode(), secret.decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise _malformed() from error
    if not colon or not parts[0] or not (parts[0] + parts[1]).isprintable():
        raise _malformed()
    return parts[0], parts[1]


def _malformed() -> OAuthError:
    return OAuthError("invalid_client", "The Authorization header is malformed.", reason="client.header")


def _unproven() -> OAuthError:
    return OAuthError("invalid_client", "Client authentication failed.", reason="client.proof")


def verify(client: Client | None, shown: Presented) -> Client:
    """The client, if what was presented proves it. Unknown client and wrong secret cost and say the same.

    Raises:
        OAuthError: invalid_client.
    """
    given = hashlib.sha256((shown.secret or "").encode()).hexdigest()
    expected = client.secret_hash if client is not None and client.secret_hash is not None else "0" * 64
    is_secret_right = hmac.compare_digest(given, expected)
    if client is None or not client.is_enabled:
        raise _unproven()
    if client.is_public:
        if shown.method != "none":
            raise _unproven()
        return client
    if shown.method == "none" or client.secret_hash is None or not is_secret_right:
        raise _unproven()
    # Registered for one method, it uses that one (OIDC Registration 2, token_endpoint_auth_method).
    if shown.method != client.auth_method:
        raise OAuthError(
            "invalid_client", f"This client is registered for {client.auth_method}.", reason="client.method"
        )
    return client
