"""A real PgBouncer before the test run's PostgreSQL. In transaction mode: each may get another connection."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from idhub.demo.processes import answers, die_with_parent, free_port, wait_until

_PROGRAM = "/usr/sbin/pgbouncer"


class PgbouncerAbsent(Exception):
    """The program is not on this machine."""


@contextmanager
def pgbouncer(server_port: int, *, connections: int = 3, **settings: str) -> Iterator[int]:
    """Run one until the block ends; its port.

    Args:
        connections: that it holds to each database. Fewer than its clients have, so that they get each other's.
        settings: of the section `pgbouncer` that differ.

    Raises:
        PgbouncerAbsent: the program is not on this machine.
    """
    program = shutil.which("pgbouncer") or (_PROGRAM if Path(_PROGRAM).exists() else None)
    if program is None:
        raise PgbouncerAbsent("PgBouncer is missing. `make test` installs it (package pgbouncer).")
    # It refuses to run as root.
    owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="idhub-pgbouncer-"))
    port = free_port()
    values = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": str(connections),
        "max_client_conn": "500",
        **settings,
    }
    lines = [f"[databases]\n* = host=127.0.0.1 port={server_port} user=postgres\n[pgbouncer]"]
    lines += [f"{name} = {value}" for name, value in values.items()]
    (folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
    folder.chmod(0o755)
    log = folder / "log"
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program, str(folder / "pgbouncer.ini")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=owner.pw_uid if owner else None,
                group=owner.pw_gid if owner else None,
                extra_groups=[] if owner else None,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl call
            )
        try:
            wait_until(lambda: process.poll() is not None or answers(port), seconds=20, what="PgBouncer answers")
            assert process.poll() is None, f"PgBouncer did not start:\n{log.read_text(errors='replace')[-2000:]}"
            yield port
        finally:
            process.send_signal(signal.SIGTERM)  # at once
            process.wait(10)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
