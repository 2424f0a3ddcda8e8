"""SCIM client for users (RFC 7644), on an HTTP port that it is given.

The port owns the network: address guard, size cap, total deadline, no redirects. This module owns the protocol: what
is asked, what an answer means, and that no credential leaves with an error. An answer is never believed further than
it goes: resources that do not match what was asked for are not "found", and an unreadable list is not "nobody".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import quote as url_quote
from urllib.parse import urlencode

import orjson

from scim.dialects import GENERIC, Dialect, adapted
from scim.errors import (
    RemoteConflict,
    RemoteError,
    RemoteNotFound,
    RemoteRefused,
    RemoteUnauthorized,
    RemoteUnavailable,
    remote_text,
)
from scim.filters import quote
from scim.schemas import ENTERPRISE_USER, PATCH_OP, USER, Changes, Resource, attribute, with_changes

MAX_RETRY_AFTER: Final = timedelta(hours=1)
"""A longer wish is shortened: a leaver cannot wait for a day because a server said so."""

_LOOKUP_COUNT: Final = 10
_RETRYABLE: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
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


class ScimClient:
    """Talks to one service for the length of one run.

    Args:
        base_url: up to and without `/Users`.
        token: bearer token; None for a service without one.
        time_left: how long the run may still take; asked before every request, which gets no more than that.
        now: the time of the run, for evidence and for Retry-After as a date.
        trace: shown to the service as X-Idhub-Delivery, so that its log and ours can be laid side by side.
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
    ) -> None:
        self._http = http
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
        if not self.dialect.finds_external_id:
            return []
        found = await self._search(f"externalId eq {quote(external_id)}")
        return [user for user in found if attribute(user, "externalId") == external_id]

    async def find_by_user_name(self, user_name: str) -> list[Resource]:
        """Users of this userName, in whatever case (RFC 7643 section 4.1.1); usually none or one."""
        found = await self._search(f"userName eq {quote(user_name)}")
        return [user for user in found if _same_name(attribute(user, "userName"), user_name)]

    async def find_user(self, *, external_id: str, user_name: str) -> list[Resource]:
        """Users of this externalId or, when there is none, of this userName. To be asked before every create."""
        return await self.find_by_external_id(external_id) or await self.find_by_user_name(user_name)

    async def get_user(self, user_id: str) -> Resource:
        """The user as the service has it.

        Raises:
            RemoteNotFound: the service says that there is none.
        """
        user = await self._resource("GET", self._user_path(user_id))
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
        body = with_changes({"schemas": [USER]}, adapted(attributes, self.dialect))
        return await self._resource("POST", "/Users", json=body)

    async def update_user(self, current: Mapping[str, Any], changes: Changes) -> None:
        """Bring changes to a user, by PATCH or PUT as the dialect says. `current` is the user as last read."""
        user_id = attribute(current, "id")
        if not isinstance(user_id, str):
            raise RemoteUnavailable("The application sent a user without id.")
        if self.dialect.update == "put":
            await self.replace_user(user_id, with_changes(current, adapted(changes, self.dialect)))
        else:
            await self.patch_user(user_id, changes)

    async def patch_user(self, user_id: str, changes: Changes) -> None:
        """Change attributes of a user (RFC 7644 section 3.5.2): one operation each, all or none."""
        operations = [
            {"op": "remove", "path": path} if value is None else {"op": "replace", "path": path, "value": value}
            for path, value in adapted(changes, self.dialect).items()
        ]
        await self._send("PATCH", self._user_path(user_id), json={"schemas": [PATCH_OP], "Operations": operations})

    async def replace_user(self, user_id: str, resource: Mapping[str, Any]) -> None:
        """Replace a user by PUT (RFC 7644 section 3.5.1)."""
        await self._send("PUT", self._user_path(user_id), json=dict(resource))

    async def set_active(self, current: Mapping[str, Any], active: bool) -> None:
        """Switch a user on or off. `current` is the user as last read."""
        await self.update_user(current, {"active": active})

    async def list_users(self, parameters: Mapping[str, str | int]) -> Resource:
        """One page of all users, as the service sent it (RFC 7644 section 3.4.2.4, RFC 9865); see `scim.listing`."""
        try:
            return await self._resource("GET", "/Users", query=urlencode(parameters, quote_via=url_quote))
        except RemoteNotFound as error:
            raise RemoteRefused(
                f"The application has no /Users to list: {error.description}", status_code=error.status_code
            ) from error

    async def service_provider_config(self) -> Resource:
        """What the service says that it can do (RFC 7643 section 5)."""
        return await self._resource("GET", "/ServiceProviderConfig")

    async def _search(self, text: str) -> list[Resource]:
        query = urlencode({"filter": text, "startIndex": 1, "count": _LOOKUP_COUNT}, quote_via=url_quote)
        try:
            answer = await self._resource("GET", "/Users", query=query)
        except RemoteNotFound as error:
            # An empty result is 200 (RFC 7644 section 3.4.2); 404 means that the service is not there.
            raise RemoteUnavailable(
                f"The application has no /Users to search: {error.description}", status_code=error.status_code
            ) from error
        total, resources = answer.get("totalResults"), answer.get("Resources", [])
        if not isinstance(total, int) or isinstance(total, bool) or not isinstance(resources, list):
            raise RemoteUnavailable("The application answered a search with something that is no list.")
        if total > len(resources):
            # Nobody is absent from a list that was not seen to its end.
            raise RemoteRefused(
                f"The application answered a search for one user with {total}: it does not honour the filter."
            )
        return [user for user in resources if isinstance(user, dict)]

    async def _resource(self, method: str, path: str, *, query: str = "", json: Any = None) -> Resource:
        response = await self._send(method, path, query=query, json=json)
        answer = _parsed(response.body)
        if not isinstance(answer, dict):
            raise RemoteUnavailable(
                f"The application answered {response.status} with something that is not SCIM.",
                status_code=response.status,
                may_have_arrived=method != "GET",
            )
        return answer

    async def _send(self, method: str, path: str, *, query: str = "", json: Any = None) -> HttpResponse:
        time_left = self._time_left()
        if time_left <= timedelta(0):
            raise RemoteUnavailable("The time of this attempt was used up before the application had answered.")
        headers = dict(self._headers)
        if json is not None:
            headers["Content-Type"] = "application/scim+json"
        url = f"{self._base_url}{path}" + (f"?{query}" if query else "")
        began_at, status = self._now(), None
        try:
            response = await self._http.request(method, url, headers=headers, json=json, timeout=time_left)
            status = response.status
        finally:
            self.exchanges.append(Exchange(method, _shown(path), status, began_at, self._now()))
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return response
        raise self._error(response, writes=method != "GET")

    def _error(self, response: HttpResponse, *, writes: bool) -> RemoteError:
        status = response.status
        answer = _parsed(response.body)
        words = answer if isinstance(answer, dict) else {}
        detail = remote_text(words.get("detail"), secrets=self._secrets)
        scim_type = remote_text(words.get("scimType"), secrets=self._secrets) or None
        description = f"The application answered {status}" + (f": {detail}" if detail else ".")
        if status in _RETRYABLE or (
            status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED
        ):
            return RemoteUnavailable(
                description,
                status_code=status,
                retry_after=_retry_after(response.headers, now=self._now()),
                may_have_arrived=writes and status != HTTPStatus.TOO_MANY_REQUESTS,
            )
        kind: type[RemoteError] = RemoteRefused
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            kind = RemoteUnauthorized
        elif status in _GONE:
            kind = RemoteNotFound
        elif status == HTTPStatus.CONFLICT or (status == HTTPStatus.BAD_REQUEST and scim_type == "uniqueness"):
            kind = RemoteConflict
        elif status < HTTPStatus.BAD_REQUEST:
            description = f"The application answered {status}: a redirect or an interim answer, which is not followed."
        return kind(description, status_code=status, scim_type=scim_type)

    @staticmethod
    def _user_path(user_id: str) -> str:
        # The id is the other side's text: `..` would leave the collection, and url_quote leaves dots alone.
        if not user_id or user_id.strip(".") == "":
            raise RemoteRefused("The application's id of this user cannot be put into an address.")
        return f"/Users/{url_quote(user_id, safe='')}"


def enterprise(name: str) -> str:
    """Path of an attribute of the enterprise extension (RFC 7643 section 4.3)."""
    return f"{ENTERPRISE_USER}:{name}"


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _same_name(value: object, user_name: str) -> bool:
    return isinstance(value, str) and value.lower() == user_name.lower()


def _shown(path: str) -> str:
    # The application's id may be a name or an address of a person.
    return "/Users/{id}" if path.startswith("/Users/") else path


def _retry_after(headers: Mapping[str, str], *, now: datetime) -> timedelta | None:
    """RFC 9110 section 10.2.3: seconds, or a date, which is read against the service's own clock when it shows it."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal() and text.isascii():
        return min(timedelta(seconds=int(text[:9])), MAX_RETRY_AFTER)
    until = _http_date(text)
    if until is None:
        return None
    wait = until - (_http_date(headers.get("Date", "")) or now)
    return min(max(wait, timedelta(0)), MAX_RETRY_AFTER)


def _http_date(text: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
