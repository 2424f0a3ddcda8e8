"""The command as a process, on a data folder of its own."""

import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NoReturn

import orjson
import pytest

from idhub.cli import main
from idhub.cli.loading import load_commands

load_commands()
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


def _wait(child: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"the command did not end within {seconds:g} seconds")


@dataclass(frozen=True)
class Command:
    """`idhub` in a folder; its data lie in `data/` there."""

    folder: Path
    environment: Mapping[str, str]

    def __call__(self, *arguments: str, env: Mapping[str, str] | None = None, seconds: float = 60) -> Done:
        """Run it in a process of its own: a fork of this one, which has paid for the imports already."""
        with TemporaryFile() as out, TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                self._run(arguments, {**self.environment, **(env or {})}, out.fileno(), err.fileno())
            code = _wait(child, seconds)
            out.seek(0)
            err.seek(0)
            return Done(code, out.read().decode(), err.read().decode())

    def _run(self, arguments: Sequence[str], environment: Mapping[str, str], out: int, err: int) -> NoReturn:
        code = 70
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out, 1)
            os.dup2(err, 2)
            # What pytest put in their place belongs to this test run, not to the command.
            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
            os.chdir(self.folder)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv = ["idhub", *arguments]
            warnings.simplefilter("ignore")
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException:  # shown where the test looks, as the interpreter would
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def write(self, name: str, content: str | bytes) -> Path:
        """A file in the folder."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def hr_file(self, *rows: str, name: str = "people.csv") -> Path:
        """An HR file of these rows."""
        return self.write(name, "\n".join([HEADER, *rows]) + "\n")


def command_in(folder: Path) -> Command:
    """The command in a folder, with cheap hashing."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IDHUB_")}
    environment |= {"PYTHONPATH": str(ROOT), "IDHUB_ARGON2_MEMORY_KIB": "1024", "IDHUB_ARGON2_TIME_COST": "1"}
    return Command(folder, environment)


@pytest.fixture
def idhub(tmp_path: Path) -> Command:
    """The command in an empty folder."""
    return command_in(tmp_path)


@pytest.fixture(scope="session")
def started_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the hub was started once, migrated and with its keys, to be copied."""
    made = command_in(tmp_path_factory.mktemp("started"))
    done = made("token", "list")
    assert done.code == 0, done.err
    return made.folder


@pytest.fixture
def started(idhub: Command, started_folder: Path) -> Command:
    """With nobody in it, and no first start to wait for."""
    shutil.copytree(started_folder, idhub.folder, dirs_exist_ok=True)
    return idhub


WANG = "QY1,王磊,Lei,Wang,wl@qiyue.example,13800138000,总部,研发/底盘,Engineer,,regular,2020-01-01,,active"
LIN = "QY2,林晓雯,Xiaowen,Lin,lin@qiyue.example,,总部,研发,Lead,QY1,regular,2020-01-01,,active"
FAULTY = "QY3,,,,,,总部,研发,,,regular,2020-13-01,,active"


@pytest.fixture(scope="session")
def staffed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two people were imported, to be copied."""
    made = command_in(tmp_path_factory.mktemp("staffed"))
    done = made("people", "import", str(made.hr_file(WANG, LIN)))
    assert done.code == 0, done.err
    return made.folder


@pytest.fixture
def staffed(idhub: Command, staffed_folder: Path) -> Command:
    """With two people."""
    shutil.copytree(staffed_folder, idhub.folder, dirs_exist_ok=True)
    return idhub
