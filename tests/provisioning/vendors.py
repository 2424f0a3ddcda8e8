"""GitLab and GitHub as their makers describe them: GitLab by its own source, GitHub by its documentation.

Written without anything of `scim` or `idhub`, so that a misreading there is not repeated here. Both answer as
`tests.provisioning.quirky.Quirky` does, so that its two ways in, with and without a socket, serve them as well.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Answer = tuple[int, dict[str, str], Any]
USER = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
LIST = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
ERROR = "urn:ietf:params:scim:api:messages:2.0:Error"


@dataclass
class Vendor:
    """What both have: an address, a token, and a memory of what was asked."""

    token: str = "tok"
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: list[tuple[str, str, Any]] = field(default_factory=list)

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> Answer:
        """One request."""
        parts = urlsplit(url)
        path, query = unquote(parts.path), {key: one[0] for key, one in parse_qs(parts.query).items()}
        self.seen.append((method, path + (f"?{query['filter']}" if "filter" in query else ""), body))
        if headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {}, {"message": "401 Unauthorized"}
        return self._answer(method, path, query, body)

    def _answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Answer:
        raise NotImplementedError

    def writes(self) -> list[tuple[str, str, Any]]:
        """Requests that meant to change something, and since when forgotten."""
        said, self.seen = [one for one in self.seen if one[0] != "GET"], []
        return said


def listed(users: list[dict[str, Any]], query: Mapping[str, str], *, usual: int) -> Answer:
    """One page."""
    start, count = max(1, int(query.get("startIndex", "1"))), int(query.get("count", str(usual)))
    page = users[start - 1 : start - 1 + count]
    return 200, {}, {
        "schemas": [LIST], "totalResults": len(users), "itemsPerPage": count, "startIndex": start, "Resources": page,
    }  # fmt: skip


# --- GitLab -----------------------------------------------------------------------------------------------------------

_GITLAB = {
    "id": "extern_uid",
    "externalId": "extern_uid",
    "displayName": "name",
    "name.formatted": "name",
    'emails[type eq "work"].value': "email",
    "active": "active",
    "userName": "username",
}


@dataclass
class GitLab(Vendor):
    """A group of GitLab.com, or an instance (`group` None). Identities by their extern_uid.

    A filter is three words. Whatever is refused is 412, but for a value that is taken (409). A change of anything but
    `active` and the id is answered as if it were done; any change of an identity that is off, unless it says `active`
    false, switches it on.
    """

    group: str | None = None
    registered: dict[str, str] = field(default_factory=dict)
    """People who had an account before: user names by mail."""
    last_owner: str | None = None
    """The user name of the group's last owner, who cannot be taken out."""

    def _answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Answer:
        home = "/api/scim/v2/application" if self.group is None else f"/api/scim/v2/groups/{self.group}"
        collection, _, uid = path.removeprefix(f"{home}/").partition("/")
        if not path.startswith(f"{home}/") or collection != "Users":
            return 404, {}, {"error": "404 Not Found"}
        if not uid:
            return self._list(query) if method == "GET" else self._create(body)
        identity = self.users.get(uid)
        if identity is None:
            return self._error(404, f"Resource {uid} not found")
        if method == "GET":
            return 200, {}, self._shown(uid)
        if method == "DELETE":
            return self._switch_off(identity)
        return self._patch(uid, identity, body) if method == "PATCH" else (405, {}, {"error": "405 Not Allowed"})

    def _list(self, query: Mapping[str, str]) -> Answer:
        if not query.get("filter"):
            return listed([self._shown(uid) for uid in self.users], query, usual=20)
        name, operator, value, *_ = [*query["filter"].split(" "), "", "", ""]
        value = value.replace('"', "")
        if operator != "eq" or _GITLAB.get(name) not in {"extern_uid", "username"}:
            return self._error(412, "Unsupported Filter")
        found = [value] if value in self.users else []
        if not found and _GITLAB[name] == "username":
            found = [uid for uid, one in self.users.items() if value in (one["username"], one["email"])]
        return listed([self._shown(uid) for uid in found], query, usual=20)

    def _create(self, body: Mapping[str, Any]) -> Answer:
        mails = [one for one in body.get("emails") or [] if one.get("type") == "work" or one.get("primary")]
        uid, name, mail = body.get("externalId"), body.get("userName"), mails[0]["value"] if mails else None
        if not (uid and name and mail):
            return self._error(412, f"Error saving user with {json.dumps(body)}: Missing params")
        if uid not in self.users:
            if mail in {one["email"] for one in self.users.values()}:
                return self._error(409, f"Error saving user with {json.dumps(body)}: User has already been taken")
            username = self.registered.get(mail, name)
            if mail not in self.registered and name in self._names():
                return self._error(409, f"Error saving user with {json.dumps(body)}: Username has already been taken")
            said = body.get("name") or {}
            full = said.get("formatted") or f"{said.get('givenName', '')} {said.get('familyName', '')}".strip()
            self.registered[mail] = username
            self.users[uid] = {"username": username, "name": full, "email": mail, "active": True}
        return 201, {}, self._shown(uid)

    def _names(self) -> set[str]:
        return {*self.registered.values(), *(one["username"] for one in self.users.values())}

    def _patch(self, uid: str, identity: dict[str, Any], body: Mapping[str, Any]) -> Answer:
        said: dict[str, Any] = {}
        for operation in body.get("Operations") or []:
            if operation["op"].lower() not in {"replace", "add"}:
                continue
            pairs = {operation["path"]: operation["value"]} if operation.get("path") else operation["value"]
            key, value = next(iter(pairs.items()))
            if isinstance(value, str) and value.lower() in {"true", "false"}:
                value = value.lower() == "true"
            if key in _GITLAB:
                said[_GITLAB[key]] = value
        if said.get("active") is False:
            return self._switch_off(identity)
        if not identity["active"]:
            identity["active"] = True
        elif "extern_uid" in said:
            self.users[said["extern_uid"]] = self.users.pop(uid)
        return 204, {}, None

    def _switch_off(self, identity: dict[str, Any]) -> Answer:
        if identity["username"] == self.last_owner:
            return self._error(412, f"Error updating {identity['name']}: Cannot remove last group owner.")
        identity["active"] = False
        return 204, {}, None

    def _shown(self, uid: str) -> dict[str, Any]:
        one = self.users[uid]
        return {
            "schemas": [USER],
            "id": uid,
            "active": one["active"],
            "name.formatted": one["name"],
            "userName": one["username"],
            "meta": {"resourceType": "User"},
            "emails": [{"type": "work", "value": one["email"], "primary": True}],
        }

    @staticmethod
    def _error(status: int, detail: str) -> Answer:
        return status, {}, {"schemas": [ERROR], "detail": detail, "status": status}


# --- GitHub -----------------------------------------------------------------------------------------------------------


@dataclass
class GitHub(Vendor):
    """An enterprise with managed users, or an organization. Limits are told by headers and refused by 403.

    An organization has no groups, takes no filter in a path, and forgets whoever is switched off.
    """

    enterprise: str | None = "corp"
    organization: str = "corp"
    left: int | None = None
    """How many more requests are answered in this hour; None: any number."""
    reset_at: int = 0
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def _answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Answer:
        owner = f"enterprises/{self.enterprise}" if self.enterprise else f"organizations/{self.organization}"
        home = f"/scim/v2/{owner}"
        limits: dict[str, str] = {}
        if self.left is not None:
            self.left -= 1
            limits = {"x-ratelimit-remaining": str(max(self.left, 0)), "x-ratelimit-reset": str(self.reset_at)}
            if self.left < 0:
                return 403, limits, {"message": "API rate limit exceeded", "documentation_url": "..."}
        collection, _, one_id = path.removeprefix(f"{home}/").partition("/")
        held = {"Users": self.users, **({"Groups": self.groups} if self.enterprise else {})}.get(collection)
        if not path.startswith(f"{home}/") or held is None:
            return 404, limits, {"message": "Not Found"}
        status, _, answer = self._resource(method, collection, held, one_id, query, body)
        return status, limits, answer

    def _resource(
        self, method: str, collection: str, held: dict[str, Any], one_id: str, query: Mapping[str, str], body: Any
    ) -> Answer:
        if not one_id:
            return self._list(collection, held, query) if method == "GET" else self._create(collection, held, body)
        if one_id not in held:
            return self._error(404, "Resource not found")
        if method == "DELETE":
            del held[one_id]
            return 204, {}, None
        return self._patch(held, one_id, body) if method == "PATCH" else (200, {}, held[one_id])

    def _list(self, collection: str, held: Mapping[str, Any], query: Mapping[str, str]) -> Answer:
        found = list(held.values())
        if query.get("filter"):
            name, operator, value = [*query["filter"].split(" ", 2), "", ""][:3]
            known = {"userName", "externalId", "id"} if collection == "Users" else {"displayName", "externalId", "id"}
            if operator != "eq" or name not in known | ({"emails"} if not self.enterprise else set()):
                return self._error(400, "The filter is not supported")
            found = [one for one in found if str(one.get(name)) == json.loads(value)]
        return listed(found, query, usual=30)

    def _create(self, collection: str, held: dict[str, Any], body: dict[str, Any]) -> Answer:
        needed = {"Users": ["schemas", "userName", "emails"], "Groups": ["schemas", "displayName", "externalId"]}
        more = ["externalId", "displayName"] if self.enterprise else ["name"]
        for name in needed[collection] + (more if collection == "Users" else []):
            if not body.get(name):
                return self._error(400, f"{name} is required")
        name = "userName" if collection == "Users" else "displayName"
        if any(one[name] == body[name] for one in held.values()):
            return self._error(409, "The resource exists already")
        one_id = f"7fce{next(self._ids):04d}"
        held[one_id] = {"active": True, **body, "id": one_id, "meta": {"resourceType": collection[:-1]}}
        return 201, {}, held[one_id]

    def _patch(self, held: dict[str, Any], one_id: str, body: Mapping[str, Any]) -> Answer:
        one = held[one_id]
        for operation in body["Operations"]:
            path, value = operation.get("path"), operation.get("value")
            if operation["op"] not in {"add", "replace", "remove"}:
                return self._error(400, "op is not known")
            if path == "members" or (path or "").startswith("members["):
                problem = self._members(one, operation["op"], path, value)
                if problem:
                    return self._error(400, problem)
            elif path is not None and ("[" in path or not self.enterprise):
                # An organization documents objects, lists and texts as values, of which a boolean is none.
                if "[" in path or isinstance(value, bool):
                    return self._error(400, "The path or the value is not supported")
                one[path] = value
            else:
                one |= {path: value} if path is not None else value
        if one.get("active") is False and not self.enterprise:
            del held[one_id]
        return 200, {}, one

    def _members(self, group: dict[str, Any], operation: str, path: str, value: Any) -> str | None:
        members = {one["value"]: one for one in group.get("members", [])}
        if path != "members":
            members.pop(json.loads(path.removeprefix("members[value eq ").removesuffix("]")), None)
        elif len(value) > 1_000:
            return "too many members"
        elif operation == "add":
            members |= {one["value"]: one for one in value}
        else:
            members = {key: one for key, one in members.items() if key not in {gone["value"] for gone in value}}
        group["members"] = list(members.values())
        return None

    @staticmethod
    def _error(status: int, detail: str) -> Answer:
        return status, {}, {"schemas": [ERROR], "detail": detail, "status": status, "scimType": "invalidSyntax"}
