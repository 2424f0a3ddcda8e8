"""A page that is kept for everybody is the page that would have been rendered, and holds nothing of anybody."""

import html
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
from starlette.requests import Request
from starlette.responses import Response

from idhub.pages import Language, Pages, create_pages
from idhub.pages.render import Composed
from idhub.settings import Settings

_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')
_TEMPLATE = "login/sign_in.html"


class _About(NamedTuple):
    host: str = "hub.example"


def _composed(_language: Language, about: _About) -> Composed:
    context: dict[str, Any] = {
        "return_to": "", "application": None, "username": "", "remember": False, "signed_in_name": "", "errors": {},
        "providers": [("/login/federation/one", "One")], "host": about.host,
    }  # fmt: skip
    return context, ("https://app.example/callback",)


@pytest.fixture
def pages() -> Pages:
    return create_pages(Settings(), b"s" * 32)


def _request(visitor: str, **headers: str) -> Request:
    sent = {"cookie": f"idhub_browser=browser-of-visitor-{visitor}", "accept-language": "en", **headers}
    scope = {
        "type": "http", "method": "GET", "path": "/login", "query_string": f"transaction={visitor}".encode(),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in sent.items()],
    }  # fmt: skip
    return Request({**scope, "state": {"request_id": f"req_{visitor}"}})


def _own(transaction: str) -> Mapping[str, str]:
    return {"transaction": transaction, "here": f"/login?transaction={transaction}"}


def _kept(pages: Pages, request: Request, transaction: str, about: _About | None = None) -> Response:
    return pages.render_kept(request, _TEMPLATE, about or _About(), _composed, _own(transaction))


def _fresh(pages: Pages, request: Request, transaction: str) -> Response:
    context, form_action = _composed("en", _About())
    return pages.render(request, _TEMPLATE, {**context, **_own(transaction)}, form_action=form_action)


def _text(response: Response) -> str:
    return bytes(response.body).decode()


def _held(pages: Pages) -> str:
    """Everything that the kept pages are made of."""
    return repr(pages._kept)


@pytest.mark.parametrize("language", ["en", "zh-CN"])
@pytest.mark.parametrize("transaction", ["idh_tx_of_visitor", ""])
def test_a_kept_page_differs_in_nothing_but_what_is_each_visitors_own(
    pages: Pages, language: str, transaction: str
) -> None:
    for visitor in ("0", "1", "2"):
        request, own = _request(visitor, accept_language=language), transaction and transaction + visitor
        fresh, kept = _fresh(pages, request, own), _kept(pages, request, own)
        assert _TOKEN.sub("", _text(kept)) == _TOKEN.sub("", _text(fresh))
        assert sorted(kept.raw_headers) == sorted(fresh.raw_headers)
        tokens = set(_TOKEN.findall(_text(kept)))
        assert len(tokens) == 1
        pages.csrf.check(request, tokens.pop(), f"browser:browser-of-visitor-{visitor}")
    assert len(pages._kept) == 1


def test_two_browsers_get_their_own_values_and_not_the_others(pages: Pages) -> None:
    one, two = (_text(_kept(pages, _request(name), f"idh_tx_{name}")) for name in ("anna", "bert"))
    (token_one,), (token_two,) = ({*_TOKEN.findall(page)} for page in (one, two))
    assert one.replace("anna", "bert").replace(token_one, token_two) == two
    assert "bert" not in one
    assert "anna" not in two
    held = _held(pages)
    assert held.count("One") > 0
    assert not any(value in held for value in ("anna", "bert", token_one, token_two))


def test_a_new_browser_gets_the_token_of_its_own_cookie(pages: Pages) -> None:
    request = _request("0", cookie="")
    response = pages.render_kept(
        request, _TEMPLATE, _About(), _composed, _own("idh_tx_0"), browser_token="given-to-this-browser"
    )
    (token,) = {*_TOKEN.findall(_text(response))}
    pages.csrf.check(request, token, "browser:given-to-this-browser")
    assert response.headers["set-cookie"].startswith("idhub_browser=given-to-this-browser;")
    other = _kept(pages, request, "idh_tx_0").headers["set-cookie"]
    assert "given-to-this-browser" not in other
    assert "given-to-this-browser" not in _held(pages)


@pytest.mark.parametrize("hostile", ['"><script>', "a&b", "a'b", "%", "汉"])
def test_what_would_need_escaping_is_escaped_as_the_template_does_and_never_kept(pages: Pages, hostile: str) -> None:
    request = _request("0")
    kept = _text(_kept(pages, request, hostile))
    assert _TOKEN.sub("", kept) == _TOKEN.sub("", _text(_fresh(pages, request, hostile)))
    assert f'value="{html.escape(hostile)}"' in kept.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    assert pages._kept == {}


def test_what_is_the_same_for_many_is_escaped_too(pages: Pages) -> None:
    page = _text(_kept(pages, _request("0"), "idh_tx_0", _About(host='"><script>')))
    assert '"><script>' not in page
    assert "&gt;&lt;script&gt;" in page


def test_pages_of_different_context_are_kept_apart(pages: Pages) -> None:
    for host in ("one.example", "two.example"):
        assert host in _text(_kept(pages, _request("0"), "idh_tx_0", _About(host)))
    for theme in ("dark", "light"):
        cookie = f"idhub_browser=browser-of-visitor-0; idhub_theme={theme}"
        assert f'data-theme="{theme}"' in _text(_kept(pages, _request("0", cookie=cookie), "idh_tx_0"))
    shown = _text(_kept(pages, _request("0", accept_language="zh"), "idh_tx_0"))
    assert 'lang="zh-CN"' in shown


def test_few_pages_are_kept_whatever_a_caller_sends(pages: Pages) -> None:
    told: list[tuple[Any, ...]] = []

    def composed(language: Language, about: _About) -> Composed:
        told.append((language, about))
        return _composed(language, about)

    for number in range(40):
        cookie = f"idhub_browser=browser-of-visitor-{number}; idhub_theme=theme-{number}; idhub_lang=language-{number}"
        request = _request(str(number), cookie=cookie, accept_language=f"x-{number}, en;q=0.{number}")
        pages.render_kept(request, _TEMPLATE, _About(), composed, _own(f"idh_tx_{number}"))
    assert len(pages._kept) == len(told) <= 2
    most = 0
    for number in range(300):
        _kept(pages, _request("0"), "idh_tx_0", _About(f"host-{number}.example"))
        most = max(most, len(pages._kept))
    assert most == 256
