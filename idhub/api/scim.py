"""`/scim/v2`: HTTP around the SCIM server, for identity providers and HR systems that push people.

A call carries a token with a SCIM scope; cookies are never accepted. One transaction a request, of a bulk request one
an operation. Every refusal is recorded.
"""

import asyncio
from functools import partial

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from idhub.admission import Busy
from idhub.api.access import INVALID, ApiCaller, Unauthenticated, address_of, asked_first, authenticate
from idhub.api.scim_desk import LIMITS, PREFIX, Desk, Later, NoToken, TooOften, record_refusals
from idhub.api.scim_jobs import Jobs
from idhub.api.scim_lanes import KnownSenders, Reading, reading_of
from idhub.api.scim_poll import WAIT_SECONDS, poll
from idhub.api.shared import ApiServices
from idhub.changes import EventType
from idhub.lifecycle.doors import Door
from idhub.provisioning.events.streams import STREAMS
from scim.errors import RequestError
from scim.messages import Forbidden, ScimRequest, ScimResponse, TooLarge, error_response

__all__ = ["PREFIX", "create_router"]

_SHARE_OF_WAITING = 8
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_LATER = "1"
_READ_OF_ANYBODY = 262_144
"""Nobody fills the memory with megabytes who is not to say anything here."""


def create_router(services: ApiServices) -> APIRouter:
    """The one route; the protocol's addresses are `scim.server`'s."""
    router = APIRouter()
    # A request that waits holds one of the places of those that work (`admission`), if no thread.
    may_wait = asyncio.Semaphore(max(1, services.settings.database_pool_size // _SHARE_OF_WAITING))
    known = KnownSenders()

    @router.api_route(PREFIX + "/{path:path}", methods=_METHODS, include_in_schema=False)
    async def scim(request: Request, path: str) -> Response:
        """SCIM 2.0 (RFC 7644)."""
        body = await _read(services, request)
        if _only_reads(request, path):
            return await _in_lane(services, known, request, path, body)
        if _polls(path) and not may_wait.locked():
            async with may_wait:
                for turn in range(WAIT_SECONDS):
                    answer = await run_in_threadpool(_answer, services, request, path, body, turn=turn)
                    if answer is not None:
                        return answer
                    await asyncio.sleep(1)
        return await run_in_threadpool(_answered, services, request, path, body)

    return router


async def _in_lane(
    services: ApiServices, known: KnownSenders, request: Request, path: str, body: bytes | None
) -> Response:
    """The answer to a request that changes nothing."""
    lanes, query = services.admission, request.scope["query_string"].decode("latin-1")
    said = request.headers.get("authorization", "")
    # Whoever has a token stands in the line of it: nobody's many requests keep another's waiting.
    who, reading = known.find(said), reading_of(request.method, path, query, body or b"")
    if who is None:
        # Anybody can say a token. Where they come from they cannot invent as easily.
        lane, who = lanes.reading_unverified, address_of(services, request)
    else:
        lane = lanes.reading_long if reading is Reading.LONG else lanes.reading
    try:
        work = partial(_answered, services, request, path, body)
        answer = await lane.run(who, work, is_short=reading is Reading.ONE)
    except Busy as error:
        lanes.count_refused()
        return _response(error_response(Later(error.description)), {"Retry-After": _LATER})
    known.note(said, getattr(request.state, "token_id", None))
    return answer


async def _read(services: ApiServices, request: Request) -> bytes | None:
    """The body; None when it is larger than any that is taken, or than what is read of somebody who has no token."""
    parts: list[bytes] = []
    size, is_known = 0, False
    async for part in request.stream():
        size += len(part)
        if size > LIMITS.max_bulk_body:
            return None
        if size > _READ_OF_ANYBODY and not is_known:
            try:
                await run_in_threadpool(authenticate, services, request, door=Door.SCIM)
            except Unauthenticated:
                return None
            is_known = True
        parts.append(part)
    return b"".join(parts)


def _polls(path: str) -> bool:
    """Whether somebody asks for events, and may wait for them."""
    return path.lstrip("/").startswith(f"{STREAMS}/")


def _answered(services: ApiServices, request: Request, path: str, body: bytes | None) -> Response:
    """The answer to a request that does not wait."""
    answer = _answer(services, request, path, body, turn=None)
    assert answer is not None  # noqa: S101 - only who may wait gets none
    return answer


def _answer(
    services: ApiServices, request: Request, path: str, body: bytes | None, *, turn: int | None
) -> Response | None:
    """The answer; None: there is none yet.

    Args:
        turn: how often it was asked for before, by a request that may wait; None: it may not (any more).
    """
    caller: ApiCaller | Unauthenticated
    # Whoever only reads does so in the snapshot in which the token was found to work.
    first = asked_first(request, door=Door.SCIM)
    with services.database.read(keeps_plans=True, first=first) as session:
        try:
            caller = authenticate(services, request, door=Door.SCIM, session=session)
            request.state.token_id = caller.token_id
        except Unauthenticated as error:
            caller = error
        desk, answer = (
            _served(services, caller, request, path, body, snapshot=session)
            if isinstance(caller, ApiCaller) and _only_reads(request, path)
            else (None, None)
        )
    if isinstance(caller, Unauthenticated):
        services.journal.count(
            EventType.REQUEST_REFUSED, door=Door.SCIM, target_kind="endpoint", target_id=_endpoint(request, path),
            address=address_of(services, request), now=services.clock(), reason=caller.rule or "token",
        )  # fmt: skip
        return _response(error_response(NoToken(caller.description)), {"WWW-Authenticate": caller.challenge})
    if answer is None:
        # Not in the snapshot: what changes something has a transaction of its own.
        _, answer = _served(services, caller, request, path, body, turn=turn)
    if answer is None:
        return None
    refused = answer.refused if answer.error is None else (answer.error,)
    if refused:
        record_refusals(services, caller, _endpoint(request, path), refused)
    headers = {}
    if isinstance(answer.error, Later):
        headers["Retry-After"] = _LATER
    elif isinstance(answer.error, NoToken):
        headers["WWW-Authenticate"] = INVALID
    elif isinstance(answer.error, TooOften):
        headers["Retry-After"] = str(answer.error.seconds)
    response = _response(answer, headers)
    if desk is not None and desk.has_documents:
        # Behind the answer: who asks next finds them ready.
        response.background = BackgroundTask(desk.keep_documents)
    return response


def _only_reads(request: Request, path: str) -> bool:
    """Whether a request changes nothing; of a bulk request that is worked later, others keep the book."""
    parts = [part for part in path.split("/") if part]
    if request.method == "GET":
        return parts[:1] not in (["Bulk"], [STREAMS])
    return request.method == "POST" and parts[-1:] == [".search"]


def _served(
    services: ApiServices,
    caller: ApiCaller,
    request: Request,
    path: str,
    body: bytes | None,
    *,
    snapshot: Session | None = None,
    turn: int | None = None,
) -> tuple[Desk | None, ScimResponse | None]:
    """The answer, and the desk that gave it. No answer: as `_answer`."""
    try:
        if not caller.subject.actions:
            raise Forbidden("This token has no SCIM scope.")
        if body is None:
            raise TooLarge(f"The body has more than {LIMITS.max_bulk_body} bytes.")
        desk = Desk(services, caller, snapshot)
        if not turn:
            desk.count_call()
        if _polls(path):
            return None, poll(
                services,
                caller,
                path.lstrip("/").removeprefix(f"{STREAMS}/"),
                method=request.method,
                media_type=request.headers.get("content-type", "").partition(";")[0].strip().lower(),
                body=body,
                may_wait=turn is not None,
            )
    except RequestError as error:
        return None, error_response(error)
    wish = ScimRequest(
        method=request.method,
        path=path,
        query=request.scope["query_string"].decode("latin-1"),
        headers=dict(request.headers.items()),
        body=body,
    )
    transactions = desk.reading if _only_reads(request, path) else desk.writing
    return desk, desk.server.answer(wish, transactions, Jobs(desk, caller), desk.events)


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
