"""Tokens are sent to receivers that take them over HTTP (RFC 8935), stream by stream, until each has what waits for it.

What a receiver has said it has is forgotten; anything else is sent again, the same token, after a pause that grows. Of
one resource a token is sent when the one before it is there. A process sends at a time, under the worker's lease: when
that is lost midway a token may arrive twice.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Final, Protocol

import orjson
import structlog
from sqlalchemy import exists, or_, select, update

from audit.events import clean_text
from idhub.api.scim_desk import DeskServices
from idhub.api.scim_streams import Told, caller_of_stream, next_tokens, stream_of
from idhub.db import Database
from idhub.delivery.http import OutboundError, OutboundHttp, OutboundRefused, OutboundResponse
from idhub.delivery.settling import FARTHEST_ATTEMPT, delay_before
from idhub.errors import Unavailable
from idhub.provisioning.events.streams import authorization_context
from idhub.provisioning.events.tables import EventRow, EventStream
from idhub.provisioning.events.waiting import take_away
from scim.events import MEDIA_TYPE
from scim.messages import Forbidden

_AT_ONCE: Final = 8
_BATCH: Final = 100
_TIMEOUT: Final = timedelta(seconds=8)
"""Within the worker's lease, together with the time that a round takes."""
_MOST_ANSWER: Final = 20_000
_ERROR_LENGTH: Final = 300
_UNREADABLE: Final = "invalid_request"
_LOG = structlog.get_logger(__name__)


class Run(Protocol):
    """Runs something on the worker's loop, and waits for it."""

    def __call__(self, work: Coroutine[Any, Any, None]) -> None: ...


@dataclass(slots=True)
class _Round:
    """What came of sending some tokens."""

    taken: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    error: str | None = None
    """Why it stopped; None: it did not."""
    retry_after: timedelta | None = None


def _due(now: datetime) -> Any:
    waiting = exists().where(EventRow.stream_id == EventStream.id, EventRow.is_ready.is_(True))
    # Later than any is tried again: somebody's clock was wrong.
    is_due = or_(EventStream.next_attempt_at <= now, EventStream.next_attempt_at > now + FARTHEST_ATTEMPT)
    return select(EventStream.id).where(
        EventStream.push_url.is_not(None), EventStream.paused_at.is_(None), is_due, waiting
    )


def has_events(database: Database, *, now: datetime) -> bool:
    """Whether anything is to be sent now."""
    with database.read() as session:
        return session.execute(_due(now).limit(1)).first() is not None


def push_events(services: DeskServices, http: OutboundHttp, run: Run, *, seconds: float) -> int:
    """Send what is due, for about so many seconds, each stream in its turn. Returns how many tokens were taken."""
    until, taken = monotonic() + seconds, 0
    with services.database.read() as session:
        streams = session.execute(_due(services.clock()).order_by(EventStream.next_attempt_at)).scalars().all()
    for number, stream_id in enumerate(streams):
        # A slow receiver leaves the others their share.
        share = monotonic() + max(0.0, until - monotonic()) / (len(streams) - number)
        while monotonic() < share:
            done = _send_some(services, http, run, stream_id)
            taken += done or 0
            if not done:
                break
    return taken


def _send_some(services: DeskServices, http: OutboundHttp, run: Run, stream_id: str) -> int | None:
    """Send the next tokens of a stream; None: nothing more is to be sent now."""
    now = services.clock()
    sent = _Round()
    told: Sequence[Told] = ()
    with services.database.read() as session:
        stream = stream_of(session, stream_id)
        if stream is None or stream.push_url is None:
            return None
        caller = caller_of_stream(session, stream, now=now)
        try:
            told = () if caller is None else next_tokens(services, session, stream, caller, most=_BATCH)
        except Forbidden as error:
            sent.error = error.description
    try:
        if caller is None:
            sent.error = "No token of the stream's name and company works."
        elif not told and sent.error is None:
            return None
        elif told:
            headers = _headers(services, stream)
            run(_send_all(http, stream.push_url, headers, told, sent, clock=services.clock))
    except Unavailable as error:
        sent.error = error.description
    _record(services, stream, sent)
    return None if sent.error is not None else len(sent.taken)


def _headers(services: DeskServices, stream: EventStream) -> dict[str, str]:
    headers = {"Content-Type": MEDIA_TYPE, "Accept": "application/json"}
    if stream.authorization_sealed is not None:
        opened = services.keyring.open(authorization_context(stream.id), stream.authorization_sealed)
        headers["Authorization"] = opened.decode()
    return headers


async def _send_all(
    http: OutboundHttp,
    url: str,
    headers: dict[str, str],
    told: Sequence[Told],
    sent: _Round,
    *,
    clock: Callable[[], datetime],
) -> None:
    """Send tokens, of different resources at once; the first that is not taken stops what was not begun."""
    of_resource: dict[str, list[Told]] = defaultdict(list)
    for each in told:
        of_resource[each.resource_id].append(each)
    free = asyncio.Semaphore(_AT_ONCE)

    async def in_order(tokens: Sequence[Told]) -> None:
        for each in tokens:
            async with free:
                if sent.error is not None:
                    return
                await _send(http, url, headers, each, sent, clock=clock)

    async with asyncio.TaskGroup() as tasks:
        for tokens in of_resource.values():
            tasks.create_task(in_order(tokens))


async def _send(
    http: OutboundHttp,
    url: str,
    headers: dict[str, str],
    each: Told,
    sent: _Round,
    *,
    clock: Callable[[], datetime],
) -> None:
    """RFC 8935 sections 2.1 to 2.4."""
    try:
        answer = await http.request(
            "POST", url, headers=headers, data=each.token.encode(), timeout=_TIMEOUT, max_bytes=_MOST_ANSWER
        )
    except (OutboundError, OutboundRefused) as error:
        sent.error = error.description
        return
    if answer.is_success and _is_page(answer):
        sent.error = f"The receiver answered {answer.status} with a page: nothing there takes events."
        return
    code = _error_code(answer.body) if answer.is_success or answer.status == 400 else None
    if answer.is_success and code is None:
        sent.taken.append(each.id)
        return
    if code == _UNREADABLE and answer.status == 400:
        # It will not be readable next time either: nothing else waits for it.
        _LOG.warning("scim.event_refused", token=each.id)
        sent.refused.append(each.id)
        return
    sent.error = f"The receiver answered {answer.status}{f' ({code})' if code else ''}."
    sent.retry_after = answer.retry_after(now=clock())


def _is_page(answer: OutboundResponse) -> bool:
    """Whether a page came: of a sign-in that stands before the receiver, or of a site with one answer to everything."""
    body = answer.body.strip()
    return body.startswith(b"<") or (bool(body) and "html" in answer.headers.get("Content-Type", "").lower())


def _error_code(body: bytes) -> str | None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    code = document.get("err") if isinstance(document, dict) else None
    return clean_text(code, 60) if isinstance(code, str) else None


def _record(services: DeskServices, stream: EventStream, sent: _Round) -> None:
    now = services.clock()
    failures = 0 if sent.error is None else stream.failures + 1
    values: dict[str, Any] = {"failures": failures, "last_error": None}
    if sent.error is not None:
        wait = delay_before(stream.id, failures + 1, sent.retry_after)
        values |= {"last_error": clean_text(sent.error, _ERROR_LENGTH), "next_attempt_at": now + wait}
    with services.database.transaction() as session:
        take_away(session, stream.id, sent.taken, sent.refused, now=now)
        if sent.error is not None or stream.failures or stream.last_error:
            session.execute(
                update(EventStream)
                .where(EventStream.id == stream.id)
                .values(**values)
                .execution_options(synchronize_session=False)
            )
