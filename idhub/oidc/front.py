"""The ways in to the hot endpoints (`idhub.oidc.hot`): ASGI, and bytes for the embedded server.

Either reads a request within bounds, hands it over, and turns errors into answers. Whatever is sent, the answer is a
clear OAuth error or the truth; never a 5xx for what the caller did. The embedded server passes requests of exactly
these addresses here as it has parsed them (`Direct`): what ASGI adds to each costs as much as what most of them ask.
"""

import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

import orjson
import structlog

from idhub.changes import EventType
from idhub.errors import Unavailable
from idhub.login.addresses import client_address
from idhub.logs import RequestLog, request_id
from idhub.oidc.errors import OAuthError, invalid_request
from idhub.oidc.hot import NO_STORE, Answer, Endpoints, HotServices, MissingToken, Request
from idhub.oidc.metadata import (
    DISCOVERY_PATHS,
    INTROSPECT_PATH,
    JWKS_PATH,
    REVOKE_PATH,
    TOKEN_PATH,
    USERINFO_PATH,
)
from idhub.oidc.parameters import MAX_BODY, MAX_QUERY

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]
Peer = tuple[str, int] | None
Handler = Callable[[Request, datetime], Awaitable[Answer]]

_ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_JSON_ALWAYS: Final = ((b"content-type", b"application/json"), *_ALWAYS)
_READING: Final = frozenset({"GET", "HEAD"})
_ONCE: Final = frozenset({b"authorization", b"content-type"})
_LOG = structlog.get_logger(__name__)


class Document:
    """A public document, the same for everybody; nothing of the request is looked at but its method."""

    def __init__(self, current: Callable[[], Answer]) -> None:
        self._current = current

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await _send(scope, send, self.answer(scope["method"]))

    def answer(self, method: str) -> Answer:
        """What is answered to a method."""
        return self._current() if method in _READING else _other_method(_READING)


class HotEndpoint:
    """Bounds, method, the translator of errors."""

    def __init__(self, handler: Handler, endpoints: Endpoints, methods: frozenset[str], realm: str) -> None:
        self._handler = handler
        self._clock = endpoints.clock
        self._refused = endpoints.count_refusal
        self._trusted = endpoints.trusted
        self._methods = methods
        self._realm = realm

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        body = await _body(receive) if scope["method"] == "POST" and "POST" in self._methods else b""
        answer = await self.answer(
            scope["method"], scope["headers"], body, scope.get("client"), query=scope.get("query_string", b"")
        )
        await _send(scope, send, answer)

    async def answer(
        self, method: str, headers: Headers, body: bytes | None, peer: Peer, *, query: bytes = b""
    ) -> Answer:
        """The answer to a request, whatever it is.

        Args:
            body: as far as it was read, beyond the bound if it is larger; None: it was cut off.
        """
        if method not in self._methods:
            return _other_method(self._methods)
        now = self._clock()
        address = self._address(headers, peer)
        try:
            try:
                request = _request(method, headers, query, body, address)
            except OAuthError as error:
                self._refused(EventType.REQUEST_REFUSED, error, address, now)
                raise
            return await self._handler(request, now)
        except OAuthError as error:
            return self._refusal(error)
        except Unavailable as error:
            seconds = max(1, int(error.retry_after.total_seconds()))
            return self._refusal(OAuthError("temporarily_unavailable", "Try again in a moment.", retry_after=seconds))
        except Exception:
            # Last resort: nothing of it is told.
            _LOG.exception("oidc.unexpected", handler=self._handler.__name__)
            return self._refusal(OAuthError("server_error", "The request could not be handled."))

    def _address(self, headers: Headers, peer: Peer) -> str:
        address = "" if peer is None else peer[0]
        if not self._trusted:
            return address
        forwarded = [value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]
        return client_address(address, forwarded, self._trusted)

    def _refusal(self, error: OAuthError) -> Answer:
        body = orjson.dumps({"error": error.error, "error_description": error.description})
        status = 413 if error.reason == "invalid_request.too_large" else error.status
        headers: list[tuple[bytes, bytes]] = [*NO_STORE]
        if error.retry_after is not None:
            headers.append((b"retry-after", str(error.retry_after).encode()))
        if status == 401 or error.error == "insufficient_scope":
            headers.append((b"www-authenticate", self._challenge(error)))
        return Answer(body, status, tuple(headers))

    def _challenge(self, error: OAuthError) -> bytes:
        if self._realm == "Basic":
            return b'Basic realm="idhub", charset="UTF-8"'
        if isinstance(error, MissingToken):
            return b'Bearer realm="idhub"'
        return f'Bearer realm="idhub", error="{error.error}", error_description="{error.description}"'.encode()


def _other_method(methods: frozenset[str]) -> Answer:
    return Answer(b"", 405, ((b"allow", ", ".join(sorted(methods)).encode()), *NO_STORE))


async def _body(receive: Receive) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    while size <= MAX_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        parts.append(part)
        if not message.get("more_body", False):
            break
    return b"".join(parts)


def _request(method: str, sent: Headers, query: bytes, body: bytes | None, address: str) -> Request:
    headers: dict[bytes, bytes] = {}
    for name, value in sent:
        if name in headers and name in _ONCE:
            raise invalid_request(f"{name.decode('ascii', 'replace')} is given more than once.", reason="header")
        headers[name] = value
    if body is None:
        raise invalid_request("The request was cut off.", reason="disconnect")
    if len(query) > MAX_QUERY or len(body) > MAX_BODY:
        raise invalid_request("The request is too large.", reason="too_large")
    return Request(method, headers, query, body, address, request_id.get())


async def _send(scope: Scope, send: Send, answer: Answer) -> None:
    size = (b"content-length", b"%d" % len(answer.body))
    headers = [size, *answer.headers, *(_JSON_ALWAYS if answer.body else _ALWAYS)]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})


class Direct:
    """An endpoint as the embedded server calls it: a parsed request in, the bytes of the answer out, a line in the log.

    `head` is what the server itself puts into every answer, as it stands on the wire.
    """

    max_body: Final = MAX_BODY
    methods: Final = None

    def __init__(self, endpoint: Document | HotEndpoint, log: RequestLog, path: str) -> None:
        self._endpoint = endpoint
        self._log = log
        self._path = path
        self._kept: dict[tuple[tuple[bytes, bytes], ...], bytes] = {}

    def at_once(self, method: str, peer: Peer, head: bytes) -> bytes | None:
        """The answer if nothing has to be awaited for it."""
        if not isinstance(self._endpoint, Document):
            return None
        began = time.perf_counter()
        return self._told(self._endpoint.answer(method), method, peer, head, self._log.new_id(), began)

    async def answer(
        self, method: str, headers: Headers, body: bytes, peer: Peer, head: bytes, _query: bytes = b""
    ) -> bytes:
        """The answer. Runs in a task of its own, which is known by the request's id."""
        began, identity = time.perf_counter(), self._log.new_id()
        request_id.set(identity)
        if isinstance(self._endpoint, Document):
            answer = self._endpoint.answer(method)
        else:
            answer = await self._endpoint.answer(method, headers, body, peer)
        return self._told(answer, method, peer, head, identity, began)

    def _told(self, answer: Answer, method: str, peer: Peer, head: bytes, identity: str, began: float) -> bytes:
        rest = self._kept.get(answer.headers)
        if rest is None:
            pairs = (*answer.headers, *_ALWAYS)
            lines = b"".join(b"%b: %b\r\n" % (name, _UNPRINTABLE.sub(b" ", value)) for name, value in pairs)
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            rest = self._kept[answer.headers] = lines
        kind = b"content-type: application/json\r\n" if answer.body else b""
        self._log.tell(
            method=method, path=self._path, status=answer.status, seconds=time.perf_counter() - began,
            client=None if peer is None else peer[0], identity=identity,
        )  # fmt: skip
        return b"HTTP/1.1 %b\r\n%b%b%bcontent-length: %d\r\nx-request-id: %b\r\n\r\n%b" % (
            _STATUS[answer.status], head, rest, kind, len(answer.body), identity.encode(),
            b"" if method == "HEAD" else answer.body,
        )  # fmt: skip


_MOST_KEPT: Final = 64
# Nothing of ours is in a header; were it ever, it would not end a line there.
_UNPRINTABLE: Final = re.compile(rb"[\x00-\x1f\x7f]")
_STATUS: Final[Mapping[int, bytes]] = {one.value: f"{one.value} {one.phrase}".encode() for one in HTTPStatus}


def create_hot(services: HotServices) -> tuple[Endpoints, dict[str, Document | HotEndpoint]]:
    """The endpoints, and which of them answers which path."""
    endpoints = Endpoints(services)
    post, both = frozenset({"POST"}), frozenset({"GET", "HEAD", "POST"})
    table: list[tuple[str, Handler, frozenset[str], str]] = [
        (TOKEN_PATH, endpoints.token, post, "Basic"),
        (INTROSPECT_PATH, endpoints.introspect, post, "Basic"),
        (REVOKE_PATH, endpoints.revoke, post, "Basic"),
        (USERINFO_PATH, endpoints.userinfo, both, "Bearer"),
    ]
    return endpoints, {
        JWKS_PATH: Document(endpoints.jwks),
        **{path: Document(endpoints.discovery) for path in DISCOVERY_PATHS},
        **{path: HotEndpoint(handler, endpoints, methods, realm) for path, handler, methods, realm in table},
    }
