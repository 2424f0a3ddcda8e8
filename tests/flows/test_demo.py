"""`make demo CI=1` as a test: the story holds, ends by itself, and leaves no process and no folder behind."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_story_from_hire_to_receipt_holds(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IDHUB_")}
    done = subprocess.run(
        [sys.executable, "-m", "idhub.demo", "--ci"],
        cwd=ROOT,
        env={**environment, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=870,
        check=False,
    )

    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    for step in range(1, 9):
        assert f"{step}/8" in done.stdout
    assert "Every step held" in done.stdout
    assert not list(tmp_path.iterdir()), "the demo leaves nothing behind"
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not [command for command in commands if str(tmp_path).encode() in command]


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_image_steps_hold_without_an_engine() -> None:
    """The Dockerfile's own lines build an environment from the lock; its entry point serves as a plain user."""
    done = subprocess.run(
        [ROOT / ".ci" / "image-steps"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        cwd=tempfile.gettempdir(),
    )

    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    assert "every step of the Dockerfile held" in done.stdout
    assert "runs as user" in done.stdout
