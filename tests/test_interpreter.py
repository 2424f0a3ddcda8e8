"""Which interpreter `.ci/environment` takes, and what is said of the one that runs."""

import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from idhub import interpreter

ROOT = Path(__file__).resolve().parents[1]


def _candidate(folder: Path, name: str, status: int) -> Path:
    """A program that says of itself what `idhub/interpreter.py` would, and builds nothing."""
    program = folder / name
    is_asked = '[ "$1 $2" = "-P idhub/interpreter.py" ]'
    program.write_text(f'#!/bin/sh\n{is_asked} || exit 9\necho "{name} here"\nexit {status}\n')
    program.chmod(0o755)
    return program


def _environment(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env: Mapping[str, str] = {"PATH": str(folder), **variables}
    command = ["/bin/sh", str(ROOT / ".ci" / "environment"), str(folder / "venv")]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


def test_an_optimised_interpreter_is_taken_before_one_that_is_not(tmp_path: Path) -> None:
    _candidate(tmp_path, "python3.11", 3)
    _candidate(tmp_path, "python3", 0)
    assert "with python3 here\n" in _environment(tmp_path).stdout


def test_the_one_that_is_named_is_taken_as_it_is(tmp_path: Path) -> None:
    _candidate(tmp_path, "python3.11", 0)
    plain = _candidate(tmp_path, "python3", 3)
    assert "with python3 here\n" in _environment(tmp_path, BASE_PYTHON=str(plain)).stdout


def test_no_interpreter_is_said_with_what_to_do(tmp_path: Path) -> None:
    old = _candidate(tmp_path, "python3.6", 1)
    done = _environment(tmp_path, BASE_PYTHON=str(old))
    assert done.returncode == 1
    assert str(old) in done.stderr
    assert "BASE_PYTHON=" in done.stderr


@pytest.mark.parametrize(
    ("prefix", "configured", "optimised"),
    [
        ("/usr", "", True),
        ("/usr/local", "'--enable-optimizations' '--with-lto'", True),
        ("/usr/local", "'--prefix=/usr/local'", False),
        ("/opt/python", None, False),
    ],
)
def test_how_it_was_built_is_told_by_the_distribution_or_by_configure(
    monkeypatch: pytest.MonkeyPatch, prefix: str, configured: str | None, optimised: bool
) -> None:
    monkeypatch.setattr(sys, "base_prefix", prefix)
    monkeypatch.setattr(sysconfig, "get_config_var", {"CONFIG_ARGS": configured}.get)
    assert interpreter.is_optimised() is optimised
    assert ("a fifth longer" in interpreter.described()) is not optimised


def test_as_a_program_it_says_what_runs_it() -> None:
    command = [sys.executable, "-P", "idhub/interpreter.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() == interpreter.described()
    assert done.returncode == (0 if interpreter.is_optimised() else 3)
