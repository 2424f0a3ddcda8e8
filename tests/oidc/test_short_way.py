"""The embedded server's short way to the hot endpoints: the same answers as through ASGI, in order, within bounds."""

import asyncio
import base64
import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn

from idhub.app import HubApp
from idhub.cli.protocol import BoundedProtocol, _Exchange
from idhub.credentials.journal import Journal
from idhub.credentials.store import create_store
from idhub.logs import RequestLog
from idhub.oidc.front import Direct, create_hot
from idhub.oidc.parameters import MAX_BODY
from tests.oidc.world import App, Services, World

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)

DISCOVERY = b"/.well-known/openid-configuration"
# Through ASGI, on the same address: a fragment is no part of the path, and no key of the short way.
LONG = {b"%b" % path: b"%b#" % path for path in (DISCOVERY, b"/oauth2/token", b"/oauth2/userinfo", b"/oauth2/jwks")}


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[int]:
    store = create_store(world.settings, world.database, world.keyring)
    services = Services(world.settings, world.database, world.keyring, world.clock, store, Journal(store))
    application = HubApp()
    endpoints = create_hot(services)[1]
    logs = {path: RequestLog(one, settings=world.settings) for path, one in endpoints.items()}
    application.front = logs
    application.direct = {path.encode(): Direct(one, logs[path], path) for path, one in endpoints.items()}
    config = uvicorn.Config(
        application, port=0, http=BoundedProtocol, lifespan="off", log_config=None, access_log=False,
        server_header=False, proxy_headers=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    # Behind a wrapper of uvicorn's nothing would go the short way, and every test here would pass.
    assert config.loaded_app is application
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running
        await store.close()


async def said(port: int, *parts: bytes) -> bytes:
    """Everything that comes back, until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.02)
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


def ask(world: World, *parts: bytes) -> bytes:
    async def run() -> bytes:
        async with serving(world) as port:
            return await said(port, *parts)

    return asyncio.run(run())


def request(method: bytes, path: bytes, *headers: bytes, body: bytes | None = None, close: bool = True) -> bytes:
    lines = [method + b" " + path + b" HTTP/1.1", b"host: idhub", *headers]
    if body is not None:
        lines += [b"content-type: application/x-www-form-urlencoded", b"content-length: %d" % len(body)]
    if close:
        lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def comparable(raw: bytes) -> tuple[bytes, set[bytes], bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    assert any(one.startswith(b"x-request-id: req_") for one in headers)
    assert any(one.startswith(b"date: ") for one in headers)
    return status, {one for one in headers if not one.startswith((b"x-request-id", b"date"))}, body


CASES: list[tuple[bytes, bytes, list[bytes], bytes | None]] = [
    (b"GET", DISCOVERY, [], None),
    (b"HEAD", DISCOVERY, [], None),
    (b"POST", DISCOVERY, [], b"a=b"),
    (b"GET", b"/oauth2/jwks", [], None),
    (b"GET", b"/oauth2/token", [], None),
    (b"POST", b"/oauth2/token", [], b"grant_type=client_credentials"),
    (b"POST", b"/oauth2/token", [b"authorization: Basic x", b"authorization: Basic y"], b"grant_type=x"),
    (b"POST", b"/oauth2/token", [], b"a=" + b"x" * MAX_BODY),
    (b"GET", b"/oauth2/userinfo", [], None),
    (b"GET", b"/oauth2/userinfo", [b"authorization: Bearer nonsense"], None),
]


def test_both_ways_give_the_same_answer(world: World) -> None:
    async def run() -> None:
        async with serving(world) as port:
            for method, path, headers, body in CASES:
                short = await said(port, request(method, path, *headers, body=body))
                long = await said(port, request(method, LONG[path], *headers, body=body))
                assert comparable(short) == comparable(long), (method, path)

    asyncio.run(run())


def test_answers_come_in_the_order_of_their_requests(world: World, office: App) -> None:
    """One that needs the database, and behind it in the same packet one that does not: neither passes the other."""
    basic = base64.b64encode(f"{office.client_id}:wrong".encode())
    slow = request(b"POST", b"/oauth2/token", b"authorization: Basic " + basic, body=b"grant_type=x", close=False)
    quick = request(b"GET", DISCOVERY, close=False)
    raw = ask(world, slow + quick + slow + request(b"GET", b"/oauth2/jwks"))
    statuses = [int(part[:3]) for part in raw.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [401, 200, 401, 200]
    assert raw.index(b'"issuer"') < raw.index(b'"keys"')


def test_a_body_in_pieces_is_read_whole_and_the_connection_goes_on(world: World) -> None:
    whole = request(b"POST", b"/oauth2/token", body=b"client_id=nobody&grant_type=authorization_code", close=False)
    middle = len(whole) - 20
    raw = ask(world, whole[:middle], whole[middle:], request(b"GET", b"/oauth2/jwks"))
    first, second = raw.split(b"HTTP/1.1 ")[1:]
    assert json.loads(first.partition(b"\r\n\r\n")[2])["error"] == "invalid_client"
    assert b'"keys"' in second


def test_who_announces_a_body_is_told_to_go_on(world: World) -> None:
    """RFC 9110 section 10.1.1: such a request goes the long way."""
    raw = ask(world, request(b"POST", b"/oauth2/token", b"expect: 100-continue", body=b"grant_type=x"))
    assert raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert b"HTTP/1.1 401 " in raw


def test_an_answer_to_http_1_0_closes(world: World) -> None:
    raw = ask(world, b"GET " + DISCOVERY + b" HTTP/1.0\r\nhost: idhub\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in raw


def test_what_was_asked_is_gone_when_it_is_answered(world: World) -> None:
    """A body may hold a password: it does not stay until the collector comes by, which then has nothing to do."""
    posted = b"POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n%b\r\na=b"
    asked = [b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % DISCOVERY, posted % b"", posted % b"Connection: close\r\n"]

    async def run() -> int:
        async with serving(world) as port:
            gc.collect()
            gc.disable()
            try:
                answered = await said(port, *asked)
                assert answered.count(b"HTTP/1.1 ") == len(asked)
                return sum(isinstance(one, _Exchange) for one in gc.get_objects())
            finally:
                gc.enable()

    # The last one may still be its connection's.
    assert asyncio.run(run()) <= 1
