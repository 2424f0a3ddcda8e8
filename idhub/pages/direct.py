"""Pages that everybody passes, for the embedded server: a parsed request in, the bytes of the answer out.

What ASGI, its middlewares and a router add to each of them costs as much as what most of them do. The handlers are
those of the plain routes, and so are the translators of errors; machines' endpoints have the same in
`idhub.oidc.front`.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from idhub.logs import RequestLog, request_id
from idhub.pages.security import add_missing_headers

Handler = Callable[[Request], Awaitable[Response]]
Sent = list[tuple[bytes, bytes]]
Peer = tuple[str, int] | None
ErrorTranslator = Callable[[Request, Exception], Awaitable[Response]]

MAX_BODY: Final = 65_536
"""Bytes of a form, whichever way it comes."""
# Nothing of ours is in a header; were it ever, it would not end a line there.
_PRINTABLE: Final = bytes(b" "[0] if one < 0x20 or one == 0x7F else one for one in range(256))
_STATUS: Final = {one.value: f"{one.value} {one.phrase}".encode() for one in HTTPStatus}


class DirectPage:
    """One address. `head` is what the server itself puts into every answer, as it stands on the wire.

    Args:
        handlers: by method; any other method goes the long way.
        translate: answers what a handler raised.
    """

    max_body: Final = MAX_BODY

    def __init__(
        self, path: str, handlers: Mapping[str, Handler], translate: ErrorTranslator, log: RequestLog, *, is_https: bool
    ) -> None:
        self._path = path
        self._handlers = handlers
        self.methods: Final = frozenset(name.encode() for name in handlers)
        self._translate = translate
        self._log = log
        self._is_https = is_https
        # What the count of refusals calls the address.
        self._route = SimpleNamespace(path=path)

    def at_once(self, method: str, peer: Peer, head: bytes) -> None:
        """Nothing is answered without being awaited."""

    async def answer(self, method: str, headers: Sent, body: bytes, peer: Peer, head: bytes, query: bytes) -> bytes:
        """The answer. Runs in a task of its own, which is known by the request's id."""
        began, identity = time.perf_counter(), self._log.new_id()
        request_id.set(identity)
        request = DirectRequest(self._scope(method, headers, peer, query, identity), _Body(body))
        try:
            response = await self._handlers[method](request)
        except Exception as error:  # the last resort, which tells what is known and records what is not
            response = await self._translate(request, error)
        self._log.tell(
            method=method, path=self._path, status=response.status_code, seconds=time.perf_counter() - began,
            client=None if peer is None else peer[0], identity=identity,
        )  # fmt: skip
        said = list(response.raw_headers)
        add_missing_headers(said, is_https=self._is_https)
        return _on_the_wire(response.status_code, head, said, identity, bytes(response.body))

    def _scope(self, method: str, headers: Sent, peer: Peer, query: bytes, identity: str) -> dict[str, Any]:
        return {
            "type": "http", "http_version": "1.1", "scheme": "http", "method": method, "path": self._path,
            "raw_path": self._path.encode(), "root_path": "", "query_string": query, "headers": headers, "client": peer,
            "server": None, "route": self._route, "state": {"request_id": identity},
        }  # fmt: skip


class _FoundHeaders(Headers):
    """Headers of which each is found at once, and none is missed at the price of an exception."""

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        super().__init__(scope=scope)
        # Of several of a name the first counts, as elsewhere.
        self._found: Final = dict(reversed(self._list))

    def __getitem__(self, key: str) -> str:
        return self._found[key.lower().encode("latin-1")].decode("latin-1")

    def __contains__(self, key: Any) -> bool:
        return key.lower().encode("latin-1") in self._found

    def get(self, key: str, default: Any = None) -> Any:
        """The first of that name."""
        value = self._found.get(key.lower().encode("latin-1"))
        return default if value is None else value.decode("latin-1")


class DirectRequest(Request):
    """A request of a page that everybody passes, of which many headers are asked for."""

    @property
    def headers(self) -> Headers:
        """The headers, put in order when they are first asked for."""
        if not hasattr(self, "_headers"):
            self._headers = _FoundHeaders(self.scope)
        return self._headers


class _Body:
    """The body as ASGI hands it over."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __call__(self) -> dict[str, Any]:
        body, self._body = self._body, b""
        return {"type": "http.request", "body": body, "more_body": False}


def _on_the_wire(status: int, head: bytes, headers: Sequence[tuple[bytes, bytes]], identity: str, body: bytes) -> bytes:
    lines = b"".join(b"%b: %b\r\n" % (name, value.translate(_PRINTABLE)) for name, value in headers)
    return b"HTTP/1.1 %b\r\n%b%bx-request-id: %b\r\n\r\n%b" % (_STATUS[status], head, lines, identity.encode(), body)
