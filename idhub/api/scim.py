"""`/scim/v2`: HTTP around the SCIM server, for identity providers and HR systems that push people.

A call carries a token with a SCIM scope; cookies are never accepted. One transaction a request, of a bulk request one
an operation. Every refusal is recorded.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from idhub.api.access import ApiCaller, Unauthenticated, address_of, authenticate
from idhub.api.shared import ApiServices
from idhub.changes import Event, EventType, record
from idhub.errors import Unavailable
from idhub.lifecycle.doors import Door
from idhub.provisioning.inbound import KINDS, DirectoryStore
from idhub.provisioning.inbound_sender import Sender
from scim.errors import NotUnique, RequestError
from scim.messages import Forbidden, ScimRequest, ScimResponse, TooLarge, error_response
from scim.server import Limits, Server, Store

PREFIX = "/scim/v2"
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_PROVIDER_LENGTH = 60
_LIMITS = Limits()
_LOG = structlog.get_logger(__name__)


class _NoToken(RequestError):
    status = 401


class _Later(RequestError):
    status = 503


def create_router(services: ApiServices) -> APIRouter:
    """The one route; the protocol's addresses are `scim.server`'s."""
    router = APIRouter()
    base_url = services.settings.issuer.rstrip("/") + PREFIX
    server = Server(KINDS, base_url=base_url, limits=_LIMITS)

    @router.api_route(PREFIX + "/{path:path}", methods=_METHODS, include_in_schema=False)
    async def scim(request: Request, path: str) -> Response:
        """SCIM 2.0 (RFC 7644)."""
        body = await _read(request)
        return await run_in_threadpool(_answer, services, server, base_url, request, path, body)

    return router


async def _read(request: Request) -> bytes | None:
    """The body, or None when it is larger than any that is taken."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > _LIMITS.max_bulk_body:
            return None
        parts.append(part)
    return b"".join(parts)


def _answer(
    services: ApiServices, server: Server, base_url: str, request: Request, path: str, body: bytes | None
) -> Response:
    try:
        caller = authenticate(services, request, door=Door.SCIM)
    except Unauthenticated as error:
        answer = error_response(_NoToken(error.description))
        services.journal.count(
            EventType.REQUEST_REFUSED, door=Door.SCIM, target_kind="endpoint", target_id=_endpoint(request, path),
            address=address_of(services, request), now=services.clock(), reason=error.rule or "token",
        )  # fmt: skip
        return _response(answer, {"WWW-Authenticate": "Bearer"})
    if not caller.subject.actions:
        answer = error_response(Forbidden("This token has no SCIM scope."))
    elif body is None:
        answer = error_response(TooLarge(f"The body has more than {_LIMITS.max_bulk_body} bytes."))
    else:
        wish = ScimRequest(
            method=request.method,
            path=path,
            query=request.scope["query_string"].decode("latin-1"),
            headers=dict(request.headers.items()),
            body=body,
        )
        desk = _Desk(services, caller, base_url)
        answer = server.answer(wish, desk.reading if request.method == "GET" else desk.writing)
    refused = answer.refused if answer.error is None else (answer.error,)
    if refused:
        _record_refusals(services, caller, request, path, refused)
    headers = {"Retry-After": "1"} if answer.status == _Later.status else {}
    return _response(answer, headers)


class _Desk:
    """Opens the directory for one caller, a transaction at a time."""

    def __init__(self, services: ApiServices, caller: ApiCaller, base_url: str) -> None:
        self._services, self._base_url = services, base_url
        self._sender = Sender(
            caller=caller.lifecycle,
            provider=f"scim:{caller.name}"[:_PROVIDER_LENGTH],
            organization_id=caller.subject.organization_id,
        )

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """A snapshot."""
        with _translated(), self._services.database.read() as session:
            yield self._store(session)

    @contextmanager
    def writing(self) -> Iterator[Store]:
        """A transaction, committed when the operation has been done."""
        with _translated(), self._services.database.transaction() as session:
            yield self._store(session)

    def _store(self, session: Session) -> DirectoryStore:
        return DirectoryStore(
            session, self._sender, self._services.keyring, base_url=self._base_url, now=self._services.clock()
        )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        _LOG.warning("scim.lost_a_race", exc_info=error)
        raise NotUnique("Somebody changed the same thing at this moment; look and try again.") from error
    except (OperationalError, Unavailable) as error:
        _LOG.warning("scim.database_unavailable", exc_info=error)
        raise _Later("The database cannot be reached; try again.") from error


def _record_refusals(
    services: ApiServices, caller: ApiCaller, request: Request, path: str, errors: Sequence[RequestError]
) -> None:
    """Refusals of an authenticated caller, each of a bulk by itself; the attribute's name, never what was sent."""
    events = [
        Event(
            type=EventType.AUTHORIZATION_DENIED if isinstance(error, Forbidden) else EventType.REQUEST_REFUSED,
            at=services.clock(),
            actor=caller.lifecycle.actor,
            door=Door.SCIM,
            target_kind="endpoint",
            target_id=_endpoint(request, path),
            outcome="failure",
            reason=error.scim_type or f"scim.{error.status}",
            request_id=caller.lifecycle.request_id,
            details={"attribute": error.attribute, "status": error.status},
        )
        for error in errors
    ]
    try:
        with services.database.transaction() as session:
            record(session, events)
    except OperationalError as failure:
        _LOG.warning("scim.refusal_not_recorded", exc_info=failure)


def _endpoint(request: Request, path: str) -> str:
    """The address without what names somebody: the type and whether one resource of it was meant."""
    head, _, rest = path.strip("/").partition("/")
    return f"{request.method} {PREFIX}/{head[:40]}" + ("/{id}" if rest and not rest.startswith(".") else "")


def _response(answer: ScimResponse, headers: dict[str, str]) -> Response:
    return Response(
        content=answer.body,
        status_code=answer.status,
        headers={
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **answer.headers,
            **headers,
        },
    )
