"""Notes and witnesses: what is signed, what is refused, what a crash may leave."""

from __future__ import annotations

import base64
import json
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import (
    Checkpoint,
    Ed25519Signer,
    FileWitness,
    SyslogWitness,
    VerifyingKey,
    key_id,
    load_keys,
    parse_note,
    sign_checkpoint,
    verify_note,
)
from audit.errors import AuditError, InvalidNote
from tests.audit.support import NOW, ORIGIN

PRIVATE = Ed25519PrivateKey.generate()
SIGNER = Ed25519Signer(PRIVATE)
KEYS = [VerifyingKey("k1", SIGNER.public_key, PRIVATE.public_key())]
CHECKPOINT = Checkpoint(ORIGIN, 42, bytes(range(32)), NOW)
NOTE = sign_checkpoint(CHECKPOINT, SIGNER)


def test_a_note_has_the_form_of_c2sp() -> None:
    lines = NOTE.split("\n")
    assert lines[:3] == [ORIGIN, "42", base64.b64encode(bytes(range(32))).decode()]
    assert lines[3] == "time 2026-11-23T02:00:00.000000Z"
    assert lines[4] == ""
    assert lines[5].startswith(f"\u2014 {ORIGIN} ")
    assert base64.b64decode(lines[5].split(" ")[2])[:4] == key_id(ORIGIN, SIGNER.public_key)
    assert verify_note(NOTE, KEYS) == CHECKPOINT


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note.replace("\n42\n", "\n43\n"),
        lambda note: note.replace("\n42\n", "\n042\n"),
        lambda note: note.replace("\n42\n", "\n-42\n"),
        lambda note: note.replace("\n42\n", "\n４２\n"),
        lambda note: note.replace("\n42\n", "\n" + "9" * 40 + "\n"),
        lambda note: note.replace("T02:00", "T03:00"),
        lambda note: note.replace("Z\n", "\n"),
        lambda note: note.replace(ORIGIN, "evil.example/audit", 1),
        lambda note: note.replace(ORIGIN, "evil.example/audit"),
        lambda note: note.replace("\n\n", "\nextra line\n\n"),
        lambda note: note.replace("\u2014", "-"),
        lambda note: note[:-1],
        lambda note: note[:-9] + "AAAAAAA=\n",
        lambda note: note.split("\n\n")[0],
        lambda note: "",
        lambda note: "\n\n",
        lambda note: "a\nb\nc\nd\n\n\u2014 a b\n",
    ],
)
def test_a_changed_note_is_refused(change: object) -> None:
    assert callable(change)
    with pytest.raises(InvalidNote):
        verify_note(change(NOTE), KEYS)


def test_a_note_by_an_unknown_key_is_refused() -> None:
    other = Ed25519PrivateKey.generate()
    with pytest.raises(InvalidNote, match="no known key signed the checkpoint of size 42"):
        verify_note(sign_checkpoint(CHECKPOINT, Ed25519Signer(other)), KEYS)
    with pytest.raises(InvalidNote):
        verify_note(NOTE, [])


def test_a_note_stays_valid_after_a_rotation_when_old_keys_are_kept() -> None:
    new = Ed25519PrivateKey.generate()
    keys = [VerifyingKey("k2", new.public_key().public_bytes_raw(), new.public_key()), *KEYS]
    assert verify_note(NOTE, keys).size == 42


@pytest.mark.parametrize("origin", ["", "two words", "a+b", "a\nb"])
def test_an_origin_that_would_break_the_note_is_refused(origin: str) -> None:
    with pytest.raises(InvalidNote, match="origin"):
        sign_checkpoint(replace(CHECKPOINT, origin=origin), SIGNER)


@pytest.mark.parametrize("jwks", [{}, {"keys": 1}, {"keys": [{"kty": "OKP", "crv": "Ed25519"}]},
                                  {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "é"}]}])  # fmt: skip
def test_a_broken_jwks_is_refused(jwks: dict[str, object]) -> None:
    with pytest.raises(InvalidNote):
        load_keys(jwks)


def test_a_jwks_gives_its_ed25519_keys_only() -> None:
    x = base64.urlsafe_b64encode(SIGNER.public_key).decode().rstrip("=")
    keys = load_keys({"keys": ["x", {"kty": "RSA"}, {"kty": "OKP", "crv": "X25519", "x": x},
                               {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "k1"}]})  # fmt: skip
    assert [key.kid for key in keys] == ["k1"]
    assert verify_note(NOTE, keys) == CHECKPOINT


def note_of(size: int) -> str:
    return sign_checkpoint(replace(CHECKPOINT, size=size), SIGNER)


def test_a_file_witness_gives_back_newest_first(tmp_path: Path) -> None:
    witness = FileWitness(tmp_path / "w")
    assert list(witness.notes()) == []
    notes = [note_of(size) for size in range(1, 600)]
    for note in notes:
        witness.publish(note)
    witness.publish(notes[-1])
    assert list(witness.notes()) == notes[::-1]


def test_a_line_cut_short_by_a_crash_does_not_spoil_the_next(tmp_path: Path) -> None:
    witness = FileWitness(tmp_path / "w")
    witness.publish(note_of(1))
    with (tmp_path / "w").open("ab") as file:
        file.write(b'{"note": "hub.exam')
    assert list(witness.notes()) == [note_of(1)]
    witness.publish(note_of(2))
    assert list(witness.notes()) == [note_of(2), note_of(1)]


def test_a_line_of_nothing_but_brackets_is_passed_over(tmp_path: Path) -> None:
    """Whoever reaches the receiver of syslog writes to its file; the hub that compares itself with it did not start."""
    witness = FileWitness(tmp_path / "w")
    witness.publish(note_of(1))
    with (tmp_path / "w").open("ab") as file:
        file.write(b'{"note": ' + b"[" * 200_000 + b"\n")
    assert list(witness.notes()) == [note_of(1)]


def test_a_line_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w").write_text('{"note": 7}\n')
    with pytest.raises(InvalidNote, match="not a checkpoint"):
        list(FileWitness(tmp_path / "w").notes())


def test_an_unwritable_witness_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        FileWitness(tmp_path / "absent" / "w").publish(NOTE)


def test_syslog_over_tcp_is_one_counted_frame() -> None:
    """RFC 5424, RFC 6587 section 3.4.1."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        received: list[bytes] = []

        def serve() -> None:
            stream, _ = server.accept()
            with stream:
                while chunk := stream.recv(65_536):
                    received.append(chunk)

        thread = threading.Thread(target=serve)
        thread.start()
        SyslogWitness(("127.0.0.1", server.getsockname()[1]), host_name="hub").publish(NOTE)
        thread.join(5)
    length, _, message = b"".join(received).partition(b" ")
    assert int(length) == len(message)
    assert message.startswith(b"<109>1 2026-11-23T02:00:00.000000Z hub idhub - checkpoint - {")
    assert b"\n" not in message
    assert json.loads(message[message.index(b"{") :])["note"] == NOTE


def test_syslog_over_datagrams(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        SyslogWitness(("127.0.0.1", receiver.getsockname()[1]), transport="udp").publish(NOTE)
        message = receiver.recv(65_536)
        assert parse_note(json.loads(message[message.index(b"{") :])["note"])[0].size == 42
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "log"))
        receiver.settimeout(5)
        SyslogWitness(str(tmp_path / "log"), transport="unix").publish(NOTE)
        assert receiver.recv(65_536).startswith(b"<109>1 ")


def test_syslog_that_is_not_there_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        SyslogWitness(("127.0.0.1", port)).publish(NOTE)
    with pytest.raises(AuditError, match="host and a port"):
        SyslogWitness("/dev/log").publish(NOTE)
    with pytest.raises(InvalidNote):
        SyslogWitness(("127.0.0.1", port)).publish("not a note")
