"""Invariant 1: whichever door ends an employment, every kind of credential is dead, here and at once.

The tables are in `tests.flows.every_door`; a door or a kind of credential without a row fails the build.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from idhub.app import create_app
from idhub.credentials import opaque
from idhub.db import Database
from idhub.lifecycle.doors import ENDS_EMPLOYMENTS, Door
from idhub.services import open_hub
from idhub.settings import Settings
from tests.flows.every_door import KINDS, LEAVES, REHIRES, SUSPENSIONS, Stage
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
