"""`/hr/receipts` and `/hr/receipts/{number}`: what a leave achieved, as it is proven, and while it is being proven."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from idhub.authority import Action, is_covered, may
from idhub.directory.people import show_person
from idhub.errors import NotFound
from idhub.lifecycle import receipts as receipt_book
from idhub.lifecycle.receipt_document import ReceiptRow, Unreadable, Verdict, verify
from idhub.lifecycle.receipts import ReceiptView
from idhub.pages import N_
from idhub.web import labels, queries_receipts
from idhub.web.drawing import mark_of
from idhub.web.labels import Label, Translate, translated
from idhub.web.listing import View
from idhub.web.person import record_visit
from idhub.web.services import WebServices
from idhub.web.visit import SignInRequired, Visitor, frame_of, page_router, require, visitor_of

_POLL_SECONDS = 1.0
_LONGEST_STREAM = 600
_KEEP_ALIVE = 15


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a receipt with the words that a page needs."""

    row: ReceiptRow
    name: str
    mark: tuple[str, int]
    channel: str
    evidence: str
    status: Label
    deadline: datetime | None
    sent_at: datetime | None
    answered_at: datetime | None
    is_overdue: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """Everything of a receipt that can change while somebody looks at it."""

    view: ReceiptView
    lines: Sequence[Line]
    counts: Mapping[int, int]
    verdict: Verdict | None
    person: Any
    visitor: Visitor
    as_of: datetime
    english: bool

    @property
    def overdue(self) -> Sequence[Line]:
        """Rows whose deadline passed without the required grade, the worst first."""
        late = [line for line in self.lines if line.is_overdue and line.deadline is not None]
        return sorted(late, key=lambda line: line.deadline or self.as_of)

    @property
    def dead(self) -> int:
        """Rows whose delivery was given up and waits for somebody."""
        return sum(line.row.state == "dead" for line in self.lines)

    @property
    def not_needed(self) -> int:
        """Rows without evidence that need none: nothing there could be told or ended."""
        return sum(line.row.is_done and line.row.grade == 0 for line in self.lines)

    @property
    def deviations(self) -> Sequence[Line]:
        """Rows that did not go as planned: more than one attempt, or overdue."""
        return [line for line in self.lines if line.row.attempts > 1 or line.is_overdue]

    @property
    def fingerprint(self) -> str:
        """Changes whenever anything shown changes."""
        facts = [self.view.state, self.view.version, len(self.overdue)]
        rows = [[r.row.id, r.row.state, r.row.grade, r.row.attempts, r.row.error, r.is_overdue] for r in self.lines]
        return hashlib.sha256(orjson.dumps([facts, rows])).hexdigest()[:16]


def create_router(services: WebServices) -> APIRouter:
    """Routes of receipts."""
    router = page_router(services)
    pages = services.pages

    @router.get("/hr/receipts")
    def receipts(request: Request) -> Response:
        """List leaver's cases with their progress."""
        now = services.clock()
        t = pages.translator(request)
        view = View(queries_receipts.RECEIPTS, request.query_params, t)
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=now)
            require(session, visitor, Action.RECEIPT_READ)
            statement = queries_receipts.receipts_statement(view, session, visitor.subject)
            page = queries_receipts.list_receipts(view, session, statement)
            progress = queries_receipts.progress_of(session, [row.case_id for row in page.rows], now=now)
        states = [(code, t(label.text)) for code, label in labels.CASE_STATE.items()]
        chips = [(view.value("q"), view.href(q=None))] if view.value("q") else []
        if view.value("state"):
            chips.append((dict(states)[view.value("state")], view.href(state=None)))
        if view.value("month"):
            chips.append((view.value("month"), view.href(month=None)))
        context = {
            "frame": frame_of(visitor, request, services),
            "now": now,
            "view": view,
            "page": page,
            "progress": progress,
            "no_progress": queries_receipts.Progress(),
            "states": states,
            "badges": translated(labels.CASE_STATE, t),
            "chips": chips,
        }
        return pages.render(request, "receipts.html", context, session_id=visitor.session_id)

    @router.get("/hr/receipts/{number}")
    def receipt(request: Request, number: str) -> Response:
        """Show a receipt; complete without script."""
        now = services.clock()
        with services.database.transaction(durable=False) as session:
            shown = _load(session, request, services, number, now=now)
            record_visit(session, shown.visitor, shown.person, request, "receipt", now)
            versions = queries_receipts.versions_of(session, shown.view.case_id)
            scope = shown.view.organization_id
            subject, leaver = shown.visitor.subject, shown.view.person_id
            can_cancel = (
                shown.view.state == "scheduled"
                and may(session, subject, Action.PEOPLE_OFFBOARD, organization_id=scope)
                and is_covered(session, subject, Action.PEOPLE_OFFBOARD, leaver)
            )
        context = {
            **_context(shown, request, services),
            "frame": frame_of(shown.visitor, request, services),
            "versions": versions,
            "can_cancel": can_cancel,
        }
        return pages.render(request, "receipt.html", context, session_id=shown.visitor.session_id)

    @router.get("/hr/receipts/{number}/download")
    def download(request: Request, number: str) -> Response:
        """The newest signed version as a file that anybody can verify."""
        now = services.clock()
        with services.database.transaction(durable=False) as session:
            shown = _load(session, request, services, number, now=now)
            content = receipt_book.export(shown.view)
            record_visit(session, shown.visitor, shown.person, request, "receipt.download", now)
        headers = {
            "Content-Disposition": f'attachment; filename="{shown.view.number}-v{shown.view.version}.json"',
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        return Response(content, media_type="application/json", headers=headers)

    @router.get("/hr/receipts/{number}/events")
    def events(request: Request, number: str) -> Response:
        """Changes of a receipt as server-sent events; every poll asks again who is asking."""
        first = _snapshot(request, services, number)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"}
        stream = _stream(request, services, number, first, request.headers.get("last-event-id", ""))
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    return router


def _load(session: Any, request: Request, services: WebServices, number: str, *, now: datetime) -> Shown:
    visitor = visitor_of(session, request, services, now=now)
    require(session, visitor, Action.RECEIPT_READ)
    view = receipt_book.current(session, receipt_book.find_case(session, number[:60]), now=now)
    if view.number != number:
        raise NotFound("There is no such receipt.", rule="receipt.unknown")
    require(session, visitor, Action.RECEIPT_READ, organization_id=view.organization_id)
    person = show_person(session, view.person_id)
    names = queries_receipts.application_names(session, [row.application for row in view.rows])
    english = services.pages.language(request) == "en"
    t = services.pages.translator(request)
    lines = [_line(row, names, english, t, now=now) for row in view.rows]
    counts = {grade: sum(line.row.grade == grade for line in lines) for grade in (3, 2, 1, 0)}
    return Shown(view, lines, counts, _verdict(view, services), person, visitor, now, english)


def _verdict(view: ReceiptView, services: WebServices) -> Verdict | None:
    if view.jws is None:
        return None
    try:
        return verify(receipt_book.export(view), services.keyring.jwks("receipt"))
    except Unreadable as error:
        return Verdict((str(error),))


def _line(
    row: ReceiptRow, names: Mapping[str, tuple[str, str | None]], english: bool, t: Translate, *, now: datetime
) -> Line:
    name, name_zh = names.get(row.application, (row.application_name, None))
    shown = name if english else name_zh or name
    deadline = _instant(row.deadline_at)
    is_overdue = not row.is_done and deadline is not None and deadline < now
    return Line(
        row=row,
        name=shown,
        mark=mark_of(shown, row.application),
        channel=t(labels.CHANNEL.get(row.channel, row.channel)),
        evidence=_evidence(row, t),
        status=_status(row, t, is_overdue=is_overdue),
        deadline=deadline,
        sent_at=_instant(row.sent_at),
        answered_at=_instant(row.answered_at),
        is_overdue=is_overdue,
    )


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _status(row: ReceiptRow, t: Translate, *, is_overdue: bool) -> Label:
    if row.is_done:
        return Label("ok", t(N_("Done")))
    if is_overdue:
        return Label("bad", t(N_("Overdue")), "alert-triangle")
    if row.state == "dead":
        return Label("bad", t(N_("Dead letter")))
    return Label("warn", t(N_("Pending")), "circle-dashed")


def _evidence(row: ReceiptRow, t: Translate) -> str:
    """The evidence in words: the other side's own where there are any."""
    if row.note is not None:
        return t(labels.NOTE.get(row.note, row.note))
    if row.error:
        return row.error
    read_back = row.evidence.get("read_back")
    if isinstance(read_back, Mapping) and "active" in read_back:
        return f"active={str(read_back['active']).lower()}"
    if row.grade >= 2:
        return t(N_("read again: inactive or gone"))
    if row.grade == 1:
        status = row.evidence.get("status_code") or row.evidence.get("status")
        return f"HTTP {status}" if status else t(N_("accepted by the application"))
    return t(N_("nothing came back yet")) if row.sent_at else t(N_("not sent yet"))


def _context(shown: Shown, request: Request, services: WebServices) -> dict[str, Any]:
    t = services.pages.translator(request)

    view = shown.view
    return {
        "shown": shown,
        "now": shown.as_of,
        "view": view,
        "person": shown.person,
        "case_badge": translated(labels.CASE_STATE, t).get(view.state, labels.UNKNOWN),
        "plan_fingerprint": (view.plan or {}).get("fingerprint"),
        "ended_names": {code: t(name) for code, name in labels.ENDED.items()},
        "took": max(
            (line.answered_at - view.local_done_at for line in shown.lines if line.answered_at and view.local_done_at),
            default=None,
        ),
    }


def _snapshot(request: Request, services: WebServices, number: str) -> Shown:
    now = services.clock()
    with services.database.read() as session:
        return _load(session, request, services, number, now=now)


async def _stream(
    request: Request, services: WebServices, number: str, first: Shown, last_seen: str
) -> AsyncIterator[str]:
    """`change` whenever something shown changed, `end` when nothing can change any more, a comment now and then."""
    shown, waited, silent = first, 0.0, 0.0
    yield "retry: 10000\n\n"
    while waited < _LONGEST_STREAM:
        if shown.fingerprint != last_seen:
            last_seen, silent = shown.fingerprint, 0.0
            yield await run_in_threadpool(_change, shown, request, services)
        if shown.view.state in {"complete", "cancelled"}:
            yield "event: end\ndata: {}\n\n"
            return
        await asyncio.sleep(_POLL_SECONDS)
        waited, silent = waited + _POLL_SECONDS, silent + _POLL_SECONDS
        if silent >= _KEEP_ALIVE:
            silent = 0.0
            yield ": still here\n\n"
        if await request.is_disconnected():
            return
        try:
            shown = await run_in_threadpool(_snapshot, request, services, number)
        except (SignInRequired, NotFound):
            return


def _change(shown: Shown, request: Request, services: WebServices) -> str:
    pages = services.pages
    context = _context(shown, request, services)
    parts = {
        f"row-{line.row.id}": pages.fragment(request, "receipt_row.html", {**context, "line": line})
        for line in shown.lines
    }
    parts["receipt-status"] = pages.fragment(request, "receipt_status.html", context)
    parts["receipt-evidence"] = pages.fragment(request, "receipt_evidence.html", context)
    counter = pages.gettext(
        request, N_("%(done)s of %(all)s done"), done=str(shown.view.done), all=str(len(shown.lines))
    )
    at = pages.formatter(request).clock(shown.as_of)
    data = orjson.dumps({"at": at, "parts": parts, "counter": counter}).decode()
    return f"event: change\nid: {shown.fingerprint}\ndata: {data}\n\n"
