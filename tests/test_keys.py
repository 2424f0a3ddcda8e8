"""Keys by purpose: made once, sealed under the master key, rotated, and never made again in silence."""

import base64
import os
import stat
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey
from sqlalchemy import select, update

from idhub.db import Database, create_database
from idhub.errors import Invalid, NotFound, Unavailable
from idhub.keys import PURPOSES, Keyring, MasterKey, Purpose, SigningKeyRow, has_keys, load_keyring, rotate
from idhub.lifecycle.receipt_document import TYP, verify, wrap
from idhub.settings import Settings
from tests.support.clock import Clock

MASTER = MasterKey(b"k" * 32)


# ---------------------------------------------------------------------- the master key


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_master_key_is_made_readable_by_its_owner_alone_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "folder" / "master.key"
    before = os.umask(mask)
    try:
        MasterKey.load(path, create=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) & 0o177 == 0
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
    assert len(base64.b64decode(path.read_bytes())) == 32


def test_master_key_that_is_missing_is_not_made_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    with pytest.raises(Unavailable) as refusal:
        MasterKey.load(path, create=False)
    assert str(path) in refusal.value.description
    assert "Restore it" in refusal.value.description
    assert not path.exists()


def test_master_key_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    first = MasterKey.load(path, create=True)
    content = path.read_bytes()
    assert MasterKey.load(path, create=True).fingerprint == first.fingerprint
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "key.length"),
        (b"\n", "key.length"),
        (base64.b64encode(b"k" * 31), "key.length"),
        (base64.b64encode(b"k" * 33), "key.length"),
        (base64.b64encode(b"k" * 32)[:-3], "key.form"),
        (b"not base64 at all!", "key.form"),
        (b"k" * 32, "key.length"),
        (b"\xff" * 44, "key.form"),
        ("钥匙".encode(), "key.form"),
    ],
)
def test_master_key_file_that_is_cut_or_bent_is_refused_in_words_and_kept(
    tmp_path: Path, content: bytes, rule: str
) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(content)
    with pytest.raises(Invalid) as refusal:
        MasterKey.load(path, create=True)
    assert (refusal.value.field, refusal.value.rule) == ("master_key_file", rule)
    assert str(path) in refusal.value.description
    assert path.read_bytes() == content


def test_folder_in_the_place_of_the_master_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        MasterKey.load(tmp_path, create=True)


def test_many_who_make_the_master_key_at_once_hold_the_same(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    prints = _at_once([lambda: MasterKey.load(path, create=True).fingerprint] * 6)
    assert set(prints) == {MasterKey.load(path, create=False).fingerprint}
    assert [file.name for file in tmp_path.iterdir()] == ["master.key"]


# ---------------------------------------------------------------------- sealing


def test_sealed_value_opens_under_its_own_name_alone() -> None:
    sealed = MASTER.seal("scim_targets:app_1:token", b"secret")
    assert MASTER.open("scim_targets:app_1:token", sealed) == b"secret"
    for other in ("scim_targets:app_2:token", "scim_targets:app_1:toke", "", "signing_keys:app_1:private"):
        with pytest.raises(Unavailable) as refusal:
            MASTER.open(other, sealed)
        assert "secret" not in refusal.value.description


def test_sealed_value_opens_under_its_own_key_alone_and_says_nothing_of_it() -> None:
    sealed = MASTER.seal("a", b"secret")
    with pytest.raises(Unavailable):
        MasterKey(b"j" * 32).open("a", sealed)
    assert b"secret" not in sealed
    assert MASTER.seal("a", b"secret") != sealed


@given(st.binary(max_size=60), st.binary(max_size=80))
@settings(max_examples=100)
def test_sealed_value_that_was_changed_or_made_up_does_not_open(plain: bytes, other: bytes) -> None:
    sealed = MASTER.seal("a", plain)
    assert MASTER.open("a", sealed) == plain
    for index in {0, 1, len(sealed) // 2, len(sealed) - 1}:
        bent = bytearray(sealed)
        bent[index] ^= 1
        with pytest.raises(Unavailable):
            MASTER.open("a", bytes(bent))
    for cut in (sealed[:-1], sealed[1:], sealed + b"x", sealed[:13], b"", other):
        with pytest.raises(Unavailable):
            MASTER.open("a", cut)


def test_what_is_sealed_together_is_opened_one_by_one() -> None:
    sealed = MASTER.seal_all([("a", b"x"), ("b", b"x"), ("a", b"")])
    assert [MASTER.open(context, one) for context, one in zip("aba", sealed, strict=True)] == [b"x", b"x", b""]
    assert len({one[:13] for one in sealed}) == 3
    with pytest.raises(Unavailable):
        MASTER.open("a", sealed[1])
    assert MASTER.seal_all([]) == []


def test_blind_index_tells_equal_from_different_within_a_name_alone() -> None:
    assert MASTER.blind_index("a", "x") == MASTER.blind_index("a", "x")
    # What older versions stored is found again.
    assert MASTER.blind_index("a", "x") == "f035d26dccf875d014aeda23c34ce4f906141e4ca8775397395f06b239590558"
    others = {MASTER.blind_index("a", "y"), MASTER.blind_index("b", "x"), MasterKey(b"j" * 32).blind_index("a", "x")}
    assert len(others | {MASTER.blind_index("a", "x")}) == 4


def test_secrets_of_one_master_key_are_of_one_use_each() -> None:
    assert MASTER.fingerprint not in {MASTER.csrf_secret.hex(), (b"k" * 32).hex()}
    assert MASTER.csrf_secret != b"k" * 32


# ---------------------------------------------------------------------- signing keys


def test_every_purpose_has_keys_of_its_own(keyring: Keyring) -> None:
    seen: dict[str, str] = {}
    for purpose, algorithms in PURPOSES.items():
        for alg in algorithms:
            key = keyring.signing_key(purpose, alg)
            assert (key.purpose, key.alg) == (purpose, alg)
            assert key.kid not in seen
            seen[key.kid] = purpose
    for purpose in PURPOSES:
        published = {key["kid"] for key in keyring.jwks(purpose)["keys"]}
        assert published == {kid for kid, owner in seen.items() if owner == purpose}


@pytest.mark.parametrize(
    ("purpose", "alg"), [("receipt", "RS256"), ("checkpoint", "ES256"), ("token", "HS256"), ("token", "none")]
)
def test_purpose_has_no_key_of_an_algorithm_that_is_not_its_own(keyring: Keyring, purpose: Purpose, alg: str) -> None:
    with pytest.raises(NotFound) as refusal:
        keyring.signing_key(purpose, alg)
    assert refusal.value.rule == "key.missing"


def test_published_keys_hold_nothing_private(keyring: Keyring) -> None:
    for purpose in PURPOSES:
        for key in keyring.jwks(purpose)["keys"]:
            assert not {"d", "p", "q", "dp", "dq", "qi", "k", "oth"} & set(key)
            assert key["use"] == "sig"


def test_private_keys_at_rest_are_sealed_and_cannot_be_swapped(
    database: Database, keyring: Keyring, clock: Clock
) -> None:
    with database.read() as session:
        rows = session.execute(
            select(SigningKeyRow.kid, SigningKeyRow.private_sealed).where(SigningKeyRow.alg == "ES256")
        ).all()
    for row in rows:
        private = orjson.loads(keyring.open(f"signing_keys:{row.kid}:private", row.private_sealed))
        assert private["d"].encode() not in row.private_sealed
    with database.transaction() as session:
        session.execute(
            update(SigningKeyRow).where(SigningKeyRow.kid == rows[0].kid).values(private_sealed=rows[1].private_sealed)
        )
    with pytest.raises(Unavailable):
        load_keyring(database, keyring.master, now=clock())


def test_another_master_key_refuses_and_makes_no_keys(database: Database, keyring: Keyring, clock: Clock) -> None:
    before = _kids(database)
    with pytest.raises(Unavailable) as refusal:
        load_keyring(database, MasterKey(b"x" * 32), now=clock())
    assert "master key" in refusal.value.description
    assert _kids(database) == before
    assert keyring.signing_key("token").kid in before


def _kids(database: Database) -> set[str]:
    with database.read() as session:
        return set(session.execute(select(SigningKeyRow.kid)).scalars())


def test_receipts_of_retired_keys_verify_through_every_rotation(
    database: Database, keyring: Keyring, clock: Clock
) -> None:
    receipts = [_receipt(keyring)]
    ring = keyring
    for _ in range(3):
        clock.advance(days=90)
        with database.transaction() as session:
            kid = rotate(session, ring, "receipt", "ES256", now=clock())
        ring = load_keyring(database, ring.master, now=clock())
        assert ring.signing_key("receipt").kid == kid
        receipts.append(_receipt(ring))
    keys = ring.jwks("receipt")
    assert next(key["kid"] for key in keys["keys"]) == ring.signing_key("receipt").kid
    assert len(keys["keys"]) == 4
    assert all("purpose" not in key for key in keys["keys"])
    kids = set()
    for receipt in receipts:
        verdict = verify(receipt, keys)
        assert verdict.is_valid, verdict.problems
        kids.add(verdict.kid)
    assert len(kids) == 4
    assert set(ring.verification_keys("receipt")) == kids
    # The others are as they were.
    assert ring.jwks("token") == keyring.jwks("token")


def _receipt(keyring: Keyring) -> bytes:
    return wrap(keyring.sign_jws("receipt", TYP, {"schema": 1, "rows": [], "complete": True}), {})


def test_receipt_signed_with_a_token_key_does_not_verify(keyring: Keyring) -> None:
    token = keyring.sign_jws("token", TYP, {"schema": 1, "rows": [], "complete": True})
    published = {"keys": [*keyring.jwks("receipt")["keys"], *keyring.jwks("token")["keys"]]}
    assert not verify(wrap(token, {}), published).is_valid


@pytest.mark.parametrize("alg", ["ES256", "RS256", "Ed25519"])
def test_signature_by_each_algorithm_verifies_with_what_is_published(keyring: Keyring, alg: str) -> None:
    purpose: Purpose = "checkpoint" if alg == "Ed25519" else "token"
    signed = keyring.sign_jws(purpose, "test+jws", {"a": 1}, alg=alg)
    kid = keyring.signing_key(purpose, alg).kid
    named, key = keyring.verification_keys(purpose)[kid]
    read = jws.deserialize_compact(signed, key, algorithms=[alg])
    assert (named, read.headers()["typ"], read.headers()["kid"]) == (alg, "test+jws", kid)


def test_two_nodes_that_start_on_an_empty_database_at_once_make_one_set_of_keys(
    settings: Settings, database_url: str, clock: Clock
) -> None:
    from idhub.migrations import migrate

    assert database_url
    opened = [create_database(settings) for _ in range(3)]
    migrate(opened[0])
    assert not has_keys(opened[0])
    rings = _at_once([partial(load_keyring, one, MASTER, now=clock()) for one in opened])
    assert len(_kids(opened[0])) == sum(len(algorithms) for algorithms in PURPOSES.values())
    assert len({orjson.dumps(ring.jwks(*PURPOSES), option=orjson.OPT_SORT_KEYS) for ring in rings}) == 1
    for one in opened:
        one.dispose()


def _at_once(work: list[Callable[[], Any]]) -> list[Any]:
    from concurrent.futures import ThreadPoolExecutor

    barrier = threading.Barrier(len(work))

    def run(one: Callable[[], Any]) -> Any:
        barrier.wait(20)
        return one()

    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result(60) for future in [pool.submit(run, one) for one in work]]


def test_keys_are_parsed_on_loading_and_signing_needs_no_database(database: Database, keyring: Keyring) -> None:
    database.dispose()
    assert isinstance(keyring.signing_key("receipt").key, ECKey)
    assert keyring.sign_jws("receipt", TYP, {}).count(".") == 2
