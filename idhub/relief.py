"""Relief: a worker in a process of its own, called when the embedded one has much to do, which ends by itself.

A hub that ends thousands of people computes for minutes. In one process that is felt by everybody: the interpreter
runs one thread at a time, and whoever signs in waits for each of the worker's threads in turn, at every step. So the
embedded worker counts what it has done without a pause, and past a bound leaves deliveries, due dates, receipts and
the log to a process that has a core, or the idle part of one, to itself. That process is a worker like any other (any
number may run); it ends when nothing has been due for a while, and at once when the hub does.

Nothing depends on it: when it does not come, dies or falls silent, the embedded worker goes on.
"""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import orjson
import structlog

from idhub.delivery.http import OutboundHttp
from idhub.logs import configure_logging
from idhub.services import open_hub
from idhub.settings import Settings
from idhub.worker import Worker

# A person who is brought up to date, with all that follows, costs as much as so many deliveries.
_PERSON = 20.0
_BOUND = 1_000.0
_DRAINED_A_SECOND = 50.0
_LOWER_PRIORITY = 5
_COMES_WITHIN = 60.0
_SILENT_FOR = 30.0
_NOT_AGAIN_FOR = 300.0
_BEAT_EVERY = 1.0
_IDLE_FOR = 20.0
_ENDS_WITHIN = 5.0
_OBJECTS_BEFORE_COLLECTION = 10_000
_SWITCH_SECONDS = {"sqlite": 0.0001, "postgresql": 0.0005}
# Whoever is waited for is sent by the process that was asked: it needs a moment for that.
_LEFT_FOR = timedelta(seconds=0.25)

_log = structlog.get_logger("idhub.worker")


class Effort:
    """How much was done lately: goes up with the work, drains with time. A single leave, however large, stays below."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._level = 0.0
        self._at = clock()

    def add(self, effort: float) -> bool:
        """Count some more; returns whether it is past what one process should do beside its requests."""
        now = self._clock()
        self._level = max(0.0, self._level - _DRAINED_A_SECOND * (now - self._at)) + effort
        self._at = now
        return self._level >= _BOUND

    def forget(self) -> None:
        """Begin anew."""
        self._level = 0.0


class Relief:
    """The worker's side: calls the process, and knows whether it is at work. `look` is to be called about each second.

    Args:
        settings: of the installation; the process opens the same.
        ends_after: seconds without anything due after which the process ends.
    """

    def __init__(
        self, settings: Settings, *, ends_after: float = _IDLE_FOR, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._ends_after = ends_after
        self._clock = clock
        self._effort, self._left = Effort(clock), Effort(clock)
        self._process: subprocess.Popen[bytes] | None = None
        self._silent_after = 0.0
        self._not_before = float("-inf")
        self._is_closed = False
        self._lock = threading.Lock()
        """Threads of the worker count; one calls."""
        self.is_at_work = False
        """The bulk of the work is the other process's."""

    def note(self, *, people: int = 0, deliveries: int = 0) -> None:
        """Count what was done here, or is about to be; much of it calls the process."""
        with self._lock:
            now = self._clock()
            is_much = self._effort.add(_PERSON * people + deliveries)
            if is_much and self._process is None and not self._is_closed and now >= self._not_before:
                self._call(now)

    def leaves(self, deliveries: int) -> bool:
        """Whether so many that somebody waits for are sent where they were asked for, while the process is at work.

        They are: it has hundreds in hand, behind which they would wait. Unless they too are many in a row.
        """
        with self._lock:
            return not self._left.add(deliveries)

    def look(self) -> None:
        """Take the work back from a process that has ended or fallen silent."""
        with self._lock:
            if self._process is not None:
                self._listen(self._process, self._clock())

    def close(self) -> None:
        """End the process, which finishes what it has in hand; for the end of the hub."""
        with self._lock:
            process, self._process, self.is_at_work, self._is_closed = self._process, None, False, True
        if process is not None:
            _end(process, seconds=self._settings.delivery_timeout.total_seconds() + _ENDS_WITHIN)

    @property
    def pid(self) -> int | None:
        """Number of the process, while there is one."""
        return None if self._process is None else self._process.pid

    def _call(self, now: float) -> None:
        try:
            process = subprocess.Popen(
                # -P: modules come from where ours come from, never from the folder that somebody happens to stand in.
                [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except OSError as error:
            _log.warning("worker.no_relief", error=type(error).__name__)
            self._not_before = now + _NOT_AGAIN_FOR
            return
        self._process, self.is_at_work, self._silent_after = process, True, now + _COMES_WITHIN
        with suppress(OSError):
            # Through the pipe: an address with a password is nobody else's to read.
            stdin, stdout = _pipes(process)
            os.set_blocking(stdout.fileno(), False)
            order = {"settings": self._settings.model_dump(mode="json"), "ends_after": self._ends_after}
            stdin.write(orjson.dumps(order) + b"\n")
            stdin.flush()
        _log.info("worker.relief_called", pid=process.pid)

    def _listen(self, process: "subprocess.Popen[bytes]", now: float) -> None:
        with suppress(BlockingIOError):
            if os.read(_pipes(process)[1].fileno(), 65_536):
                self._silent_after = now + _SILENT_FOR
        status = process.poll()
        if status is None and now < self._silent_after:
            return
        if status is None:
            _log.error("worker.relief_is_silent", pid=process.pid)
            process.kill()
            status = process.wait()
        _release(process)
        self._process, self.is_at_work = None, False
        self._effort.forget()
        if status:
            self._not_before = now + _NOT_AGAIN_FOR
        _log.info("worker.relief_ended", pid=process.pid, status=status)


def _pipes(process: "subprocess.Popen[bytes]") -> tuple[Any, Any]:
    return process.stdin, process.stdout


def _end(process: "subprocess.Popen[bytes]", *, seconds: float) -> None:
    """Let it end; by force after so many seconds."""
    with suppress(OSError):
        _pipes(process)[0].close()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _release(process)


def _release(process: "subprocess.Popen[bytes]") -> None:
    for pipe in _pipes(process):
        with suppress(OSError):
            pipe.close()


# ------------------------------------------------------------------ in the process that was called


def serve() -> None:
    """Be the relief: what to do comes in one line on stdin, whose end is ours; a byte on stdout says that we live."""
    # Whoever presses Ctrl-C means the hub, which tells us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order = orjson.loads(sys.stdin.buffer.readline())
    settings = Settings(**order["settings"])
    configure_logging(settings)
    hub = open_hub(settings)
    hub.database.keep_long_log()
    if hub.database.dialect == "postgresql":
        # On SQLite everybody waits for whoever writes: that one must get on.
        os.nice(_LOWER_PRIORITY)
    # Whoever holds the lock of a database waits for its turn of the interpreter, and everybody else for the lock.
    sys.setswitchinterval(_SWITCH_SECONDS[hub.database.dialect])
    # What is there now stays: looking through it again and again would only cost time.
    gc.freeze()
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_reader(sys.stdin.fileno(), stop.set)
        async with OutboundHttp(settings) as http:
            worker = Worker(hub, http, due_for=_LEFT_FOR)
            await worker.start()
            while worker.is_running and worker.idle_seconds < order["ends_after"] and not stop.is_set():
                with suppress(OSError):
                    os.write(sys.stdout.fileno(), b".")
                with suppress(TimeoutError):
                    async with asyncio.timeout(_BEAT_EVERY):
                        await stop.wait()
            await worker.stop()

    try:
        asyncio.run(run())
    finally:
        hub.close()
