"""Checkpoints at a real receiver of syslog: rsyslog takes them, and an auditor compares the log with its file."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from audit.checkpoint import FileWitness
from tests.cli.conftest import Command
from tests.support.processes import free_port, running, wait_until

PROGRAM = shutil.which("rsyslogd") or "/usr/sbin/rsyslogd"


@dataclass(frozen=True)
class Receiver:
    """A running rsyslog, and the file into which it writes."""

    port: int
    file: Path
    path: Path


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """One that listens by TCP, by UDP and on a path."""
    if not Path(PROGRAM).exists():
        pytest.fail("rsyslog is missing. `make test` installs it (package rsyslog).")
    port, file = free_port(), tmp_path / "received.log"
    # Not among the files of the test: the path of a socket has 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="idhub-syslog-"))
    path = folder / "log"
    configuration = tmp_path / "rsyslog.conf"
    configuration.write_text(
        f'global(workDirectory="{tmp_path}" maxMessageSize="8k")\n'
        'module(load="imtcp")\nmodule(load="imudp")\nmodule(load="imuxsock" SysSock.Use="off")\n'
        f'input(type="imtcp" address="127.0.0.1" port="{port}")\n'
        f'input(type="imudp" address="127.0.0.1" port="{port}")\n'
        f'input(type="imuxsock" Socket="{path}" UseSpecialParser="off")\n'
        f'action(type="omfile" file="{file}" template="RSYSLOG_FileFormat")\n'
    )
    command = [PROGRAM, "-n", "-f", str(configuration), "-i", str(tmp_path / "pid")]
    try:
        with running(command, port=port, log=tmp_path / "rsyslogd.log"):
            yield Receiver(port, file, path)
    finally:
        shutil.rmtree(folder)


def _holds(file: Path, count: int) -> bool:
    return file.exists() and len(list(FileWitness(file).notes())) >= count


@pytest.mark.parametrize("kind", ["tcp", "udp", "unix"])
def test_a_receiver_of_syslog_is_a_witness(staffed: Command, receiver: Receiver, kind: str) -> None:
    address = f"unix://{receiver.path}" if kind == "unix" else f"{kind}://127.0.0.1:{receiver.port}"
    wait_until(lambda: kind != "unix" or receiver.path.exists(), seconds=10, what="the socket is there")
    to_syslog = {"IDHUB_WITNESS_SYSLOG": address}
    exported = staffed("audit", "export", env=to_syslog)
    assert exported.code == 0, exported.err
    assert "unreached" not in exported.err
    wait_until(lambda: _holds(receiver.file, 1), seconds=20, what="rsyslog wrote a checkpoint")
    keys = staffed("audit", "verify", "--witness", str(receiver.file), "--json")
    assert (keys.code, keys.json["valid"]) == (0, True), keys
    assert keys.json["witnessed_size"] == keys.json["size"], "the very checkpoint that was signed"
    (finding,) = [one for one in staffed("doctor", "--json", env=to_syslog).json if one["name"] == "syslog witness"]
    assert finding["is_ok"], finding


def test_history_that_was_cut_off_is_found_by_what_syslog_holds(staffed: Command, receiver: Receiver) -> None:
    database = staffed.folder / "data" / "idhub.db"
    to_syslog = {"IDHUB_WITNESS_SYSLOG": f"tcp://127.0.0.1:{receiver.port}"}
    assert staffed("audit", "export", env=to_syslog).code == 0
    old = database.read_bytes()
    assert staffed("suspend", "QY1", env=to_syslog).code == 0
    assert staffed("audit", "export", env=to_syslog).code == 0
    wait_until(lambda: _holds(receiver.file, 2), seconds=20, what="rsyslog wrote both checkpoints")
    # Whoever owns the machine puts an old database back, and an empty witness file beside it.
    for name in ("idhub.db", "idhub.db-wal", "idhub.db-shm", "witness.log"):
        (database.parent / name).unlink(missing_ok=True)
    database.write_bytes(old)
    done = staffed("audit", "verify", "--witness", str(receiver.file))
    assert (done.code, "the witness has seen" in done.out) == (1, True), done


def test_a_receiver_that_is_not_there_is_said_and_keeps_nothing_from_being_sealed(staffed: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    nobody = {"IDHUB_WITNESS_SYSLOG": f"tcp://127.0.0.1:{port}"}
    exported = staffed("audit", "export", env=nobody)
    assert (exported.code, '"statement"' in exported.out) == (0, True), exported.err
    told = staffed("doctor", "--json", env=nobody)
    (finding,) = [one for one in told.json if one["name"] == "syslog witness"]
    assert (told.code, finding["is_ok"]) == (1, False)
    assert finding["detail"].startswith(f"tcp://127.0.0.1:{port} cannot be reached (Connection refused)")
    assert not [one for one in staffed("doctor", "--json").json if one["name"] == "syslog witness"]


@pytest.mark.parametrize(
    "address",
    ["log.example:601", "tcp://log.example", "tcp://:601", "tls://log.example:6514", "tcp://log.example:99999",
     "unix://dev/log", "tcp://log.example:601/path", "tcp://user@log.example:601", "udp://log.example:601?x=1"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_in_a_sentence(idhub: Command, address: str) -> None:
    done = idhub("doctor", env={"IDHUB_WITNESS_SYSLOG": address})
    assert done.code == 1
    assert done.err == (
        "error [settings]: Settings cannot be used: witness_syslog: must be tcp://HOST:PORT, udp://HOST:PORT or unix:///PATH\n"
    )
