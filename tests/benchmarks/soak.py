"""`make soak-races`: people leave while two hundred clients use all they have. Prints how long access outlives them.

    python -m tests.benchmarks.soak [--database sqlite] [--leaves 1000] [--processes 3] [--clients 200]
        [--pause 0.5] [--piece 250]

Runs on SQLite (several `idhub serve` on one file) and on PostgreSQL, reads the whole history (`soak_history`), prints
p50, p99 and the maximum and writes them to `build/soak.json`. Exit status 1 when a single use that began after an
ending had been answered succeeded, or when the run proved nothing.

With `--piece` a call makes so many leaves of the whole and ends with status 3 while more are to come; the next call,
with the same other arguments, goes on. Every piece is checked by itself, on a hub of its own; percentiles are over all
of them, `pieces` says how many there were, and `failed_pieces` what was wrong with those that were made again.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
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
_RESULTS = _BUILD / "soak.json"
_MORE = 3
"""Exit status: more pieces are to come."""
Say = Callable[[str], None]


@dataclass
class Piece:
    """What one run over one cluster measured, whole: figures of several are those of all their values."""

    processes: int
    clients: int
    pause_ms: int
    seconds: float
    leaves: int
    proving_nothing: int
    uses: int
    unknown: int
    attempts_after: int
    violations: int
    took: list[float]
    zero: dict[str, list[float]]
    late_here: list[float]
    late_elsewhere: list[float]
    waits: list[float]
    withdrawals: int = 0
    withdrawn: list[float] = field(default_factory=list)


def soak(
    cluster: Cluster, *, clients: int, leaves: int, withdrawals: int, say: Say, pause: float = 0.0
) -> tuple[Finding, Piece]:
    """Hammer one cluster; see `Load` for `clients` and `pause`.

    Returns:
        What the checker found of the leaves, and what was measured.

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
    piece = Piece(
        processes=len(cluster.ports),
        clients=load.clients,
        pause_ms=round(1000 * pause),
        seconds=seconds,
        leaves=found.endings,
        proving_nothing=found.proving_nothing,
        uses=found.uses,
        unknown=found.unknown,
        attempts_after=found.attempts_after,
        violations=len(found.violations),
        took=found.took,
        zero=dict(found.zero),
        late_here=found.late_here,
        late_elsewhere=found.late_elsewhere,
        waits=waits,
    )
    if withdrawals:
        withdrawn = check(load.uses, load.withdrawals, groups=GROUPS)
        if not withdrawn.holds:
            raise AssertionError(f"withdrawal: {withdrawn.complaint()}")
        piece.withdrawals, piece.withdrawn = withdrawn.endings, withdrawn.zero["all"]
    return found, piece


def figures_of(pieces: Sequence[Piece]) -> dict[str, Any]:
    """What `build/soak.json` says of one database."""
    uses, seconds = sum(one.uses for one in pieces), sum(one.seconds for one in pieces)

    def over(values: Callable[[Piece], list[float]]) -> dict[str, float]:
        return percentiles([value for one in pieces for value in values(one)])

    figures: dict[str, Any] = {
        "processes": pieces[0].processes,
        "clients": pieces[0].clients,
        "pause_ms": pieces[0].pause_ms,
        "pieces": len(pieces),
        "kinds_of_use": len(KINDS),
        "leaves": sum(one.leaves for one in pieces),
        "leaves_that_prove_nothing": sum(one.proving_nothing for one in pieces),
        "uses": uses,
        "uses_a_second": round(uses / seconds),
        "answers_that_say_nothing": sum(one.unknown for one in pieces),
        "uses_begun_within_10_ms_after": sum(one.attempts_after for one in pieces),
        "succeeded_after_the_answer": sum(one.violations for one in pieces),
        "offboarding_call_ms": over(lambda one: one.took),
        "zero_access_ms": {
            group: over(lambda one, group=group: one.zero[group])  # type: ignore[misc]
            for group in sorted(pieces[0].zero)
        },
        "alive_after_the_answer_ms": {
            "same process": over(lambda one: one.late_here),
            "other processes": over(lambda one: one.late_elsewhere),
        },
        "back_channel_logout_ms": over(lambda one: one.waits),
    }
    if any(one.withdrawals for one in pieces):
        figures["withdrawals"] = sum(one.withdrawals for one in pieces)
        figures["withdrawal_zero_access_ms"] = over(lambda one: one.withdrawn)
    return figures


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
    parser.add_argument("--piece", type=int, default=0, help="leaves of this call; 0: all of them")
    chosen = parser.parse_args()
    kinds: list[DatabaseKind] = ["sqlite", "postgresql"] if chosen.database == "both" else [chosen.database]
    _BUILD.mkdir(exist_ok=True)
    results: dict[str, Any] = json.loads(_RESULTS.read_text()) if _RESULTS.is_file() else {}
    status = 0
    for kind in kinds:
        kept = _BUILD / f"soak-{kind}.part.json"
        try:
            figures = _go_on(kind, chosen, kept)
        except AssertionError as failure:
            status = 1
            figures = {"failure": str(failure)}
            print(f"{kind}: FAILED\n{failure}")
        else:
            if figures is None:
                return _MORE
            kept.unlink(missing_ok=True)
        results[kind] = figures
        print(json.dumps({kind: figures}, indent=2))
        _RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    return status


def _go_on(kind: DatabaseKind, chosen: argparse.Namespace, kept: Path) -> dict[str, Any] | None:
    """Make the next piece; the figures when it was the last one."""
    order = {name: value for name, value in vars(chosen).items() if name not in {"database", "piece"}}
    state: dict[str, Any] = {"order": order, "pieces": [], "failures": []}
    if chosen.piece and kept.is_file() and (before := json.loads(kept.read_text()))["order"] == order:
        state = before
    pieces = [Piece(**one) for one in state["pieces"]]
    done = sum(one.leaves for one in pieces)
    leaves = min(chosen.piece or chosen.leaves, chosen.leaves - done)
    withdrawals = chosen.withdrawals * (done + leaves) // chosen.leaves - chosen.withdrawals * done // chosen.leaves
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    folder = Path(tempfile.mkdtemp(prefix="idhub-soak-", dir=memory if memory.is_dir() else None))
    databases = Databases(folder)
    try:
        (folder / "hub").mkdir()
        with running_cluster(kind, databases, folder / "hub", processes=chosen.processes, settings=SETTINGS) as cluster:
            if leaves:
                _say(
                    f"{kind}: {chosen.processes} processes, {chosen.clients} clients, {done} leaves done, {leaves} now"
                )
                _, piece = soak(
                    cluster,
                    clients=chosen.clients,
                    leaves=leaves,
                    withdrawals=withdrawals,
                    pause=chosen.pause,
                    say=lambda text: _say(f"{kind}: {text}"),
                )
                pieces.append(piece)
            if done + leaves < chosen.leaves:
                return None
            figures = {**figures_of(pieces), "failed_pieces": state["failures"]}
            if chosen.rounds:
                figures["configuration"] = measure_configuration(cluster, rounds=chosen.rounds)
            return figures
    except AssertionError as failure:
        state["failures"].append(str(failure))
        raise
    finally:
        if chosen.piece:
            state["pieces"] = [asdict(one) for one in pieces]
            kept.write_text(json.dumps(state))
        databases.close()
        shutil.rmtree(folder, ignore_errors=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
