"""How many connections a process of the hub may hold."""

import subprocess
import sys

import pytest

_TELL = """
import resource
from idhub.cli.serve import raise_open_files
limit = resource.RLIMIT_NOFILE
most = resource.getrlimit(limit)[1]
resource.setrlimit(limit, (300, most))
raise_open_files()
print(*resource.getrlimit(limit), most)
resource.setrlimit(limit, (300, 300))
raise_open_files()
print(*resource.getrlimit(limit))
"""


@pytest.mark.timeout(120)
def test_a_process_takes_the_open_files_that_the_system_lets_it_have() -> None:
    """Where a service begins with few, applications that are silent would use them up; it never asks for more."""
    told = subprocess.run([sys.executable, "-c", _TELL], capture_output=True, check=True, text=True).stdout
    (allowed, hard, most), lowered = ([int(word) for word in line.split()] for line in told.splitlines())
    assert hard == most
    assert allowed == (65_536 if most < 0 else min(65_536, most))
    assert lowered == [300, 300]
