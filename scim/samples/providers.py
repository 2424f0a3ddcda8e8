"""Sample service providers, broken on purpose in one way each, named after the check of `scim.certify` that sees it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from scim.messages import ScimRequest
from scim.samples.memory import MemoryStore
from scim.server import Server
from scim.standard import GROUP_TYPE, USER_TYPE

TOKEN = "sample-token"  # noqa: S105 - of a sample that holds nothing
_BASE = "http://sample.example/v2"
_MOST = 1_048_576
Document = dict[str, Any]


@dataclass
class Ask:
    """One request on its way to the good server."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Document | None

    @property
    def kind(self) -> str:
        return self.path.strip("/").partition("/")[0]

    @property
    def resource_id(self) -> str:
        return self.path.strip("/").partition("/")[2]

    @property
    def filter(self) -> str:
        return parse_qs(self.query).get("filter", [""])[0]

    @property
    def is_list(self) -> bool:
        return self.method == "GET" and self.kind in {"Users", "Groups"} and not self.resource_id

    @property
    def is_one(self) -> bool:
        return self.method == "GET" and self.kind in {"Users", "Groups"} and bool(self.resource_id)


@dataclass
class Answer:
    """What the sample says."""

    status: int
    headers: dict[str, str]
    body: Document | None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


Forward = Callable[[Ask], Answer]
Fault = Callable[[Ask, Forward], Answer]


@dataclass
class Sample:
    """A service provider; honest when `fault` is empty."""

    fault: str = ""
    token: str = TOKEN
    store: MemoryStore = field(default_factory=MemoryStore)

    def __post_init__(self) -> None:
        self._server = Server([USER_TYPE, GROUP_TYPE], base_url=_BASE)

    def answer(self, ask: Ask) -> Answer:
        if self.fault == "anonymous_refused":
            ask.headers["authorization"] = f"Bearer {self.token}"
        if ask.headers.get("authorization") != f"Bearer {self.token}":
            return _error(401, "no token")
        fault = FAULTS.get(self.fault)
        return fault(ask, self._good) if fault else self._good(ask)

    def _good(self, ask: Ask) -> Answer:
        body = b"" if ask.body is None else orjson.dumps(ask.body)
        request = ScimRequest(method=ask.method, path=ask.path, query=ask.query, headers=ask.headers, body=body)
        response = self._server.answer(request, self.store.transactions)
        document = orjson.loads(response.body) if response.body else None
        return Answer(response.status, dict(response.headers), document)


def _error(status: int, words: str) -> Answer:
    document = {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"],
        "status": str(status),
        "detail": words,
    }
    return Answer(status, {"Content-Type": "application/scim+json"}, document)


def _resources(answer: Answer) -> list[Document]:
    if answer.body is None or not answer.is_success:
        return []
    listed = answer.body.get("Resources")
    return listed if isinstance(listed, list) else [answer.body]


# ---- one way of being broken each, named after the check that catches it


def anonymous_refused(ask: Ask, forward: Forward) -> Answer:
    return forward(ask)


def service_provider_config(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    if ask.kind == "ServiceProviderConfig" and answer.body:
        del answer.body["patch"]
    return answer


def _hides(kind: str, name: str, value: str) -> Fault:
    def fault(ask: Ask, forward: Forward) -> Answer:
        answer = forward(ask)
        if ask.kind == kind and answer.body:
            answer.body["Resources"] = [one for one in answer.body["Resources"] if one[name] != value]
        return answer

    return fault


def media_type(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    answer.headers["Content-Type"] = "application/json"
    return answer


def create(ask: Ask, forward: Forward) -> Answer:
    return _error(500, "no") if (ask.method, ask.kind) == ("POST", "Users") else forward(ask)


def create_status(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    if ask.method == "POST" and answer.status == 201:
        answer.status = 200
    return answer


def create_location(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    if ask.method == "POST" and answer.status == 201 and answer.body:
        answer.headers = {name: value for name, value in answer.headers.items() if name.lower() != "location"}
        answer.body["meta"].pop("location", None)
    return answer


def read(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    if ask.is_one and ask.kind == "Users" and answer.is_success and answer.body:
        answer.body["id"] = "another"
    return answer


def password_never(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    if ask.is_one and answer.is_success and answer.body:
        answer.body["password"] = "shown"  # noqa: S105 - the fault is to show it
    return answer


def active_boolean(ask: Ask, forward: Forward) -> Answer:
    if ask.body and isinstance(ask.body.get("active"), str):
        ask.body["active"] = ask.body["active"] == "True"
    answer = forward(ask)
    for resource in _resources(answer):
        if "active" in resource:
            resource["active"] = str(resource["active"])
    return answer


def external_id_kept(ask: Ask, forward: Forward) -> Answer:
    if ask.body:
        ask.body.pop("externalId", None)
    return forward(ask)


def unicode_kept(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    for resource in _resources(answer):
        if isinstance(resource.get("displayName"), str):
            resource["displayName"] = resource["displayName"].encode("ascii", "replace").decode()
    return answer


def duplicate_refused(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    if ask.method == "POST" and answer.status == 409 and ask.body:
        ask.body["userName"] += ".again"
        answer = forward(ask)
    return answer


def duplicate_status(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    return _error(400, "taken") if answer.status == 409 else answer


def unknown_404(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    return _error(400, "what?") if ask.is_one and answer.status == 404 else answer


def error_message(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    if answer.status >= 400:
        answer.body = {"message": "no"}
    return answer


def filter_user_name(ask: Ask, forward: Forward) -> Answer:
    if ask.filter.startswith("userName eq "):
        ask.query = ""
    return forward(ask)


def filter_case(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    asked = re.fullmatch(r'userName eq "(.*)"', ask.filter)
    if asked and answer.body and "Resources" in answer.body:
        kept = [one for one in answer.body["Resources"] if one["userName"] == asked[1]]
        answer.body |= {"Resources": kept, "totalResults": len(kept)}
    return answer


def filter_quotes(ask: Ask, forward: Forward) -> Answer:
    return _error(500, "unterminated") if "\\" in ask.filter else forward(ask)


def filter_external_id(ask: Ask, forward: Forward) -> Answer:
    if ask.filter.startswith("externalId eq "):
        ask.query = ""
    return forward(ask)


def filter_nobody(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    is_empty = ask.is_list and answer.body and answer.body.get("totalResults") == 0
    return _error(404, "nobody") if is_empty and "\\" not in ask.filter else answer


def filter_invalid(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    if ask.is_list and answer.status == 400:
        ask.query = "filter=" + 'userName eq "nobody"'.replace(" ", "%20")
        return forward(ask)
    return answer


def list_total(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    if ask.is_list and not ask.filter and answer.body:
        answer.body.pop("totalResults", None)
    return answer


def list_paging(ask: Ask, forward: Forward) -> Answer:
    if ask.is_list:
        ask.query = re.sub(r"startIndex=\d+", "startIndex=1", ask.query)
    return forward(ask)


def cursor_paging(ask: Ask, forward: Forward) -> Answer:
    if ask.is_list:
        ask.query = re.sub(r"cursor=[^&]*", "cursor=", ask.query)
    return forward(ask)


def patch(ask: Ask, forward: Forward) -> Answer:
    if (ask.method, ask.kind) == ("PATCH", "Users"):
        return forward(Ask("GET", ask.path, "", ask.headers, None))
    return forward(ask)


def patch_atomic(ask: Ask, forward: Forward) -> Answer:
    if ask.method == "PATCH" and ask.body and len(ask.body["Operations"]) > 1:
        forward(Ask("PATCH", ask.path, "", ask.headers, {**ask.body, "Operations": ask.body["Operations"][:1]}))
    return forward(ask)


def patch_unknown_user(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    if (ask.method, ask.kind, answer.status) == ("PATCH", "Users", 404):
        return Answer(204, {}, None)
    return answer


def put(ask: Ask, forward: Forward) -> Answer:
    if ask.method == "PUT" and "if-match" not in ask.headers:
        return forward(Ask("GET", ask.path, "", ask.headers, None))
    return forward(ask)


def update(ask: Ask, forward: Forward) -> Answer:
    if ask.method in {"PATCH", "PUT"} and ask.kind == "Users":
        return _error(501, "not implemented")
    return forward(ask)


def _keeps_active(value: bool) -> Fault:
    def fault(ask: Ask, forward: Forward) -> Answer:
        operations = ask.body["Operations"] if ask.method == "PATCH" and ask.body else []
        if any(one.get("path") == "active" and one.get("value") in (value, str(value)) for one in operations):
            answer = forward(Ask("GET", ask.path, "", ask.headers, None))
            return answer
        return forward(ask)

    return fault


def deactivated_listed(ask: Ask, forward: Forward) -> Answer:
    answer = forward(ask)
    if ask.is_list and answer.body and "Resources" in answer.body:
        kept = [one for one in answer.body["Resources"] if one.get("active", True)]
        answer.body |= {"Resources": kept, "totalResults": answer.body["totalResults"] if kept else 0}
    return answer


def etag(ask: Ask, forward: Forward) -> Answer:
    ask.headers.pop("if-match", None)
    return forward(ask)


def group(ask: Ask, forward: Forward) -> Answer:
    return _error(500, "no") if (ask.method, ask.kind) == ("POST", "Groups") else forward(ask)


def group_members(ask: Ask, forward: Forward) -> Answer:
    if (ask.method, ask.kind) == ("PATCH", "Groups") and ask.body:
        for operation in ask.body["Operations"]:
            operation["op"] = "replace" if operation["op"] == "add" else operation["op"]
    return forward(ask)


def group_member_removed(ask: Ask, forward: Forward) -> Answer:
    if (ask.method, ask.kind) == ("PATCH", "Groups") and ask.body:
        for operation in ask.body["Operations"]:
            if operation["op"] == "remove":
                operation["path"] = "members"
    return forward(ask)


def delete(ask: Ask, forward: Forward) -> Answer:
    return _error(500, "no") if (ask.method, ask.kind) == ("DELETE", "Users") else forward(ask)


def deleted_gone(ask: Ask, forward: Forward) -> Answer:
    return Answer(204, {}, None) if (ask.method, ask.kind) == ("DELETE", "Users") else forward(ask)


FAULTS: Mapping[str, Fault] = {
    **{
        fault.__name__: fault
        for fault in (
            anonymous_refused, service_provider_config, media_type, create, create_status, create_location, read,
            password_never, active_boolean, external_id_kept, unicode_kept, duplicate_refused, duplicate_status,
            unknown_404, error_message, filter_user_name, filter_case, filter_quotes, filter_external_id,
            filter_nobody, filter_invalid, list_total, list_paging, cursor_paging, patch, patch_atomic,
            patch_unknown_user, put, update, deactivated_listed, etag, group, group_members, group_member_removed,
            delete, deleted_gone,
        )
    },
    "schemas": _hides("Schemas", "id", "urn:ietf:params:scim:schemas:core:2.0:User"),
    "resource_types": _hides("ResourceTypes", "name", "User"),
    "deactivate": _keeps_active(False),
    "reactivate": _keeps_active(True),
}  # fmt: skip


def serve(sample: Sample, port: int) -> ThreadingHTTPServer:
    """Put a sample behind HTTP on the loopback; the caller runs and closes it."""

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            parts = urlsplit(self.path)
            length = self.headers.get("Content-Length", "")
            sent = self.rfile.read(min(int(length), _MOST)) if length.isascii() and length.isdigit() else b""
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                body = orjson.loads(sent) if sent else None
            except orjson.JSONDecodeError:
                answer = _error(400, "no JSON")
            else:
                answer = sample.answer(Ask(self.command, parts.path.removeprefix("/v2"), parts.query, headers, body))
            content = b"" if answer.body is None else orjson.dumps(answer.body)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815 - the names are the library's

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)
