"""HTTP/1.1 on bare sockets: hundreds of connections from one event loop, at little cost of their own.

Not a client for general use: it speaks to `idhub serve`, which answers with a length or in chunks, and keeps
connections alive. What is sent is bytes made beforehand, so that many requests leave at the same moment.
"""

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

_PATIENCE = 60.0


class Cut(Exception):
    """The connection ended before the answer was complete: whether the request had an effect is not known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of that name."""
        wanted = name.lower().encode()
        for line in self.head.split(b"\r\n")[1:]:
            found, _, value = line.partition(b":")
            if found.lower() == wanted:
                return value.strip().decode("latin-1")
        return None

    def cookies(self) -> dict[str, str]:
        """Cookies that it sets."""
        found = {}
        for line in self.head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"set-cookie":
                key, _, content = value.strip().split(b";", 1)[0].partition(b"=")
                found[key.decode()] = content.decode().strip('"')
        return found

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def location(self) -> str:
        """Where it redirects to."""
        return self.header("location") or ""

    @property
    def query(self) -> dict[str, str]:
        """Parameters of the address that it redirects to."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.location).query).items()}

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")


class Wire(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiting: asyncio.Future[Answer] | None = None

    async def connect(self) -> "Wire":
        """Open it; requests open it by themselves where it is not."""
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self.port)
        return self

    async def send(self, request: bytes) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            Cut: the connection ended first.
        """
        if self._transport is None or self._transport.is_closing():
            await self.connect()
        self.write(request)
        return await self.answer()

    def write(self, request: bytes) -> None:
        """Send a request at this very moment; its answer is to be awaited. The connection must be open."""
        assert self._transport is not None, "not connected"
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)

    async def answer(self) -> Answer:
        """The answer to what was written.

        Raises:
            Cut: the connection ended first.
        """
        assert self._waiting is not None, "nothing was asked"
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._waiting
        except TimeoutError as error:
            self.close()
            raise Cut("no answer") from error

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    # ------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer.clear()

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer."""
        self._buffer += data
        answer = _complete(self._buffer)
        if answer is not None:
            self._buffer.clear()
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side closed."""
        self._transport = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Cut("the connection was closed"))


def _complete(buffer: bytearray) -> Answer | None:
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(buffer[:end])
    status = int(head[9:12])
    lowered = head.lower()
    at = lowered.find(b"\r\ncontent-length:")
    if at >= 0:
        length = int(lowered[at + 17 :].split(b"\r\n", 1)[0])
        body = bytes(buffer[end + 4 :])
        return Answer(status, head, body) if len(body) >= length else None
    if b"\r\ntransfer-encoding: chunked" in lowered:
        return Answer(status, head, _dechunked(bytes(buffer[end + 4 :]))) if buffer.endswith(b"0\r\n\r\n") else None
    return Answer(status, head, b"")


def _dechunked(raw: bytes) -> bytes:
    parts = []
    while raw:
        size, _, rest = raw.partition(b"\r\n")
        length = int(size, 16)
        parts.append(rest[:length])
        raw = rest[length + 2 :] if length else b""
    return b"".join(parts)


def get(path: str, *, cookies: Mapping[str, str] | None = None, bearer: str | None = None) -> bytes:
    """A GET request."""
    return _request("GET", path, cookies, f"Bearer {bearer}" if bearer else None, None, b"")


def form(
    path: str,
    fields: Mapping[str, str],
    *,
    basic: tuple[str, str] | None = None,
    cookies: Mapping[str, str] | None = None,
    forwarded_for: str | None = None,
) -> bytes:
    """A POST of a form; `basic`: client id and secret; `forwarded_for`: as a trusted proxy would write it."""
    authorization = None
    if basic is not None:
        pair = f"{quote(basic[0], safe='')}:{quote(basic[1], safe='')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    body = urlencode(fields).encode()
    made = _request("POST", path, cookies, authorization, "application/x-www-form-urlencoded", body)
    return made if forwarded_for is None else forwarded(made, forwarded_for)


def forwarded(request: bytes, address: str) -> bytes:
    """The request as a trusted proxy hands it on for who has that address."""
    first, _, rest = request.partition(b"\r\n")
    return first + b"\r\nX-Forwarded-For: " + address.encode() + b"\r\n" + rest


def call(method: str, path: str, value: Any, *, bearer: str) -> bytes:
    """A call of the administration API."""
    return _request(method, path, None, f"Bearer {bearer}", "application/json", json.dumps(value).encode())


def _request(
    method: str,
    path: str,
    cookies: Mapping[str, str] | None,
    authorization: str | None,
    content_type: str | None,
    body: bytes,
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if cookies:
        lines.append("Cookie: " + "; ".join(f"{name}={value}" for name, value in cookies.items()))
    if authorization:
        lines.append(f"Authorization: {authorization}")
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    if method != "GET":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
