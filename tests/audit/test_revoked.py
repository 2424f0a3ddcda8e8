"""A checkpoint key that others have: what it signed proves nothing any more, and what was witnessed still holds."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import (
    Checkpoint,
    Ed25519Signer,
    VerifyingKey,
    compare_with_witness,
    load_keys,
    sign_checkpoint,
    verify_note,
)
from audit.errors import InvalidNote, RevokedKey
from audit.live import verify_database
from audit.merkle import Frontier, leaf_hash
from audit.tiles import read_head
from audit.verify import describe, verify_export, verify_proof
from tests.audit.support import ORIGIN, Trail, written
from tests.audit.test_proof import proof_of
from tests.audit.test_verify import Lines, at, edit, lines_of, renumbered


class Thief:
    """Who has a copy of the key that signed so far, which the hub has revoked and replaced since."""

    def __init__(self, trail: Trail) -> None:
        self.signer, (stolen,) = trail.signer, trail.keys
        private = Ed25519PrivateKey.generate()
        trail.signer = Ed25519Signer(private)
        trail.keys = [
            VerifyingKey("checkpoint-2", trail.signer.public_key, private.public_key()),
            replace(stolen, is_revoked=True),
        ]
        trail.sequencer.resign()
        trail.sequencer = trail.new_sequencer("node-b")
        self.before = [stolen]
        """What an auditor has who did not fetch the keys again."""

    def forged(self, lines: Lines, trail: Trail) -> Lines:
        """An export that fits in itself, every signature of it made with the stolen key."""
        fitting = [line for line in renumbered(lines) if not line.startswith((b'{"checkpoint"', b'{"statement"'))]
        tree = Frontier()
        tree.extend([leaf_hash(line[line.index(b'"body":') + 7 : -2]) for line in fitting if b'"body":' in line])
        end = Checkpoint(ORIGIN, tree.size, tree.root(), trail.now)
        notes = [
            written({"checkpoint": sign_checkpoint(end, self.signer)}),
            written({"statement": sign_checkpoint(replace(end, purpose="export"), self.signer)}),
        ]
        return [*fitting[:-1], *notes, fitting[-1]]


def _jwk(signer: Ed25519Signer, kid: str) -> dict[str, Any]:
    x = base64.urlsafe_b64encode(signer.public_key).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x}


def test_an_export_from_after_the_revocation_is_valid_and_one_from_before_proves_nothing(trail: Trail) -> None:
    trail.fill(300)
    older = trail.export("older.jsonl")
    thief = Thief(trail)
    trail.fill(5)
    newer = verify_export(trail.export(), keys=trail.keys, witness=trail.witness)
    assert newer.is_valid, describe(newer)
    assert (newer.events, newer.checkpoints, newer.revoked) == (305, 1, 1)
    assert "1 checkpoints are by a key that was revoked since" in describe(newer)
    result = verify_export(older, keys=trail.keys)
    assert {one.kind for one in result.findings} == {"signature"}
    assert "checkpoint-1, a key that was revoked" in describe(result)
    assert verify_export(older, keys=thief.before).is_valid


def test_a_log_that_the_thief_wrote_anew_is_valid_by_old_keys_and_refused_by_those_of_now(
    sqlite_trail: Trail,
) -> None:
    sqlite_trail.fill(300)
    thief = Thief(sqlite_trail)
    sqlite_trail.fill(5)
    path = sqlite_trail.export()
    lines = lines_of(path)
    edit(lines)
    path.write_bytes(b"".join(thief.forged(lines, sqlite_trail)))
    assert verify_export(path, keys=thief.before).is_valid
    assert not verify_export(path, keys=sqlite_trail.keys).is_valid


def test_a_checkpoint_by_the_thief_among_honest_ones_must_fit_and_counts_for_nothing(sqlite_trail: Trail) -> None:
    sqlite_trail.fill(300)
    thief = Thief(sqlite_trail)
    sqlite_trail.fill(5)
    path = sqlite_trail.export()
    lines = lines_of(path)
    false = Checkpoint(ORIGIN, 303, b"\1" * 32, sqlite_trail.now)
    lines.insert(at(lines, 303), written({"checkpoint": sign_checkpoint(false, thief.signer)}))
    path.write_bytes(b"".join(lines))
    assert {one.kind for one in verify_export(path, keys=sqlite_trail.keys).findings} == {"root"}


def test_events_that_only_the_revoked_key_has_signed_are_unproven_in_the_tables(trail: Trail) -> None:
    trail.fill(20)
    Thief(trail)
    with trail.engine.connect() as connection:
        live = verify_database(connection, trail.keys, trail.witness, sealer=trail.sealer, now=trail.now)
    assert (live.is_valid, live.checkpoints, live.revoked, live.unproven) == (True, 0, 1, 20)
    trail.fill(1)
    with trail.engine.connect() as connection:
        live = verify_database(connection, trail.keys, trail.witness, sealer=trail.sealer, now=trail.now)
    assert (live.is_valid, live.checkpoints, live.revoked, live.unproven) == (True, 1, 1, 0)


def test_a_proof_by_the_revoked_key_is_none_until_it_is_made_anew(trail: Trail) -> None:
    (first, *_) = trail.fill(20)
    path = trail.folder / "proof.jsonl"

    def proven() -> bool:
        return verify_proof(path, keys=trail.keys).is_valid

    path.write_bytes(proof_of(trail, first))
    assert proven()
    Thief(trail)
    assert not proven()
    trail.fill(1)
    path.write_bytes(proof_of(trail, first))
    assert proven()


def test_what_was_witnessed_under_the_revoked_key_still_tells_a_restored_backup(trail: Trail) -> None:
    """On a machine whose witness has not heard of the new key yet as well."""
    trail.fill(20)
    Thief(trail)
    with trail.engine.connect() as connection:
        head = read_head(connection)
        assert compare_with_witness(head, trail.witness, keys=trail.keys, origin=ORIGIN).state == "equal"
        older = replace(head, size=12)
        assert compare_with_witness(older, trail.witness, keys=trail.keys, origin=ORIGIN).state == "behind"


@pytest.mark.parametrize("is_confirmed", [False, True])
def test_that_a_history_was_given_up_is_not_believed_of_the_revoked_key_alone(trail: Trail, is_confirmed: bool) -> None:
    """A recovery excuses what is missing: whoever can write to a witness could cut a log by it."""
    trail.fill(20)
    thief = Thief(trail)
    tree = Frontier()
    tree.extend([b"\0" * 32] * 3)
    excuse = Checkpoint(ORIGIN, 3, tree.root(), trail.now, "recovery")
    trail.witness.publish(sign_checkpoint(excuse, thief.signer))
    with trail.engine.connect() as connection:
        head = read_head(connection)
        if is_confirmed:
            # The hub went on from there under the new key: then the old one was still good when it signed.
            trail.witness.publish(sign_checkpoint(Checkpoint(ORIGIN, 3, tree.root(), trail.now), trail.signer))
            assert compare_with_witness(head, trail.witness, keys=trail.keys, origin=ORIGIN).state == "forked"
            return
        with pytest.raises(RevokedKey):
            compare_with_witness(head, trail.witness, keys=trail.keys, origin=ORIGIN)


@pytest.mark.parametrize(
    "jwks",
    [
        lambda old, new: {"keys": [new], "revoked": [old]},
        lambda old, new: {"keys": [new, old], "revoked": [old]},
        lambda old, new: {"keys": [old, new], "revoked": [{**old, "kid": "another name"}]},
        lambda old, new: {"keys": [new], "revoked": [{**old, "revoked": {"revoked_at": 1}}]},
    ],
)
def test_a_key_set_tells_which_keys_were_revoked(
    sqlite_trail: Trail, jwks: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
) -> None:
    """Also one that lists such a key among the others, by whatever name: the key is what was stolen."""
    thief = Thief(sqlite_trail)
    keys = load_keys(jwks(_jwk(thief.signer, "old"), _jwk(sqlite_trail.signer, "new")))
    checkpoint = Checkpoint(ORIGIN, 1, b"\0" * 32, sqlite_trail.now)
    assert verify_note(sign_checkpoint(checkpoint, sqlite_trail.signer), keys) == checkpoint
    with pytest.raises(RevokedKey) as refused:
        verify_note(sign_checkpoint(checkpoint, thief.signer), keys)
    assert refused.value.signed == checkpoint


@pytest.mark.parametrize("revoked", [{}, "x", 1, None, [{"kty": "OKP", "crv": "Ed25519"}]])
def test_a_key_set_whose_revoked_keys_cannot_be_read_is_refused(sqlite_trail: Trail, revoked: object) -> None:
    with pytest.raises(InvalidNote):
        load_keys({"keys": [_jwk(sqlite_trail.signer, "new")], "revoked": revoked})


def test_a_note_that_both_signed_counts(sqlite_trail: Trail, tmp_path: Path) -> None:
    thief = Thief(sqlite_trail)
    checkpoint = Checkpoint(ORIGIN, 1, b"\0" * 32, sqlite_trail.now + timedelta(seconds=1))
    note = sign_checkpoint(checkpoint, thief.signer)
    both = note + sign_checkpoint(checkpoint, sqlite_trail.signer).partition("\n\n")[2]
    assert verify_note(both, sqlite_trail.keys) == checkpoint
