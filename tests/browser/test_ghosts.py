"""The account match in a real browser: accessible in both languages and themes, and decided without script."""

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Served, open_visit
from tests.browser.test_pages import SCREENSHOTS
from tests.web.ghosts import plant

PATHS = {"ghosts": "/admin/ghosts", "ghost": "/admin/ghosts/{id}", "ghost-act": "/admin/ghosts/{id}/act?action=disable"}


@pytest.fixture(scope="package")
def planted(served: Served) -> dict[str, str]:
    return plant(served.hub)


@pytest.mark.parametrize(
    ("name", "subject", "language", "theme"),
    [
        ("ghosts", "", "zh-CN", "light"),
        ("ghosts", "", "en", "dark"),
        ("ghost", "lin.xiaowen", "en", "light"),
        ("ghost", "xu.haoran", "zh-CN", "dark"),
        ("ghost-act", "dev_test07", "zh-CN", "light"),
    ],
)
def test_page_is_accessible_and_keeps_the_policy(
    browser: Browser, served: Served, planted: dict[str, str], name: str, subject: str, language: str, theme: str
) -> None:
    visit = open_visit(browser, served, "高远", language=language, theme=theme)
    try:
        page = visit.open(PATHS[name].format(id=planted.get(subject, "")))
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}-{language}-{theme}-desktop.png")
        assert visit.axe() == []
        for width in (1440, 390, 320):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        page.screenshot(path=SCREENSHOTS / f"{name}-{language}-{theme}-phone.png")
        assert visit.complaints == []
    finally:
        visit.context.close()


def test_ghost_is_switched_off_without_script(browser: Browser, served: Served, planted: dict[str, str]) -> None:
    visit = open_visit(browser, served, "高远", language="en", script=False)
    try:
        page = visit.open("/admin/ghosts?class=ghost&q=bot07")
        page.get_by_role("link", name="bot07", exact=True).click()
        page.get_by_role("link", name="Preview: Switch account off").click()
        expect(page.get_by_text("nothing has been written")).to_be_visible()
        page.get_by_role("button", name="Switch account off").click()
        expect(page.locator("[data-test=state]")).to_have_text("Being seen to")
        assert page.url.endswith(planted["bot07"])
    finally:
        visit.context.close()
