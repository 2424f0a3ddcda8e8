"""`/admin/deliveries`: what waits, what is dead and why, and sending it again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from idhub.authority import Action, may
from idhub.delivery import queue
from idhub.delivery.holds import Hold
from idhub.errors import Conflict, NotFound
from idhub.pages import N_
from idhub.web import labels, queries_access
from idhub.web.drawing import mark_of
from idhub.web.labels import Label, Translate, translated
from idhub.web.listing import View
from idhub.web.person import DOOR
from idhub.web.queries_access import DeliveryRow, Health
from idhub.web.refusals import refusal_words
from idhub.web.services import WebServices
from idhub.web.visit import Visitor, frame_of, page_router, require, visitor_of


@dataclass(frozen=True, slots=True)
class Queue:
    """Deliveries of one application that wait, or that failed."""

    slug: str
    name: str
    mark: tuple[str, int]
    health: Health
    hold: Hold | None
    status: Label
    share: float
    """Length 0..1 of its waiting part against the longest queue."""


def create_router(services: WebServices) -> APIRouter:
    """Routes of deliveries."""
    router = page_router(services)
    pages = services.pages

    @router.get("/admin/deliveries")
    def deliveries(request: Request) -> Response:
        """Queues by application, dead letters, and every delivery behind filters."""
        now = services.clock()
        t = pages.translator(request)
        view = View(queries_access.DELIVERIES, request.query_params, t)
        english = pages.language(request) == "en"
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=now)
            require(session, visitor, Action.DELIVERY_READ)
            applications = queries_access.delivery_applications(session, visitor.subject)
            health = queries_access.health(session, [a.id for a in applications], now=now)
            held = {hold.application_id: hold for hold in queue.holds(session, [a.id for a in applications])}
            statement = queries_access.deliveries_statement(session, visitor.subject)
            dead = [] if view.is_filtered else queries_access.dead_letters(session, statement)
            page = queries_access.list_deliveries(
                view, session, queries_access.filtered_deliveries(view, session, statement)
            )
            can_retry = may(session, visitor.subject, Action.DELIVERY_RETRY)
        names = {a.id: a.name if english else a.name_zh or a.name for a in applications}
        longest = max((h.waiting for h in health.values()), default=0) or 1
        queues = sorted(
            (
                Queue(
                    slug=a.slug,
                    name=names[a.id],
                    mark=mark_of(names[a.id], a.slug),
                    health=health[a.id],
                    hold=held.get(a.id),
                    status=_queue_status(health[a.id], held.get(a.id), t),
                    share=health[a.id].waiting / longest,
                )
                for a in applications
                if a.id in health
            ),
            key=lambda q: (q.hold is None, -q.health.dead, -q.health.waiting, q.slug),
        )
        worst = next((q for q in queues if q.hold is not None), None)
        kinds = [(code, t(words)) for code, words in labels.OPERATION.items()]
        states = [(code, t(label.text)) for code, label in labels.DELIVERY_STATE.items()]
        slugs = [(a.slug, names[a.id]) for a in applications]
        context = {
            "frame": frame_of(visitor, request, services),
            "now": now,
            "view": view,
            "page": page,
            "queues": queues,
            "worst": worst,
            "worst_words": labels.hold_words(worst.hold, t) if worst and worst.hold else "",
            "dead": dead,
            "can_retry": can_retry,
            **_numbers(queues),
            "kinds": kinds,
            "states": states,
            "slugs": slugs,
            "chips": _chips(view, {"app": slugs, "kind": kinds, "state": states}),
            "marks": {row.id: _mark(row, english) for row in [*dead, *page.rows]},
            **_words(t),
        }
        return pages.render(request, "deliveries.html", context, session_id=visitor.session_id)

    @router.get("/admin/deliveries/{delivery_id}")
    def delivery(request: Request, delivery_id: str) -> Response:
        """One delivery: attempts, answers, cause."""
        return _show(services, request, delivery_id, {}, 200)

    @router.post("/admin/deliveries/{delivery_id}/retry")
    def retry(request: Request, delivery_id: str, csrf_token: Annotated[str, Form()] = "") -> Response:
        """Put a dead letter, or what waits for a decision, back into its queue."""
        now = services.clock()
        errors: dict[str, str] = {}
        with services.database.transaction() as session:
            visitor = visitor_of(session, request, services, now=now)
            pages.check_form(request, csrf_token, session_id=visitor.session_id)
            row = _visible(session, visitor, delivery_id)
            require(session, visitor, Action.DELIVERY_RETRY, organization_id=row.organization_id)
            try:
                queue.send_again(session, row.id, now=now, actor=visitor.actor, door=DOOR)
            except Conflict as error:
                errors[""] = refusal_words(error, pages.translator(request))
        if errors:
            return _show(services, request, delivery_id, errors, 409)
        return RedirectResponse(f"/admin/deliveries/{delivery_id}", status_code=303)

    return router


def _visible(session: Any, visitor: Visitor, delivery_id: str) -> DeliveryRow:
    require(session, visitor, Action.DELIVERY_READ)
    statement = queries_access.deliveries_statement(session, visitor.subject)
    row = queries_access.one_delivery(session, statement, delivery_id)
    if row is None:
        raise NotFound("There is no such delivery.", rule="delivery.unknown")
    return row


def _show(services: WebServices, request: Request, delivery_id: str, errors: dict[str, str], status: int) -> Response:
    now = services.clock()
    pages = services.pages
    t = pages.translator(request)
    with services.database.read() as session:
        visitor = visitor_of(session, request, services, now=now)
        row = _visible(session, visitor, delivery_id)
        attempts = queries_access.attempts_of(session, row.id)
        can_retry = row.state in {"review", "dead"} and may(
            session, visitor.subject, Action.DELIVERY_RETRY, organization_id=row.organization_id
        )
    english = pages.language(request) == "en"
    context = {
        "frame": frame_of(visitor, request, services),
        "now": now,
        "row": row,
        "name": row.name if english else row.name_zh or row.name,
        "mark": _mark(row, english),
        "attempts": attempts,
        "evidence": _pretty(row.evidence),
        "pretty": {attempt.number: _pretty(attempt.evidence) for attempt in attempts},
        "can_retry": can_retry,
        "errors": errors,
        **_words(t),
    }
    return pages.render(request, "delivery.html", context, status, session_id=visitor.session_id)


def _mark(row: DeliveryRow, english: bool) -> tuple[str, int]:
    return mark_of(row.name if english else row.name_zh or row.name, row.slug)


def _pretty(evidence: Any) -> str:
    if not evidence:
        return ""
    return orjson.dumps(evidence, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode()


def _words(t: Translate) -> dict[str, Any]:
    return {
        "badges": translated(labels.DELIVERY_STATE, t),
        "operations": {code: t(words) for code, words in labels.OPERATION.items()},
        "channels": {code: t(words) for code, words in labels.CHANNEL.items()},
        "attempt_badges": translated(labels.ATTEMPT, t),
    }


def _queue_status(health: Health, hold: Hold | None, t: Translate) -> Label:
    if hold is not None:
        return Label("bad", t(N_("Held")), "hand-stop")
    if health.dead:
        return Label("bad", t(N_("Dead letters")))
    if health.reviewing:
        return translated(labels.DELIVERY_STATE, t)["review"]
    if health.retrying:
        return Label("warn", t(N_("Trying again")), "refresh")
    return Label("ok", t(N_("Normal")))


def _numbers(queues: Sequence[Queue]) -> dict[str, Any]:
    """The numbers above the queues, also without the broken ones."""
    broken = {q.slug for q in queues if q.hold is not None}
    oldest = [q.health.oldest_waiting for q in queues if q.health.oldest_waiting is not None]
    sound = [q for q in queues if q.slug not in broken]
    sound_oldest = [q.health.oldest_waiting for q in sound if q.health.oldest_waiting is not None]
    return {
        "waiting": sum(q.health.waiting for q in queues),
        "waiting_broken": sum(q.health.waiting for q in queues if q.slug in broken),
        "oldest": min(oldest, default=None),
        "sound_oldest": min(sound_oldest, default=None),
        "success": _share(queues),
        "sound_success": _share(sound),
        "dead_total": sum(q.health.dead for q in queues),
        "has_broken": bool(broken),
    }


def _share(queues: Sequence[Queue]) -> float | None:
    done = sum(q.health.done_today for q in queues)
    finished = done + sum(q.health.failed_today for q in queues)
    return done / finished if finished else None


def _chips(view: View, names: Mapping[str, Sequence[tuple[str, str]]]) -> list[tuple[str, str]]:
    chips = [(view.value("q"), view.href(q=None))] if view.value("q") else []
    for name in ("app", "kind", "state", "person", "case"):
        if value := view.value(name):
            chips.append((dict(names.get(name, ())).get(value, value), view.href(**{name: None})))
    return chips
