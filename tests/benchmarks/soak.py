"""`make soak-races`: people leave while two hundred clients use all they have. Prints how long access outlives them.

    python -m tests.benchmarks.soak [--database sqlite] [--leaves 1000] [--processes 3] [--clients 200]
        [--pause 0.5]

Runs on SQLite (several `idhub serve` on one file) and on PostgreSQL, reads the whole history (`soak_history`), prints
p50, p99 and the maximum and writes them to `build/soak.json`. Exit status 1 when a single use that began after an
ending had been answered succeeded, or when the run proved nothing.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.soak_history import Finding, check, percentiles
from tests.benchmarks.soak_load import GROUPS, KINDS, Load
from tests.support.cluster import (
    Cluster,
    authorize,
    introspect,
    redeem,
    refresh,
    running_cluster,
    session_cookie,
    userinfo,
)
from tests.support.databases import DatabaseKind, Databases
from tests.support.wire import Wire, forwarded, get

SETTINGS = {"IDHUB_TRUSTED_PROXIES": "127.0.0.1/32"}
CONFIGURATION_SECONDS = 1.0
"""How old configuration may be in a process; what rests on it alone may go on for as long."""
_BUILD = Path(__file__).resolve().parents[2] / "build"
Say = Callable[[str], None]


def soak(
    cluster: Cluster, *, clients: int, leaves: int, withdrawals: int, say: Say, pause: float = 0.0
) -> tuple[Finding, dict[str, Any]]:
    """Hammer one cluster; see `Load` for `clients` and `pause`.

    Returns:
        What the checker found of both kinds of ending, and the figures.

    Raises:
        AssertionError: the history does not prove that endings end; says why.
    """
    load = Load(cluster, clients=clients, pause=pause, say=say)
    began = time.monotonic()
    load.run(leaves=leaves, withdrawals=withdrawals)
    seconds = time.monotonic() - began
    found = check(load.uses, load.leaves, groups=GROUPS)
    if not found.holds:
        raise AssertionError(found.complaint())
    waits, untold = load.told()
    if untold:
        raise AssertionError(f"{len(untold)} leavers of whom an application was not told")
    figures: dict[str, Any] = {
        "processes": len(cluster.ports),
        "clients": load.clients,
        "pause_ms": round(1000 * pause),
        "kinds_of_use": len(KINDS),
        "leaves": found.endings,
        "leaves_that_prove_nothing": found.proving_nothing,
        "uses": found.uses,
        "uses_a_second": round(found.uses / seconds),
        "answers_that_say_nothing": found.unknown,
        "uses_begun_within_10_ms_after": found.attempts_after,
        "succeeded_after_the_answer": len(found.violations),
        "offboarding_call_ms": percentiles(found.took),
        "zero_access_ms": {group: percentiles(values) for group, values in sorted(found.zero.items())},
        "alive_after_the_answer_ms": {
            "same process": percentiles(found.late_here),
            "other processes": percentiles(found.late_elsewhere),
        },
        "back_channel_logout_ms": percentiles(waits),
    }
    if withdrawals:
        withdrawn = check(load.uses, load.withdrawals, groups=GROUPS)
        if not withdrawn.holds:
            raise AssertionError(f"withdrawal: {withdrawn.complaint()}")
        figures["withdrawals"] = withdrawn.endings
        figures["withdrawal_zero_access_ms"] = percentiles(withdrawn.zero["all"])
    return found, figures


def measure_configuration(cluster: Cluster, *, rounds: int) -> dict[str, Any]:
    """How long something works on after its client or application was disabled, in any process.

    What rests on grants must be over at once; that the client itself is still recognised may take a second.

    Raises:
        AssertionError: either took longer.
    """
    return asyncio.run(_measure_configuration(cluster, rounds))


async def _measure_configuration(cluster: Cluster, rounds: int) -> dict[str, Any]:
    grants: list[float] = []
    clients: list[float] = []
    wires = [await Wire(port).connect() for port in cluster.ports]
    people = cluster.employees(rounds)
    sessions = cluster.sign_in(people)
    secret = cluster.applications["wiki"]
    for number, session in enumerate(sessions):
        code = (await wires[0].send(authorize("wiki", session))).query["code"]
        redeemed = await wires[0].send(redeem("wiki", secret, code))
        assert redeemed.status == 200, f"the client is back, and refused: {redeemed.status} {redeemed.text}"
        tokens = redeemed.json()
        requests = {
            "userinfo": userinfo(tokens["access_token"]),
            "sign-on": authorize("wiki", session, prompt="none"),
            "introspection": introspect("wiki", secret, tokens["access_token"]),
            "refresh": refresh("wiki", secret, tokens["refresh_token"]),
        }
        for wire in wires:
            # Every process has the registration in mind.
            assert b'"active":true' in (await wire.send(requests["introspection"])).body
        wish = cluster.wish("wiki", is_enabled=number % 2 == 0)
        await asyncio.to_thread(cluster.configure, replace(wish, oidc=None) if number % 2 == 0 else wish)
        disabled = time.monotonic()
        last_grant = last_client = disabled
        asked = 0
        while time.monotonic() - disabled < CONFIGURATION_SECONDS + 0.2:
            for wire in wires:
                for name, request in requests.items():
                    began = time.monotonic()
                    # Each from somewhere else: a client that is gone is a wrong secret, and from one place they are
                    # soon not looked at any more, so that nothing would be seen of what still works.
                    asked += 1
                    address = f"10.{number % 250}.{asked // 250 % 250}.{asked % 250}"
                    answer = await wire.send(forwarded(request, address))
                    assert answer.status != 429, f"{name} was not looked at: {answer.text}"
                    if name == "introspection" and answer.status == 200:
                        last_client = began
                    works = b'"active":true' in answer.body if name == "introspection" else answer.status == 200
                    if works or "code=" in answer.location:
                        last_grant = began
                answer = await wire.send(get("/account/sessions", cookies=session_cookie(session)))
                assert answer.status == 200, "the session goes on"
        grants.append(last_grant - disabled)
        clients.append(last_client - disabled)
        await asyncio.to_thread(cluster.configure, cluster.wish("wiki"))
        await asyncio.sleep(CONFIGURATION_SECONDS)
    for wire in wires:
        wire.close()
    assert max(grants) == 0.0, f"tokens of something disabled worked for {max(grants):.3f} s"
    # An application that is disabled keeps its client recognised: what it asks about is inactive all the same.
    recognised = clients[::2]
    assert max(recognised) <= CONFIGURATION_SECONDS, f"a disabled client was recognised for {max(recognised):.3f} s"
    return {"grants_after_disabling_ms": percentiles(grants), "client_recognised_ms": percentiles(recognised)}


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--leaves", type=int, default=1000)
    parser.add_argument("--withdrawals", type=int, default=50)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two uses of a client")
    parser.add_argument("--rounds", type=int, default=10, help="of disabling a client or an application")
    chosen = parser.parse_args()
    kinds: list[DatabaseKind] = ["sqlite", "postgresql"] if chosen.database == "both" else [chosen.database]
    results: dict[str, Any] = {}
    status = 0
    for kind in kinds:
        memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
        folder = Path(tempfile.mkdtemp(prefix="idhub-soak-", dir=memory if memory.is_dir() else None))
        databases = Databases(folder)
        try:
            (folder / "hub").mkdir()
            with running_cluster(
                kind, databases, folder / "hub", processes=chosen.processes, settings=SETTINGS
            ) as cluster:
                _say(f"{kind}: {chosen.processes} processes, {chosen.clients} clients, {chosen.leaves} leaves")
                _, figures = soak(
                    cluster,
                    clients=chosen.clients,
                    leaves=chosen.leaves,
                    withdrawals=chosen.withdrawals,
                    pause=chosen.pause,
                    say=lambda text, kind=kind: _say(f"{kind}: {text}"),  # type: ignore[misc]
                )
                if chosen.rounds:
                    figures["configuration"] = measure_configuration(cluster, rounds=chosen.rounds)
                results[kind] = figures
                print(json.dumps({kind: figures}, indent=2))
        except AssertionError as failure:
            status = 1
            results[kind] = {"failure": str(failure)}
            print(f"{kind}: FAILED\n{failure}")
        finally:
            databases.close()
            shutil.rmtree(folder, ignore_errors=True)
    _BUILD.mkdir(exist_ok=True)
    (_BUILD / "soak.json").write_text(json.dumps(results, indent=2) + "\n")
    return status


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
