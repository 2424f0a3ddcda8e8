"""The embedded server's reader: who does not send a request in time is let go, and a trailer is no header."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from idhub.cli import protocol


async def _application(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the names of the headers, after the whole body is there."""
    while (await receive()).get("more_body"):
        pass
    names = b" ".join(sorted(name for name, _ in scope["headers"]))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": names})


@asynccontextmanager
async def _serving() -> AsyncIterator[int]:
    config = uvicorn.Config(
        _application, port=0, http=protocol.BoundedProtocol, lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await running


async def _slowly(port: int, *parts: bytes) -> bytes:
    """What comes back when one part is sent each quarter second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.create_task(reader.read())
    try:
        for part in parts:
            if answer.done():
                break
            writer.write(part)
            await asyncio.sleep(0.25)
        return await asyncio.wait_for(answer, 5)
    finally:
        writer.close()


def test_who_sends_too_slowly_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether nothing comes, half a head, or a body byte by byte; a quick request between them is answered."""
    monkeypatch.setattr(protocol, "READ_SECONDS", 0.6)
    monkeypatch.setattr(protocol, "_LOOK_SECONDS", 0.1)
    head = b"POST / HTTP/1.1\r\nhost: a\r\n"

    async def run() -> tuple[bytes, bytes, bytes, bytes]:
        async with _serving() as port:
            return await asyncio.gather(
                _slowly(port),
                _slowly(port, *[head[n : n + 3] for n in range(0, len(head), 3)]),
                _slowly(port, head + b"content-length: 10\r\n\r\n", *[b"a"] * 8),
                _slowly(port, head + b"content-length: 2\r\nconnection: close\r\n\r\nab"),
            )

    nothing, half, body, quick = asyncio.run(run())
    assert nothing.startswith(b"HTTP/1.1 408 ")
    assert half.startswith(b"HTTP/1.1 408 ")
    assert body.startswith(b"HTTP/1.1 408 ")
    assert quick.startswith(b"HTTP/1.1 200 ")


def test_a_trailer_is_no_header() -> None:
    """RFC 9110 section 6.5.1: what a proxy takes out of the head must not come in behind the body."""

    async def run() -> bytes:
        async with _serving() as port:
            head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
            return await _slowly(port, head + b"1\r\na\r\n0\r\nx-forwarded-for: 127.0.0.1\r\n\r\n")

    said = asyncio.run(run())
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" in said
    assert b"x-forwarded-for" not in said
