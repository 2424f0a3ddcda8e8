"""`/admin/streams`: who is told of SCIM events, what waits for them, and what went wrong last."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Form, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from idhub.authority import Action, may, visible_organizations
from idhub.delivery.addresses import OutboundPolicy
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Organization
from idhub.errors import Conflict, Invalid, NotFound
from idhub.pages import N_
from idhub.provisioning.events import steps
from idhub.provisioning.events.steps import By
from idhub.provisioning.events.streams import (
    Sending,
    StreamView,
    StreamWish,
    address_of,
    list_streams,
    senders,
)
from idhub.provisioning.events.waiting import KEPT
from idhub.web.forms import Form as Fields
from idhub.web.forms import form_of
from idhub.web.labels import Label, Translate
from idhub.web.person import DOOR
from idhub.web.refusals import refusal_words
from idhub.web.services import WebServices
from idhub.web.visit import Visitor, frame_of, page_router, require, visitor_of
from scim.events import BY_URI, PLAIN, Kind

_SLOW: Final = timedelta(hours=1)
"""Older than this, what waits is said to wait long."""
_KINDS: Final = {
    Kind.CREATED: N_("somebody or a group is new"),
    Kind.PATCHED: N_("attributes changed"),
    Kind.REPLACED: N_("a sender replaced the whole"),
    Kind.DELETED: N_("gone for good"),
    Kind.ACTIVATED: N_("may begin, or is back"),
    Kind.DEACTIVATED: N_("suspended, or has left"),
    Kind.ADDED: N_("came into the company"),
    Kind.REMOVED: N_("went to another company"),
    Kind.ANSWERED: N_("an operation of the sender's own bulk request is done"),
}
_DONE: Final = {
    "created": N_("Named. It hears of what happens from about a second later on."),
    "paused": N_("Paused. What happens meanwhile waits, a week at most."),
    "resumed": N_("It is told again. Load the page again to see what became of it."),
    "removed": N_("Removed, with what waited for it."),
}
_STEPS: Final = {
    "pause": (steps.pause, "paused"),
    "resume": (steps.resume, "resumed"),
    "remove": (steps.remove, "removed"),
}
_CHOSEN: Final = {f"e{place}": uri for place, uri in enumerate(PLAIN)}
"""Names of the form's boxes, one for each event."""
_FORM = form_of(
    "csrf_token",
    optional={"token": 60, "push": 2_000, "authorization": 4_096, "audience": 2_000, "full": 2}
    | dict.fromkeys(_CHOSEN, 2),
)
_BLANK: Final = dict.fromkeys(("token", "push", "audience", "full"), "") | dict.fromkeys(_CHOSEN, "on")


def create_router(services: WebServices) -> APIRouter:
    """Routes of event streams."""
    router = page_router(services)
    pages = services.pages

    @router.get("/admin/streams")
    def streams(request: Request, done: str = "") -> Response:
        """All streams that the visitor may see, and the form for another."""
        return _list(services, request, dict(_BLANK), {}, 200, done=done)

    @router.post("/admin/streams")
    def create(request: Request, form: Annotated[Fields, Depends(_FORM)]) -> Response:
        """Name a receiver."""
        now = services.clock()
        t = pages.translator(request)
        with services.database.transaction() as session:
            visitor = visitor_of(session, request, services, now=now)
            pages.check_form(request, form["csrf_token"], session_id=visitor.session_id)
            require(session, visitor, Action.APPLICATION_CHANGE)
            stream_id, errors = _create(session, services, visitor, form, t, now)
        if errors:
            return _list(services, request, dict(form), errors, 422)
        return RedirectResponse(f"/admin/streams/{stream_id}?done=created", status_code=303)

    @router.get("/admin/streams/{stream_id}")
    def stream(request: Request, stream_id: str, done: str = "") -> Response:
        """One stream."""
        return _show(services, request, stream_id, {}, 200, done=done)

    @router.post("/admin/streams/{stream_id}")
    def change(
        request: Request,
        stream_id: str,
        csrf_token: Annotated[str, Form()] = "",
        step: Annotated[str, Form()] = "",
    ) -> Response:
        """Pause it, go on with it, or remove it."""
        now = services.clock()
        t = pages.translator(request)
        with services.database.transaction() as session:
            visitor = visitor_of(session, request, services, now=now)
            pages.check_form(request, csrf_token, session_id=visitor.session_id)
            found = _one(session, visitor, stream_id)
            require(session, visitor, Action.APPLICATION_CHANGE, organization_id=_owner(session, found))
            done, errors = _take(session, stream_id, step, By(actor=visitor.actor, door=DOOR, now=now), t)
        if errors:
            return _show(services, request, stream_id, errors, 409)
        place = "/admin/streams" if step == "remove" else f"/admin/streams/{stream_id}"
        return RedirectResponse(f"{place}?done={done}", status_code=303)

    return router


def _take(session: Session, stream_id: str, step: str, by: By, t: Translate) -> tuple[str, dict[str, str]]:
    """What was done, or what is wrong by field."""
    if step not in _STEPS:
        return "", {"step": t(N_("There is no such step."))}
    act, done = _STEPS[step]
    try:
        act(session, stream_id, by=by)
    except Conflict as error:
        return "", {"": refusal_words(error, t)}
    return done, {}


def _create(
    session: Session, services: WebServices, visitor: Visitor, form: Fields, t: Translate, now: datetime
) -> tuple[str, dict[str, str]]:
    """Id of the new stream, or what is wrong by field."""
    chosen = {one.token_id: one for one in _senders(session, visitor, now)}.get(form["token"])
    uris = [uri for name, uri in _CHOSEN.items() if form[name]]
    if chosen is None:
        return "", {"token": t(N_("Choose one of the listed tokens."))}
    if not uris:
        return "", {"events": t(N_("Choose at least one event."))}
    wish = StreamWish(
        token_name=chosen.name,
        organization_id=chosen.organization_id,
        events=uris,
        is_full=bool(form["full"]),
        push_url=form["push"].strip() or None,
        authorization=form["authorization"].strip() or None,
        audience=form["audience"].strip() or None,
    )
    policy = OutboundPolicy(services.settings.outbound_allow)
    by = By(actor=visitor.actor, door=DOOR, now=now)
    try:
        return steps.create(session, wish, keyring=services.keyring, policy=policy, by=by), {}
    except (Invalid, NotFound) as error:
        field = {"authorization_file": "authorization", "url": "push"}.get(error.field or "", error.field or "")
        return "", {field: refusal_words(error, t)}


def _seen(session: Session, visitor: Visitor) -> list[StreamView]:
    require(session, visitor, Action.APPLICATION_READ)
    return list_streams(session, within=visible_organizations(session, visitor.subject, Action.APPLICATION_READ))


def _one(session: Session, visitor: Visitor, stream_id: str) -> StreamView:
    found = next((one for one in _seen(session, visitor) if one.id == stream_id), None)
    if found is None:
        raise NotFound("There is no such stream.", rule="stream.unknown")
    return found


def _owner(session: Session, stream: StreamView) -> str:
    return stream.organization_id or root_organization(session)


def _senders(session: Session, visitor: Visitor, now: datetime) -> Sequence[Sending]:
    """Tokens for which the visitor may name a receiver."""
    within = visible_organizations(session, visitor.subject, Action.APPLICATION_CHANGE)
    return senders(session, within=within, now=now)


def _companies(session: Session, ids: Sequence[str | None], *, english: bool) -> dict[str | None, str]:
    rows = session.execute(
        select(Organization.id, Organization.name, Organization.name_en).where(
            Organization.id.in_([one for one in ids if one is not None])
        )
    )
    return {row[0]: (row[2] or row[1]) if english else row[1] for row in rows}


def _health(stream: StreamView, *, works: bool, now: datetime, t: Translate) -> Label:
    if not works:
        return Label("bad", t(N_("Its token does not work")), "key")
    if stream.paused_at is not None:
        return Label("neutral", t(N_("Paused")), "player-pause")
    if stream.failures:
        return Label("bad", t(N_("Not taken")), "alert-triangle")
    if stream.oldest_at is not None and stream.oldest_at < now - _SLOW:
        return Label("warn", t(N_("Waits long")), "clock")
    return Label("ok", t(N_("Normal")))


def _lines(
    session: Session, streams: Sequence[StreamView], companies: dict[str | None, str], now: datetime, t: Translate
) -> list[dict[str, Any]]:
    working = {(one.name, one.organization_id) for one in senders(session, within=None, now=now)}
    return [
        _line(one, companies, works=(one.token_name, one.organization_id) in working, now=now, t=t) for one in streams
    ]


def _line(
    stream: StreamView, companies: dict[str | None, str], *, works: bool, now: datetime, t: Translate
) -> dict[str, Any]:
    return {
        "stream": stream,
        "company": companies.get(stream.organization_id),
        "health": _health(stream, works=works, now=now, t=t),
        "works": works,
    }


def _list(
    services: WebServices,
    request: Request,
    values: dict[str, str],
    errors: dict[str, str],
    status: int,
    *,
    done: str = "",
) -> Response:
    now, pages = services.clock(), services.pages
    english = pages.language(request) == "en"
    t = pages.translator(request)
    with services.database.read() as session:
        visitor = visitor_of(session, request, services, now=now)
        seen = _seen(session, visitor)
        can_change = may(session, visitor.subject, Action.APPLICATION_CHANGE)
        offered = _senders(session, visitor, now) if can_change else ()
        named = [*(one.organization_id for one in seen), *(one.organization_id for one in offered)]
        companies = _companies(session, named, english=english)
        lines = _lines(session, seen, companies, now, t)
    all_of_it = t(N_("everybody"))
    context: dict[str, Any] = {
        "frame": frame_of(visitor, request, services),
        "now": now,
        "lines": lines,
        "waiting": sum(one.waiting for one in seen),
        "oldest": min((one.oldest_at for one in seen if one.oldest_at is not None), default=None),
        "lost": sum(one.lost for one in seen),
        "can_change": can_change,
        "offered": [
            (one.token_id, f"{one.name} · {companies.get(one.organization_id) or all_of_it}") for one in offered
        ],
        "kinds": [(name, uri, t(_KINDS[PLAIN[uri]])) for name, uri in _CHOSEN.items()],
        "values": values,
        "errors": errors,
        "done": t(_DONE[done]) if done in _DONE else "",
    }
    return pages.render(request, "streams.html", context, status, session_id=visitor.session_id)


def _show(
    services: WebServices, request: Request, stream_id: str, errors: dict[str, str], status: int, *, done: str = ""
) -> Response:
    now, pages = services.clock(), services.pages
    english = pages.language(request) == "en"
    t = pages.translator(request)
    with services.database.read() as session:
        visitor = visitor_of(session, request, services, now=now)
        stream = _one(session, visitor, stream_id)
        companies = _companies(session, [stream.organization_id], english=english)
        (line,) = _lines(session, [stream], companies, now, t)
        owner = _owner(session, stream)
        can_change = may(session, visitor.subject, Action.APPLICATION_CHANGE, organization_id=owner)
    context = {
        **line,
        "frame": frame_of(visitor, request, services),
        "now": now,
        "address": address_of(services.settings.issuer, stream.id),
        "kinds": [(uri, t(_KINDS[BY_URI[uri]])) for uri in stream.events if uri in BY_URI],
        "kept_days": KEPT.days,
        "can_change": can_change,
        "errors": errors,
        "done": t(_DONE[done]) if done in _DONE else "",
    }
    return pages.render(request, "stream.html", context, status, session_id=visitor.session_id)
