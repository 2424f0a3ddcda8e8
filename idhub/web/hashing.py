"""What pages that take a password share: the services they need, and their sentences."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol

from fastapi import Request, Response

from idhub.admission import Admission
from idhub.credentials.store import Store
from idhub.errors import Invalid, Unavailable
from idhub.login.passwords import HashingPool
from idhub.pages import N_, Language
from idhub.pages.render import Composed
from idhub.web.services import WebServices

OPEN_TOO_LONG = N_("This page was open too long. Enter your password again.")
TOO_MANY = N_("Too many tries. Try again in %(wait)s.")
_BUSY_TITLE = N_("Not signed in yet")
_BUSY = N_("Many people are signing in at this moment. Try again in %(wait)s; your password was not looked at.")
_POLICY: Mapping[str, str] = {
    "password.too_short": N_("The password needs at least %(minimum)s characters. Several words are easy to remember."),
    "password.too_long": N_("The password is too long."),
    "password.characters": N_("The password has characters that no keyboard types."),
    "password.common": N_("This password is among those that attackers try first. Choose another."),
    "password.context": N_(
        "The password contains the company's name or your own name, number, mail or mobile. Choose another."
    ),
}
_MAX_WAIT = timedelta(hours=1)


class LoginServices(WebServices, Protocol):
    """The part of `idhub.app.Services` that signing in uses."""

    @property
    def store(self) -> Store:
        """The narrow store: what every sign-in passes."""

    @property
    def hashing(self) -> HashingPool:
        """Where passwords are hashed and verified."""

    @property
    def admission(self) -> Admission:
        """How many sign-ins are worked on at once."""


def policy_sentence(services: WebServices, request: Request, refused: Invalid) -> str:
    """Why a password may not be used, in the language of the request."""
    sentence = services.pages.gettext(request, _POLICY[refused.rule or ""])
    if "%(minimum)s" in sentence:
        return sentence % {"minimum": services.settings.password_min_length}
    return sentence


def wait_words(services: WebServices, request: Request, sentence: str, wait: timedelta) -> tuple[str, dict[str, str]]:
    """A sentence that says how long to wait, and the header that says the same."""
    seconds = max(1, round(min(wait, _MAX_WAIT).total_seconds()))
    words = services.pages.formatter(request).duration(timedelta(seconds=seconds))
    return services.pages.gettext(request, sentence, wait=words), {"Retry-After": str(seconds)}


def busy_page(services: LoginServices, request: Request, busy: Unavailable, *, back: str) -> Response:
    """No room in the hashing queue. Asks no database and is put together from a page that is kept.

    It has no form: where a form's answer may lead is the transaction's, which nobody has looked up.

    Args:
        back: address of the page with the form.
    """
    sentence, headers = wait_words(services, request, _BUSY, busy.retry_after)
    title = services.pages.gettext(request, _BUSY_TITLE)
    about, own = (title, sentence), {"back": back, "here": back}
    return services.pages.render_kept(
        request, "login/busy.html", about, _busy_context, own, status=503, headers=headers
    )


def _busy_context(_language: Language, about: tuple[str, str]) -> Composed:
    return dict(zip(("title", "sentence"), about, strict=True)), ()
