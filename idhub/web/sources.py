"""`/hr/sources`: what the HR file said last, what the brake holds of it, and its release by two people."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import RedirectResponse, Response

from idhub.authority import Action, may
from idhub.directory.organizations import root_organization
from idhub.errors import Conflict
from idhub.lifecycle import hr_release, hr_uploads
from idhub.web import labels, queries_sources
from idhub.web.file_words import kept_lines
from idhub.web.forms import Form, form_of
from idhub.web.listing import View
from idhub.web.refusals import refusal_words
from idhub.web.services import WebServices
from idhub.web.visit import frame_of, page_router, require, visitor_of

_DECISION = form_of("csrf_token", "run", "company")
PATH = "/hr/sources"


def create_router(services: WebServices) -> APIRouter:
    """Routes of the sources."""
    router = page_router(services)
    pages = services.pages

    @router.get(PATH)
    def sources(request: Request) -> Response:
        """Held changes by company, then one by one; the last reads."""
        return _show(services, request)

    @router.post(PATH + "/release")
    def release(request: Request, form: Annotated[Form, Depends(_DECISION)]) -> Response:
        """Say yes to what a read holds of a company; the worker carries out what two people have said."""
        now = services.clock()
        with services.database.transaction() as session:
            visitor = visitor_of(session, request, services, now=now)
            pages.check_form(request, form["csrf_token"], session_id=visitor.session_id)
            require(session, visitor, Action.IMPORT_RELEASE)
            require(session, visitor, Action.IMPORT_RELEASE, organization_id=form["company"])
            try:
                hr_release.approve(session, form["run"], [form["company"]], approver=visitor.actor, now=now)
            except Conflict as error:
                words = refusal_words(error, pages.translator(request))
            else:
                words = ""
        if words:
            return _show(services, request, error=words, status=409)
        return RedirectResponse(PATH, status_code=303)

    return router


def _show(services: WebServices, request: Request, *, error: str = "", status: int = 200) -> Response:
    now = services.clock()
    pages = services.pages
    t = pages.translator(request)
    view = View(queries_sources.HELD_CHANGES, request.query_params, t)
    with services.database.read() as session:
        visitor = visitor_of(session, request, services, now=now)
        require(session, visitor, Action.PEOPLE_READ)
        stops = queries_sources.stops(session, visitor.subject)
        page = queries_sources.list_held(view, session, queries_sources.held_statement(session, visitor.subject))
        releasable = {
            stop.group.organization_id
            for stop in stops
            if may(session, visitor.subject, Action.IMPORT_RELEASE, organization_id=stop.group.organization_id)
        }
        # A read speaks of all its companies together: whoever sees some of them is not told of the others.
        root = root_organization(session)
        sees_all = may(session, visitor.subject, Action.PEOPLE_READ, organization_id=root)
        runs = queries_sources.last_runs(session) if sees_all else []
        can_import = may(session, visitor.subject, Action.IMPORT_RUN)
        open_upload = hr_uploads.open_of(session, visitor.principal_id) if can_import else None
    english = pages.language(request) == "en"
    companies = {
        stop.group.organization_id: (stop.company_en or stop.company) if english else stop.company for stop in stops
    }
    context = {
        "frame": frame_of(visitor, request, services),
        "now": now,
        "view": view,
        "page": page,
        "stops": stops,
        "companies": companies,
        "company_options": sorted(companies.items(), key=lambda one: one[1]),
        "kinds": {code: t(words) for code, words in labels.HELD_KIND.items()},
        "chips": [(companies.get(company, company), view.href(company=None))]
        if (company := view.value("company"))
        else [],
        "releasable": releasable,
        "runs": runs,
        "doors": {code: t(words) for code, words in labels.DOOR.items()},
        "sees_all": sees_all,
        "can_import": can_import,
        "open_upload": open_upload,
        "faults": {run.id: kept_lines(run.problems[:20], pages.language(request)) for run in runs},
        "visitor_id": visitor.principal_id,
        "is_releasing": any(stop.group.approved for stop in stops),
        "error": error,
    }
    return pages.render(request, "sources.html", context, status, session_id=visitor.session_id)
