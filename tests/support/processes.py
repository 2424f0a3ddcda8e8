"""Processes and ports of a test. Nothing outlives the test run, also when that is killed."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def die_with_parent(signal_number: int = signal.SIGKILL) -> Callable[[], None]:
    """What `preexec_fn` takes so that the child is sent `signal_number` when this process dies."""

    def arrange() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal_number)

    return arrange


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Return as soon as `condition` holds; fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


def answers(port: int) -> bool:
    """Whether something accepts connections on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    port: int,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = 30,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server until the block ends; entered when it accepts connections on `port`.

    Its output goes to `log`; when it dies before it answers, the failure quotes that.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl call, safe between fork and exec
        )
        try:
            wait_until(
                lambda: process.poll() is not None or answers(port),
                seconds=seconds,
                what=f"{command[0]} on port {port}",
            )
            if process.poll() is not None:
                raise AssertionError(f"{' '.join(map(str, command))} ended:\n{log.read_text(errors='replace')[-4000:]}")
            yield process
        finally:
            stop(process)


def stop(process: "subprocess.Popen[bytes]", *, seconds: float = 10) -> int:
    """End a process, politely first; returns its exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait(seconds)
