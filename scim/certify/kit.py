"""The conversation with a service that is graded: requests as provisioning makes them, and what was made by them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote as url_quote
from urllib.parse import urlencode

import orjson

from scim.client import HttpPort
from scim.errors import RemoteError, words_of
from scim.schemas import ENTERPRISE_USER, PATCH_OP, USER, attribute

TIMEOUT: Final = timedelta(seconds=30)
PREFIX: Final = "idhub-certify-"
MEDIA: Final = "application/scim+json"


class Failed(Exception):
    """A check did not find what it looked for."""


class Absent(Exception):
    """The service does not have what the standard leaves open."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; `body` is None where it is no JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def is_success(self) -> bool:
        """Whether its status is 2xx."""
        return 200 <= self.status < 300


@dataclass(slots=True)
class Kit:
    """The conversation: what was made, to be removed; what was learned, for the dialect."""

    http: HttpPort
    base_url: str
    token: str | None
    mark: str = field(default_factory=lambda: secrets.token_hex(4))
    user: dict[str, Any] = field(default_factory=dict)
    users: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    config: Mapping[str, Any] = field(default_factory=dict)
    has_patch: bool = False
    has_put: bool = False
    patched: str = ""
    """The attribute of `CHANGED` by which PATCH was seen to work."""
    errors: list[Answer] = field(default_factory=list)
    media: list[str] = field(default_factory=list)
    answers: int = 0

    async def ask(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        anonymous: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request, with the token unless `anonymous`.

        Raises:
            RemoteError: there was no answer.
        """
        sent = {"Accept": f"{MEDIA}, application/json", **(headers or {})}
        if self.token is not None and not anonymous:
            sent["Authorization"] = f"Bearer {self.token}"
        if json is not None:
            sent["Content-Type"] = MEDIA
        response = await self.http.request(method, self.base_url + path, headers=sent, json=json, timeout=TIMEOUT)
        try:
            body = orjson.loads(response.body) if response.body else None
        except orjson.JSONDecodeError:
            body = None
        answer = Answer(response.status, response.headers, body)
        self.answers += 1
        if response.body:
            self.media.append(response.headers.get("Content-Type", "").partition(";")[0].strip().lower())
        if 400 <= answer.status < 500 and answer.status != 401:
            self.errors.append(answer)
        return answer

    def says(self, answer: Answer) -> str:
        """Status and the other side's words, fit to print."""
        words = words_of(answer.body, secrets=(self.token,) if self.token else ())
        return f"answered {answer.status}" + (f": {words}" if words else "")

    def new_user(self, suffix: str, **more: Any) -> dict[str, Any]:
        """A user as provisioning would make it."""
        name = f"{PREFIX}{self.mark}-{suffix}@idhub.example"
        return {
            "schemas": [USER, ENTERPRISE_USER],
            "externalId": f"{PREFIX}{self.mark}-{suffix}",
            "userName": name,
            "name": {"formatted": "测试 Ünïcode", "familyName": "测试", "givenName": "Ünïcode"},
            "displayName": "测试 Ünïcode",
            "active": True,
            "emails": [{"value": name, "type": "work", "primary": True}],
            ENTERPRISE_USER: {"employeeNumber": f"N-{self.mark}-{suffix}"},
            **more,
        }

    async def make(self, suffix: str, **more: Any) -> dict[str, Any]:
        """Make a further user; raises `Failed` when that does not work."""
        answer = await self.ask("POST", "/Users", json=self.new_user(suffix, **more))
        return self.made(answer, self.users)

    def made(self, answer: Answer, kept: list[str]) -> dict[str, Any]:
        """The resource that an answer says was made; its id goes to `kept`, to be removed in the end.

        Raises:
            Failed: none was, or it has no id.
        """
        made = answer.body if isinstance(answer.body, dict) else {}
        made_id = attribute(made, "id")
        if not answer.is_success or not isinstance(made_id, str) or not made_id:
            raise Failed(self.says(answer) if not answer.is_success else "gave the new resource no id")
        kept.append(made_id)
        return made

    async def get(self, user_id: str) -> dict[str, Any]:
        """A user as it is shown now.

        Raises:
            Failed: it is not shown.
        """
        answer = await self.ask("GET", path_of("Users", user_id))
        if not answer.is_success or not isinstance(answer.body, dict):
            raise Failed(self.says(answer))
        return answer.body

    async def find(self, text: str, **more: str | int) -> Answer:
        """Users by a filter."""
        query = urlencode({"filter": text, **more}, quote_via=url_quote)
        return await self.ask("GET", f"/Users?{query}")

    async def patch(self, user_id: str, *operations: Mapping[str, Any], kind: str = "Users") -> Answer:
        """A PATCH of operations, in their order."""
        body = {"schemas": [PATCH_OP], "Operations": list(operations)}
        return await self.ask("PATCH", path_of(kind, user_id), json=body)

    async def change(self, user_id: str, name: str, value: Any) -> Answer:
        """Change one attribute in the way that works here."""
        if self.has_patch:
            return await self.patch(user_id, {"op": "replace", "path": name, "value": value})
        whole = {key: held for key, held in (await self.get(user_id)).items() if key.lower() != "meta"}
        return await self.ask("PUT", path_of("Users", user_id), json={**whole, name: value})

    async def clean_up(self) -> None:
        """Remove what was made."""
        for kind, ids in (("Groups", self.groups), ("Users", self.users)):
            for each in ids:
                try:
                    await self.ask("DELETE", path_of(kind, each))
                except RemoteError:
                    continue


def path_of(kind: str, resource_id: str) -> str:
    """Address of a resource below the service's."""
    return f"/{kind}/{url_quote(resource_id, safe='')}"


def listed(answer: Answer) -> list[dict[str, Any]]:
    """The resources of a list; none where it is none."""
    entries = attribute(answer.body, "Resources") if isinstance(answer.body, dict) else None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def total_of(answer: Answer) -> int | None:
    """How many a list says there are; None: it does not say."""
    total = attribute(answer.body, "totalResults") if isinstance(answer.body, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) else None


def ensure(condition: object, words: str) -> None:
    """Raises `Failed` with these words unless the condition holds."""
    if not condition:
        raise Failed(words)
