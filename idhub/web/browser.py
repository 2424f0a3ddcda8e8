"""What a request tells about its browser, and the cookies that signing in gives it."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from fastapi import Request, Response
from starlette.responses import RedirectResponse

from idhub.credentials.sessions import SignedIn, authenticate
from idhub.credentials.transactions import Transaction
from idhub.db import Database
from idhub.login.sign_in import Browser, Minted
from idhub.pages import N_, Pages, cookies, form_target
from idhub.web.services import WebServices
from idhub.web.visit import SESSION_COOKIE, address_of, request_id

DEVICE_COOKIE = "device"
ENDED_COOKIE = "ended"
"""Token of the session that was just ended in this browser: lets it see how its applications took it."""
_ENDED_LIFETIME = timedelta(minutes=10)
_MAX_COOKIE = 200

_SYSTEMS: Sequence[tuple[str, str, str]] = (
    ("HarmonyOS|OpenHarmony", "HarmonyOS", "device-mobile"),
    ("iPhone", "iPhone", "device-mobile"),
    ("iPad", "iPad", "device-mobile"),
    ("Android", "Android", "device-mobile"),
    ("Windows", "Windows", "device-desktop"),
    ("Mac OS X|Macintosh", "macOS", "device-desktop"),
    ("CrOS", "ChromeOS", "device-desktop"),
    ("Linux", "Linux", "device-desktop"),
)
# The order matters: nearly every browser also claims to be one of those below it.
_BROWSERS: Sequence[tuple[str, str]] = (
    ("DingTalk", "DingTalk"),
    ("wxwork", "WeCom"),
    ("Lark|Feishu", "Feishu"),
    ("MicroMessenger", "WeChat"),
    (r"Edg(e|A|iOS)?/", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/|FxiOS/", "Firefox"),
    ("Chrome/|CriOS/|Chromium/", "Chrome"),
    ("Safari/", "Safari"),
)


@dataclass(frozen=True, slots=True)
class DeviceName:
    """A user agent in words: `Edge · Windows`. `browser` and `system` are empty when unknown."""

    browser: str
    system: str
    icon: str

    def words(self, translate: Callable[[str], str]) -> str:
        """For a list of sessions."""
        known = [part for part in (self.browser, self.system) if part]
        return " · ".join(known) if known else translate(N_("Unknown device"))


def device_name(user_agent: str | None) -> DeviceName:
    """Which browser on which system; what the browser says of itself, so a help for recognition and no proof."""
    text = user_agent or ""
    browser = next((name for pattern, name in _BROWSERS if re.search(pattern, text)), "")
    for pattern, name, icon in _SYSTEMS:
        if re.search(pattern, text):
            return DeviceName(browser, name, icon)
    return DeviceName(browser, "", "world")


def browser_of(request: Request, services: WebServices) -> Browser:
    """The facts of a request that sign-in uses."""
    return Browser(
        address=address_of(request, services),
        user_agent=request.headers.get("user-agent"),
        device_token=cookie(request, services.pages, DEVICE_COOKIE),
        request_id=request_id(request),
    )


def cookie(request: Request, pages: Pages, name: str) -> str | None:
    """The value of one of the hub's cookies; None when absent or longer than any that the hub gives."""
    value = request.cookies.get(pages.cookie_name(name))
    return value if value and len(value) <= _MAX_COOKIE else None


def signed_in_as(database: Database, request: Request, pages: Pages, *, now: datetime) -> SignedIn | None:
    """Who is signed in in this browser, if anybody."""
    token = cookie(request, pages, SESSION_COOKIE)
    if token is None:
        return None
    with database.read() as session:
        return authenticate(session, token, now=now)


def set_cookie(
    response: Response, pages: Pages, name: str, value: str, *, is_secure: bool, lifetime: timedelta | None = None
) -> None:
    """Give the browser a cookie that no script reads and no other site's form sends; None: until it is closed."""
    cookies.set_cookie(response, pages.cookie_name(name), value, is_secure=is_secure, lifetime=lifetime)


def drop_cookie(response: Response, pages: Pages, name: str, *, is_secure: bool) -> None:
    """Take a cookie back."""
    cookies.drop_cookie(response, pages.cookie_name(name), is_secure=is_secure)


def give_session(response: Response, pages: Pages, minted: Minted, *, is_secure: bool) -> None:
    """The cookies of a sign-in."""
    set_cookie(response, pages, SESSION_COOKIE, minted.token, is_secure=is_secure)
    if minted.device_token is not None:
        set_cookie(
            response, pages, DEVICE_COOKIE, minted.device_token, is_secure=is_secure, lifetime=minted.device_lifetime
        )
    drop_cookie(response, pages, ENDED_COOKIE, is_secure=is_secure)


def take_session(response: Response, pages: Pages, token: str | None, *, is_secure: bool) -> None:
    """The cookies of a logout."""
    drop_cookie(response, pages, SESSION_COOKIE, is_secure=is_secure)
    if token is not None:
        set_cookie(response, pages, ENDED_COOKIE, token, is_secure=is_secure, lifetime=_ENDED_LIFETIME)


def form_targets(transaction: Transaction | None) -> tuple[str, ...]:
    """Where a form of this sign-in may end after redirects, for the page's policy (brief section 3)."""
    if transaction is None:
        return ()
    found = []
    for name in ("redirect_uri", "post_logout_redirect_uri", "service_url"):
        address = transaction.request.get(name)
        if not address:
            continue
        # What no policy can name is none of a registered client's addresses; the form then ends here.
        with suppress(ValueError):
            found.append(form_target(str(address)))
    return tuple(found)


def see_other(target: str) -> RedirectResponse:
    """On to another address after a form, by GET; kept by nobody."""
    response = RedirectResponse(target, status_code=303)
    response.headers["Cache-Control"] = "no-store"
    return response
