"""A page that is kept for everybody is the page that would have been rendered."""

import re

from starlette.requests import Request

from idhub.pages import create_pages
from idhub.settings import Settings

_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')


def _request(query: str, cookie: str) -> Request:
    headers = [(b"cookie", cookie.encode()), (b"accept-language", b"en")]
    scope = {"type": "http", "method": "GET", "path": "/login", "query_string": query.encode(), "headers": headers}
    return Request({**scope, "state": {"request_id": "req_1"}})


def _context(transaction: str, *, host: str = "hub.example") -> dict[str, object]:
    return {
        "transaction": transaction, "return_to": "", "application": None, "username": "", "remember": False,
        "signed_in_name": "", "errors": {}, "providers": [], "host": host, "here": f"/login?transaction={transaction}",
    }  # fmt: skip


def test_a_kept_page_differs_in_nothing_but_what_is_each_visitors_own() -> None:
    pages = create_pages(Settings(), b"s" * 32)
    for number in range(3):
        transaction, browser = f"idh_tx_{number}", f"idhub_browser=browser-of-visitor-{number}"
        request = _request(f"transaction={transaction}", browser)
        fresh = bytes(pages.render(request, "login/sign_in.html", _context(transaction)).body).decode()
        kept = bytes(
            pages.render(request, "login/sign_in.html", _context(transaction), keep=("transaction",)).body
        ).decode()
        assert _TOKEN.sub("", kept) == _TOKEN.sub("", fresh)
        tokens = set(_TOKEN.findall(kept))
        assert len(tokens) == 1
        pages.csrf.check(request, tokens.pop(), f"browser:browser-of-visitor-{number}")
        assert transaction in kept


def test_what_would_need_escaping_is_never_spliced_into_a_kept_page() -> None:
    pages = create_pages(Settings(), b"s" * 32)
    hostile = '"><script>'
    request = _request("", "idhub_browser=browser-of-visitor-0")
    body = bytes(pages.render(request, "login/sign_in.html", _context(hostile), keep=("transaction",)).body).decode()
    assert hostile not in body


def test_pages_of_different_context_are_kept_apart() -> None:
    pages = create_pages(Settings(), b"s" * 32)
    request = _request("", "idhub_browser=browser-of-visitor-0")
    for host in ("one.example", "two.example"):
        context = _context("idh_tx_0", host=host)
        body = bytes(pages.render(request, "login/sign_in.html", context, keep=("transaction",)).body).decode()
        assert host in body
