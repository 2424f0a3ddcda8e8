"""What `make bench` measures without a peer, at sizes that fit into it: `python -m tests.benchmarks.others PART`.

Prints one line of JSON: rows with name, value, unit, database and durability.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

from tests.support.databases import DatabaseKind, Databases
from tests.support.processes import die_with_parent, free_port

KINDS: tuple[DatabaseKind, ...] = ("sqlite", "postgresql")
Rows = Sequence[Mapping[str, Any]]
_STARTS = 5


def start() -> Rows:
    """From the command to the first answer of `idhub serve`, on an installation that has been used."""
    with tempfile.TemporaryDirectory(prefix="idhub-start-") as folder:
        _started(Path(folder))
        took = [_started(Path(folder)) for _ in range(_STARTS)]
    row = {"name": "start: idhub serve answers", "value": round(statistics.median(took), 2), "unit": "s"}
    return [{**row, "database": "sqlite", "durability": "-"}]


def _started(folder: Path) -> float:
    port = free_port()
    command: list[str | Path] = [Path(sys.executable).parent / "idhub", "serve", "--port", str(port)]
    env = {**os.environ, "IDHUB_DATA_DIR": str(folder), "IDHUB_ISSUER": f"http://127.0.0.1:{port}"}
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl call
    )
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
            except (urllib.error.URLError, OSError):
                if time.perf_counter() - began > 60:
                    raise
                time.sleep(0.01)
            else:
                return time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(20)


def leaving() -> Rows:
    """Offboarding, fan-out, memory at rest with 120,000 people, and 200 leavers with 15 accounts each."""
    from tests.benchmarks.leaving import measure

    return measure(("rest", "offboard", "fan_out", "mass_leave"), leavers=200)


def audit() -> Rows:
    """The log, at a twentieth of the sizes of the targets."""
    os.environ["IDHUB_BENCH_SCALE"] = "0.05"
    from tests.benchmarks.audit import measure

    return measure()


def import_people() -> Rows:
    """A file of 10,000 people, with nothing beside the import."""
    from tests.benchmarks.import_people import measure

    rows: list[Mapping[str, Any]] = []
    for kind in KINDS:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idhub-import-")))
            databases = Databases(folder / "server")
            stack.callback(databases.close)
            url = stack.enter_context(databases.fresh(kind, folder, migrated=False))
            rows += measure(10_000, kind, folder, url, bare=True, rules=False, once=False)
    return rows


def search() -> Rows:
    """Search among 50,000 people."""
    from tests.benchmarks.search import measure

    return [{**row, "name": f"{row['name']} (50,000 people)"} for row in measure(people=50_000, rounds=100)]


def scim_pages() -> Rows:
    """SCIM lists over 50,000 people, and a bulk load."""
    from tests.benchmarks.scim_pages import Size, measure

    rows = measure(Size(people=50_000, rounds=80, load=400))
    return [{**row, "name": f"{row['name']} (50,000 people)"} for row in rows]


def ghosts() -> Rows:
    """Reconciliation of 20,000 accounts."""
    from tests.benchmarks.ghosts import measure

    return measure()


def saml() -> Rows:
    """Signed responses."""
    from tests.benchmarks.saml import measure

    return measure()


def initial_load() -> Rows:
    """A first load of an application."""
    from tests.benchmarks.initial_load import measure

    return measure()


PARTS: Mapping[str, Callable[[], Rows]] = {
    one.__name__: one for one in (start, leaving, audit, import_people, search, scim_pages, ghosts, saml, initial_load)
}


def main() -> None:
    """Measure one part."""
    with redirect_stdout(sys.stderr):
        rows = PARTS[sys.argv[1]]()
    named = [{key: row[key] for key in ("name", "value", "unit", "database", "durability")} for row in rows]
    print(json.dumps(named, ensure_ascii=False))


if __name__ == "__main__":
    main()
