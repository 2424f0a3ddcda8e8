"""The story ends with status 0 only if every step held, and leaves no process behind either way."""

import sys
from pathlib import Path

import httpx2
import pytest

from idhub.demo.__main__ import STEPS, tell
from idhub.demo.narrator import Narrator, StoryFailed
from idhub.demo.processes import Server, answers, free_port
from idhub.demo.stage import Stage, Watch


def _starts_a_server(stage: Stage) -> None:
    stage.scim.server.start([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(stage.scim.server.port)])


def test_it_has_eight_steps() -> None:
    assert len(STEPS) == 8


@pytest.fixture(autouse=True)
def _scratch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize(
    "error",
    [StoryFailed("no"), TimeoutError("late"), RuntimeError("ended"), httpx2.ConnectError("refused"), KeyError("case")],
)
def test_a_step_that_does_not_hold_ends_the_story_with_status_1(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = []

    def fails(stage: Stage) -> None:
        stages.append(stage)
        raise error

    assert tell([_starts_a_server, fails, _starts_a_server], ci=True) == 1
    assert "The story failed" in capsys.readouterr().out
    assert not stages[0].scim.server.is_running


def test_an_interrupted_story_is_not_a_good_one() -> None:
    def interrupted(stage: Stage) -> None:
        raise KeyboardInterrupt

    assert tell([interrupted], ci=True) == 1


def test_steps_that_hold_end_with_status_0_and_nothing_left(tmp_path: Path) -> None:
    ports = []

    def step(stage: Stage) -> None:
        _starts_a_server(stage)
        ports.append(stage.scim.server.port)
        stage.tell.check("it answers", answers(ports[0]))

    assert tell([step], ci=True) == 0
    assert not answers(ports[0])
    assert not list(tmp_path.iterdir())


def test_a_claim_that_does_not_hold_is_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    narrator = Narrator(steps=1)
    narrator.check("the first", True)

    with pytest.raises(StoryFailed, match="the second"):
        narrator.check("the second", [], seen="nothing")

    assert narrator.held == 1
    assert "✗ the second" in capsys.readouterr().out


def test_a_server_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    server = Server("broken", free_port(), tmp_path / "broken.log")

    with pytest.raises(RuntimeError, match="no such luck"):
        server.start([sys.executable, "-c", "import sys; sys.exit('no such luck')"])


def test_a_frozen_server_is_thawed_and_ended(tmp_path: Path) -> None:
    port = free_port()
    with Server("frozen", port, tmp_path / "frozen.log") as server:
        server.start([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)])
        server.freeze()
        with pytest.raises(httpx2.TimeoutException):
            httpx2.get(server.address, timeout=0.3)
        server.thaw()
        assert httpx2.get(server.address, timeout=5).status_code == 200

    assert not server.is_running


def test_a_watch_gives_each_condition_its_own_time() -> None:
    seen: list[int] = []

    def third_look() -> bool:
        seen.append(1)
        return len(seen) > 2

    times = Watch({"at once": lambda: True, "later": third_look}).wait(seconds=5)

    assert times["at once"] < times["later"]
    with pytest.raises(TimeoutError, match="seen so far: at once"):
        Watch({"at once": lambda: True, "never": lambda: False}).wait(seconds=0.2)
