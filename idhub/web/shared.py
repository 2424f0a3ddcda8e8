"""Routes that every page needs: static files, and the choice of language and theme."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from idhub.errors import NotFound
from idhub.pages import LANGUAGES, safe_local_path
from idhub.pages.render import THEMES
from idhub.web.services import WebServices
from idhub.web.visit import page_router

_FOREVER = "public, max-age=31536000, immutable"


def create_router(services: WebServices) -> APIRouter:
    """Routes for `/static/...` and `/preferences`."""
    router = page_router(services)
    pages = services.pages

    @router.get("/static/{version}/{name:path}")
    def static_file(request: Request, version: str, name: str) -> Response:
        """A static file. An address of another version is answered, but not kept: its page is being replaced."""
        asset = pages.assets.find(name)
        if asset is None:
            raise NotFound("Not found.", rule="static")
        headers = {
            "Cache-Control": _FOREVER if version == pages.assets.version else "no-cache",
            "X-Content-Type-Options": "nosniff",
            "Vary": "Accept-Encoding",
        }
        if asset.gzipped is not None and "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            return Response(asset.gzipped, media_type=asset.media_type, headers=headers)
        return Response(asset.body, media_type=asset.media_type, headers=headers)

    @router.post("/preferences")
    def set_preferences(
        request: Request,
        language: Annotated[str, Form()] = "",
        theme: Annotated[str, Form()] = "",
        return_to: Annotated[str, Form()] = "/",
    ) -> Response:
        """Remember a language or theme in this browser and go back.

        Needs no form token, since it changes how pages look in this browser and nothing else; another site may not
        do even that.
        """
        pages.csrf.check_site(request)
        response = RedirectResponse(safe_local_path(return_to), status_code=303)
        if language in LANGUAGES:
            pages.set_choice(response, "lang", language)
        if theme in THEMES:
            pages.set_choice(response, "theme", theme)
        return response

    return router
