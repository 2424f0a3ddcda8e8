"""Processes and ports of a test. Nothing outlives the test run, also when that is killed."""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from idhub.demo.processes import Server, answers, die_with_parent, free_port, wait_until

__all__ = ["Server", "answers", "die_with_parent", "free_port", "is_there", "running", "stop_now", "wait_until"]


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


def is_there(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def stop_now(pid: int, *, seconds: float = 20) -> None:
    """Send SIGSTOP and wait until every thread of the process stands still.

    The signal is carried out by whichever thread comes to it first: on a busy machine the others run on meanwhile, and
    may begin what the caller believes they cannot.
    """
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: states_of(pid) <= {"T", "Z", "X"}, seconds=seconds, what=f"process {pid} stands still")


def states_of(pid: int) -> set[str]:
    """The states of its threads, as proc(5) has them: R, S, D, T and so on."""
    found = set()
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            # After the name, which may hold anything.
            found.add(stat.read_text().rpartition(")")[2].split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
