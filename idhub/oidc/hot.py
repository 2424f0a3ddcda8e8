"""The endpoints that machines call at high rate: thin handlers on the narrow store, without a framework.

Each authenticates, asks one operation, answers. How requests come in and what becomes of errors: `idhub.oidc.front`.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

import orjson

from idhub.changes import EventType
from idhub.credentials import opaque, spending
from idhub.credentials.journal import Journal
from idhub.credentials.predicate import Refused
from idhub.credentials.spending import Active, Caller
from idhub.credentials.store import Store
from idhub.db import Database
from idhub.keys import Keyring
from idhub.login.addresses import trusted_networks
from idhub.oidc.claims import person_claims
from idhub.oidc.clients import Client, ClientCache, presented, verify
from idhub.oidc.errors import OAuthError, invalid_request
from idhub.oidc.grants import Grants
from idhub.oidc.guessing import GuessLimit
from idhub.oidc.metadata import metadata
from idhub.oidc.parameters import Parameters, parse
from idhub.oidc.tokens import TokenReader
from idhub.settings import Settings

_FORM: Final = b"application/x-www-form-urlencoded"
_MAX_BEARER: Final = 8_192
NO_STORE: Final = ((b"cache-control", b"no-store"), (b"pragma", b"no-cache"))


class HotServices(Protocol):
    """The part of `idhub.app.Services` that these endpoints use."""

    @property
    def settings(self) -> Settings:
        """Settings of the installation."""

    @property
    def database(self) -> Database:
        """Counts wrong secrets; nothing that succeeds touches it."""

    @property
    def store(self) -> Store:
        """The narrow store; who made it closes it."""

    @property
    def journal(self) -> Journal:
        """Counts reads and refusals of nobody in particular."""

    @property
    def keyring(self) -> Keyring:
        """Signs tokens, seals audit values."""

    @property
    def clock(self) -> Callable[[], datetime]:
        """The present, aware UTC; read once a request."""


class Request(NamedTuple):
    """A request as these handlers see it."""

    method: str
    headers: Mapping[bytes, bytes]
    query: bytes
    body: bytes
    address: str
    request_id: str | None

    def form(self) -> Parameters:
        """Parameters of the body. Those of the URL are refused: they end up in logs (RFC 6749 section 3.2).

        Raises:
            OAuthError: invalid_request.
        """
        media_type = self.headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower()
        if media_type != _FORM:
            raise invalid_request("Content-Type must be application/x-www-form-urlencoded.", reason="content_type")
        if self.query:
            raise invalid_request("Parameters must be in the body, not in the URL.", reason="query")
        return parse(self.body)


class Answer(NamedTuple):
    """What is sent back."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = NO_STORE


def _json(value: Mapping[str, Any]) -> Answer:
    return Answer(orjson.dumps(value))


class Endpoints:
    """The handlers and what they share."""

    def __init__(self, services: HotServices) -> None:
        self._issuer = services.settings.issuer
        self._keyring = services.keyring
        self.clock = services.clock
        self.store = services.store
        self.journal = services.journal
        self.trusted = trusted_networks(services.settings.trusted_proxies)
        self._clients = ClientCache(self.store)
        self._limit = GuessLimit(services.database, services.keyring, services.clock)
        self._reader = TokenReader(services.keyring, services.settings.issuer)
        self._grants = Grants(services.settings, services.keyring, self.store)
        self._discovery = _cached_document(metadata(services.settings.issuer))
        self._jwks: tuple[object, Answer] = (None, Answer(b""))

    # ------------------------------------------------------------------ handlers

    async def token(self, request: Request, now: datetime) -> Answer:
        """RFC 6749 section 3.2."""
        caller: Caller | None = None
        client: Client | None = None
        try:
            parameters = request.form()
            client = await self._authenticate(request, parameters)
            caller = self._caller(client, request)
            return _json(await self._grants.answer(client, caller, parameters, now=now))
        except OAuthError as error:
            if not error.is_recorded:
                await self._refused(error, client, caller, request, EventType.TOKEN_REFUSED, now)
            raise

    async def introspect(self, request: Request, now: datetime) -> Answer:
        """RFC 7662 section 2. Answered from the database on every call."""
        caller: Caller | None = None
        client: Client | None = None
        try:
            parameters = request.form()
            client = await self._authenticate(request, parameters)
            caller = self._caller(client, request)
            if client.is_public:
                raise OAuthError("invalid_client", "Introspection needs client authentication.", reason="public")
            parameters.check()
            active = await self._look_up(parameters.require("token"), now)
        except OAuthError as error:
            await self._refused(error, client, caller, request, EventType.REQUEST_REFUSED, now)
            raise
        self._read(EventType.TOKEN_INTROSPECTED, client.client_id, request, now)
        # RFC 7662 section 4: who may ask about a token is the client it was issued to, and the resource it is for.
        if active is None or (
            client.client_id != active.client_id and active.audience not in {client.audience, client.client_id}
        ):
            return _json({"active": False})
        answer: dict[str, Any] = {
            "active": True,
            "iss": self._issuer,
            "sub": active.sub,
            "client_id": active.client_id,
            "scope": active.scope,
            "iat": active.issued_at,
            "exp": active.expires_at,
        }
        if active.audience is not None:
            answer |= {"aud": active.audience, "token_type": "Bearer"}
        return _json(answer)

    async def revoke(self, request: Request, now: datetime) -> Answer:
        """RFC 7009 section 2."""
        caller: Caller | None = None
        client: Client | None = None
        try:
            parameters = request.form()
            client = await self._authenticate(request, parameters)
            caller = this_caller = self._caller(client, request)
            parameters.check()
            token_hash, _ = self._hash(parameters.require("token"))
        except OAuthError as error:
            await self._refused(error, client, caller, request, EventType.TOKEN_REFUSED, now)
            raise
        if token_hash is not None:
            outcome = await self.store.write(lambda: spending.revoke(this_caller, token_hash=token_hash, now=now))
            if isinstance(outcome, Refused):
                raise OAuthError("invalid_grant", "The token was issued to another client.", reason=outcome.reason)
        return Answer(b"")

    async def userinfo(self, request: Request, now: datetime) -> Answer:
        """OIDC Core section 5.3; RFC 6750 section 2."""
        try:
            token = self._bearer(request)
            token_hash, is_refresh = self._hash(token)
            if token_hash is None or is_refresh:
                raise _invalid_token("token_unknown")
            subject = await self.store.read(lambda: spending.read_subject(token_hash, now=now))
            if isinstance(subject, Refused):
                raise _invalid_token(subject.reason)
            active, scope = subject.token, subject.token.scope.split()
            if "openid" not in scope or subject.person is None:
                raise OAuthError("insufficient_scope", "The token does not permit reading userinfo.")
        except OAuthError as error:
            self.count_refusal(EventType.REQUEST_REFUSED, error, request.address, now)
            raise
        self._read(EventType.USERINFO_READ, active.client_id, request, now)
        return _json(person_claims(scope, active.sub, subject.person, subject.employments))

    def discovery(self) -> Answer:
        """OIDC Discovery 1.0 section 4; RFC 8414 section 3."""
        return self._discovery

    def jwks(self) -> Answer:
        """Public keys of tokens and of event tokens (logout tokens among them)."""
        # The same object as long as the keys are the same.
        keys = self._keyring.published("token", "event")
        if keys is not self._jwks[0]:
            self._jwks = keys, _cached_document({"keys": keys})
        return self._jwks[1]

    # ------------------------------------------------------------------ shared

    async def _authenticate(self, request: Request, parameters: Parameters) -> Client:
        shown = presented(request.headers.get(b"authorization"), parameters)
        found = await self._clients.find(shown.client_id)
        guessed_at = None if found is None else found.guessed_at
        try:
            # Before the secret is looked at: a guess beyond the limit learns nothing.
            self._limit.check(shown.client_id, request.address, guessed_at)
            try:
                return verify(found, shown)
            except OAuthError as wrong:
                if await self._limit.failed(shown.client_id, request.address, guessed_at):
                    wrong.reason = f"{wrong.error}.client.spray"
                raise
        except OAuthError as error:
            error.client_id = None if found is None else found.client_id
            raise

    def _caller(self, client: Client, request: Request) -> Caller:
        return Caller(client_id=client.client_id, ip=request.address or None, request_id=request.request_id)

    async def _refused(
        self,
        error: OAuthError,
        client: Client | None,
        caller: Caller | None,
        request: Request,
        kind: EventType,
        now: datetime,
    ) -> None:
        # Anybody can name a public client; what is refused to "it" counts as nobody's.
        proven = caller if client is not None and not client.is_public else None
        if client is not None:
            error.client_id = client.client_id
        if proven is None:
            self.count_refusal(kind, error, request.address, now)
        else:
            await self.journal.refused(kind, caller=proven, reason=error.reason, now=now)

    def count_refusal(self, kind: EventType, error: OAuthError, address: str, now: datetime) -> None:
        """Count a refusal of nobody in particular."""
        self.journal.count(
            kind, door="oidc", target_kind="client", target_id=error.client_id, address=address, now=now,
            reason=error.reason,
        )  # fmt: skip

    def _read(self, kind: EventType, client_id: str, request: Request, now: datetime) -> None:
        self.journal.count(
            kind, door="oidc", target_kind="client", target_id=client_id, address=request.address, now=now,
            reader=client_id,
        )  # fmt: skip

    def _hash(self, token: str) -> tuple[str | None, bool]:
        """What the token is stored under, and whether it is a refresh token; None: it cannot be one of ours."""
        if opaque.looks_valid("at", token):
            return opaque.hash_of(token), False
        if opaque.looks_valid("rt", token):
            return opaque.hash_of(token), True
        jti = self._reader.access_token_id(token)
        return (None if jti is None else opaque.hash_of(jti)), False

    async def _look_up(self, token: str, now: datetime) -> Active | None:
        token_hash, is_refresh = self._hash(token)
        if token_hash is None:
            return None
        found = await self.store.read(lambda: spending.look_up(token_hash, is_refresh=is_refresh, now=now))
        return None if isinstance(found, Refused) else found

    def _bearer(self, request: Request) -> str:
        if request.query:
            # RFC 9700 section 4.3.2: never in a URL.
            raise invalid_request("Parameters must not be in the URL.", reason="query")
        posted: str | None = None
        if request.method == "POST" and request.body:
            parameters = request.form()
            parameters.check()
            posted = parameters.get("access_token")
        authorization = request.headers.get(b"authorization")
        if authorization is None:
            if posted is None:
                raise MissingToken
            return posted
        if posted is not None:
            raise invalid_request("Send the token once.", reason="two_tokens")
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not token or len(token) > _MAX_BEARER or not token.isascii():
            raise _invalid_token("header")
        return token.strip().decode()


def _invalid_token(reason: str) -> OAuthError:
    return OAuthError("invalid_token", "The access token is invalid or has expired.", reason=reason)


class MissingToken(OAuthError):
    """No token at all: the challenge then carries no error code (RFC 6750 section 3.1)."""

    def __init__(self) -> None:
        super().__init__("invalid_token", "An access token is needed.", reason="missing")


def _cached_document(document: Mapping[str, Any]) -> Answer:
    body = orjson.dumps(document)
    tag = hashlib.sha256(body).hexdigest()[:24]
    # Clients may keep it for five minutes; a new key is published at least that long before it signs.
    return Answer(body, headers=((b"cache-control", b"public, max-age=300"), (b"etag", f'"{tag}"'.encode())))
