"""The HR source in a real browser: accessible in both languages and themes, a yes, and a file with script or not."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from idhub.keys import MasterKey, load_keyring
from tests.browser.conftest import Served, open_visit
from tests.browser.test_pages import SCREENSHOTS
from tests.web.held import Held, plant
from tests.web.test_upload_pages import BROKEN, HEAD, work


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


@pytest.mark.parametrize(("script", "language", "theme"), [(True, "zh-CN", "light"), (False, "en", "dark")])
def test_file_is_previewed_and_brought_in(
    browser: Browser, served: Served, tmp_path: Path, script: bool, language: str, theme: str
) -> None:
    """With script the page follows what the worker does; without it, a button looks again."""
    file = tmp_path / "hr.csv"
    row = f"U-{language},新来的人,,,,,启岳乘用车,制造中心,,,regular,2026-01-05,,active"
    file.write_text(f"{HEAD}\n{row}\n{BROKEN}\n", "utf-8")
    visit = open_visit(browser, served, "沈佳宁", language=language, theme=theme, script=script)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)

    def look(name: str) -> None:
        page.set_viewport_size({"width": 1440, "height": 900})
        page.screenshot(path=SCREENSHOTS / f"upload-{name}-{language}-{theme}-desktop.png", full_page=True)
        if script:
            assert visit.axe() == []
        for width in (390, 320):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        page.screenshot(path=SCREENSHOTS / f"upload-{name}-{language}-{theme}-phone.png", full_page=True)

    def worked() -> None:
        assert work(served.hub)
        if not script:
            page.locator(".head .actions .btn").click()

    try:
        page = visit.open("/hr/sources")
        page.locator("[data-test=import]").click()
        page.locator("#f-file").set_input_files(file)
        page.locator("input[value=changes]").check()
        page.locator("[data-test=preview]").click()
        expect(page.locator("[data-test=working]")).to_be_visible()
        look("working")
        worked()
        expect(page.locator("[data-test=preview-badge]")).to_be_visible()
        expect(page.locator("[data-test=refused-rows] tbody tr")).to_have_count(3)
        look("preview")
        page.locator("[data-test=confirm]").click()
        expect(page.locator("[data-test=working]")).to_be_visible()
        expect(page.locator("[data-test=cancel]")).to_have_count(0)
        worked()
        expect(page.locator("[data-test=imported]")).to_be_visible()
        look("done")
        assert visit.complaints == []
    finally:
        visit.context.close()
