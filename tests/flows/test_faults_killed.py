"""SIGKILL at every fault point of an import, a sign-in, an offboarding and a rehire, on both databases. D01, D02.

First each flow runs undisturbed while its processes note every point they pass: that is the list, nobody writes it.
Then a copy of the prepared hub is made for every point, one process of it dies there, and a new one is started in its
place. Everything must come to rest by itself, be what was asked for, and pass `fault_checks`.

`make test` tries every function's commit or send once, on one of the databases and on one side, which rotate by day;
`make soak` (SOAK=1) tries all of them. FAULTS_ROTATION=n repeats the choice of a day, FAULTS_ONLY=text tries the points
whose names contain it.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pytest

from tests.flows.fault_checks import check
from tests.flows.fault_flows import FLOWS, Flow
from tests.flows.fault_scene import Prepared, Role, Scene, copied, prepare
from tests.support.databases import DatabaseKind, Databases
from tests.support.nursery import Nursery

ALL = os.environ.get("SOAK") == "1"
ROTATION = int(os.environ.get("FAULTS_ROTATION", date.today().toordinal()))  # noqa: DTZ011 - any day will do
ONLY = os.environ.get("FAULTS_ONLY")
AT_ONCE = 8
"""Trials beside each other; most of the time they wait for a lease to end."""
ORDINALS = 2
"""A point that is passed again and again (a poll) is tried at its first passages."""
MUST_BE_THERE = {
    "import": ("hr_import:_Run._apply", "hr_import:_Run._finish"),
    "sign-in": (
        "login:_Entrance._finish",
        "Authorization._issuing",
        "Grants._authorization_code",
        "Grants._refresh_token",
    ),
    "offboarding": (
        "offboard_person",
        "cli.console:write",
        "leasing:lease",
        "settling:settle_all",
        "deprovision:_switch_off send",
        "BackchannelLogoutChannel.send send",
        "receipts:sign_due",
        "Sequencer._pieces",
        "Sequencer._checkpoint",
    ),
    "rehire": ("onboard_person", "provision:", "settling:settle_all"),
}
"""Parts of names without which the list is not what it should be: kinds of commits and sends that exist."""


@dataclass(frozen=True)
class Point:
    """A place to die at."""

    flow: Flow
    role: Role
    name: str
    ordinal: int

    def __str__(self) -> str:
        return f"{self.flow.name}, {self.role}: {self.name} #{self.ordinal}"


@dataclass
class Figures:
    """What came of the trials of one database."""

    died: Counter[str] = field(default_factory=Counter)
    missed: list[Point] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    recovery: list[float] = field(default_factory=list)
    unknown: int = 0

    def report(self, kind: str, seconds: float) -> str:
        """The figures, as one line."""
        took = sorted(self.recovery) or [0.0]
        flows = ", ".join(f"{name} {self.died[name]}" for name in sorted(self.died))
        return (
            f"SIGKILL on {kind}: {sum(self.died.values())} points tried ({flows}), {len(self.missed)} not reached,"
            f" {len(self.violations)} violations; {self.unknown} requests cut off and asked again; at rest after"
            f" {took[len(took) // 2]:.1f} s in the middle, {took[-1]:.1f} s at most; {seconds:.0f} s in all"
        )


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Where hubs are born."""
    with Nursery() as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def prepared(
    request: pytest.FixtureRequest, nursery: Nursery, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    """The installation that trials copy."""
    kind: DatabaseKind = request.param
    return prepare(kind, tmp_path_factory.mktemp(f"prepared-{kind}-"), nursery, databases)


def play(scene: Scene, flow: Flow) -> None:
    """Run the flow to its end, whatever dies in between, and check everything."""
    if "serve" in scene.faults or "command" not in flow.roles:
        scene.start("serve")
    if "worker" in scene.faults:
        scene.start("worker")
        scene.settle()
    scene.arm()
    flow.act(scene)
    if "worker" not in scene.children:
        scene.start("worker")
    scene.settle()
    flow.check(scene)
    scene.settle()
    for role in tuple(scene.children):
        scene.stop(role)
    check(scene)


def _record(prepared: Prepared, folder: Path, flow: Flow, roles: Sequence[Role]) -> list[Point]:
    """The points that processes of these roles pass, noted while nothing goes wrong."""
    place = folder / f"record-{flow.name}-{'-'.join(roles)}"
    notes = {role: folder / f"{place.name}.{role}" for role in roles}
    for path in notes.values():
        path.touch()
    faults = {role: _faults(role, place, record=str(path)) for role, path in notes.items()}
    with copied(prepared, place, faults=faults) as scene:
        play(scene, flow)
    return [point for role, path in notes.items() for point in _noted(path, flow, role)]


def _noted(path: Path, flow: Flow, role: Role) -> list[Point]:
    most: dict[str, int] = {}
    for line, count in Counter(path.read_text().splitlines()).items():
        name = line.partition(" ")[2]  # after the number of the process
        most[name] = max(most.get(name, 0), min(count, ORDINALS))
    return [Point(flow, role, name, n) for name, count in sorted(most.items()) for n in range(1, count + 1)]


def _together(flow: Flow) -> Iterator[tuple[Role, ...]]:
    """Which roles one undisturbed run can note: a request and a command ask for the same thing, so not both."""
    asking = [role for role in flow.roles if role != "worker"]
    yield (asking[0], "worker")
    yield from ((role,) for role in asking[1:])


def _faults(role: Role, place: Path, **what: object) -> dict[str, object]:
    # A command is there for the flow alone; of the others counts what they pass once the flow has begun.
    return what if role == "command" else {**what, "arm": str(place / "armed")}


def _choose(points: Sequence[Point], kind: DatabaseKind) -> list[Point]:
    """Each function's commit or send once: the database, the side and the flow rotate."""
    by_function: dict[str, list[Point]] = {}
    for point in points:
        by_function.setdefault(point.name.rsplit(".", 1)[0], []).append(point)
    chosen = []
    for index, (_, sides) in enumerate(sorted(by_function.items())):
        if (index + ROTATION) % 2 == (kind == "postgresql"):
            chosen.append(sides[(ROTATION // 2 + index) % len(sides)])
    return chosen


def _try(prepared: Prepared, folder: Path, point: Point, number: int) -> Scene:
    place = folder / f"trial-{number}"
    faults = _faults(point.role, place, kill=point.name, ordinal=point.ordinal)
    with copied(prepared, place, faults={point.role: faults}) as scene:
        play(scene, point.flow)
        return scene


@pytest.mark.slow
@pytest.mark.timeout(3600 if ALL else 900)
def test_a_hub_killed_at_any_commit_or_send_completes_by_itself(
    prepared: Prepared, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        recordings = [pool.submit(_record, prepared, tmp_path, flow, r) for flow in FLOWS for r in _together(flow)]
        points = [point for recording in recordings for point in recording.result()]
        for flow, parts in MUST_BE_THERE.items():
            names = {point.name for point in points if point.flow.name == flow}
            missing = [part for part in parts if not any(part in name for name in names)]
            assert not missing, f"{flow} passes no {missing}"
        for name in {point.name for point in points}:
            other = name.replace(".before", "\0").replace(".after", ".before").replace("\0", ".after")
            assert any(point.name == other for point in points), f"{other} is never passed"

        figures = Figures()
        wanted = points if ALL or ONLY else _choose(points, prepared.kind)
        wanted = [point for point in wanted if ONLY is None or ONLY in str(point)]
        trials = {pool.submit(_try, prepared, tmp_path, point, n): point for n, point in enumerate(wanted)}
        for done, trial in enumerate(as_completed(trials), 1):
            point = trials[trial]
            try:
                scene = trial.result()
            except Exception as error:
                figures.violations.append(f"{point}\n{type(error).__name__}: {error}")
                continue
            figures.unknown += scene.unknown
            if scene.deaths:
                figures.died[point.flow.name] += 1
                figures.recovery.append(scene.recovery_seconds)
            else:
                figures.missed.append(point)
            if ALL and done % 20 == 0:
                print(f"  {prepared.kind}: {done} of {len(wanted)} points", file=sys.__stderr__, flush=True)
    figure(figures.report(prepared.kind, time.monotonic() - began))
    assert not figures.violations, "\n\n".join(figures.violations[:5])
    # A poll may pass a point fewer times in a trial than when it was noted; hardly ever not at all.
    never = [str(point) for point in figures.missed if point.ordinal == 1]
    assert len(never) <= len(wanted) // 10, never
