"""The command as a process, on a data folder of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

ROOT = Path(__file__).parents[2]
HEADER = (
    "employee_number,name,given_name,family_name,email,mobile,company,department,title,manager_employee_number,"
    "employment_type,start_date,end_date,status"
)


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return orjson.loads(self.out)


@dataclass(frozen=True)
class Command:
    """`idhub` in a folder; its data lie in `data/` there."""

    folder: Path
    environment: Mapping[str, str]

    def __call__(self, *arguments: str, env: Mapping[str, str] | None = None, seconds: float = 120) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "idhub.cli", *arguments],
            cwd=self.folder,
            env={**self.environment, **(env or {})},
            capture_output=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def write(self, name: str, content: str | bytes) -> Path:
        """A file in the folder."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def hr_file(self, *rows: str, name: str = "people.csv") -> Path:
        """An HR file of these rows."""
        return self.write(name, "\n".join([HEADER, *rows]) + "\n")


@pytest.fixture
def idhub(tmp_path: Path) -> Command:
    """The command in an empty folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IDHUB_")}
    environment |= {"PYTHONPATH": str(ROOT), "IDHUB_ARGON2_MEMORY_KIB": "1024", "IDHUB_ARGON2_TIME_COST": "1"}
    return Command(tmp_path, environment)


WANG = "QY1,王磊,Lei,Wang,wl@qiyue.example,13800138000,总部,研发/底盘,Engineer,,regular,2020-01-01,,active"
LIN = "QY2,林晓雯,Xiaowen,Lin,lin@qiyue.example,,总部,研发,Lead,QY1,regular,2020-01-01,,active"
FAULTY = "QY3,,,,,,总部,研发,,,regular,2020-13-01,,active"


@pytest.fixture
def staffed(idhub: Command) -> Command:
    """With two people."""
    done = idhub("people", "import", str(idhub.hr_file(WANG, LIN)))
    assert done.code == 0, done.err
    return idhub
