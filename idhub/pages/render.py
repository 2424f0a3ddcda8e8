"""Rendering: a template, its language, its theme, its headers."""

import re
import secrets
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from gettext import GNUTranslations
from pathlib import Path
from typing import Any, TypeVar, cast
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


@dataclass(frozen=True, slots=True)
class _KeptPage:
    """A page without its visitor: text, and the names of the values that stand between it."""

    pieces: list[str | bytes]
    headers: tuple[tuple[bytes, bytes], ...]


Composed = tuple[Mapping[str, Any], tuple[str, ...]]
About = TypeVar("About", bound=Hashable)


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
        self._kept: dict[tuple[object, ...], _KeptPage] = {}
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

    def translator(self, request: Request) -> Callable[[str], str]:
        """`gettext` for sentences of this request that have nothing to fill in."""
        return partial(self.gettext, request)

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
        browser_token: str | None = None,
    ) -> HTMLResponse:
        """An HTML page in the language and theme of the request, with every header that protects it.

        The template sees `context` and: `_`, `ngettext`, `lang`, `theme`, `fmt` (Formatter), `asset(name)`,
        `csrf_token`, `here` (path and query of this page), `now`, `request_id`, `site_name`, `issuer`.

        Args:
            session_id: of the signed-in person; form tokens are bound to it. None binds them to the `browser`
                cookie, which is set here when the browser has none.
            form_action, frame_src: see `content_security_policy`.
            browser_token: of the `browser` cookie that is set here when the browser has none; None: a new one.
        """
        binding = self.binding(request, session_id)
        fresh_browser = "" if binding else browser_token or new_browser_token()
        language = self.language(request)
        values: dict[str, Any] = {
            "here": local_address(request),
            "csrf_token": self.csrf.token(binding or f"browser:{fresh_browser}"),
            "request_id": getattr(request.state, "request_id", ""),
            **context,
        }
        body = self._rendered(language, self.theme(request), template, values)
        ours = _page_headers(language, personal, tuple(form_action), tuple(frame_src))
        return self._page(request, body, ours, status, headers, fresh_browser)

    def render_kept(
        self,
        request: Request,
        template: str,
        about: About,
        compose: Callable[[Language, About], Composed],
        own: Mapping[str, str],
        status: int = 200,
        *,
        headers: Mapping[str, str] | None = None,
        browser_token: str | None = None,
    ) -> HTMLResponse:
        """What `render` makes of a personal page, made once for everybody and completed for each visitor.

        What is kept knows `about`, the language and the theme, for `compose` is told nothing else; it never has a value
        of one visitor in it. Some hundred pages are kept, whatever is asked for.

        Args:
            about: what decides what the page shows, the same for many; nobody's own.
            compose: the template's context but `own`, and `form_action`. A function of what it is told alone.
            own: the visitor's values, which the template shows as they are (with `csrf_token`, `request_id` and `here`,
                which has to be among them) or leaves out where they are empty. With what would have to be escaped, the
                page is rendered for this visitor alone.
            headers, browser_token: as of `render`.
        """
        binding = self.binding(request, None)
        fresh_browser = "" if binding else browser_token or new_browser_token()
        language, theme = self.language(request), self.theme(request)
        values = {
            **own,
            "csrf_token": self.csrf.token(binding or f"browser:{fresh_browser}"),
            "request_id": request.scope.get("state", {}).get("request_id", ""),
        }
        if _UNESCAPED.fullmatch("".join(values.values())):
            # Whether a value is there decides what the page shows; which one it is does not.
            shown = tuple([name for name, value in values.items() if value])
            key = template, language, theme, shown, about
            page = self._kept.get(key) or self._keep(key, language, theme, template, compose(language, about), values)
            body = b"".join([one if isinstance(one, bytes) else values[one].encode() for one in page.pieces])
            return self._page(request, body, page.headers, status, headers, fresh_browser)
        context, form_action = compose(language, about)
        text = self._rendered(language, theme, template, {**context, **values})
        ours = _page_headers(language, True, form_action, ())
        return self._page(request, text, ours, status, headers, fresh_browser)

    def _keep(
        self,
        key: tuple[object, ...],
        language: Language,
        theme: str,
        template: str,
        composed: Composed,
        names: Mapping[str, str],
    ) -> _KeptPage:
        """Render a page with marks in the places of its visitor's values, of which only being empty is looked at."""
        context, form_action = composed
        marks = {name: f"{_MARK}{name}{_MARK}" if value else "" for name, value in names.items()}
        text = self._rendered(language, theme, template, {**context, **marks})
        # Text and the name of what stands behind it, in turn; text at the end.
        parts: list[str] = re.split(f"{_MARK}({'|'.join(names)}){_MARK}", text)
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        pieces: list[str | bytes] = [one if place % 2 else one.encode() for place, one in enumerate(parts)]
        page = self._kept[key] = _KeptPage(pieces, _page_headers(language, True, form_action, ()))
        return page

    def _rendered(self, language: Language, theme: str, template: str, values: Mapping[str, Any]) -> str:
        always = {"theme": theme, "now": datetime.now(UTC), "frame": None}
        return self._environments[language].get_template(template).render({**always, **values})

    def _page(
        self,
        request: Request,
        body: str | bytes,
        ours: tuple[tuple[bytes, bytes], ...],
        status: int,
        headers: Mapping[str, str] | None,
        fresh_browser: str,
    ) -> HTMLResponse:
        response = HTMLResponse(body, status_code=status, headers=headers)
        if headers:
            names = {name for name, _ in ours}
            response.raw_headers = [one for one in response.raw_headers if one[0] not in names]
        response.raw_headers += ours
        # What another site posts must not replace the cookie that the browser has and did not send (SameSite).
        if fresh_browser and not self.csrf.is_foreign_form(request):
            set_browser_cookie(response, self._prefix, fresh_browser, is_secure=self._is_https)
        return response

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
