"""`/audit/events`: the event log, with what is proven and what is not yet."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from audit.errors import AuditError
from audit.export import export_proof
from idhub.authority import Action
from idhub.errors import Conflict, Invalid, NotFound
from idhub.pages import N_
from idhub.web import labels, queries_audit
from idhub.web.drawing import histogram
from idhub.web.event_labels import EVENT, GROUP
from idhub.web.instants import parse_instant
from idhub.web.labels import Translate, translated
from idhub.web.listing import Spec, View
from idhub.web.services import WebServices
from idhub.web.visit import frame_of, page_router, require, visitor_of
from idhub.web.words import actor_words, object_words

_LOG = structlog.get_logger("idhub.web")
_RANGES: Mapping[str, tuple[timedelta | None, str]] = {
    "24h": (timedelta(hours=24), N_("last 24 hours")),
    "7d": (timedelta(days=7), N_("last 7 days")),
    "30d": (timedelta(days=30), N_("last 30 days")),
    "all": (None, N_("all time")),
}
_DEFAULT_RANGE = "24h"
_WIDER = {"24h": "7d", "7d": "30d", "30d": "all"}
EVENTS = Spec(
    path="/audit/events",
    sorts=("-at",),
    choices={"range": tuple(_RANGES), "result": ("success", "failure")},
    texts=("action", "actor", "object", "ip", "request", "from", "to"),
    extra=("open", "view"),
)


def create_router(services: WebServices) -> APIRouter:
    """The route of the event log."""
    router = page_router(services)
    pages = services.pages

    @router.get("/audit/events")
    def events(request: Request) -> Response:
        """Search the log. The visit is itself among the events when a person is named."""
        now = services.clock()
        t = pages.translator(request)
        view = View(EVENTS, request.query_params, t)
        since, until = _bounds(view, services.settings.time_zone, t, now=now)
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=now)
            require(session, visitor, Action.AUDIT_READ)
            wanted = queries_audit.conditions(session, view, visitor.subject, since=since, until=until)
            page = queries_audit.list_events(session, view, wanted)
            plot_since = since or (page.rows[-1].at if page.rows else now - timedelta(days=1))
            counts = (
                queries_audit.count_by_time(session, wanted, since=plot_since, until=until or now) if page.rows else []
            )
            integrity = queries_audit.integrity(session)
            names = queries_audit.names_of(session, page.rows, english=pages.language(request) == "en")
        opened = view.value("open")
        actions = [(code, t(words)) for code, words in GROUP.items()]
        results = [(code, t(label.text)) for code, label in labels.OUTCOME.items()]
        chosen = view.value("range") or _DEFAULT_RANGE
        context = {
            "frame": frame_of(visitor, request, services),
            "now": now,
            "view": view,
            "page": page,
            "plot": histogram(counts),
            "counts": counts,
            "as_table": view.value("view") == "table",
            "integrity": integrity,
            "opened": opened,
            "actions": actions,
            "results": results,
            "ranges": [(code, t(words)) for code, (_, words) in _RANGES.items() if code != _DEFAULT_RANGE],
            "default_range": t(_RANGES[_DEFAULT_RANGE][1]),
            "wider": _WIDER.get(chosen) if not view.value("from") else None,
            "chips": _chips(view, dict(actions), dict(results), names, t),
            "actors": {e.event_id: actor_words(e, names, t) for e in page.rows},
            "objects": {e.event_id: object_words(e, names) for e in page.rows},
            "names": names,
            "event_names": {e.type: t(EVENT.get(e.type, e.type)) for e in page.rows},
            "doors": {code: t(words) for code, words in labels.DOOR.items()},
            "outcomes": translated(labels.OUTCOME, t),
            "matches": sum(total for _, total, _ in counts),
        }
        return pages.render(request, "events.html", context, session_id=visitor.session_id)

    @router.get("/audit/events/{event_id}/download")
    def download(request: Request, event_id: str) -> Response:
        """The event with the proof that it is in the log, as `idhub audit prove` prints it."""
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=services.clock())
            require(session, visitor, Action.AUDIT_READ)
            try:
                if not queries_audit.is_visible(session, event_id, visitor.subject):
                    raise NotFound("There is no such event.")
                content = export_proof(session.connection(), event_id)
            except AuditError as error:
                # What is said of the tables is for whoever looks after them.
                _LOG.error("audit.proof_refused", event_id=event_id, detail=str(error))
                raise Conflict(N_("The log is not what was signed. Run `idhub audit verify`.")) from error
        if content is None:
            raise Conflict(N_("No signed checkpoint covers this event yet. Try again in a second."))
        headers = {
            "Content-Disposition": f'attachment; filename="{event_id}.proof.jsonl"',
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        return Response(content, media_type="application/jsonl", headers=headers)

    return router


def _bounds(view: View, zone: str, t: Translate, *, now: datetime) -> tuple[datetime | None, datetime | None]:
    """From and until; what cannot be read is left out with a notice."""
    length = _RANGES[view.value("range") or _DEFAULT_RANGE][0]
    since: datetime | None = None if length is None else now - length
    until: datetime | None = None
    try:
        if view.value("from"):
            since = parse_instant(view.value("from"), zone, now=now)
        if view.value("to"):
            until = parse_instant(view.value("to"), zone, now=now)
    except Invalid as error:
        view.notices.append(t(error.description))
    return since, until


def _chips(
    view: View, actions: Mapping[str, str], results: Mapping[str, str], names: Mapping[str, str], t: Translate
) -> list[tuple[str, str]]:
    chips: list[tuple[str, str]] = []
    for name in ("q", "action", "actor", "object", "ip", "request", "from", "to", "result"):
        value = view.value(name)
        if not value:
            continue
        shown: Any = names.get(value, value)
        if name == "action":
            shown = actions.get(value) or t(EVENT.get(value, value))
        elif name == "result":
            shown = results[value]
        chips.append((str(shown), view.href(**{name: None})))
    return chips
