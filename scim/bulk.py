"""Bulk messages (RFC 7644 section 3.7): operations that may name what others of them make."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import groupby
from typing import Any, Final, TypeVar

import orjson

from scim.errors import InvalidSyntax, InvalidValue, RequestError
from scim.messages import ScimRequest, ScimResponse, error_response
from scim.schemas import BULK_REQUEST, BULK_RESPONSE, BULK_STATUS, PATCH_OP

T = TypeVar("T")
R = TypeVar("R")
_METHODS: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_REFERENCE: Final = re.compile(r"bulkId:([A-Za-z0-9._~-]{1,200})")


class _Unresolved(RequestError):
    """The operation needs what an operation that failed, or one that waits for it, would have made."""

    status = 409
    scim_type = None


class BulkTooLarge(RequestError):
    """More operations than the server takes at once."""

    status = 413


class NotTogether(Exception):
    """Operations that cannot be done in one transaction; nothing of them was done.

    Args:
        alone: places of those that must be done by themselves; none are named where that is not known.
    """

    def __init__(self, alone: Collection[int] = ()) -> None:
        super().__init__()
        self.alone = frozenset(alone)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation as it was sent."""

    method: str
    path: str
    data: Any = None
    bulk_id: str | None = None
    version: str | None = None

    @cached_property
    def needs(self) -> frozenset[str]:
        """Bulk ids that it names."""
        found = set(_REFERENCE.findall(self.path))
        if self.data is not None:
            found.update(_REFERENCE.findall(orjson.dumps(self.data).decode()))
        return frozenset(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A bulk request."""

    operations: Sequence[Operation]
    fail_on_errors: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one operation."""

    operation: Operation
    status: int
    location: str | None = None
    version: str | None = None
    response: Any = None
    error: RequestError | None = None


def read_message(document: Mapping[str, Any], *, max_operations: int) -> Message:
    """Read a BulkRequest.

    Raises:
        InvalidSyntax, InvalidValue: not built as section 3.7 says; `attribute` names the part.
        BulkTooLarge: too many operations.
    """
    fields = {name.lower(): value for name, value in document.items()}
    schemas = fields.get("schemas")
    if not isinstance(schemas, list) or BULK_REQUEST not in schemas:
        raise InvalidSyntax(f"schemas must name {BULK_REQUEST}.", attribute="schemas")
    listed = fields.get("operations")
    if not isinstance(listed, list) or not listed:
        raise InvalidSyntax("Operations must list at least one operation.", attribute="Operations")
    if len(listed) > max_operations:
        raise BulkTooLarge(f"A bulk request has at most {max_operations} operations.", attribute="Operations")
    most = fields.get("failonerrors")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise InvalidValue("failOnErrors must be a whole number above zero.", attribute="failOnErrors")
    operations = [_read_operation(each) for each in listed]
    ids = [each.bulk_id for each in operations if each.bulk_id is not None]
    if len(set(ids)) != len(ids):
        raise InvalidValue("A bulkId stands for one operation.", attribute="bulkId")
    return Message(operations=operations, fail_on_errors=most)


def _read_operation(document: Any) -> Operation:
    if not isinstance(document, dict):
        raise InvalidSyntax("An operation must be an object.", attribute="Operations")
    fields = {name.lower(): value for name, value in document.items()}
    method, path = fields.get("method"), fields.get("path")
    if not isinstance(method, str) or method.upper() not in _METHODS:
        raise InvalidSyntax(f"method must be one of {', '.join(sorted(_METHODS))}.", attribute="method")
    if not isinstance(path, str) or not path.startswith("/") or path.strip("/").lower() in {"bulk", ".search"}:
        raise InvalidValue("path must be the address of a resource or of its type, such as /Users.", attribute="path")
    bulk_id, version = fields.get("bulkid"), fields.get("version")
    for name, value in (("bulkId", bulk_id), ("version", version)):
        if value is not None and not isinstance(value, str):
            raise InvalidSyntax(f"{name} must be a text.", attribute=name)
    if method.upper() == "POST" and not bulk_id:
        # Section 3.7: required for POST, so that the answer can be told to whom it belongs.
        raise InvalidSyntax("POST needs a bulkId.", attribute="bulkId")
    data = fields.get("data")
    try:
        orjson.dumps(data)
    except TypeError as error:
        # JSON of itself, but nothing that can be stored or sent on.
        raise InvalidSyntax(
            "data holds half of a surrogate pair or a number beyond 64 bits.", attribute="data"
        ) from error
    if method.upper() == "PATCH" and isinstance(data, list):
        # Section 3.7.3 shows the operations of a PATCH without the message around them.
        data = {"schemas": [PATCH_OP], "Operations": data}
    return Operation(method=method.upper(), path=path, data=data, bulk_id=bulk_id, version=version)


def run(
    message: Message,
    alone: Callable[[ScimRequest], ScimResponse],
    together: Callable[[Sequence[Operation]], Sequence[Result]],
    *,
    most: int,
    base_url: str,
) -> list[Result]:
    """Run the operations in the order they were sent, those first that others name.

    After `failOnErrors` errors the rest is left undone and unmentioned (section 3.7.3).

    Args:
        together: does several that make resources in one transaction, or raises `NotTogether`.
        most: how many at once.
    """
    made: dict[str, str] = {}
    done: dict[int, Result] = {}
    errors = 0

    def one(operation: Operation) -> Result:
        return run_one(operation, made, alone, base_url=base_url)

    ordered = order_of(message.operations)
    places = iter(ordered)
    for batch in batches([message.operations[index] for index in ordered], most=most):
        for result in in_turn(batch, together, one):
            operation = result.operation
            if operation.bulk_id and operation.method == "POST" and result.error is None and result.location:
                made[operation.bulk_id] = result.location.rpartition("/")[2]
            done[next(places)] = result
            errors += result.status >= 400
            if message.fail_on_errors is not None and errors >= message.fail_on_errors:
                return [done[index] for index in sorted(done)]
    return [done[index] for index in sorted(done)]


def batches(operations: Sequence[Operation], *, most: int) -> Iterator[Sequence[Operation]]:
    """Operations in parts: such as follow each other and make resources of one type, naming no other, are together."""
    batch: list[Operation] = []
    for operation in operations:
        makes = operation.method == "POST" and not operation.needs
        if batch and not (makes and len(batch) < most and operation.path == batch[0].path):
            yield batch
            batch = []
        batch.append(operation)
        if not makes:
            yield batch
            batch = []
    if batch:
        yield batch


def in_turn(batch: Sequence[T], together: Callable[[Sequence[T]], Sequence[R]], alone: Callable[[T], R]) -> Iterator[R]:
    """Results of a batch, in order: together as far as that goes, the others one by one."""
    if len(batch) == 1:
        yield alone(batch[0])
        return
    try:
        yield from together(batch)
        return
    except NotTogether as error:
        apart = error.alone or range(len(batch))
    for is_apart, part in groupby(range(len(batch)), lambda place: place in apart):
        items = [batch[place] for place in part]
        if not is_apart and len(items) > 1:
            try:
                results = together(items)
            except NotTogether:
                pass
            else:
                yield from results
                continue
        for item in items:
            yield alone(item)


def order_of(operations: Sequence[Operation]) -> list[int]:
    """Indexes in an order in which makers come before those who name them; of a circle, as they were sent."""
    makers = {each.bulk_id: index for index, each in enumerate(operations) if each.bulk_id is not None}
    order: list[int] = []
    state: dict[int, bool] = {}
    for start in range(len(operations)):
        stack = [(start, False)]
        while stack:
            index, is_left = stack.pop()
            if is_left:
                order.append(index)
                state[index] = True
                continue
            if index in state:
                continue
            state[index] = False
            stack.append((index, True))
            needed = sorted(makers[name] for name in operations[index].needs if name in makers)
            stack += [(each, False) for each in reversed(needed) if each not in state]
    return order


def run_one(
    operation: Operation, made: Mapping[str, str], answer: Callable[[ScimRequest], ScimResponse], *, base_url: str
) -> Result:
    """Run one operation.

    Args:
        made: identifiers of what earlier operations made, by bulk id.
    """
    missing = next((name for name in sorted(operation.needs) if name not in made), None)
    if missing is not None:
        said = f"bulkId:{missing} names nothing that was made: it failed, or waits for this one."
        response = error_response(_Unresolved(said, attribute="bulkId"))
    else:
        body = b"" if operation.data is None else _resolved(orjson.dumps(operation.data).decode(), made).encode()
        response = answer(
            ScimRequest(
                method=operation.method,
                path=_resolved(operation.path, made),
                headers={} if operation.version is None else {"if-match": operation.version},
                body=body,
            )
        )
    location = response.headers.get("Location")
    if location is None and operation.method != "POST" and missing is None:
        # Section 3.7: required, except where a POST failed.
        location = base_url + _resolved(operation.path, made)
    return Result(
        operation=operation,
        status=response.status,
        location=location,
        version=response.headers.get("ETag"),
        response=orjson.loads(response.body) if response.error is not None and response.body else None,
        error=response.error,
    )


def _resolved(text: str, made: Mapping[str, str]) -> str:
    return _REFERENCE.sub(lambda match: made[match[1]], text)


def response(results: Sequence[Result]) -> dict[str, Any]:
    """The BulkResponse (section 3.7)."""
    return {"schemas": [BULK_RESPONSE], "Operations": [shown(result) for result in results]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a bulk request is that is worked later.

    Args:
        status: `waiting`, `running`, `done` or `cancelled`.
        done: operations that have been tried; `errors` of them were refused.
        results: of operations that have been tried, as section 3.7 shows them, from `start_index` on.
    """

    id: str
    status: str
    total: int
    done: int = 0
    errors: int = 0
    created_at: datetime
    finished_at: datetime | None = None
    reason: str | None = None
    start_index: int = 1
    results: Sequence[Mapping[str, Any]] = ()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be done."""
        return self.status in {"done", "cancelled"}


def progress_document(progress: Progress, *, location: str) -> dict[str, Any]:
    """What the status resource shows: the BulkResponse so far, and how far that is."""
    optional = {
        "finished": progress.finished_at.isoformat() if progress.finished_at else None,
        "reason": progress.reason,
    }
    return {
        "schemas": [BULK_RESPONSE, BULK_STATUS],
        "id": progress.id,
        "status": progress.status,
        "total": progress.total,
        "done": progress.done,
        "errors": progress.errors,
        "created": progress.created_at.isoformat(),
        **{name: value for name, value in optional.items() if value is not None},
        "location": location,
        "startIndex": progress.start_index,
        "Operations": list(progress.results),
    }


def shown(result: Result) -> dict[str, Any]:
    """One operation of a BulkResponse."""
    told: dict[str, Any] = {"method": result.operation.method, "status": str(result.status)}
    optional = {
        "bulkId": result.operation.bulk_id,
        "location": result.location,
        "version": result.version,
        "response": result.response,
    }
    return told | {name: value for name, value in optional.items() if value is not None}
