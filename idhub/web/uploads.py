"""`/hr/sources/import`: an HR file in a browser: brought, previewed, confirmed or given up, and what became of it.

The door, the rules and the brake are the command's (`idhub.lifecycle.hr_import`). A process of its own does both
preview and import (`idhub.hr_process`); these pages keep the file for it and show how far it is.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from idhub.authority import Action, may
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Employment, Organization, Person
from idhub.errors import Conflict, Invalid
from idhub.lifecycle import hr_uploads
from idhub.lifecycle.tables import HrUpload
from idhub.pages import N_
from idhub.turns import bulk_work
from idhub.web import labels, sources
from idhub.web.file_words import ended_words, kept_lines
from idhub.web.forms import Form, form_of
from idhub.web.reading import MAX_FILE, file_of
from idhub.web.services import WebServices
from idhub.web.visit import frame_of, page_router, request_id, require, visitor_of

PATH: Final = sources.PATH + "/import"
_UPLOAD = form_of("csrf_token", "mode")
_STEP = form_of("csrf_token", "step")
_NO_FILE = N_("Choose a file.")
_UNDER_WAY = N_("Your last file is being brought in. Wait until it is, or look at it below.")
_TOO_LATE = N_("This was done already, or the file is not there any more. What holds now is below.")
_GIVEN_UP = N_("Another file took the place of this one while it came.")
_NAME: Final = 120
_MODES: Final = frozenset({"whole", "changes"})
_STEPS: Final = {"confirm": hr_uploads.confirm, "cancel": hr_uploads.cancel}


def create_router(services: WebServices) -> APIRouter:
    """Routes of the upload."""

    def may_upload(request: Request) -> None:
        with services.database.read() as session:
            require(session, visitor_of(session, request, services, now=services.clock()), Action.IMPORT_RUN)

    bringing, steps = page_router(services, uploads=may_upload), page_router(services)

    @bringing.get(PATH)
    def choose(request: Request) -> Response:
        """Choose a file."""
        return _choose(services, request)

    @bringing.post(PATH)
    def bring(request: Request, form: Annotated[Form, Depends(_UPLOAD)]) -> Response:
        """Keep a file for its preview."""
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=services.clock())
            services.pages.check_form(request, form["csrf_token"], session_id=visitor.session_id)
            require(session, visitor, Action.IMPORT_RUN)
        file, mode = file_of(request), _one_of(_MODES, form, "mode")
        if file is None:
            return _choose(services, request, error=_NO_FILE, mode=mode, status=422)
        try:
            with bulk_work():
                upload_id = hr_uploads.receive(
                    services.database, services.keyring, file.file.read(), file_name=_shown(file.filename or ""),
                    is_snapshot=mode == "whole", by=visitor.actor, now=services.clock(), request_id=request_id(request),
                )  # fmt: skip
        except Conflict as error:
            words = _GIVEN_UP if error.rule == "upload.given_up" else _UNDER_WAY
            return _choose(services, request, error=words, mode=mode, status=409)
        return RedirectResponse(f"{PATH}/{upload_id}", status_code=303)

    @steps.get(PATH + "/{upload_id}")
    def look(request: Request, upload_id: str) -> Response:
        """How far a file is, what it would do, what it did."""
        return _show(services, request, upload_id)

    @steps.post(PATH + "/{upload_id}")
    def decide(request: Request, upload_id: str, form: Annotated[Form, Depends(_STEP)]) -> Response:
        """Confirm a previewed file, or give one up."""
        now = services.clock()
        with services.database.transaction() as session:
            visitor = visitor_of(session, request, services, now=now)
            services.pages.check_form(request, form["csrf_token"], session_id=visitor.session_id)
            require(session, visitor, Action.IMPORT_RUN)
            hr_uploads.own(session, upload_id, visitor.principal_id)
            step = _STEPS[_one_of(_STEPS, form, "step")]
            try:
                step(session, upload_id, by=visitor.actor, now=now, request_id=request_id(request))
            except Conflict:
                is_late = True
            else:
                is_late = False
        if is_late:
            return _show(services, request, upload_id, error=_TOO_LATE, status=409)
        return RedirectResponse(f"{PATH}/{upload_id}", status_code=303)

    router = APIRouter()
    router.routes += [*bringing.routes, *steps.routes]
    return router


def _one_of(known: Collection[str], form: Form, field: str) -> str:
    """A value that a button or a choice of these pages sends.

    Raises:
        Invalid: it is another one.
    """
    if form[field] not in known:
        raise Invalid(f"{field} is one of {', '.join(sorted(known))}.", field=field, rule=f"upload.{field}")
    return form[field]


def _shown(name: str) -> str:
    """The file's name without its folders, and without what would hide it."""
    return "".join(part for part in name.replace("\\", "/").rpartition("/")[2] if part.isprintable())[:_NAME]


def _choose(
    services: WebServices, request: Request, *, error: str = "", mode: str = "whole", status: int = 200
) -> Response:
    pages = services.pages
    with services.database.read() as session:
        visitor = visitor_of(session, request, services, now=services.clock())
        require(session, visitor, Action.IMPORT_RUN)
        root = root_organization(session)
        context = {
            "frame": frame_of(visitor, request, services),
            "error": pages.gettext(request, error) if error else "",
            "mode": mode,
            "most": MAX_FILE // 1024 // 1024,
            "sees_all": may(session, visitor.subject, Action.IMPORT_RUN, organization_id=root),
            "open_upload": hr_uploads.open_of(session, visitor.principal_id),
        }
    return pages.render(request, "upload.html", context, status, session_id=visitor.session_id)


def _show(services: WebServices, request: Request, upload_id: str, *, error: str = "", status: int = 200) -> Response:
    now, pages = services.clock(), services.pages
    t, language = pages.translator(request), pages.language(request)
    with services.database.read() as session:
        visitor = visitor_of(session, request, services, now=now)
        require(session, visitor, Action.IMPORT_RUN)
        upload = hr_uploads.own(session, upload_id, visitor.principal_id)
        told = upload.outcome if upload.state == "done" else upload.preview
        root = root_organization(session)
        context: dict[str, Any] = {
            "frame": frame_of(visitor, request, services),
            "now": now,
            "error": t(error) if error else "",
            "upload": upload,
            "told": told,
            "previewed_at": datetime.fromisoformat(told["at"]) if "at" in told else None,
            "ending": _named(session, upload) if upload.state == "previewed" else [],
            "kinds": {code: t(words) for code, words in labels.HELD_KIND.items()},
            "refused": kept_lines(told.get("problems", ()), language),
            "noticed": kept_lines(told.get("notices", ()), language),
            "why": ended_words(upload.state, upload.outcome, language, t),
            "total": upload.preview.get("rows", 0),
            "sees_all": may(session, visitor.subject, Action.PEOPLE_READ, organization_id=root),
        }
    return pages.render(request, "upload_state.html", context, status, session_id=visitor.session_id)


def _named(session: Session, upload: HrUpload) -> list[dict[str, Any]]:
    """Of whom a file takes access, as far as a page shows them: what is held last."""
    preview = upload.preview
    listed = [*((each, False) for each in preview["goes"]), *((each, True) for each in preview["holds"])]
    posts = {
        row.id: row
        for row in session.execute(
            select(
                Employment.id, Employment.employee_number, Person.display_name, Organization.name, Organization.name_en
            )
            .join(Person, Person.id == Employment.principal_id)
            .join(Organization, Organization.id == Employment.organization_id)
            .where(Employment.id.in_([each["employment"] for each, _ in listed]))
        )
    }
    return [
        {"post": posts[each["employment"]], "person": each["person"], "kind": each["kind"], "held": held}
        for each, held in listed
        if each["employment"] in posts
    ][: hr_uploads.LISTED]
