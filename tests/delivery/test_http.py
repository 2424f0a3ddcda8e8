"""The guarded client against real sockets: security rows R01, R02, R04, R07, R09."""

import asyncio
import gzip
import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from idhub.delivery.http import OutboundError, OutboundHttp, OutboundRefused, OutboundResponse, OutboundTimeout
from idhub.settings import Settings
from tests.delivery.servers import raw_server, serving

SECOND = timedelta(seconds=1)
NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)


def call(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    use: Callable[[OutboundHttp, str], Awaitable[Any]],
) -> Any:
    async def run() -> Any:
        async with serving(handler) as port, OutboundHttp(Settings(outbound_allow=f"127.0.0.1:{port}")) as http:
            return await use(http, f"http://127.0.0.1:{port}")

    return asyncio.run(run())


def test_a_request_carries_what_was_asked_and_no_more() -> None:
    seen: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(method=request.method, path=request.raw_path, headers=request.headers, body=await request.read())
        return web.json_response({"ok": True}, status=201, headers={"Set-Cookie": "a=b", "ETag": "x"})

    async def use(http: OutboundHttp, base: str) -> OutboundResponse:
        await http.request("POST", f"{base}/v2/Users?a=%2F", json={"b": 1}, timeout=5 * SECOND)
        headers = {"Authorization": "Bearer t", "Content-Type": "application/scim+json"}
        return await http.request("POST", f"{base}/v2/Users?a=%2F", json={"b": 1}, headers=headers, timeout=5 * SECOND)

    answer = call(handler, use)

    assert (answer.status, answer.json(), answer.headers["etag"], answer.is_success) == (201, {"ok": True}, "x", True)
    assert (seen["method"], seen["path"], seen["body"]) == ("POST", "/v2/Users?a=%2F", b'{"b":1}')
    assert seen["headers"]["Content-Type"] == "application/scim+json"
    assert seen["headers"]["User-Agent"] == "idhub"
    assert "Cookie" not in seen["headers"]


def test_a_form_is_sent_as_one() -> None:
    async def handler(request: web.Request) -> web.Response:
        form = await request.post()
        return web.json_response({"kind": request.content_type, "token": form["logout_token"]})

    answer = call(
        handler, lambda http, base: http.request("POST", base, data={"logout_token": "a+b&c"}, timeout=5 * SECOND)
    )

    assert answer.json() == {"kind": "application/x-www-form-urlencoded", "token": "a+b&c"}


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    paths: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data/"})

    answer = call(handler, lambda http, base: http.request("GET", f"{base}/start", timeout=5 * SECOND))

    assert answer.status == 302
    assert not answer.is_success
    assert paths == ["/start"]


def test_a_name_that_leads_inside_is_refused_and_nothing_is_connected() -> None:
    connected: list[int] = []

    async def run() -> None:
        async def accept(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            connected.append(1)

        async def resolve(_host: str, _port: int) -> list[str]:
            # One good address does not excuse a bad one.
            return ["8.8.8.8", "127.0.0.1"]

        async with raw_server(accept) as port, OutboundHttp(Settings(), resolve=resolve) as http:
            with pytest.raises(OutboundRefused) as refused:
                await http.request("GET", f"https://app.example:{port}/", timeout=5 * SECOND)
            assert refused.value.rule == "outbound.address"

    asyncio.run(run())
    assert not connected


def test_a_name_is_resolved_once_and_the_vetted_address_is_the_one_connected() -> None:
    """DNS rebinding: a second answer that leads elsewhere is never asked for."""
    asked: list[str] = []

    async def run() -> OutboundResponse:
        async def handler(request: web.Request) -> web.Response:
            return web.Response(text=request.host)

        async def resolve(host: str, _port: int) -> list[str]:
            asked.append(host)
            return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

        async with serving(handler) as port:
            settings = Settings(outbound_allow=f"app.localhost:{port}")
            async with OutboundHttp(settings, resolve=resolve) as http:
                return await http.request("GET", f"http://app.localhost:{port}/", timeout=5 * SECOND)

    answer = asyncio.run(run())

    assert answer.body.startswith(b"app.localhost:")
    assert asked == ["app.localhost"]


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "127.0.0.1.", "LOCALHOST"]
)
def test_other_spellings_of_this_machine_are_refused(host: str) -> None:
    async def run(port: int) -> None:
        async with OutboundHttp(Settings()) as http:
            with pytest.raises((OutboundRefused, OutboundError)):
                await http.request("GET", f"https://{host}:{port}/", timeout=2 * SECOND)

    connected: list[int] = []

    async def with_server() -> None:
        async def accept(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            connected.append(1)

        async with raw_server(accept) as port:
            await run(port)

    asyncio.run(with_server())
    assert not connected


def test_a_reply_of_one_byte_now_and_then_ends_at_the_total_deadline() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def run() -> None:
        async with raw_server(drip) as port, OutboundHttp(Settings(outbound_allow=f"127.0.0.1:{port}")) as http:
            with pytest.raises(OutboundTimeout) as timeout:
                await http.request("GET", f"http://127.0.0.1:{port}/?token=s", timeout=timedelta(seconds=0.4))
            assert timeout.value.description == f"127.0.0.1:{port} did not answer within 0.4 s."

    began = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - began < 30


def test_headers_that_never_end_are_cut_off() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-Junk: " + b"j" * 4000 + b"\r\n")
            await writer.drain()

    async def run() -> None:
        async with raw_server(endless) as port, OutboundHttp(Settings(outbound_allow=f"127.0.0.1:{port}")) as http:
            with pytest.raises(OutboundError):
                await http.request("GET", f"http://127.0.0.1:{port}/", timeout=3 * SECOND)

    asyncio.run(run())


@pytest.mark.parametrize("compressed", [False, True])
def test_a_body_above_the_cap_is_refused_after_decompression(compressed: bool) -> None:
    async def handler(_request: web.Request) -> web.Response:
        body = b"\0" * 20_000_000
        if compressed:
            return web.Response(body=gzip.compress(body), headers={"Content-Encoding": "gzip"})
        return web.Response(body=body)

    async def use(http: OutboundHttp, base: str) -> None:
        with pytest.raises(OutboundError) as error:
            await http.request("GET", base, timeout=5 * SECOND, max_bytes=100_000)
        assert error.value.description == "The answer is larger than 100000 bytes."

    call(handler, use)


_OK = b"HTTP/1.1 200 OK\r\n"
_GZIP = _OK + b"Content-Encoding: gzip\r\n\r\n"
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"


@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, id="interim answers"),
        pytest.param(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100, id="early hints"),
        pytest.param(_OK, b"A: b\r\n" * 1000, id="short headers"),
        pytest.param(_OK + b"Transfer-Encoding: chunked\r\n\r\n5;", b"a=b;" * 10_000, id="a chunk's extensions"),
        pytest.param(_OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n" * 1000, id="trailers"),
        pytest.param(_OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 10_000, id="chunks of a byte"),
        pytest.param(_GZIP + gzip.compress(b"{}"), b"x" * 65_536, id="after the end of a compression"),
        pytest.param(_GZIP + _GZIP_HEAD, b"\x00\x00\x00\xff\xff" * 10_000, id="empty blocks of a compression"),
        pytest.param(_GZIP + b"\x1f\x8b\x08\x08" + _GZIP_HEAD[4:], b"a" * 65_536, id="the name of a compression"),
    ],
)
def test_what_goes_on_beside_a_body_is_broken_off_long_before_the_deadline(begins: bytes, goes_on: bytes) -> None:
    """None of it counts as a body. It kept the worker's loop busy until the deadline, and memory grew meanwhile."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begins)
        while True:
            writer.write(goes_on)
            await writer.drain()

    async def run() -> None:
        async with raw_server(endless) as port, OutboundHttp(Settings(outbound_allow=f"127.0.0.1:{port}")) as http:
            with pytest.raises(OutboundError) as broken:
                await http.request("GET", f"http://127.0.0.1:{port}/", timeout=60 * SECOND, max_bytes=50_000)
            assert not isinstance(broken.value, OutboundTimeout)

    asyncio.run(run())


@pytest.mark.parametrize("pause", [0.0, 0.1], ids=["at once", "later"])
def test_an_answer_that_nobody_asked_for_answers_no_later_question(pause: float) -> None:
    """It was taken for the answer to the next one, and each answer after it for the one before: a read-back saw what
    was read before the write.
    """

    async def talkative(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            path = head.split(b" ")[1]
            for body in (path, b"/unasked"):
                writer.write(_OK + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
                await asyncio.sleep(pause)

    async def run() -> list[bytes]:
        async with raw_server(talkative) as port, OutboundHttp(Settings(outbound_allow=f"127.0.0.1:{port}")) as http:
            answers = []
            for number in range(4):
                answer = await http.request("GET", f"http://127.0.0.1:{port}/{number}", timeout=5 * SECOND)
                answers.append(answer.body)
                await asyncio.sleep(2 * pause)
            return answers

    assert asyncio.run(run()) == [b"/0", b"/1", b"/2", b"/3"]


def test_interim_answers_are_passed_over() -> None:
    async def hinting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(3):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3)
            writer.write(_OK + b"Content-Length: 1\r\n\r\n%d" % number)
            await writer.drain()

    async def run() -> list[bytes]:
        async with raw_server(hinting) as port, OutboundHttp(Settings(outbound_allow=f"127.0.0.1:{port}")) as http:
            url = f"http://127.0.0.1:{port}/"
            return [(await http.request("GET", url, timeout=5 * SECOND)).body for _ in range(3)]

    assert asyncio.run(run()) == [b"0", b"1", b"2"]


def test_a_compressed_body_within_the_cap_is_read() -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b"x" * 100_000), headers={"Content-Encoding": "gzip"})

    answer = call(handler, lambda http, base: http.request("GET", base, timeout=5 * SECOND, max_bytes=100_000))

    assert answer.body == b"x" * 100_000


@pytest.mark.parametrize(
    ("body", "encoding"), [(b"not gzip", "gzip"), (gzip.compress(b"x" * 100, mtime=0)[:-10], "gzip"), (b"x", "br")]
)
def test_a_body_that_cannot_be_decoded_is_an_error(body: bytes, encoding: str) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Encoding": encoding})

    async def use(http: OutboundHttp, base: str) -> None:
        with pytest.raises(OutboundError):
            await http.request("GET", base, timeout=5 * SECOND)

    call(handler, use)


def test_nobody_listening_is_an_error_that_names_host_and_port_only() -> None:
    async def run() -> str:
        async with OutboundHttp(Settings(outbound_allow="127.0.0.1:1")) as http:
            with pytest.raises(OutboundError) as error:
                await http.request(
                    "GET",
                    "http://127.0.0.1:1/secret-path?token=secret",
                    headers={"Authorization": "Bearer secret"},
                    timeout=2 * SECOND,
                )
            return error.value.description

    assert asyncio.run(run()) == "No connection to 127.0.0.1:1."


def test_a_line_break_in_a_header_is_refused() -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response()

    async def use(http: OutboundHttp, base: str) -> None:
        with pytest.raises(OutboundRefused):
            await http.request("GET", base, headers={"X-A": "b\r\nX-Evil: 1"}, timeout=2 * SECOND)

    call(handler, use)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", timedelta(seconds=120)),
        ("999999999999", timedelta(hours=1)),
        ("Mon, 23 Nov 2026 02:00:30 GMT", timedelta(seconds=30)),
        ("Mon, 23 Nov 2020 02:00:30 GMT", timedelta(0)),
        ("soon", None),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
        ("-5", None),
        ("", None),
    ],
)
def test_retry_after_is_read_and_bounded(value: str, expected: timedelta | None) -> None:
    assert OutboundResponse(429, {"Retry-After": value}, b"").retry_after(now=NOW) == expected


def test_nothing_else_in_the_hub_calls_out() -> None:
    """R04: one client module. The LISTEN connection of the queue talks to the hub's own database."""
    root = Path(__file__).parents[2] / "idhub"
    callers = re.compile(
        r"^\s*(?:import|from)\s+(aiohttp|httpx2?|requests|urllib3|urllib\.request|http\.client|smtplib|ftplib)\b"
        r"|\b(getaddrinfo|create_connection|open_connection|urlopen|socket\.socket)\b",
        re.MULTILINE,
    )

    found = {
        str(path.relative_to(root)): sorted({one or other for one, other in callers.findall(path.read_text())})
        for path in root.rglob("*.py")
        # The demo is the outside: its sample applications and browser call the hub as strangers do.
        if "demo" not in path.relative_to(root).parts and callers.search(path.read_text())
    }

    assert found == {"delivery/connections.py": ["aiohttp"], "delivery/http.py": ["aiohttp", "getaddrinfo"]}
