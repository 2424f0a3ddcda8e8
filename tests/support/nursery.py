"""Starts `idhub` processes in milliseconds, and can make one die at a fault point.

A nursery is a process that has imported all of idhub and opened nothing. For every command it forks a child, which sets
its environment, its output and what it does at fault points (`idhub.faults`), and runs the real command line. The tests
talk to the nursery over its standard input and output, a JSON line each way.

A fault point has a name: the function whose transaction or request it is, and the moment; and an ordinal, how often
that name was passed in this process since `arm`, a file, was there. `record` writes each name to a file as it is
passed, after the number of the process; `kill` sends SIGKILL to the own process at the given name and ordinal; `fail`
raises, before that share of all commits, what PostgreSQL raises for transactions that collide.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Self

ROOT = Path(__file__).parents[2]
_PASSED_OVER = (
    "contextlib",
    "idhub.credentials.in_step",
    "idhub.db",
    "idhub.delivery.http",
    "idhub.faults",
    "scim.client",
    "asyncio",
    __name__,
)


@dataclass(frozen=True)
class Child:
    """An `idhub` process. Its exit status is known to the nursery alone."""

    pid: int
    log: Path


@dataclass
class Nursery:
    """The tests' side of the forking process."""

    _process: subprocess.Popen[bytes] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        from tests.support.processes import die_with_parent

        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl call, safe between fork and exec
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def start(
        self,
        arguments: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        log: Path,
        out: Path | None = None,
        faults: Mapping[str, Any] | None = None,
    ) -> Child:
        """Run `idhub ARGUMENTS`. What it says goes to `log`, what it prints to `out` (default: `log` too)."""
        order = {
            "start": [str(a) for a in arguments],
            "env": dict(env),
            "log": str(log),
            "out": str(out or log),
            "faults": dict(faults or {}),
        }
        return Child(int(self._ask(order)), log)

    def status(self, child: Child) -> int | None:
        """How it ended, as `subprocess` says it (negative: by signal); None while it runs."""
        found = self._ask({"status": child.pid})
        return None if found is None else int(found)

    def wait(self, child: Child, *, seconds: float) -> int | None:
        """Its exit status, or None when it still runs after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.status(child)
            if found is not None or time.monotonic() > deadline:
                return found
            time.sleep(0.02)

    def signal(self, child: Child, number: signal.Signals) -> None:
        """Send a signal to a child that was not seen to end."""
        self._ask({"signal": child.pid, "number": int(number)})

    def stop(self, child: Child, *, seconds: float = 20) -> int | None:
        """End it politely, and by force after `seconds`."""
        self.signal(child, signal.SIGTERM)
        found = self.wait(child, seconds=seconds)
        if found is None:
            self.signal(child, signal.SIGKILL)
            found = self.wait(child, seconds=5)
        return found

    def _ask(self, order: Mapping[str, Any]) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise AssertionError("the nursery has ended")
        return json.loads(answer)


# ---- the forking process


def _name(frame: FrameType | None) -> str:
    """The function whose transaction or request this is."""
    operation = None
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        code = frame.f_code
        if module.startswith("idhub.credentials.store"):
            # What runs has no frame of its own there: the operation is a generator that the driver drives.
            operation = frame.f_locals.get("operation", operation)
            if operation is None and frame.f_locals.get("operations"):
                operation = frame.f_locals["operations"][-1]
            waiting = frame.f_locals.get("group")
            if operation is None and isinstance(waiting, list) and waiting:
                operation = waiting[-1].operation
            if operation is not None:
                operation = getattr(operation, "func", operation)
                return f"{operation.__module__}:{operation.__qualname__}"
            # Whoever called this knows.
            frame = frame.f_back
            continue
        passed_over = module.startswith(_PASSED_OVER) or code.co_qualname in {
            "Sequencer._transaction",
            "ScimHttp.request",
        }
        if not passed_over and module.startswith(("idhub.", "audit.", "providers.", "scim.")):
            line = f"@{frame.f_lineno - code.co_firstlineno}" if module == "audit.sequencer" else ""
            return f"{module}:{code.co_qualname}{line}"
        frame = frame.f_back
    return "unknown"


class _Points:
    """What happens at fault points in this process."""

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self._wanted = wanted
        self._passed: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._out: IO[str] | None = None
        if "record" in wanted:
            self._out = Path(wanted["record"]).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115 - until the end
        self._chance = random.Random(int(wanted.get("seed", 0)))
        self._arm: str | None = wanted.get("arm")

    def act(self, moment: str) -> None:
        if self._arm is not None:
            if not os.path.exists(self._arm):
                return
            self._arm = None
        name = f"{_name(sys._getframe(1))} {moment}"
        with self._lock:
            self._passed[name] += 1
            ordinal = self._passed[name]
            if self._out is not None:
                self._out.write(f"{os.getpid()} {name}\n")
            share = self._wanted.get("fail", 0.0) if moment == "commit.before" else 0.0
            fails = self._chance.random() < share
            if fails and self._out is not None:
                self._out.write(f"{os.getpid()} {name} failed\n")
        if self._wanted.get("kill") == name and ordinal == self._wanted.get("ordinal", 1):
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # the signal is on its way: nothing more may happen in this thread
        if fails:
            _collide(str(sys._getframe(2).f_globals["__name__"]))


def _collide(where: str) -> None:
    """Raise what the driver there raises when PostgreSQL ends a transaction for want of an order."""
    import psycopg.errors
    from sqlalchemy.exc import OperationalError

    if where == "idhub.credentials.in_step":
        raise psycopg.errors.SerializationFailure("could not serialize access")
    raise OperationalError("COMMIT", {}, psycopg.errors.SerializationFailure("could not serialize access"))


def _become(order: Mapping[str, Any]) -> None:
    """In the child: be the `idhub` command."""
    import ctypes
    import resource

    libc = ctypes.CDLL(None)
    libc.prctl(1, signal.SIGKILL)
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in ((1, order["out"]), (2, order["log"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
    for name in [name for name in os.environ if name.startswith("IDHUB_")]:
        del os.environ[name]
    os.environ.update(order["env"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if order["faults"]:
        from idhub import faults

        faults.act = _Points(order["faults"]).act
    from idhub.cli import main

    sys.argv = ["idhub", *order["start"]]
    status = 0
    try:
        main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # the child must not go on as a second nursery
        import traceback

        traceback.print_exc()
        status = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve() -> None:
    import gc

    import uvicorn  # noqa: F401 - imported once, for all children
    import uvloop  # noqa: F401 - likewise
    from uvicorn.protocols.http import httptools_impl  # noqa: F401 - likewise

    import idhub.app
    import idhub.cli.console
    import idhub.cli.loading
    import idhub.worker

    idhub.cli.loading.load_commands()
    gc.freeze()
    ended: dict[int, int] = {}
    doings: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "start": lambda order: _start(order, ended),
        "status": lambda order: _status(int(order["status"]), ended),
        "signal": lambda order: _signal(order, ended),
    }
    for line in sys.stdin.buffer:
        order = json.loads(line)
        answer = next(do(order) for name, do in doings.items() if name in order)
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


def _start(order: Mapping[str, Any], ended: dict[int, int]) -> int:
    pid = os.fork()
    if pid == 0:
        _become(order)
    # Numbers come again: what an earlier process of this number ended with is not how this one ended.
    ended.pop(pid, None)
    return pid


def _status(pid: int, ended: dict[int, int]) -> int | None:
    if pid not in ended:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended.get(pid)


def _signal(order: Mapping[str, Any], ended: dict[int, int]) -> None:
    pid = int(order["signal"])
    if _status(pid, ended) is None:
        os.kill(pid, order["number"])


if __name__ == "__main__":
    _serve()
