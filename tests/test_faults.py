"""Fault points: every commit and every send passes them, and nothing in the project can switch them on."""

import ast
import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

from idhub import faults
from idhub.changes import COMMAND_LINE, Event, EventType
from idhub.credentials.store import Operation, create_store, record
from idhub.db import Database
from idhub.delivery.http import OutboundError, OutboundHttp
from idhub.keys import Keyring
from idhub.settings import Settings
from tests.delivery.servers import serving
from tests.support.clock import Clock

ROOT = Path(__file__).parents[1]


@pytest.fixture
def passed() -> Iterator[list[str]]:
    """What was passed, in order."""
    seen: list[str] = []
    faults.act = lambda moment: seen.append(moment)  # noqa: PLW0108 - of its type
    try:
        yield seen
    finally:
        faults.act = None


def test_a_transaction_passes_before_and_after_its_commit(database: Database, passed: list[str]) -> None:
    with database.transaction():
        assert passed == []
    assert passed == ["commit.before", "commit.after"]


def test_a_transaction_that_fails_passes_no_point(database: Database, passed: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction():
        raise ZeroDivisionError
    assert passed == []


def test_reading_passes_no_point(database: Database, passed: list[str]) -> None:
    with database.read():
        pass
    assert passed == []


def test_the_narrow_store_passes_around_each_commit(
    database: Database, settings: Settings, keyring: Keyring, clock: Clock, passed: list[str]
) -> None:
    event = Event(
        type=EventType.SETTINGS_APPLIED, at=clock(), actor=COMMAND_LINE, door="cli", target_kind="x", target_id="x"
    )

    def operation() -> Operation[None]:
        yield record([event])

    async def write() -> None:
        store = create_store(settings, database, keyring)
        try:
            await store.write(operation)
        finally:
            await store.close()

    asyncio.run(write())
    assert passed == ["commit.before", "commit.after"]


def test_a_request_passes_before_and_after_whatever_comes_of_it(settings: Settings, passed: list[str]) -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path == "/silent":
            await asyncio.sleep(5)
        return web.Response()

    async def send() -> None:
        async with serving(handler) as port:
            allowed = settings.model_copy(update={"outbound_allow": f"127.0.0.1:{port}"})
            async with OutboundHttp(allowed) as http:
                await http.request("GET", f"http://127.0.0.1:{port}/", timeout=timedelta(seconds=5))
                assert passed == ["send.before", "send.after"]
                with pytest.raises(OutboundError):
                    await http.request("GET", f"http://127.0.0.1:{port}/silent", timeout=timedelta(seconds=0.1))

    asyncio.run(send())
    assert passed == ["send.before", "send.after"] * 2


def test_nothing_in_the_project_sets_what_happens_at_a_point() -> None:
    """No setting, variable, command or request reaches it: only whoever starts another program does."""
    setters = []
    for package in ("idhub", "audit", "providers", "scim"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
                named = [t for t in targets if isinstance(t, ast.Attribute) and t.attr == "act"]
                is_set = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setattr"
                if named or (is_set and "faults" in ast.dump(node)):
                    setters.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")
    assert setters == []
    source = (ROOT / "idhub" / "faults.py").read_text(encoding="utf-8")
    assert "environ" not in source
    assert "import os" not in source
