"""PostgreSQL stopped at once, started again or followed by its standby, while requests and the worker run. D03.

Nobody restarts the hub. While the database is away every answer is 503 with Retry-After, none takes long; afterwards
the pools recover by themselves, what was acknowledged is there, and what was not is there wholly or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.flows.fault_checks import check
from tests.flows.fault_clients import Client, asking, lost_people, wait_for_all
from tests.flows.fault_flows import FLOWS
from tests.flows.fault_scene import SIGNER, Prepared, Scene, copied, prepare, sign_in
from tests.support.databases import Databases
from tests.support.nursery import Nursery
from tests.support.postgres import PostgresServer, postgres_server, standby_of

STOPS = 3
AWAY_SECONDS = 1.5
RECOVERS_WITHIN = 10.0
LONGEST_ANSWER = 12.0
BACK_TO_WORK = 3.0
"""How long everything runs undisturbed between two stops."""


class OwnServer(Databases):
    """Databases on a server that this test may stop. What it acknowledges must survive that: synchronous commits."""

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        super().__init__(folder)
        self._server = server


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of this test's own."""
    with postgres_server(synchronous_commit="on") as running:
        yield running


@pytest.fixture
def prepared(server: PostgresServer, tmp_path: Path) -> Iterator[Prepared]:
    """An installation on it."""
    with Nursery() as nursery:
        yield prepare("postgresql", tmp_path / "prepared", nursery, OwnServer(tmp_path, server))


@pytest.mark.slow
def test_the_hub_recovers_by_itself_when_postgresql_is_stopped_at_once(
    prepared: Prepared, server: PostgresServer, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    offboarding = next(flow for flow in FLOWS if flow.name == "offboarding")
    with copied(prepared, tmp_path / "hub") as scene:
        # A database copied from a template keeps what its sequences had logged ahead in the original: until the next
        # checkpoint PostgreSQL 15 would hand out the same numbers again after a crash. Copying is the test's doing.
        server.checkpoint()
        scene.start("serve")
        scene.start("worker")
        tokens = sign_in(scene, SIGNER)
        recovered: list[float] = []
        with asking(scene, tokens["access_token"]) as clients:
            for _ in range(STOPS):
                time.sleep(BACK_TO_WORK)
                server.stop_at_once()
                time.sleep(AWAY_SECONDS)
                server.start_again()
                recovered += wait_for_all(clients, since=time.monotonic(), seconds=RECOVERS_WITHIN).values()
            # The worker recovers too: what is planned now reaches the applications.
            offboarding.act(scene)
            worker_seconds = scene.settle()
        _are_well(scene, clients)
        offboarding.check(scene)
        scene.settle()
        lost, resolved = lost_people(clients)
        for role in tuple(scene.children):
            scene.stop(role)
        check(scene)
    figure(
        f"PostgreSQL stopped at once {STOPS} times: {_told(clients, recovered, lost=len(lost), resolved=resolved)};"
        f" an offboarding delivered and signed {worker_seconds:.1f} s later"
    )
    assert not lost


@pytest.mark.slow
def test_the_hub_follows_a_failover_and_loses_nothing_acknowledged(
    prepared: Prepared, server: PostgresServer, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """Two servers are named; the one that works dies for good, and then its synchronous standby is promoted."""
    offboarding = next(flow for flow in FLOWS if flow.name == "offboarding")
    with copied(prepared, tmp_path / "hub") as scene, standby_of(server) as standby:
        name = scene.url.rpartition("/")[2]
        both = f"127.0.0.1:{server.port},127.0.0.1:{standby.port}"
        scene.url = f"postgresql://postgres@{both}/{name}?target_session_attrs=read-write"
        scene.start("serve")
        scene.start("worker")
        tokens = sign_in(scene, SIGNER)
        with asking(scene, tokens["access_token"]) as clients:
            time.sleep(BACK_TO_WORK)
            offboarding.act(scene)
            server.stop_at_once()
            # Until it is promoted there is a server that answers, and takes nothing.
            time.sleep(AWAY_SECONDS)
            standby.promote()
            recovered = wait_for_all(clients, since=time.monotonic(), seconds=RECOVERS_WITHIN).values()
            worker_seconds = scene.settle()
        _are_well(scene, clients)
        offboarding.check(scene)
        lost, resolved = lost_people(clients)
        for role in tuple(scene.children):
            scene.stop(role)
        check(scene)
    figure(
        f"PostgreSQL failed over: {_told(clients, recovered, lost=len(lost), resolved=resolved)};"
        f" an offboarding that was acknowledged before was delivered and signed after {worker_seconds:.1f} s"
    )
    assert not lost


def _are_well(scene: Scene, clients: list[Client]) -> None:
    wrong = {client.name: client.wrong[:3] for client in clients if client.wrong}
    assert not wrong, f"{wrong}\n{scene.tail()}"
    assert all(client.slowest < LONGEST_ANSWER for client in clients), [(c.name, c.slowest) for c in clients]
    assert scene.deaths == 0


def _told(clients: list[Client], recovered: Iterable[float], *, lost: int, resolved: int) -> str:
    (onboarded,) = [client for client in clients if client.name == "onboard"]
    return (
        f"{sum(len(c.acknowledged) for c in clients)} requests answered, {sum(c.statuses[503] for c in clients)} with"
        f" 503; every kind of request worked again after {max(recovered):.2f} s at most; slowest answer"
        f" {max(client.slowest for client in clients):.2f} s; {len(onboarded.acknowledged)} people acknowledged,"
        f" {lost} lost; of {len(onboarded.unknown)} unknown {resolved} had been committed"
    )
