"""`/hr/pick/...`: what a search box offers while one types, at most 20 rows. The forms work without it."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from idhub.authority import Action
from idhub.web.queries_staffing import candidates, companies
from idhub.web.services import WebServices
from idhub.web.visit import page_router, require, visitor_of

_LONGEST = 100


def create_router(services: WebServices) -> APIRouter:
    """Routes of the pickers."""
    router = page_router(services)

    @router.get("/hr/pick/people")
    def people(request: Request, q: str = "") -> Response:
        """People whom the visitor may see: `value` names one exactly."""
        english = services.pages.language(request) == "en"
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=services.clock())
            require(session, visitor, Action.PEOPLE_CHANGE)
            found = candidates(session, visitor.subject, _typed(q))
        rows = []
        for one in found:
            company = (one.company_en or one.company) if english else one.company
            note = " · ".join(part for part in (company, one.title) if part)
            rows.append({"value": one.key, "label": one.display_name, "note": note})
        return _answer(rows)

    @router.get("/hr/pick/companies")
    def employers(request: Request, q: str = "") -> Response:
        """Companies in which the visitor may employ people."""
        english = services.pages.language(request) == "en"
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=services.clock())
            require(session, visitor, Action.PEOPLE_CHANGE)
            found = companies(session, visitor.subject, _typed(q))
        return _answer([{"value": one.code, "label": one.shown(english), "note": one.code} for one in found])

    return router


def _typed(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:_LONGEST]


def _answer(rows: list[dict[str, str]]) -> Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return JSONResponse({"rows": rows}, headers=headers)
