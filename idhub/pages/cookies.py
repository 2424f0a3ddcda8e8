"""The hub's own cookies: how each is given, and the one that tells browsers apart before anybody has signed in.

`browser` binds sign-ins in progress and the forms of people who are not signed in to one browser.
"""

import base64
import re
from datetime import timedelta

from starlette.responses import Response

from idhub.entropy import random_bytes

BROWSER_COOKIE = "browser"
_BROWSER_LIFETIME = timedelta(hours=24)
_SHORTEST, _LONGEST = 16, 64
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")


def new_browser_token() -> str:
    """A value for the `browser` cookie: 256 random bits."""
    return base64.urlsafe_b64encode(random_bytes(32)).rstrip(b"=").decode()


def believed(value: str | None) -> str | None:
    """The value of a `browser` cookie if it can be one of ours; anything else is replaced."""
    if value is None or not _SHORTEST <= len(value) <= _LONGEST or not value.isascii():
        return None
    return value


def set_cookie(response: Response, name: str, value: str, *, is_secure: bool, lifetime: timedelta | None) -> None:
    """Give the browser a cookie that no script reads and no other site's form sends.

    Args:
        name: in full, with the installation's prefix.
        lifetime: None: until the browser is closed.
    """
    age = None if lifetime is None else int(lifetime.total_seconds())
    if not _PLAIN.fullmatch(value):
        response.set_cookie(name, value, max_age=age, path="/", secure=is_secure, httponly=True, samesite="lax")
        return
    # What the standard library makes of a value that needs no quotes, at a tenth of the cost.
    lasts = "" if age is None else f"; Max-Age={age}"
    _append(response, f"{name}={value}; HttpOnly{lasts}", is_secure=is_secure)


def drop_cookie(response: Response, name: str, *, is_secure: bool) -> None:
    """Take a cookie back, whether the browser has it or not."""
    _append(response, f'{name}=""; expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; Max-Age=0', is_secure=is_secure)


def _append(response: Response, cookie: str, *, is_secure: bool) -> None:
    line = f"{cookie}; Path=/; SameSite=lax{'; Secure' if is_secure else ''}"
    response.raw_headers.append((b"set-cookie", line.encode("latin-1")))


def set_browser_cookie(response: Response, prefix: str, value: str, *, is_secure: bool) -> None:
    """Give the browser its `browser` cookie."""
    set_cookie(response, prefix + BROWSER_COOKIE, value, is_secure=is_secure, lifetime=_BROWSER_LIFETIME)
