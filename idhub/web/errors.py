"""Error pages: what happened, whose move it is, the request's number. Never a stack trace, never the raw parameter."""

from starlette.requests import Request
from starlette.responses import Response

from idhub.errors import Conflict, IdhubError, Invalid, NotFound, NotPermitted, Unavailable
from idhub.pages import N_, Pages

_NOT_FOUND = N_("Not found, or you may not see it")
_NOT_FOUND_SENTENCE = N_("There is nothing at this address that you can open. Check the link, or ask whoever sent it.")
_CROSS_SITE = N_("This request did not come from this page")
_CROSS_SITE_SENTENCE = N_(
    "The page was open too long, or the request came from another site. Nothing was changed. Go back, reload the page "
    "and try again."
)
_CONFLICT = N_("This could not be done")
_UNAVAILABLE = N_("Not available at the moment")
_UNAVAILABLE_SENTENCE = N_("The hub is busy or one of its parts is down. Nothing was changed. Try again in a minute.")
_UNEXPECTED = N_("Something went wrong here")
_UNEXPECTED_SENTENCE = N_("The fault is ours. Nothing was changed. Tell the service desk the log number below.")


def render_error(pages: Pages, request: Request, error: IdhubError | None) -> Response:
    """The page for a domain error, or for an unexpected one (`None`).

    What is outside somebody's scope and what does not exist answer alike, so that nobody learns which it was.
    """
    status, title, sentence = 500, _UNEXPECTED, _UNEXPECTED_SENTENCE
    headers: dict[str, str] = {}
    if isinstance(error, NotPermitted) and (error.rule or "").startswith("csrf."):
        status, title, sentence = 403, _CROSS_SITE, _CROSS_SITE_SENTENCE
    elif isinstance(error, NotFound | NotPermitted):
        status, title, sentence = 404, _NOT_FOUND, _NOT_FOUND_SENTENCE
    elif isinstance(error, Conflict):
        status, title, sentence = 409, _CONFLICT, error.description
    elif isinstance(error, Invalid):
        status, title, sentence = 400, _CONFLICT, error.description
    elif isinstance(error, Unavailable):
        status, title, sentence = 503, _UNAVAILABLE, _UNAVAILABLE_SENTENCE
        headers["Retry-After"] = str(max(1, int(error.retry_after.total_seconds())))
    return pages.render(
        request,
        "error.html",
        {
            "title": pages.gettext(request, title),
            "sentence": pages.gettext(request, sentence),
            "next_step": "",
            "link": None,
        },
        status,
        headers=headers,
    )
