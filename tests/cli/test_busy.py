"""Commands beside another process that writes, or that starts at the same moment."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import WANG, Command, Done

_APPS = """
applications:
  - {slug: office, name: {en: Office, zh: 办公}, owner: QY1, criticality: low}
"""


_HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(100)
"""


@contextmanager
def writer(folder: Path) -> Iterator[Callable[[], object]]:
    """Another process that keeps a transaction open, until it is told to end.

    Not this process: the commands are forks of it, and SQLite would see in them a connection that nobody closes.
    """
    hold = [sys.executable, "-c", _HOLD, str(folder / "data" / "idhub.db")]
    with subprocess.Popen(hold, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process.kill
        finally:
            process.kill()


@pytest.mark.timeout(120)
def test_command_that_meets_a_long_writer_says_so_and_what_to_do(staffed: Command) -> None:
    hr_file = str(staffed.hr_file(WANG))
    apps = str(staffed.write("apps.yaml", _APPS))
    commands = [
        ("offboard", "QY1"),
        ("suspend", "QY1"),
        ("people", "invite", "QY1"),
        ("people", "import", hr_file),
        ("token", "create", "--scope", "scim:read"),
        ("role", "assign", "QY1", "hr"),
        ("apply", apps),
        ("keys", "rotate", "token"),
        ("serve", "--port", "1"),
        ("worker",),
    ]
    with writer(staffed.folder), ThreadPoolExecutor(len(commands)) as threads:
        ended = list(threads.map(lambda arguments: staffed(*arguments), commands))
    sentence = (
        "error: another process has been writing to the database for more than 10 s. Run it again when that has "
        "ended: an import, a migration, or a backup or shell that keeps a transaction open."
    )
    assert {(done.code, done.out, done.err.splitlines()[-1]) for done in ended} == {(1, "", sentence)}


def test_first_start_beside_another_first_start_waits_for_its_keys(idhub: Command) -> None:
    """One has made the master key and waits to write the keys: the other must not take that for a lost database."""
    assert idhub("migrate").code == 0
    key = idhub.folder / "data" / "master.key"
    assert not key.exists()

    def start() -> Done:
        return idhub("token", "create", "--scope", "scim:read")

    with writer(idhub.folder) as end, ThreadPoolExecutor(3) as threads:
        first = threads.submit(start)
        deadline = time.monotonic() + 30
        while not key.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        others = [threads.submit(start) for _ in range(2)]
        time.sleep(1)
        end()
        ended = [one.result() for one in (first, *others)]
    assert [done.code for done in ended] == [0, 0, 0], [done.err for done in ended]
