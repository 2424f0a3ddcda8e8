"""An HR file of a million people: rows a second, memory on the way, the same file again, and sign-ins meanwhile.

    python -m tests.benchmarks.import_people [--people 120000] [--database sqlite] [--folder DIR] [--bare] [--rules]
        [--once] [--page] [--json FILE]

The import runs as `idhub people import` does, in a process of its own. Beside it, unless `--bare`, a `serve` process on
the same database answers token requests and whole logins one after the other; what each took is measured from outside.
With `--rules` two rules entitle nearly everybody to an application: an entitlement and its event for each. `--once`
leaves out what follows the first import: the same file again, a dry run, changes, a file that lists one in ten. With
`--page` somebody of HR brings the file in by the page of that `serve`, looks at its preview and confirms it.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from idhub.demo.browser import Browser, Page
from idhub.demo.processes import answers, free_port, wait_until
from idhub.demo.sample import SampleFile, create_sample_organizations, write_hr_file
from idhub.demo.signing_in import set_first_password, sign_in
from idhub.services import open_hub
from idhub.settings import Settings
from tests.benchmarks.figures import quantile
from tests.support.databases import DatabaseKind, Databases

TODAY = date(2026, 11, 23)
_SECRET = "benchmark-" + "0123456789" * 4
_PASSWORD = "long enough for anybody 4711"
_APPLICATIONS = """applications:
  - slug: bench
    name: {en: Bench, zh: 基准}
    owner: BENCH1
    criticality: normal
    oidc:
      client_id: bench
      client_secret_file: bench.secret
      redirect_uris: [http://127.0.0.1:9/callback]
      grant_types: [authorization_code, client_credentials]
"""
_RULES = """    entitle:
      - {role: member, rule: 'employments.type eq "regular"'}
      - {role: guest, rule: 'employments.type eq "contractor"'}
"""
# Rows read and memory, told by the importing process on its standard error.
_PROGRAM = """
import os, sys, time, resource
from pathlib import Path
from idhub.changes import COMMAND_LINE
from idhub.lifecycle.hr_import import import_file
from idhub.services import open_hub
from idhub.settings import load_settings

def memory():
    total = 0
    mine = str(os.getpid())
    for each in os.listdir("/proc"):
        if each.isdigit():
            try:
                parent = open(f"/proc/{each}/stat").read().rsplit(")", 1)[1].split()[1]
                if each == mine or parent == mine:
                    total += int(open(f"/proc/{each}/statm").read().split()[1])
            except OSError:
                pass
    return total * resource.getpagesize() // 2**20

marks = [100_000, 500_000, 1_000_000]
def progress(rows):
    while marks and rows >= marks[0]:
        print("memory", marks.pop(0), memory(), file=sys.stderr, flush=True)

hub = open_hub(load_settings(None))
began = time.perf_counter()
report = import_file(
    hub.database, Path(sys.argv[1]), keyring=hub.keyring, snapshot=True, dry_run=sys.argv[2] == "dry",
    now=hub.clock(), actor=COMMAND_LINE, progress=progress,
)
seconds = time.perf_counter() - began
print("memory", report.rows, memory(), file=sys.stderr)
used, read = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
times = used.ru_utime + used.ru_stime, read.ru_utime + read.ru_stime
peaks = used.ru_maxrss / 1024, read.ru_maxrss / 1024
counts = report.refused, report.new, report.unchanged, report.changed, report.quarantined
print("done", seconds, report.rows, *times, *peaks, *counts)
hub.close()
"""


class Bench:
    """A hub in a folder, a file of people, and what was measured."""

    def __init__(self, kind: DatabaseKind, url: str, folder: Path, *, with_rules: bool) -> None:
        self.kind, self.folder = kind, folder
        self.figures: list[dict[str, Any]] = []
        self._port = free_port()
        self._address = f"http://127.0.0.1:{self._port}"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("IDHUB_")},
            "IDHUB_DATA_DIR": str(folder),
            "IDHUB_DATABASE_URL": url,
            "IDHUB_MASTER_KEY_FILE": str(folder / "master.key"),
            "IDHUB_ISSUER": self._address,
            "IDHUB_LOG_LEVEL": "error",
        }
        settings = Settings(
            data_dir=folder, database_url=url, master_key_file=folder / "master.key", issuer=self._address
        )
        hub = open_hub(settings)
        with hub.database.transaction() as session:
            create_sample_organizations(session, now=hub.clock())
        hub.close()
        self.run(
            "onboard", "--name", "基准", "--company", "HQ", "--employee-number", "BENCH1", "--start-date", "2020-01-01"
        )
        (folder / "bench.secret").write_text(_SECRET)
        (folder / "apps.yaml").write_text(_APPLICATIONS + (_RULES if with_rules else ""))
        self.run("apply", str(folder / "apps.yaml"))

    def run(self, *arguments: str) -> str:
        """An idhub command; its standard output."""
        command = [sys.executable, "-m", "idhub.cli", *arguments]
        return subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True).stdout

    def note(self, name: str, value: float, unit: str) -> None:
        """Keep and print one figure."""
        durability = "synced at its end" if self.kind == "sqlite" else "synchronous_commit as the server says"
        self.figures.append(
            {"name": name, "value": round(value, 2), "unit": unit, "database": self.kind, "durability": durability}
        )
        print(f"  {name:<52} {value:>12,.1f} {unit}", flush=True)

    def take(self, name: str, path: Path, *, dry_run: bool = False) -> list[str]:
        """Import a file in a process of its own; note rows a second and memory. Returns the report's numbers."""
        command = [sys.executable, "-c", _PROGRAM, str(path), "dry" if dry_run else "real"]
        done = subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True)
        for line in done.stderr.splitlines():
            if line.startswith("memory "):
                _, rows, megabytes = line.split()
                self.note(f"{name}: memory after {int(rows):,} rows", float(megabytes), "MB")
        *logged, numbers = done.stdout.splitlines()
        if logged:
            print(*logged, sep="\n", file=sys.stderr)
        _, seconds, rows, writing, reading, *rest = numbers.split()
        for process, peak in zip(("writing", "reading"), rest, strict=False):
            self.note(f"{name}: peak memory of the {process} process", float(peak), "MB")
        self.note(f"{name}", int(rows) / float(seconds), "rows/s")
        self.note(f"{name}: processor time of the writing process", float(writing) / int(rows) * 1e6, "us a row")
        self.note(f"{name}: processor time of the reading process", float(reading) / int(rows) * 1e6, "us a row")
        return rest[2:]

    def bring_by_page(self, name: str, path: Path) -> None:
        """Bring a file in as somebody of HR does; notes how long its preview and the import took."""
        with Browser(language="en") as browser:
            sign_in(browser, f"{self._address}/", "BENCH1", _PASSWORD)
            page = browser.get(f"{self._address}/hr/sources/import")
            form = page.form(lambda form: "mode" in form.fields)
            if form is None:
                raise SystemExit(f"there is no form for a file: {page.text[:300]}")
            began = time.perf_counter()
            page = browser.submit(page, form, {"mode": "whole"}, files={"file": (path.name, path.read_bytes())})
            self.note(f"{name}: until the file was kept", time.perf_counter() - began, "s")
            page = _followed(browser, page.url, "confirm")
            self.note(f"{name}: until its preview was there", time.perf_counter() - began, "s")
            confirm = page.form(lambda form: ("step", "confirm") in form.buttons)
            if confirm is None:
                raise SystemExit(f"nothing to confirm: {page.text[:300]}")
            began = time.perf_counter()
            page = _followed(browser, browser.submit(page, confirm, button="confirm").url, "imported")
            self.note(f"{name}: from the confirmation until it was in", time.perf_counter() - began, "s")

    @contextmanager
    def signing_in(self, name: str) -> Iterator[None]:
        """Token requests and whole logins at a `serve` process, until the block ends; notes how long they took."""
        with self._serving() as server:
            over = threading.Event()
            before, began = _used(server), time.perf_counter()
            took: dict[str, list[float]] = {"token": [], "login": []}
            works = [lambda: _token(self._address), lambda: _login(self._address)]
            threads = [
                threading.Thread(target=_repeat, args=(work, took[what], over))
                for what, work in zip(took, works, strict=True)
            ]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                over.set()
                for thread in threads:
                    thread.join()
                pages = int(Path(f"/proc/{server}/statm").read_text().split()[1])
                self.note(f"{name}: memory of serve", pages * os.sysconf("SC_PAGE_SIZE") / 2**20, "MB")
                share = (_used(server) - before) / (time.perf_counter() - began)
                self.note(f"{name}: serve kept busy", share * 100, "% of a core")
        for what, values in took.items():
            if len(values) > 1:
                self.note(f"{name}: {what}, p50 of {len(values)}", quantile(values, 0.5) * 1000, "ms")
                self.note(f"{name}: {what}, p99", quantile(values, 0.99) * 1000, "ms")

    @contextmanager
    def _serving(self) -> Iterator[int]:
        command = [sys.executable, "-m", "idhub.cli", "serve", "--port", str(self._port)]
        with subprocess.Popen(command, env=self._environment, stderr=subprocess.DEVNULL) as server:
            try:
                wait_until(lambda: answers(self._port), seconds=60, what="the hub")
                yield server.pid
            finally:
                server.terminate()

    def use(self, *, logins: int = 0, tokens: int = 0) -> None:
        """Sign in and ask for tokens so many times at a `serve` process, which seals the log before it ends."""
        with self._serving():
            for _ in range(logins):
                _login(self._address)
            for _ in range(tokens):
                _token(self._address)

    def invite(self) -> None:
        """Give the one who signs in a password, through the real pages."""
        link = self.run("people", "invite", "HQ/BENCH1").strip()
        with self._serving():
            set_first_password(Browser(), link, _PASSWORD)


def _used(process: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _repeat(work: Any, took: list[float], over: threading.Event) -> None:
    while not over.is_set():
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
        time.sleep(0.02)


def _token(address: str) -> None:
    key = base64.b64encode(f"bench:{_SECRET}".encode()).decode()
    request = urllib.request.Request(
        f"{address}/oauth2/token",
        data=b"grant_type=client_credentials",
        headers={"Authorization": f"Basic {key}", "Content-Type": "application/x-www-form-urlencoded"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


def _login(address: str) -> None:
    if not sign_in(Browser(), f"{address}/", "BENCH1", _PASSWORD).asked_for_password:
        raise RuntimeError("the hub did not ask for a password")


def _followed(browser: Browser, address: str, wanted: str) -> Page:
    """The page of an HR file once it is no longer at work; it must have the part that is wanted then."""
    while 'data-test="working"' in (page := browser.get(address)).html:
        time.sleep(0.2)
    if f'data-test="{wanted}"' not in page.html:
        raise SystemExit(f"not {wanted}: {page.text[:500]}")
    return page


def changed_file(path: Path, target: Path, *, every: int) -> None:
    """A copy of an HR file in which one row in `every` has another title."""
    with path.open(encoding="utf-8-sig", newline="") as source, target.open("w", encoding="utf-8", newline="") as out:
        for number, line in enumerate(source):
            out.write(
                line.replace("工程师", "专家工程师").replace("操作工", "高级操作工") if number % every == 1 else line
            )


def shortened_file(path: Path, target: Path) -> None:
    """A copy that lists one row in ten."""
    with path.open(encoding="utf-8-sig", newline="") as source, target.open("w", encoding="utf-8", newline="") as out:
        for number, line in enumerate(source):
            if number == 0 or number % 10 == 1:
                out.write(line)


def measure(
    people: int,
    kind: DatabaseKind,
    folder: Path,
    url: str,
    *,
    bare: bool,
    rules: bool,
    once: bool,
    by_page: bool = False,
) -> list[dict[str, Any]]:
    """Every figure, in order; the folder and the database are empty before."""
    path = folder / "people.csv"
    written: SampleFile = write_hr_file(path, today=TODAY, people=people, faults=people // 100)
    bench = Bench(kind, url, folder, with_rules=rules)
    name = f"import of {people:,} people" + (", two rules" if rules else "")
    if bare:
        rest = bench.take(name, path)
    else:
        bench.invite()
        with bench.signing_in("sign-ins with nothing else"):
            time.sleep(10)
        if by_page:
            bench.run("role", "assign", "HQ/BENCH1", "hr")
            with bench.signing_in("sign-ins during preview and import by the page"):
                bench.bring_by_page(f"{name} by the page", path)
            return bench.figures
        with bench.signing_in("sign-ins during the import"):
            rest = bench.take(f"{name}, beside serve", path)
    refused, new = int(rest[0]), int(rest[1])
    if (refused, new) != (len(written.faults), people):
        raise SystemExit(f"{refused} rows refused and {new} people made, not {len(written.faults)} and {people}")
    if once:
        return bench.figures
    bench.take("the same file again", path)
    bench.take("the same file, dry run", path, dry_run=True)
    changed_file(path, folder / "changed.csv", every=100)
    bench.take("a file with about 1 % changes", folder / "changed.csv")
    shortened_file(path, folder / "short.csv")
    rest = bench.take("a file that lists one in ten", folder / "short.csv")
    bench.note("held by the brake, of that file", float(rest[4]), "people")
    return bench.figures


def main() -> None:
    """Measure and print; write the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=120_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--folder", type=Path, help="Where a scratch folder for files and the database is made.")
    parser.add_argument("--bare", action="store_true", help="No serve process beside the import.")
    parser.add_argument("--rules", action="store_true", help="Two rules that entitle nearly everybody.")
    parser.add_argument("--once", action="store_true", help="The first import alone.")
    parser.add_argument("--page", action="store_true", help="Bring the file in by the page, beside sign-ins.")
    parser.add_argument("--json", type=Path, help="Write the figures there.")
    options = parser.parse_args()
    print(f"{options.people:,} people on {options.database}, {os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        databases = Databases(folder / "server")
        stack.callback(databases.close)
        url = stack.enter_context(databases.fresh(options.database, folder, migrated=False))
        figures = measure(
            options.people,
            options.database,
            folder,
            url,
            bare=options.bare,
            rules=options.rules,
            once=options.once,
            by_page=options.page,
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, ensure_ascii=False, indent=2) + "\n")


if __name__ == "__main__":
    main()
