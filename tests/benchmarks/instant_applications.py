"""Many SCIM services in one process that answer at once and honestly: the other side of the leaving benchmarks.

    python -m tests.benchmarks.instant_applications COUNT [empty]

Prints its ports as a JSON list, one a service, then serves until its standard input ends. Every principal has an
active account `u.{externalId}` in every service until a PATCH or PUT switches it off; in an empty one nobody has any
until it is made. What a request takes does not grow with the accounts. Written without anything of
`scim` or `idhub`, on bare protocols, so that what is measured is the hub.

`GET /control/seen` of any port answers what has arrived, by port; `POST /control/hang/PORT` makes one service take
requests and never answer; `POST /control/reset` forgets what has arrived and lets every service answer.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast
from urllib.parse import parse_qs, unquote, urlsplit

import orjson
import uvloop

_PREFIX = "/scim/v2/Users"
_GROUPS = "/scim/v2/Groups"


class Service:
    """One application: who is switched off, and when what arrived (`time.monotonic`, the same for all processes)."""

    def __init__(self, *, is_empty: bool = False) -> None:
        self.off: set[str] = set()
        self.made: set[str] | None = set() if is_empty else None
        """Accounts that were made here, where others are none."""
        self.members: list[dict[str, str]] | None = None
        """Of the one group, once it is made."""
        self.reset()

    def reset(self) -> None:
        """Forget what has arrived, and answer again; accounts stay as they are."""
        self.is_silent = False
        self.first_at: float | None = None
        self.changed_at: float | None = None
        self.counts: dict[str, int] = {}

    def seen(self) -> dict[str, object]:
        """What has arrived so far."""
        return {
            "first_at": self.first_at,
            "changed_at": self.changed_at,
            "counts": self.counts,
            "off": len(self.off),
            "made": len(self.made or ()),
            "members": len(self.members or ()),
        }

    def user(self, user_id: str) -> dict[str, object] | None:
        """The account as the service shows it."""
        if not user_id.startswith("u.") or (self.made is not None and user_id not in self.made):
            return None
        return {
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
            "id": user_id,
            "externalId": user_id[2:],
            "userName": user_id[2:],
            "active": user_id not in self.off,
        }

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """Status and body for one request."""
        now = time.monotonic()
        self.first_at = self.first_at or now
        kind = method if method != "GET" or "?" not in target else "search"
        self.counts[kind] = self.counts.get(kind, 0) + 1
        parts = urlsplit(target)
        if parts.path.startswith(_GROUPS):
            return self._answer_of_group(method, body, is_search=kind == "search")
        user_id = unquote(parts.path.removeprefix(_PREFIX).lstrip("/"))
        if kind == "search":
            wanted = parse_qs(parts.query)["filter"][0].partition(" eq ")[2].strip('"')
            found = self.user(f"u.{wanted}") if wanted.startswith("per_") else None
            users = [] if found is None else [found]
            return 200, orjson.dumps({"totalResults": len(users), "Resources": users})
        if method == "POST":
            created = orjson.loads(body)
            user_id = f"u.{created['externalId']}"
            self.off.discard(user_id)
            if self.made is not None:
                self.made.add(user_id)
            return 201, orjson.dumps(self.user(user_id))
        user = self.user(user_id)
        if user is None:
            return 404, b"{}"
        if method in {"PATCH", "PUT"}:
            self.changed_at = now
            said = orjson.loads(body)
            operations = said.get("Operations", [{"path": "active", "value": said.get("active")}])
            for operation in operations:
                if operation["path"] == "active":
                    (self.off.discard if operation["value"] is True else self.off.add)(user_id)
            return 204, b""
        return 200, orjson.dumps(user)

    def _answer_of_group(self, method: str, body: bytes, *, is_search: bool) -> tuple[int, bytes]:
        """There is one group at most, to which members are only added."""
        if is_search:
            return 200, orjson.dumps({"totalResults": 0, "Resources": []})
        said = orjson.loads(body) if body else {}
        if method == "POST":
            self.members = said.get("members", [])
        elif self.members is None:
            return 404, b"{}"
        elif method == "PATCH":
            for one in said["Operations"]:
                self.members += one["value"]
            return 204, b""
        return 201 if method == "POST" else 200, orjson.dumps({"id": "g.1", "members": self.members})


class Connection(asyncio.Protocol):
    """HTTP/1.1 as far as a client of ours speaks it: Content-Length, keep-alive, no pipelining."""

    def __init__(self, service: Service, services: dict[int, Service]) -> None:
        self._service = service
        self._services = services
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to answer."""
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer every request that has arrived whole."""
        self._buffer += data
        while True:
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            self._respond(method, target, rest[:length])

    def _respond(self, method: str, target: str, body: bytes) -> None:
        assert self._transport is not None
        if target.startswith("/control/"):
            status, answer = self._control(target)
        elif self._service.is_silent:
            return
        else:
            status, answer = self._service.answer(method, target, body)
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/scim+json\r\nContent-Length: {len(answer)}\r\n\r\n"
        self._transport.write(head.encode() + answer)

    def _control(self, target: str) -> tuple[int, bytes]:
        if target == "/control/reset":
            for service in self._services.values():
                service.reset()
        elif target.startswith("/control/hang/"):
            self._services[int(target.rpartition("/")[2])].is_silent = True
        seen = {str(port): service.seen() for port, service in self._services.items()}
        return 200, orjson.dumps(seen)


async def serve(count: int, *, is_empty: bool) -> None:
    """Listen on `count` ports until standard input ends."""
    loop = asyncio.get_running_loop()
    services: dict[int, Service] = {}
    servers = []
    for _ in range(count):
        service = Service(is_empty=is_empty)
        server = await loop.create_server(
            lambda service=service: Connection(service, services),  # type: ignore[misc]
            "127.0.0.1",
            0,
            backlog=256,
        )
        services[server.sockets[0].getsockname()[1]] = service
        servers.append(server)
    print(orjson.dumps(list(services)).decode(), flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    for server in servers:
        server.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), is_empty="empty" in sys.argv[2:]))
