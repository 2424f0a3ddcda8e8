"""HR files that were brought by a page, taken in by a process of their own.

An import computes for minutes, and in one process whoever signs in would wait for each of its steps. So the worker
begins a process, one at a time over all nodes (a lease), which previews or takes in whatever waits and ends. How far it
is stands in the database; when it dies, or the hub is started anew, the next one goes on (`lifecycle.hr_uploads`).

Nobody's file ends the hub: memory and time of the process are bounded, and a file that ends it each time is given up.
"""

import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import orjson
import structlog

from idhub.db import Database
from idhub.lifecycle.hr_uploads import Superseded, has_due, work_next
from idhub.logs import configure_logging
from idhub.services import open_hub, utc_now
from idhub.settings import Settings
from idhub.turns import bulk_work

_LOWER_PRIORITY = 5
_MOST_MEMORY = 1 << 30
"""Bytes that the process may have of its own, and the one that reads for it: a million rows take half of it."""
_LONGEST_SECONDS = 3_600.0
_NOT_AGAIN_FOR = 10.0
_ENDS_WITHIN = 2.0

_log = structlog.get_logger("idhub.worker")


class HrProcess:
    """The worker's side: begins the process when something waits. `look` is to be called about each second.

    Args:
        settings: of the installation; the process opens the same.
        longest: seconds after which it is ended.
    """

    def __init__(self, settings: Settings, database: Database, *, longest: float = _LONGEST_SECONDS) -> None:
        self._settings, self._database, self._longest = settings, database, longest
        self._process: subprocess.Popen[bytes] | None = None
        self._ends_at = 0.0
        self._not_before = float("-inf")
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def is_wanted(self) -> bool:
        """Whether there is a process to look after, or something for one to do."""
        return self._process is not None or has_due(self._database)

    @property
    def pid(self) -> int | None:
        """Number of the process, while there is one."""
        return None if self._process is None else self._process.pid

    def look(self) -> None:
        """Begin a process where something waits; end one that takes too long."""
        with self._lock:
            now = time.monotonic()
            if self._process is not None:
                self._look_after(self._process, now)
            elif not self._is_closed and now >= self._not_before and has_due(self._database):
                self._begin(now)

    def close(self) -> None:
        """End the process; what it did not come to, the next one does."""
        with self._lock:
            process, self._process, self._is_closed = self._process, None, True
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _begin(self, now: float) -> None:
        try:
            process = subprocess.Popen(
                # -P: modules come from where ours come from, never from the folder that somebody happens to stand in.
                [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"],
                stdin=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except OSError as error:
            _log.warning("worker.no_hr_process", error=type(error).__name__)
            self._not_before = now + _NOT_AGAIN_FOR
            return
        self._process, self._ends_at = process, now + self._longest
        with suppress(OSError):
            # Through the pipe: an address with a password is nobody else's to read.
            if process.stdin is not None:
                process.stdin.write(orjson.dumps(self._settings.model_dump(mode="json")) + b"\n")
                process.stdin.flush()
        _log.info("worker.hr_process_began", pid=process.pid)

    def _look_after(self, process: "subprocess.Popen[bytes]", now: float) -> None:
        status = process.poll()
        if status is None and now < self._ends_at:
            return
        if status is None:
            process.kill()
            status = process.wait()
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        self._process = None
        if status:
            self._not_before = now + _NOT_AGAIN_FOR
            _log.error("worker.hr_process_failed", pid=process.pid, status=status)
        else:
            _log.info("worker.hr_process_ended", pid=process.pid)


# ------------------------------------------------------------------ in the process that was begun


class _Deserted(Exception):
    """The hub has ended."""


def serve() -> None:
    """Be the process: settings come in one line on stdin, whose end is ours. Ends when nothing waits any more."""
    # Whoever presses Ctrl-C means the hub, which tells us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = Settings(**orjson.loads(sys.stdin.buffer.readline()))
    configure_logging(settings)
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
    hub = open_hub(settings)
    if hub.database.dialect == "postgresql":
        # On SQLite everybody waits for whoever writes: that one must get on.
        os.nice(_LOWER_PRIORITY)

    def beat() -> None:
        if select.select([sys.stdin], [], [], 0)[0]:
            raise _Deserted

    try:
        with bulk_work(), suppress(Superseded, _Deserted):
            while work_next(hub.database, hub.keyring, clock=utc_now, beat=beat):
                pass
    finally:
        hub.close()
