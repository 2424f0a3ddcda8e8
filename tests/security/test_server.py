"""The embedded server, byte by byte: what two parsers could read differently is refused, and nobody waits for ever."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import orjson
import pytest

from idhub.cli.protocol import MAX_HEADER_BYTES
from idhub.demo.hub import Hub

_HOST = b"host: 127.0.0.1\r\n"
_SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + _HOST + b"\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """`idhub serve` as operators run it."""
    hub = Hub(tmp_path_factory.mktemp("served"), outbound_allow="")
    hub.start()
    yield hub
    hub.close()


def talk(server: Hub, *parts: bytes, wait: float = 5.0) -> bytes:
    """Everything that the server says to these bytes until it closes or falls silent."""
    said = b""
    with socket.create_connection(("127.0.0.1", server.server.port), timeout=wait) as connection:
        with suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        with suppress(ConnectionError, TimeoutError):
            while got := connection.recv(65_536):
                said += got
    return said


def is_refused(said: bytes, status: int) -> bool:
    """The status, or nothing: who goes on sending into a closed connection may be reset before it has read."""
    return not said or said.startswith(b"HTTP/1.1 %d " % status)


AMBIGUOUS = {
    "length and chunks": b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    "chunks and length": b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    "two lengths": b"content-length: 5\r\ncontent-length: 60\r\n\r\nabcde" + _SMUGGLED,
    "a list of lengths": b"content-length: 5, 5\r\n\r\nabcde" + _SMUGGLED,
    "a signed length": b"content-length: +5\r\n\r\nabcde" + _SMUGGLED,
    "a length in hex": b"content-length: 0x5\r\n\r\nabcde" + _SMUGGLED,
    "an endless length": b"content-length: " + b"9" * 40 + b"\r\n\r\nabcde",
    "blank before the colon": b"content-length : 5\r\n\r\nabcde" + _SMUGGLED,
    "folded header": b"x-a: b\r\n c: d\r\ncontent-length: 0\r\n\r\n" + _SMUGGLED,
    "unknown coding": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    "coding after chunked": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    "chunk size with a sign": b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n" + _SMUGGLED,
    "chunk size too large": b"transfer-encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\na\r\n" + _SMUGGLED,
    "NUL in a header": b"x-a: b\0c\r\ncontent-length: 0\r\n\r\n" + _SMUGGLED,
}


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_a_request_of_which_a_proxy_could_see_another_end_is_refused(server: Hub, what: str) -> None:
    """RFC 9112 sections 6.3 and 11.2: no second request comes out of the body of a first one."""
    for target in (b"/login", b"/oauth2/token", b"/api/v1/people"):
        said = talk(server, b"POST " + target + b" HTTP/1.1\r\n" + _HOST + AMBIGUOUS[what], wait=1.5)
        assert b"smuggled" not in said
        assert said.count(b"HTTP/1.1 ") <= 1, said
        assert said.startswith(b"HTTP/1.1 400 "), said[:200]


LINES = {
    "no version": b"GET /healthz\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "NUL in the target": b"GET /heal\0thz HTTP/1.1\r\n" + _HOST + b"\r\n",
    "blank in the target": b"GET /heal thz HTTP/1.1\r\n" + _HOST + b"\r\n",
    "made-up method": b"SMUGGLE /healthz HTTP/1.1\r\n" + _HOST + b"\r\n",
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
}


@pytest.mark.parametrize("what", LINES)
def test_a_broken_request_line_is_a_400_and_ends_the_connection(server: Hub, what: str) -> None:
    said = talk(server, LINES[what], wait=3)
    assert said.startswith(b"HTTP/1.1 400 "), said[:200]
    assert b"connection: close" in said


def test_a_target_with_another_host_is_answered_as_ours(server: Hub) -> None:
    """T06: absolute form and double slashes lead nowhere else."""
    for target in (b"http://evil.example/hr", b"//evil.example/hr", b"/\\evil.example/hr"):
        said = talk(server, b"GET " + target + b" HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n")
        head = said.partition(b"\r\n\r\n")[0]
        assert said.startswith(b"HTTP/1.1 "), said
        assert b"location: http" not in head.lower()
        assert b"location: //" not in head.lower()


def test_headers_have_a_size(server: Hub) -> None:
    """T13, J08: a head that never ends costs no more than its limit."""
    many = b"GET /healthz HTTP/1.1\r\n" + _HOST + b"".join(b"x-%d: %s\r\n" % (n, b"a" * 1_000) for n in range(200))
    assert is_refused(talk(server, many), 431)
    one = b"GET /healthz HTTP/1.1\r\n" + _HOST + b"x-a: "
    assert is_refused(talk(server, one, *[b"a" * 16_384] * 10), 431)
    long = b"GET /healthz?" + b"a" * (2 * MAX_HEADER_BYTES) + b" HTTP/1.1\r\n" + _HOST + b"\r\n"
    assert is_refused(talk(server, long), 431)
    chunked = b"POST /login HTTP/1.1\r\n" + _HOST + b"transfer-encoding: chunked\r\n\r\n0\r\nx-a: "
    # The request itself may be answered before its trailers have arrived.
    said = talk(server, chunked, *[b"a" * 16_384] * 10)
    assert not said or b"HTTP/1.1 431 " in said, "trailers are bounded too"
    within = b"GET /healthz HTTP/1.1\r\n" + _HOST + b"connection: close\r\nx-a: " + b"a" * 30_000 + b"\r\n\r\n"
    assert talk(server, within).startswith(b"HTTP/1.1 200 ")


def test_bodies_have_a_size(server: Hub) -> None:
    """B04: by whichever way the size is told, or not told."""
    form = b"content-type: application/x-www-form-urlencoded\r\n"
    chunks = [b"4000\r\n" + b"a" * 0x4000 + b"\r\n"] * 20
    for target, status in ((b"/login", 413), (b"/oauth2/token", 413), (b"/oauth2/authorize", 400)):
        head = b"POST " + target + b" HTTP/1.1\r\n" + _HOST + form + b"connection: close\r\n"
        said = talk(server, head + b"transfer-encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n")
        assert is_refused(said, status), said[:200]
        said = talk(server, head + b"content-length: 200000\r\n\r\n", b"a" * 200_000)
        assert is_refused(said, status), said[:200]
        slightly = head + b"content-length: 65600\r\n\r\n" + b"a" * 65_600
        assert talk(server, slightly).startswith(b"HTTP/1.1 %d " % status)
    head = b"POST /api/v1/people HTTP/1.1\r\n" + _HOST + b"content-type: application/json\r\nconnection: close\r\n"
    said = talk(server, head + b"content-length: 9000000\r\n\r\n", b"a" * 1_000)
    assert said.startswith(b"HTTP/1.1 422 "), "by what it says, before it has come"
    assert is_refused(talk(server, head + b"transfer-encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"), 422)


def test_an_upgrade_is_no_way_around(server: Hub) -> None:
    """A handshake is an ordinary request here, and is refused as one."""
    head = b"GET /hr HTTP/1.1\r\n" + _HOST + b"connection: upgrade\r\nupgrade: websocket\r\n"
    said = talk(
        server, head + b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", wait=2
    )
    assert not said.startswith((b"HTTP/1.1 101", b"HTTP/1.1 2", b"HTTP/1.1 5")), said[:200]


def test_requests_behind_each_other_are_answered_in_order(server: Hub) -> None:
    """What is no attack: two whole requests in one piece are two answers."""
    first = b"GET /healthz HTTP/1.1\r\n" + _HOST + b"\r\n"
    second = b"GET /nothing HTTP/1.1\r\n" + _HOST + b"connection: close\r\n\r\n"
    said = talk(server, first + second)
    assert re.findall(rb"HTTP/1.1 ([0-9]{3}) ", said) == [b"200", b"404"]


# ---------------------------------------------------------------------- who sends slowly, or breaks off

SLOW = (
    b"/logout",
    b"/saml/sso",
    b"/saml/slo/soap",
    b"/hr/people/per_x/suspend",
    b"/login/first",
    b"/wsfed",
    b"/scim/v2/Users",
)
_FORM = b"content-type: application/x-www-form-urlencoded\r\n"
_SLOW_ONES = 40
"""More than all places of those who work at once, and of what ends an access."""


def ask(server: Hub, target: bytes, method: bytes = b"GET") -> tuple[int, float]:
    """Status of an answer, and after how many seconds it was there."""
    began = time.monotonic()
    said = talk(
        server, method + b" " + target + b" HTTP/1.1\r\n" + _HOST + b"content-length: 0\r\nconnection: close\r\n\r\n"
    )
    return int(said[9:12] or b"0"), time.monotonic() - began


def opened(server: Hub, data: bytes) -> socket.socket:
    """A connection on which somebody has begun to say something."""
    connection = socket.create_connection(("127.0.0.1", server.server.port), timeout=5)
    connection.sendall(data)
    return connection


@pytest.mark.parametrize("target", SLOW)
def test_who_does_not_send_the_body_holds_no_place(server: Hub, target: bytes) -> None:
    """D16: forty connections without a token kept every page, and every leave, waiting for 30 seconds."""
    head = b"POST " + target + b" HTTP/1.1\r\n" + _HOST + _FORM + b"content-length: 100\r\n\r\na="
    with ExitStack() as slow:
        for _ in range(_SLOW_ONES):
            slow.enter_context(opened(server, head))
        time.sleep(0.2)
        for method, asked, expected in (
            (b"GET", b"/account", 303),
            (b"POST", b"/api/v1/people/per_1/suspend", 401),
            (b"GET", b"/healthz", 200),
        ):
            status, seconds = ask(server, asked, method)
            assert status == expected
            assert seconds < 3


def _files(server: Hub) -> int:
    process = server.server._process
    assert process is not None
    return sum(1 for _ in (Path("/proc") / str(process.pid) / "fd").iterdir())


def _logged(server: Hub) -> list[dict[str, object]]:
    lines = (server.folder / "hub.log").read_bytes().splitlines()
    return [orjson.loads(line) for line in lines if line.startswith(b"{")]


def test_who_breaks_off_leaves_nothing_behind(server: Hub) -> None:
    """At every stage, at every kind of endpoint: no file stays open, nothing is called a fault of ours."""
    targets = (
        *SLOW, b"/login", b"/oauth2/token", b"/oauth2/authorize", b"/oauth2/introspect", b"/cas/samlValidate",
        b"/api/v1/people", b"/scim/v2/Bulk", b"/scim/v2/Users/.search", b"/account/security", b"/nothing",
    )  # fmt: skip
    assert ask(server, b"/account")[0] == 303
    before, said = _files(server), len(_logged(server))
    for target in targets:
        start = b"POST " + target + b" HTTP/1.1\r\n" + _HOST + _FORM
        whole = start + b"content-length: 4\r\n\r\na=bc"
        for stage in (
            start[:9], start, start + b"content-length: 100\r\n\r\n", start + b"content-length: 100\r\n\r\na=",
            start + b"transfer-encoding: chunked\r\n\r\n5\r\na=",
            start + b"content-length: 90000\r\n\r\n" + b"a" * 70_000,
            whole, whole * 3, whole + start,
        ):  # fmt: skip
            opened(server, stage).close()
    deadline = time.monotonic() + 10
    while _files(server) > before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _files(server) <= before
    new = _logged(server)[said:]
    assert not [line for line in new if line.get("level") == "error" or line.get("status") == 500], new
    assert ask(server, b"/account")[1] < 3


def test_a_stranger_does_not_fill_the_memory_with_a_bulk_request(server: Hub) -> None:
    """Ten megabytes are read of whoever has a token; of anybody else not even a thirtieth of them."""
    head = b"POST /scim/v2/Bulk HTTP/1.1\r\n" + _HOST + b"content-type: application/scim+json\r\n"
    for token in (b"", b"authorization: Bearer idh_api_made.up\r\n"):
        with opened(server, head + token + b"content-length: 9000000\r\n\r\n") as connection:
            connection.sendall(b"a" * 400_000)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 401 ")
