"""SCIM client (RFC 7644), on an HTTP port that it is given; groups are in `scim.group_client`.

The port owns the network: address guard, size cap, total deadline, no redirects. This module owns the protocol: what
is asked, what an answer means, and that no credential leaves with an error. An answer is never believed further than
it goes: resources that do not match what was asked for are not "found", and an unreadable list is not "nobody".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import quote as url_quote
from urllib.parse import urlencode

import orjson

from scim.dialects import GENERIC, Dialect, adapted
from scim.discovery import Discovery, read_discovery
from scim.errors import (
    RemoteConflict,
    RemoteError,
    RemoteNotFound,
    RemoteRefused,
    RemoteUnauthorized,
    RemoteUnavailable,
    remote_text,
    words_of,
)
from scim.filters import quote
from scim.pace import MAX_RETRY_AFTER, Pace, is_limit, retry_after, until_reset
from scim.reading import is_mostly_brackets
from scim.schemas import ENTERPRISE_USER, ERROR, PATCH_OP, USER, Changes, Resource, attribute, with_changes

__all__ = [
    "MAX_RETRY_AFTER",
    "Exchange",
    "HttpPort",
    "HttpResponse",
    "Page",
    "ScimClient",
    "enterprise",
]

MAX_LISTED: Final = 200_000
"""Most resources that a list is read to when an account is looked for without a filter."""

_LOOKUP_COUNT: Final = 10
_ERROR: Final = ERROR.encode()
_RETRYABLE: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY})
_GONE: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})


class HttpResponse(Protocol):
    """An answer, read whole."""

    @property
    def status(self) -> int:
        """Status code."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Header fields; the mapping ignores the case of names."""

    @property
    def body(self) -> bytes:
        """At most the port's cap, decompressed."""


class HttpPort(Protocol):
    """The way out. Follows no redirect, caps the size of answers, and ends within `timeout`, connecting included."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        json: Any,
        timeout: timedelta,  # noqa: ASYNC109 - the port's total deadline, not a wait of ours
    ) -> HttpResponse:
        """Send one request; `json` None means without a body.

        Raises:
            RemoteUnavailable: no answer; `may_have_arrived` unless it is certain that nothing was sent.
            RemoteRefused: the port does not talk to that address.
        """


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what came of it, fit for evidence: no credential, no personal data, no query."""

    method: str
    path: str
    status: int | None
    began_at: datetime
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list (RFC 7644 section 3.4.2.4). `total` is the service's own count; None where it shows none."""

    resources: list[Resource]
    total: int | None
    start_index: int


class ScimClient:
    """Talks to one service for the length of one run.

    Args:
        base_url: up to and without `/Users`.
        token: bearer token; None for a service without one.
        time_left: how long the run may still take; asked before every request, which gets no more than that.
        now: the time of the run, for evidence and for Retry-After as a date.
        trace: shown to the service as X-Idhub-Delivery, so that its log and ours can be laid side by side.
        pace: how fast it may be asked, shared by all runs towards it.
    """

    def __init__(
        self,
        http: HttpPort,
        base_url: str,
        token: str | None,
        *,
        time_left: Callable[[], timedelta],
        now: Callable[[], datetime],
        dialect: Dialect = GENERIC,
        trace: str | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._http = http
        self._pace = pace or Pace()
        self._base_url = base_url.rstrip("/")
        self._time_left = time_left
        self._now = now
        self.dialect = dialect
        self._secrets = (token,) if token else ()
        self._headers = {"Accept": "application/scim+json, application/json"}
        if trace is not None:
            self._headers["X-Idhub-Delivery"] = trace
        if token is not None:
            if not token.isascii() or not token.isprintable() or " " in token:
                raise RemoteRefused("The bearer token of this application cannot be sent in a header.")
            self._headers["Authorization"] = f"Bearer {token}"
        self.exchanges: list[Exchange] = []

    async def find_by_external_id(self, external_id: str) -> list[Resource]:
        """Users that carry this externalId, compared as caseExact; usually none or one."""
        if not (self.dialect.finds_external_id and self.dialect.has_external_id):
            return []
        found = await self._search("externalId", external_id)
        return [user for user in found if attribute(user, "externalId") == external_id]

    async def find_by_user_name(self, user_name: str) -> list[Resource]:
        """Users of this userName, in whatever case (RFC 7643 section 4.1.1); usually none or one."""
        found = await self._search("userName", user_name)
        return [user for user in found if _same_name(attribute(user, "userName"), user_name)]

    async def find_user(self, *, external_id: str, user_name: str) -> list[Resource]:
        """Users of this externalId or, when there is none, of this userName. To be asked before every create."""
        return await self.find_by_external_id(external_id) or await self.find_by_user_name(user_name)

    async def find_by_email(self, email: str) -> list[Resource]:
        """Users that have this mail address, in whatever case; none where the service cannot be asked so."""
        if self.dialect.finds and self.dialect.finds_email is None:
            return []
        found = await self._search(self.dialect.finds_email or "emails.value", email)
        return [user for user in found if any(_same_name(one, email) for one in emails_of(user))]

    async def find_by_employee_number(self, number: str) -> list[Resource]:
        """Users of this employee number; none where the service cannot be asked so."""
        if self.dialect.finds and not self.dialect.finds_employee_number:
            return []
        path = enterprise("employeeNumber")
        return [user for user in await self._search(path, number) if attribute(user, path) == number]

    async def list_page(self, path: str, start_index: int = 1, *, count: int | None = None) -> Page:
        """One page of a collection.

        Raises:
            RemoteUnavailable: what came is no list.
        """
        asked: dict[str, int | str] = {"startIndex": start_index, "count": count or self.dialect.page_size}
        if self.dialect.sorts:
            asked |= {"sortBy": "id"}
        answer = await self.resource("GET", path, query=urlencode(asked))
        total, resources = _list_of(answer)
        return Page(resources, total, start_index)

    async def discover(self) -> Discovery:
        """Ask the service what it is. What it does not publish stays unknown.

        Raises:
            RemoteUnavailable, RemoteUnauthorized: as for every request.
        """
        config = await self._published("/ServiceProviderConfig")
        types = await self._published("/ResourceTypes")
        schemas = await self._published("/Schemas")
        return read_discovery(config, types, schemas)

    async def _published(self, path: str) -> Any:
        try:
            return _parsed((await self.send("GET", path)).body)
        except (RemoteNotFound, RemoteRefused, RemoteConflict):
            return None

    async def get_user(self, user_id: str) -> Resource:
        """The user as the service has it.

        Raises:
            RemoteNotFound: the service says that there is none.
        """
        user = with_text_id(await self.resource("GET", self._user_path(user_id)))
        # A cache or a proxy that answers for another user proves nothing about this one.
        if attribute(user, "id") != user_id:
            raise RemoteUnavailable("The application answered with another user than the one asked for.")
        return user

    async def create_user(self, attributes: Changes) -> Resource:
        """Create a user; returns it with the service's `id`.

        Raises:
            RemoteConflict: userName or another unique value is taken.
            RemoteUnavailable: also when it answered without the user: look it up before trying again.
        """
        missing = self.dialect.missing(attributes)
        if missing:
            raise RemoteRefused(f"The application needs a value of {', '.join(missing)}, and this person has none.")
        body = with_changes({"schemas": [USER]}, adapted(attributes, self.dialect))
        return with_text_id(await self.resource("POST", "/Users", json=body))

    async def update_user(self, current: Mapping[str, Any], changes: Changes) -> None:
        """Bring changes to a user, by PATCH or PUT as the dialect says (RFC 7644 sections 3.5.1, 3.5.2).

        What the dialect takes only alone goes in requests of its own, after the rest: not all or none.

        Args:
            current: the user as last read.
            changes: by path; None removes.

        Raises:
            RemoteUnavailable: `current` has no id; else what `request` raises.
        """
        user_id = attribute(current, "id")
        if not isinstance(user_id, str):
            raise RemoteUnavailable("The application sent a user without id.")
        if self.dialect.update == "put":
            await self.replace_user(user_id, with_changes(current, adapted(changes, self.dialect)), of=current)
            return
        apart = {path: value for path, value in changes.items() if path in self.dialect.alone}
        together = {path: value for path, value in changes.items() if path not in apart}
        for part in ([together] if together else []) + [{path: value} for path, value in apart.items()]:
            await self.patch_user(user_id, part)

    async def patch_user(self, user_id: str, changes: Changes) -> None:
        """Change attributes of a user (RFC 7644 section 3.5.2): one operation each, all or none."""
        said = adapted(changes, self.dialect)
        operations: list[dict[str, Any]] = [
            {"op": "remove", "path": path} if value is None else {"op": "replace", "path": path, "value": value}
            for path, value in said.items()
            if value is None or self.dialect.names_paths
        ]
        values = {path: value for path, value in said.items() if value is not None}
        if values and not self.dialect.names_paths:
            operations.append({"op": "replace", "value": values})
        await self.patch(self._user_path(user_id), operations)

    async def patch(self, path: str, operations: list[dict[str, Any]]) -> None:
        """Send operations, spelled as the dialect wants them."""
        if self.dialect.op_form == "capital":
            operations = [{**one, "op": str(one["op"]).capitalize()} for one in operations]
        if operations:
            await self.send("PATCH", path, json={"schemas": [PATCH_OP], "Operations": operations})

    async def replace_user(
        self, user_id: str, resource: Mapping[str, Any], *, of: Mapping[str, Any] | None = None
    ) -> None:
        """Replace a user by PUT (RFC 7644 section 3.5.1); with `of`, only that version of it."""
        await self.send("PUT", self._user_path(user_id), json=dict(resource), headers=self.match(of))

    def match(self, current: Mapping[str, Any] | None) -> dict[str, str]:
        """If-Match of the version that was read, where the service keeps versions (RFC 7644 section 3.14)."""
        meta = attribute(current, "meta") if current is not None and self.dialect.if_match else None
        version = attribute(meta, "version") if isinstance(meta, Mapping) else None
        is_plain = isinstance(version, str) and version.isascii() and version.isprintable()
        return {"If-Match": str(version)} if is_plain and version else {}

    async def set_active(self, current: Mapping[str, Any], active: bool) -> None:
        """Switch a user on or off, off by DELETE where the dialect says so. `current` is the user as last read."""
        user_id = attribute(current, "id")
        if not active and self.dialect.deactivate == "delete" and isinstance(user_id, str):
            await self.delete_user(user_id)
            return
        await self.update_user(current, {"active": active})

    async def list_users(self, parameters: Mapping[str, str | int]) -> Resource:
        """One page of all users, as the service sent it (RFC 7644 section 3.4.2.4, RFC 9865); see `scim.listing`.

        Raises:
            RemoteRefused: there is no such address; else what `request` raises.
        """
        try:
            return await self.resource("GET", "/Users", query=urlencode(parameters, quote_via=url_quote))
        except RemoteNotFound as error:
            raise RemoteRefused(
                f"The application has no /Users to list: {error.description}", status_code=error.status_code
            ) from error

    async def service_provider_config(self) -> Resource:
        """What the service says that it can do (RFC 7643 section 5)."""
        return await self.resource("GET", "/ServiceProviderConfig")

    async def delete_user(self, user_id: str) -> None:
        """Delete a user (RFC 7644 section 3.6); one that is not there any more is deleted."""
        try:
            await self.send("DELETE", self._user_path(user_id))
        except RemoteNotFound:
            return

    async def _search(self, path: str, value: str) -> list[Resource]:
        if not self.dialect.finds:
            return await self.every("/Users")
        return await self.search("/Users", f"{path} eq {quote(value)}")

    async def every(self, path: str) -> list[Resource]:
        """The whole collection: for services that cannot search.

        Raises:
            RemoteUnavailable: the list came to no end that can be believed.
        """
        found: dict[str, Resource] = {}
        start = 1
        while True:
            page = await self.list_page(path, start)
            fresh = [one for one in page.resources if str(attribute(one, "id")) not in found]
            found |= {str(attribute(one, "id")): one for one in fresh}
            start += len(page.resources)
            if page.total is None or len(found) >= page.total:
                return list(found.values())
            if not fresh or len(found) >= MAX_LISTED:
                raise RemoteUnavailable(f"The application names {page.total} accounts and lists {len(found)}.")

    async def search(self, path: str, text: str) -> list[Resource]:
        """What a filter finds in a collection; a list that is cut short is refused (RFC 7644 section 3.4.2.2).

        Raises:
            RemoteUnavailable: there is no such collection, or the answer is no list.
            RemoteRefused: the list is longer than what one page of it shows.
        """
        query = urlencode({"filter": text, "startIndex": 1, "count": _LOOKUP_COUNT}, quote_via=url_quote)
        try:
            answer = await self.resource("GET", path, query=query)
        except RemoteNotFound as error:
            if self.dialect.empty_search == "not_found":
                return []
            # An empty result is 200 (RFC 7644 section 3.4.2); 404 means that the service is not there.
            raise RemoteUnavailable(
                f"The application has no {path} to search: {error.description}", status_code=error.status_code
            ) from error
        total, resources = _list_of(answer)
        if total is None:
            raise RemoteUnavailable("The application answered a search with something that is no list.")
        if total > len(resources):
            # Nobody is absent from a list that was not seen to its end.
            raise RemoteRefused(
                f"The application answered a search for one user with {total}: it does not honour the filter."
            )
        return resources

    async def resource(self, method: str, path: str, *, query: str = "", json: Any = None) -> Resource:
        """Send a request that is answered with a resource.

        Raises:
            RemoteError: as `send`; RemoteUnavailable also when the answer is none.
        """
        response = await self.send(method, path, query=query, json=json)
        answer = _parsed(response.body)
        if not isinstance(answer, dict):
            raise RemoteUnavailable(
                f"The application answered {response.status} with something that is not SCIM.",
                status_code=response.status,
                may_have_arrived=method != "GET",
            )
        return _with_external_ids(answer) if self.dialect.id_is_external_id else answer

    async def send(
        self, method: str, path: str, *, query: str = "", json: Any = None, headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """Send one request and return its answer if that is 2xx.

        Raises:
            RemoteError: the kind says what the answer, or its absence, means.
        """
        await self._wait_for_turn()
        time_left = self._time_left()
        if time_left <= timedelta(0):
            raise RemoteUnavailable("The time of this attempt was used up before the application had answered.")
        headers = {**self._headers, **(headers or {})}
        if json is not None:
            headers["Content-Type"] = self.dialect.media_type
        url = f"{self._base_url}{path}" + (f"?{query}" if query else "")
        began_at, status = self._now(), None
        try:
            response = await self._http.request(method, url, headers=headers, json=json, timeout=time_left)
            status = response.status
            self._pace.learn(response.headers, status, now=self._now(), sent_at=began_at)
        finally:
            self.exchanges.append(Exchange(method, _shown(path), status, began_at, self._now()))
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            if _ERROR in response.body and ERROR in _schemas_of(_parsed(response.body)):
                raise self._belied(response, writes=method != "GET")
            return response
        raise self._error(response, writes=method != "GET")

    async def _wait_for_turn(self) -> None:
        while True:
            time_left, refusals = self._time_left(), self._pace.refusals
            wait = await self._pace.take(self._now(), patience=time_left, asked=len(self.exchanges))
            if wait >= time_left:
                raise RemoteUnavailable(
                    "The application's limit of requests is used up; it is asked again when it allows.",
                    retry_after=wait,
                    how="rate_limit",
                )
            if wait <= timedelta(0):
                return
            await asyncio.sleep(wait.total_seconds())
            if self._pace.refusals == refusals:
                return
            # It refused somebody else meanwhile: there are new turns.

    def _belied(self, response: HttpResponse, *, writes: bool) -> RemoteError:
        """Success by its status, an error by its body: of a gateway, mostly. What was done is not known."""
        detail = remote_text(attribute(_parsed(response.body), "detail"), secrets=self._secrets)
        return RemoteUnavailable(
            f"The application answered {response.status} with an error" + (f": {detail}" if detail else "."),
            status_code=response.status,
            may_have_arrived=writes,
            how="failing",
        )

    def _error(self, response: HttpResponse, *, writes: bool) -> RemoteError:
        status = response.status
        answer = _parsed(response.body)
        words = answer if isinstance(answer, dict) else {}
        detail = words_of(words, secrets=self._secrets)
        scim_type = remote_text(words.get("scimType"), secrets=self._secrets) or None
        description = f"The application answered {status}" + (f": {detail}" if detail else ".")
        if is_limit(response.headers, status):
            until = retry_after(response.headers, now=self._now())
            if until is None:
                until = until_reset(response.headers, now=self._now())
            return RemoteUnavailable(description, status_code=status, retry_after=until, how="rate_limit")
        if status in _RETRYABLE or (
            status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED
        ):
            return RemoteUnavailable(
                description,
                status_code=status,
                retry_after=retry_after(response.headers, now=self._now()),
                may_have_arrived=writes,
                how="failing",
            )
        kind: type[RemoteError] = RemoteRefused
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            kind = RemoteUnauthorized
        elif status in _GONE:
            kind = RemoteNotFound
        elif status == HTTPStatus.PRECONDITION_FAILED and self.dialect.says_412 == "changed":
            # RFC 7644 section 3.14: it was changed since we read it. What is to be sent follows from a new look.
            return RemoteUnavailable(description, status_code=status, retry_after=timedelta(0))
        elif status == HTTPStatus.CONFLICT or (status == HTTPStatus.BAD_REQUEST and scim_type == "uniqueness"):
            kind = RemoteConflict
        elif status < HTTPStatus.BAD_REQUEST:
            description = f"The application answered {status}: a redirect or an interim answer, which is not followed."
        return kind(description, status_code=status, scim_type=scim_type)

    @staticmethod
    def _user_path(user_id: str) -> str:
        return resource_path("/Users", user_id)


def resource_path(collection: str, resource_id: str) -> str:
    """Path of a resource. Its id is the other side's text: `..` would leave the collection.

    Raises:
        RemoteRefused: it cannot be put into an address.
    """
    # url_quote leaves dots alone.
    if not resource_id or resource_id.strip(".") == "":
        raise RemoteRefused("The application's id of this user cannot be put into an address.")
    return f"{collection}/{url_quote(resource_id, safe='')}"


def with_text_id(resource: Resource) -> Resource:
    """The resource with its id as text: some services send a number."""
    number = attribute(resource, "id")
    if isinstance(number, int) and not isinstance(number, bool):
        return {**{key: value for key, value in resource.items() if key.lower() != "id"}, "id": str(number)}
    return resource


def _with_external_ids(answer: Resource) -> Resource:
    """A user, or the users of a list, with the externalId that the service keeps as its id."""
    held = attribute(answer, "Resources")
    if isinstance(held, list):
        users = [_with_external_ids(one) if isinstance(one, dict) else one for one in held]
        return {**{key: value for key, value in answer.items() if key.lower() != "resources"}, "Resources": users}
    user_id = attribute(answer, "id")
    if attribute(answer, "externalId") is not None or not isinstance(user_id, str):
        return answer
    return {**answer, "externalId": user_id}


def emails_of(user: Mapping[str, Any]) -> list[str]:
    """The mail addresses of a user."""
    held = attribute(user, "emails")
    entries = held if isinstance(held, list) else []
    values = [attribute(one, "value") if isinstance(one, Mapping) else one for one in entries]
    return [value for value in values if isinstance(value, str)]


def _list_of(answer: Mapping[str, Any]) -> tuple[int | None, list[Resource]]:
    """Total and resources of a list response, however the service spells them.

    Raises:
        RemoteUnavailable: it is no list.
    """
    total, resources = attribute(answer, "totalResults"), attribute(answer, "Resources")
    if resources is None:
        resources = []
    if not isinstance(total, int) or isinstance(total, bool) or not isinstance(resources, list):
        raise RemoteUnavailable("The application answered a search with something that is no list.")
    return total, [with_text_id(user) for user in resources if isinstance(user, dict)]


def enterprise(name: str) -> str:
    """Path of an attribute of the enterprise extension (RFC 7643 section 4.3)."""
    return f"{ENTERPRISE_USER}:{name}"


def _parsed(body: bytes) -> Any:
    if is_mostly_brackets(body):
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _schemas_of(answer: Any) -> list[Any]:
    schemas = attribute(answer, "schemas") if isinstance(answer, Mapping) else None
    return schemas if isinstance(schemas, list) else [schemas]


def _same_name(value: object, user_name: str) -> bool:
    return isinstance(value, str) and value.lower() == user_name.lower()


def _shown(path: str) -> str:
    # The application's id may be a name or an address of a person.
    collection, slash, _ = path[1:].partition("/")
    return f"/{collection}/{{id}}" if slash and collection in {"Users", "Groups"} else path
