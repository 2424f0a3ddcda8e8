"""Onboarding, moving and rehiring in a real browser: with script and without, both themes and languages, on phones."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Served, Visit, open_visit

SCREENSHOTS = Path("build/screenshots")
HR = "沈佳宁"
LOOKS = [("zh-CN", "light"), ("en", "dark")]  # no colour depends on the language, no word on the theme


def _fill(page: Page, **changes: str) -> None:
    values = {
        "display_name": "陈雨桐", "family_name": "Chen", "given_name": "Yutong", "email": "chen.yutong@qiyue.example",
        "mobile": "13800138111", "employee_number": "QY-0900001", "department": "研发中心/底盘开发部",
        "title": "底盘工程师", "manager": "魏东来", "start_date": "2026-12-01", **changes,
    }  # fmt: skip
    for name, value in values.items():
        if page.locator(f"#f-{name}").count():
            page.locator(f"#f-{name}").fill(value)
    page.locator("#f-company").select_option("QYC")


def _form(page: Page) -> None:
    """As it is opened."""


def _preview(page: Page) -> None:
    _fill(page)
    page.locator('[data-test="preview"]').click()
    expect(page.locator('[data-test="preview-badge"]')).to_be_visible()


def _errors(page: Page) -> None:
    _fill(page, email="nobody", start_date="")
    page.locator('[data-test="preview"]').click()
    expect(page.locator('[data-test="errors"]')).to_be_focused()


def _move(page: Page) -> None:
    page.locator("#f-company").select_option("QYM")
    page.locator("#f-department").fill("智能座舱部")
    page.locator('[data-test="preview"]').click()
    expect(page.locator('[data-test="preview-badge"]')).to_be_visible()


PAGES: dict[str, tuple[Callable[[Served], str], Callable[[Page], None]]] = {
    "onboard": (lambda s: "/hr/people/new", _form),
    "onboard-errors": (lambda s: "/hr/people/new", _errors),
    "onboard-preview": (lambda s: "/hr/people/new", _preview),
    "move": (lambda s: f"/hr/people/{s.hub.people['郑可欣']}/move", _form),
    "move-preview": (lambda s: f"/hr/people/{s.hub.people['郑可欣']}/move", _move),
    "rehire": (lambda s: f"/hr/people/{s.hub.people[s.story.LEAVER]}/rehire", _form),
}


def _narrow(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.parametrize(("language", "theme"), LOOKS)
@pytest.mark.parametrize("name", PAGES)
def test_page_is_accessible_and_keeps_the_policy(
    browser: Browser, served: Served, name: str, language: str, theme: str
) -> None:
    path, prepare = PAGES[name]
    visit = open_visit(browser, served, HR, language=language, theme=theme)
    try:
        page = visit.open(path(served))
        prepare(page)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}-{language}-{theme}-desktop.png")
        assert visit.axe() == []
        _narrow(page)
        page.set_viewport_size({"width": 390, "height": 844})
        page.screenshot(path=SCREENSHOTS / f"{name}-{language}-{theme}-phone.png", full_page=True)
        assert visit.axe() == []
        _narrow(page)
        page.set_viewport_size({"width": 320, "height": 700})
        _narrow(page)
        assert visit.complaints == []
    finally:
        visit.context.close()


def _onboard(visit: Visit, number: str, name: str) -> None:
    page = visit.open("/hr/people")
    page.locator('[data-test="onboard"]').click()
    _fill(page, employee_number=number, display_name=name)
    page.locator('[data-test="preview"]').click()
    expect(page.locator('[data-test="standing"]')).to_have_text("Staged")
    page.locator('[data-test="confirm"]').click()
    page.wait_for_url("**/hr/people/per_*")
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    assert visit.complaints == []


@pytest.mark.parametrize(("script", "number", "name"), [(True, "QY-1001", "秦悦"), (False, "QY-1002", "唐宁")])
def test_onboarding_from_the_list_to_the_person(
    browser: Browser, served: Served, script: bool, number: str, name: str
) -> None:
    visit = open_visit(browser, served, HR, language="en", script=script)
    try:
        _onboard(visit, number, name)
    finally:
        visit.context.close()


def test_details_can_be_changed_after_the_preview(browser: Browser, served: Served) -> None:
    visit = open_visit(browser, served, HR, language="en")
    try:
        page = visit.open("/hr/people/new")
        _fill(page, employee_number="QY-1003")
        page.locator('[data-test="preview"]').click()
        page.get_by_text("Details entered").click()
        page.locator("#f-title").fill("总工程师")
        page.locator('[data-test="confirm"]').click()
        expect(page.get_by_role("alert")).to_contain_text("has changed since you read it")
        expect(page.get_by_text("总工程师", exact=True)).to_be_visible()
    finally:
        visit.context.close()


def test_a_manager_is_found_while_typing_by_keyboard_alone(browser: Browser, served: Served) -> None:
    visit = open_visit(browser, served, HR, language="en")
    try:
        page = visit.open("/hr/people/new")
        manager = page.get_by_role("combobox", name="Manager")
        manager.press_sequentially("wdl")
        expect(page.locator(".pick-list [role=option]")).to_have_count(1)
        assert manager.get_attribute("aria-expanded") == "true"
        assert visit.axe() == []
        manager.press("ArrowDown")
        manager.press("Enter")
        assert manager.input_value().startswith("QYC/QY-")
        assert page.url.endswith("/hr/people/new")
        expect(page.locator(".pick-list").last).to_be_hidden()
        assert visit.complaints == []
    finally:
        visit.context.close()


@pytest.mark.parametrize("script", [True, False])
def test_a_number_of_somebody_who_left_leads_to_the_rehire(browser: Browser, served: Served, script: bool) -> None:
    visit = open_visit(browser, served, HR, language="en", script=script)
    try:
        page = visit.open(f"/hr/people/{served.hub.people[served.story.LEAVER]}/rehire")
        number = page.locator("#f-employee_number").input_value()
        page = visit.open("/hr/people/new")
        _fill(page, employee_number=number)
        page.locator('[data-test="preview"]').click()
        expect(page.locator('[data-test="rehire-offer"]')).to_contain_text(served.story.LEAVER)
        page.locator('[data-test="rehire"]').click()
        expect(page.locator('[data-test="rehire-note"]')).to_contain_text("Nothing from before works again.")
        expect(page.locator('[data-test="confirm"]')).to_be_visible()
        assert visit.complaints == []
    finally:
        visit.context.close()


@pytest.mark.parametrize(("script", "title"), [(True, "首席质量工程师"), (False, "质量总监")])
def test_moving_from_the_person_and_back(browser: Browser, served: Served, script: bool, title: str) -> None:
    visit = open_visit(browser, served, HR, language="en", script=script)
    try:
        page = visit.open(f"/hr/people/{served.hub.people['马诗涵']}")
        page.locator('[data-test="move"]').click()
        page.locator("#f-title").fill(title)
        page.locator('[data-test="preview"]').click()
        expect(page.locator('[data-test="kept"]')).to_have_text("6")
        page.locator('[data-test="confirm"]').click()
        page.wait_for_url("**/hr/people/per_*")
        expect(page.locator(".sub").first).to_contain_text(title)
        assert visit.complaints == []
    finally:
        visit.context.close()
