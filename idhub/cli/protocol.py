"""The embedded server's reader of HTTP: uvicorn's, with two differences.

Bounds that uvicorn leaves to a proxy: size of headers, time to read and to take what was answered, requests behind each
other, connections at all. Nothing is armed or counted per request beyond two attributes; one timer a connection looks
now and then. What is said unasked (a request cannot be read, it took too long) is said where its own answer would
stand, or not at all: the answer to a request before it must not be taken for that.

A short way for the addresses that machines call at high rate, and for those that everybody passes who signs in
(`HubApp.direct`): a request for exactly such an address goes to its endpoint as it was parsed, and its answer is
written as it comes. Whatever is out of the ordinary (a query where none belongs, another method, a request that came
before its predecessor was answered, HTTP/1.0, `Expect`, `Upgrade`) goes the long way, through ASGI, to the same
endpoint.
"""

import asyncio
import resource
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES: Final = 65_536
"""Request line and headers together; and of a body, what frames it (sizes of chunks, trailers)."""
READ_SECONDS: Final = 30.0
"""How long a request may take to arrive, and a new connection to send one."""
WRITE_SECONDS: Final = 30.0
"""How long a client may take nothing of what is there for it."""
MOST_BEHIND: Final = 16
"""Requests of a connection that wait for the one before them. One piece of 256 KB holds 13,000, each of which costs a
hundred times its size while it waits."""
_SHARE_OF_FILES: Final = 0.75
"""Of the files that the process may have open: databases, logs and what is delivered need the others."""
_CROWDED: Final = 0.75
"""Share of those connections from which on who says nothing is let go soon."""
_CROWDED_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 5.0
_VERSIONS: Final = frozenset({"1.0", "1.1"})

_ANSWERS: Final = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


@cache
def most_connections() -> int:
    """How many connections this process keeps at once."""
    return int(_SHARE_OF_FILES * resource.getrlimit(resource.RLIMIT_NOFILE)[0])


class Direct(Protocol):
    """An endpoint on the short way; see `idhub.oidc.front.Direct` and `idhub.pages.direct.DirectPage`."""

    @property
    def methods(self) -> frozenset[bytes] | None:
        """What goes the short way, with a query or without; None: every method, and no query."""

    @property
    def max_body(self) -> int:
        """Bytes of the largest body; what is longer is handed over as soon as that shows."""

    def at_once(self, method: str, peer: tuple[str, int] | None, head: bytes, /) -> bytes | None:
        """The answer if nothing has to be awaited for it."""

    async def answer(
        self,
        method: str,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        peer: tuple[str, int] | None,
        head: bytes,
        query: bytes,
        /,
    ) -> bytes:
        """The answer."""


class _NobodyWaits:
    """In the place of an event that tells of more of a request: what goes the short way is there whole."""

    def set(self) -> None:
        """Tell nobody."""


_NOBODY_WAITS: Final = _NobodyWaits()


class _Exchange:
    """A request on the short way, in the place of uvicorn's own of such: requests behind it wait for it."""

    def __init__(self, endpoint: Direct, method: str, query: bytes, keep_alive: bool) -> None:
        self.endpoint = endpoint
        self.query = query
        self.method = method
        self.keep_alive = keep_alive
        self.body = bytearray()
        self.more_body = True
        self.response_started = False
        self.response_complete = False
        self.disconnected = False
        self.message_event = _NOBODY_WAITS


class BoundedProtocol(HttpToolsProtocol):
    """Closes connections whose request has too large a head, or does not arrive in time (slow loris), whose answers
    nobody takes, and what is more than there may be.
    """

    cycle: Any
    """The request that came last."""

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self._endpoints: Mapping[bytes, Direct] = getattr(self.app, "direct", {})
        self._exchange: _Exchange | None = None
        """The request that is being read, if it goes the short way."""
        self._idle_since: float | None = None
        self._head: tuple[object, bytes] = (None, b"")
        self._bytes = 0
        """What arrived since the head or the body began and is no content."""
        self._is_in_head = True
        self._reading_since: float | None = None
        self._look: asyncio.TimerHandle | None = None
        self._answering: Any = None
        """The request that is worked on, while others are behind it."""
        self._untaken = 0
        """Bytes that were there for the client when somebody looked."""
        self._taken_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's is
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._reading_since = self.loop.time()
        self._look = self.loop.call_later(_LOOK_SECONDS, self._watch)
        if len(self.connections) > most_connections():
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop looking, and tell the request that is worked on; those behind it are nobody's any more."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self.pipeline:
            self.pipeline.clear()
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a piece; what is too much is known after it, so that one piece is the most that is held beyond."""
        self._bytes += len(data)
        self._idle_since = None
        super().data_received(data)
        if self._bytes > MAX_HEADER_BYTES:
            self._refuse(431)

    def on_message_begin(self) -> None:
        """A request begins to arrive."""
        self._is_in_head = True
        self._reading_since = self.loop.time()
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers are none (RFC 9110 section 6.5.1): a proxy does not filter them as it does headers."""
        if self._is_in_head:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is there; what follows is the body.

        Raises:
            ValueError: it cannot be taken; answered as 400, like all that cannot be read.
        """
        self._is_in_head = False
        if self.parser.get_http_version() not in _VERSIONS:
            raise ValueError("the version of HTTP is none of ours")
        # The rest of the piece may be content: only then is the head itself measured.
        if self._bytes > MAX_HEADER_BYTES and self._head_size() > MAX_HEADER_BYTES:
            raise ValueError("the head is too large")
        self._bytes = 0
        path, _, query = self.url.partition(b"?")
        endpoint, method = self._endpoints.get(path), self.parser.get_method()
        if endpoint is None or not self._is_ordinary(endpoint, method):
            self._exchange = None
            self._go_the_long_way()
            return
        keep_alive = self.parser.should_keep_alive()
        self.cycle = self._exchange = _Exchange(endpoint, method.decode("ascii"), query, keep_alive)

    def _is_ordinary(self, endpoint: Direct, method: bytes) -> bool:
        if endpoint.methods is None:
            if b"?" in self.url:
                return False
        elif method not in endpoint.methods:
            return False
        return (
            (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_http_version() == "1.1"
            and not self.expect_100_continue
            and not self.parser.should_upgrade()
            and not self.flow.write_paused
        )

    def _go_the_long_way(self) -> None:
        """As uvicorn does it. What it makes at the beginning of a message, it is given to make here."""
        if self.cycle is not None and not self.cycle.response_complete:
            if len(self.pipeline) >= MOST_BEHIND:
                raise ValueError("too many requests are behind each other")
            if not self.pipeline:
                self._answering = self.cycle
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """An answer was given on the long way."""
        super().on_response_complete()
        if not self.pipeline:
            self._idle_since = self.loop.time()

    def on_body(self, body: bytes) -> None:
        """Content, which the application bounds."""
        self._bytes = max(0, self._bytes - len(body))
        exchange = self._exchange
        if exchange is None:
            super().on_body(body)
        elif exchange.more_body:
            exchange.body += body
            if len(exchange.body) > exchange.endpoint.max_body:
                self._ask(exchange)

    def on_message_complete(self) -> None:
        """The request has arrived whole; the time that its answer takes is the hub's own."""
        self._is_in_head = True
        self._bytes = 0
        self._reading_since = None
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            super().on_message_complete()
        elif exchange.more_body:
            self._ask(exchange)

    # ------------------------------------------------------------------ the short way

    def _ask(self, exchange: _Exchange) -> None:
        exchange.more_body = False
        head = self._head_of_all(exchange)
        answer = exchange.endpoint.at_once(exchange.method, self.client, head)
        if answer is not None:
            self._tell(exchange, answer)
            return
        self.tasks.add(self.loop.create_task(self._await(exchange, self.headers, head)))

    async def _await(self, exchange: _Exchange, headers: list[tuple[bytes, bytes]], head: bytes) -> None:
        try:
            answer = await exchange.endpoint.answer(
                exchange.method, headers, bytes(exchange.body), self.client, head, exchange.query
            )
            if self.flow.write_paused and not exchange.disconnected:
                await self.flow.drain()
            self._tell(exchange, answer)
        finally:
            # Here, and not by a callback of the task: that would be one more turn of the loop for each request.
            self.tasks.discard(asyncio.current_task())

    def _tell(self, exchange: _Exchange, answer: bytes) -> None:
        exchange.response_complete = True
        if exchange.disconnected or self.transport.is_closing():
            return
        self.transport.write(answer)
        if not exchange.keep_alive:
            # Also when the server is about to end (`shutdown`).
            self.transport.close()
            self.server_state.total_requests += 1
        elif self.pipeline or exchange is not self.cycle:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self._idle_since = self.loop.time()

    def _head_of_all(self, exchange: _Exchange) -> bytes:
        """What this server puts into every answer (the date), as it stands on the wire."""
        headers = self.server_state.default_headers
        if headers is not self._head[0]:
            self._head = headers, b"".join(b"%b: %b\r\n" % pair for pair in headers)
        return self._head[1] if exchange.keep_alive else self._head[1] + b"connection: close\r\n"

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _watch(self) -> None:
        self._look = self.loop.call_later(_LOOK_SECONDS, self._watch)
        now = self.loop.time()
        if self._takes_nothing(now):
            self.transport.abort()
            return
        is_crowded = len(self.connections) > _CROWDED * most_connections()
        since = self._reading_since
        if since is not None:
            longest = _CROWDED_SECONDS if is_crowded and self._is_in_head else READ_SECONDS
            if now - since > longest:
                self._refuse(408)
        elif self._idle_since is not None:
            longest = _CROWDED_SECONDS if is_crowded else self.timeout_keep_alive
            if now - self._idle_since > longest:
                self.timeout_keep_alive_handler()

    def _takes_nothing(self, now: float) -> bool:
        """Whether the client has taken nothing for too long of what was answered; closing would wait for it."""
        before, self._untaken = self._untaken, self.transport.get_write_buffer_size()
        if not self._untaken or self._untaken < before or not before:
            self._taken_at = now
        return now - self._taken_at > WRITE_SECONDS

    def send_400_response(self, msg: str) -> None:
        """Something cannot be read."""
        self._refuse(400)

    def _refuse(self, status: int) -> None:
        """Say why, unless an earlier request waits for its answer, and close."""
        if self.transport.is_closing():
            return
        if not self._owes_an_answer():
            self.transport.write(
                b"HTTP/1.1 %d %s\r\ncontent-length: 0\r\nconnection: close\r\ncache-control: no-store\r\n\r\n"
                % (status, _ANSWERS[status])
            )
        self.transport.close()

    def _owes_an_answer(self) -> bool:
        """Whether a whole request waits for its answer, or one has begun."""
        cycle = self._answering if self.pipeline else self.cycle
        if cycle is None or cycle.response_complete:
            return False
        return cycle.response_started or not cycle.more_body
