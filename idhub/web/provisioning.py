"""`/admin/apps/{slug}/provisioning`: how the accounts are, what one person's would be, accounts to review."""

from contextlib import AbstractContextManager
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Form, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.datastructures import QueryParams
from starlette.responses import RedirectResponse, Response

from idhub.access.tables import Application, ScimTarget
from idhub.authority import Action, may, visible_organizations
from idhub.db import Database
from idhub.delivery import queue
from idhub.delivery.holds import probe_now
from idhub.delivery.queue import holds
from idhub.directory.people import find_person, show_person
from idhub.errors import Conflict, IdhubError, Invalid, NotFound
from idhub.pages import N_
from idhub.provisioning.outbound import adoption, discovering, records, sync, tokens
from idhub.provisioning.outbound.preview import preview
from idhub.provisioning.outbound.tables import OutboundGroup
from idhub.web import labels, queries_access
from idhub.web.drawing import mark_of
from idhub.web.listing import View
from idhub.web.person import DOOR, record_visit, visible_person
from idhub.web.refusals import refusal_words
from idhub.web.services import WebServices
from idhub.web.visit import Visitor, frame_of, page_router, require, visitor_of
from scim.dialects import DIALECTS

_PROBLEMS = {
    "review": N_("fits a rule that asks for a look"),
    "ambiguous": N_("fits several people, or one whose address others share"),
    "unmatched": N_("fits nobody"),
}
_DIALECTS = {
    "generic": N_("RFC 7643 and 7644 as written"),
    "put": N_("As written, without PATCH"),
    "no-filter": N_("As written, without filters: the list is read"),
    "no-external-id": N_("As written, without externalId"),
    "text-booleans": N_("Booleans as texts, operations with a capital"),
}
"""Those that are named after what they do; the others are names of products."""
_DONE = {
    "start": N_("A run over all accounts has begun. Load the page again to see how far it is."),
    "retry": N_("All dead letters go out again. Load the page again to see what became of them."),
    "probe": N_("What is held is being tried. Load the page again to see whether it goes on."),
    "discover": N_("The application is being asked. Load the page again to see what it said."),
    "confirm": N_("Linked. The account is being brought up to date."),
    "reject": N_("Left alone. Whoever waited for it gets an account of their own."),
}
_ADOPT = {
    "external_id": N_("externalId"),
    "user_name": N_("userName"),
    "email": N_("mail"),
    "employee_number": N_("employee number"),
}
_RUN = {
    "running": N_("under way"),
    "paused": N_("paused"),
    "done": N_("finished"),
    "cancelled": N_("cancelled"),
}


def create_router(services: WebServices) -> APIRouter:
    """Routes of an application's provisioning."""
    router = page_router(services)
    pages = services.pages

    @router.get("/admin/apps/{slug}/provisioning")
    def provisioning(request: Request, slug: str, person: str = "", done: str = "") -> Response:
        """Show it; with `person`, what would be sent for them; with `done`, the step that was taken."""
        return _show(services, request, slug, person, {}, 200, done=done)

    @router.post("/admin/apps/{slug}/provisioning")
    def change(
        request: Request,
        slug: str,
        csrf_token: Annotated[str, Form()] = "",
        step: Annotated[str, Form()] = "",
        review: Annotated[str, Form()] = "",
        person: Annotated[str, Form()] = "",
    ) -> Response:
        """Take a step: a run over all accounts, dead letters, a question what it can do, a review."""
        now = services.clock()
        errors: dict[str, str] = {}
        with services.database.transaction() as session:
            visitor = visitor_of(session, request, services, now=now)
            pages.check_form(request, csrf_token, session_id=visitor.session_id)
            row, organization_id = application_of(session, visitor, slug)
            action = Action.DELIVERY_RETRY if step in {"retry", "probe"} else Action.APPLICATION_CHANGE
            require(session, visitor, action, organization_id=organization_id)
            _require_target(row)
            who: dict[str, Any] = {"now": now, "actor": visitor.actor, "door": DOOR}
            try:
                _take(session, visitor, row.id, step, review, person, who)
            except (Conflict, NotFound, Invalid) as error:
                errors[error.field or ""] = refusal_words(error, pages.translator(request))
        if errors:
            return _show(services, request, slug, "", errors, 409)
        done = f"?done={step}" if step in _DONE else ""
        return RedirectResponse(f"/admin/apps/{row.slug}/provisioning{done}", status_code=303)

    return router


def _take(
    session: Session, visitor: Visitor, application_id: str, step: str, review: str, person: str, who: dict[str, Any]
) -> None:
    match step:
        case "start":
            sync.start(session, application_id, **who)
        case "pause" | "resume" | "cancel":
            sync.take_step(session, application_id, step, **who)
        case "retry":
            queue.send_dead_again(session, application_id, **who)
        case "probe":
            probe_now(session, application_id, now=who["now"])
        case "discover":
            discovering.plan(session, [application_id], now=who["now"])
        case "confirm":
            within = visible_organizations(session, visitor.subject, Action.PEOPLE_READ)
            adoption.confirm(
                session, review, find_person(session, person, within=within), application_id=application_id, **who
            )
        case "reject":
            adoption.reject(session, review, application_id=application_id, **who)
        case _:
            raise Invalid(N_("There is no such step."), field="step", rule="step.unknown")


def application_of(session: Session, visitor: Visitor, slug: str) -> tuple[Any, str]:
    """The application of a page below its own, and the organization that owns it.

    Raises:
        NotPermitted, NotFound: the visitor may not read applications, or not this one.
    """
    require(session, visitor, Action.APPLICATION_READ)
    view = View(queries_access.APPLICATIONS, QueryParams(), lambda message: message)
    row = queries_access.one_application(
        session, queries_access.applications_statement(view, session, visitor.subject), slug
    )
    if row is None:
        raise NotFound("There is no such application.", rule="application.unknown")
    return row, session.scalars(select(Application.organization_id).where(Application.id == row.id)).one()


def looking(database: Database, *, at_somebody: bool) -> AbstractContextManager[Session]:
    """What a page is read in: that somebody's data was looked at is recorded, so that alone is written."""
    return database.transaction(durable=False) if at_somebody else database.read()


def _require_target(row: Any) -> None:
    if not row.has_scim:
        raise Conflict("This application has no SCIM target.", rule="scim.none")


def _show(
    services: WebServices,
    request: Request,
    slug: str,
    text: str,
    errors: dict[str, str],
    status: int,
    *,
    done: str = "",
) -> Response:
    now, pages = services.clock(), services.pages
    t = pages.translator(request)
    with looking(services.database, at_somebody=bool(text)) as session:
        visitor = visitor_of(session, request, services, now=now)
        row, organization_id = application_of(session, visitor, slug)
        _require_target(row)
        target = records.targets(session, [row.id])[row.id]
        known = discovering.known(session, row.id)
        reviews = adoption.open_reviews(session, row.id, limit=50)
        held = holds(session, [row.id])
        context: dict[str, Any] = {
            "target": target,
            "dialect": DIALECTS[target.dialect],
            "learned": DIALECTS[target.dialect].learned(target.capabilities),
            "known": known,
            "progress": sync.progress(session, row.id),
            "held": [(hold, labels.hold_words(hold, t)) for hold in held],
            # What the service itself asked to wait for is waited for.
            "can_probe": any(hold.next_probe_at and hold.reason != "rate_limit" for hold in held),
            "token_ends_at": session.scalar(
                select(ScimTarget.token_expires_at).where(ScimTarget.application_id == row.id)
            ),
            "ending": [one for one in tokens.expiring(session, now=now) if one.application_id == row.id],
            "rules": target.mapping.rules,
            "groups": session.scalars(
                select(OutboundGroup)
                .where(OutboundGroup.application_id == row.id)
                .order_by(OutboundGroup.name)
                .limit(100)
            ).all(),
            "reviews": reviews,
            "names": _names(session, visitor, [one for review in reviews for one in review.candidates]),
            "can_change": may(session, visitor.subject, Action.APPLICATION_CHANGE, organization_id=organization_id),
        }
        seen = None
        if text:
            try:
                seen = _preview(session, visitor, request, row.id, text, now)
            except (Conflict, Invalid, NotFound) as error:
                errors = {**errors, "person": refusal_words(error, t)}
    name = row.name if pages.language(request) == "en" else row.name_zh or row.name
    context |= {
        "frame": frame_of(visitor, request, services),
        "now": now,
        "row": row,
        "name": name,
        "mark": mark_of(name, row.slug),
        "typed": text,
        "title": t(_DIALECTS[target.dialect]) if target.dialect in _DIALECTS else context["dialect"].title,
        "done": t(_DONE[done]) if done in _DONE else "",
        "seen": seen,
        "resource": _json(seen.resource) if seen else "",
        "json": _json,
        "problems": {code: t(words) for code, words in _PROBLEMS.items()},
        "adopt_words": {code: t(words) for code, words in _ADOPT.items()},
        "run_words": {code: t(words) for code, words in _RUN.items()},
        "errors": errors,
    }
    return pages.render(request, "provisioning.html", context, status, session_id=visitor.session_id)


def _names(session: Session, visitor: Visitor, principal_ids: list[str]) -> dict[str, str]:
    """Names of candidates whom the visitor may see."""
    found: dict[str, str] = {}
    for person_id in dict.fromkeys(principal_ids):
        try:
            found[person_id] = visible_person(session, visitor, person_id, Action.PEOPLE_READ).display_name
        except IdhubError:
            continue
    return found


def _preview(session: Session, visitor: Visitor, request: Request, application_id: str, text: str, now: Any) -> Any:
    require(session, visitor, Action.PEOPLE_READ)
    within = visible_organizations(session, visitor.subject, Action.PEOPLE_READ)
    person = show_person(session, find_person(session, text, within=within))
    seen = preview(session, application_id, person.id, now=now)
    record_visit(session, visitor, person, request, "person.preview", now)
    return seen


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() if value is not None else "—"
