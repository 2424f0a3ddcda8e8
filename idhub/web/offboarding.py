"""`/hr/offboarding/{person}/preview`: what a leave would do, and the confirmation that makes it so."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from idhub.authority import Action
from idhub.directory.kinds import Standing
from idhub.directory.people import PersonView
from idhub.errors import Conflict, Invalid
from idhub.lifecycle.commands import Caller, cancel_offboarding, offboard
from idhub.lifecycle.plan import Plan, PlanRow, preview
from idhub.lifecycle.tables import Case
from idhub.pages import N_
from idhub.web import labels
from idhub.web.drawing import exposure_length, exposure_tone, mark_of
from idhub.web.instants import parse_instant
from idhub.web.labels import Translate
from idhub.web.person import DOOR, record_visit, visible_person
from idhub.web.refusals import refusal_words
from idhub.web.services import WebServices
from idhub.web.visit import Visitor, frame_of, page_router, request_id, visitor_of

_FAULTS = frozenset({"held", "failing"})
_WRONG_NAME = N_("The name differs. Write it exactly as shown.")
_CHANGED = N_("The plan changed since you opened it. Read it again, then confirm.")
_PAST = N_("This time has passed. Name a later one, or leave the field empty for now.")


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the plan with what its drawing needs."""

    row: PlanRow
    name: str
    mark: tuple[str, int]
    action: str
    channel: str
    length: float
    tone: str
    notes: Sequence[tuple[str, bool]]
    """Words, and whether they are a fault."""

    @property
    def is_tinted(self) -> bool:
        """Rows that no automatic channel closes, or whose channel is at fault."""
        return self.row.channel == "none" or any(bad for _, bad in self.notes)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the form asks for."""

    effective_at: str = ""
    is_emergency: bool = False
    reason: str = ""
    confirm_name: str = ""
    fingerprint: str = ""


def create_router(services: WebServices) -> APIRouter:
    """Routes of the preview and of cancelling a scheduled leave."""
    router = page_router(services)

    @router.get("/hr/offboarding/{person_id}/preview")
    def show(request: Request, person_id: str, effective: str = "", emergency: str = "") -> Response:
        """Show the plan. Writes nothing but the event of the visit."""
        wish = Wish(effective_at=effective[:40], is_emergency=emergency == "1")
        return _answer(services, request, person_id, wish, None)

    @router.post("/hr/offboarding/{person_id}/preview")
    def confirm(
        request: Request,
        person_id: str,
        csrf_token: Annotated[str, Form()] = "",
        confirm_name: Annotated[str, Form()] = "",
        effective_at: Annotated[str, Form()] = "",
        emergency: Annotated[str, Form()] = "",
        reason: Annotated[str, Form()] = "",
        fingerprint: Annotated[str, Form()] = "",
    ) -> Response:
        """Schedule the leave, or carry it out now; the name was typed and the plan is the one that was read."""
        wish = Wish(effective_at[:40], emergency == "1", reason[:1000], confirm_name[:300], fingerprint[:40])
        return _answer(services, request, person_id, wish, csrf_token)

    @router.post("/hr/offboarding/{person_id}/cancel")
    def cancel(
        request: Request,
        person_id: str,
        csrf_token: Annotated[str, Form()] = "",
    ) -> Response:
        """Take a scheduled leave back."""
        now = services.clock()
        with services.database.transaction() as session:
            visitor = visitor_of(session, request, services, now=now)
            services.pages.check_form(request, csrf_token, session_id=visitor.session_id)
            person = visible_person(session, visitor, person_id, Action.PEOPLE_OFFBOARD)
            cancel_offboarding(session, _caller(visitor, request), person.id, now=now)
        return RedirectResponse(f"/hr/people/{person_id}", status_code=303)

    return router


def _caller(visitor: Visitor, request: Request) -> Caller:
    return Caller(subject=visitor.subject, actor=visitor.actor, door=DOOR, request_id=request_id(request))


def _answer(services: WebServices, request: Request, person_id: str, wish: Wish, csrf_token: str | None) -> Response:
    """The page for GET (no token), or the outcome of POST."""
    now = services.clock()
    errors: dict[str, str] = {}
    t = services.pages.translator(request)
    with services.database.transaction() as session:
        visitor = visitor_of(session, request, services, now=now)
        if csrf_token is not None:
            services.pages.check_form(request, csrf_token, session_id=visitor.session_id)
        person = visible_person(session, visitor, person_id, Action.PEOPLE_OFFBOARD)
        if person.standing == Standing.LEFT:
            number = _newest_case(session, person.id)
            return RedirectResponse(f"/hr/receipts/{number}" if number else f"/hr/people/{person.id}", status_code=303)
        at = _effective(wish, person, services, errors, t, now=now)
        plan = preview(session, person.id, effective_at=at, now=now)
        if csrf_token is not None and not errors:
            errors = _objections(wish, plan, t)
            if not errors:
                try:
                    result = offboard(
                        session, _caller(visitor, request), person.id, now=now, at=at,
                        is_emergency=wish.is_emergency, reason=wish.reason or None, confirmed=plan,
                    )  # fmt: skip
                    number = _number_of(session, result.cases.get(person.id))
                    return RedirectResponse(f"/hr/receipts/{number}", status_code=303)
                except (Conflict, Invalid) as error:
                    errors[error.field if error.field in {"reason", "effective_at"} else ""] = refusal_words(error, t)
        if csrf_token is None:
            record_visit(session, visitor, person, request, "offboarding.preview", now)
        scheduled = _number_of(session, plan.scheduled_case)
    context = {
        "frame": frame_of(visitor, request, services),
        "now": now,
        "person": person,
        "plan": plan,
        "wish": wish,
        "errors": errors,
        "scheduled": scheduled,
        "is_self": person.id == visitor.principal_id,
        **_numbers(plan),
        "lines": [_line(row, services.pages.language(request) == "en", t) for row in plan.rows],
    }
    return services.pages.render(
        request, "offboarding.html", context, 409 if errors and csrf_token is not None else 200,
        session_id=visitor.session_id,
    )  # fmt: skip


def _effective(
    wish: Wish, person: PersonView, services: WebServices, errors: dict[str, str], t: Translate, *, now: datetime
) -> datetime | None:
    if wish.is_emergency:
        return None
    zone = person.main.time_zone if person.main else services.settings.time_zone
    try:
        at = parse_instant(wish.effective_at, zone, now=now)
    except Invalid as error:
        errors["effective_at"] = t(error.description)
        return None
    if at is not None and at < now - timedelta(minutes=1):
        errors["effective_at"] = t(_PAST)
        return None
    return at


def _objections(wish: Wish, plan: Plan, t: Translate) -> dict[str, str]:
    if wish.confirm_name.strip() != plan.person.display_name:
        return {"confirm_name": t(_WRONG_NAME)}
    if wish.fingerprint != plan.fingerprint:
        return {"": t(_CHANGED)}
    return {}


def _newest_case(session: Session, person_id: str) -> str | None:
    statement = select(Case.number).where(Case.principal_id == person_id, Case.kind == "leaver")
    return session.execute(statement.order_by(Case.opened_at.desc()).limit(1)).scalar()


def _number_of(session: Session, case_id: str | None) -> str | None:
    if case_id is None:
        return None
    return session.execute(select(Case.number).where(Case.id == case_id)).scalar()


def _numbers(plan: Plan) -> dict[str, Any]:
    """The five numbers above the table."""
    applications = {row.application_id for row in plan.rows}
    automatic = [row for row in plan.rows if row.channel != "none"]
    channels = {(row.application_id, row.channel) for row in automatic}
    faulty = {(row.application_id, row.channel) for row in automatic if _FAULTS & set(row.notes)}
    longest = max(
        (row for row in plan.rows if row.exposure is not None), key=lambda r: r.exposure or timedelta(), default=None
    )
    windows = [row.exposure for row in automatic]
    known = [window for window in windows if window is not None]
    return {
        "applications": len(applications),
        "automatic": len({row.application_id for row in automatic}),
        "longest": longest,
        "has_unknown": any(row.exposure is None for row in plan.rows),
        "automatic_window": max(known, default=timedelta()) if len(known) == len(windows) else None,
        "channels": len(channels),
        "reachable": len(channels) - len(faulty),
    }


def _line(row: PlanRow, english: bool, t: Translate) -> Line:
    name = row.application_name if english else row.application_name_zh or row.application_name
    exposure = row.exposure
    return Line(
        row=row,
        name=name,
        mark=mark_of(name, row.application),
        action=t(labels.ACTION.get(row.action, row.action)),
        channel=t(labels.CHANNEL.get(row.channel, row.channel)),
        length=exposure_length(exposure) if exposure is not None else 1.0,
        tone=exposure_tone(exposure) if exposure is not None else "cb",
        notes=[(t(labels.NOTE.get(note, note)), note in _FAULTS) for note in row.notes],
    )
