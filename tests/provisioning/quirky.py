"""A SCIM service that is wrong on purpose, in ways that are switched on one by one, and that fails when told to.

Written without anything of `scim` or `idhub`, so that a misreading there is not repeated here. `QuirkyHttp` puts it
where the channel expects its way out; `asgi` serves it on a socket.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from idhub.delivery.http import OutboundResponse, OutboundTimeout

USER = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
_FILTER = re.compile(r'(?P<path>[A-Za-z0-9:.]+) eq (?P<value>"(?:[^"\\]|\\.)*")')
_MEMBER = re.compile(r'members\[value eq (?P<value>"(?:[^"\\]|\\.)*")\]')

Answer = tuple[int, dict[str, str], Any]


@dataclass(frozen=True)
class Quirks:
    """What is wrong with the service. Everything off: RFC 7643 and 7644 as far as the engine needs them."""

    no_patch: bool = False
    no_filter: bool = False
    small_names: bool = False
    """Names of attributes come back in lower case."""
    text_booleans: bool = False
    created_200: bool = False
    soft_delete: bool = False
    """DELETE switches an account off."""
    no_delete: bool = False
    no_active: bool = False
    """There is no `active`: an account is off when it is deleted."""
    gone_when_off: bool = False
    """Switching an account off by PATCH removes it."""
    no_external_id: bool = False
    id_is_external_id: bool = False
    """The id is the externalId of the create, which is never shown; names come back flat, as `name.formatted`."""
    only_created: tuple[str, ...] = ()
    """PATCH of these is answered as if it were done, and is not."""
    no_discovery: bool = False
    no_groups: bool = False
    no_rename: bool = False
    hides_members: bool = False
    number_ids: bool = False
    wraps_members: bool = False
    """Members of a PATCH come as `{"members": [...]}`; anything else is refused."""
    empty_is_404: bool = False
    capital_operations: bool = False
    single_values: bool = False
    small_user_names: bool = False
    keeps_versions: bool = False
    active_alone: bool = False
    members_by_value: bool = False
    required: tuple[str, ...] = ()
    most_members: int = 1_000
    page: int = 100
    says_patch: bool = True
    says_filter: bool = True


@dataclass
class Quirky:
    """The service. `fault` is asked before each request: a status to answer instead, or "lost" (done, no answer),
    "dropped" (not done, no answer), "late" (done before the request after next), None.
    """

    quirks: Quirks = field(default_factory=Quirks)
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: list[tuple[str, str, Any]] = field(default_factory=list)
    fault: Callable[[str, str], int | str | None] = lambda method, path: None
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every answer."""
    token: str = "tok"
    _late: list[tuple[int, Callable[[], Answer]]] = field(default_factory=list)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> Answer | None:
        """One request; None: no answer comes."""
        parts = urlsplit(url)
        path = unquote(parts.path).partition("/scim")[2] or parts.path
        self.seen.append((method, path, body))
        due = [work for at, work in self._late if at <= len(self.seen)]
        self._late = [(at, work) for at, work in self._late if at > len(self.seen)]
        for work in due:
            work()
        fault = self.fault(method, path)

        def done() -> Answer:
            return self._dispatch(method, path, parse_qs(parts.query), headers, body)

        if fault == "dropped":
            return None
        if fault == "lost":
            done()
            return None
        if fault == "late":
            self._late.append((len(self.seen) + 2, done))
            return None
        if isinstance(fault, int):
            return fault, {"Retry-After": "1"} if fault == 429 else {}, {"detail": "told to fail"}
        status, more, answer = done()
        return status, {**self.headers, **more}, self._spelled(answer)

    def finish(self) -> None:
        """Let everything that is late arrive."""
        for _, work in self._late:
            work()
        self._late = []

    def writes(self) -> list[tuple[str, str, Any]]:
        """Requests that meant to change something."""
        return [one for one in self.seen if one[0] != "GET"]

    def add_user(self, **values: Any) -> str:
        """An account that was there before the hub."""
        user_id = f"u{next(self._ids)}" if not self.quirks.number_ids else str(next(self._ids))
        self.users[user_id] = {"id": user_id, "active": True, **values}
        return user_id

    def user(self, user_name: str) -> dict[str, Any]:
        """The one account of this name."""
        (found,) = [one for one in self.users.values() if str(one["userName"]).lower() == user_name.lower()]
        return found

    # --- requests -----------------------------------------------------------------------------------------------------

    def _dispatch(
        self, method: str, path: str, query: Mapping[str, list[str]], headers: Mapping[str, str], body: Any
    ) -> Answer:
        if headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {}, {"detail": "who are you"}
        collection, _, rest = path.removeprefix("/v2").lstrip("/").partition("/")
        held = {"Users": self.users, "Groups": self.groups}.get(collection)
        if held is None:
            return self._published(collection)
        if collection == "Groups" and self.quirks.no_groups:
            return 404, {}, {"detail": "no groups"}
        if not rest:
            return self._list(held, query) if method == "GET" else self._create(held, body)
        if rest not in held:
            return 404, {}, {"detail": "nothing there"}
        return self._one(method, held, rest, headers, body)

    def _one(
        self, method: str, held: dict[str, dict[str, Any]], one_id: str, headers: Mapping[str, str], body: Any
    ) -> Answer:
        one = held[one_id]
        if self.quirks.keeps_versions and headers.get("If-Match", self._tag(one)) != self._tag(one):
            return 412, {}, {"detail": "changed meanwhile"}
        if method == "GET":
            return 200, {}, self._shown(one)
        if method == "DELETE":
            if self.quirks.no_delete:
                return 403, {}, {"detail": "users are never deleted"}
            if self.quirks.soft_delete and held is self.users:
                one["active"] = False
            else:
                del held[one_id]
            return 204, {}, None
        if method == "PUT":
            problem = self._problem(held, body, one_id)
            if problem is not None:
                return problem
            held[one_id] = self._kept({**body, "id": one["id"], "n": one.get("n", 0) + 1})
            return 200, {}, self._shown(held[one_id])
        if self.quirks.no_patch:
            return 501, {}, {"detail": "PATCH is not done here"}
        return self._patch(held, one, body["Operations"])

    def _create(self, held: dict[str, dict[str, Any]], body: Any) -> Answer:
        missing = [name for name in self.quirks.required if held is self.users and not _at(body, name)]
        if missing:
            return 400, {}, {"scimType": "invalidValue", "detail": f"{missing[0]} is required"}
        problem = self._problem(held, body, None)
        if problem is not None:
            return problem
        number = next(self._ids)
        if self.quirks.id_is_external_id:
            held[body["externalId"]] = self._kept({"active": True, **body, "id": body["externalId"], "n": 1})
            return 201, {}, self._shown(held[body["externalId"]])
        one_id = str(number) if self.quirks.number_ids else f"{'u' if held is self.users else 'g'}{number}"
        active = {"active": True} if held is self.users else {}
        held[one_id] = self._kept({**active, **body, "id": number if self.quirks.number_ids else one_id, "n": 1})
        return (200 if self.quirks.created_200 else 201), {}, self._shown(held[one_id])

    def _problem(self, held: dict[str, dict[str, Any]], body: Mapping[str, Any], own: str | None) -> Answer | None:
        name = "userName" if held is self.users else "displayName"
        if not body.get(name):
            return 400, {}, {"detail": f"{name} is required"}
        taken = any(
            str(one.get(name)).lower() == str(body[name]).lower() for one_id, one in held.items() if one_id != own
        )
        if taken:
            return 409, {}, {"scimType": "uniqueness", "detail": "taken"}
        if "active" in body and self.quirks.text_booleans is isinstance(body["active"], bool):
            return 400, {}, {"detail": "active has the wrong type"}
        lists = [value for key, value in body.items() if key in {"emails", "phoneNumbers", "addresses"} and value]
        if self.quirks.single_values and any(len(value) > 1 for value in lists):
            return 400, {}, {"detail": "one value only"}
        return None

    def _patch(self, held: dict[str, dict[str, Any]], one: dict[str, Any], operations: list[dict[str, Any]]) -> Answer:
        operations = [part for operation in operations for part in self._parts(operation)]
        paths = [str(operation.get("path")) for operation in operations]
        if self.quirks.active_alone and len(paths) > 1 and {"active", "userName"} & set(paths):
            return 400, {}, {"detail": "active and userName stand alone"}
        changed = json.loads(json.dumps(one))
        count = 0
        for operation in operations:
            kind, path, value = operation["op"], str(operation["path"]), operation.get("value")
            if self.quirks.capital_operations is (kind == kind.lower()):
                return 400, {}, {"detail": f"{kind} is no operation"}
            kind = kind.lower()
            if path.startswith("members"):
                if self.quirks.wraps_members:
                    if not isinstance(value, dict):
                        return 400, {}, {"detail": "members have to stand in an object"}
                    value = value["members"]
                count += len(value) if isinstance(value, list) else 1
                problem = self._change_members(changed, kind, path, value)
                if problem:
                    return 400, {}, {"detail": problem}
                continue
            if path == "displayName" and held is self.groups and self.quirks.no_rename:
                return 400, {}, {"detail": "groups keep their names"}
            if path.partition(".")[0] in self.quirks.only_created:
                continue
            schema, _, name = path.rpartition(":")
            holder = changed.setdefault(schema, {}) if schema else changed
            if kind == "remove":
                holder.pop(name, None)
            else:
                holder[name] = value
        if count > self.quirks.most_members:
            return 400, {}, {"detail": "too many membership changes"}
        said = {name: value for name, value in changed.items() if name != "active" or "active" in paths}
        problem_of_values = self._problem(held, said, str(one["id"])) if held is self.users else None
        if problem_of_values is not None:
            return problem_of_values
        if self.quirks.gone_when_off and changed.get("active") is False:
            del held[str(one["id"])]
            return 204, {}, None
        one.clear()
        one.update(self._kept({**changed, "n": changed.get("n", 0) + 1}))
        return 204, {}, None

    @staticmethod
    def _parts(operation: dict[str, Any]) -> list[dict[str, Any]]:
        """One operation for each attribute, of one that names no path (RFC 7644 section 3.5.2.3)."""
        if "path" in operation:
            return [operation]
        return [{"op": operation["op"], "path": path, "value": value} for path, value in operation["value"].items()]

    def _change_members(self, group: dict[str, Any], kind: str, path: str, value: Any) -> str | None:
        members = {one["value"]: one for one in group.get("members", [])}
        if kind == "add":
            unknown = [one["value"] for one in value if one["value"] not in self.users]
            if unknown:
                return f"{unknown[0]} is no user"
            members |= {one["value"]: {"value": one["value"]} for one in value}
        elif kind == "remove" and path == "members":
            if not self.quirks.members_by_value or not value:
                return "that would remove all members"
            for one in value:
                members.pop(one["value"], None)
        elif kind == "remove" and (match := _MEMBER.fullmatch(path)) is not None:
            if self.quirks.members_by_value:
                return "filters are not understood"
            members.pop(json.loads(match["value"]), None)
        else:
            return f"{kind} {path} is not understood"
        group["members"] = list(members.values())
        return None

    def _list(self, held: dict[str, dict[str, Any]], query: Mapping[str, list[str]]) -> Answer:
        found = list(held.values())
        asked = query.get("filter", [None])[0]
        if asked is not None and not self.quirks.no_filter:
            match = _FILTER.fullmatch(asked)
            if match is None:
                return 400, {}, {"scimType": "invalidFilter", "detail": "cannot read that"}
            path, value = match["path"], json.loads(match["value"])
            fold = path.lower() in {"username", "emails.value"}
            found = [one for one in found if value in _values(one, path) or (fold and value.lower() in _low(one, path))]
        start = int(query.get("startIndex", ["1"])[0])
        count = min(int(query.get("count", [str(self.quirks.page)])[0]), self.quirks.page)
        if not found and asked is not None and self.quirks.empty_is_404:
            return 404, {}, {"detail": "nothing found"}
        shown = [self._shown(one) for one in found[start - 1 : start - 1 + count]]
        return (
            200,
            {},
            {"totalResults": len(found), "startIndex": start, "itemsPerPage": len(shown), "Resources": shown},
        )

    def _published(self, what: str) -> Answer:
        if self.quirks.no_discovery:
            return 404, {}, None
        if what == "ServiceProviderConfig":
            return (
                200,
                {},
                {
                    "patch": {"supported": self.quirks.says_patch},
                    "filter": {"supported": self.quirks.says_filter, "maxResults": self.quirks.page},
                    "etag": {"supported": self.quirks.keeps_versions},
                    "sort": {"supported": False},
                    "bulk": {"supported": False, "maxOperations": 0, "maxPayloadSize": 0},
                    "changePassword": {"supported": False},
                    "authenticationSchemes": [{"type": "oauthbearertoken", "name": "Bearer"}],
                },
            )
        if what == "ResourceTypes":
            types = [{"name": "User", "schema": USER, "schemaExtensions": [{"schema": ENTERPRISE, "required": False}]}]
            types += [] if self.quirks.no_groups else [{"name": "Group", "schema": GROUP}]
            return 200, {}, {"totalResults": len(types), "Resources": types}
        if what == "Schemas":
            attributes = [{"name": "userName", "type": "string", "required": True}, {"name": "title", "type": "string"}]
            attributes += [{"name": "level", "type": "integer"}, {"name": "active", "type": "boolean"}]
            schemas = [{"id": USER, "attributes": attributes}, {"id": ENTERPRISE, "attributes": []}]
            return 200, {}, {"totalResults": 2, "Resources": schemas}
        return 404, {}, None

    # --- what is kept and shown ---------------------------------------------------------------------------------------

    def _kept(self, one: dict[str, Any]) -> dict[str, Any]:
        if self.quirks.no_external_id:
            one.pop("externalId", None)
        if self.quirks.no_active:
            one.pop("active", None)
        if self.quirks.small_user_names and "userName" in one:
            one["userName"] = one["userName"].lower()
        if isinstance(one.get("active"), str):
            one["active"] = one["active"].lower() == "true"
        return one

    def _shown(self, one: dict[str, Any]) -> dict[str, Any]:
        shown = {key: value for key, value in one.items() if key != "n"}
        if self.quirks.text_booleans and "active" in shown:
            shown["active"] = str(shown["active"])
        if self.quirks.hides_members:
            shown.pop("members", None)
        if self.quirks.id_is_external_id:
            shown.pop("externalId")
            name = shown.pop("name")
            shown["name.formatted"] = name["formatted"]
        if self.quirks.keeps_versions:
            shown["meta"] = {"version": self._tag(one)}
        return shown

    @staticmethod
    def _tag(one: Mapping[str, Any]) -> str:
        return f'W/"{one.get("n", 0)}"'

    def _spelled(self, value: Any) -> Any:
        if not self.quirks.small_names:
            return value
        if isinstance(value, dict):
            return {key.lower() if ":" not in key else key: self._spelled(one) for key, one in value.items()}
        return [self._spelled(one) for one in value] if isinstance(value, list) else value


def _at(body: Mapping[str, Any], path: str) -> Any:
    name, _, sub = path.partition(".")
    held = body.get(name)
    return held.get(sub) if sub and isinstance(held, dict) else held


def _values(one: Mapping[str, Any], path: str) -> list[Any]:
    if path.startswith("urn:"):
        schema, _, name = path.rpartition(":")
        return [one.get(schema, {}).get(name)]
    name, _, sub = path.partition(".")
    held = next((value for key, value in one.items() if key.lower() == name.lower()), None)
    return [entry.get(sub) for entry in held or []] if sub else [held]


def _low(one: Mapping[str, Any], path: str) -> list[str]:
    return [str(value).lower() for value in _values(one, path)]


class QuirkyHttp:
    """The way out of `ScimChannel`, into the service, without sockets."""

    def __init__(self, service: Quirky) -> None:
        self.service = service
        self.ways: set[tuple[str | None, str | None]] = set()

    async def request(
        self,
        method: Any,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        timeout: timedelta,  # noqa: ASYNC109 - the port's total deadline
        max_bytes: int,
        proxy: str | None = None,
        egress_address: str | None = None,
    ) -> OutboundResponse:
        """As `OutboundHttp.request`."""
        self.ways.add((proxy, egress_address))
        answer = self.service.answer(method, url, headers or {}, _copied(json))
        if answer is None:
            raise OutboundTimeout("No answer came.")
        status, more, body = answer
        content = b"" if body is None else _dumped(body)
        return OutboundResponse(status, _Headers(more), content)


class _Headers(dict[str, str]):
    """Names without case."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in values.items()})

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


def _copied(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


async def asgi(service: Quirky, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """The service as an ASGI application."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = {name.decode().title(): value.decode() for name, value in scope["headers"]}
    url = f"http://x{scope['path']}?{scope['query_string'].decode()}"
    answer = service.answer(scope["method"], url, headers, json.loads(body) if body else None)
    status, more, content = answer or (504, {}, None)
    sent = [(b"content-type", b"application/scim+json"), *((k.lower().encode(), v.encode()) for k, v in more.items())]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": b"" if content is None else _dumped(content)})
