"""Processes of the demo: each on its own port, with its own log, gone when the demo is gone."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_PR_SET_PDEATHSIG = 1
_LOG_TAIL = 2500


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that nobody else who asks here is given while this process lives.

    It lies below those that the system gives to outgoing connections (32,768 on Linux): such a connection could take
    it in the moment between now and its server's start, or while that is started again.
    """
    with _TAKING:
        if _own.get("process") != os.getpid():
            _own.update(process=os.getpid(), first=_reserved(), last=0)
        first = _own["first"]
        for _ in range(_RESERVED - 1):
            _own["last"] = _own["last"] % (_RESERVED - 1) + 1
            with socket.socket() as probe, suppress(OSError):
                probe.bind(("127.0.0.1", first + _own["last"]))
                return first + _own["last"]
    raise RuntimeError(f"None of the ports {first} to {first + _RESERVED - 1} is free.")


_FIRST, _END, _RESERVED = 20_000, 32_700, 100
_TAKING = threading.Lock()
_own: dict[str, int] = {}


def _reserved() -> int:
    """The first of a hundred ports for this process alone: whoever holds that one, until it ends, has them all."""
    blocks = list(range(_FIRST, _END, _RESERVED))
    random.shuffle(blocks)
    for block in blocks:
        lock = socket.socket()
        try:
            lock.bind(("127.0.0.1", block))
        except OSError:
            lock.close()
        else:
            lock.detach()
            return block
    raise RuntimeError(f"No ports are left between {_FIRST} and {_END}.")


def answers(port: int) -> bool:
    """Whether something accepts connections on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def die_with_parent(signal_number: int = signal.SIGKILL) -> Callable[[], None] | None:
    """What `preexec_fn` takes so that the child is sent `signal_number` when this process dies (Linux only)."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal_number)

    return arrange


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> float:
    """Return how many seconds it took until `condition` held.

    Raises:
        TimeoutError: it did not hold within `seconds`; says `what` was awaited.
    """
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - start


class Server:
    """A server process. Starting returns when it accepts connections."""

    def __init__(self, name: str, port: int, log: Path) -> None:
        self.name = name
        self.port = port
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(
        self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, seconds: float = 60
    ) -> None:
        """Run `command` and wait until it answers.

        Raises:
            RuntimeError: it ended before it answered; quotes its log.
            TimeoutError: it does not answer within `seconds`.
        """
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                # Ctrl-C goes to the demo alone, which then ends its processes in order.
                start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl call, safe between fork and exec
            )
        self._process = process
        wait_until(
            lambda: process.poll() is not None or answers(self.port), seconds=seconds, what=f"{self.name} answers"
        )
        if process.poll() is not None:
            raise RuntimeError(f"{self.name} ended at once:\n{self.tail()}")

    @property
    def is_running(self) -> bool:
        """Whether the process is there, frozen or not."""
        return self._process is not None and self._process.poll() is None

    def freeze(self) -> None:
        """SIGSTOP: connections are accepted by the kernel and never answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self, *, seconds: float = 10) -> None:
        """End the process, politely first."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        self.thaw()
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(seconds)

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-_LOG_TAIL:] if self.log.exists() else ""

    def __enter__(self) -> "Server":
        """Stopped when the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()
