"""The embedded server's reader of HTTP, with the bounds that uvicorn leaves to a proxy: size of headers, time to read.

Nothing is armed or counted per request beyond two attributes; one timer a connection looks now and then.
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES: Final = 65_536
"""Request line and headers together; and of a body, what frames it (sizes of chunks, trailers)."""
READ_SECONDS: Final = 30.0
"""How long a request may take to arrive, and a new connection to send one."""
_LOOK_SECONDS: Final = 5.0
_VERSIONS: Final = frozenset({"1.0", "1.1"})

_ANSWERS: Final = {408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class BoundedProtocol(HttpToolsProtocol):
    """Closes connections whose request has too large a head, or does not arrive in time (slow loris)."""

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self._bytes = 0
        """What arrived since the head or the body began and is no content."""
        self._is_in_head = True
        self._reading_since: float | None = None
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's is
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._reading_since = self.loop.time()
        self._look = self.loop.call_later(_LOOK_SECONDS, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop looking."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a piece; what is too much is known after it, so that one piece is the most that is held beyond."""
        self._bytes += len(data)
        super().data_received(data)
        if self._bytes > MAX_HEADER_BYTES:
            self._refuse(431)

    def on_message_begin(self) -> None:
        """A request begins to arrive."""
        self._is_in_head = True
        self._reading_since = self.loop.time()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers are none (RFC 9110 section 6.5.1): a proxy does not filter them as it does headers."""
        if self._is_in_head:
            super().on_header(name, value)

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
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Content, which the application bounds."""
        self._bytes = max(0, self._bytes - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has arrived whole; the time that its answer takes is the hub's own."""
        self._is_in_head = True
        self._bytes = 0
        self._reading_since = None
        super().on_message_complete()

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _watch(self) -> None:
        since = self._reading_since
        if since is not None and self.loop.time() - since > READ_SECONDS:
            self._refuse(408)
            return
        self._look = self.loop.call_later(_LOOK_SECONDS, self._watch)

    def _refuse(self, status: int) -> None:
        """Say why and close, whatever else has begun on this connection."""
        if self.transport.is_closing():
            return
        reason = _ANSWERS[status]
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-length: 0\r\nconnection: close\r\ncache-control: no-store\r\n\r\n"
            % (status, reason)
        )
        self.transport.close()
