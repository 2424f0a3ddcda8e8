"""The HR file read by a process of its own, some batches ahead of the one that writes.

Owns: how that process begins, what is said through its pipes, and that it ends. Does not own what is read and made
ready (`hr_ahead`). The process is ours: it gets the master key and the database's address through a pipe, and what it
answers is trusted as far as our own code is.

Entry point: `open_reader`.
"""

from __future__ import annotations

import gc
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from idhub.db import Database, open_database
from idhub.directory.search_terms import load_readings
from idhub.errors import Unavailable
from idhub.keys import Keyring, MasterKey
from idhub.lifecycle.hr_ahead import Ahead, FileChanged, Reader, Terms
from idhub.lifecycle.hr_companies import Companies
from providers.base import Completeness
from providers.hr_file import HrFileRefused, HrRow

_WORTH_A_PROCESS = 1 << 20
"""Bytes of a file from which reading ahead in a process of its own pays for starting it."""
_PIPE_BYTES = 1 << 20
_KEPT_AHEAD = 96
"""Batches read while the writer has a transaction in hand or waits for the disk, somewhat less than a megabyte each."""
_LOOK_SECONDS = 0.002
_STEP_BACK = 5
"""Niceness of the reading process: a third of what another busy process gets; on an idle machine a whole core."""
_HEAD = struct.Struct("<Q?")
"""Before what the reading process says: its length, and whether more of the same answer follows."""


def open_reader(
    database: Database,
    path: Path,
    companies: Companies,
    keyring: Keyring,
    terms: Terms,
    *,
    meanwhile: Callable[[], None] = lambda: None,
) -> Reader | ReaderApart:
    """Open an HR file, in a process of its own where that pays.

    Args:
        meanwhile: what may be done while such a process starts.

    Raises:
        HrFileRefused: the whole file is refused.
        OSError: it cannot be read.
    """
    if path.stat().st_size < _WORTH_A_PROCESS or (os.cpu_count() or 1) < 2:
        meanwhile()
        return Reader(database, path, companies, keyring, terms)
    return ReaderApart(database, path, companies, keyring, terms, meanwhile)


class _Process(Protocol):
    """A process that we began: `subprocess.Popen`, or one that is a copy of this."""

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class _Copy:
    """A process that began as a copy of this one."""

    def __init__(self, pid: int) -> None:
        self._pid, self._status = pid, -1

    def kill(self) -> None:
        """End it at once."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, when it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not, after so many seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._pid:
            ended, status = os.waitpid(self._pid, 0 if deadline is None else os.WNOHANG)
            if ended:
                self._pid, self._status = 0, os.waitstatus_to_exitcode(status)
            elif deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("hr_file", timeout or 0)
            else:
                time.sleep(_LOOK_SECONDS)
        return self._status


def _begin(database: Database) -> tuple[_Process, IO[bytes], IO[bytes]]:
    """Begin a reading process. Returns it, what it is told through, and what it is heard through.

    A copy of this process has all our modules and begins at once; a new interpreter loads them for half a second. But a
    copy of a process with other threads may hold their locks for ever, and SQLite does not know of copies: it would
    take the locks of connections that are open here for its own.
    """
    if _has_one_thread():
        database.dispose()
        if not _is_open(database):
            # Here, where both have them from it.
            load_readings()
            return _copy()
    # -P: modules come from where ours come from, never from the folder that somebody happens to stand in.
    process = subprocess.Popen(
        # Neither modules nor rows form cycles (fifty objects of 30,000 rows): looking for them takes a tenth of the
        # start, and half a microsecond a row.
        [sys.executable, "-P", "-c", f"import gc; gc.disable(); from {__name__} import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if process.stdin is None or process.stdout is None:
        raise Unavailable("The reading process has no pipes.")
    return process, process.stdin, process.stdout


def _has_one_thread() -> bool:
    """Whether this process has one thread, of whatever library."""
    return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1


def _is_open(database: Database) -> bool:
    """Whether this process has a file of the database open, through whatever connection."""
    file = database.engine.url.database if database.dialect == "sqlite" else None
    if not file:
        return False
    mine = os.path.realpath(file)
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith(mine):
                return True
    return False


def _copy() -> tuple[_Process, IO[bytes], IO[bytes]]:
    there, told = os.pipe()
    heard, here = os.pipe()
    pid = os.fork()
    if pid:
        os.close(there)
        os.close(here)
        return _Copy(pid), os.fdopen(told, "wb"), os.fdopen(heard, "rb")
    try:
        os.close(told)
        os.close(heard)
        serve(os.fdopen(there, "rb"), os.fdopen(here, "wb"))
    except BaseException:
        # What stands above us is the parent's work, not ours.
        traceback.print_exc()
    finally:
        os._exit(1)


class ReaderApart:
    """The HR file read by a process of its own, which works ahead until the pipe between us is full."""

    def __init__(
        self,
        database: Database,
        path: Path,
        companies: Companies,
        keyring: Keyring,
        terms: Terms,
        meanwhile: Callable[[], None],
    ) -> None:
        self._process, self._to, self._from = _begin(database)
        self._kept: queue.Queue[bytes] = queue.Queue(_KEPT_AHEAD)
        self._listener: threading.Thread | None = None
        _widen(self._from)
        try:
            address = database.url, database.is_pooled
            self._tell("open", address, str(path.absolute()), companies, keyring.master.raw, terms)
            meanwhile()
            self.digest, self.encoding, self.unknown_columns = self._hear()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._to.close()
        if self._listener is not None and self._listener.is_alive():
            # Nobody wants the rest of the file.
            self._process.kill()
            while self._listener.is_alive():
                with suppress(queue.Empty):
                    self._kept.get(timeout=0.1)
        self._from.close()
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def batches(self) -> Iterator[Ahead]:
        """The whole file, once, in order."""
        self._tell("batches")
        # The pipe holds less than a batch; what was heard stays packed until its turn comes.
        self._listener = threading.Thread(target=self._listen, name="hr_file", daemon=True)
        self._listener.start()
        while (ahead := _understood(self._kept.get())) is not None:
            yield ahead

    def _listen(self) -> None:
        more = True
        while more:
            packed, more = self._hear_packed()
            self._kept.put(packed)

    def completeness(self) -> Completeness:
        """The proof over `batches`."""
        self._tell("completeness")
        proof: Completeness = self._hear()
        return proof

    def listed(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Of (company key, employee number) pairs: whether some row was about it."""
        self._tell("listed", list(pairs))
        found: list[bool] = self._hear()
        return found

    def again(self, lines: Iterable[int]) -> Iterator[list[HrRow]]:
        """The rows of some lines a second time."""
        self._tell("again", list(lines))
        while (rows := self._hear()) is not None:
            yield rows

    def _tell(self, *request: Any) -> None:
        pickle.dump(request, self._to, protocol=5)
        self._to.flush()

    def _hear(self) -> Any:
        return _understood(self._hear_packed()[0])

    def _hear_packed(self) -> tuple[bytes, bool]:
        """What is said next, and whether more of the same answer follows; nothing when the process has ended."""
        head = self._from.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return b"", False
        size, more = _HEAD.unpack(head)
        packed = self._from.read(size)
        return (packed, more) if len(packed) == size else (b"", False)


def _understood(packed: bytes) -> Any:
    """What the reading process said."""
    if not packed:
        raise Unavailable("The process that reads the HR file has ended.")
    said, value = pickle.loads(packed)  # noqa: S301 - our own process, through a pipe nobody else holds
    if said == "refused":
        raise HrFileRefused(*value)
    if said == "changed":
        raise FileChanged
    if said == "failed":
        raise OSError(*value)
    return value


def _widen(pipe: Any) -> None:
    """Let a pipe hold a batch, where the system can: the reader goes on while the writer writes."""
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


class _Server:
    """The reading process: answers one parent until that closes the pipe."""

    def __init__(self, requests: IO[bytes], answers: IO[bytes]) -> None:
        self._requests, self._answers = requests, answers
        self._database: Database | None = None

    def close(self) -> None:
        """Let the database go."""
        if self._database is not None:
            self._database.dispose()

    def run(self) -> None:
        """Answer every request in turn."""
        reader: Reader | None = None
        with suppress(EOFError, BrokenPipeError):
            while True:
                what, *given = pickle.load(self._requests)  # noqa: S301 - our own parent, through a pipe of our own
                try:
                    if what == "open":
                        reader = self._open(*given)
                    elif reader is not None:
                        self._answer(getattr(reader, what)(*given))
                except HrFileRefused as error:
                    self._say((error.code, error.description, error.description_zh), "refused")
                except FileChanged:
                    self._say(None, "changed")
                except BrokenPipeError:
                    return
                except OSError as error:
                    self._say((error.errno, error.strerror), "failed")

    def _open(self, address: tuple[str, bool], path: str, companies: Companies, raw: bytes, terms: Terms) -> Reader:
        url, is_pooled = address
        self._database = open_database(url, pool_size=2, is_pooled=is_pooled)
        reader = Reader(self._database, Path(path), companies, Keyring(MasterKey(raw), ()), terms)
        self._say((reader.digest, reader.encoding, reader.unknown_columns))
        return reader

    def _answer(self, value: Any) -> None:
        if isinstance(value, Iterator):
            for part in value:
                self._say(part, more=True)
            value = None
        self._say(value)

    def _say(self, value: Any, said: str = "value", *, more: bool = False) -> None:
        packed = pickle.dumps((said, value), protocol=5)
        self._answers.write(_HEAD.pack(len(packed), more))
        self._answers.write(packed)
        self._answers.flush()


def serve(requests: IO[bytes] | None = None, answers: IO[bytes] | None = None) -> None:
    """Be the reading process, heard and answering through these or its standard input and output. Does not return.

    It steps back behind whoever is waited for: the writer, which holds the lock that everybody needs, and sign-ins.
    """
    # Who stops the import stops the parent, and with it what we read from.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_STEP_BACK)
    gc.disable()
    server = _Server(requests or sys.stdin.buffer, answers or sys.stdout.buffer)
    server.run()
    server.close()
    # At once: what is left has nothing to put away, and the writer waits for us.
    os._exit(0)
