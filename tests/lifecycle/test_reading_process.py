"""The process that reads an HR file ahead: a copy of the one that imports, or a new interpreter."""

import os
import subprocess
import sys
from datetime import date

import orjson
import pytest

from idhub.db import Database
from idhub.demo.sample import FAULTS, create_sample_organizations, write_hr_file
from idhub.directory.organizations import install
from idhub.settings import Settings
from tests.support.clock import Clock

_PROGRAM = """
import os, signal, sqlite3, sys, threading, time
from contextlib import suppress
from pathlib import Path

import orjson
from idhub.changes import COMMAND_LINE
from idhub.errors import Unavailable
from idhub.lifecycle.hr_import import import_file
from idhub.services import open_hub
from idhub.settings import load_settings

how, path = sys.argv[1], Path(sys.argv[2])
hub = open_hub(load_settings(None))
mine = Path("/proc/self/cmdline").read_bytes()
readers = {}

def children():
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            number, _, rest = status.read_text().rpartition(")")
            if int(rest.split()[1]) == os.getpid():
                found[int(number.split()[0])] = (status.parent / "cmdline").read_bytes()
    return found

def progress(rows):
    # One that was killed has no command line left, and may not be waited for yet.
    readers.update({number: said for number, said in children().items() if said})
    if how == "killed":
        for number in children():
            os.kill(number, signal.SIGKILL)

if how == "threads":
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
if how == "open":
    held = sqlite3.connect(hub.database.engine.url.database)
    held.execute("SELECT count(*) FROM principals").fetchone()
try:
    report = import_file(
        hub.database, path, keyring=hub.keyring, snapshot=True, dry_run=False,
        now=hub.clock(), actor=COMMAND_LINE, progress=progress,
    )
    said = {"new": report.new, "refused": report.refused}
except Unavailable as error:
    said = {"error": str(error)}
said |= {"copies": [each == mine for each in readers.values()], "left": len(children())}
print(orjson.dumps(said).decode())
"""


def take(database: Database, settings: Settings, clock: Clock, how: str, people: int = 400) -> dict[str, object]:
    """Import a file that is worth a process of its own, in a process of one thread or another; what it said of it."""
    with database.transaction() as session:
        install(session, time_zone="Asia/Shanghai", now=clock())
        create_sample_organizations(session, now=clock())
    path = settings.data_dir / "large.csv"
    write_hr_file(path, today=date(2026, 11, 23), people=people)
    with path.open("ab") as file:
        file.write(b"\n" * (1 << 20))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IDHUB_")}
    environment |= {
        "IDHUB_DATA_DIR": str(settings.data_dir),
        "IDHUB_DATABASE_URL": database.url,
        "IDHUB_MASTER_KEY_FILE": str(settings.effective_master_key_file),
        "IDHUB_ISSUER": "http://127.0.0.1:9",
        "IDHUB_LOG_LEVEL": "error",
    }
    command = [sys.executable, "-c", _PROGRAM, how, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, object] = orjson.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize(("how", "is_copy"), [("alone", True), ("threads", False)])
def test_a_process_of_one_thread_reads_in_a_copy_of_itself(
    database: Database, settings: Settings, clock: Clock, how: str, is_copy: bool
) -> None:
    """Of several threads a copy might keep locks for ever."""
    said = take(database, settings, clock, how)
    assert said == {"new": 400, "refused": len(FAULTS), "copies": [is_copy], "left": 0}


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_of_a_file_that_is_open_a_copy_would_take_the_locks_for_its_own(
    database: Database, settings: Settings, clock: Clock
) -> None:
    said = take(database, settings, clock, "open")
    assert said == {"new": 400, "refused": len(FAULTS), "copies": [False], "left": 0}


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_copy_that_is_killed_fails_the_import_and_does_not_stay_behind(
    database: Database, settings: Settings, clock: Clock
) -> None:
    said = take(database, settings, clock, "killed", people=20_000)
    assert said == {"error": "The process that reads the HR file has ended.", "copies": [True], "left": 0}
