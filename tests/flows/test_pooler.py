"""Behind PgBouncer in transaction mode everything works as it does at the server itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.flows.fault_checks import check
from tests.flows.fault_clients import asking, lost_people, wait_for_all
from tests.flows.fault_flows import FLOWS
from tests.flows.fault_scene import SIGNER, Prepared, Scene, copied, prepare, sign_in
from tests.support.databases import Databases
from tests.support.nursery import Nursery
from tests.support.pgbouncer import pgbouncer

CONNECTIONS = 3
SECONDS = 3.0


@pytest.fixture(scope="module")
def prepared(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """The installation that is copied."""
    with Nursery() as nursery:
        yield prepare("postgresql", tmp_path_factory.mktemp("prepared-pooler-"), nursery, databases)


@contextmanager
def pooled(prepared: Prepared, folder: Path) -> Iterator[Scene]:
    """A copy whose processes reach the database through a pooler, but for connections that keep something."""
    server = prepared.databases.server.port
    with pgbouncer(server, connections=CONNECTIONS) as port, copied(prepared, folder) as scene:
        scene.more_settings = {
            "IDHUB_DATABASE_URL": scene.url.replace(f":{server}/", f":{port}/"),
            "IDHUB_DATABASE_DIRECT_URL": scene.url,
        }
        scene.start("serve")
        scene.start("worker")
        yield scene
        for role in tuple(scene.children):
            scene.stop(role)
        check(scene)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["import", "sign-in", "rehire"])
def test_every_flow_goes_through_a_pooler(prepared: Prepared, tmp_path: Path, name: str) -> None:
    flow = next(flow for flow in FLOWS if flow.name == name)
    with pooled(prepared, tmp_path / "hub") as scene:
        flow.act(scene)
        scene.settle()
        flow.check(scene)


@pytest.mark.slow
def test_many_share_the_few_connections_of_a_pooler(prepared: Prepared, tmp_path: Path) -> None:
    """Nothing that one of them has set meets the next one, and nobody waits for a connection with one in hand."""
    offboarding = next(flow for flow in FLOWS if flow.name == "offboarding")
    with pooled(prepared, tmp_path / "hub") as scene:
        tokens = sign_in(scene, SIGNER)
        token = tokens["access_token"]
        with asking(scene, token) as clients, asking(scene, token, first=50_000) as others:
            offboarding.act(scene)
            time.sleep(SECONDS)
            scene.settle()
            wait_for_all(clients, since=time.monotonic(), seconds=10)
        assert not [client.wrong[:3] for client in [*clients, *others] if client.wrong], scene.tail()
        assert not sum(client.statuses[503] for client in [*clients, *others])
        assert lost_people(clients)[0] + lost_people(others)[0] == []
        offboarding.check(scene)


@pytest.mark.slow
def test_a_pooler_without_the_server_beside_it_is_told(prepared: Prepared, tmp_path: Path) -> None:
    server = prepared.databases.server.port
    with pgbouncer(server) as port, copied(prepared, tmp_path / "hub") as scene:
        scene.more_settings = {"IDHUB_DATABASE_URL": scene.url.replace(f":{server}/", f":{port}/")}
        assert scene.run("doctor") == 1
        assert "name the server itself in IDHUB_DATABASE_DIRECT_URL" in scene.tail()
