"""What SQLite's library is told before it is used."""

import subprocess
import sys

import pytest

from idhub.sqlite_library import may_lose_pages

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
    assert _counts_memory("import idhub.lifecycle.hr_apart") == "False"
    assert _counts_memory("import idhub.cli") == "False"


def test_a_library_that_is_in_use_stays_as_it_is() -> None:
    assert _counts_memory("import sqlite3; sqlite3.connect(':memory:'); import idhub.cli") == "True"


@pytest.mark.parametrize(
    ("version", "loses"),
    [
        ((3, 40, 1), True), ((3, 44, 5), True), ((3, 44, 6), False), ((3, 46, 1), True), ((3, 50, 6), True),
        ((3, 50, 7), False), ((3, 51, 2), True), ((3, 51, 3), False), ((3, 53, 0), False), ((4, 0, 0), False),
    ],
)  # fmt: skip
def test_which_versions_may_lose_pages_is_known(version: tuple[int, int, int], loses: bool) -> None:
    assert may_lose_pages(version) is loses
