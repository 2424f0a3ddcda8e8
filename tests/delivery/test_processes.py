"""Workers as processes: one is stopped past its lease, one is killed between send and settle. D01, D11, O12."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web

from idhub.db import Database
from idhub.delivery.queue import plan
from idhub.settings import Settings
from tests.delivery.rows import attempts, delivery, row
from tests.delivery.servers import serving, until
from tests.support.processes import die_with_parent, stop_now

ROOT = Path(__file__).parents[2]


@contextmanager
def worker(settings: Settings, port: int, name: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = [
        sys.executable,
        "-m",
        "tests.delivery.one_worker",
        settings.effective_database_url.replace("+psycopg", ""),
        str(settings.effective_master_key_file),
        str(port),
        name,
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl call, safe between fork and exec
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.stdout.close()
        process.kill()
        process.wait(10)


def put_now(hub: Database) -> str:
    with hub.transaction() as session:
        return plan(session, [delivery()], now=datetime.now(UTC))[0]


@pytest.mark.slow
def test_a_stopped_worker_is_succeeded_and_its_late_answer_refused(hub: Database, settings: Settings) -> None:
    """D11: the application sees one id twice, the queue one effect; the late write changes nothing."""
    seen: list[tuple[str, str]] = []
    hold_first = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        form = await request.post()
        seen.append((request.path, str(form["id"])))
        if request.path == "/w1":
            await hold_first.wait()
        return web.Response()

    async def story() -> str:
        async with serving(handler) as port:
            with worker(settings, port, "w1") as first:
                planned = await asyncio.to_thread(put_now, hub)
                await until(lambda: len(seen) == 1, seconds=20)
                await asyncio.to_thread(stop_now, first.pid)
                hold_first.set()  # the answer waits in the stopped worker's socket
                with worker(settings, port, "w2"):
                    await until(lambda: row(hub, planned).state == "done", seconds=30)
                    first.send_signal(signal.SIGCONT)
                    await asyncio.sleep(1.5)
            return planned

    planned = asyncio.run(story())

    assert seen[0] == ("/w1", planned)
    assert set(seen[1:]) == {("/w2", planned)}
    done = row(hub, planned)
    assert (done.state, done.evidence) == ("done", {"by": "w2"})
    _done_once_at_the_end(hub, planned)


def _done_once_at_the_end(hub: Database, planned: str) -> None:
    """On a slow machine each worker may be held up past its deadline or its lease, and try more often: no effect."""
    outcomes = [one.outcome for one in attempts(hub, planned)]
    assert outcomes[-1] == "done"
    assert len(outcomes) > 1
    assert set(outcomes[:-1]) <= {"lost", "retry"}
    assert row(hub, planned).attempts == len(outcomes)


@pytest.mark.slow
def test_a_worker_killed_between_send_and_settle_loses_nothing(hub: Database, settings: Settings) -> None:
    seen: list[str] = []
    victim: list[subprocess.Popen[bytes]] = []

    async def handler(request: web.Request) -> web.Response:
        form = await request.post()
        seen.append(str(form["id"]))
        if request.path == "/w1":
            victim[0].kill()
        return web.Response()

    async def story() -> str:
        async with serving(handler) as port:
            with worker(settings, port, "w1") as first:
                victim.append(first)
                planned = await asyncio.to_thread(put_now, hub)
                await until(lambda: len(seen) == 1, seconds=20)
            assert row(hub, planned).state == "leased"
            with worker(settings, port, "w2"):
                await until(lambda: row(hub, planned).state == "done", seconds=30)
            return planned

    planned = asyncio.run(story())

    assert len(seen) >= 2
    assert set(seen) == {planned}, "the same id, so that the application knows it"
    _done_once_at_the_end(hub, planned)
