"""A receipt in anybody's hands: forged, bent, cut, swapped. The verifier says no, or that it cannot read it."""

import base64
import contextlib
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from idhub.lifecycle.receipt_document import (
    TYP,
    ReceiptRow,
    Unreadable,
    Verdict,
    commit,
    is_complete,
    payload,
    verify,
    wrap,
)

NOW = datetime(2026, 11, 23, 2, tzinfo=UTC)
KID = "receipt-20261123-abcdef"


def _key(kid: str = KID) -> tuple[ECKey, dict[str, Any]]:
    key = ECKey.import_key({**ECKey.generate_key("P-256").as_dict(private=True)})
    public = {**key.as_dict(private=False), "kid": kid, "alg": "ES256", "use": "sig", "idhub_purpose": "receipt"}
    return key, public


KEY, PUBLIC = _key()
JWKS = {"keys": [PUBLIC]}


def _row(**values: Any) -> ReceiptRow:
    return ReceiptRow(
        **{
            "id": "row_1",
            "application": "office",
            "application_name": "Office",
            "channel": "scim",
            "account": "lin",
            "state": "done",
            "grade": 2,
            "required_grade": 2,
            "ceiling": 2,
            **values,
        }
    )


COMMITMENTS, DISCLOSURES = commit({"name": "林晓雯", "employee_number": "QY1"})


def _claims(*rows: ReceiptRow, **values: Any) -> dict[str, Any]:
    return {
        **payload(
            issuer="https://hub.example",
            case_id="cas_1",
            number="R-2026-11-0001",
            version=1,
            kind="leaver",
            person_id="per_1",
            commitments=COMMITMENTS,
            effective_at=NOW,
            local_done_at=NOW,
            ended={"sessions": 1},
            rows=rows or (_row(),),
            as_of=NOW,
            log={"size": 7},
            last_reconcile_at=None,
        ),
        **values,
    }


def _sign(claims: Any, *, header: Mapping[str, Any] | None = None, key: ECKey = KEY) -> str:
    protected = {"alg": "ES256", "kid": KID, "typ": TYP, **(header or {})}
    body = claims if isinstance(claims, bytes) else orjson.dumps(claims)
    registry = jws.JWSRegistry(algorithms=["ES256"], strict_check_header=False)
    return jws.serialize_compact(protected, body, key, registry=registry)


def _file(token: str, disclosures: Mapping[str, Any] = DISCLOSURES) -> bytes:
    return orjson.dumps({"receipt": token, "disclosures": disclosures})


def _b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _refused(content: bytes, jwks: Any = JWKS) -> Verdict:
    verdict = verify(content, jwks)
    assert not verdict.is_valid
    assert verdict.problems
    return verdict


GOOD = _sign(_claims())


def test_receipt_verifies_with_the_published_keys_alone() -> None:
    verdict = verify(wrap(GOOD, DISCLOSURES), JWKS)
    assert verdict.problems == ()
    assert verdict.claims["number"] == "R-2026-11-0001"
    assert verdict.disclosed == {"name": "林晓雯", "employee_number": "QY1"}
    assert verdict.kid == KID


def test_erasing_disclosures_keeps_the_signature_valid_and_the_person_unnamed() -> None:
    verdict = verify(wrap(GOOD, {}), JWKS)
    assert (verdict.is_valid, verdict.disclosed) == (True, {})
    assert "林" not in base64.urlsafe_b64decode(GOOD.split(".")[1] + "==").decode()


@pytest.mark.parametrize(
    "disclosures",
    [
        {"name": [DISCLOSURES["name"][0], "王芳"]},
        {"name": ["00" * 16, "林晓雯"]},
        {"name": DISCLOSURES["employee_number"]},
        {"mobile": DISCLOSURES["name"]},
        {"name": ["", ""]},
    ],
)
def test_disclosure_that_was_not_signed_is_a_problem(disclosures: dict[str, list[str]]) -> None:
    verdict = _refused(_file(GOOD, disclosures))
    assert verdict.disclosed == {}
    assert "is not what was signed" in verdict.problems[0]


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_flipped_character_is_never_valid(part: int, place: float) -> None:
    pieces = GOOD.split(".")
    text = pieces[part]
    index = int(len(text) * place)
    pieces[part] = text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :]
    with contextlib.suppress(Unreadable):
        assert not verify(_file(".".join(pieces)), JWKS).is_valid


# ---------------------------------------------------------------------- keys


def test_key_that_was_not_published_is_not_trusted() -> None:
    other, _ = _key()
    assert "does not verify" in _refused(_file(_sign(_claims(), key=other))).problems[0]


def test_unknown_key_name_is_a_problem_and_not_a_reason_to_try_others() -> None:
    verdict = _refused(_file(_sign(_claims(), header={"kid": "receipt-unknown"})))
    assert "no published receipt key is named 'receipt-unknown'" in verdict.problems[0]


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
def test_keys_inside_the_receipt_are_never_looked_at(name: str) -> None:
    forger, public = _key()
    embedded: dict[str, Any] = {
        "jwk": {n: public[n] for n in ("kty", "crv", "x", "y")},
        "jku": "https://evil.example/keys",
        "x5u": "https://evil.example/cert",
        "x5c": ["MIIB"],
    }
    _refused(_file(_sign(_claims(), header={name: embedded[name]}, key=forger)))
    # Signed by the right key, the header says more than a receipt's does.
    verdict = _refused(_file(_sign(_claims(), header={name: embedded[name]})))
    assert verdict.problems


def test_keys_beside_the_receipt_in_the_file_are_never_looked_at() -> None:
    forger, public = _key()
    token = _sign(_claims(), key=forger)
    _refused(orjson.dumps({"receipt": token, "disclosures": {}}))
    with pytest.raises(Unreadable):
        verify(orjson.dumps({"receipt": token, "disclosures": {}, "keys": [public]}), JWKS)


@pytest.mark.parametrize(
    "content",
    [
        b'{"receipt":"a.b.c","receipt":%s,"disclosures":{}}',
        b'{"disclosures":{"name":["00","x"]},"receipt":%s,"disclosures":{}}',
        b'{"receipt":%s,"disclosures":{"name":["00","x"],"name":["00","y"]}}',
    ],
)
def test_name_that_stands_twice_is_unreadable(content: bytes) -> None:
    """RFC 8259 section 4: one reader takes the first, another the last, and only one of the two was checked."""
    with pytest.raises(Unreadable):
        verify(content % orjson.dumps(GOOD), JWKS)


@pytest.mark.parametrize("more", [{"rows": []}, {"complete": True}, {"person": "per_2", "number": "R-1"}])
def test_file_that_says_more_than_was_signed_is_refused(more: dict[str, Any]) -> None:
    """A complete list of rows beside a receipt that is open was called valid."""
    content = orjson.dumps({**more, "receipt": GOOD, "disclosures": {}})
    with pytest.raises(Unreadable):
        verify(content, JWKS)


def test_receipt_of_an_older_key_verifies_while_that_key_is_published() -> None:
    _, newer = _key("receipt-20270101-newer")
    assert verify(_file(GOOD), {"keys": [newer, PUBLIC]}).is_valid
    _refused(_file(GOOD), {"keys": [newer]})


@pytest.mark.parametrize("purpose", ["token", "checkpoint", "event", None])
def test_keys_of_other_purposes_verify_no_receipt(purpose: str | None) -> None:
    with pytest.raises(Unreadable):
        verify(_file(GOOD), {"keys": [{**PUBLIC, "idhub_purpose": purpose}]})


# ---------------------------------------------------------------------- algorithms


def _pem() -> bytes:
    key: ec.EllipticCurvePublicKey = KEY.public_key
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", "HS256", "RS256", "ES384", "es256", "EdDSA"])
@pytest.mark.parametrize("signature", [b"", b"x" * 64])
def test_algorithm_is_the_keys_and_never_the_files(alg: str, signature: bytes) -> None:
    header = orjson.dumps({"alg": alg, "kid": KID, "typ": TYP})
    token = f"{_b64(header)}.{_b64(orjson.dumps(_claims()))}.{_b64(signature)}"
    assert "alg is" in _refused(_file(token)).problems[0]


@pytest.mark.parametrize("secret", ["pem", "x", "json"])
def test_public_key_is_no_shared_secret(secret: str) -> None:
    secrets = {"pem": _pem(), "x": base64.urlsafe_b64decode(PUBLIC["x"] + "=="), "json": orjson.dumps(PUBLIC)}
    head = _b64(orjson.dumps({"alg": "HS256", "kid": KID, "typ": TYP}))
    body = _b64(orjson.dumps(_claims()))
    mac = hmac.new(secrets[secret], f"{head}.{body}".encode(), hashlib.sha256).digest()
    _refused(_file(f"{head}.{body}.{_b64(mac)}"))


def test_rsa_signature_under_the_name_of_a_published_key_is_refused() -> None:
    forger = RSAKey.import_key(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    token = jws.serialize_compact({"alg": "RS256", "kid": KID, "typ": TYP}, b"{}", forger, algorithms=["RS256"])
    _refused(_file(token))


@pytest.mark.parametrize("alg", [None, 5, ["ES256"], {"a": 1}, True, {"ES256": 1}])
def test_algorithm_of_a_strange_type_is_refused(alg: Any) -> None:
    header = orjson.dumps({"alg": alg, "kid": KID, "typ": TYP})
    head, body, signature = GOOD.split(".")
    _refused(_file(f"{_b64(header)}.{body}.{signature}"))
    assert head


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"]}, {"crit": ["b64"], "b64": False}, {"b64": False}, {"cty": "JWT"}, {"zip": "DEF"}]
)
def test_header_that_says_more_is_refused(header: dict[str, Any]) -> None:
    try:
        token = _sign(_claims(), header=header)
    except Exception:
        head = _b64(orjson.dumps({"alg": "ES256", "kid": KID, "typ": TYP, **header}))
        token = f"{head}.{GOOD.split('.')[1]}.{GOOD.split('.')[2]}"
    _refused(_file(token))


@pytest.mark.parametrize("typ", ["JWT", "logout+jwt", "at+jwt", "", None, "IDHUB-RECEIPT+JWS "])
def test_other_signed_things_are_no_receipts(typ: str | None) -> None:
    try:
        token = _sign(_claims(), header={"typ": typ})
    except Exception:
        return
    assert any("typ is" in problem or "verify" in problem for problem in _refused(_file(token)).problems)


# ---------------------------------------------------------------------- contents


@pytest.mark.parametrize(
    ("rows", "complete"),
    [
        ((_row(grade=1),), True),
        ((_row(state="pending"),), True),
        ((_row(), _row(state="dead")), True),
        ((_row(),), False),
        ((_row(grade=3),), True),
    ],
)
def test_receipt_that_contradicts_itself_is_invalid_though_it_is_signed(
    rows: tuple[ReceiptRow, ...], complete: bool
) -> None:
    _refused(_file(_sign(_claims(*rows, complete=complete))))


@pytest.mark.parametrize(
    "claims",
    [
        [],
        "text",
        7,
        None,
        {},
        {"schema": 2, "rows": []},
        {"schema": 1, "rows": {}},
        {"schema": 1, "rows": ["x"], "complete": True},
        {"schema": 1, "rows": [{"state": "done", "grade": "2", "required_grade": "x"}], "complete": True},
        {"schema": 1, "rows": [{"state": "done", "grade": None}], "complete": True},
        {"schema": 1, "rows": [{"state": "done", "grade": True, "ceiling": True}], "complete": True},
        {"schema": 1, "rows": [], "complete": "yes"},
        {"schema": 1, "rows": [], "complete": True, "personal": ["name"]},
        b"\xff\xfe",
        b"",
    ],
)
def test_signed_content_of_another_shape_is_invalid(claims: Any) -> None:
    _refused(_file(_sign(claims)))


def test_whole_is_never_better_than_its_worst_part() -> None:
    assert is_complete([])
    assert is_complete([_row(), _row(grade=0, required_grade=0)])
    for worse in (_row(grade=1), _row(state="pending"), _row(state="dead"), _row(state="elapsed")):
        assert not is_complete([_row(), worse])


# ---------------------------------------------------------------------- files that are none


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        b"\xff\xfe{}",
        b"[]",
        b"null",
        b"7",
        b'"x"',
        b"{}",
        b'{"receipt": 7, "disclosures": {}}',
        b'{"receipt": "a.b", "disclosures": {}}',
        b'{"receipt": "a.b.c.d", "disclosures": {}}',
        b'{"receipt": "..", "disclosures": {}}',
        b'{"receipt": "a.b.c", "disclosures": {}}',
        b'{"receipt": "W10.b.c", "disclosures": {}}',
        '{"receipt": "é.b.c", "disclosures": {}}'.encode(),
        b'{"receipt": "e30.e30.e30", "disclosures": {}}',
        b'{"receipt": "x", "disclosures": []}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b" " * 5_000_001,
        orjson.dumps({"receipt": GOOD}),
        orjson.dumps({"receipt": GOOD, "disclosures": {"name": "ab"}}),
        orjson.dumps({"receipt": GOOD, "disclosures": {"name": ["a"]}}),
        orjson.dumps({"receipt": GOOD, "disclosures": {"name": ["a", 7]}}),
        orjson.dumps({"receipt": GOOD, "disclosures": {"name": {"0": "a", "1": "b"}}}),
        orjson.dumps({"receipt": GOOD, "disclosures": {"name": None}}),
    ],
    ids=lambda content: repr(content[:24]),
)
def test_file_that_is_no_receipt_is_unreadable(content: bytes) -> None:
    with pytest.raises(Unreadable):
        verify(content, JWKS)


@pytest.mark.parametrize(
    "jwks",
    [
        [],
        None,
        "keys",
        7,
        {},
        {"keys": None},
        {"keys": {}},
        {"keys": []},
        {"keys": [7, None, "x"]},
        {"keys": [{**PUBLIC, "x": 7}]},
        {"keys": [{**PUBLIC, "x": None}]},
        {"keys": [{**PUBLIC, "x": "!!"}]},
        {"keys": [{**PUBLIC, "x": PUBLIC["y"]}]},
        {"keys": [{**PUBLIC, "crv": "P-999"}]},
        {"keys": [{**PUBLIC, "crv": ["P-256"]}]},
        {"keys": [{n: v for n, v in PUBLIC.items() if n != "y"}]},
        {"keys": [{n: v for n, v in PUBLIC.items() if n != "kid"}]},
    ],
)
def test_key_file_that_is_none_is_unreadable(jwks: Any) -> None:
    with pytest.raises(Unreadable):
        verify(_file(GOOD), jwks)


def test_key_of_another_curve_verifies_nothing() -> None:
    other = ECKey.generate_key("P-384").as_dict(private=False)
    with contextlib.suppress(Unreadable):
        _refused(_file(GOOD), {"keys": [{**other, "kid": KID, "idhub_purpose": "receipt"}]})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    header=st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "x"]), _JSON | st.sampled_from(["ES256", KID, TYP])
    ),
    body=_JSON,
    signature=st.binary(max_size=80),
    disclosures=_JSON,
)
def test_whatever_comes_the_answer_is_no_or_unreadable(
    header: dict[str, Any], body: Any, signature: bytes, disclosures: Any
) -> None:
    token = f"{_b64(orjson.dumps(header))}.{_b64(orjson.dumps(body))}.{_b64(signature)}"
    with contextlib.suppress(Unreadable):
        assert not verify(orjson.dumps({"receipt": token, "disclosures": disclosures}), JWKS).is_valid


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_unreadable(content: bytes) -> None:
    with pytest.raises(Unreadable):
        verify(content, JWKS)
