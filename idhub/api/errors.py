"""The API's translator: every refusal as JSON that names the field and the rule, recorded, nothing changed."""

import json
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote_to_bytes

import anyio.to_thread
import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import IntegrityError, OperationalError
from starlette.exceptions import HTTPException

from audit.verify import named_once
from idhub.api.access import ApiCaller, Unauthenticated, address_of, authenticate
from idhub.api.shared import ApiServices
from idhub.changes import Event, EventType, record
from idhub.errors import Conflict, IdhubError, Invalid, NotFound, NotPermitted, Unavailable

MAX_BODY = 1_000_000
_LOG = structlog.get_logger(__name__)
_STATUS: Mapping[type[IdhubError], tuple[int, str]] = {
    Unauthenticated: (401, "unauthenticated"),
    NotFound: (404, "not_found"),
    Conflict: (409, "conflict"),
    NotPermitted: (403, "not_permitted"),
    Invalid: (422, "invalid"),
    Unavailable: (503, "unavailable"),
}
_LONGEST = 300
_LONGEST_NAME = 60


def create_route_class(services: ApiServices) -> type[APIRoute]:
    """A route class whose handlers never leak an exception."""

    class ApiRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            inner = super().get_route_handler()
            known = frozenset(parameter.alias for parameter in self.dependant.query_params)

            async def handle(request: Request) -> Response:
                request = _StrictRequest(request.scope, request.receive)
                refusal = _unreadable(request, known)
                if refusal is None:
                    try:
                        request.state.api_caller = await anyio.to_thread.run_sync(authenticate, services, request)
                        answer = await inner(request)
                    except IdhubError as error:
                        refusal = error
                    except RequestValidationError as error:
                        refusal = _first_problem(error)
                    except HTTPException as error:
                        refusal = _from_http(error)
                    except IntegrityError as error:
                        _LOG.warning("api.lost_a_race", exc_info=error)
                        refusal = Conflict(
                            "Somebody changed the same thing at this moment; look and try again.", rule="race"
                        )
                    except OperationalError as error:
                        _LOG.warning("api.database_unavailable", exc_info=error)
                        refusal = Unavailable("The database cannot be reached; try again.")
                    else:
                        answer.headers.setdefault("Cache-Control", "no-store")
                        return answer
                await _record(services, request, refusal)
                return error_response(request, refusal)

            return handle

    return ApiRoute


def error_response(request: Request, error: IdhubError | None) -> Response:
    """The answer to a refusal; `None` is an unexpected exception: a request number and nothing else."""
    request_id = getattr(request.state, "request_id", None)
    status, code = 500, "server_error"
    if error is not None:
        status, code = next((v for kind, v in _STATUS.items() if isinstance(error, kind)), (400, "invalid"))
    body = {
        "error": code,
        "description": error.description if error else "Something went wrong here; the request number tells us what.",
        "field": error.field if error else None,
        "rule": error.rule if error else None,
        "request_id": request_id,
    }
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = error.challenge
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(max(1, int(error.retry_after.total_seconds())))
    return JSONResponse(body, status_code=status, headers=headers)


class _StrictRequest(Request):
    """Reads JSON as RFC 8259 means it: no name twice in one object (section 4), no NaN or Infinity (section 6)."""

    async def json(self) -> Any:
        content = await self.body()
        try:
            return json.loads(content, object_pairs_hook=named_once, parse_constant=_refuse_constant)
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            # Not UTF-8, a name twice, a number of thousands of digits, a nest of thousands of brackets.
            raise json.JSONDecodeError(str(error)[:_LONGEST], "", 0) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unreadable(request: Request, known: frozenset[str]) -> IdhubError | None:
    """What is refused unread: a body that is too large or does not tell, an address that cannot be meant."""
    length = request.headers.get("content-length", "")
    is_named = length.isdecimal() or (not length and "transfer-encoding" not in request.headers)
    if not is_named or len(length) > len(str(MAX_BODY)) or int(length or 0) > MAX_BODY:
        return Invalid(f"The body must name its length, at most {MAX_BODY} bytes.", field="body", rule="body.size")
    address = request.scope["path"] + unquote_to_bytes(request.scope["query_string"]).decode("latin-1")
    if any(c < " " or c == "\x7f" for c in address):
        return Invalid("The address must not contain control characters.", field="address", rule="control_character")
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        shown = name[:_LONGEST_NAME]
        if name not in known:
            return Invalid(f"There is no parameter {shown!r} here.", field=shown, rule="parameter.unknown")
        if names.count(name) > 1:
            return Invalid(f"The parameter {shown} stands twice.", field=shown, rule="parameter.repeated")
    return None


def _first_problem(error: RequestValidationError) -> Invalid:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        problem = (first.get("ctx") or {}).get("error", "it cannot be read")
        return Invalid(f"body: not JSON: {problem}."[:_LONGEST], field="body", rule="json_invalid")
    where = ".".join(str(part) for part in first["loc"] if part not in {"body", "query", "path"}) or "body"
    where = where.encode("utf-8", "replace").decode()
    return Invalid(f"{where}: {first['msg']}."[:_LONGEST], field=where[:_LONGEST], rule=str(first["type"]))


def _from_http(error: HTTPException) -> IdhubError:
    if error.status_code in {404, 405}:
        return NotFound("There is no such address, or it takes another method.", rule="route")
    if isinstance(error.__cause__, IdhubError):
        # What came up while the body was read, in the framework's words.
        return error.__cause__
    return Invalid("The body cannot be read.", field="body", rule="body.form")


async def _record(services: ApiServices, request: Request, error: IdhubError) -> None:
    """Of an authenticated caller an event of its own; of anybody else one in the count of the minute."""
    now = services.clock()
    caller: ApiCaller | None = getattr(request.state, "api_caller", None)
    reason = error.rule or "invalid"
    if caller is None:
        services.journal.count(
            EventType.REQUEST_REFUSED, door="api", target_kind="endpoint", target_id=_endpoint(request),
            address=address_of(services, request), now=now, reason=reason,
        )  # fmt: skip
        return
    await anyio.to_thread.run_sync(_write, services, request, error, caller, now)


def _endpoint(request: Request) -> str:
    return f"{request.method} {request.scope['route'].path}"


def _write(services: ApiServices, request: Request, error: IdhubError, caller: ApiCaller, now: datetime) -> None:
    denied = isinstance(error, NotPermitted)
    event = Event(
        type=EventType.AUTHORIZATION_DENIED if denied else EventType.REQUEST_REFUSED,
        at=now,
        actor=caller.lifecycle.actor,
        door="api",
        target_kind="endpoint",
        target_id=_endpoint(request),
        outcome="failure",
        reason=error.rule,
        request_id=caller.lifecycle.request_id,
        details={"field": error.field, "error": type(error).__name__},
    )
    try:
        with services.database.transaction() as session:
            record(session, [event])
    except OperationalError as failure:
        _LOG.warning("api.refusal_not_recorded", exc_info=failure)
