"""What SQLite's library is told before it is used."""

import subprocess
import sys

_PROGRAM = """
import ctypes
{first}
import sqlite3, _sqlite3
connection = sqlite3.connect(":memory:")
connection.execute("CREATE TABLE things (name TEXT)")
counted = ctypes.CDLL(_sqlite3.__file__).sqlite3_memory_used
counted.restype = ctypes.c_int64
print(counted() > 0)
"""


def _counts_memory(first: str) -> str:
    command = [sys.executable, "-c", _PROGRAM.format(first=first)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_every_process_of_the_hub_has_sqlite_count_no_memory() -> None:
    assert _counts_memory("import idhub.lifecycle.hr_ahead") == "False"
    assert _counts_memory("import idhub.cli") == "False"


def test_a_library_that_is_in_use_stays_as_it_is() -> None:
    assert _counts_memory("import sqlite3; sqlite3.connect(':memory:'); import idhub.cli") == "True"
