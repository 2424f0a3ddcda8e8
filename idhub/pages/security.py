"""Headers of every page, protection of every form, and the addresses a page may send a browser back to."""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from idhub.entropy import random_bytes
from idhub.errors import NotPermitted

_MAX_PATH = 2048
_NONCE_CHARACTERS = 22
# RFC 8252 section 7.1: a domain name in reverse; never `javascript:`, `data:` or the like, which have no dot.
_PRIVATE_SCHEME = re.compile(r"[a-z][a-z0-9+-]*(?:\.[a-z0-9+-]+)+")
_SAFE_FETCH_SITES = frozenset({"same-origin", "none"})


def content_security_policy(*, form_action: Iterable[str] = (), frame_src: Iterable[str] = ()) -> str:
    """The policy of a page: nothing but what the hub itself serves, no inline script or style, never framed.

    Args:
        form_action: addresses where a form of this page may end after redirects (sign-in, consent, logout): web
            origins, or of installed applications their private scheme (RFC 8252 section 7.1).
        frame_src: origins that the logout page tells by front channel.
    """
    forms = " ".join(["'self'", *sorted({form_target(url) for url in form_action})])
    directives = [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        f"form-action {forms}",
    ]
    frames = sorted({_origin(url) for url in frame_src})
    if frames:
        directives.append("frame-src " + " ".join(frames))
    return "; ".join(directives)


def form_target(url: str) -> str:
    """What a policy calls the place where a form may end: an origin, or the scheme of an installed application.

    Raises:
        ValueError: neither.
    """
    scheme = url.partition(":")[0]
    return f"{scheme}:" if _PRIVATE_SCHEME.fullmatch(scheme) and scheme != url else _origin(url)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or any(c in parts.netloc for c in " ;,'\"@"):
        raise ValueError("a policy names http or https origins only")
    return f"{parts.scheme}://{parts.netloc}"


def security_headers(
    *, personal: bool, form_action: Iterable[str] = (), frame_src: Iterable[str] = ()
) -> dict[str, str]:
    """Headers of an HTML response. `personal` pages are never kept by any cache."""
    return {
        "Content-Security-Policy": content_security_policy(form_action=form_action, frame_src=frame_src),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store" if personal else "no-cache",
    }


_EVERYWHERE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # What is no page runs nothing and is framed by nobody, should a browser ever be made to show it.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")


def add_missing_headers(headers: list[tuple[bytes, bytes]], *, is_https: bool) -> None:
    """Give an answer what every one carries and this one did not say itself; with an https issuer HSTS (RFC 6797)."""
    said = {name for name, _ in headers}
    every = (*_EVERYWHERE, _TRANSPORT) if is_https else _EVERYWHERE
    headers += [header for header in every if header[0] not in said]


class SecurityHeaders:
    """ASGI middleware: `add_missing_headers` for every answer that passes it, whoever gave it."""

    def __init__(self, app: ASGIApp, *, is_https: bool) -> None:
        self._app = app
        self._is_https = is_https

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                add_missing_headers(headers, is_https=self._is_https)
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, complete)


def safe_local_path(value: str | None, default: str = "/") -> str:
    """`value` if it is a path on this hub and nothing else, otherwise `default`.

    Refused: another host in any spelling (`//e`, `/\\e`, `/%09/e`, `https:e`), control characters, back-slashes,
    addresses longer than 2,048 characters.
    """
    if not value or len(value) > _MAX_PATH or not value.startswith("/"):
        return default
    decoded = unquote(value)
    for text in (value, decoded, unquote(decoded)):
        if "\\" in text or not text.isprintable() or text.startswith("//"):
            return default
        if "".join(text.split()).startswith("//"):
            return default
    try:
        parts = urlsplit(value)
    except ValueError:
        return default
    return default if parts.scheme or parts.netloc else value


class CsrfGuard:
    """Tokens that bind a form to the browser it was given to, and the checks of a request that changes something.

    A token is a nonce and its HMAC over the binding: the session's id for a signed-in person, otherwise the value of
    the `browser` cookie, so that nobody can be signed in to somebody else's account by a forged form either.
    """

    def __init__(self, secret: bytes, issuer: str) -> None:
        if len(secret) < hashlib.sha256().digest_size:
            raise ValueError("the secret of form tokens has at least 32 bytes")
        # Begun once: `hmac.digest` would let another thread have the interpreter for each.
        self._begun = hmac.new(secret, b"csrf\0", "sha256")
        parts = urlsplit(issuer)
        self._origin = f"{parts.scheme}://{parts.netloc}"

    def token(self, binding: str) -> str:
        """A fresh token for this binding. Every page gets its own, so that compression leaks nothing."""
        nonce = base64.urlsafe_b64encode(random_bytes(16)).rstrip(b"=").decode()
        return f"{nonce}.{self._mac(binding, nonce)}"

    def is_valid(self, token: str, binding: str) -> bool:
        """Whether the token was given out for this binding."""
        nonce, _, mac = token.partition(".")
        if not binding or len(nonce) != _NONCE_CHARACTERS or not token.isascii():
            return False
        return hmac.compare_digest(mac, self._mac(binding, nonce))

    def check(self, request: Request, token: str, binding: str) -> None:
        """Refuse a request that another site made, or whose form this browser was not given.

        Raises:
            NotPermitted: rule `csrf.cross_site` or `csrf.token`.
        """
        self.check_site(request)
        if not self.is_valid(token, binding):
            raise NotPermitted(
                "The page was open too long or came from another browser window. Reload it and try again.",
                field="csrf_token",
                rule="csrf.token",
            )

    def is_foreign_form(self, request: Request) -> bool:
        """Whether another site's form made the request: it comes without the cookies that the browser may well have."""
        if request.method != "POST":
            return False
        try:
            self.check_site(request)
        except NotPermitted:
            return True
        return False

    def check_site(self, request: Request) -> None:
        """Refuse a request that the browser says another site made.

        Raises:
            NotPermitted: rule `csrf.cross_site`.
        """
        site = request.headers.get("sec-fetch-site")
        if site is not None and site not in _SAFE_FETCH_SITES:
            raise NotPermitted("The request came from another site. Nothing was changed.", rule="csrf.cross_site")
        # The Origin that counts is the issuer's: the Host header is the caller's word. Our own forms send `null`,
        # because their pages say `no-referrer` (Fetch, "append a request Origin header"); the token decides then.
        origin = request.headers.get("origin", "null")
        if origin not in {"null", self._origin}:
            raise NotPermitted("The request came from another site. Nothing was changed.", rule="csrf.cross_site")

    def _mac(self, binding: str, nonce: str) -> str:
        mac = self._begun.copy()
        mac.update(f"{binding}\0{nonce}".encode())
        return mac.hexdigest()
