"""A real PostgreSQL server for tests: scratch folder, own port, gone afterwards. The default cluster is left alone."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

from idhub.demo.processes import die_with_parent, free_port

_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
    # The data lives as long as the test run: nothing here needs to survive a loss of power.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_wal_size": "256MB",
    "autovacuum": "off",
    "log_min_messages": "fatal",
}


_ROOM = 4 * 2**30
"""Bytes that must be free in memory for the data to live there."""
_HAS_STRATEGIES = 150_000
"""The version of PostgreSQL that can be told how to copy a database."""


class PostgresAbsent(Exception):
    """The server programs are not on this machine."""


def _programs() -> Path:
    """The folder with initdb and postgres; Debian keeps it off PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]), reverse=True)
    found = versions[0] if versions else shutil.which("initdb")
    if found is None:
        raise PostgresAbsent(
            "PostgreSQL's server programs are missing. `make test` installs them (package postgresql)."
        )
    return Path(found).resolve().parent


class PostgresServer:
    """One running server. Databases are made from a template, which takes some 40 ms."""

    def __init__(self, start: Callable[[int | None], tuple["subprocess.Popen[bytes]", int]]) -> None:
        self._start = start
        self.process, self.port = start(None)

    def checkpoint(self) -> None:
        """Write everything to the data files, so that a crash has nothing older to begin from."""
        self.ask("CHECKPOINT")

    def promote(self) -> None:
        """Make a standby a primary; returns when it takes writes."""
        self.ask("SELECT pg_promote()")

    def ask(self, statement: LiteralString) -> None:
        """Run one statement by itself."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)

    def stop_at_once(self) -> None:
        """What `pg_ctl stop -m immediate` does: every connection is cut, nothing is written down, recovery follows."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(20)

    def start_again(self) -> None:
        """On the port it had; returns when it accepts connections."""
        self.process, _ = self._start(self.port)

    def url(self, database: str = "postgres") -> str:
        """The address of a database, as settings take it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, *, template: str = "template1") -> str:
        """Make a database as a copy of `template`; returns its address."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            # Through the log of what is written it takes half as long again; older servers know of no other way.
            strategy = "STRATEGY FILE_COPY" if connection.info.server_version >= _HAS_STRATEGIES else ""
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} {}").format(
                    sql.Identifier(database), sql.Identifier(template), sql.SQL(strategy)
                )
            )
        return self.url(database)

    def drop(self, database: str) -> None:
        """Remove a database, whoever is still connected."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def postgres_server(*, on_disk: bool = False, **options: str) -> Iterator[PostgresServer]:
    """Run a server until the block ends. `options` are settings of PostgreSQL that differ from those of other tests.

    Args:
        on_disk: keep the data on the disk even where there is room in memory: for measurements.

    PostgreSQL refuses to run as root; then it runs as the user `postgres`, in a folder that this user owns.

    Raises:
        PostgresAbsent: the server programs, or the user to run them as, are not on this machine.
    """
    with _home(on_disk=on_disk) as (programs, owner, folder):
        data = folder / "data"
        command: list[str | Path] = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        _run_as(owner, [*command, "--locale=C.UTF-8", "--no-sync", "--no-instructions"], folder)
        with _running(partial(_start, programs, data, folder, owner, {**_OPTIONS, **options})) as server:
            yield server


@contextmanager
def standby_of(primary: PostgresServer, **options: str) -> Iterator[PostgresServer]:
    """A standby that streams from a running server, which commits nothing without it while the block lasts.

    It has what the primary has acknowledged; `promote` makes it a primary itself. The other is there again afterwards.
    """
    with _home(on_disk=False) as (programs, owner, folder):
        data = folder / "data"
        command: list[str | Path] = [programs / "pg_basebackup", "-d", primary.url(), "-D", data, "-R", "-c", "fast"]
        _run_as(owner, [*command, "-X", "stream", "--no-sync"], folder)
        with _running(partial(_start, programs, data, folder, owner, {**_OPTIONS, **options})) as server:
            primary.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.ask("SELECT pg_reload_conf()")
            yield server
            if primary.process.poll() is not None:
                primary.start_again()
            primary.ask("ALTER SYSTEM RESET synchronous_standby_names")
            primary.ask("SELECT pg_reload_conf()")


@contextmanager
def _home(*, on_disk: bool) -> Iterator[tuple[Path, pwd.struct_passwd | None, Path]]:
    """Where the programs are, whom they run as, and a folder that this user owns until the block ends."""
    programs = _programs()
    owner: pwd.struct_passwd | None = None
    if os.geteuid() == 0:
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError as error:
            raise PostgresAbsent("There is no user `postgres` to run PostgreSQL as; root may not.") from error
    # In memory where the machine offers it: hundreds of databases are made and dropped.
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    roomy = not on_disk and memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM
    folder = Path(tempfile.mkdtemp(prefix="idhub-postgres-", dir=memory if roomy else "/var/tmp" if on_disk else None))  # noqa: S108
    try:
        if owner is not None:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        yield programs, owner, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(start: Callable[[int | None], tuple["subprocess.Popen[bytes]", int]]) -> Iterator[PostgresServer]:
    server = PostgresServer(start)
    try:
        yield server
    finally:
        process = server.process
        process.send_signal(signal.SIGINT)  # "fast": disconnect everybody, then end
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(10)


def _identity(owner: pwd.struct_passwd | None) -> tuple[int | None, int | None, list[int] | None]:
    return (owner.pw_uid, owner.pw_gid, []) if owner is not None else (None, None, None)


def _run_as(owner: pwd.struct_passwd | None, command: list[str | Path], folder: Path) -> None:
    user, group, extra_groups = _identity(owner)
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=folder,
        user=user,
        group=group,
        extra_groups=extra_groups,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"{command[0]} failed: {done.stdout}\n{done.stderr}")


def _start(
    programs: Path,
    data: Path,
    folder: Path,
    owner: pwd.struct_passwd | None,
    settings: Mapping[str, str],
    fixed_port: int | None,
) -> tuple["subprocess.Popen[bytes]", int]:
    """Start on a free port; another process may take that port first, hence three tries."""
    user, group, extra_groups = _identity(owner)
    log = folder / "log"
    for _ in range(3):
        port = fixed_port or free_port()
        options = [f"--{name}={value}" for name, value in settings.items()]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [programs / "postgres", "-D", data, "-p", str(port), "-k", folder, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                user=user,
                group=group,
                extra_groups=extra_groups,
                preexec_fn=die_with_parent(signal.SIGQUIT),  # noqa: PLW1509 - one prctl call
            )
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            try:
                psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return process, port
        if process.poll() is None:
            process.kill()
            process.wait(10)
    raise AssertionError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')[-4000:]}")
