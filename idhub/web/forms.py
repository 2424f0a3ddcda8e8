"""Reading what a form sent, strictly: each field once, bounded, real text.

A broken form never reaches a route: reading raises `BrokenForm`, and the route class answers it with a page that names
the field. Junk cannot fill the log: refusals are recorded once a minute for each address and rule, with their number.
"""

import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from idhub.changes import Actor, Event, EventType, record
from idhub.login.throttling import trusted_networks
from idhub.pages import N_
from idhub.web.browser import browser_of
from idhub.web.services import WebServices
from idhub.web.visit import page_router, request_id

Form = Mapping[str, str]
MAX_BODY = 65_536
_MAX_PAIRS = 100
_FORM_TYPE = "application/x-www-form-urlencoded"
_WINDOW = timedelta(minutes=1)
_MAX_REMEMBERED = 4096

_SENTENCES: Mapping[str, str] = {
    "form.content_type": N_("The form was sent in a format that is not accepted here."),
    "form.too_large": N_("The form is too large."),
    "form.malformed": N_("The form could not be read."),
    "form.missing": N_("The field %(field)s is missing."),
    "form.doubled": N_("The field %(field)s was sent twice."),
    "form.too_long": N_("The field %(field)s is too long."),
    "form.characters": N_("The field %(field)s has characters that are not accepted here."),
}
_STATUS: Mapping[str, int] = {"form.content_type": 415, "form.too_large": 413}


class BrokenForm(Exception):
    """A form that no page of ours sends. `rule` is stable; `field` is the name in the form, where one is to blame."""

    def __init__(self, rule: str, field: str = "") -> None:
        super().__init__(f"{rule} {field}".strip())
        self.rule = rule
        self.field = field


def form_of(
    *required: str, optional: Mapping[str, int] | None = None, limits: Mapping[str, int] | None = None
) -> Callable[[Request], Awaitable[Form]]:
    """A dependency that reads a form with these fields.

    Args:
        required: fields that must be there; they may be empty, which is for the route to judge.
        optional: further fields, with the longest value in characters; absent ones read as empty.
        limits: longest value in characters of required fields; 512 where none is named.
    """
    longest = {**dict.fromkeys(required, 512), **(limits or {}), **(optional or {})}

    async def read(request: Request) -> Form:
        pairs = _pairs(await _body(request))
        found: dict[str, str] = {}
        for raw_name, raw_value in pairs:
            name = _text(raw_name, "")
            if name not in longest:
                continue
            # Whichever of two values another parser would take, this one takes neither.
            if name in found:
                raise BrokenForm("form.doubled", name)
            found[name] = _text(raw_value, name)
            if len(found[name]) > longest[name]:
                raise BrokenForm("form.too_long", name)
        for name in required:
            if name not in found:
                raise BrokenForm("form.missing", name)
        return {**dict.fromkeys(longest, ""), **found}

    return read


async def _body(request: Request) -> bytes:
    # A type that a page of another site could send without asking is refused before anything is read (T02).
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM_TYPE:
        raise BrokenForm("form.content_type")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise BrokenForm("form.too_large")
    except ClientDisconnect as error:
        raise BrokenForm("form.malformed") from error
    return bytes(body)


def _pairs(body: bytes) -> list[tuple[bytes, bytes]]:
    parts = [part for part in body.split(b"&") if part]
    if len(parts) > _MAX_PAIRS:
        raise BrokenForm("form.malformed")
    split = (part.partition(b"=") for part in parts)
    return [(name, value) for name, _, value in split]


def _text(raw: bytes, field: str) -> str:
    try:
        text = unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BrokenForm("form.characters" if field else "form.malformed", field) from error
    if "\x00" in text:
        raise BrokenForm("form.characters" if field else "form.malformed", field)
    return text


class RefusalLog:
    """Records refusals of anonymous callers once a minute for each address and rule, with how many there were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], tuple[datetime, int]] = {}

    def due(self, address: str, rule: str, *, now: datetime) -> int:
        """How many refusals a record made now stands for; 0 when the minute's record was made already."""
        with self._lock:
            started, suppressed = self._seen.get((address, rule), (None, 0))
            if started is not None and now - started < _WINDOW:
                self._seen[address, rule] = (started, suppressed + 1)
                return 0
            if len(self._seen) >= _MAX_REMEMBERED:
                self._seen.clear()
            self._seen[address, rule] = (now, 0)
            return suppressed + 1


def record_refusal(services: WebServices, log: RefusalLog, request: Request, rule: str, field: str = "") -> None:
    """Record that a request was refused, unless this minute's record of its kind was made already."""
    now = services.clock()
    address = browser_of(request, services.pages, trusted_networks(services.settings.trusted_proxies)).address
    count = log.due(address, rule, now=now)
    if not count:
        return
    event = Event(
        type=EventType.REQUEST_REFUSED,
        at=now,
        actor=Actor(kind="anonymous", id="anonymous", ip=address),
        door="login",
        target_kind="page",
        target_id=request.url.path[:200],
        outcome="failure",
        reason=rule,
        request_id=request_id(request),
        details={"count": count, **({"field": field} if field else {})},
    )
    with services.database.transaction(durable=False) as session:
        record(session, [event])


def form_router(services: WebServices) -> APIRouter:
    """A router as `page_router`, whose routes also answer and record broken forms."""
    base = page_router(services).route_class
    log = RefusalLog()

    class FormRoute(base):  # type: ignore[misc,valid-type]  # the base is made for these services
        """Translates `BrokenForm` into a page that names the field."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def handle(request: Request) -> Response:
                try:
                    response: Response = await handler(request)
                except BrokenForm as broken:
                    await run_in_threadpool(record_refusal, services, log, request, broken.rule, broken.field)
                    return render_broken_form(services, request, broken)
                return response

            return handle

    return APIRouter(include_in_schema=False, route_class=FormRoute)


def render_broken_form(services: WebServices, request: Request, broken: BrokenForm) -> Response:
    """The page for a form that could not be read: which field, and what to do."""
    pages = services.pages
    sentence = pages.gettext(request, _SENTENCES[broken.rule])
    context = {
        "title": pages.gettext(request, N_("The form could not be used")),
        "sentence": sentence % {"field": broken.field} if "%(field)s" in sentence else sentence,
        "next_step": pages.gettext(request, N_("Nothing was changed. Go back, reload the page and fill it in again.")),
        "link": None,
    }
    return pages.render(request, "error.html", context, _STATUS.get(broken.rule, 400))
