"""`/hr/people/{id}`: one person; suspending and reactivating them."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from idhub.authority import Action, is_covered, may
from idhub.changes import Event, EventType, record
from idhub.directory.kinds import Standing
from idhub.directory.people import PersonView, show_person, sources_of
from idhub.errors import Conflict, Invalid, NotPermitted
from idhub.lifecycle import commands
from idhub.lifecycle.intake import clean_text
from idhub.login.links import links_of
from idhub.pages import N_
from idhub.web import labels, queries_audit, queries_people
from idhub.web.drawing import mark_of
from idhub.web.event_labels import EVENT, tone_of
from idhub.web.labels import Label, Translate, translated
from idhub.web.refusals import refusal_words
from idhub.web.services import WebServices
from idhub.web.visit import Visitor, frame_of, page_router, request_id, require, visitor_of
from idhub.web.words import actor_words

_TABS = ("overview", "receipts", "audit", "suspend", "reactivate")
_EVENTS = 100
_TIMELINE = ("person.", "employment.", "entitlement.", "account.", "case.", "role.", "invitation.")
DOOR = "console"


def create_router(services: WebServices) -> APIRouter:
    """Routes of one person's page."""
    router = page_router(services)

    @router.get("/hr/people/{person_id}")
    def person_page(request: Request, person_id: str, tab: str = "overview") -> Response:
        """Show a person. Visits by HR, administrators and auditors are events."""
        return _show(services, request, person_id, tab if tab in _TABS else "overview", {}, {}, 200)

    @router.post("/hr/people/{person_id}/suspend")
    def suspend(
        request: Request,
        person_id: str,
        csrf_token: Annotated[str, Form()] = "",
        reason: Annotated[str, Form()] = "",
    ) -> Response:
        """Hold a person's access back, at once and everywhere."""
        return _change(services, request, person_id, "suspend", csrf_token, reason)

    @router.post("/hr/people/{person_id}/reactivate")
    def reactivate(
        request: Request,
        person_id: str,
        csrf_token: Annotated[str, Form()] = "",
        reason: Annotated[str, Form()] = "",
    ) -> Response:
        """Undo a suspension."""
        return _change(services, request, person_id, "reactivate", csrf_token, reason)

    return router


def visible_person(session: Session, visitor: Visitor, person_id: str, action: Action) -> PersonView:
    """The person, if the visitor may do `action` there.

    Raises:
        NotFound: no such person, or outside the visitor's scope: the same answer.
    """
    require(session, visitor, action)
    person = show_person(session, person_id)
    require(session, visitor, action, organization_id=person.organization_id)
    return person


def record_visit(session: Session, visitor: Visitor, person: PersonView, request: Request, page: str, now: Any) -> None:
    """The event of having looked at somebody else's personal page."""
    if person.id == visitor.principal_id:
        return
    event = Event(
        type=EventType.PAGE_VIEWED,
        at=now,
        actor=visitor.actor,
        door=DOOR,
        target_kind="person",
        target_id=person.id,
        person_id=person.id,
        organization_id=person.organization_id,
        request_id=request_id(request),
        details={"page": page},
    )
    record(session, [event])


def _change(
    services: WebServices, request: Request, person_id: str, verb: str, csrf_token: str, reason: str
) -> Response:
    now = services.clock()
    errors: dict[str, str] = {}
    t = services.pages.translator(request)
    with services.database.transaction() as session:
        visitor = visitor_of(session, request, services, now=now)
        services.pages.check_form(request, csrf_token, session_id=visitor.session_id)
        person = visible_person(session, visitor, person_id, Action.PEOPLE_CHANGE)
        try:
            words = clean_text(reason, field_name="reason", required=verb == "suspend")
            if person.id == visitor.principal_id:
                raise Conflict(N_("You cannot suspend or reactivate yourself; ask a colleague."), rule="self")
            act = commands.suspend if verb == "suspend" else commands.reactivate
            caller = commands.Caller(
                subject=visitor.subject, actor=visitor.actor, door=DOOR, request_id=request_id(request)
            )
            act(session, caller, person.id, now=now, reason=words)
        except Invalid as error:
            errors[error.field or ""] = t(N_("Write a reason of at most 500 characters."))
        except (Conflict, NotPermitted) as error:
            errors[""] = t(error.description) if error.rule == "self" else refusal_words(error, t)
    if errors:
        return _show(services, request, person_id, verb, errors, {"reason": reason}, 409)
    return RedirectResponse(f"/hr/people/{person_id}", status_code=303)


def _show(
    services: WebServices,
    request: Request,
    person_id: str,
    tab: str,
    errors: dict[str, str],
    values: dict[str, str],
    status: int,
) -> Response:
    now = services.clock()
    pages = services.pages
    english = pages.language(request) == "en"
    t = pages.translator(request)
    with services.database.transaction(durable=False) as session:
        visitor = visitor_of(session, request, services, now=now)
        person = visible_person(session, visitor, person_id, Action.PEOPLE_READ)
        scope = person.organization_id
        can_change = may(session, visitor.subject, Action.PEOPLE_CHANGE, organization_id=scope)
        can_offboard = may(session, visitor.subject, Action.PEOPLE_OFFBOARD, organization_id=scope)
        can_invite = may(session, visitor.subject, Action.PEOPLE_INVITE, organization_id=scope)
        can_audit = may(session, visitor.subject, Action.AUDIT_READ, organization_id=scope)
        # Of somebody with a role beyond the visitor's: what gives access back, or another way in, is others' to do.
        gives_back = can_change and is_covered(session, visitor.subject, Action.PEOPLE_CHANGE, person.id)
        unlinks = can_invite and is_covered(session, visitor.subject, Action.PEOPLE_INVITE, person.id)
        accounts = queries_people.accounts_of(session, person.id)
        cases = queries_people.cases_of(session, person.id)
        leave = queries_people.open_leaves(session, [person.id]).get(person.id)
        sources = sources_of(session, person.id)
        links = links_of(session, person.id)
        sessions = queries_people.live_sessions(session, person.id, now)
        events = queries_audit.events_of_person(session, person.id, only_changes=not can_audit, limit=_EVENTS)
        timeline = queries_audit.events_of_person(session, person.id, only_changes=True, limit=8, prefixes=_TIMELINE)
        names = queries_audit.names_of(session, [*events, *timeline], english=english)
        record_visit(session, visitor, person, request, f"person.{tab}", now)
    is_other = person.id != visitor.principal_id
    formatter = pages.formatter(request)
    path = f"/hr/people/{person.id}"
    context = {
        "frame": frame_of(visitor, request, services),
        "now": now,
        "person": person,
        "main": person.main,
        "latin_name": _other_script(person),
        "standing": translated(labels.STANDING, t)[person.standing],
        "leave": leave,
        "leave_badge": _leave_badge(leave, formatter.day(leave.effective_at), t) if leave else None,
        "tab": tab,
        "tabs": [
            ("overview", t(N_("Overview")), path),
            ("receipts", t(N_("Receipts")), f"{path}?tab=receipts"),
            ("audit", t(N_("Audit")), f"{path}?tab=audit"),
        ],
        "can_move": can_change and is_other and person.standing != Standing.LEFT,
        "can_rehire": can_change and person.standing == Standing.LEFT,
        "can_suspend": can_change and is_other and person.standing in {Standing.ACTIVE, Standing.STAGED},
        "can_reactivate": gives_back and is_other and person.standing == Standing.SUSPENDED,
        "can_offboard": can_offboard and is_other and person.standing != Standing.LEFT,
        "can_unlink": unlinks and is_other,
        "can_audit": can_audit,
        "can_open_apps": any(role in visitor.roles for role in ("administrator", "auditor")),
        "accounts": accounts,
        "marks": {a.slug: mark_of(a.name if english else a.name_zh or a.name, a.slug) for a in accounts},
        "cases": cases,
        "sources": sources,
        "links": links,
        "sessions": sessions,
        "events": events,
        "timeline": timeline,
        "names": names,
        "actors": {e.event_id: actor_words(e, names, t) for e in [*events, *timeline]},
        "event_names": {e.type: t(EVENT.get(e.type, e.type)) for e in [*events, *timeline]},
        "tones": {e.event_id: tone_of(e.type, e.outcome) for e in timeline},
        "types": {code: t(name) for code, name in labels.EMPLOYMENT_TYPE.items()},
        "employment_states": translated(labels.EMPLOYMENT_STATE, t),
        "account_states": translated(labels.ACCOUNT_STATE, t),
        "source_states": translated(labels.SOURCE_STATE, t),
        "case_states": translated(labels.CASE_STATE, t),
        "doors": {code: t(name) for code, name in labels.DOOR.items()},
        "source_names": {code: t(name) for code, name in labels.SOURCE.items()},
        "outcomes": translated(labels.OUTCOME, t),
        "reasons": {code: t(name) for code, name in labels.REASON_KIND.items()},
        "errors": errors,
        "values": values,
    }
    return pages.render(request, "person.html", context, status, session_id=visitor.session_id)


def _other_script(person: PersonView) -> str:
    if person.display_name.isascii():
        return ""
    given, family = person.given_name or "", person.family_name or ""
    latin = f"{family} {given}".strip()
    return latin if latin and latin.isascii() else ""


def _leave_badge(leave: queries_people.OpenCase, day: str, t: Translate) -> Label:
    if leave.state == "scheduled":
        return Label("warn", t(N_("Leave registered for %(day)s")) % {"day": day}, "clock")
    return Label("warn", t(N_("Receipt open")), "circle-dashed")
