"""The load generator counts nothing but the answers that were expected."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from tests.benchmarks.load import Wrong, measure


async def _measured(answer: bytes, **plan: Any) -> dict[str, Any]:
    served: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(writer)
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            # In two pieces: what arrives is not what was sent.
            writer.write(answer[:20])
            await writer.drain()
            writer.write(answer[20:])

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        load = {"kind": "fixed", "path": "/", "marker": '"sub"', **plan}
        try:
            return await measure({"port": port, "connections": 2, "seconds": 0.1, "warmup": 0.05, "load": load})
        finally:
            for writer in served:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()


def test_right_answers_are_counted() -> None:
    body = b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"sub":"1"}'
    load = asyncio.run(_measured(body))["load"]
    assert load["count"] > 0
    assert load["rate"] == pytest.approx(load["count"] / 0.1)


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 503 Busy\r\nContent-Length: 11\r\n\r\n{"sub":"1"}',
        b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"error":"none"}',
    ],
)
def test_a_wrong_answer_ends_the_run(answer: bytes) -> None:
    with pytest.raises(Wrong):
        asyncio.run(_measured(answer))
