"""Pages of companies' own identity providers in a real browser: accessible in both languages and themes."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest
from playwright.sync_api import Browser
from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.authority import HubRole, assign_role
from idhub.directory.organizations import root_organization
from idhub.directory.tables import IdentityLink, Principal
from idhub.login.tables import IdentityProvider
from idhub.settings import Settings
from tests.browser.conftest import axe
from tests.browser.test_pages import SCREENSHOTS
from tests.flows.every_door import HR_NUMBER
from tests.saml.conftest import Scene, furnished, serving
from tests.saml.partner import make_signer
from tests.saml.upstream import Upstream
from tests.support.clock import Clock
from tests.support.databases import Databases

# name -> (who, path); nobody: signed out
PAGES = {
    "login-providers": (None, "/login"),
    "links": ("person", "/account/links"),
    "providers": ("administrator", "/admin/providers"),
    "provider": ("administrator", "/admin/providers/acme"),
    "link": ("administrator", "/hr/people/{person}/links/{provider}"),
}


@pytest.fixture(scope="module")
def hub(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scene, dict[str, str]]]:
    """A hub with a provider whose certificate runs out, and session cookies by who."""
    folder = tmp_path_factory.mktemp("providers")
    with socket.socket() as listener, databases.fresh("sqlite", folder, migrated=True) as url, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        settings = Settings(
            data_dir=folder, database_url=url, issuer=f"http://127.0.0.1:{listener.getsockname()[1]}",
            argon2_memory_kib=1024, argon2_time_cost=1,
        )  # fmt: skip
        scene = stack.enter_context(furnished(settings, databases, Clock()))
        ending = make_signer("ending", now=scene.now - timedelta(days=10), days=20)
        scene.configure(providers=[Upstream(settings.issuer, signer=ending).block()])
        with scene.stage.hub.database.transaction() as session:
            other = session.scalars(select(Principal.id).where(Principal.id != scene.stage.person)).one()
            root = root_organization(session)
            epoch = session.execute(
                select(Principal.enrolment_epoch).where(Principal.id == scene.stage.person)
            ).scalar_one()
            session.add(
                IdentityLink(
                    provider=_provider(session), upstream_subject="lin", principal_id=scene.stage.person,
                    enrolment_epoch=epoch, created_at=scene.now,
                )
            )  # fmt: skip
            assign_role(session, other, HubRole.ADMINISTRATOR, organization_id=root, now=scene.now, assigned_by="test")
        cookies = {
            "person": scene.signed_in().cookies["idhub_session"],
            "administrator": scene.signed_in(HR_NUMBER).cookies["idhub_session"],
        }
        stack.enter_context(serving(scene, listener, with_worker=False))
        yield scene, cookies


def _provider(session: Session) -> str:
    return session.scalars(select(IdentityProvider.id).where(IdentityProvider.slug == "acme")).one()


@pytest.mark.parametrize(("language", "theme"), [("zh-CN", "light"), ("en", "dark")])
@pytest.mark.parametrize("name", PAGES)
def test_page_is_accessible_and_keeps_the_policy(
    hub: tuple[Scene, dict[str, str]], browser: Browser, name: str, language: str, theme: str
) -> None:
    scene, cookies = hub
    issuer = scene.stage.hub.settings.issuer
    who, path = PAGES[name]
    if "{" in path:
        with scene.stage.hub.database.read() as session:
            path = path.format(person=scene.stage.person, provider=_provider(session))
    context = browser.new_context(
        locale=language, color_scheme="dark" if theme == "dark" else "light", viewport={"width": 1440, "height": 900}
    )
    try:
        if who is not None:
            context.add_cookies([{"name": "idhub_session", "value": cookies[who], "url": issuer}])
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(issuer + path)
        assert page.locator("html").get_attribute("lang") == language
        assert page.locator("h1").count() == 1
        assert any(name in page.content() for name in ("acme", "Acme", "艾可"))
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}-{language}-{theme}-desktop.png")
        assert axe(page) == []
        for width in (1440, 390, 320):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert complaints == []
    finally:
        context.close()
