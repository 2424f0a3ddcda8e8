"""Every page in a real browser: accessibility, policy, both languages and themes, script on and off."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import select
from starlette.routing import Route

from idhub.access.applications import configure
from idhub.delivery.tables import Delivery
from idhub.provisioning.events.tables import EventStream
from idhub.web.routes import create_router
from tests.browser.conftest import Served, open_visit
from tests.web import test_stream_pages

SCREENSHOTS = Path("build/screenshots")
# Longer than any column: a name of it may go on in a second line, and must not push the last column away.
LONG_NAMES = ("Supplier portal for the plants of the southern region", "南方区域工厂及其服务伙伴与供应商协同门户")


def _stream(served: Served) -> str:
    with served.hub.database.read() as session:
        return session.scalars(select(EventStream.id)).first() or ""


def _dead(served: Served) -> str:
    with served.hub.database.read() as session:
        return session.scalars(select(Delivery.id).where(Delivery.state == "dead")).first() or ""


# name -> (who, path)
PAGES: dict[str, tuple[str, Callable[[Served], str]]] = {
    "portal": ("郑可欣", lambda s: "/"),
    "portal-empty": ("刘思远", lambda s: "/?q=nothing"),
    "people": ("沈佳宁", lambda s: "/hr/people?state=active&type=regular"),
    "people-empty": ("沈佳宁", lambda s: "/hr/people?q=nobody"),
    "people-notice": ("沈佳宁", lambda s: "/hr/people?sort=evil"),
    "person": ("沈佳宁", lambda s: f"/hr/people/{s.hub.people[s.story.SCHEDULED]}"),
    "person-left": ("沈佳宁", lambda s: f"/hr/people/{s.hub.people[s.story.LEAVER]}?tab=receipts"),
    "person-audit": ("何慕青", lambda s: f"/hr/people/{s.hub.people[s.story.LEAVER]}?tab=audit"),
    "person-suspend": ("沈佳宁", lambda s: f"/hr/people/{s.hub.people['吴建国']}?tab=suspend"),
    "preview": ("沈佳宁", lambda s: f"/hr/offboarding/{s.hub.people['赵明轩']}/preview?effective=2026-11-30+18:00"),
    "preview-emergency": ("沈佳宁", lambda s: f"/hr/offboarding/{s.hub.people['赵明轩']}/preview?emergency=1"),
    "receipts": ("沈佳宁", lambda s: "/hr/receipts"),
    "receipt": ("沈佳宁", lambda s: f"/hr/receipts/{s.story.receipt}"),
    "receipt-scheduled": ("沈佳宁", lambda s: f"/hr/receipts/{s.story.scheduled}"),
    "apps": ("高远", lambda s: "/admin/apps"),
    "app": ("高远", lambda s: "/admin/apps/plm"),
    "app-saml": ("高远", lambda s: "/admin/apps/jira/saml?person=QY-0418273"),
    "provisioning": ("高远", lambda s: "/admin/apps/gitlab/provisioning?person=QY-0418273"),
    "upload": ("沈佳宁", lambda s: "/hr/sources/import"),
    "deliveries": ("高远", lambda s: "/admin/deliveries"),
    "delivery": ("高远", lambda s: f"/admin/deliveries/{_dead(s)}"),
    "streams": ("高远", lambda s: "/admin/streams"),
    "stream": ("高远", lambda s: f"/admin/streams/{_stream(s)}"),
    "ghosts-empty": ("高远", lambda s: "/admin/ghosts?q=nothing-like-this"),
    "events": ("何慕青", lambda s: "/audit/events?action=receipt&range=7d"),
    "events-empty": ("何慕青", lambda s: "/audit/events?q=nothing-like-this"),
    "not-found": ("郑可欣", lambda s: "/hr/people"),
}
# A word that is broken has a rectangle for each line. Longer ones (identifiers, addresses) may be.
_BROKEN = """() => {
    const found = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walk.nextNode(); node; node = walk.nextNode()) {
        if (node.parentElement.closest("pre, code, .mono")) continue;
        for (const word of node.data.matchAll(/(?<![^\\s(])[A-Za-z]{2,16}(?![^\\s.,;:)])/g)) {
            const range = document.createRange();
            range.setStart(node, word.index);
            range.setEnd(node, word.index + word[0].length);
            if (new Set([...range.getClientRects()].map(each => Math.round(each.top))).size > 1) found.push(word[0]);
        }
    }
    return found;
}"""
# Whatever takes the focus is seen where it is, once it has it.
_HIDDEN_FOCUS = """() => {
    const found = [];
    for (const each of document.querySelectorAll("main a, main button, main input, main select, main summary")) {
        each.focus();
        if (document.activeElement !== each || !each.checkVisibility()) continue;
        const box = each.getBoundingClientRect();
        if (!box.width) continue;
        const [x, y] = [box.x + Math.min(box.width / 2, 10), box.y + Math.min(box.height / 2, 8)];
        const there = document.elementFromPoint(x, y);
        if (!there || !(each.contains(there) || there.contains(each))) found.push(each.outerHTML.slice(0, 80));
    }
    return found;
}"""
# The last columns say what became of it: nobody looks for them beyond an edge.
_CUT_OFF = """() => [...document.querySelectorAll(".table-box")]
    .filter(box => box.scrollWidth > box.clientWidth).map(box => box.getAttribute("aria-label"))"""

# A word that stands on two lines of a button: its parts are not where the word as a whole begins.
_BROKEN_WORDS = """() => [...document.querySelectorAll(".btn")].filter(each => each.checkVisibility()).flatMap(each => {
    const walk = document.createTreeWalker(each, NodeFilter.SHOW_TEXT), found = [];
    for (let node = walk.nextNode(); node; node = walk.nextNode())
        for (const word of node.data.matchAll(/[A-Za-z]+/g)) {
            const range = document.createRange();
            range.setStart(node, word.index);
            range.setEnd(node, word.index + word[0].length);
            if (range.getClientRects().length > 1) found.push(word[0]);
        }
    return found;
})"""


@pytest.fixture(scope="package", autouse=True)
def more(served: Served) -> None:
    """An application with a name in both languages that fills more than its column; a receiver of events."""
    hub = served.hub
    address = "https://receiver.example/events/of/the/group?tenant=qiyue"
    test_stream_pages.stream(hub, "directory", push_url=address)
    with hub.database.transaction() as session:
        wish = replace(hub._wish("southern", *LONG_NAMES, True, True), rules=())
        configure(session, wish, seal=lambda _, plain: plain, now=hub.clock())


LOOKS = [("zh-CN", "light"), ("en", "dark")]  # no colour depends on the language, no word on the theme


@pytest.mark.parametrize(("language", "theme"), LOOKS)
@pytest.mark.parametrize("name", PAGES)
def test_page_is_accessible_and_keeps_the_policy(
    browser: Browser, served: Served, name: str, language: str, theme: str
) -> None:
    """axe finds nothing, the console stays silent, nothing needs sideways scrolling; pictures are kept."""
    who, path = PAGES[name]
    visit = open_visit(browser, served, who, language=language, theme=theme)
    try:
        page = visit.open(path(served))
        assert page.locator("html").get_attribute("lang") == language
        assert page.locator("h1").count() == 1
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}-{language}-{theme}-desktop.png")
        assert visit.axe() == []
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        page.set_viewport_size({"width": 1280, "height": 900})
        assert page.evaluate(_BROKEN) == []
        assert page.evaluate(_CUT_OFF) == []
        for width in (768, 720):  # 720: a screen of 1440 that is read at twice the size
            page.set_viewport_size({"width": width, "height": 1024})
            assert page.evaluate(_CUT_OFF) == [], width
        page.set_viewport_size({"width": 390, "height": 844})
        page.screenshot(path=SCREENSHOTS / f"{name}-{language}-{theme}-phone.png")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert page.evaluate(_BROKEN_WORDS) == []
        page.set_viewport_size({"width": 320, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert visit.complaints == []
    finally:
        visit.context.close()


@pytest.mark.parametrize("name", ["receipt", "person", "preview", "deliveries", "events"])
def test_paper_is_white_and_has_no_buttons(browser: Browser, served: Served, name: str) -> None:
    """Also from a screen that is dark: what is printed is read on white, whole, in columns (A4 has 718 px)."""
    who, path = PAGES[name]
    visit = open_visit(browser, served, who, theme="dark")
    try:
        page = visit.open(path(served))
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 718, "height": 1000})
        colours = page.evaluate(
            "[document.body, document.querySelector('h1'), document.querySelector('td')].map(each => "
            "getComputedStyle(each).color.match(/[0-9]+/g).map(Number))"
        )
        assert all(max(colour) < 128 for colour in colours), colours
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.locator("main .btn:visible, main form:visible, .side:visible, .top:visible").count() == 0
        assert page.locator("th[scope=col]:visible").count() > 0
        assert page.evaluate(_CUT_OFF) == []
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    finally:
        visit.context.close()


@pytest.mark.parametrize("name", ["portal", "people", "receipt"])
def test_nothing_stays_in_place_where_the_page_is_four_times_as_large(
    browser: Browser, served: Served, name: str
) -> None:
    """At 400 % a window of 1440 by 900 has 360 by 225: bars that stay would hide what has the focus (WCAG 2.4.11)."""
    who, path = PAGES[name]
    visit = open_visit(browser, served, who)
    try:
        page = visit.open(path(served))
        page.set_viewport_size({"width": 360, "height": 225})
        hidden = page.evaluate(_HIDDEN_FOCUS)
        assert hidden == []
    finally:
        visit.context.close()


# Looked at elsewhere: with data of their own.
_OTHER_TESTS = {
    "/hr/people/new", "/hr/people/{person_id}/rehire", "/hr/people/{person_id}/move", "/hr/sources", "/admin/ghosts",
    "/admin/ghosts/{finding_id}", "/admin/ghosts/{finding_id}/act", "/admin/providers", "/admin/providers/{provider}",
    "/hr/people/{person_id}/links/{provider_id}",
    "/hr/sources/import/{upload_id}",
    "/admin/apps/{slug}/wsfed",  # The page of SAML, with other words.
}  # fmt: skip
_NO_PAGES = re.compile(r"/static/.*|/hr/pick/.*|.*/download|/hr/receipts/\{number\}/events|/hr|/admin|/audit")


def test_every_page_is_looked_at(served: Served) -> None:
    """A page without a line in `PAGES`, or a test of its own, has been seen by nobody."""
    opened = {path(served).partition("?")[0] for _, path in PAGES.values()}
    routes = [route for route in create_router(served.hub.services).routes if isinstance(route, Route)]
    pages = [route for route in routes if "GET" in (route.methods or ()) and not _NO_PAGES.fullmatch(route.path)]
    unseen = {route.path for route in pages if not any(route.path_regex.match(path) for path in opened)}

    assert unseen <= _OTHER_TESTS


@pytest.mark.parametrize("name", ["people", "person", "receipt", "deliveries", "portal", "apps", "app", "events"])
def test_phone_page_is_accessible(browser: Browser, served: Served, name: str) -> None:
    who, path = PAGES[name]
    visit = open_visit(browser, served, who, phone=True)
    try:
        visit.open(path(served))
        assert visit.axe() == []
    finally:
        visit.context.close()


def test_choosing_a_theme_and_a_language_without_script(browser: Browser, served: Served) -> None:
    visit = open_visit(browser, served, "沈佳宁", script=False)
    try:
        page = visit.open("/hr/people?state=active")
        page.get_by_label("主题").click()
        page.get_by_role("button", name="深色").click()
        assert page.locator("html").get_attribute("data-theme") == "dark"
        page.get_by_label("语言：简体中文").click()
        page.get_by_role("button", name="English").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("People")
        assert page.url.endswith("/hr/people?state=active")
    finally:
        visit.context.close()


def test_the_side_bar_is_reachable_on_a_phone_without_script(browser: Browser, served: Served) -> None:
    visit = open_visit(browser, served, "沈佳宁", phone=True, script=False)
    try:
        page = visit.open("/hr/people")
        page.get_by_text("菜单", exact=True).click()
        page.get_by_role("link", name="回执").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("回执")
    finally:
        visit.context.close()


def test_filters_change_the_list_in_place_and_the_address(browser: Browser, served: Served) -> None:
    visit = open_visit(browser, served, "沈佳宁", language="en")
    try:
        page = visit.open("/hr/people")
        everybody = page.locator("tbody tr").count()
        page.evaluate("window.stayed = true")
        page.get_by_label("Standing").select_option("suspended")
        page.wait_for_url("**/hr/people?*state=suspended*")
        expect(page.locator("tbody tr")).to_have_count(1)
        assert page.evaluate("window.stayed") is True
        page.reload()
        expect(page.locator("tbody tr")).to_have_count(1)
        page.go_back()
        expect(page.locator("tbody tr")).to_have_count(everybody)
        assert page.evaluate("sessionStorage.length + localStorage.length") == 0
        assert visit.complaints == []
    finally:
        visit.context.close()


def test_filters_work_without_script(browser: Browser, served: Served) -> None:
    visit = open_visit(browser, served, "沈佳宁", language="en", script=False)
    try:
        page = visit.open("/hr/people")
        page.get_by_label("Standing").select_option("suspended")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("tbody tr")).to_have_count(1)
    finally:
        visit.context.close()


def test_keys_find_rows_and_pages(browser: Browser, served: Served) -> None:
    visit = open_visit(browser, served, "沈佳宁", language="en")
    try:
        page = visit.open("/hr/receipts")
        page.keyboard.press("g")
        page.keyboard.press("p")
        page.wait_for_url("**/hr/people")
        page.keyboard.press("j")
        page.keyboard.press("j")
        focused = page.evaluate("document.activeElement.textContent")
        assert focused == "林晓雯"
        page.keyboard.press("/")
        page.keyboard.type("?jk")
        assert page.locator("#top-q").input_value() == "?jk"
        page.keyboard.press("Escape")
        page.locator("h1").click()
        page.keyboard.press("?")
        assert page.locator("#keys").is_visible()
    finally:
        visit.context.close()


def _offboard(page: Page, name: str) -> None:
    page.locator('[data-test="preview"]').click()
    expect(page.locator('[data-test="preview-badge"]')).to_be_visible()
    page.locator('[data-test="confirm-name"]').fill("somebody else")
    page.locator('[data-test="confirm"]').click()
    expect(page.get_by_role("alert")).to_contain_text("The name differs")
    page.locator('[data-test="confirm-name"]').fill(name)
    page.locator('[data-test="confirm"]').click()
    page.wait_for_url("**/hr/receipts/R-*")


@pytest.mark.parametrize(("script", "name"), [(True, "周子昂"), (False, "马诗涵")])
def test_offboarding_from_the_list_to_the_receipt(browser: Browser, served: Served, script: bool, name: str) -> None:
    """The main job by mouse and keyboard, with script and without."""
    visit = open_visit(browser, served, "沈佳宁", language="en", script=script)
    try:
        page = visit.open("/hr/people")
        page.get_by_role("link", name=name).click()
        _offboard(page, name)
        expect(page.locator('[data-test="status"]')).to_contain_text("Open · 0 of 6")

        served.hub.deliver()
        served.hub.sign_receipts()

        if not script:
            page.reload()
        expect(page.locator('[data-test="status"]')).to_contain_text("Complete · 6 of 6", timeout=15_000)
        expect(page.locator("tbody tr.open")).to_have_count(0)
        assert visit.complaints == []
    finally:
        visit.context.close()


def test_a_paused_page_stays_as_it_is(browser: Browser, served: Served) -> None:
    visit = open_visit(browser, served, "沈佳宁", language="en")
    try:
        page = visit.open(f"/hr/receipts/{served.story.receipt}")
        expect(page.locator("[data-live]")).to_have_class("live on")
        page.get_by_role("button", name="Pause updates").click()
        expect(page.locator("[data-live]")).to_contain_text("Paused")
        expect(page.get_by_role("button", name="Pause updates")).to_have_attribute("aria-pressed", "true")
    finally:
        visit.context.close()


def test_an_event_opens_in_place(browser: Browser, served: Served) -> None:
    visit = open_visit(browser, served, "何慕青", language="en")
    try:
        page = visit.open("/audit/events?action=receipt")
        opener = page.locator("[data-expand]").first
        opener.click()
        assert opener.get_attribute("aria-expanded") == "true"
        expect(page.locator("tr.detail").first).to_contain_text("receipt.issued")
        assert visit.axe() == []
    finally:
        visit.context.close()


def test_nothing_of_a_page_is_fetched_from_elsewhere(browser: Browser, served: Served) -> None:
    visit = open_visit(browser, served, "高远")
    try:
        asked: list[str] = []
        visit.page.on("request", lambda request: asked.append(request.url))
        visit.open("/admin/apps")
        visit.page.wait_for_timeout(300)
        assert asked
        assert all(url.startswith(served.url) for url in asked), json.dumps(asked)
    finally:
        visit.context.close()
