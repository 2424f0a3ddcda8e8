"""How fast people leave: measured against the targets that the project has set itself; no peer does this.

    python -m tests.benchmarks.leaving [--only NAME] [--database sqlite|postgresql] [--people 120000] [--leavers 10000]

Every figure is of real processes: `idhub serve` with its worker, 300 SCIM services that answer at once in a process of
their own, and databases on the disk that sync every commit. `measure()` returns the rows that `make bench` collects.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

import httpx2
from sqlalchemy import func, select, update

from idhub.authority import LOCAL
from idhub.changes import COMMAND_LINE
from idhub.db import Database
from idhub.delivery.http import OutboundHttp
from idhub.delivery.tables import Delivery
from idhub.demo.processes import Server, free_port, wait_until
from idhub.directory.tables import Employment, Principal
from idhub.lifecycle import commands
from idhub.lifecycle.tables import Case, Receipt
from idhub.services import Hub, open_hub
from idhub.settings import Settings
from idhub.worker import Worker
from tests.benchmarks.copied_log import log_copied
from tests.benchmarks.figures import quantile
from tests.benchmarks.leaving_world import (
    CLIENT_SECRET,
    PASSWORD,
    TYPICAL_ACCOUNTS,
    Applications,
    instant_applications,
    person_id,
    seed_access,
    seed_applications,
    seed_history,
    seed_people,
    seed_probes,
    seed_sessions,
)
from tests.support.databases import analyze
from tests.support.postgres import PostgresServer, postgres_server

Kind = Literal["sqlite", "postgresql"]
Row = dict[str, Any]
NAMES = ("offboard", "fan_out", "fan_out_behind", "mass_leave", "rest", "reevaluate", "growth")
_HUB_LEAVERS = 300
_BETWEEN_LEAVES = 0.02
"""Seconds."""
_FAN_OUT = 300
_FAN_OUTS = 5
_LEFT_BEFORE = 700
_CREDENTIALS = "grant_type=client_credentials"
_PROGRAM = Path(sys.executable).parent / "idhub"
_TARGETS = {
    "offboarding in the hub, p50": (10.0, "ms"),
    "offboarding in the hub, p99": (10.0, "ms"),
    "fan-out of 300 accounts, all called": (100.0, "ms"),
    "fan-out of 300 accounts, all switched off": (100.0, "ms"),
    "fan-out of 300 accounts, all recorded": (500.0, "ms"),
    "fan-out of 300 accounts, receipt complete": (500.0, "ms"),
    "fan-out of 300 accounts, one silent, the others recorded": (5_000.0, "ms"),
    "10,000 leavers x 15 applications": (900.0, "s"),
    "token p99 during the mass leave": (50.0, "ms"),
    "introspection p99 during the mass leave": (50.0, "ms"),
    "login page p99 during the mass leave": (50.0, "ms"),
    "memory at rest": (150.0, "MB"),
    "start": (2.0, "s"),
}


@dataclass
class World:
    """One installation, seeded, with its applications; `serve` runs it."""

    kind: Kind
    folder: Path
    settings: Settings
    applications: Applications
    people: int
    hub: Hub
    rows: list[Row] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Settings of the served hub."""
        return {
            "IDHUB_DATA_DIR": str(self.folder),
            "IDHUB_DATABASE_URL": self.settings.database_url,
            "IDHUB_OUTBOUND_ALLOW": self.settings.outbound_allow,
            "IDHUB_LOG_LEVEL": "warning",
        }

    @contextmanager
    def serve(self, *options: str) -> Iterator[Served]:
        """`idhub serve`, until the block ends."""
        port = free_port()
        with Server("idhub", port, self.folder / "serve.log") as server:
            command: list[str | Path] = [_PROGRAM, "serve", "--port", str(port), *options]
            environment = {**self.environment, "IDHUB_ISSUER": f"http://127.0.0.1:{port}"}
            server.start(command, env=environment)
            token = subprocess.run(
                [_PROGRAM, "token", "create", "--scope", "people:write"],
                env={**environment, "PATH": ""},
                capture_output=True,
                check=True,
                text=True,
            ).stdout.strip()
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                wait_until(lambda: client.get("/healthz").is_success, seconds=60, what="the hub answers")
                assert server._process is not None
                yield Served(port, token, client, server._process.pid)

    def say(self, name: str, value: float, unit: str) -> None:
        """Keep a figure and show it beside its target."""
        target, _ = _TARGETS.get(name.replace(" behind a mass leave", ""), (None, unit))
        durability = "synchronous=FULL" if self.kind == "sqlite" else "synchronous_commit=on, fsync=on"
        row: Row = {
            "name": name,
            "value": round(value, 2),
            "unit": unit,
            "database": self.kind,
            "durability": durability,
            "people": self.people,
            "peer": "target" if target else None,
            "peer_value": target,
            "ratio": round(target / value, 2) if target and value else None,
        }
        self.rows.append(row)
        beside = f"target {target:g} {unit}, {target / value:.2f}x" if target and value else ""
        print(f"  {self.kind:10} {name:58} {value:10.2f} {unit:4} {beside}", flush=True)

    def count(self, *criteria: Any) -> int:
        """How many rows hold."""
        with self.hub.database.read() as session:
            return session.execute(select(func.count()).where(*criteria)).scalar_one()


@dataclass(frozen=True)
class Served:
    """A running hub."""

    port: int
    token: str
    client: httpx2.Client
    pid: int

    def offboard(self, number: int) -> float:
        """Offboard by the API; returns when it answered (`time.monotonic`)."""
        answer = self.client.post(
            f"/api/v1/people/{person_id(number)}/offboarding",
            headers={"Authorization": f"Bearer {self.token}"},
            json={},
        )
        answer.raise_for_status()
        return time.monotonic()


class Interactive(threading.Thread):
    """Somebody uses the hub meanwhile, at a steady rate: machines get tokens and ask about them, people come to the
    sign-in page, and some sign in. On bare connections, so that little of what is measured is the client's own.
    """

    def __init__(self, port: int, number: int, *, rounds_a_second: int = 20, sign_in_every: int = 10) -> None:
        super().__init__(daemon=True)
        self._base = f"http://127.0.0.1:{port}"
        self._port = port
        self._person = f"QY{number:07d}"
        self._pause = 1 / rounds_a_second
        self._sign_in_every = sign_in_every
        self._stop_it = threading.Event()
        self.took: dict[str, list[float]] = {"token": [], "introspection": [], "login page": [], "sign-in": []}
        self.failures: list[str] = []

    def run(self) -> None:
        """Ask until told to stop."""
        basic = base64.b64encode(f"probe:{CLIENT_SECRET}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=30)) as machine:
            asked = 0
            while not self._stop_it.wait(self._pause):
                asked += 1
                try:
                    answer = self._timed("token", machine, "POST", "/oauth2/token", _CREDENTIALS, headers)
                    question = urlencode({"token": json.loads(answer)["access_token"]})
                    answer = self._timed("introspection", machine, "POST", "/oauth2/introspect", question, headers)
                    if not json.loads(answer)["active"]:
                        self.failures.append("introspection: inactive")
                    self._timed("login page", machine, "GET", "/login", None, {})
                    if asked % self._sign_in_every == 0:
                        self._sign_in()
                except (OSError, HTTPException, ValueError, KeyError, httpx2.HTTPError) as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                    machine.close()

    def _timed(
        self, name: str, machine: HTTPConnection, method: str, path: str, body: str | None, headers: Mapping[str, str]
    ) -> bytes:
        began = time.monotonic()
        machine.request(method, path, body, headers)
        response = machine.getresponse()
        answer = response.read()
        self.took[name].append(time.monotonic() - began)
        if response.status != 200:
            raise ValueError(f"{path}: {response.status}")
        return answer

    def _sign_in(self) -> None:
        with httpx2.Client(base_url=self._base, timeout=30, follow_redirects=True) as browser:
            page = browser.get("/login").text
            hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page))
            began = time.monotonic()
            answer = browser.post(
                "/login",
                data={**hidden, "username": self._person, "password": PASSWORD},
                headers={"Origin": self._base},
                follow_redirects=False,
            )
            self.took["sign-in"].append(time.monotonic() - began)
            if answer.status_code != 303:
                self.failures.append(f"login: {answer.status_code}")

    def stop(self) -> None:
        """End, and wait for it."""
        self._stop_it.set()
        self.join(30)


def _copied(database: Database) -> AbstractContextManager[None]:
    """The log copied as `serve` does it; elsewhere some of the commits would."""
    if database.dialect != "sqlite":
        return log_copied(None)
    database.keep_long_log()
    return log_copied(database.engine.url.database)


def measure_offboard(world: World) -> None:
    """From the call to the commit, in the process: one person with 15 accounts, 3 sessions, 15 grants with tokens."""
    hub, now = world.hub, datetime.now(UTC)
    numbers = range(_HUB_LEAVERS)
    with hub.database.transaction() as session:
        seed_access(session, numbers, range(TYPICAL_ACCOUNTS), now=now)
        seed_sessions(session, numbers, range(TYPICAL_ACCOUNTS), now=now)
    analyze(hub.database)
    caller = commands.Caller(subject=LOCAL, actor=COMMAND_LINE, door="cli")
    took, busy = [], []
    with _copied(hub.database):
        for number in numbers:
            # Without a pause they fill the whole log between two copies, and every sixtieth commit has to copy it.
            time.sleep(_BETWEEN_LEAVES)
            began, began_busy = time.perf_counter(), time.thread_time()
            with hub.database.transaction() as session:
                commands.offboard(session, caller, person_id(number), now=datetime.now(UTC))
            took.append(1e3 * (time.perf_counter() - began))
            busy.append(1e3 * (time.thread_time() - began_busy))
    # The first ones fill caches, as in any process that has just started.
    took, busy = took[20:], busy[20:]
    world.say("offboarding in the hub, p50", statistics.median(took), "ms")
    world.say("offboarding in the hub, p99", quantile(took, 0.99), "ms")
    world.say("offboarding in the hub, processor time, p50", statistics.median(busy), "ms")


def measure_fan_out(world: World, *, behind: int = 0) -> None:
    """One person with an account in each of 300 applications, from the API's answer to the complete receipt.

    Args:
        behind: so many people have left just before, whose accounts the hub's other process (`idhub.relief`) ends.
    """
    hub, now = world.hub, datetime.now(UTC)
    title = f"fan-out of {_FAN_OUT} accounts" + (" behind a mass leave" if behind else "")
    numbers = [world.people - 1 - n - bool(behind) * _FAN_OUTS * 2 for n in range(_FAN_OUTS + 1)]
    with hub.database.transaction() as session:
        seed_access(session, numbers, range(_FAN_OUT), now=now)
    analyze(hub.database)
    # Those that the others who leave have an account in too.
    apart = TYPICAL_ACCOUNTS if behind else 0
    figures: dict[str, list[float]] = {"called": [], "switched": [], "recorded": [], "complete": [], "calls": []}
    if behind:
        _leave(world, [world.people - 1_000 - n for n in range(behind)])
    with world.serve() as served:
        # The backlog is in hand, and the other process has been called.
        time.sleep(6 if behind else 1)
        for number in numbers[:-1]:
            world.applications.reset()
            case_id, answered = _fan_out(world, served, number)
            seen = world.applications.seen()[apart:_FAN_OUT]
            with hub.database.read() as session:
                finished = max(
                    at for at in session.scalars(select(Delivery.finished_at).where(Delivery.case_id == case_id)) if at
                )
                signed = session.execute(
                    select(func.min(Receipt.signed_at)).where(Receipt.case_id == case_id, Receipt.is_complete)
                ).scalar_one()
            wall = datetime.now(UTC) - timedelta(seconds=time.monotonic() - answered)
            figures["called"].append(1e3 * (max(one["first_at"] for one in seen) - answered))
            figures["switched"].append(1e3 * (max(one["changed_at"] for one in seen) - answered))
            figures["recorded"].append(1e3 * (finished - wall).total_seconds())
            figures["complete"].append(1e3 * (signed - wall).total_seconds())
            figures["calls"].append(sum(sum(one["counts"].values()) for one in seen))
        world.say(f"{title}, all called", statistics.median(figures["called"]), "ms")
        world.say(f"{title}, all switched off", statistics.median(figures["switched"]), "ms")
        world.say(f"{title}, all recorded", statistics.median(figures["recorded"]), "ms")
        world.say(f"{title}, receipt complete", statistics.median(figures["complete"]), "ms")
        world.say(f"{title}, requests an account", statistics.median(figures["calls"]) / (_FAN_OUT - apart), "")
        world.applications.hang(_FAN_OUT - 1)
        _, answered = _fan_out(world, served, numbers[-1], silent=1)
        others = 1e3 * (time.monotonic() - answered)
        world.say(f"{title}, one silent, the others recorded", others, "ms")


def _leave(world: World, numbers: Sequence[int]) -> None:
    """Offboard people with the usual number of accounts; nobody delivers yet."""
    now = datetime.now(UTC)
    caller = commands.Caller(subject=LOCAL, actor=COMMAND_LINE, door="cli")
    with world.hub.database.transaction() as session:
        seed_access(session, numbers, range(TYPICAL_ACCOUNTS), now=now)
    for number in numbers:
        with world.hub.database.transaction() as session:
            commands.offboard(session, caller, person_id(number), now=now)


def _fan_out(world: World, served: Served, number: int, *, silent: int = 0) -> tuple[str, float]:
    answered = served.offboard(number)
    with world.hub.database.read() as session:
        case_id = session.execute(select(Case.id).where(Case.principal_id == person_id(number))).scalar_one()

    def is_over() -> bool:
        if silent:
            return world.count(Delivery.case_id == case_id, Delivery.state == "done") >= _FAN_OUT - silent
        return world.count(Receipt.case_id == case_id, Receipt.is_complete) > 0

    wait_until(is_over, seconds=60, what="everything is recorded")
    return case_id, answered


def measure_mass_leave(world: World, leavers: int) -> None:
    """A contract ends: everybody of it is due at once, while others get tokens and sign in."""
    hub, now = world.hub, datetime.now(UTC)
    first = 1_000
    numbers = range(first, first + leavers)
    with hub.database.transaction() as session:
        for start in range(0, leavers, 1_000):
            seed_access(session, numbers[start : start + 1_000], range(TYPICAL_ACCOUNTS), now=now)
        seed_probes(session, hub, first - 1, now=now)
    analyze(hub.database)
    print(f"  {leavers} leavers with {TYPICAL_ACCOUNTS} accounts each are seeded", flush=True)
    with world.serve() as served:
        quiet = Interactive(served.port, first - 1)
        quiet.start()
        time.sleep(6)
        quiet.stop()
        meanwhile = Interactive(served.port, first - 1)
        meanwhile.start()
        began = time.monotonic()
        with hub.database.transaction() as session:
            ends = datetime.now(UTC)
            session.execute(
                update(Employment)
                .where(Employment.principal_id.between(person_id(first), person_id(first + leavers - 1)))
                .values(ends_at=ends, ends_on=(ends - timedelta(days=1)).date())
            )
            session.execute(
                update(Principal)
                .where(Principal.id.between(person_id(first), person_id(first + leavers - 1)))
                .values(access_ends_at=ends)
            )
        planned_after = 0.0
        while True:
            left = world.count(Case.state.in_(("running", "complete")), Case.principal_id >= person_id(first),
                               Case.principal_id < person_id(first + leavers))  # fmt: skip
            complete = world.count(Case.state == "complete", Case.principal_id >= person_id(first),
                                   Case.principal_id < person_id(first + leavers))  # fmt: skip
            took = time.monotonic() - began
            if left == leavers and not planned_after:
                planned_after = took
            if sys.stderr.isatty() or int(took) % 10 == 0:
                print(f"\r  {took:5.0f} s: {left} have left, {complete} receipts complete ", end="", file=sys.stderr)
            if complete == leavers:
                break
            time.sleep(0.5)
        print(file=sys.stderr)
        meanwhile.stop()
        if meanwhile.failures:
            print(f"  {len(meanwhile.failures)} interactive requests failed: {meanwhile.failures[:3]}")
        scale = 10_000 / leavers
        if leavers == 10_000:
            world.say("10,000 leavers x 15 applications", took, "s")
        else:
            world.say(f"{leavers:,} leavers x 15 applications", took, "s")
            world.say("10,000 leavers x 15 applications", took * scale, "s")
            world.rows[-1]["note"] = f"computed from {leavers:,} leavers"
        world.say("mass leave: deliveries a second", leavers * TYPICAL_ACCOUNTS / took, "/s")
        world.say("mass leave: all credentials dead after", planned_after, "s")
        for name, during in meanwhile.took.items():
            before = quiet.took[name]
            if before and during:
                world.say(f"{name} p50 at rest", 1e3 * statistics.median(before), "ms")
                world.say(f"{name} p99 at rest", 1e3 * quantile(before, 0.99), "ms")
                world.say(f"{name} p50 during the mass leave", 1e3 * statistics.median(during), "ms")
                world.say(f"{name} p99 during the mass leave", 1e3 * quantile(during, 0.99), "ms")
                world.say(f"{name} max during the mass leave", 1e3 * max(during), "ms")


def measure_rest(world: World) -> None:
    """Memory of the embedded default some seconds after its start, and how long a start takes; median of three."""
    started = [_start(world.environment) for _ in range(3)]
    world.say("start", statistics.median(one.seconds for one in started), "s")
    world.say("start, processor time", statistics.median(one.processor_seconds for one in started), "s")
    world.say("memory at rest", statistics.median(one.resident for one in started), "MB")
    world.say("memory at rest, its share of what is shared (PSS)", statistics.median(o.share for o in started), "MB")
    if world.kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="idhub-first-") as empty:
            first = _start({"IDHUB_DATA_DIR": empty}, rest=0)
        world.say("first start, which migrates and makes keys", first.seconds, "s")


@dataclass(frozen=True)
class Started:
    """A hub that was started and left alone for some seconds: time until it answered, memory in MB afterwards."""

    seconds: float
    processor_seconds: float
    resident: float
    share: float


def _start(environment: dict[str, str], *, rest: float = 4) -> Started:
    port = free_port()
    with tempfile.NamedTemporaryFile() as log, Server("idhub", port, Path(log.name)) as server:
        began = time.monotonic()
        command: list[str | Path] = [_PROGRAM, "serve", "--port", str(port)]
        server.start(command, env={**environment, "IDHUB_ISSUER": f"http://127.0.0.1:{port}"})
        wait_until(
            lambda: httpx2.get(f"http://127.0.0.1:{port}/healthz").is_success, seconds=60, what="the hub answers"
        )
        took = time.monotonic() - began
        assert server._process is not None
        process = Path(f"/proc/{server._process.pid}")
        user, system = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
        spent = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        time.sleep(rest)
        held = dict(re.findall(r"^(Rss|Pss):\s+(\d+)", (process / "smaps_rollup").read_text(), re.MULTILINE))
        return Started(took, spent, int(held["Rss"]) / 1024, int(held["Pss"]) / 1024)


def measure_growth(world: World, history: int) -> None:
    """What a leave costs the processor before and after a history of so many deliveries, events and plan rows."""
    hub, now = world.hub, datetime.now(UTC)
    with hub.database.transaction() as session:
        seed_access(session, range(5_000, 5_200), range(TYPICAL_ACCOUNTS), now=now)
    analyze(hub.database)
    before = _leaves(world, range(5_000, 5_100))
    seed_history(hub, history, people=world.people, now=now)
    after = _leaves(world, range(5_100, 5_200))
    for name, one, other in zip(("offboarding", "delivery"), before, after, strict=True):
        world.say(f"{name}, processor time", 1e3 * one, "ms")
        world.say(f"{name}, processor time, after {history:,} deliveries", 1e3 * other, "ms")


def _leaves(world: World, numbers: Sequence[int]) -> tuple[float, float]:
    """Processor seconds of one offboarding, and of one delivery with its receipt's share."""
    caller = commands.Caller(subject=LOCAL, actor=COMMAND_LINE, door="cli")
    took = []
    for number in numbers:
        began = time.thread_time()
        with world.hub.database.transaction() as session:
            commands.offboard(session, caller, person_id(number), now=datetime.now(UTC))
        took.append(time.thread_time() - began)
    last = person_id(numbers[-1])

    async def delivered() -> float:
        async with OutboundHttp(world.settings) as http:
            worker = Worker(world.hub, http)
            began = time.process_time()
            await worker.start()
            ours = Case.principal_id.between(person_id(numbers[0]), last)
            while await asyncio.to_thread(world.count, ours, Case.state == "running"):  # noqa: ASYNC110 - in the database
                await asyncio.sleep(0.1)
            spent = time.process_time() - began
            await worker.stop()
            return spent

    return statistics.median(took), asyncio.run(delivered()) / (len(numbers) * TYPICAL_ACCOUNTS)


def measure_reevaluate(world: World) -> None:
    """`idhub apply` with one changed rule among those of 300 applications: everybody is looked at again."""
    blocks = [
        {
            "slug": f"app-{n}",
            "name": {"en": f"Application {n}", "zh": f"应用 {n}"},
            "entitle": [{"role": "member", "rule": f'employments.title eq "title {n}"'}],
        }
        for n in range(_FAN_OUT)
    ]
    document = world.folder / "apps.yaml"
    for changed in (False, True):
        if changed:
            blocks[7]["entitle"] = [{"role": "member", "rule": 'employments.employeeNumber sw "QY00000"'}]
        document.write_text(json.dumps({"applications": blocks}), encoding="utf-8")
        began = time.monotonic()
        done = subprocess.run(
            [_PROGRAM, "apply", str(document)], env={**world.environment, "PATH": ""}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr)
        if changed:
            took = time.monotonic() - began
            world.say(f"rules of 300 applications over {world.people:,} people", took, "s")


def _durable_postgres() -> AbstractContextManager[PostgresServer]:
    """A server as one is run: on the disk, every commit synced."""
    on = dict.fromkeys(("fsync", "full_page_writes", "synchronous_commit", "autovacuum"), "on")
    return postgres_server(on_disk=True, max_wal_size="1GB", **on)


@contextmanager
def world_of(kind: Kind, people: int, *, applications: int = _FAN_OUT, are_empty: bool = False) -> Iterator[World]:
    """A seeded installation on the disk, with its applications running; in empty ones nobody has an account yet."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="idhub-leaving-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        running = stack.enter_context(instant_applications(applications, are_empty=are_empty))
        url = stack.enter_context(_durable_postgres()).create("bench") if kind == "postgresql" else ""
        settings = Settings(data_dir=folder, database_url=url, outbound_allow=running.allow)
        hub = open_hub(settings)
        stack.callback(hub.close)
        now = datetime.now(UTC)
        with hub.database.transaction() as session:
            seed_people(session, people, now=now)
            seed_applications(session, hub, running, now=now)
        analyze(hub.database)
        yield World(kind, folder, settings, running, people, hub)


def measure(
    names: Sequence[str] = NAMES,
    kinds: Sequence[Kind] = ("sqlite", "postgresql"),
    *,
    people: int = 120_000,
    leavers: int = 1_000,
    history: int = 1_000_000,
) -> list[Row]:
    """Measure the named lines on each database; rows as `make bench` collects them."""
    steps: dict[str, Callable[[World], None]] = {
        "rest": measure_rest,
        "fan_out": measure_fan_out,
        "fan_out_behind": lambda world: measure_fan_out(world, behind=_LEFT_BEFORE),
        "offboard": measure_offboard,
        "mass_leave": lambda world: measure_mass_leave(world, leavers),
        "reevaluate": measure_reevaluate,
        "growth": lambda world: measure_growth(world, history),
    }
    rows: list[Row] = []
    for kind in kinds:
        print(f"{kind}: {people:,} people, {_FAN_OUT} applications", flush=True)
        with world_of(kind, people) as world:
            for name, step in steps.items():
                if name in names:
                    step(world)
            rows += world.rows
    return rows


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NAMES, action="append")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--people", type=int, default=120_000)
    parser.add_argument("--leavers", type=int, default=1_000)
    parser.add_argument("--history", type=int, default=1_000_000)
    options = parser.parse_args()
    measure(
        options.only or NAMES,
        options.database or ("sqlite", "postgresql"),
        people=options.people,
        leavers=options.leavers,
        history=options.history,
    )


if __name__ == "__main__":
    main()
