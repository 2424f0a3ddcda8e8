"""The load generator of `make bench`: raw sockets on uvloop, keep-alive, every answer checked.

A process of its own, pinned to a core of its own. It reads a plan (JSON) on stdin and prints figures (JSON). An answer
with another status, or without the marker that the plan names, ends the run: errors never count as speed.

    {"port": 8000, "connections": 32, "seconds": 3, "warmup": 0.5, "load": {"kind": "fixed", ...}, "probes": [...]}

`fixed` sends the same request over and over. `sign_in` walks as a browser does from the authorization request through
the form to the code, and redeems it; `renew` does the same with a browser that is signed in already. Probes are fixed
requests at a steady pace beside the load: what others notice of it.
"""

import asyncio
import base64
import hashlib
import html
import json
import math
import re
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import uvloop

from tests.benchmarks.figures import quantile

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")
_COOKIE = re.compile(r"(?i)\r\nset-cookie: *([^=]+)=([^;\r]*)([^\r]*)")
_LOCATION = re.compile(r"(?i)\r\nlocation: *([^\r]+)")
_FORM = re.compile(r'<form\b[^>]*\baction="([^"]*)".*?</form>', re.DOTALL)
_INPUT = re.compile(r"<input\b[^>]*>")
_ATTRIBUTE = re.compile(r'\b(name|value)="([^"]*)"')
_MOST_STEPS = 12
VERIFIER = "bench-verifier-bench-verifier-bench-verifier-0"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


class Wrong(Exception):
    """An answer that is not the one expected."""


@dataclass(slots=True)
class Answer:
    """One answer."""

    status: int
    head: str
    body: bytes


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request in flight; `on_answer` is called with head and body."""

    def __init__(self) -> None:
        self._buffer = b""
        self._needed = 0
        self._head_size = 0
        self.transport: asyncio.Transport | None = None
        self.on_answer: Callable[[bytes, int], None] | None = None
        self.on_lost: Callable[[Exception], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        if not self._needed:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = buffer
                return
            found = _LENGTH.search(buffer, 0, end)
            self._head_size = end + 4
            self._needed = self._head_size + (int(found[1]) if found else 0)
        if len(buffer) < self._needed:
            self._buffer = buffer
            return
        self._buffer, self._needed = b"", 0
        assert self.on_answer is not None
        self.on_answer(buffer, self._head_size)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.on_lost is not None:
            self.on_lost(exc or ConnectionResetError("the server closed the connection"))

    def send(self, request: bytes) -> None:
        assert self.transport is not None
        self.transport.write(request)

    async def ask(self, request: bytes) -> Answer:
        """Send and await the answer."""
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def answered(raw: bytes, size: int) -> None:
            done.set_result(Answer(int(raw[9:12]), raw[:size].decode("latin-1"), raw[size:]))

        def lost(error: Exception) -> None:
            if not done.done():
                done.set_exception(error)

        self.on_answer, self.on_lost = answered, lost
        self.send(request)
        return await done


@dataclass
class Run:
    """What is measured: how long each piece of work took, and when it ended."""

    port: int
    measured_from: float = 0.0
    ends_at: float = 0.0
    took: list[float] = field(default_factory=list)
    refused: dict[int, int] = field(default_factory=dict)
    connections: list[Connection] = field(default_factory=list)

    async def connect(self) -> Connection:
        """A new connection, open until the end of the run."""
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self.port)
        self.connections.append(connection)
        return connection

    def close(self) -> None:
        """Close every connection."""
        for connection in self.connections:
            connection.on_lost = None
            if connection.transport is not None:
                connection.transport.abort()


def request_bytes(
    method: str, path: str, *, body: bytes = b"", headers: Sequence[tuple[str, str]] = (), port: int = 0
) -> bytes:
    """A request on the wire."""
    lines = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{port}", *(f"{name}: {value}" for name, value in headers)]
    if method == "POST":
        lines += ["content-type: application/x-www-form-urlencoded", f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def fixed_request(plan: dict[str, Any], port: int) -> bytes:
    """The request of a `fixed` load."""
    return request_bytes(
        plan.get("method", "GET"),
        plan["path"],
        body=plan.get("body", "").encode(),
        headers=[tuple(pair) for pair in plan.get("headers", [])],
        port=port,
    )


def _checker(plan: dict[str, Any]) -> Callable[[bytes], None]:
    status, marker = b"HTTP/1.1 %d " % plan.get("status", 200), plan["marker"].encode()

    def check(raw: bytes) -> None:
        if not raw.startswith(status) or marker not in raw:
            raise Wrong(raw[:600].decode("latin-1"))

    return check


async def _fixed(run: Run, plan: dict[str, Any]) -> None:
    """Send the same request until the end; no coroutine per request, so that one core makes enough of them."""
    connection = await run.connect()
    request, check, clock = fixed_request(plan, run.port), _checker(plan), time.perf_counter
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    sent_at = clock()

    def answered(raw: bytes, _size: int) -> None:
        nonlocal sent_at
        now = clock()
        try:
            check(raw)
        except Wrong as error:
            if not finished.done():
                finished.set_exception(error)
            return
        if now >= run.measured_from:
            run.took.append(now - sent_at)
        if now >= run.ends_at:
            if not finished.done():
                finished.set_result(None)
            return
        sent_at = now
        connection.send(request)

    def lost(error: Exception) -> None:
        if not finished.done():
            finished.set_exception(error)

    connection.on_answer, connection.on_lost = answered, lost
    connection.send(request)
    await finished


async def probe(run: Run, plan: dict[str, Any]) -> None:
    """Send a fixed request `rate` times a second; a late answer delays nothing but itself."""
    check, clock = _checker(plan), time.perf_counter
    request, interval = fixed_request(plan, run.port), 1 / plan["rate"]
    # As many as are late at once when each takes more than half a second: else the next ones wait here, and are late.
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(math.ceil(plan["rate"] / 2)):
        free.put_nowait(await run.connect())

    async def ask(connection: Connection, due: float) -> None:
        answer = await connection.ask(request)
        check(answer.head.encode("latin-1") + answer.body)
        now = clock()
        if now >= run.measured_from:
            # From when it was due: a queue in front of the server counts (no coordinated omission).
            run.took.append(now - due)
        free.put_nowait(connection)

    due = clock()
    async with asyncio.TaskGroup() as asking:
        while due < run.ends_at:
            await asyncio.sleep(max(0.0, due - clock()))
            asking.create_task(ask(await free.get(), due))
            due += interval


class Browser:
    """Walks through a sign-in."""

    def __init__(self, run: Run, connection: Connection, plan: dict[str, Any], username: str) -> None:
        self._run = run
        self._connection = connection
        self._plan = plan
        self._username = username
        self._password = plan["password"] + (f" {username}" if plan.get("own_passwords") else "")
        # Each person comes from a place of their own, as behind a proxy: one address for all would be throttled.
        number = int(username[-6:])
        address = f"10.1.{number >> 8}.{number & 255}"
        self._forwarded = [("x-forwarded-for", address)] if plan.get("own_addresses") else []
        self.cookies: dict[str, str] = {}
        query = {
            "response_type": "code",
            "client_id": plan["client_id"],
            "redirect_uri": plan["redirect_uri"],
            "scope": plan["scope"],
            "state": "st-1",
            "nonce": "no-1",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
        }
        self._start = plan["authorize"] + "?" + urlencode(query)

    async def sign_in(self) -> dict[str, Any]:
        """From the authorization request to the tokens."""
        code = await self._walk(self._start)
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._plan["redirect_uri"],
            "code_verifier": VERIFIER,
        }
        request = request_bytes(
            "POST",
            self._plan["token"],
            body=urlencode(fields).encode(),
            headers=[("authorization", self._plan["authorization"])],
            port=self._run.port,
        )
        answer = await self._connection.ask(request)
        if answer.status != 200 or b'"id_token"' not in answer.body:
            raise Wrong(answer.head + answer.body[:600].decode("latin-1"))
        tokens: dict[str, Any] = json.loads(answer.body)
        return tokens

    async def _walk(self, url: str) -> str:
        body: bytes | None = None
        for _ in range(_MOST_STEPS):
            answer = await self._visit(url, body)
            if answer.status in {302, 303}:
                found = _LOCATION.search(answer.head)
                if found is None:
                    raise Wrong(answer.head)
                target = found[1].strip()
                if target.startswith(self._plan["redirect_uri"]):
                    query = parse_qs(urlsplit(target).query)
                    if "code" not in query:
                        raise Wrong(target)
                    return query["code"][0]
                url, body = urljoin(url, target), None
                continue
            if answer.status == 503 and body is not None:
                raise Busy
            if answer.status != 200 or body is not None:
                raise Wrong(answer.head + answer.body[:600].decode("utf-8", "replace"))
            url, body = self._fill(url, answer.body.decode())
        raise Wrong("too many steps")

    async def _visit(self, url: str, body: bytes | None) -> Answer:
        parts = urlsplit(url)
        path = parts.path + ("?" + parts.query if parts.query else "")
        headers = [("accept", "text/html"), *self._forwarded]
        if self.cookies:
            headers.append(("cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items())))
        if body is not None:
            headers.append(("origin", f"http://127.0.0.1:{self._run.port}"))
        method = "GET" if body is None else "POST"
        request = request_bytes(method, path, body=body or b"", headers=headers, port=self._run.port)
        answer = await self._connection.ask(request)
        for name, value, attributes in _COOKIE.findall(answer.head):
            if "1970" in attributes or "max-age=0" in attributes.lower():
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return answer

    def _fill(self, url: str, page: str) -> tuple[str, bytes]:
        form = next((one for one in _FORM.finditer(page) if 'name="password"' in one[0]), None)
        if form is None:
            raise Wrong(page[:600])
        fields: dict[str, str] = {}
        for element in _INPUT.findall(form[0]):
            attributes = {name: html.unescape(value) for name, value in _ATTRIBUTE.findall(element)}
            if "checkbox" not in element and "name" in attributes:
                fields[attributes["name"]] = attributes.get("value", "")
        fields |= {"username": self._username, "password": self._password}
        return urljoin(url, html.unescape(form[1])), urlencode(fields).encode()


class Busy(Exception):
    """503: the server says that it has too much to do."""


async def _sign_in(run: Run, plan: dict[str, Any], number: int) -> None:
    """A new browser each time; the connection stays."""
    connection, names, turn = await run.connect(), plan["usernames"], number
    while time.perf_counter() < run.ends_at:
        browser = Browser(run, connection, plan, names[turn % len(names)])
        turn += plan.get("stride", 1)
        began = time.perf_counter()
        try:
            await browser.sign_in()
        except Busy:
            run.refused[503] = run.refused.get(503, 0) + 1
            # As Retry-After asks, in small: whoever is refused does not come back at once.
            await asyncio.sleep(0.05)
            continue
        now = time.perf_counter()
        if run.measured_from <= now <= run.ends_at:
            run.took.append(now - began)


async def _renew(run: Run, plan: dict[str, Any], number: int) -> None:
    """One browser that stays signed in and enters the application again and again."""
    names = plan["usernames"]
    browser = Browser(run, await run.connect(), plan, names[number % len(names)])
    while True:
        try:
            await browser.sign_in()
        except Busy:
            await asyncio.sleep(0.2)
        else:
            break
    while time.perf_counter() < run.ends_at:
        began = time.perf_counter()
        await browser.sign_in()
        now = time.perf_counter()
        if run.measured_from <= now <= run.ends_at:
            run.took.append(now - began)


def _work(run: Run, plan: dict[str, Any], number: int) -> Coroutine[Any, Any, None]:
    if plan["kind"] == "fixed":
        return _fixed(run, plan)
    return _sign_in(run, plan, number) if plan["kind"] == "sign_in" else _renew(run, plan, number)


def _figures(run: Run, seconds: float) -> dict[str, Any]:
    took = run.took
    if not took:
        return {"rate": 0.0, "count": 0}
    return {
        "rate": len(took) / seconds,
        "count": len(took),
        "p50_ms": quantile(took, 0.5) * 1000,
        "p99_ms": quantile(took, 0.99) * 1000,
        "max_ms": max(took) * 1000,
        "refused": run.refused,
    }


async def measure(plan: dict[str, Any]) -> dict[str, Any]:
    """Run a plan; returns figures of the load and of each probe.

    Raises:
        Wrong: an answer was not the expected one.
    """
    began = time.perf_counter()
    loads, probes = [plan["load"]] if plan.get("load") else [], plan.get("probes", [])
    runs = [Run(plan["port"]) for _ in (*loads, *probes)]
    for run in runs:
        run.measured_from = began + plan["warmup"]
        run.ends_at = run.measured_from + plan["seconds"]
    work: list[Coroutine[Any, Any, None]] = [
        _work(runs[0], load, number) for load in loads for number in range(plan["connections"])
    ]
    work += [probe(run, one) for run, one in zip(runs[len(loads) :], probes, strict=True)]
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        # Whoever still connects when another one ends the run would leave a connection that nobody closes.
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for run in runs:
            run.close()
    figures = [_figures(run, plan["seconds"]) for run in runs]
    return {"load": figures[0] if loads else None, "probes": figures[len(loads) :]}


class _Trivial(asyncio.Protocol):
    """Answers every packet with the same bytes: what the generator is measured against."""

    _ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._ANSWER)


async def _serve_trivially(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Trivial, "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Measure by the plan on stdin; with `--serve PORT`, be the server that the generator is measured against."""
    if sys.argv[1:2] == ["--serve"]:
        uvloop.run(_serve_trivially(int(sys.argv[2])))
        return
    try:
        figures = uvloop.run(measure(json.load(sys.stdin)))
    except (Wrong, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
