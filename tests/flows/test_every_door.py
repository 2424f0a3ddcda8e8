"""Invariant 1: whichever door ends an employment, every kind of credential is dead, here and at once.

The tables are in `tests.flows.every_door`; a door or a kind of credential without a row fails the build.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from idhub.app import create_app
from idhub.authority import HubRole, assign_role, remove_role
from idhub.credentials import opaque
from idhub.db import Database
from idhub.directory.organizations import root_organization
from idhub.lifecycle.doors import ENDS_EMPLOYMENTS, Door
from idhub.services import open_hub
from idhub.settings import Settings
from tests.flows.every_door import KINDS, LEAVES, REHIRES, SUSPENSIONS, Stage, submit
from tests.flows.furniture import STAGE
from tests.support.clock import Clock
from tests.support.databases import DatabaseKind, Databases, Furnishing


def test_every_door_has_a_row_for_each_door_and_each_kind_of_credential() -> None:
    assert {door for door, _ in LEAVES} == ENDS_EMPLOYMENTS
    others = {
        "jwt",
        "password",
        "saml",
        "saml request",
        "saml artifact",
        "wsfed",
        "wsfed request",
        "identity link",
        "upstream response",
        "cas",
        "cas ticket",
    }
    assert set(KINDS) == opaque.KINDS | others
    assert set(SUSPENSIONS) <= set(Door)
    assert set(REHIRES) <= set(Door)


@pytest.fixture
def furnishing() -> Furnishing:
    """What `stage` begins with."""
    return STAGE


@pytest.fixture
def stage(
    database: Database,
    database_kind: DatabaseKind,
    databases: Databases,
    settings: Settings,
    clock: Clock,
    tmp_path: Path,
) -> Iterator[Stage]:
    """A furnished hub, without a worker: what is seen is the local effect alone."""
    assert database.engine is not None
    hub = replace(open_hub(settings, clock=clock))
    app = create_app(hub, with_worker=False)
    with TestClient(app, base_url=settings.issuer, follow_redirects=False) as machine:
        made = Stage(hub, app, clock, tmp_path, machine)
        databases.made_of(database_kind, STAGE).move_in(made)
        yield made
    hub.close()


def _hold_everything(stage: Stage) -> dict[str, Any]:
    held = {name: kind.obtain(stage) for name, kind in KINDS.items()}
    return held


def _still_working(stage: Stage, held: dict[str, Any]) -> set[str]:
    return {name for name, value in held.items() if KINDS[name].works(stage, value)}


def test_every_door_begins_with_credentials_that_work(stage: Stage) -> None:
    """Without this, the tests below could pass because nothing ever worked."""
    assert _still_working(stage, _hold_everything(stage)) == set(KINDS)


@pytest.mark.parametrize(("door", "leave"), LEAVES.items(), ids=lambda v: "-".join(v) if isinstance(v, tuple) else "")
def test_every_door_that_ends_an_employment_ends_every_credential(
    stage: Stage, door: tuple[Door, str], leave: Callable[[Stage], None]
) -> None:
    held = _hold_everything(stage)
    leave(stage)
    assert _still_working(stage, held) == set()


@pytest.mark.parametrize("door", SUSPENSIONS, ids=str)
def test_every_door_that_suspends_stops_everything_and_reactivation_brings_factors_alone_back(
    stage: Stage, door: Door
) -> None:
    suspend, reactivate = SUSPENSIONS[door]
    held = _hold_everything(stage)
    suspend(stage)
    assert _still_working(stage, held) == set()
    reactivate(stage)
    assert _still_working(stage, held) == {name for name, kind in KINDS.items() if kind.survives_suspension}


@pytest.mark.parametrize("door", REHIRES, ids=str)
def test_every_door_that_rehires_brings_nothing_from_before_back(stage: Stage, door: Door) -> None:
    held = _hold_everything(stage)
    LEAVES[Door.CLI, "now"](stage)
    assert _still_working(stage, held) == set()
    stage.clock.advance(days=1)
    REHIRES[door](stage)
    # A sign-in that stood at the password page asks for a password, which is dead too.
    assert _still_working(stage, held) == set()


# ---------------------------------------------------------------------- another worker, and after a restart

SINGLE_USE = ("ac", "rt", "saml request", "saml artifact", "upstream response", "wsfed request", "cas ticket", "inv")
"""What opens something once. (A sign-in that stands at the password page is tried again until it succeeds.)"""
ROLE_PAGES = {
    HubRole.HR: "/hr/people/new",
    HubRole.ADMINISTRATOR: "/admin/apps",
    HubRole.AUDITOR: "/audit/events",
}


@contextmanager
def another_worker(stage: Stage) -> Iterator[Stage]:
    """The same hub in a worker of its own: its own connections, caches and loop."""
    hub = open_hub(stage.hub.settings, clock=stage.clock)
    app = create_app(hub, with_worker=False)
    try:
        with TestClient(app, base_url=hub.settings.issuer, follow_redirects=False) as machine:
            yield replace(stage, hub=hub, app=app, machine=machine)
    finally:
        hub.close()


def brought_to(stage: Stage, value: Any) -> Any:
    """What is held, as this worker meets it: browsers come with their cookies."""
    if isinstance(value, TestClient):
        browser = stage.browser()
        browser.cookies.update(value.cookies)
        return browser
    if isinstance(value, tuple):
        return tuple(brought_to(stage, part) for part in value)
    return value


def _still_working_at(stage: Stage, held: dict[str, Any]) -> set[str]:
    return _still_working(stage, {name: brought_to(stage, value) for name, value in held.items()})


def test_every_door_at_another_worker_a_leave_ends_everything_at_once_and_after_a_restart(stage: Stage) -> None:
    """T18, V7.4.2: nothing that a worker has read before outlives the leave that another one has made."""
    with another_worker(stage) as other:
        assert _still_working_at(other, _hold_everything(stage)) == set(KINDS), "it knows all of them by now"
        held = _hold_everything(stage)
        LEAVES[Door.API, "now"](stage)
        assert _still_working_at(other, held) == set()
    with another_worker(stage) as restarted:
        assert _still_working_at(restarted, held) == set()


def test_every_door_at_another_worker_a_suspension_stops_everything_at_once(stage: Stage) -> None:
    suspend, reactivate = SUSPENSIONS[Door.API]
    with another_worker(stage) as other:
        held = _hold_everything(stage)
        suspend(other)
        assert _still_working_at(other, held) == set()
        assert _still_working(stage, held) == set()
        reactivate(other)
        factors = {name for name, kind in KINDS.items() if kind.survives_suspension}
        assert _still_working(stage, held) == factors


@pytest.mark.parametrize("kind", SINGLE_USE)
def test_every_door_what_one_worker_has_spent_no_other_takes(stage: Stage, kind: str) -> None:
    """A08, S10, T09, 9700-4.14, V6.4.1: also when nothing is left of the worker that spent it."""
    with another_worker(stage) as other:
        held = KINDS[kind].obtain(stage)
        again = brought_to(other, held)
        assert KINDS[kind].works(stage, held)
        assert not KINDS[kind].works(other, again)
    with another_worker(stage) as restarted:
        assert not KINDS[kind].works(restarted, brought_to(restarted, again))


@pytest.mark.parametrize("slug", ["jwt-app", "opaque-app"])
def test_every_door_a_token_revoked_at_one_worker_is_dead_with_its_grant_at_another(stage: Stage, slug: str) -> None:
    """A19, and what a stolen refresh token that is used again ends (9700-4.14): access tokens of both forms."""
    with another_worker(stage) as other:
        for ends in ("revoked", "used twice"):
            tokens = KINDS["at" if slug == "opaque-app" else "jwt"].obtain(stage)
            access, refresh = tokens["access_token"], tokens["refresh_token"]
            assert other.is_active(slug, access)
            if ends == "revoked":
                answer = stage.machine.post("/oauth2/revoke", data={"token": refresh}, auth=(slug, stage.secrets[slug]))
                assert answer.status_code == 200
            else:
                rotated = stage.token(slug, grant_type="refresh_token", refresh_token=refresh)
                assert other.is_active(slug, access)
                again = other.token(slug, grant_type="refresh_token", refresh_token=refresh)
                assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
                refresh = rotated.json()["refresh_token"]
            for worker in (other, stage):
                assert not worker.is_active(slug, access), ends
                assert not worker.is_active(slug, refresh), ends
                said = worker.machine.get("/oauth2/userinfo", headers={"authorization": f"Bearer {access}"})
                assert said.status_code == 401, ends
                refreshed = worker.token(slug, grant_type="refresh_token", refresh_token=refresh)
                assert (refreshed.status_code, refreshed.json()["error"]) == (400, "invalid_grant"), ends


def test_every_door_who_signs_out_at_one_worker_is_signed_out_at_every_other(stage: Stage) -> None:
    """V7.4.1: the cookie that somebody kept opens nothing, at no protocol's door."""
    sessions = ("ses", "saml", "wsfed", "cas")
    with another_worker(stage) as other:
        browser = KINDS["ses"].obtain(stage)
        held = {name: brought_to(other, browser) for name in sessions}
        assert _still_working(other, held) == set(sessions)
        cookies = dict(browser.cookies)
        assert submit(browser, browser.get("/logout"), "/logout").status_code == 303
        assert "idhub_session" not in browser.cookies
        for name in sessions:
            kept = other.browser()
            kept.cookies.update(cookies)
            assert not KINDS[name].works(other, kept), name
    with another_worker(stage) as restarted:
        kept = restarted.browser()
        kept.cookies.update(cookies)
        assert not KINDS["ses"].works(restarted, kept)


@pytest.mark.parametrize("role", HubRole)
def test_every_door_a_role_taken_away_at_one_worker_opens_nothing_at_another(stage: Stage, role: HubRole) -> None:
    """V8.3.2, T18: at the next request, and not again after a restart."""
    with another_worker(stage) as other:
        browser = brought_to(other, KINDS["ses"].obtain(stage))
        page = ROLE_PAGES[role]
        assert browser.get(page).status_code == 404
        with stage.hub.database.transaction() as session:
            root = root_organization(session)
            assign_role(session, stage.person, role, organization_id=root, now=stage.clock(), assigned_by="test")
        assert browser.get(page).status_code == 200
        with stage.hub.database.transaction() as session:
            assert remove_role(session, stage.person, role, now=stage.clock(), keeps_last=False) == 1
        assert browser.get(page).status_code == 404
    with another_worker(stage) as restarted:
        assert brought_to(restarted, browser).get(page).status_code == 404
