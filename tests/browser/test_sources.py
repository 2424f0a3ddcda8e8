"""The HR source in a real browser: accessible in both languages and themes, and a yes without script."""

import pytest
from playwright.sync_api import Browser, expect

from idhub.keys import MasterKey, load_keyring
from tests.browser.conftest import Served, open_visit
from tests.browser.test_pages import SCREENSHOTS
from tests.web.held import Held, plant


@pytest.fixture(scope="package")
def held(served: Served) -> Held:
    hub = served.hub
    keyring = load_keyring(
        hub.database, MasterKey.load(hub.settings.effective_master_key_file, create=False), now=hub.clock()
    )
    return plant(hub, keyring, spare=("高远", "沈佳宁", "何慕青", "郑可欣"))


@pytest.mark.parametrize(("language", "theme"), [("zh-CN", "light"), ("en", "dark")])
def test_page_is_accessible_and_keeps_the_policy(
    browser: Browser, served: Served, held: Held, language: str, theme: str
) -> None:
    visit = open_visit(browser, served, "沈佳宁", language=language, theme=theme)
    try:
        page = visit.open("/hr/sources")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"sources-{language}-{theme}-desktop.png")
        assert visit.axe() == []
        for width in (1440, 390, 320):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        page.screenshot(path=SCREENSHOTS / f"sources-{language}-{theme}-phone.png")
        assert visit.complaints == []
    finally:
        visit.context.close()


def test_first_yes_is_said_without_script(browser: Browser, served: Served, held: Held) -> None:
    visit = open_visit(browser, served, "沈佳宁", language="en", script=False)
    try:
        page = visit.open("/hr/sources")
        page.get_by_role("button", name="Say yes").click()
        banner = page.locator(f"[data-test=held-{held.company}]")
        expect(banner).to_contain_text("You have said yes; a second person must.")
        expect(banner.get_by_role("button")).to_have_count(0)
    finally:
        visit.context.close()
