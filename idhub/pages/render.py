"""Rendering: a template, its language, its theme, its headers."""

import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from gettext import GNUTranslations
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined
from jinja2.bccache import Bucket
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from idhub.pages.assets import Assets
from idhub.pages.cookies import BROWSER_COOKIE, believed, new_browser_token, set_browser_cookie, set_cookie
from idhub.pages.formats import Formatter
from idhub.pages.language import LANGUAGES, Language, load_translations, negotiate_language
from idhub.pages.security import CsrfGuard, security_headers
from idhub.settings import Settings

_WEB = Path(__file__).resolve().parent.parent / "web"
THEMES = ("auto", "light", "dark")
_YEAR = timedelta(days=365)
_PATH_CHARACTERS = "/:@!$&'()*+,;=~"
# The same in HTML, escaped or not.
_UNESCAPED = re.compile(r"[A-Za-z0-9_.~/?=:-]*")
# No page can hold it by itself: it is made anew in each process and nobody is told.
_MARK = f"kept{secrets.token_hex(16)}"
_MOST_KEPT = 256


class _CompiledOnce(BytecodeCache):
    """Compiled templates of this process: every language runs the same code."""

    def __init__(self) -> None:
        self._code: dict[str, Any] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Take what was compiled from this very source."""
        bucket.code = self._code.get(bucket.key + bucket.checksum)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep what was compiled."""
        self._code[bucket.key + bucket.checksum] = bucket.code


_compiled = _CompiledOnce()


class Pages:
    """Renders every page of the hub. One a process; safe for threads."""

    def __init__(self, settings: Settings, csrf_secret: bytes, *, folder: Path = _WEB) -> None:
        self.issuer = settings.issuer
        self.assets = Assets(folder / "static")
        self.csrf = CsrfGuard(csrf_secret, settings.issuer)
        self._prefix = settings.cookie_prefix
        self._is_https = settings.is_https
        self._site_name = settings.login_name
        self._translations: dict[Language, GNUTranslations] = {
            language: load_translations(folder / "locale", language) for language in LANGUAGES
        }
        self._formatters = {
            language: Formatter(language, settings.time_zone, self._translations[language]) for language in LANGUAGES
        }
        self._kept: dict[tuple[object, ...], list[str | bytes]] = {}
        self._environments = {language: self._environment(folder / "templates", language) for language in LANGUAGES}

    def _environment(self, templates: Path, language: Language) -> Environment:
        environment = Environment(
            loader=FileSystemLoader(templates),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            bytecode_cache=_compiled,
            extensions=["jinja2.ext.i18n"],
        )
        translations = self._translations[language]
        # The i18n extension adds this method; jinja2 does not declare it.
        cast(Any, environment).install_gettext_callables(
            translations.gettext,
            translations.ngettext,
            newstyle=True,
            pgettext=translations.pgettext,
            npgettext=translations.npgettext,
        )
        environment.globals.update(
            asset=self.assets.url,
            fmt=self._formatters[language],
            lang=language,
            site_name=self._site_name,
            issuer=self.issuer,
        )
        return environment

    # ------------------------------------------------------------------ choices of the person

    def cookie_name(self, name: str) -> str:
        """Full name of one of the hub's cookies."""
        return self._prefix + name

    def language(self, request: Request) -> Language:
        """The language of the answer to this request."""
        return negotiate_language(request.cookies.get(self.cookie_name("lang")), request.headers.get("accept-language"))

    def theme(self, request: Request) -> str:
        """`light` or `dark` where the person chose one, else `auto`: the system's."""
        theme = request.cookies.get(self.cookie_name("theme"), "auto")
        return theme if theme in THEMES else "auto"

    def formatter(self, request: Request) -> Formatter:
        """Formats in the language of this request."""
        return self._formatters[self.language(request)]

    def gettext(self, request: Request, message: str, **values: object) -> str:
        """A sentence in the language of this request, with its `%(name)s` filled in. Not escaped."""
        text = self._translations[self.language(request)].gettext(message)
        return text % values if values else text

    def set_choice(self, response: Response, name: str, value: str) -> None:
        """Remember a choice (`lang`, `theme`) in a cookie for a year."""
        set_cookie(response, self.cookie_name(name), value, is_secure=self._is_https, lifetime=_YEAR)

    # ------------------------------------------------------------------ forms

    def binding(self, request: Request, session_id: str | None) -> str:
        """What a form token of this browser is bound to: its session, else its `browser` cookie, else nothing."""
        if session_id:
            return f"session:{session_id}"
        value = believed(request.cookies.get(self.cookie_name(BROWSER_COOKIE)))
        return f"browser:{value}" if value else ""

    def check_form(self, request: Request, csrf_token: str, *, session_id: str | None = None) -> None:
        """Refuse a form that this browser was not given. `session_id` as when the form was rendered.

        Raises:
            NotPermitted: rule `csrf.cross_site` or `csrf.token`.
        """
        self.csrf.check(request, csrf_token, self.binding(request, session_id))

    # ------------------------------------------------------------------ responses

    def render(
        self,
        request: Request,
        template: str,
        context: Mapping[str, Any],
        status: int = 200,
        *,
        session_id: str | None = None,
        personal: bool = True,
        form_action: Iterable[str] = (),
        frame_src: Iterable[str] = (),
        headers: Mapping[str, str] | None = None,
        keep: Iterable[str] | None = None,
        browser_token: str | None = None,
    ) -> HTMLResponse:
        """An HTML page in the language and theme of the request, with every header that protects it.

        The template sees `context` and: `_`, `ngettext`, `lang`, `theme`, `fmt` (Formatter), `asset(name)`,
        `csrf_token`, `here` (path and query of this page), `now`, `request_id`, `site_name`, `issuer`.

        Args:
            session_id: of the signed-in person; form tokens are bound to it. None binds them to the `browser`
                cookie, which is set here when the browser has none.
            form_action, frame_src: see `content_security_policy`.
            keep: names of `context` whose values are short, are the caller's own and need no escaping (identifiers).
                The page is then rendered once for all their values, and kept for everybody whose remaining context
                is the same.
            browser_token: of the `browser` cookie that is set here when the browser has none; None: a new one.
        """
        binding = self.binding(request, session_id)
        fresh_browser = ""
        if not binding:
            fresh_browser = browser_token or new_browser_token()
            binding = f"browser:{fresh_browser}"
        language = self.language(request)
        values: dict[str, Any] = {
            "theme": self.theme(request),
            "here": local_address(request),
            "csrf_token": self.csrf.token(binding),
            "now": datetime.now(UTC),
            "request_id": getattr(request.state, "request_id", ""),
            "frame": None,
            **context,
        }
        body = self._body(language, template, values, keep=keep)
        response = HTMLResponse(body, status_code=status, headers=dict(headers or {}))
        ours = _page_headers(language, personal, tuple(form_action), tuple(frame_src))
        names = {name for name, _ in ours}
        response.raw_headers = [*(one for one in response.raw_headers if one[0] not in names), *ours]
        # What another site posts must not replace the cookie that the browser has and did not send (SameSite).
        if fresh_browser and not self.csrf.is_foreign_form(request):
            set_browser_cookie(response, self._prefix, fresh_browser, is_secure=self._is_https)
        return response

    def _body(
        self, language: Language, template: str, values: Mapping[str, Any], *, keep: Iterable[str] | None
    ) -> str | bytes:
        if keep is None:
            return self._environments[language].get_template(template).render(values)
        varying = {name: str(values[name]) for name in (*keep, "here", "csrf_token", "request_id")}
        if not all(_UNESCAPED.fullmatch(value) for value in varying.values()):
            return self._environments[language].get_template(template).render(values)
        rest = {name: value for name, value in values.items() if name not in varying and name != "now"}
        # Whether a value is there decides what the page shows; which one it is does not.
        shape = tuple(name for name, value in varying.items() if value)
        key = (language, template, shape, repr(sorted(rest.items(), key=lambda item: item[0])))
        pieces = self._kept.get(key)
        if pieces is None:
            marks = {name: f"{_MARK}{name}{_MARK}" if value else "" for name, value in varying.items()}
            body = self._environments[language].get_template(template).render({**values, **marks})
            # Text and the name of what stands behind it, in turn; text at the end.
            parts: list[str] = re.split(f"{_MARK}({'|'.join(varying)}){_MARK}", body)
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            pieces = self._kept[key] = [one if place % 2 else one.encode() for place, one in enumerate(parts)]
        encoded = {name: varying[name].encode() for name in shape}
        return b"".join([encoded[one] if isinstance(one, str) else one for one in pieces])

    def fragment(self, request: Request, template: str, context: Mapping[str, Any]) -> str:
        """A part of a page as text, for server-sent events. Same variables as `render`, without a form token."""
        values = {"theme": self.theme(request), "now": datetime.now(UTC), "frame": None, **context}
        return self._environments[self.language(request)].get_template(template).render(values)


@lru_cache(maxsize=512)
def _page_headers(
    language: Language, personal: bool, form_action: tuple[str, ...], frame_src: tuple[str, ...]
) -> tuple[tuple[bytes, bytes], ...]:
    """Headers of a page, as they stand on the wire."""
    said = security_headers(personal=personal, form_action=form_action, frame_src=frame_src)
    said |= {"Content-Language": language, "Vary": "Accept-Language, Cookie"}
    return tuple((name.lower().encode(), value.encode("latin-1")) for name, value in said.items())


def local_address(request: Request) -> str:
    """Path and query of a request. The Host header, which anybody may write, has no part in it."""
    query = request.scope["query_string"].decode("latin-1")
    return quote(request.scope["path"], safe=_PATH_CHARACTERS, errors="replace") + (f"?{query}" if query else "")


def create_pages(settings: Settings, csrf_secret: bytes) -> Pages:
    """Read templates, catalogues and static files, and return what renders them.

    Args:
        csrf_secret: at least 32 bytes, the same on every node of the installation.
    """
    return Pages(settings, csrf_secret)
