"""Reading pages as a browser without JavaScript would."""

import html
import re

from starlette.testclient import TestClient


def token_of(page: str) -> str:
    """The page's form token."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found, "the page has no form"
    return html.unescape(found[1])


def rows_of(page: str) -> list[str]:
    """`data-test` of every table row, in order."""
    return re.findall(r'<tr data-test="([^"]+)"', page)


def text_of(page: str, test: str) -> str:
    """Text of the element with this `data-test`."""
    found = re.search(rf'data-test="{re.escape(test)}"[^>]*>(.*?)</(?:span|p|dd|b|div)>', page, re.S)
    assert found, f"nothing is marked {test}"
    return html.unescape(re.sub(r"<[^>]+>", " ", found[1])).strip()


def links_of(page: str, rel: str) -> str | None:
    """Target of the link with this `rel`."""
    found = re.search(rf'rel="{rel}" href="([^"]+)"', page)
    return html.unescape(found[1]) if found else None


def post(client: TestClient, page_path: str, action: str, **fields: str) -> object:
    """Submit a form of a page with its token."""
    page = client.get(page_path)
    return client.post(action, data={"csrf_token": token_of(page.text), **fields})
