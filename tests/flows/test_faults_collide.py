"""PostgreSQL ends one transaction in five for want of an order. D06."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.flows.fault_flows import FLOWS
from tests.flows.fault_scene import Prepared, Role, copied, prepare
from tests.flows.test_faults_killed import play
from tests.support.databases import Databases
from tests.support.nursery import Nursery

SHARE = 0.2


@pytest.fixture(scope="module")
def prepared(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """The installation that is copied."""
    with Nursery() as nursery:
        yield prepare("postgresql", tmp_path_factory.mktemp("prepared-collide-"), nursery, databases)


@pytest.mark.slow
def test_one_commit_in_five_collides_and_everything_completes(
    prepared: Prepared, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """Tried again with bounds, nothing by halves: every effect has its event, deliveries have their effect once."""
    commits = collided = refused = 0
    for seed, flow in enumerate(FLOWS):
        notes = tmp_path / f"{flow.name}.points"
        notes.touch()
        place = tmp_path / f"collide-{seed}"
        roles: tuple[Role, ...] = tuple(role for role in flow.roles if role != "command") or ("command",)
        faults = {"record": str(notes), "fail": SHARE, "seed": seed, "arm": str(place / "armed")}
        with copied(prepared, place, faults=dict.fromkeys(roles, faults)) as scene:
            play(scene, flow)
            refused += scene.refused
        lines = notes.read_text().splitlines()
        commits += sum(line.endswith("commit.before") for line in lines)
        collided += sum(line.endswith("failed") for line in lines)
    assert collided > commits * SHARE / 3, f"{collided} of {commits}"
    figure(
        f"PostgreSQL, {SHARE:.0%} of commits refused for want of an order: {commits} commits, {collided} collided,"
        f" {refused} requests answered 503; all {len(FLOWS)} flows complete, 0 violations"
    )
