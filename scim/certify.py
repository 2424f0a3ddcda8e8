"""How well a service provider speaks SCIM: named checks, each with its section, over an HTTP port that it is given.

Makes users and groups of its own, whose names begin with `idhub-certify-`, and removes them. Changes nothing else. A
check that rests on another which failed says so instead of failing with it, so that a fault has one name.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal
from urllib.parse import quote as url_quote
from urllib.parse import urlencode

import orjson

from scim.client import HttpPort, enterprise
from scim.dialects import DIALECTS, GENERIC, Dialect
from scim.errors import RemoteError, remote_text
from scim.filters import quote
from scim.schemas import ENTERPRISE_USER, ERROR, GROUP, LIST_RESPONSE, PATCH_OP, USER, attribute, is_active, value_at

Level = Literal["must", "should", "optional"]
Verdict = Literal["pass", "fail", "absent", "skipped"]

TIMEOUT: Final = timedelta(seconds=30)
_PREFIX: Final = "idhub-certify-"
_MEDIA: Final = "application/scim+json"
_PATIENCE: Final = 3
"""So many questions without an answer, and none with one, are enough."""
_NUMBER: Final = enterprise("employeeNumber")


@dataclass(frozen=True, slots=True)
class Check:
    """One question: its name, the sentence of the standard that it asks about, and how much hangs on it.

    `needs`: checks without which it cannot be asked. `optional`: the standard lets a service leave it out.
    """

    name: str
    section: str
    title: str
    level: Level
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a check. `detail` is ours, with the other side's words cleaned and bounded."""

    check: Check
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Certificate:
    """All results, and what follows for a connection."""

    results: Sequence[Result]
    dialect: str | None
    deviations: Sequence[str]
    """Where even the best dialect does not fit."""

    @property
    def broken(self) -> list[Result]:
        """Checks that failed."""
        return [result for result in self.results if result.verdict == "fail"]

    @property
    def grade(self) -> str:
        """A: as written; B: usable, with deviations; C: something that a leave rests on does not work."""
        levels = {result.check.level for result in self.broken}
        return "C" if "must" in levels else "B" if levels else "A"


CHECKS: Final = tuple(
    Check(*row)
    for row in (
        ("anonymous_refused", "RFC 7644 section 2", "refuses whoever has no token", "must"),
        ("service_provider_config", "RFC 7643 section 5", "says what it can do", "should"),
        ("schemas", "RFC 7643 section 7", "lists the schema of users", "should"),
        ("resource_types", "RFC 7643 section 6", "lists its types of resources", "should"),
        ("media_type", "RFC 7644 section 3.1", "answers as application/scim+json", "should"),
        ("create", "RFC 7644 section 3.3", "makes a user and gives it an id", "must"),
        ("create_status", "RFC 7644 section 3.3", "answers 201 to a create", "should", ("create",)),
        ("create_location", "RFC 7644 section 3.3", "says where the new user is", "should", ("create",)),
        ("read", "RFC 7644 section 3.4.1", "gives back the user that is asked for", "must", ("create",)),
        ("password_never", "RFC 7643 section 7", "never gives a password back", "must", ("read",)),
        ("active_boolean", "RFC 7643 section 4.1.1", "says `active` as true or false", "should", ("read",)),
        ("external_id_kept", "RFC 7643 section 3.1", "keeps the externalId it was given", "should", ("read",)),
        ("enterprise_kept", "RFC 7643 section 4.3", "keeps the enterprise extension", "optional", ("read",)),
        ("unicode_kept", "RFC 7643 section 2.3.1", "keeps names in other scripts", "must", ("read",)),
        ("duplicate_refused", "RFC 7644 section 3.3", "refuses a second user of a name", "must", ("create",)),
        ("duplicate_status", "RFC 7644 section 3.3", "with 409", "should", ("duplicate_refused",)),
        ("unknown_404", "RFC 7644 section 3.12", "answers 404 for an id that nobody has", "must"),
        ("error_message", "RFC 7644 section 3.12", "says errors in the form of SCIM", "should"),
        ("filter_user_name", "RFC 7644 section 3.4.2.2", "finds a user by name, no other", "must", ("create",)),
        ("filter_case", "RFC 7643 section 4.1.1", "whatever the case", "should", ("filter_user_name",)),
        ("filter_quotes", "RFC 7644 section 3.4.2.2", "takes quotes in a value", "should", ("filter_user_name",)),
        ("filter_external_id", "RFC 7644 section 3.4.2.2", "and by externalId", "optional", ("external_id_kept",)),
        ("filter_nobody", "RFC 7644 section 3.4.2", "says 200 where nobody matches", "must", ("filter_user_name",)),
        ("filter_invalid", "RFC 7644 section 3.4.2.2", "refuses a filter that is none", "should"),
        ("list_total", "RFC 7644 section 3.4.2", "says how many there are in a list", "must", ("create",)),
        ("list_paging", "RFC 7644 section 3.4.2.4", "gives every user once, page by page", "must", ("list_total",)),
        ("cursor_paging", "RFC 9865 section 2", "reads lists by cursor", "optional", ("list_total",)),
        ("patch", "RFC 7644 section 3.5.2", "changes one attribute by PATCH", "optional", ("read",)),
        ("patch_atomic", "RFC 7644 section 3.5.2", "does all of a PATCH or nothing", "should", ("patch",)),
        ("patch_unknown_user", "RFC 7644 section 3.5.2", "makes nobody by a PATCH", "must", ("patch",)),
        ("put", "RFC 7644 section 3.5.1", "replaces a user by PUT", "should", ("read",)),
        ("update", "RFC 7644 section 3.5", "takes changes in one way or the other", "must", ("read",)),
        ("deactivate", "RFC 7643 section 4.1.1", "switches a user off, and shows it so", "must", ("update",)),
        (
            *("deactivated_listed", "RFC 7643 section 4.1.1", "still lists whom it switched off", "should"),
            ("deactivate", "filter_user_name"),
        ),
        ("reactivate", "RFC 7643 section 4.1.1", "switches a user on again", "should", ("deactivate",)),
        ("etag", "RFC 7644 section 3.14", "refuses a change of another version", "optional", ("read",)),
        ("group", "RFC 7643 section 4.2", "makes a group", "optional", ("create",)),
        ("group_members", "RFC 7644 section 3.5.2.1", "puts a member into a group", "should", ("group",)),
        ("group_member_removed", "RFC 7644 section 3.5.2.2", "takes one member out", "should", ("group_members",)),
        ("delete", "RFC 7644 section 3.6", "removes a user", "should", ("create",)),
        ("deleted_gone", "RFC 7644 section 3.6", "does not show whom it removed", "should", ("delete",)),
    )
)  # fmt: skip
BY_NAME: Final[Mapping[str, Check]] = {check.name: check for check in CHECKS}


class _Failed(Exception):
    """A check did not find what it looked for."""


class _Absent(Exception):
    """The service does not have what the standard leaves open."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


@dataclass(slots=True)
class _Kit:
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
    """The attribute of `_CHANGED` by which PATCH was seen to work."""
    errors: list[_Answer] = field(default_factory=list)
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
    ) -> _Answer:
        sent = {"Accept": f"{_MEDIA}, application/json", **(headers or {})}
        if self.token is not None and not anonymous:
            sent["Authorization"] = f"Bearer {self.token}"
        if json is not None:
            sent["Content-Type"] = _MEDIA
        response = await self.http.request(method, self.base_url + path, headers=sent, json=json, timeout=TIMEOUT)
        try:
            body = orjson.loads(response.body) if response.body else None
        except orjson.JSONDecodeError:
            body = None
        answer = _Answer(response.status, response.headers, body)
        self.answers += 1
        if response.body:
            self.media.append(response.headers.get("Content-Type", "").partition(";")[0].strip().lower())
        if 400 <= answer.status < 500 and answer.status != 401:
            self.errors.append(answer)
        return answer

    def says(self, answer: _Answer) -> str:
        """Status and the other side's words, fit to print."""
        detail = answer.body.get("detail") if isinstance(answer.body, dict) else None
        words = remote_text(detail, secrets=(self.token,) if self.token else ())
        return f"answered {answer.status}" + (f": {words}" if words else "")

    def new_user(self, suffix: str, **more: Any) -> dict[str, Any]:
        """A user as provisioning would make it."""
        name = f"{_PREFIX}{self.mark}-{suffix}@idhub.example"
        return {
            "schemas": [USER, ENTERPRISE_USER],
            "externalId": f"{_PREFIX}{self.mark}-{suffix}",
            "userName": name,
            "name": {"formatted": "测试 Ünïcode", "familyName": "测试", "givenName": "Ünïcode"},
            "displayName": "测试 Ünïcode",
            "active": True,
            "emails": [{"value": name, "type": "work", "primary": True}],
            ENTERPRISE_USER: {"employeeNumber": f"N-{self.mark}-{suffix}"},
            **more,
        }

    async def make(self, suffix: str, **more: Any) -> dict[str, Any]:
        """Make a further user; raises `_Failed` when that does not work."""
        answer = await self.ask("POST", "/Users", json=self.new_user(suffix, **more))
        return self._made(answer, self.users)

    def _made(self, answer: _Answer, kept: list[str]) -> dict[str, Any]:
        made = answer.body if isinstance(answer.body, dict) else {}
        made_id = attribute(made, "id")
        if not answer.is_success or not isinstance(made_id, str) or not made_id:
            raise _Failed(self.says(answer) if not answer.is_success else "gave the new resource no id")
        kept.append(made_id)
        return made

    async def get(self, user_id: str) -> dict[str, Any]:
        answer = await self.ask("GET", _path("Users", user_id))
        if not answer.is_success or not isinstance(answer.body, dict):
            raise _Failed(self.says(answer))
        return answer.body

    async def find(self, text: str, **more: str | int) -> _Answer:
        query = urlencode({"filter": text, **more}, quote_via=url_quote)
        return await self.ask("GET", f"/Users?{query}")

    async def patch(self, user_id: str, *operations: Mapping[str, Any], kind: str = "Users") -> _Answer:
        body = {"schemas": [PATCH_OP], "Operations": list(operations)}
        return await self.ask("PATCH", _path(kind, user_id), json=body)

    async def change(self, user_id: str, name: str, value: Any) -> _Answer:
        """Change one attribute in the way that works here."""
        if self.has_patch:
            return await self.patch(user_id, {"op": "replace", "path": name, "value": value})
        whole = {key: held for key, held in (await self.get(user_id)).items() if key.lower() != "meta"}
        return await self.ask("PUT", _path("Users", user_id), json={**whole, name: value})

    async def clean_up(self) -> None:
        """Remove what was made."""
        for kind, ids in (("Groups", self.groups), ("Users", self.users)):
            for each in ids:
                try:
                    await self.ask("DELETE", _path(kind, each))
                except RemoteError:
                    continue


def _path(kind: str, resource_id: str) -> str:
    return f"/{kind}/{url_quote(resource_id, safe='')}"


def _listed(answer: _Answer) -> list[dict[str, Any]]:
    entries = attribute(answer.body, "Resources") if isinstance(answer.body, dict) else None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _total(answer: _Answer) -> int | None:
    total = attribute(answer.body, "totalResults") if isinstance(answer.body, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) else None


def _ensure(condition: object, words: str) -> None:
    if not condition:
        raise _Failed(words)


# ---- the checks, each under its name


async def anonymous_refused(kit: _Kit) -> None:
    if kit.token is None:
        raise _Absent("no token was given")
    answer = await kit.ask("GET", "/Users?count=1", anonymous=True)
    _ensure(answer.status in {401, 403}, f"{kit.says(answer)} to a request without a token")


async def service_provider_config(kit: _Kit) -> None:
    answer = await kit.ask("GET", "/ServiceProviderConfig")
    _ensure(answer.is_success and isinstance(answer.body, dict), kit.says(answer))
    kit.config = answer.body
    for name in ("patch", "bulk", "filter", "changePassword", "sort", "etag"):
        said = attribute(answer.body, name)
        _ensure(
            isinstance(said, dict) and isinstance(attribute(said, "supported"), bool),
            f"does not say `{name}.supported`",
        )


async def schemas(kit: _Kit) -> None:
    answer = await kit.ask("GET", "/Schemas")
    ids = {attribute(entry, "id") for entry in _listed(answer)}
    _ensure(answer.is_success and USER in ids, f"{kit.says(answer)}; {USER} is not among its schemas")


async def resource_types(kit: _Kit) -> None:
    answer = await kit.ask("GET", "/ResourceTypes")
    names = {attribute(entry, "name") for entry in _listed(answer)}
    _ensure(answer.is_success and "User" in names, f"{kit.says(answer)}; User is not among its types")


async def media_type(kit: _Kit) -> None:
    _ensure(bool(kit.media), "no answer with content was seen")
    wrong = sorted({media for media in kit.media if media != _MEDIA})
    _ensure(not wrong, f"answers as {', '.join(remote_text(media) or 'nothing' for media in wrong)[:120]}")


async def create(kit: _Kit) -> None:
    kit.user = await kit.make("1", password=secrets.token_urlsafe(16))


async def create_status(kit: _Kit) -> None:
    answer = await kit.ask("POST", "/Users", json=kit.new_user("status"))
    kit._made(answer, kit.users)
    _ensure(answer.status == 201, f"answered {answer.status}")


async def create_location(kit: _Kit) -> None:
    answer = await kit.ask("POST", "/Users", json=kit.new_user("location"))
    made = kit._made(answer, kit.users)
    meta = attribute(made, "meta")
    named = answer.headers.get("Location") or (attribute(meta, "location") if isinstance(meta, dict) else None)
    _ensure(
        isinstance(named, str) and named.endswith(url_quote(made["id"], safe="")), "names no address of the new user"
    )


async def read(kit: _Kit) -> None:
    user = await kit.get(kit.user["id"])
    _ensure(attribute(user, "id") == kit.user["id"], "gave another user than the one asked for")
    name = attribute(user, "userName")
    _ensure(
        isinstance(name, str) and name.lower() == kit.new_user("1")["userName"].lower(), "did not keep the userName"
    )


async def password_never(kit: _Kit) -> None:
    shown = [kit.user, await kit.get(kit.user["id"])]
    _ensure(all(attribute(user, "password") is None for user in shown), "shows the password")


async def active_boolean(kit: _Kit) -> None:
    value = attribute(await kit.get(kit.user["id"]), "active")
    _ensure(value is True, f"says active as {remote_text(orjson.dumps(value).decode())[:40]}")


async def external_id_kept(kit: _Kit) -> None:
    _ensure(
        attribute(await kit.get(kit.user["id"]), "externalId") == kit.new_user("1")["externalId"], "does not keep it"
    )


async def enterprise_kept(kit: _Kit) -> None:
    if attribute(await kit.get(kit.user["id"]), _NUMBER) != kit.new_user("1")[ENTERPRISE_USER]["employeeNumber"]:
        raise _Absent("does not keep the employee number")


async def unicode_kept(kit: _Kit) -> None:
    user = await kit.get(kit.user["id"])
    name = attribute(user, "name")
    said = attribute(user, "displayName") or (attribute(name, "formatted") if isinstance(name, dict) else None)
    # Some make it out of the parts of the name, in an order of their own.
    words = sorted(said.split()) if isinstance(said, str) else []
    _ensure(words == ["Ünïcode", "测试"], f"says {remote_text(said)[:60]!r}")


async def duplicate_refused(kit: _Kit) -> None:
    again = {**kit.new_user("1"), "externalId": f"{_PREFIX}{kit.mark}-again"}
    answer = await kit.ask("POST", "/Users", json=again)
    if answer.is_success:
        kit._made(answer, kit.users)
        raise _Failed("made a second user of the same userName")


async def duplicate_status(kit: _Kit) -> None:
    answer = await kit.ask("POST", "/Users", json={**kit.new_user("1"), "externalId": f"{_PREFIX}{kit.mark}-again"})
    _ensure(answer.status == 409, kit.says(answer))


async def unknown_404(kit: _Kit) -> None:
    answer = await kit.ask("GET", _path("Users", f"{_PREFIX}{kit.mark}-nobody"))
    _ensure(answer.status == 404, kit.says(answer))


async def error_message(kit: _Kit) -> None:
    _ensure(kit.errors, "no error was seen")
    for answer in kit.errors:
        body = answer.body if isinstance(answer.body, dict) else {}
        listed = attribute(body, "schemas")
        right = isinstance(listed, list) and ERROR in listed and str(attribute(body, "status")) == str(answer.status)
        _ensure(right, f"an error of {answer.status} has no schema or not its status")


async def filter_user_name(kit: _Kit) -> None:
    name = kit.new_user("1")["userName"]
    answer = await kit.find(f"userName eq {quote(name)}")
    ids = [attribute(entry, "id") for entry in _listed(answer)]
    _ensure(answer.is_success and ids == [kit.user["id"]], f"{kit.says(answer)} with {len(ids)} users")


async def filter_case(kit: _Kit) -> None:
    answer = await kit.find(f"userName eq {quote(kit.new_user('1')['userName'].upper())}")
    _ensure([attribute(entry, "id") for entry in _listed(answer)] == [kit.user["id"]], "does not find it in capitals")


async def filter_quotes(kit: _Kit) -> None:
    answer = await kit.find(f"userName eq {quote(chr(34) + _PREFIX + chr(92))}")
    _ensure(answer.is_success and not _listed(answer), kit.says(answer))


async def filter_external_id(kit: _Kit) -> None:
    answer = await kit.find(f"externalId eq {quote(kit.new_user('1')['externalId'])}")
    ids = [attribute(entry, "id") for entry in _listed(answer)]
    if 400 <= answer.status < 500:
        raise _Absent(kit.says(answer))
    _ensure(answer.is_success and ids == [kit.user["id"]], f"{kit.says(answer)} with {len(ids)} users")


async def filter_nobody(kit: _Kit) -> None:
    answer = await kit.find(f"userName eq {quote(f'{_PREFIX}{kit.mark}-nobody')}")
    _ensure(answer.status == 200 and _total(answer) == 0 and not _listed(answer), kit.says(answer))


async def filter_invalid(kit: _Kit) -> None:
    answer = await kit.find("userName eq")
    _ensure(answer.status == 400, kit.says(answer))


async def list_total(kit: _Kit) -> None:
    answer = await kit.ask("GET", "/Users?startIndex=1&count=2")
    body = answer.body if isinstance(answer.body, dict) else {}
    listed = attribute(body, "schemas")
    _ensure(answer.is_success and isinstance(listed, list) and LIST_RESPONSE in listed, f"{kit.says(answer)}; no list")
    total = _total(answer)
    _ensure(total is not None and total >= len(_listed(answer)) > 0, "does not say how many there are")


async def list_paging(kit: _Kit) -> None:
    for suffix in ("page-1", "page-2", "page-3"):
        await kit.make(suffix)
    first = await kit.ask("GET", "/Users?startIndex=1&count=2")
    second = await kit.ask("GET", "/Users?startIndex=2&count=2")
    one, two = ([attribute(entry, "id") for entry in _listed(answer)] for answer in (first, second))
    _ensure(_total(first) == _total(second), "says another total on another page")
    _ensure(len(one) == 2 and len(two) == 2, f"sends {len(one)} and {len(two)} users where 2 were asked for")
    _ensure(one[1] == two[0] and one[0] not in two, "does not begin a page where it was asked to")
    beyond = await kit.ask("GET", f"/Users?startIndex={(_total(first) or 0) + 1}&count=2")
    _ensure(beyond.is_success and not _listed(beyond), "sends users from beyond the end of its list")


async def cursor_paging(kit: _Kit) -> None:
    offered = attribute(kit.config, "pagination")
    if not isinstance(offered, dict) or attribute(offered, "cursor") is not True:
        raise _Absent("does not offer it")
    seen: list[Any] = []
    cursor = ""
    for _ in range(3):
        query = urlencode({"cursor": cursor, "count": 2})
        answer = await kit.ask("GET", f"/Users?{query}")
        _ensure(answer.is_success, kit.says(answer))
        seen += [attribute(entry, "id") for entry in _listed(answer)]
        following = attribute(answer.body, "nextCursor")
        if not following:
            break
        _ensure(isinstance(following, str), "sends a cursor that is no text")
        cursor = following
    _ensure(len(seen) > 2 and len(set(seen)) == len(seen), "repeats users, or ends after a page")


_CHANGED: Final = ("displayName", "name.familyName")
"""Attributes by which a change is looked for: some services make the one out of the other, and take it from nobody."""


async def patch(kit: _Kit) -> None:
    answers: list[_Answer] = []
    for path in _CHANGED:
        answer = await kit.patch(kit.user["id"], {"op": "replace", "path": path, "value": "Changed"})
        if answer.is_success and value_at(await kit.get(kit.user["id"]), path) == "Changed":
            kit.has_patch, kit.patched = True, path
            return
        answers.append(answer)
    if all(answer.status in {404, 405, 501} for answer in answers):
        raise _Absent(kit.says(answers[0]))
    refused = next((answer for answer in answers if not answer.is_success), None)
    raise _Failed("accepted it and changed nothing" if refused is None else kit.says(refused))


async def patch_atomic(kit: _Kit) -> None:
    answer = await kit.patch(
        kit.user["id"],
        {"op": "replace", "path": kit.patched, "value": "Half"},
        {"op": "replace", "path": "noSuchAttributeAtAll[", "value": "x"},
    )
    said = value_at(await kit.get(kit.user["id"]), kit.patched)
    _ensure(not answer.is_success and said == "Changed", f"{kit.says(answer)} and left {remote_text(said)[:40]!r}")


async def patch_unknown_user(kit: _Kit) -> None:
    unknown = f"{_PREFIX}{kit.mark}-nobody"
    answer = await kit.patch(unknown, {"op": "replace", "path": "active", "value": False})
    _ensure(400 <= answer.status < 500, kit.says(answer))


async def put(kit: _Kit) -> None:
    whole = {key: held for key, held in (await kit.get(kit.user["id"])).items() if key.lower() != "meta"}
    held = attribute(whole, "name")
    name = {**(held if isinstance(held, dict) else {}), "familyName": "Replaced"}
    body = {**whole, "displayName": "Replaced", "name": name}
    answer = await kit.ask("PUT", _path("Users", kit.user["id"]), json=body)
    if answer.status in {405, 501}:
        raise _Absent(kit.says(answer))
    _ensure(answer.is_success, kit.says(answer))
    shown = await kit.get(kit.user["id"])
    _ensure(any(value_at(shown, path) == "Replaced" for path in _CHANGED), "accepted it and changed nothing")
    kit.has_put = True


async def update(kit: _Kit) -> None:
    _ensure(kit.has_patch or kit.has_put, "neither PATCH nor PUT works")


async def deactivate(kit: _Kit) -> None:
    answer = await kit.change(kit.user["id"], "active", False)
    if not answer.is_success:
        # Some want it as a text.
        answer = await kit.change(kit.user["id"], "active", "False")
    _ensure(answer.is_success, kit.says(answer))
    shown = await kit.ask("GET", _path("Users", kit.user["id"]))
    gone = shown.status in {404, 410}
    off = shown.is_success and isinstance(shown.body, dict) and is_active(shown.body) is False
    _ensure(gone or off, "accepted it, and the user is still active")


async def deactivated_listed(kit: _Kit) -> None:
    answer = await kit.find(f"userName eq {quote(kit.new_user('1')['userName'])}")
    _ensure(len(_listed(answer)) == 1, "hides whom it switched off: their end cannot be read back from a list")


async def reactivate(kit: _Kit) -> None:
    answer = await kit.change(kit.user["id"], "active", True)
    _ensure(answer.is_success, kit.says(answer))
    _ensure(is_active(await kit.get(kit.user["id"])) is True, "accepted it, and the user is still off")


async def etag(kit: _Kit) -> None:
    shown = await kit.ask("GET", _path("Users", kit.user["id"]))
    if not shown.headers.get("ETag"):
        raise _Absent("gives no entity tag")
    body = {key: held for key, held in (shown.body or {}).items() if key.lower() != "meta"}
    stale = {"If-Match": 'W/"idhub-certify-stale"'}
    answer = await kit.ask("PUT", _path("Users", kit.user["id"]), json={**body, "displayName": "Stale"}, headers=stale)
    _ensure(answer.status in {412, 405, 501}, f"{kit.says(answer)} to a change of another version")


async def group(kit: _Kit) -> None:
    body = {"schemas": [GROUP], "displayName": f"{_PREFIX}{kit.mark}"}
    answer = await kit.ask("POST", "/Groups", json=body)
    if answer.status in {404, 405, 501}:
        raise _Absent(kit.says(answer))
    kit._made(answer, kit.groups)


async def _members(kit: _Kit) -> set[Any]:
    answer = await kit.ask("GET", _path("Groups", kit.groups[0]))
    members = attribute(answer.body, "members") if isinstance(answer.body, dict) else None
    return {attribute(member, "value") for member in members or () if isinstance(member, dict)}


async def group_members(kit: _Kit) -> None:
    for user_id in kit.users[:2]:
        add = {"op": "add", "path": "members", "value": [{"value": user_id}]}
        answer = await kit.patch(kit.groups[0], add, kind="Groups")
        _ensure(answer.is_success, kit.says(answer))
    _ensure(await _members(kit) == set(kit.users[:2]), "accepted two members and shows others")


async def group_member_removed(kit: _Kit) -> None:
    remove = {"op": "remove", "path": f"members[value eq {quote(kit.users[0])}]"}
    answer = await kit.patch(kit.groups[0], remove, kind="Groups")
    _ensure(answer.is_success, kit.says(answer))
    _ensure(await _members(kit) == set(kit.users[1:2]), "took out another than the one named")


async def delete(kit: _Kit) -> None:
    doomed = await kit.make("doomed")
    answer = await kit.ask("DELETE", _path("Users", doomed["id"]))
    if answer.status in {405, 501}:
        raise _Absent(kit.says(answer))
    _ensure(answer.is_success, kit.says(answer))


async def deleted_gone(kit: _Kit) -> None:
    answer = await kit.ask("GET", _path("Users", kit.users[-1]))
    _ensure(not answer.is_success, "still shows it: a soft delete")


_STEPS: Final[Mapping[str, Callable[[_Kit], Awaitable[None]]]] = {
    step.__name__: step
    for step in (
        anonymous_refused, service_provider_config, schemas, resource_types, create, create_status, create_location,
        read, password_never, active_boolean, external_id_kept, enterprise_kept, unicode_kept, duplicate_refused,
        duplicate_status, unknown_404, filter_user_name, filter_case, filter_quotes, filter_external_id, filter_nobody,
        filter_invalid, list_total, list_paging, cursor_paging, patch, patch_atomic, patch_unknown_user, put, update,
        deactivate, deactivated_listed, reactivate, etag, group, group_members, group_member_removed, delete,
        deleted_gone, error_message, media_type,
    )
}  # fmt: skip
"""In the order in which they are asked; the last two look back at everything that was answered."""


async def certify(
    http: HttpPort, base_url: str, token: str | None, *, progress: Callable[[str], None] | None = None
) -> Certificate:
    """Ask every check of a service provider, and remove what was made for it.

    Raises:
        RemoteError: the port does not talk to that address, or nobody answers there.
    """
    kit = _Kit(http, base_url.rstrip("/"), token)
    results: dict[str, Result] = {}
    silences = 0
    try:
        for name, step in _STEPS.items():
            if progress is not None:
                progress(name)
            try:
                results[name] = await _ask(BY_NAME[name], step, kit, results)
            except RemoteError as error:
                silences += 1
                if not kit.answers and silences == _PATIENCE:
                    # Nobody is there: that is no verdict on anybody.
                    raise
                results[name] = Result(BY_NAME[name], "fail", error.description[:300])
    finally:
        await kit.clean_up()
    dialect, deviations = _dialect(results, kit.patched)
    return Certificate([results[check.name] for check in CHECKS], dialect, deviations)


async def _ask(
    check: Check, step: Callable[[_Kit], Awaitable[None]], kit: _Kit, results: Mapping[str, Result]
) -> Result:
    missing = [name for name in check.needs if results[name].verdict != "pass"]
    if missing:
        return Result(check, "skipped", f"rests on {missing[0]}")
    try:
        await step(kit)
    except _Failed as failed:
        return Result(check, "fail", str(failed)[:300])
    except _Absent as absent:
        return Result(check, "absent", str(absent)[:300])
    return Result(check, "pass")


def _dialect(results: Mapping[str, Result], patched: str) -> tuple[str | None, list[str]]:
    """The dialect that fits what was seen, and where it does not."""

    def passed(name: str) -> bool:
        return results[name].verdict == "pass"

    if not passed("update"):
        return None, ["neither PATCH nor PUT works"]
    # PATCH of some attributes and not of others is none: several change at once.
    patches = passed("patch") and (patched == _CHANGED[0] or not passed("put"))
    seen: dict[str, Any] = {
        "update": "patch" if patches else "put",
        "finds": passed("filter_user_name"),
        "active_form": "boolean" if passed("active_boolean") else "text",
        "finds_external_id": passed("filter_external_id"),
        "has_enterprise_user": passed("enterprise_kept"),
    }
    if passed("group_members"):
        seen["remove_members"] = "filter" if passed("group_member_removed") else "values"

    def differing(dialect: Dialect) -> list[str]:
        moot = set() if dialect.finds else {"finds_external_id"}
        return [name for name, value in seen.items() if name not in moot and getattr(dialect, name) != value]

    best = min(DIALECTS.values(), key=lambda dialect: (len(differing(dialect)), dialect is not GENERIC))
    return best.name, [f"{name}: {seen[name]}" for name in differing(best)]
