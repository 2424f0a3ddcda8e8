"""Processes and ports of a test. Nothing outlives the test run, also when that is killed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from idhub.demo.processes import Server, answers, die_with_parent, free_port, wait_until

__all__ = ["Server", "answers", "die_with_parent", "free_port", "running", "wait_until"]


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    port: int,
    log: Path,
    env: Mapping[str, str] | None = None,
    seconds: float = 30,
) -> Iterator[Server]:
    """Run a server until the block ends; entered when it accepts connections on `port`. Its output goes to `log`."""
    with Server(str(command[0]), port, log) as server:
        server.start(command, env=env, seconds=seconds)
        yield server
