"""A SCIM 2.0 service provider (RFC 7644) over a store that it is given.

Owns the protocol: addresses, messages, errors, versions, paging, projection, bulk. Owns no data and no transaction:
whoever serves opens a store a request (of a bulk request: an operation) and decides there who may see and do what.
Nothing here knows a web framework; `Server.answer` is a plain function from request to response.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qsl, quote

import orjson

from scim import bulk
from scim.attributes import RESOURCE_TYPE, SCHEMA, ResourceType
from scim.errors import (
    InvalidSyntax,
    InvalidValue,
    NotFound,
    RequestError,
    VersionDiffers,
)
from scim.messages import (
    MEDIA_TYPE,
    Forbidden,
    MethodNotAllowed,
    ScimRequest,
    ScimResponse,
    TooLarge,
    UnsupportedMedia,
    error_response,
)
from scim.patch import apply_patch
from scim.reading import Projection, keep_immutable, parse_json, read_resource
from scim.schemas import LIST_RESPONSE, SERVICE_PROVIDER_CONFIG, Resource
from scim.wishes import DEFAULT_PAGE, MAX_PAGE, Query, Wishes

MAX_QUERY: Final = 8_192
_ACCEPTED: Final = frozenset({MEDIA_TYPE, "application/json"})


class Parsed(Mapping[str, Any]):
    """A resource of which a store has the JSON: read when somebody looks at it."""

    __slots__ = ("_body", "_held")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._held: Resource | None = None

    def _read(self) -> Resource:
        if self._held is None:
            self._held = orjson.loads(self._body)
        return self._held

    def __getitem__(self, name: str) -> Any:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


class Stored(NamedTuple):
    """A resource as the store has it: without `id` and `meta`, which are told apart."""

    id: str
    resource: Mapping[str, Any]
    version: str
    """Opaque; becomes a weak entity tag."""
    created_at: datetime
    changed_at: datetime
    whole: Resource | None = None
    """With what is not shown and filters see all the same; None: `resource` is all."""
    body: bytes | None = None
    """`resource` as JSON, where the store has it anyway."""
    plain_of: ResourceType | None = None
    """The type that has all of `resource` and shows it unless asked not to; None: the store does not know of any."""
    is_new: bool = True
    """Of what `Store.create` returns: whether there was none before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Part of a list. `total` is None where counting was not asked for or would cost too much."""

    items: Sequence[Stored | bytes]
    """Bytes are a resource complete as JSON, as the query shows it (`Query.shows_type`)."""
    total: int | None
    next_cursor: str | None = None


class Store(Protocol):
    """Resources of one caller, inside one transaction. Raises `RequestError` for what it refuses."""

    def get(self, kind: ResourceType, resource_id: str, *, shows: Callable[[str], bool]) -> Stored:
        """One resource; `NotFound` where there is none that the caller may see.

        Args:
            shows: as `Query.shows`.
        """

    def find(self, kind: ResourceType, query: Query) -> Page:
        """Resources that match, in order."""

    def create(self, kind: ResourceType, resource: Resource) -> Stored:
        """Make a resource, or replace one that the caller means by this. `NotUnique`: a unique value is another's."""

    def create_all(self, kind: ResourceType, resources: Sequence[Resource]) -> Sequence[Stored]:
        """Make several, each as `create` would, in order.

        Raises:
            bulk.NotTogether: some must be made alone; the transaction is given up.
        """

    def change(
        self, kind: ResourceType, resource_id: str, change: Callable[[Stored], Resource], *, replaces: bool
    ) -> Stored:
        """Lock a resource, ask `change` what it becomes, and store that; an equal one is not written.

        Args:
            replaces: it becomes what was sent and no more (PUT): what was left out was left out on purpose.
        """

    def delete(self, kind: ResourceType, resource_id: str, check: Callable[[Stored], None]) -> None:
        """Lock a resource, let `check` refuse, and end it."""

    def me(self) -> tuple[ResourceType, str] | None:
        """The resource of whoever calls; None where a machine does."""


Transactions = Callable[[], AbstractContextManager[Store]]


class Jobs(Protocol):
    """Bulk requests of one caller that are worked later (RFC 7240 section 4.1)."""

    def accept(self, message: bulk.Message) -> bulk.Progress:
        """Keep a request; somebody else works it."""

    def show(self, job_id: str, *, start_index: int, count: int) -> bulk.Progress:
        """How far one is, with results of operations from `start_index` on. `NotFound` where it is not the caller's."""

    def cancel(self, job_id: str) -> None:
        """What is not done yet stays undone; what has been done stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may ask for."""

    max_body: int = 1_000_000
    max_bulk_operations: int = 1_000
    max_async_operations: int = 20_000
    max_bulk_body: int = 10_000_000


class Server:
    """Answers requests for resources of the given types."""

    def __init__(
        self,
        kinds: Sequence[ResourceType],
        *,
        base_url: str,
        limits: Limits | None = None,
        replace_makes: bool = False,
        made_together: int = 1,
    ) -> None:
        """
        Args:
            base_url: address of the server, without a slash at its end; locations are built from it.
            replace_makes: what PATCH `replace` does where no value matches, see `scim.patch`.
            made_together: how many resources of a bulk request one transaction makes.
        """
        self._kinds = {kind.endpoint.strip("/"): kind for kind in kinds}
        self._base_url = base_url
        self._limits = limits or Limits()
        self._replace_makes = replace_makes
        self.made_together = made_together

    def answer(
        self,
        request: ScimRequest,
        transactions: Transactions,
        jobs: Jobs | None = None,
        events: Callable[[], Sequence[str]] = tuple,
    ) -> ScimResponse:
        """The answer to a request; refusals are answers too.

        Args:
            jobs: None where nothing is worked later.
            events: URIs of the events that the caller is told of, asked where the server describes itself.
        """
        try:
            return self._route(request, transactions, jobs, events)
        except RequestError as error:
            return error_response(error)

    def shown(self, store: Store, type_name: str, resource_id: str) -> tuple[ResourceType, Resource] | None:
        """A resource as a GET shows it, and its type; None: there is none, or none that may be seen."""
        kind = next((each for each in self._kinds.values() if each.name == type_name), None)
        if kind is None:
            return None
        projection = Wishes().projection(kind)
        try:
            stored = store.get(kind, resource_id, shows=projection.shows)
        except NotFound:
            return None
        return kind, projection(self._document(kind, stored))

    # --- addresses ----------------------------------------------------------------------------------------------------

    def _route(
        self,
        request: ScimRequest,
        transactions: Transactions,
        jobs: Jobs | None,
        events: Callable[[], Sequence[str]],
    ) -> ScimResponse:
        if len(request.query) > MAX_QUERY:
            raise InvalidValue(f"The query has more than {MAX_QUERY} characters; POST it to .search.")
        # No identifier holds this character, and PostgreSQL takes it in no text.
        parts = [part for part in request.path.split("/") if part] if "\0" not in request.path else ["\0"]
        match parts:
            case ["ServiceProviderConfig"]:
                known = self._configuration(is_async=_prefers_async(request), events=events())
                return self._discovery(request, known)
            case ["ResourceTypes", *rest] if len(rest) <= 1:
                return self._described(request, rest, RESOURCE_TYPE, self._type_documents())
            case ["Schemas", *rest] if len(rest) <= 1:
                return self._described(request, rest, SCHEMA, self._schema_documents())
            case ["Bulk"]:
                return self._bulk(request, transactions, jobs)
            case ["Bulk", job_id] if jobs is not None:
                return self._job(request, jobs, job_id)
            case [] | [".search"]:
                return self._search(request, transactions, list(self._kinds.values()))
            case ["Me"]:
                return self._me(request, transactions)
            case [name] if name in self._kinds:
                return self._collection(request, transactions, self._kinds[name])
            case [name, ".search"] if name in self._kinds:
                return self._search(request, transactions, [self._kinds[name]])
            case [name, resource_id] if name in self._kinds:
                return self._resource(request, transactions, self._kinds[name], resource_id)
        raise NotFound("There is no such address.")

    def _discovery(self, request: ScimRequest, document: Mapping[str, Any]) -> ScimResponse:
        _allow(request, "GET")
        # RFC 7644 section 4: a filter is forbidden here, so that nobody takes a part for the whole.
        if any(name.lower() == "filter" for name, _ in parse_qsl(request.query)):
            raise Forbidden("Descriptions of the server cannot be filtered.")
        return _json(200, document)

    def _described(
        self, request: ScimRequest, rest: Sequence[str], urn: str, documents: Mapping[str, Mapping[str, Any]]
    ) -> ScimResponse:
        if not rest:
            listed = list(documents.values())
            return self._discovery(request, _list(listed, total=len(listed), start_index=1))
        found = next((document for key, document in documents.items() if key.lower() == rest[0].lower()), None)
        if found is None:
            raise NotFound(f"There is no such {urn.rpartition(':')[2]}.")
        return self._discovery(request, found)

    def _type_documents(self) -> dict[str, Mapping[str, Any]]:
        return {
            kind.name: kind.document(location=f"{self._base_url}/ResourceTypes/{kind.name}")
            for kind in self._kinds.values()
        }

    def _schema_documents(self) -> dict[str, Mapping[str, Any]]:
        schemas = {schema.id: schema for kind in self._kinds.values() for schema in (kind.schema, *kind.extensions)}
        return {urn: schema.document(location=f"{self._base_url}/Schemas/{urn}") for urn, schema in schemas.items()}

    def _configuration(self, *, is_async: bool, events: Sequence[str]) -> dict[str, Any]:
        """RFC 7643 section 5, with `pagination` of RFC 9865 section 2 and `securityEvents` of RFC 9967 section 4.

        Args:
            is_async: which limit of bulk requests is meant; there is no attribute for the other one, and clients refuse
                answers with attributes that they do not know.
            events: none: `securityEvents` is absent, for the same reason.
        """
        most = self._limits.max_async_operations if is_async else self._limits.max_bulk_operations
        return {
            "schemas": [SERVICE_PROVIDER_CONFIG],
            "patch": {"supported": True},
            "bulk": {
                "supported": True,
                "maxOperations": most,
                "maxPayloadSize": self._limits.max_bulk_body,
            },
            "filter": {"supported": True, "maxResults": MAX_PAGE},
            "changePassword": {"supported": False},
            "sort": {"supported": True},
            "etag": {"supported": True},
            "pagination": {
                "cursor": True,
                "index": True,
                "defaultPaginationMethod": "index",
                "defaultPageSize": DEFAULT_PAGE,
                "maxPageSize": MAX_PAGE,
            },
            **({"securityEvents": {"asyncRequest": "request", "eventUris": list(events)}} if events else {}),
            "authenticationSchemes": [
                {
                    "type": "oauthbearertoken",
                    "name": "Bearer token",
                    "description": "A token of the hub in the Authorization header (RFC 6750).",
                    "specUri": "https://www.rfc-editor.org/info/rfc6750",
                    "primary": True,
                }
            ],
            "meta": {
                "resourceType": "ServiceProviderConfig",
                "location": f"{self._base_url}/ServiceProviderConfig",
            },
        }

    # --- resources ----------------------------------------------------------------------------------------------------

    def _collection(self, request: ScimRequest, transactions: Transactions, kind: ResourceType) -> ScimResponse:
        _allow(request, "GET", "POST")
        if request.method == "GET":
            wishes = Wishes.of_query(request.query)
            with transactions() as store:
                return self._listed(store, [kind], wishes)
        projection = Wishes.of_query(request.query).projection(kind)
        document = self._read_body(request)
        resource = read_resource(document, kind)
        with transactions() as store:
            stored = store.create(kind, resource)
        return self._shown(kind, stored, projection, status=201 if stored.is_new else 200)

    def _resource(
        self, request: ScimRequest, transactions: Transactions, kind: ResourceType, resource_id: str
    ) -> ScimResponse:
        _allow(request, "GET", "PUT", "PATCH", "DELETE")
        projection = Wishes.of_query(request.query).projection(kind)
        if request.method == "GET":
            with transactions() as store:
                stored = store.get(kind, resource_id, shows=projection.shows)
            if _matches(request.headers.get("if-none-match"), stored.version):
                return ScimResponse(status=304, headers={"ETag": _tag(stored.version)})
            return self._shown(kind, stored, projection)
        expected = request.headers.get("if-match")
        if request.method == "DELETE":
            with transactions() as store:
                store.delete(kind, resource_id, lambda held: _expect(expected, held))
            return ScimResponse(status=204)
        document = self._read_body(request)
        change = self._change(request.method, kind, document)

        def checked(held: Stored) -> Resource:
            _expect(expected, held)
            return change(held)

        with transactions() as store:
            stored = store.change(kind, resource_id, checked, replaces=request.method == "PUT")
        return self._shown(kind, stored, projection)

    def _change(self, method: str, kind: ResourceType, document: Mapping[str, Any]) -> Callable[[Stored], Resource]:
        if method == "PATCH":
            return lambda held: apply_patch(
                held.resource, document, kind, replace_makes=self._replace_makes, own_id=held.id
            )
        new = read_resource(document, kind)
        return lambda held: keep_immutable(held.resource, new, kind)

    def _me(self, request: ScimRequest, transactions: Transactions) -> ScimResponse:
        """RFC 7644 section 3.11."""
        with transactions() as store:
            found = store.me()
        if found is None:
            raise NotFound("This token is no person's.")
        kind, resource_id = found
        if kind.endpoint.strip("/") not in self._kinds:
            raise NotFound("There is no such address.")
        _allow(request, "GET")
        return self._resource(request, transactions, kind, resource_id)

    def _shown(self, kind: ResourceType, stored: Stored, projection: Projection, *, status: int = 200) -> ScimResponse:
        document = self._document(kind, stored)
        headers = {"ETag": _tag(stored.version), "Location": document["meta"]["location"]}
        return _json(status, projection(document), headers)

    def _document(self, kind: ResourceType, stored: Stored) -> Resource:
        schemas = stored.resource["schemas"]
        return {
            "schemas": schemas,
            "id": stored.id,
            **{name: value for name, value in stored.resource.items() if name != "schemas"},
            "meta": _meta(stored, kind, self._base_url),
        }

    def _entries(self, kind: ResourceType, page: Page, projection: Projection) -> list[Any]:
        """The resources of a list. What is shown whole, and the store has as JSON, is spliced as it is."""
        if {*map(type, page.items)} == {bytes}:
            return list(map(orjson.Fragment, page.items))
        known = next((each.plain_of for each in page.items if not isinstance(each, bytes) and each.plain_of), None)
        plain = known if known is not None and projection.shows_type(known) else None
        return [
            orjson.Fragment(stored)
            if isinstance(stored, bytes)
            else projection(self._document(kind, stored))
            if stored.body is None
            or not ((plain is not None and stored.plain_of is plain) or projection.shows_all(stored.resource))
            else orjson.Fragment(complete(stored, kind, base_url=self._base_url))
            for stored in page.items
        ]

    # --- lists --------------------------------------------------------------------------------------------------------

    def _search(self, request: ScimRequest, transactions: Transactions, kinds: Sequence[ResourceType]) -> ScimResponse:
        """RFC 7644 section 3.4.3: the query in the body, where no log keeps it; at the root in the address (3.4.2)."""
        is_root = not request.path.strip("/")
        _allow(request, "GET" if is_root else "POST")
        wishes = Wishes.of_query(request.query) if is_root else Wishes.of_body(self._read_body(request))
        with transactions() as store:
            return self._listed(store, kinds, wishes)

    def _listed(self, store: Store, kinds: Sequence[ResourceType], wishes: Wishes) -> ScimResponse:
        if len(kinds) > 1:
            return self._listed_over_types(store, kinds, wishes)
        kind = kinds[0]
        projection = wishes.projection(kind)
        query = wishes.query(kind)
        page = store.find(kind, query)
        documents = self._entries(kind, page, projection)
        if query.cursor is not None:
            return _json(200, _list(documents, total=page.total, next_cursor=page.next_cursor))
        return _json(200, _list(documents, total=page.total, start_index=query.start_index))

    def _listed_over_types(self, store: Store, kinds: Sequence[ResourceType], wishes: Wishes) -> ScimResponse:
        """Types one after the other, each in its own order (section 3.4.2.1)."""
        if wishes.cursor is not None:
            raise InvalidValue("A cursor walks one type of resource; search below its address.", attribute="cursor")
        documents: list[Any] = []
        total = 0
        for kind, asked in zip(kinds, wishes.of_types(kinds), strict=True):
            projection = wishes.projection(kind)
            if asked is None:
                continue
            page = store.find(
                kind, asked.query(kind, skip=max(0, wishes.start_index - 1 - total), taken=len(documents))
            )
            documents += self._entries(kind, page, projection)
            total += page.total or 0
        return _json(200, _list(documents, total=total, start_index=wishes.start_index))

    # --- bulk ---------------------------------------------------------------------------------------------------------

    def _bulk(self, request: ScimRequest, transactions: Transactions, jobs: Jobs | None) -> ScimResponse:
        """RFC 7644 section 3.7. Each operation is a request of its own: what one is refused for, the others are not."""
        _allow(request, "POST")
        document = self._read_body(request, limit=self._limits.max_bulk_body)
        if jobs is not None and _prefers_async(request):
            later = bulk.read_message(document, max_operations=self._limits.max_async_operations)
            return self._accepted(jobs.accept(later))
        message = bulk.read_message(document, max_operations=self._limits.max_bulk_operations)
        results = bulk.run(
            message,
            lambda inner: self.answer(inner, transactions),
            lambda operations: self.make_together(operations, transactions),
            most=self.made_together,
            base_url=self._base_url,
        )
        refused = tuple(result.error for result in results if result.error is not None)
        return replace(_json(200, bulk.response(results)), refused=refused)

    def make_together(self, operations: Sequence[bulk.Operation], transactions: Transactions) -> Sequence[bulk.Result]:
        """Do operations of a bulk request that make resources of one type, in one transaction.

        Raises:
            bulk.NotTogether: some cannot be done so; nothing was done.
        """
        kind = self._kinds.get(operations[0].path.strip("/"))
        if kind is None:
            raise bulk.NotTogether
        resources, unreadable = [], set()
        for place, operation in enumerate(operations):
            try:
                resources.append(read_resource(self._data_of(operation), kind))
            except RequestError:
                unreadable.add(place)
        if unreadable:
            raise bulk.NotTogether(unreadable)
        try:
            with transactions() as store:
                made = store.create_all(kind, resources)
        except RequestError as error:
            # Which of them is the reason shows when each is done alone.
            raise bulk.NotTogether from error
        return [
            bulk.Result(
                operation=operation,
                status=201,
                location=_meta(stored, kind, self._base_url)["location"],
                version=_tag(stored.version),
            )
            for operation, stored in zip(operations, made, strict=True)
        ]

    def _data_of(self, operation: bulk.Operation) -> dict[str, Any]:
        """What an operation would make, held to the limit of a request of its own.

        Raises:
            InvalidSyntax: no object.
            TooLarge: too much of it.
        """
        if not isinstance(operation.data, dict):
            raise InvalidSyntax("The body is no JSON object.")
        if len(orjson.dumps(operation.data)) > self._limits.max_body:
            raise TooLarge(f"The body has more than {self._limits.max_body} bytes.")
        return operation.data

    def _job(self, request: ScimRequest, jobs: Jobs, job_id: str) -> ScimResponse:
        """What became of a request that is worked later; DELETE ends it."""
        _allow(request, "GET", "DELETE")
        if request.method == "DELETE":
            jobs.cancel(job_id)
            return ScimResponse(status=204)
        wishes = Wishes.of_query(request.query)
        return self._told(jobs.show(job_id, start_index=wishes.start_index, count=wishes.count))

    def _accepted(self, progress: bulk.Progress) -> ScimResponse:
        """RFC 9967 section 2.5.1.1: no body; what became of it is read at the location, or told by events."""
        headers = {"Location": self._place_of(progress), "Retry-After": "1", "Set-Txn": progress.id}
        return ScimResponse(status=202, headers={**headers, "Preference-Applied": "respond-async"})

    def _told(self, progress: bulk.Progress) -> ScimResponse:
        location = self._place_of(progress)
        wait = {} if progress.is_over else {"Retry-After": "1"}
        return _json(
            200 if progress.is_over else 202,
            bulk.progress_document(progress, location=location),
            {"Location": location, **wait},
        )

    def _place_of(self, progress: bulk.Progress) -> str:
        return f"{self._base_url}/Bulk/{progress.id}"

    def _read_body(self, request: ScimRequest, *, limit: int | None = None) -> dict[str, Any]:
        most = limit or self._limits.max_body
        if len(request.body) > most:
            raise TooLarge(f"The body has more than {most} bytes.")
        media_type = request.headers.get("content-type", MEDIA_TYPE).partition(";")[0].strip().lower()
        if media_type not in _ACCEPTED:
            raise UnsupportedMedia(f"Send {MEDIA_TYPE}.")
        return parse_json(request.body)


def _prefers_async(request: ScimRequest) -> bool:
    """RFC 7240 sections 2 and 4.1."""
    preferences = request.headers.get("prefer", "").split(",")
    return any(each.partition(";")[0].strip().lower() == "respond-async" for each in preferences)


def _allow(request: ScimRequest, *methods: str) -> None:
    if request.method not in methods:
        raise MethodNotAllowed(methods)


def _json(status: int, document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> ScimResponse:
    return ScimResponse(
        status=status, body=orjson.dumps(document), headers={"Content-Type": MEDIA_TYPE, **(headers or {})}
    )


def complete(stored: Stored, kind: ResourceType, *, base_url: str) -> bytes:
    """A resource of which the store has the JSON, with `id` and `meta` at its end. Of what needs no quoting, these are
    put together as text.
    """
    name, version, body = stored.id, stored.version, stored.body or b""
    if not (name.isascii() and name.isidentifier() and version.isascii() and version.replace(".", "").isalnum()):
        end = orjson.dumps({"id": name, "meta": _meta(stored, kind, base_url)})[1:]
        return b"%b,%b" % (body[:-1], end)
    head, place = _beginnings(kind.name, f"{base_url}{kind.endpoint}/")
    end = (
        f'"id":"{name}",{head}{_instants(stored.created_at, stored.changed_at)}'
        f'"location":{place}{name}","version":"W/\\"{version}\\""}}}}'
    ).encode()
    return b"%b,%b" % (body[:-1], end)


@lru_cache(maxsize=64)
def _beginnings(name: str, place: str) -> tuple[str, str]:
    """The beginnings of `meta` and of a location's text, the same for all of a kind."""
    return f'"meta":{{"resourceType":{_text(name)},', _text(place)[:-1]


def _meta(stored: Stored, kind: ResourceType, base_url: str) -> dict[str, str]:
    # Nothing of a name is quoted; asking for that takes longer than the rest.
    place = stored.id if stored.id.isascii() and stored.id.isidentifier() else quote(stored.id, safe="")
    return {
        "resourceType": kind.name,
        "created": _instant(stored.created_at),
        "lastModified": _instant(stored.changed_at),
        "location": f"{base_url}{kind.endpoint}/{place}",
        "version": _tag(stored.version),
    }


def _list(
    documents: Sequence[Any],
    *,
    total: int | None,
    start_index: int | None = None,
    next_cursor: str | None = None,
) -> dict[str, Any]:
    message: dict[str, Any] = {"schemas": [LIST_RESPONSE]}
    if total is not None:
        message["totalResults"] = total
    if start_index is not None:
        message["startIndex"] = start_index
    if next_cursor is not None:
        message["nextCursor"] = next_cursor
    return {**message, "itemsPerPage": len(documents), "Resources": list(documents)}


# Resources that were made together have their instants in common.
@lru_cache(maxsize=4_096)
def _instant(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


@lru_cache(maxsize=4_096)
def _instants(created_at: datetime, changed_at: datetime) -> str:
    """The instants of `meta` as JSON."""
    return f'"created":"{_instant(created_at)}","lastModified":"{_instant(changed_at)}",'


def _text(value: str) -> str:
    return orjson.dumps(value).decode()


def _tag(version: str) -> str:
    return f'W/"{version}"'


def _matches(condition: str | None, version: str) -> bool:
    """Weak comparison of entity tags (RFC 9110 section 13.1)."""
    if condition is None:
        return False
    tags = {tag.strip().removeprefix("W/").strip('"') for tag in condition.split(",")}
    return "*" in tags or version in tags


def _expect(condition: str | None, held: Stored) -> None:
    if condition is not None and not _matches(condition, held.version):
        raise VersionDiffers("The resource was changed since; read it again.")
