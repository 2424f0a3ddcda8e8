"""The proof of one event: made from the tables, checked with a file, the published keys and nothing else."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import Checkpoint, Ed25519Signer, FileWitness, sign_checkpoint
from audit.errors import AuditError, NoSuchEvent
from audit.export import export_proof
from audit.verify import ProofResult, Unreadable, describe_proof, verify_proof
from tests.audit.support import AT_PLACE, NOW, ORIGIN, Trail, event, written

SIZE = 700


def proof_of(trail: Trail, event_id: str, *, reveal: bool = False) -> bytes:
    with trail.engine.connect() as connection:
        made = export_proof(connection, event_id, reveal_with=trail.sealer if reveal else None)
    assert made is not None
    return made


def verified(trail: Trail, content: bytes, **options: object) -> ProofResult:
    path = trail.folder / "proof.jsonl"
    path.write_bytes(content)
    return verify_proof(path, keys=trail.keys, **options)  # type: ignore[arg-type]


def kinds(result: ProofResult) -> list[str]:
    return [one.kind for one in result.findings]


def test_events_all_over_the_log_are_proven(trail: Trail) -> None:
    """RFC 9162 section 2.1.3."""
    ids = [*trail.fill(300), *trail.fill(400)]
    for position in (0, 1, 255, 256, 299, 300, 511, 512, 698, 699):
        result = verified(trail, proof_of(trail, ids[position]), witness=trail.witness, origin=ORIGIN)
        assert (kinds(result), result.position, result.size, result.is_witnessed) == ([], position, SIZE, True)
        assert result.event["event_id"] == ids[position]
        assert (result.origin, result.exit_code) == (ORIGIN, 0)


def test_what_no_checkpoint_covers_has_no_proof_and_a_stranger_is_told(trail: Trail) -> None:
    (event_id,) = trail.append(event(1))
    with trail.engine.connect() as connection:
        assert export_proof(connection, event_id) is None
        with pytest.raises(NoSuchEvent):
            export_proof(connection, "evt_nobody")


def test_personal_values_are_shown_only_when_asked_and_must_be_the_ones_committed_to(trail: Trail) -> None:
    (event_id,) = trail.append(event(1, personal={"name": "张三"}))
    trail.fill(3)
    assert "张三".encode() not in proof_of(trail, event_id)
    shown = proof_of(trail, event_id, reveal=True)
    result = verified(trail, shown)
    assert (kinds(result), result.revealed) == ([], {"name": "张三"})
    assert "name: 张三, as the event committed to" in describe_proof(result)
    other = verified(trail, shown.replace("张三".encode(), "李四".encode()))
    assert (kinds(other), other.revealed) == (["commitment"], {})


def edit(content: bytes) -> bytes:
    return content.replace(b"svc_hr", b"svc_hx")


def move(content: bytes) -> bytes:
    return content.replace(b'{"position":300,', b'{"position":301,')


def shorten_the_path(content: bytes) -> bytes:
    header, shown, path, note = content.splitlines()
    nodes = json.loads(path)["path"]
    return b"\n".join([header, shown, written({"path": nodes[:-1]}).rstrip(), note]) + b"\n"


def claim_a_larger_tree(content: bytes) -> bytes:
    return content.replace(b"audit\\n700\\n", b"audit\\n701\\n")


@pytest.mark.parametrize(
    ("tamper", "kind"),
    [(edit, "proof"), (move, "proof"), (shorten_the_path, "proof"), (claim_a_larger_tree, "signature")],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_a_proof_that_was_changed_is_invalid(sqlite_trail: Trail, tamper: Callable[[bytes], bytes], kind: str) -> None:
    honest = proof_of(sqlite_trail, sqlite_trail.fill(SIZE)[300])
    assert tamper(honest) != honest
    result = verified(sqlite_trail, tamper(honest))
    assert (kinds(result), result.exit_code) == ([kind], 1)
    assert describe_proof(result).startswith(f"INVALID ({kind}): ")


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b'{"position":0,"body":{}}\n',
        b'{"position":0,"body":{}}\n{"path":[]}\n{"path":[]}\n',
        b'{"position":-1,"body":{}}\n{"path":[]}\n{"checkpoint":""}\n',
        b'{"position":"0","body":{}}\n{"path":[]}\n{"checkpoint":""}\n',
        b'{"position":true,"body":{}}\n{"path":[]}\n{"checkpoint":""}\n',
        b'{"position":0,"body":[]}\n{"path":[]}\n{"checkpoint":""}\n',
        b'{"position":0,"body":{}}\n{"path":["zz"]}\n{"checkpoint":""}\n',
        b'{"position":0,"body":{}}\n{"path":7}\n{"checkpoint":""}\n',
        b'{"position":0,"body":{}}\n{"path":[]}\n[]\n',
        b'{"position":0,"body":{}}\n{"personal":[]}\n{"path":[]}\n{"checkpoint":""}\n',
        b'{"position":0,"body":{},"body":{}}\n{"path":[]}\n{"checkpoint":""}\n',
        b'{"position":0,"body":' + b"[" * 100_000 + b"}\n" + b'{"path":[]}\n{"checkpoint":""}\n',
        b"\xff\xfe\n",
    ],
)
def test_a_hostile_proof_is_a_finding_never_a_crash(sqlite_trail: Trail, rest: bytes) -> None:
    result = verified(
        sqlite_trail, b'{"format":"idhub-audit-proof","version":1,"origin":"hub.example/audit","size":1}\n' + rest
    )
    assert result.exit_code == 1
    assert kinds(result)[0] in {"edited", "signature"}


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", b"[]\n", b'{"format":"idhub-audit-export","version":1}\n', b'{"format":"idhub-audit-proof"}'],
)
def test_what_is_no_proof_is_unreadable(sqlite_trail: Trail, content: bytes) -> None:
    with pytest.raises(Unreadable):
        verified(sqlite_trail, content)


def test_a_checkpoint_that_somebody_else_signed_proves_nothing(sqlite_trail: Trail) -> None:
    content = proof_of(sqlite_trail, sqlite_trail.fill(1)[0])
    header, shown, path, _ = content.splitlines()
    stranger = Ed25519Signer(Ed25519PrivateKey.generate())
    root = verified(sqlite_trail, content).root
    assert root is not None
    forged = sign_checkpoint(Checkpoint(ORIGIN, 1, bytes.fromhex(root), NOW), stranger)
    lines = [header, shown, path, written({"checkpoint": forged}).rstrip(), b""]
    assert kinds(verified(sqlite_trail, b"\n".join(lines))) == ["signature"]


def test_a_proof_of_another_log_or_an_old_one_is_told(sqlite_trail: Trail) -> None:
    content = proof_of(sqlite_trail, sqlite_trail.fill(1)[0])
    assert kinds(verified(sqlite_trail, content, origin="other.example/audit")) == ["origin"]
    assert kinds(verified(sqlite_trail, content, made_after=sqlite_trail.now + timedelta(minutes=1))) == ["stale"]
    assert kinds(verified(sqlite_trail, content, made_after=sqlite_trail.now)) == []


def test_a_witness_must_have_seen_the_very_checkpoint(sqlite_trail: Trail, tmp_path: Path) -> None:
    content = proof_of(sqlite_trail, sqlite_trail.fill(3)[0])
    elsewhere = FileWitness(tmp_path / "elsewhere.jsonl")
    result = verified(sqlite_trail, content, witness=elsewhere)
    assert (kinds(result), result.is_witnessed) == (["unwitnessed"], False)
    elsewhere.publish(sign_checkpoint(Checkpoint(ORIGIN, 3, bytes(32), NOW), sqlite_trail.signer))
    assert kinds(verified(sqlite_trail, content, witness=elsewhere)) == ["forked"]


def test_an_event_that_was_changed_in_the_tables_is_not_proven(trail: Trail) -> None:
    ids = trail.fill(3)
    with trail.without_guards() as connection:
        connection.exec_driver_sql(
            f"UPDATE audit_events SET leaf_hash = (SELECT leaf_hash FROM audit_events WHERE {AT_PLACE.format('= 2')})"
            f" WHERE {AT_PLACE.format('= 1')}"
        )
    with trail.engine.connect() as connection, pytest.raises(AuditError, match="event 1 is not what was signed"):
        export_proof(connection, ids[1])


def test_the_command_checks_a_proof_alone(sqlite_trail: Trail, tmp_path: Path) -> None:
    (tmp_path / "proof.jsonl").write_bytes(proof_of(sqlite_trail, sqlite_trail.fill(5)[2]))
    key = sqlite_trail.keys[0]
    jwk = {"kty": "OKP", "crv": "Ed25519", "kid": key.kid, "x": base64.urlsafe_b64encode(key.raw).decode().rstrip("=")}
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [jwk]}))
    command = [
        sys.executable,
        "-m",
        "audit.verify",
        str(tmp_path / "proof.jsonl"),
        "--keys",
        str(tmp_path / "keys.json"),
    ]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["valid"], said["position"], said["size"]) == (True, 2, 5)
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    assert told[0].endswith(f"stands at 2 of {ORIGIN}")
    assert told[2].startswith("event: person.updated of 2026-11-23T02:00:00")
