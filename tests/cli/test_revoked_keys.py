"""`idhub keys revoke`: a key that others have signs nothing that counts, and what it vouched for is signed anew."""

from typing import Any

import orjson
import pytest

from idhub.keys import Keyring, Purpose
from idhub.lifecycle.receipt_document import TYP, wrap
from idhub.oidc.claims import ID_TOKEN_TYP
from idhub.oidc.tokens import TokenReader
from idhub.saml.metadata import metadata_document
from tests.cli.conftest import Command
from tests.cli.test_commands import _sign_receipts
from tests.cli.test_recover import at, exported, opened

CLAIMS: dict[str, Any] = {"schema": 1, "rows": [], "complete": True}


def _at(staffed: Command) -> Command:
    return at(staffed.folder, f"sqlite:///{staffed.folder / 'data' / 'idhub.db'}")


def _ring(idhub: Command) -> Keyring:
    """The keys that a process has which begins now."""
    with opened(idhub) as here:
        return here.keyring


def _published(idhub: Command, name: str = "keys.json") -> str:
    return str(idhub.write(name, orjson.dumps(_ring(idhub).jwks("receipt", "checkpoint"))))


def _revoke(idhub: Command, purpose: Purpose, alg: str | None = None) -> str:
    kid = _ring(idhub).signing_key(purpose, alg).kid
    done = idhub("keys", "revoke", kid)
    assert done.code == 0, done.err
    assert "start each of them again" in done.err
    return kid


def test_a_checkpoint_key_that_was_stolen(staffed: Command) -> None:
    """The log is signed anew as a whole; exports of before prove nothing to whoever has the keys of now."""
    idhub = _at(staffed)
    older, keys_of_before = exported(idhub, "older.jsonl"), _published(idhub, "before.json")
    kid = _revoke(idhub, "checkpoint")
    keys = _published(idhub)
    live = idhub("audit", "verify", "--json").json
    assert (live["valid"], live["unproven"], live["revoked"] > 0) == (True, 0, True), live
    newer = exported(idhub)
    assert idhub("audit", "verify", newer, "--keys", keys).code == 0
    refused = idhub("audit", "verify", older, "--keys", keys)
    assert (refused.code, f"{kid}, a key that was revoked" in refused.out) == (1, True), refused
    assert idhub("audit", "verify", older, "--keys", keys_of_before).code == 0
    # The next process compares itself with a witness that the revoked key signed for.
    assert "not in recovery mode" in idhub("recover").err
    assert idhub("audit", "search", "--action", "key.revoked").out.count(kid) == 1


def test_a_receipt_key_that_was_stolen(staffed: Command) -> None:
    """Of two receipts that it signed, the one that the log holds is ours."""
    here = _at(staffed)
    case = here("offboard", "QY1", "--json").json["case"]
    data = here.folder / "data"
    _sign_receipts(data)
    file = str(here.write("receipt.json", here("receipt", "export", case).out))
    stolen = _ring(here)
    forged = str(here.write("forged.json", wrap(stolen.sign_jws("receipt", TYP, CLAIMS), {})))
    kid = _revoke(here, "receipt")
    keys = _published(here)
    proof = str(here.write("proof.jsonl", here("audit", "prove", case).out))
    for one in (file, forged):
        done = here("receipt", "verify", one, "--keys", keys, "--json")
        assert (done.code, len(done.json["problems"]), done.json["kid"]) == (1, 1, kid)
        assert "was revoked: others may have it" in done.json["problems"][0]
    assert here("receipt", "verify", file, "--keys", keys, "--proof", proof).code == 0
    done = here("receipt", "verify", forged, "--keys", keys, "--proof", proof, "--json")
    assert (done.code, done.json["problems"]) == (1, ["the proof is of another event, not of this receipt"])


def test_a_token_key_that_was_stolen_is_published_no_more_and_reads_nothing(staffed: Command) -> None:
    """One that was only rotated stays for what it signed; applications would believe a thief by it for as long."""
    idhub = _at(staffed)
    stolen = _ring(idhub)
    claims = {"iss": "https://hub.example", "sub": "s", "aud": "a", "iat": 1, "exp": 2}
    token = stolen.sign_jws("token", ID_TOKEN_TYP, claims)
    assert idhub("keys", "rotate", "token").code == 0
    assert TokenReader(_ring(idhub), "https://hub.example").id_token_hint(token) == claims
    kid = stolen.signing_key("token").kid
    assert idhub("keys", "revoke", kid).code == 0
    ring = _ring(idhub)
    assert kid in {key["kid"] for key in stolen.published("token")} - {key["kid"] for key in ring.published("token")}
    assert TokenReader(ring, "https://hub.example").id_token_hint(token) is None
    assert ring.signing_key("token").kid != kid
    assert ring.signing_key("token", "RS256").kid == stolen.signing_key("token", "RS256").kid
    for again, rule in ((kid, "was revoked at"), ("nobody", "There is no key nobody")):
        refused = idhub("keys", "revoke", again)
        assert (refused.code, rule in refused.err) == (1, True), refused


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_saml_key_that_was_stolen_is_in_no_metadata(staffed: Command, is_announced: bool) -> None:
    """One that was announced takes its place at once; without one a new one does."""
    idhub = _at(staffed)
    announced = idhub("keys", "rotate", "saml").out.strip() if is_announced else None
    before = _ring(idhub)
    certificate = before.certificates("saml")[0]
    kid = _revoke(idhub, "saml")
    ring = _ring(idhub)
    assert certificate in metadata_document("https://hub.example", before)
    assert certificate not in metadata_document("https://hub.example", ring)
    assert len(ring.certificates("saml")) == len(ring.private_keys("saml")) == 1
    signs = ring.signing_key("saml").kid
    assert signs == announced if is_announced else signs != kid
    listed = {one["kid"]: one for one in idhub("keys", "list", "--json").json}
    assert listed[kid]["revoked_at"] and not listed[signs]["retired_at"]
    assert [line.split()[0] for line in idhub("keys", "list").out.splitlines() if "revoked" in line] == [kid]
