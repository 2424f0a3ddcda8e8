"""Rendering: headers, form tokens, language and theme of a page that needs no database."""

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi import FastAPI, Form, Request
from starlette.responses import Response
from starlette.testclient import TestClient

from idhub.credentials.journal import Journal
from idhub.errors import NotFound, NotPermitted
from idhub.pages import Pages, create_pages
from idhub.settings import Settings
from idhub.web import shared
from idhub.web.errors import render_error

SECRET = b"s" * 32
ORIGIN = "http://127.0.0.1:8000"


@dataclass
class _Services:
    pages: Pages
    settings: Settings
    journal: Journal
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))


class _NoStore:
    """A store that nothing is written to."""

    def on_flush(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Never calls back."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    return create_pages(Settings(issuer=ORIGIN, data_dir=tmp_path_factory.mktemp("data")), SECRET)


@pytest.fixture
def client(pages: Pages) -> Iterator[TestClient]:
    app = FastAPI()
    settings = Settings(issuer=ORIGIN)
    services = _Services(pages, settings, Journal(_NoStore()))  # type: ignore[arg-type]  # counts are not written
    app.include_router(shared.create_router(services))  # type: ignore[arg-type]  # no database: nobody is signed in

    @app.exception_handler(NotPermitted)
    def refuse(request: Request, error: NotPermitted) -> Response:
        return render_error(pages, request, error)

    @app.get("/error-page")
    def error_page(request: Request) -> Response:
        return render_error(pages, request, NotFound("no"))

    @app.get("/exception")
    def exception(request: Request) -> Response:
        return pages.render(
            request, "error.html", {"title": "t", "sentence": "s", "next_step": "", "link": None},
            form_action=["https://app.example/callback?x=1"], frame_src=["https://app.example:8443/fc"],
        )  # fmt: skip

    @app.post("/change")
    def change(request: Request, csrf_token: str = Form("")) -> Response:
        pages.check_form(request, csrf_token)
        return Response("changed")

    with TestClient(app, base_url=ORIGIN, follow_redirects=False) as started:
        yield started


def _token(html: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', html)
    assert found
    return found[1]


def test_a_page_carries_every_protecting_header(client: TestClient) -> None:
    response = client.get("/error-page")

    assert response.status_code == 404
    assert response.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
    )
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-store"


def test_named_exceptions_of_the_policy_are_origins_only(client: TestClient) -> None:
    policy = client.get("/exception").headers["content-security-policy"]

    assert "form-action 'self' https://app.example" in policy
    assert "callback" not in policy
    assert policy.endswith("frame-src https://app.example:8443")


def test_no_page_part_needs_an_exception_of_the_policy() -> None:
    pages = list((Path(__file__).parents[2] / "idhub/web/templates").rglob("*.html"))
    assert pages
    for path in pages:
        text = path.read_text("utf-8")
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|<script>", text), path


def test_a_form_with_its_token_is_accepted(client: TestClient) -> None:
    token = _token(client.get("/error-page").text)

    assert client.post("/change", data={"csrf_token": token}).text == "changed"


@pytest.mark.parametrize("origin", ["null", ORIGIN])
def test_our_own_origins_are_accepted(client: TestClient, origin: str) -> None:
    token = _token(client.get("/error-page").text)

    headers = {"origin": origin, "sec-fetch-site": "same-origin"}
    assert client.post("/change", data={"csrf_token": token}, headers=headers).status_code == 200


@pytest.mark.parametrize("token", ["", "x", "." * 100, "a" * 22 + "." + "0" * 64, "é.é"])
def test_a_form_without_its_token_is_refused(client: TestClient, token: str) -> None:
    client.get("/error-page")

    response = client.post("/change", data={"csrf_token": token})

    assert response.status_code == 403
    assert "没有改动任何数据" in response.text


def test_a_token_of_another_browser_is_refused(client: TestClient) -> None:
    token = _token(client.get("/error-page").text)
    client.cookies.clear()
    client.get("/error-page")

    assert client.post("/change", data={"csrf_token": token}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:9001"},
        {"origin": "null", "sec-fetch-site": "cross-site"},
    ],
)
def test_a_request_of_another_site_is_refused_even_with_the_token(client: TestClient, headers: dict[str, str]) -> None:
    """Security test T03: login and every other form refuse cross-site posts."""
    token = _token(client.get("/error-page").text)

    assert client.post("/change", data={"csrf_token": token}, headers=headers).status_code == 403
    assert client.post("/preferences", data={"language": "en"}, headers=headers).status_code == 403


def test_a_token_is_bound_to_the_session(pages: Pages) -> None:
    token = pages.csrf.token("session:ses_1")

    assert pages.csrf.is_valid(token, "session:ses_1")
    assert not pages.csrf.is_valid(token, "session:ses_2")
    assert not pages.csrf.is_valid(token, "")


def test_browser_cookie_is_http_only_and_lax(client: TestClient) -> None:
    cookie = client.get("/error-page").headers["set-cookie"]

    assert cookie.startswith("idhub_browser=")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie


def test_https_issuer_gives_host_cookies(tmp_path: Path) -> None:
    pages = create_pages(Settings(issuer="https://id.example", data_dir=tmp_path), SECRET)
    response = Response()

    pages.set_choice(response, "lang", "en")

    assert response.headers["set-cookie"].startswith("__Host-idhub_lang=en;")
    assert "Secure" in response.headers["set-cookie"]


@pytest.mark.parametrize(
    ("accept", "language"),
    [
        ("en-GB,en;q=0.9", "en"),
        ("zh-TW", "zh-CN"),
        ("fr", "zh-CN"),
        ("", "zh-CN"),
        ("en;q=0.4, zh;q=0.8", "zh-CN"),
        ("en;q=0", "zh-CN"),
        ("en;q=nonsense", "zh-CN"),
        ("de, en;q=0.7", "en"),
        ("," * 5000, "zh-CN"),
    ],
)
def test_language_follows_the_browser(client: TestClient, accept: str, language: str) -> None:
    response = client.get("/error-page", headers={"accept-language": accept})

    assert response.headers["content-language"] == language
    assert f'<html lang="{language}"' in response.text


def test_chosen_language_and_theme_win_and_go_back(client: TestClient) -> None:
    response = client.post("/preferences", data={"language": "en", "theme": "dark", "return_to": "/error-page?a=1"})

    assert response.status_code == 303
    assert response.headers["location"] == "/error-page?a=1"
    page = client.get("/error-page", headers={"accept-language": "zh"})
    assert '<html lang="en" data-theme="dark">' in page.text
    assert "Not found, or you may not see it" in page.text


def test_unknown_choices_are_ignored(client: TestClient) -> None:
    response = client.post("/preferences", data={"language": "xx", "theme": "<b>", "return_to": "//evil.example"})

    assert response.headers["location"] == "/"
    assert "set-cookie" not in response.headers


def test_static_files_are_kept_for_a_year_by_their_content(client: TestClient, pages: Pages) -> None:
    response = client.get(pages.assets.url("app.css"))

    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert response.headers["content-type"] == "text/css; charset=utf-8"
    assert client.get("/static/old/app.css").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", ["nothing.css", "../templates/base.html", "..%2f..%2fsettings.py", "", "app.css%00"])
def test_only_known_static_files_are_served(client: TestClient, pages: Pages, name: str) -> None:
    assert client.get(f"/static/{pages.assets.version}/{name}").status_code == 404


def test_values_are_escaped(pages: Pages) -> None:
    request = Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []})

    body = pages.render(
        request, "error.html",
        {"title": "<script>", "sentence": "a\u202eb<img src=x>", "next_step": "", "link": None},
    ).body  # fmt: skip

    text = bytes(body).decode()
    assert "<script>" not in text.replace("<script src", "")
    assert "<img" not in text


def test_secrets_of_form_tokens_are_long_enough(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        create_pages(Settings(issuer=ORIGIN, data_dir=tmp_path), b"short")
