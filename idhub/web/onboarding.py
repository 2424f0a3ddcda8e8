"""`/hr/people/new` and `/hr/people/{id}/rehire`: a first day, or another first day, previewed before it is written."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from idhub.authority import Action, may
from idhub.directory.kinds import Standing
from idhub.directory.people import PersonView, show_person
from idhub.errors import Conflict, IdhubError, Invalid
from idhub.lifecycle import commands
from idhub.lifecycle.commands import Caller
from idhub.lifecycle.rehearsal import Rehearsal, rehearse
from idhub.pages import N_
from idhub.web.forms import Form, form_of, form_router
from idhub.web.labels import Translate
from idhub.web.person import DOOR, record_visit, visible_person
from idhub.web.post_form import (
    CHANGED,
    FIELD_NAMES,
    PERSON_FIELDS,
    POST_FIELDS,
    Choices,
    Post,
    Reader,
    choices,
    fields,
    key_of,
    reader_of,
    values_of,
)
from idhub.web.queries_staffing import Holder, holder_of
from idhub.web.rehearsing import preview_context, recorded_post
from idhub.web.services import WebServices
from idhub.web.visit import Visitor, frame_of, request_id, require, visitor_of

_ONBOARD_FORM = form_of("csrf_token", optional=fields(*PERSON_FIELDS, *POST_FIELDS))
_REHIRE_FORM = form_of("csrf_token", optional=fields(*POST_FIELDS))
_BLANK = {**dict.fromkeys((*PERSON_FIELDS, *POST_FIELDS), ""), "employment_type": "regular"}
_TAKEN = N_("This number is %(name)s's in this company.")
_WAS_TAKEN = N_("This number was %(name)s's, who has left. Rehire them, or give another number.")


@dataclass(slots=True)
class Scene:
    """What the page shows."""

    visitor: Visitor
    choices: Choices
    values: dict[str, str]
    errors: dict[str, str] = field(default_factory=dict)
    person: PersonView | None = None
    """Of a rehire, who comes back."""
    holder: Holder | None = None
    """Whose number it is or was, where the visitor may see them."""
    post: Post | None = None
    rehearsal: Rehearsal | None = None


def create_router(services: WebServices) -> APIRouter:
    """Routes of onboarding and rehire."""
    router = form_router(services)

    @router.get("/hr/people/new")
    def new(request: Request) -> Response:
        """The empty form."""
        with services.database.read() as session:
            scene = _scene(session, services, request, dict(_BLANK))
        return _page(services, request, scene)

    @router.post("/hr/people/new")
    def onboard(request: Request, form: Annotated[Form, Depends(_ONBOARD_FORM)]) -> Response:
        """Show what would follow, or make the person."""
        return _Onboarding(services, request, form).answer()

    @router.get("/hr/people/{person_id}/rehire")
    def again(request: Request, person_id: str) -> Response:
        """The form with what was last known of the person's post."""
        now = services.clock()
        with services.database.transaction(durable=False) as session:
            scene = _scene(session, services, request, dict(_BLANK))
            person = visible_person(session, scene.visitor, person_id, Action.PEOPLE_CHANGE)
            if person.standing != Standing.LEFT:
                return RedirectResponse(f"/hr/people/{person.id}", status_code=303)
            record_visit(session, scene.visitor, person, request, "person.rehire", now)
            scene.person = person
            if person.main is not None:
                known = values_of(person.main, manager_key=key_of(session, scene.visitor, person.main.manager_id))
                scene.values |= {**known, "start_date": "", "end_date": ""}
        return _page(services, request, scene)

    @router.post("/hr/people/{person_id}/rehire")
    def rehire(request: Request, person_id: str, form: Annotated[Form, Depends(_REHIRE_FORM)]) -> Response:
        """Show what would follow, or rehire."""
        return _Rehire(services, request, form, person_id).answer()

    return router


def _scene(session: Session, services: WebServices, request: Request, values: dict[str, str]) -> Scene:
    visitor = visitor_of(session, request, services, now=services.clock())
    require(session, visitor, Action.PEOPLE_CHANGE)
    english = services.pages.language(request) == "en"
    listed = choices(session, visitor, english=english, t=_translate(services, request))
    if listed.companies and len(listed.companies) == 1:
        values["company"] = values["company"] or listed.companies[0][0]
    return Scene(visitor, listed, values)


def _translate(services: WebServices, request: Request) -> Translate:
    return services.pages.translator(request)


class _Submission(ABC):
    """One press on the form: read, rehearse; on `confirm` of what was read, make it so."""

    def __init__(self, services: WebServices, request: Request, form: Form) -> None:
        self.services, self.request, self.form = services, request, form
        self.now = services.clock()
        self.t = _translate(services, request)
        self.is_confirmed = form["step"] == "confirm"

    def answer(self) -> Response:
        """The preview, the form with its errors, or the way to the person."""
        services, form = self.services, self.form
        with services.database.transaction() as session:
            scene = _scene(session, services, self.request, {name: form.get(name, "") for name in _BLANK})
            services.pages.check_form(self.request, form["csrf_token"], session_id=scene.visitor.session_id)
            reader = reader_of(session, scene.visitor, form, services, self.t, now=self.now)
            reader.errors = scene.errors
            done = self.proceed(session, scene, reader)
        if done is not None:
            return RedirectResponse(f"/hr/people/{done}", status_code=303)
        return _page(services, self.request, scene)

    @abstractmethod
    def proceed(self, session: Session, scene: Scene, reader: Reader) -> str | None:
        """Fill the scene; returns the person's id when it is done, or was before."""

    def caller(self, visitor: Visitor) -> Caller:
        """Who asks the lifecycle."""
        return Caller(
            subject=visitor.subject, actor=visitor.actor, door=DOOR, request_id=request_id(self.request)
        )  # fmt: skip

    def preview_or_make(
        self, session: Session, scene: Scene, reader: Reader, act: Callable[[], str], principal_id: str | None
    ) -> str | None:
        """Rehearse; when this very outcome was confirmed, act."""
        try:
            scene.rehearsal = rehearse(session, act, principal_id=principal_id, now=self.now)
            if not self.is_confirmed:
                return None
            if scene.rehearsal.fingerprint != self.form["fingerprint"]:
                scene.errors[""] = self.t(CHANGED)
                return None
            with session.begin_nested():
                return act()
        except (Conflict, Invalid) as error:
            scene.rehearsal = None
            return self.refused(session, scene, reader, error)

    def refused(self, session: Session, scene: Scene, reader: Reader, error: IdhubError) -> str | None:
        """Say what the lifecycle refused; returns the person's id when it is done all the same."""
        reader.refuse(error)
        return None


class _Onboarding(_Submission):
    def proceed(self, session: Session, scene: Scene, reader: Reader) -> str | None:
        person = self._person = reader.person()
        post = scene.post = reader.post()
        if post is None:
            return None
        if done := self._known(session, scene, post, person):
            return done
        if scene.errors:
            return None

        def act() -> str:
            values = post.command_values(session, now=self.now)
            return commands.onboard(session, self.caller(scene.visitor), person=person, now=self.now, **values)

        return self.preview_or_make(session, scene, reader, act, None)

    def refused(self, session: Session, scene: Scene, reader: Reader, error: IdhubError) -> str | None:
        # Somebody else, or the same press twice, was quicker by a moment: the same answer as to whoever comes later.
        post = scene.post if error.rule == "employee_number.taken" else None
        if post is not None and (done := self._known(session, scene, post, self._person)):
            return done
        if not scene.errors:
            reader.refuse(error)
        return None

    def _known(self, session: Session, scene: Scene, post: Post, person: dict[str, str | None]) -> str | None:
        """Whoever has or had the number: the person of the same form sent twice, a rehire, or a conflict."""
        holder = holder_of(session, post.company.id, post.employee_number)
        if holder is None:
            return None
        known = show_person(session, holder.principal_id)
        if self.is_confirmed and post.is_held_by(known):
            same = all(getattr(known, name) == person[name] for name in PERSON_FIELDS)
            if same:
                return known.id
        can_see = may(session, scene.visitor.subject, Action.PEOPLE_CHANGE, organization_id=holder.organization_id)
        if not can_see:
            scene.errors["employee_number"] = self.t(N_("Somebody in this company has this number already."))
            return None
        scene.holder = holder
        sentence = _WAS_TAKEN if holder.standing == Standing.LEFT else _TAKEN
        scene.errors["employee_number"] = self.t(sentence) % {"name": holder.display_name}
        return None


class _Rehire(_Submission):
    def __init__(self, services: WebServices, request: Request, form: Form, person_id: str) -> None:
        super().__init__(services, request, form)
        self._person_id = person_id

    def proceed(self, session: Session, scene: Scene, reader: Reader) -> str | None:
        scene.person = person = visible_person(session, scene.visitor, self._person_id, Action.PEOPLE_CHANGE)
        post = scene.post = reader.post()
        if person.standing != Standing.LEFT:
            if post is not None and post.is_held_by(person):
                return person.id
            raise Conflict(
                N_("This person has been rehired already, or never left. Open their page to see their employments."),
                field="person",
                rule="rehire.not_left",
            )
        if post is None:
            return None

        def act() -> str:
            values = post.command_values(session, now=self.now)
            commands.rehire(session, self.caller(scene.visitor), person.id, now=self.now, **values)
            return person.id

        return self.preview_or_make(session, scene, reader, act, person.id)


def _page(services: WebServices, request: Request, scene: Scene) -> Response:
    person, t = scene.person, _translate(services, request)
    context: dict[str, Any] = {
        "frame": frame_of(scene.visitor, request, services),
        "now": services.clock(),
        "person": person,
        "values": scene.values,
        "errors": scene.errors,
        "labels": {name: t(text) for name, text in FIELD_NAMES.items()},
        "choices": scene.choices,
        "holder": scene.holder,
        "post": scene.post,
        "action": f"/hr/people/{person.id}/rehire" if person else "/hr/people/new",
        "rehearsal": None,
    }
    if scene.rehearsal is not None and scene.post is not None:
        context |= preview_context(scene.rehearsal, scene.post, services, request, t, now=services.clock())
        context["recorded"] = recorded_post(scene.post, services, request, t)
    status = 409 if scene.errors else 200
    return services.pages.render(request, "onboarding.html", context, status, session_id=scene.visitor.session_id)
