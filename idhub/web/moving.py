"""`/hr/people/{id}/move`: another post of somebody, previewed with what they gain, lose and keep."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from idhub.authority import Action
from idhub.directory.kinds import EmploymentState, Standing
from idhub.directory.people import EmploymentView, PersonView
from idhub.errors import Conflict, Invalid, NotFound
from idhub.lifecycle import commands
from idhub.lifecycle.commands import Caller
from idhub.lifecycle.rehearsal import Rehearsal, rehearse
from idhub.pages import N_
from idhub.web import labels, queries_people
from idhub.web.forms import Form, form_of, form_router
from idhub.web.labels import Translate
from idhub.web.person import DOOR, record_visit, visible_person
from idhub.web.post_form import (
    CHANGED,
    FIELD_NAMES,
    POST_FIELDS,
    Choices,
    Post,
    choices,
    fields,
    formatter_at,
    key_of,
    reader_of,
    values_of,
)
from idhub.web.rehearsing import preview_context, recorded_move
from idhub.web.services import WebServices
from idhub.web.visit import Visitor, frame_of, request_id, require, visitor_of

_EDITABLE = tuple(name for name in POST_FIELDS if name not in {"employee_number", "start_date"})
_FORM = form_of("csrf_token", optional=fields("employment", *_EDITABLE))
_NOTHING = N_("Nothing changes: every field is as it is.")
_SELF = N_("You cannot change your own post. Ask a colleague.")


@dataclass(slots=True)
class Scene:
    """What the page shows."""

    visitor: Visitor
    person: PersonView
    employment: EmploymentView
    choices: Choices
    values: dict[str, str]
    errors: dict[str, str] = field(default_factory=dict)
    leave: queries_people.OpenCase | None = None
    post: Post | None = None
    changed: dict[str, Any] = field(default_factory=dict)
    """New values by the names of the `Move` change."""
    rehearsal: Rehearsal | None = None


def create_router(services: WebServices) -> APIRouter:
    """Routes of moving."""
    router = form_router(services)

    @router.get("/hr/people/{person_id}/move")
    def show(request: Request, person_id: str, employment: str = "") -> Response:
        """The form with the post as it is. Visits are events."""
        now = services.clock()
        with services.database.transaction(durable=False) as session:
            scene = _scene(session, services, request, person_id, employment, None)
            if scene is None:
                return RedirectResponse(f"/hr/people/{person_id}", status_code=303)
            record_visit(session, scene.visitor, scene.person, request, "person.move", now)
        return _page(services, request, scene)

    @router.post("/hr/people/{person_id}/move")
    def submit(request: Request, person_id: str, form: Annotated[Form, Depends(_FORM)]) -> Response:
        """Show what would follow, or move."""
        with services.database.transaction() as session:
            scene = _scene(session, services, request, person_id, form["employment"], form)
            if scene is None or _proceed(session, services, request, scene, form):
                return RedirectResponse(f"/hr/people/{person_id}", status_code=303)
        return _page(services, request, scene)

    return router


def _scene(
    session: Session, services: WebServices, request: Request, person_id: str, employment_id: str, form: Form | None
) -> Scene | None:
    """The person and the live employment asked for; None for somebody who has left."""
    now = services.clock()
    visitor = visitor_of(session, request, services, now=now)
    if form is not None:
        services.pages.check_form(request, form["csrf_token"], session_id=visitor.session_id)
    person = visible_person(session, visitor, person_id, Action.PEOPLE_CHANGE)
    if person.standing == Standing.LEFT:
        return None
    employment = _employment(person, employment_id)
    # A further post of somebody of ours may be another company's.
    require(session, visitor, Action.PEOPLE_CHANGE, organization_id=employment.organization_id)
    known = values_of(employment, manager_key=key_of(session, visitor, employment.manager_id))
    english = services.pages.language(request) == "en"
    listed = choices(session, visitor, english=english, t=_translate(services, request))
    values = known if form is None else {**known, **{name: form[name] for name in _EDITABLE}}
    scene = Scene(visitor, person, employment, listed, values)
    scene.leave = queries_people.open_leaves(session, [person.id]).get(person.id)
    return scene


def _employment(person: PersonView, employment_id: str) -> EmploymentView:
    live = [e for e in person.employments if e.state != EmploymentState.ENDED]
    wanted = employment_id or person.main_employment_id
    found = next((e for e in live if e.id == wanted), None)
    if found is None:
        raise NotFound("The person has no such employment.", field="employment", rule="employment.unknown")
    return found


def _translate(services: WebServices, request: Request) -> Translate:
    return services.pages.translator(request)


def _proceed(session: Session, services: WebServices, request: Request, scene: Scene, form: Form) -> bool:
    """Fill the scene; True when the post is as the form wants it."""
    now, t, visitor = services.clock(), _translate(services, request), scene.visitor
    is_confirmed = form["step"] == "confirm"
    if scene.person.id == visitor.principal_id:
        scene.errors[""] = t(_SELF)
        return False
    reader = reader_of(session, visitor, scene.values, services, t, now=now)
    reader.errors = scene.errors
    post = scene.post = reader.post(known=scene.employment)
    if post is None:
        return False
    scene.changed = _changed(scene.employment, post, form, key_of(session, visitor, scene.employment.manager_id))
    if not scene.changed:
        scene.errors[""] = t(_NOTHING)
        # The same form sent twice: what it asked for is so.
        return is_confirmed
    caller = Caller(subject=visitor.subject, actor=visitor.actor, door=DOOR, request_id=request_id(request))

    def act() -> str:
        values = {name: value for name, value in scene.changed.items() if name != "department"}
        if "department" in scene.changed or "organization_id" in scene.changed:
            values["department_id"] = post.department_id(session, now=now)
        employment_id = scene.employment.id
        commands.move(session, caller, scene.person.id, employment_id=employment_id, values=values, now=now)
        return scene.person.id

    try:
        scene.rehearsal = rehearse(session, act, principal_id=scene.person.id, now=now)
        if is_confirmed and scene.rehearsal.fingerprint == form["fingerprint"]:
            with session.begin_nested():
                act()
            return True
        if is_confirmed:
            scene.errors[""] = t(CHANGED)
    except (Conflict, Invalid) as error:
        scene.rehearsal = None
        reader.refuse(error)
    return False


def _changed(known: EmploymentView, post: Post, form: Form, manager_key: str) -> dict[str, Any]:
    """What differs. A manager's field that nobody touched means the manager of before, seen here or not."""
    wanted: dict[str, tuple[Any, Any]] = {
        "organization_id": (known.organization_id, post.company.id),
        "department": (known.department, post.department),
        "title": (known.title, post.title),
        "type": (known.type, post.type),
        "ends_on": (known.ends_on, post.ends_on),
    }
    if form["manager"].strip() != manager_key:
        wanted["manager_id"] = (known.manager_id, post.manager.id if post.manager else None)
    return {name: after for name, (before, after) in wanted.items() if before != after}


def _page(services: WebServices, request: Request, scene: Scene) -> Response:
    t, person, known = _translate(services, request), scene.person, scene.employment
    english = services.pages.language(request) == "en"
    live = [e for e in person.employments if e.state != EmploymentState.ENDED]
    context: dict[str, Any] = {
        "frame": frame_of(scene.visitor, request, services),
        "now": services.clock(),
        "person": person,
        "employment": known,
        "others": [e for e in live if e.id != known.id],
        "is_self": person.id == scene.visitor.principal_id,
        "leave": scene.leave,
        "values": scene.values,
        "errors": scene.errors,
        "labels": {name: t(text) for name, text in FIELD_NAMES.items()},
        "choices": scene.choices,
        "post": scene.post,
        "rehearsal": None,
    }
    if scene.rehearsal is not None and scene.post is not None:
        context |= preview_context(scene.rehearsal, scene.post, services, request, t, now=services.clock())
        place = formatter_at(services, request, known.time_zone)
        before = {
            "company": (known.company_en or known.company) if english else known.company,
            "department": " / ".join(known.department.split("/")) if known.department else "—",
            "title": known.title or "—",
            "manager": known.manager or "—",
            "type": t(labels.EMPLOYMENT_TYPE[known.type]),
            "ends_on": place.day(known.ends_on) if known.ends_on else t(N_("no end known")),
        }
        names = {"organization_id": "company", "manager_id": "manager"}
        changed = {names.get(name, name) for name in scene.changed}
        context["recorded"] = recorded_move(before, scene.post, changed, services, request, t)
    status = 409 if scene.errors else 200
    return services.pages.render(request, "move.html", context, status, session_id=scene.visitor.session_id)
