"""Downstream stand-ins: small SCIM services on real sockets of 127.0.0.1, honest or not.

Written without anything of `scim` or `idhub`, so that a misreading there is not repeated here.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

Behaviour = Literal["good", "slow", "failing", "lying", "silent"]
_FILTER = re.compile(r'(?P<name>externalId|userName) eq (?P<value>"(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    filter: str | None
    authorization: str | None
    body: Any
    delivery: str | None = field(default=None, compare=False)
    """X-Idhub-Delivery."""
    at: float = field(default=0.0, compare=False)
    """When it came, in seconds since 1970."""


@dataclass
class StandIn:
    """A SCIM service.

    Behaviours: good; slow (waits `delay` before each answer); failing (503 with Retry-After); lying (answers 200 to a
    change and changes nothing); silent (takes the request and never answers).

    Args:
        token: bearer token it wants; others get 401 with an answer that repeats what was sent.
        behaviour: may be changed while it runs.
        hang_after_create: creates the next user and never answers (the connection stays open).
        before: called with method and user id (or "") before each answer of a service that answers.
        page_size: how many users a list sends at most.
        refuses_creates: answers every create with 400 and this text; None: it creates.
        offers_cursor: says in its configuration that lists can be read by cursor (RFC 9865).
        on_list: given what was asked and the page that would be sent, returns the one to send; None: 500.
    """

    behaviour: Behaviour = "good"
    token: str = "stand-in-token"
    delay: float = 0.3
    retry_after: int = 7
    hang_after_create: bool = False
    omits_active: bool = False
    refuses_creates: str | None = None
    before: Callable[[str, str], None] | None = None
    page_size: int = 100
    offers_cursor: bool = False
    on_list: Callable[[dict[str, int | str], dict[str, Any]], dict[str, Any] | None] | None = None
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None
    _released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        stand_in = self

        class Handler(_Handler):
            @property
            def service(self) -> StandIn:
                return stand_in

        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._released.set()
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.server_address[1])

    @property
    def base_url(self) -> str:
        """SCIM base URL."""
        return f"http://127.0.0.1:{self.port}/scim/v2"

    def add(self, user_name: str, *, external_id: str | None = None, active: bool = True, **more: Any) -> str:
        """Put a user there by hand; returns its id."""
        user_id = f"u{len(self.users) + 1}"
        user: dict[str, Any] = {"id": user_id, "userName": user_name, "active": active, **more}
        if external_id is not None:
            user["externalId"] = external_id
        self.users[user_id] = user
        return user_id

    def writes(self) -> list[Seen]:
        """Requests that meant to change something."""
        return [one for one in self.seen if one.method != "GET"]

    def wait_for_release(self, seconds: float = 60) -> None:
        """Sit on a request until the service stops, or until `seconds` have passed."""
        self._released.wait(seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The default of 5 drops connections of a burst, and each then waits a second for its repeated SYN.
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    @property
    def service(self) -> StandIn:
        raise NotImplementedError

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PATCH(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""

    def _handle(self) -> None:
        service = self.service
        length = int(self.headers.get("Content-Length") or 0)
        body: Any = json.loads(self.rfile.read(length)) if length else None
        parts = urlsplit(self.path)
        asked = parse_qs(parts.query).get("filter", [None])[0]
        authorization = self.headers.get("Authorization")
        delivery = self.headers.get("X-Idhub-Delivery")
        service.seen.append(Seen(self.command, parts.path, asked, authorization, body, delivery, time.time()))
        if service.behaviour == "silent":
            service.wait_for_release()
            return
        if service.behaviour == "slow":
            time.sleep(service.delay)
        if service.behaviour == "failing":
            self._answer(503, {"detail": f"maintenance, {authorization}"}, retry_after=service.retry_after)
            return
        if authorization != f"Bearer {service.token}":
            self._answer(401, {"detail": f"{authorization} is not welcome"})
            return
        user_id = unquote(parts.path.removeprefix("/scim/v2/Users").lstrip("/"))
        if service.before is not None:
            service.before(self.command, user_id)
        match self.command:
            case "GET" if parts.path.endswith("/ServiceProviderConfig"):
                self._answer(200, {"pagination": {"cursor": service.offers_cursor, "index": True}})
            case "GET" if user_id:
                self._get(user_id)
            case "GET" if asked is None:
                self._list({name: value[0] for name, value in parse_qs(parts.query, keep_blank_values=True).items()})
            case "GET":
                self._search(asked)
            case "POST":
                self._create(body)
            case _:
                self._change(user_id, body)

    def _get(self, user_id: str) -> None:
        user = self.service.users.get(user_id)
        if user is None:
            self._answer(404, {"detail": "no such user"})
            return
        self._answer(200, self._shown(user))

    def _shown(self, user: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in user.items() if k != "active"} if self.service.omits_active else user

    def _search(self, asked: str | None) -> None:
        match = _FILTER.fullmatch(asked or "")
        if match is None:
            self._answer(400, {"scimType": "invalidFilter", "detail": "cannot read that"})
            return
        name, value = match["name"], json.loads(match["value"])
        fold = str.lower if name == "userName" else str
        found = [user for user in self.service.users.values() if fold(str(user.get(name, ""))) == fold(value)]
        self._answer(200, {"totalResults": len(found), "Resources": [self._shown(user) for user in found]})

    def _list(self, query: dict[str, Any]) -> None:
        service = self.service
        users = [self._shown(user) for user in list(service.users.values())]
        count = min(int(query.get("count", service.page_size)), service.page_size)
        place = int(query["cursor"] or 0) if "cursor" in query else max(int(query.get("startIndex", 1)), 1) - 1
        page = users[place : place + count]
        answer: dict[str, Any] = {"totalResults": len(users), "itemsPerPage": len(page), "Resources": page}
        if "cursor" not in query:
            answer["startIndex"] = place + 1
        elif place + count < len(users):
            answer["nextCursor"] = str(place + count)
        if service.on_list is not None:
            changed = service.on_list(query, answer)
            if changed is None:
                self._answer(500, {"detail": "that page is broken"})
                return
            answer = changed
        self._answer(200, answer)

    def _create(self, body: dict[str, Any]) -> None:
        service = self.service
        if service.refuses_creates is not None:
            self._answer(400, {"scimType": "invalidValue", "detail": service.refuses_creates})
            return
        if any(user["userName"].lower() == body["userName"].lower() for user in service.users.values()):
            self._answer(409, {"scimType": "uniqueness", "detail": "userName is taken"})
            return
        user_id = service.add(user_name=body["userName"])
        service.users[user_id].update(body, id=user_id)
        if service.hang_after_create:
            service.hang_after_create = False
            service.wait_for_release()
            return
        self._answer(201, service.users[user_id])

    def _change(self, user_id: str, body: dict[str, Any]) -> None:
        user = self.service.users.get(user_id)
        if user is None:
            self._answer(404, {"detail": "no such user"})
            return
        if self.service.behaviour == "lying":
            self._answer(200, {**user, "active": False})
            return
        if self.command == "PUT":
            self.service.users[user_id] = {**body, "id": user_id}
        else:
            for operation in body["Operations"]:
                self._apply(user, operation)
        self._answer(200, self.service.users[user_id])

    @staticmethod
    def _apply(user: dict[str, Any], operation: dict[str, Any]) -> None:
        schema, _, name = operation["path"].rpartition(":")
        holder = user.setdefault(schema, {}) if schema else user
        if operation["op"] == "remove":
            holder.pop(name, None)
        else:
            holder[name] = operation["value"]

    def _answer(self, status: int, body: dict[str, Any], *, retry_after: int | None = None) -> None:
        content = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/scim+json")
            self.send_header("Content-Length", str(len(content)))
            if retry_after is not None:
                self.send_header("Retry-After", str(retry_after))
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the caller had no patience
