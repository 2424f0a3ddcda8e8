"""The lock and what may stand in the repository."""

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Brackets, so that this file does not name them itself.
_REGISTRY_HOSTS = re.compile(
    r"pypi[.]org|pythonhosted[.]org|npmjs[.](org|com)|maven[.]apache|proxy[.]golang|crates[.]io|deb[.]debian|npmmirror[.]com"
)


def _tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]


def _pins() -> dict[str, list[str]]:
    """Distribution -> hashes, as the lock has them."""
    pins: dict[str, list[str]] = {}
    name = ""
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if match := re.match(r"([a-zA-Z0-9._-]+)(?:\[[^]]*\])?==\S+", line):
            name = _normal(match[1])
            pins[name] = []
        elif match := re.search(r"--hash=(sha256:[0-9a-f]{64})", line):
            pins[name].append(match[1])
    return pins


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_pin_of_the_lock_has_hashes() -> None:
    pins = _pins()

    assert len(pins) > 50
    assert not [name for name, hashes in pins.items() if not hashes]


def test_the_lock_names_everything_that_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    wanted = {_normal(re.split(r"[\[<>=!~; ]", name)[0]) for name in [*project["dependencies"], *extras]}

    assert not wanted - set(_pins())


def test_the_lock_names_no_address_and_no_path_of_a_machine() -> None:
    text = (ROOT / "requirements.lock").read_text()

    assert not re.findall(r"https?://|--(?:extra-)?index-url|--find-links|file:|/home/|/tmp/|/root/", text)


def test_no_file_names_the_host_of_a_package_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in _tracked_files()
        if (match := _REGISTRY_HOSTS.search(path.read_text(encoding="utf-8", errors="ignore")))
    ]

    assert not found


def test_passlib_is_absent_and_libpass_serves_its_name() -> None:
    """passlib 1.7.4 fails every bcrypt call with bcrypt 5; libpass is its maintained continuation, by the same name."""
    assert metadata.version("libpass")
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("passlib")


def _run_with_only(
    programs: dict[str, str], script: str, *arguments: str, folder: Path
) -> "subprocess.CompletedProcess[str]":
    """Run a script of `.ci` on a machine that has nothing but these programs."""
    folder.mkdir(exist_ok=True)
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    command = ["/bin/sh", str(ROOT / ".ci" / script), *arguments]
    return subprocess.run(command, env={"PATH": str(folder)}, capture_output=True, text=True, check=False)


def test_a_machine_without_python_is_told_what_to_do(tmp_path: Path) -> None:
    done = _run_with_only({}, "environment", str(tmp_path / "venv"), folder=tmp_path / "bin")

    assert done.returncode == 1
    assert "idhub needs Python 3.11 or later" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_an_old_python_is_not_used(tmp_path: Path) -> None:
    old = {"python3": "exit 1", "python3.11": "exit 1"}

    done = _run_with_only(old, "environment", str(tmp_path / "venv"), folder=tmp_path / "bin")

    assert done.returncode == 1
    assert "install one, or name it" in done.stderr


def test_without_root_or_sudo_the_command_for_missing_packages_is_printed(tmp_path: Path) -> None:
    machine = {"id": "echo 1000", "apt-get": "exit 9", "ls": "exit 2"}

    done = _run_with_only(machine, "system-packages", folder=tmp_path / "bin")

    assert done.returncode == 1
    for package in ("postgresql", "chromium", "fonts-noto-cjk", "nodejs", "npm"):
        assert package in done.stderr
    assert "sudo apt-get update && sudo apt-get install" in done.stderr
