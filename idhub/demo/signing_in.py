"""How a person gets in, through the real pages: first-sign-in link, sign-in form, consent."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from idhub.demo.browser import Browser, Page
from idhub.demo.narrator import StoryFailed

_MOST_PAGES = 6


@dataclass(frozen=True)
class SignedIn:
    """Where signing in ended, and whether a password was asked for on the way."""

    page: Page
    asked_for_password: bool


def set_first_password(browser: Browser, link: str, password: str) -> Page:
    """Open a one-time link and choose a password. Returns the page after it.

    Raises:
        StoryFailed: the link leads to no such form.
    """
    page = browser.get(link)
    form = page.form(lambda form: bool(form.named("password")) and "username" not in form.types)
    if form is None:
        raise StoryFailed(f"the one-time link shows no form for a password (HTTP {page.status}): {page.text[:300]}")
    return browser.submit(page, form, dict.fromkeys(form.named("password"), password))


def link_works(browser: Browser, link: str) -> bool:
    """Whether a one-time link still offers to choose a password."""
    page = browser.get(link)
    return page.form(lambda form: bool(form.named("password")) and "username" not in form.types) is not None


def sign_in(browser: Browser, start: str, username: str, password: str) -> SignedIn:
    """Open an address that asks for sign-in and do what the pages ask."""
    page = browser.get(start)
    asked = False
    for _ in range(_MOST_PAGES):
        form = page.login_form
        if form is not None and not asked:
            asked = True
            page = browser.submit(page, form, {"username": username, "password": password})
        elif form is None and urlsplit(page.url).path == "/consent" and page.forms:
            page = browser.submit(page, page.forms[-1], button="allow")
        else:
            break
    return SignedIn(page, asked)


def is_signed_in_at_hub(browser: Browser, hub_address: str) -> bool:
    """Whether the browser's session with the hub is alive: the portal shows instead of the sign-in form."""
    return browser.get(f"{hub_address}/").login_form is None
