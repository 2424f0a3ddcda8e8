"""`make bench`: idhub beside npm oidc-provider and django-oauth-toolkit, on this machine, in turn.

    python -m tests.benchmarks.bench [quick] [NAME ...]

One process each, pinned to one core; the load generator (and PostgreSQL) on another; keep-alive, no TLS. Each line is
measured in rounds (idhub, peer, peer, idhub, peer, peer, ...), and the median of the rounds counts; whoever is not
measured at that moment is stopped (SIGSTOP). The table goes to stdout, the figures to build/bench.json.

    quick    one second a round instead of two, and no lines of other modules
    NAME     only the lines whose name contains it

The lines of other modules run at a size that fits the quarter of an hour, which their rows name; each module takes the
full size by itself (`python -m tests.benchmarks.audit`, `.search`, `.import_people`, `.scim_pages`,
`.leaving`).
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from idhub.interpreter import described
from idhub.login.argon2id import fastest
from tests.benchmarks.subjects import Subject, core_of_load, core_of_subjects, subjects

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "bench"
RESULT = ROOT / "build" / "bench.json"
OTHERS = ("start", "leaving", "audit", "import_people", "search", "scim_pages", "ghosts", "saml", "initial_load")
"""Parts of `tests.benchmarks.others`: what is measured without a peer."""
_LONGEST_PART = 240.0


@dataclass(frozen=True)
class Line:
    """One line of the table: what is measured, how, and what it should reach beside oidc-provider."""

    name: str
    title: str
    kind: str
    """Which plan of a subject."""
    target: float
    connections: int = 32
    is_flow: bool = False


LINES = (
    Line("client_credentials_opaque", "client_credentials, opaque token", "opaque", 2.5),
    Line("client_credentials_es256", "client_credentials, JWT ES256", "es256", 1.8),
    Line("client_credentials_rs256", "client_credentials, JWT RS256", "rs256", 1.3),
    Line("introspection", "introspection", "introspection", 2.5),
    Line("userinfo", "userinfo", "userinfo", 2.0),
    Line("discovery", "discovery", "discovery", 4.0),
    Line("jwks", "JWKS", "jwks", 3.0),
    Line("sso_renewal", "SSO re-login: authorize with session, code, token", "renew", 1.5, 16, True),
    Line("login_without_hashing", "login: authorize, form, code, token; hash of no cost", "cheap", 1.5, 16, True),
    Line("login_argon2id", "login: the same with argon2id 19 MiB t=2", "real", 0.95, 16, True),
)


@dataclass
class Options:
    """How long, and which lines."""

    seconds: float = 2.0
    rounds: int = 3
    names: Sequence[str] = ()
    has_others: bool = True

    def wants(self, name: str) -> bool:
        """Whether a line is wanted."""
        return not self.names or any(wanted in name for wanted in self.names)


@dataclass
class Results:
    """Figures as they come, and where they end."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """What gave no figures, and why: said at the end, after every figure that there is."""

    def add(self, **row: Any) -> None:
        """Keep a row, and write all of them: whoever interrupts the run keeps what there is."""
        self.rows.append(row)
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(self.rows, indent=1, ensure_ascii=False) + "\n")


_PEERS_SECOND_CHANCES = 2


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def generate(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Run the load generator on its core.

    Raises:
        SystemExit: an answer was wrong.
    """
    done = subprocess.run(
        ["taskset", "-c", str(core_of_load()), sys.executable, "-m", "tests.benchmarks.load"],
        input=json.dumps(plan), capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"The load generator ended: {done.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def measure_line(line: Line, those: Sequence[Subject], options: Options) -> dict[str, list[dict[str, Any]]]:
    """Rates of every subject that has this line, round after round."""
    figures: dict[str, list[dict[str, Any]]] = {one.name: [] for one in those}
    for _ in range(options.rounds):
        for one in those:
            with one.awake():
                plan = {
                    "port": one.port,
                    "connections": line.connections,
                    "seconds": options.seconds,
                    "warmup": 1.0 if line.is_flow else 0.5,
                    "load": one.plan(line.kind),
                }
                figures[one.name].append(_round(one, plan)["load"])
    return figures


def _round(one: Subject, plan: Mapping[str, Any]) -> dict[str, Any]:
    """One round. A peer's is taken again, twice at most, when it answers wrongly; a hub that does ends the run.

    oidc-provider keeps the last thousand things in memory, so that where the machine stands still for half a second
    it has forgotten a sign-in that is under way.
    """
    for _ in range(0 if one.is_hub else _PEERS_SECOND_CHANCES):
        try:
            return generate(plan)
        except SystemExit as error:
            say(f"    {one.name} once more: {str(error).splitlines()[0]}")
    return generate(plan)


def median(figures: Sequence[Mapping[str, Any]]) -> float:
    """The median rate of the rounds."""
    return float(statistics.median(one["rate"] for one in figures))


def compare(line: Line, every: Sequence[Subject], options: Options, results: Results) -> None:
    """Measure a line and keep a row for each of idhub's databases and each peer."""
    those = [one for one in every if one.has(line.kind)]
    say(f"{line.title} ...")
    figures = measure_line(line, those, options)
    for hub in (one for one in those if one.is_hub):
        own = median(figures[hub.name])
        for peer in (one for one in those if not one.is_hub):
            other = median(figures[peer.name])
            row = {
                "name": line.name, "idhub": round(own, 1), "peer": peer.peer, "peer_value": round(other, 1),
                "ratio": round(own / other, 2), "database": hub.database, "durability": hub.durability,
                "unit": "logins/s" if line.is_flow else "requests/s", "target": line.target if peer.is_first else None,
                "p99_ms": round(statistics.median(one["p99_ms"] for one in figures[hub.name]), 2),
            }  # fmt: skip
            results.add(**row)
            say(f"    {hub.database:<11} {own:>10,.0f}   {peer.peer} {other:>10,.0f}   {own / other:>6.2f}x")


def hash_floor(seconds: float) -> float:
    """Verifications of argon2id a second that one core makes when it does nothing else."""
    code = (
        "import sys,time\nfrom idhub.login.passwords import HashingPool\nfrom idhub.settings import Settings\n"
        "pool=HashingPool(Settings());stored=pool.hash('quiet harbour lantern').result()\n"
        "end=time.perf_counter()+float(sys.argv[1]);began=time.perf_counter();n=0\n"
        "while time.perf_counter()<end:\n pool.verify('quiet harbour lantern',stored).result();n+=1\n"
        "print(n/(time.perf_counter()-began))"
    )
    command = ["taskset", "-c", str(core_of_subjects()), sys.executable, "-c", code, str(seconds)]
    return float(subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout)


def overload(every: Sequence[Subject], options: Options, results: Results) -> None:
    """Logins with argon2id until the queue is full: how many of the hash floor succeed, and what others notice."""
    # Not those with cheap hashes: whoever signs in there has a cheap one from then on.
    for hub in (one for one in every if one.is_hub and one.has("real")):
        floor = hash_floor(options.seconds)
        for connections, name in ((16, "login_argon2id_of_floor"), (160, "login_argon2id_overload")):
            with hub.awake():
                plan = {
                    "port": hub.port, "connections": connections, "seconds": max(4.0, 2 * options.seconds),
                    "warmup": 2.0, "load": hub.plan("real"),
                    "probes": [{**hub.plan(kind), "rate": 50} for kind in ("opaque", "introspection", "discovery")],
                }  # fmt: skip
                figures = generate(plan)
            load, worst = figures["load"], max(one["p99_ms"] for one in figures["probes"])
            results.add(
                name=name, idhub=round(load["rate"], 1), peer="argon2id floor of the core", peer_value=round(floor, 1),
                ratio=round(load["rate"] / floor, 2), database=hub.database, durability=hub.durability,
                unit="logins/s", hashing=fastest(),
                target=0.95 if connections == 16 else None, refused=load.get("refused", {}),
                others_p99_ms=[round(one["p99_ms"], 1) for one in figures["probes"]],
            )  # fmt: skip
            say(
                f"    {hub.database:<11} {connections} browsers: {load['rate']:.1f} logins/s of {floor:.1f} hashes/s; "
                f"503: {load.get('refused', {}).get('503', 0)}; p99 of other endpoints <= {worst:.1f} ms"
            )


def generator_speed(seconds: float) -> float:
    """Requests a second of the generator against a server that does nothing."""
    from tests.support.processes import free_port, running

    port = free_port()
    command = ["taskset", "-c", str(core_of_subjects()), sys.executable, "-m", "tests.benchmarks.load"]
    with running([*command, "--serve", str(port)], port=port, log=BUILD / "trivial.log"):
        plan = {"port": port, "connections": 32, "seconds": seconds, "warmup": 0.3,
                "load": {"kind": "fixed", "path": "/", "marker": "hello"}}  # fmt: skip
        return float(generate(plan)["load"]["rate"])


def others(options: Options, results: Results) -> None:
    """Lines without a peer. Each part is a process of its own: what one leaves behind slows no other."""
    for name in OTHERS:
        if not options.wants(name):
            continue
        say(f"{name} ...")
        command = [sys.executable, "-m", "tests.benchmarks.others", name]
        began = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=_LONGEST_PART)
        except subprocess.TimeoutExpired:
            results.missing.append(f"{name} took longer than {_LONGEST_PART:.0f} s")
            continue
        if done.returncode != 0:
            results.missing.append(f"{name} ended: {done.stderr[-3000:]}")
            continue
        say(f"    {time.monotonic() - began:.0f} s")
        for row in json.loads(done.stdout.splitlines()[-1]):
            results.add(
                name=row["name"], idhub=row["value"], peer=None, peer_value=None, ratio=None,
                database=row["database"], durability=row["durability"], unit=row["unit"],
            )  # fmt: skip
            say(f"    {row['database']:<11} {row['name']}: {row['value']:,} {row['unit']}")


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The rows for people."""
    yield f"{'line':<28} {'database':<11} {'idhub':>12} {'peer':>12} {'ratio':>7} {'target':>7}  peer"
    for row in rows:
        value = f"{row['idhub']:,.1f}" if isinstance(row["idhub"], int | float) else str(row["idhub"])
        peer = "" if row["peer_value"] is None else f"{row['peer_value']:,.1f}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
        target = f"{row['target']:.2f}x" if row.get("target") else ""
        name = row["peer"] or row.get("unit", "")
        yield f"{row['name']:<28} {row['database']:<11} {value:>12} {peer:>12} {ratio:>7} {target:>7}  {name}"


@contextmanager
def _pinned() -> Iterator[None]:
    # What is started from here (PostgreSQL) stays off the core that is measured.
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core_of_load()})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def main() -> None:
    """Measure what was asked for."""
    words = sys.argv[1:]
    is_quick = "quick" in words
    options = Options(names=[word for word in words if word != "quick"], has_others=not is_quick)
    if is_quick:
        options.seconds = 1.0
    began, results = time.monotonic(), Results()
    lines = [line for line in LINES if options.wants(line.name)]
    with ExitStack() as stack:
        stack.enter_context(_pinned())
        every = stack.enter_context(subjects(BUILD, {line.kind for line in lines} | {"real"}, say))
        say(f"load generator alone: {generator_speed(options.seconds):,.0f} requests/s")
        for line in lines:
            compare(line, every, options, results)
        if options.wants("login_argon2id"):
            say(f"login with argon2id, by {fastest()}, beside other requests ...")
            overload(every, options, results)
    if options.has_others:
        others(options, results)
    print()
    for hub in every:
        if hub.is_hub:
            print(f"idhub on {hub.database}: {hub.durability}; audit: every token and sign-in is an event, sealed")
    print(f"idhub runs on {described()}")
    print("\n".join(table(results.rows)))
    print(f"\n{RESULT.relative_to(ROOT)}: {len(results.rows)} rows; {time.monotonic() - began:.0f} s")
    if results.missing:
        sys.exit("\n".join(["without figures:", *results.missing]))


if __name__ == "__main__":
    main()
