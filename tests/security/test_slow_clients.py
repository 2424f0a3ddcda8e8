"""The embedded server's reader: who does not send a request in time is let go, or takes no answer, or sends too many
requests at once; what is said fits the request that it is said to.
"""

import asyncio
import socket
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
async def _serving(application: Any = _application) -> AsyncIterator[int]:
    async with _server(application) as server:
        yield server.servers[0].sockets[0].getsockname()[1]


@asynccontextmanager
async def _server(application: Any) -> AsyncIterator[uvicorn.Server]:
    config = uvicorn.Config(
        application, port=0, http=protocol.BoundedProtocol, lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield server
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


_GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


class _Waiting:
    """An application whose answers wait until they are let go, or until the client has gone."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.began, self.broke_off = 0, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.began += 1
        while (message := await receive()).get("more_body"):
            pass
        if scope["path"] == "/until-gone":
            message = await receive()
            assert message["type"] == "http.disconnect"
            self.broke_off += 1
            return
        await self.let_go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


async def _until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def test_few_requests_wait_behind_each_other() -> None:
    """Each costs a hundred times its size while it waits: 12 MB of them took 1.4 GB and the event loop 11 seconds."""

    async def run() -> tuple[bytes, int]:
        application = _Waiting()
        async with _serving(application) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_GET * (protocol.MOST_BEHIND + 1))
            await _until(lambda: application.began)
            application.let_go.set()
            answers = await reader.readuntil(b"done\r\n0\r\n\r\n")
            for _ in range(protocol.MOST_BEHIND):
                answers += await reader.readuntil(b"done\r\n0\r\n\r\n")
            assert answers.count(b"HTTP/1.1 200 ") == protocol.MOST_BEHIND + 1
            application.let_go.clear()
            writer.write(_GET * (protocol.MOST_BEHIND + 2))
            rest = await asyncio.wait_for(reader.read(), 5)
            application.let_go.set()
            writer.close()
            return rest, application.began

    rest, began = asyncio.run(run())
    assert rest == b"", "what came too much is no answer to what came first"
    assert began == protocol.MOST_BEHIND + 2, "of the second lot the first alone"


def test_who_goes_away_is_noticed_by_the_request_that_is_worked_on() -> None:
    """Whatever came behind it."""

    async def run() -> int:
        application = _Waiting()
        async with _serving(application) as port:
            for behind in (b"", _GET, _GET * 3):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /until-gone HTTP/1.1\r\nhost: a\r\n\r\n" + behind)
                gone = application.broke_off
                began = application.began
                await _until(lambda b=began: application.began > b)
                writer.transport.abort()
                await _until(lambda g=gone: application.broke_off > g)
            return application.began

    assert asyncio.run(run()) == 3, "what came behind is nobody's"


def test_what_cannot_be_read_is_not_the_answer_to_what_came_before() -> None:
    """RFC 9112 section 9.3.2: answers come in order; whoever was told 400 would believe that nothing was done."""

    async def run() -> bytes:
        application = _Waiting()
        async with _serving(application) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_GET)
            await _until(lambda: application.began)
            writer.write(b"\0\0\0\r\n\r\n")
            said = await asyncio.wait_for(reader.read(), 5)
            application.let_go.set()
            writer.close()
            return said

    assert asyncio.run(run()) == b""


def test_who_takes_no_answer_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the connection was to be closed behind it."""
    monkeypatch.setattr(protocol, "WRITE_SECONDS", 0.5)
    monkeypatch.setattr(protocol, "_LOOK_SECONDS", 0.1)
    taken = 0

    async def much(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(16):
            await send({"type": "http.response.body", "body": b"a" * 1_000_000, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def run() -> None:
        nonlocal taken
        async with _server(much) as server:
            port = server.servers[0].sockets[0].getsockname()[1]
            connections = server.server_state.connections
            for rest in (b"\r\n", b"connection: close\r\n\r\n"):
                silent = socket.create_connection(("127.0.0.1", port))
                silent.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n" + rest)
                await _until(lambda: connections)
                await _until(lambda: not connections)
                silent.close()
            # Whoever takes it, however slowly, is served to the end.
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65_536)
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            while piece := await reader.read(400_000):
                taken += len(piece)
                await asyncio.sleep(0.01)
            writer.close()

    asyncio.run(run())
    assert taken > 16_000_000


def test_connections_are_fewer_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """What opens files beside them goes on: databases, logs, deliveries. Who says nothing makes room."""
    monkeypatch.setattr(protocol, "most_connections", lambda: 8)
    monkeypatch.setattr(protocol, "_CROWDED_SECONDS", 0.3)
    monkeypatch.setattr(protocol, "_LOOK_SECONDS", 0.1)

    async def run() -> tuple[bytes, bytes]:
        async with _server(_application) as server:
            port = server.servers[0].sockets[0].getsockname()[1]
            connections = server.server_state.connections
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
            for reader, writer in idle:
                writer.write(_GET)
                await reader.readuntil(b"\r\n0\r\n\r\n")
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
            await _until(lambda: len(connections) == 8)
            refused = await _slowly(port, _GET)
            await _until(lambda: len(connections) < 6)
            served = await _slowly(port, _GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            for _, writer in idle + silent:
                writer.close()
            return refused, served

    refused, served = asyncio.run(run())
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert served.startswith(b"HTTP/1.1 200 ")
