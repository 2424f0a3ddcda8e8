"""A browser without JavaScript: follows redirects, keeps cookies, fills in forms. Drives the real pages."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from types import TracebackType
from urllib.parse import urljoin, urlsplit

import httpx2

_TIMEOUT_SECONDS = 30
_VOID_TEXT = {"script", "style", "template"}


@dataclass
class Form:
    """A form as it stands on the page: fields with the values that submitting untouched would send."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)

    def named(self, kind: str) -> list[str]:
        """Names of the fields of an input type, in order."""
        return [name for name, found in self.types.items() if found == kind]


@dataclass(frozen=True)
class Page:
    """An answer that a person would look at."""

    url: str
    status: int
    html: str
    forms: list[Form]
    text: str
    visited: list[str]

    @property
    def path(self) -> str:
        """Path of the address shown."""
        return urlsplit(self.url).path

    def form(self, wanted: Callable[[Form], bool]) -> Form | None:
        """The first form that fits."""
        return next((form for form in self.forms if wanted(form)), None)

    @property
    def login_form(self) -> Form | None:
        """The form that asks for `username` and `password`, where the page has one."""
        return self.form(lambda form: {"username", "password"} <= form.fields.keys())


class _PageParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.forms: list[Form] = []
        self.words: list[str] = []
        self._form: Form | None = None
        self._area: str | None = None
        self._select: str | None = None
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in _VOID_TEXT:
            self._silent += 1
        if tag == "form":
            self._form = Form(given.get("action", ""), given.get("method", "get").lower())
            self.forms.append(self._form)
        elif self._form is not None and "disabled" not in given:
            self._control(tag, given, self._form)

    def _control(self, tag: str, given: Mapping[str, str], form: Form) -> None:
        name, value = given.get("name", ""), given.get("value", "")
        if tag == "option" and self._select:
            if "selected" in given or self._select not in form.fields:
                form.fields[self._select] = value
            return
        if tag == "select":
            self._select = name
        if not name:
            return
        kind = given.get("type", "submit" if tag == "button" else "text").lower() if tag in {"input", "button"} else tag
        if kind in {"submit", "image"}:
            form.buttons.append((name, value))
        elif kind in {"button", "reset", "file"}:
            return
        elif kind in {"checkbox", "radio"}:
            form.types.setdefault(name, kind)
            if "checked" in given:
                form.fields[name] = value or "on"
        elif tag in {"input", "textarea"}:
            form.types.setdefault(name, kind)
            form.fields[name] = value
            self._area = name if tag == "textarea" else None

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID_TEXT:
            self._silent = max(0, self._silent - 1)
        if tag == "form":
            self._form = None
        elif tag == "textarea":
            self._area = None
        elif tag == "select":
            self._select = None

    def handle_data(self, data: str) -> None:
        if self._area and self._form is not None:
            self._form.fields[self._area] += data
        elif not self._silent:
            self.words.append(data)


class Browser:
    """One person's browser. Cookies follow the host and ignore the port, as in every browser (RFC 6265 section 8.5)."""

    def __init__(self, *, language: str = "zh-CN", transport: httpx2.BaseTransport | None = None) -> None:
        self._client = httpx2.Client(
            transport=transport,
            follow_redirects=True,
            timeout=_TIMEOUT_SECONDS,
            headers={"accept": "text/html", "accept-language": language, "user-agent": "idhub-demo (no JavaScript)"},
        )

    def get(self, url: str) -> Page:
        """Open an address."""
        return self._page(self._client.get(url))

    def submit(
        self,
        page: Page,
        form: Form,
        values: Mapping[str, str] | None = None,
        *,
        button: str = "",
        files: Mapping[str, tuple[str, bytes]] | None = None,
    ) -> Page:
        """Send a form with `values` over its own; `button` names the button pressed, by its name or its value.

        `files` are chosen by name of the field: the file's name and what is in it.
        """
        data = {**form.fields, **(values or {})}
        for name, value in form.buttons:
            if button in {name, value}:
                data[name] = value
                break
        target = urljoin(page.url, form.action)
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(page.url))
        if form.method == "get":
            return self._page(self._client.get(target, params=data))
        headers = {"origin": origin, "referer": page.url}
        return self._page(self._client.post(target, data=data, files=files, headers=headers))

    def _page(self, response: httpx2.Response) -> Page:
        parser = _PageParser()
        if "html" in response.headers.get("content-type", ""):
            parser.feed(response.text)
        text = re.sub(r"\s+", " ", " ".join(parser.words)).strip()
        visited = [str(hop.url) for hop in response.history] + [str(response.url)]
        return Page(str(response.url), response.status_code, response.text, parser.forms, text, visited)

    @property
    def cookies(self) -> str:
        """The header `Cookie` as it goes to every address of this host."""
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self._client.cookies.jar)

    def close(self) -> None:
        """Close connections; cookies are forgotten."""
        self._client.close()

    def __enter__(self) -> "Browser":
        """Closed when the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
