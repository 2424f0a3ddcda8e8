"""Tokens that we did not sign, at every endpoint that reads one: none is believed, none is a server error."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from idhub.oidc.claims import ACCESS_TOKEN_TYP, ID_TOKEN_TYP
from idhub.oidc.tokens import TokenReader
from tests.oidc.world import ISSUER, App, World, query_of


def b64(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def parts_of(token: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    header, payload, signature = token.split(".")
    decode = [json.loads(base64.urlsafe_b64decode(part + "==")) for part in (header, payload)]
    return decode[0], decode[1], signature


def unsigned(token: str, alg: Any, **changes: Any) -> str:
    header, payload, _ = parts_of(token)
    return f"{b64({**header, 'alg': alg, **changes})}.{b64(payload)}."


def hmac_signed(token: str, key: bytes, **changes: Any) -> str:
    header, payload, _ = parts_of(token)
    signing_input = f"{b64({**header, 'alg': 'HS256', **changes})}.{b64(payload)}"
    return f"{signing_input}.{b64(hmac.new(key, signing_input.encode(), hashlib.sha256).digest())}"


def own_signed(token: str, **changes: Any) -> str:
    """Signed with a key of the attacker's."""
    header, payload, _ = parts_of(token)
    return jwt.encode(
        payload, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers={**header, **changes}
    )


def resigned(world: World, token: str, **headers: Any) -> str:
    """Signed with the hub's own key, under another header: what no client can do, and still must not pass."""
    header, payload, _ = parts_of(token)
    key = world.keyring.signing_key("token")
    return jwt.encode(payload, key.private, algorithm="ES256", headers={**header, **headers})


Make = Callable[[World, str], list[str]]


def no_algorithm(world: World, token: str) -> list[str]:
    """J01, CVE-2026-28802."""
    header, payload, signature = parts_of(token)
    del header["alg"]
    algorithms: list[Any] = ["none", "None", "nOnE", "", None, 1, [], {}]
    variants = [unsigned(token, alg) for alg in algorithms]
    return [*variants, unsigned(token, "none") + signature, f"{b64(header)}.{b64(payload)}.{signature}"]


def public_key_as_secret(world: World, token: str) -> list[str]:
    """J02, CVE-2022-29217."""
    made = []
    for alg in ("ES256", "RS256"):
        key = world.keyring.signing_key("token", alg)
        public = key.private.public_key()
        for encoding, form in (
            (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            (Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        ):
            made.append(hmac_signed(token, public.public_bytes(encoding, form), kid=key.kid))
        if alg == "RS256":
            made.append(hmac_signed(token, public.public_bytes(Encoding.PEM, PublicFormat.PKCS1), kid=key.kid))
        made.append(hmac_signed(token, json.dumps(world.keyring.jwks("token")).encode(), kid=key.kid))
    return made


def key_in_the_header(world: World, token: str) -> list[str]:
    """J05, J06: jwk, jku, x5u, x5c and kid choose nothing."""
    key = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    header, payload, _ = parts_of(token)
    with_jwk = jwt.encode(payload, key, algorithm="ES256", headers={**header, "jwk": jwk})
    remote = [
        own_signed(token, **{name: value})
        for name, value in (
            ("jku", "http://127.0.0.1:9/jwks"),
            ("x5u", "http://127.0.0.1:9/cert"),
            ("x5c", ["AAAA"]),
            ("kid", "../../dev/null"),
            ("kid", "' OR 1=1--"),
            ("kid", "x" * 100_000),
            ("kid", ""),
            ("kid", "nobody"),
        )
    ]
    return [
        own_signed(token),
        with_jwk,
        *remote,
        resigned(world, token, jku="http://127.0.0.1:9/"),
        resigned(world, token, jwk=jwk),
    ]


def critical_headers(world: World, token: str) -> list[str]:
    """J07, CVE-2025-59420: a header that must be understood and is not."""
    return [
        resigned(world, token, crit=["bork"], bork=1),
        resigned(world, token, crit=[]),
        resigned(world, token, crit=["alg"]),
        resigned(world, token, b64=False, crit=["b64"]),
        resigned(world, token, zip="DEF"),
    ]


def too_large(world: World, token: str) -> list[str]:
    """J08, CVE-2025-61920."""
    header, payload, signature = token.split(".")
    return [
        f"{b64({'alg': 'ES256', 'kid': 'x' * 50_000})}.{payload}.{signature}",
        f"{header}.{'A' * 60_000}.{signature}",
    ]


def other_serializations(world: World, token: str) -> list[str]:
    """J18, J14: JSON serialization, JWE, too many or too few parts."""
    header, payload, signature = token.split(".")
    flat = json.dumps({"protected": header, "payload": payload, "signature": signature})
    general = json.dumps({"payload": payload, "signatures": [{"protected": header, "signature": signature}]})
    unprotected = json.dumps({"header": {"alg": "none"}, "payload": payload, "signature": ""})
    return [
        flat, general, unprotected, f"{header}.{payload}", f"{token}.{signature}", f"{token}.{signature}.{signature}",
        f"{header}..{signature}", f".{payload}.{signature}", "...", "a.b.c", f"{token}=", f"{token}\n", f" {token}x",
    ]  # fmt: skip


def juggled_claims(world: World, token: str) -> list[str]:
    """J20: types that a claim never has, signed by us."""
    key = world.keyring.signing_key("token")
    header, payload, _ = parts_of(token)
    made = []
    changes: list[dict[str, Any]] = [
        {"exp": "9999999999"}, {"exp": None}, {"exp": []}, {"exp": True, "iat": "x"}, {"sub": 123}, {"sub": None},
        {"aud": {"a": ["b"]}}, {"iss": "https://evil.test"}, {"iss": [ISSUER]}, {"jti": 5}, {"jti": None}, {"iat": {}},
    ]  # fmt: skip
    for change in changes:
        made.append(key.sign_jws(header["typ"], json.dumps({**payload, **change}).encode()))
    made += [
        key.sign_jws(header["typ"], raw)
        for raw in (
            b"[]", b"null", b"1", b'"x"', b"{", b"\xff", b'{"exp":1e400}', b'{"exp":NaN}', b"[" * 5_000,
            b'{"exp":-1e400,"iss":"x","sub":"x","aud":"x","iat":1}',
        )
    ]  # fmt: skip
    return made


def broken_signature(world: World, token: str) -> list[str]:
    """16.3/16.13, J23: every part changed; the all-zero signature of CVE-2022-21449."""
    header, payload, signature = token.split(".")
    made = [f"{header}.{payload}.{b64(bytes(64))}", f"{header}.{payload}.{b64(b'')}", f"{header}.{payload}.AA"]
    for index in range(0, len(payload), 17):
        flipped = "A" if payload[index] != "A" else "B"
        made.append(f"{header}.{payload[:index]}{flipped}{payload[index + 1 :]}.{signature}")
    return made


MAKERS: list[Make] = [
    no_algorithm, public_key_as_secret, key_in_the_header, critical_headers, too_large, other_serializations,
    juggled_claims, broken_signature,
]  # fmt: skip


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_no_endpoint_believes_a_token_that_is_not_ours(world: World, make: Make) -> None:
    """RFC 8725. The verifier knows no database, so one kind of database is enough."""
    app = world.app("api", access_token_format="jwt")
    world.sign_in(world.employee(app))
    tokens = world.tokens(app)
    assert world.is_active(app, tokens["access_token"])
    for token in make(world, tokens["access_token"]):
        began = time.perf_counter()
        if token.isascii() and token.isprintable() and token == token.strip():
            response = world.userinfo(token)
            assert response.status_code == 401, token[:200]
            assert response.headers["www-authenticate"].startswith('Bearer realm="idhub", error="invalid_token"')
        posted = world.http.post("/oauth2/userinfo", data={"access_token": token})
        assert posted.status_code in {400, 401, 413}, token[:200]
        introspected = world.post("/oauth2/introspect", app, {"token": token})
        assert introspected.status_code in {200, 400, 413}, token[:200]
        assert introspected.json().get("active") in {False, None}
        assert world.post("/oauth2/revoke", app, {"token": token}).status_code in {200, 400, 413}
        assert time.perf_counter() - began < 5, "refused before any work"
    for hint in make(world, tokens["id_token"]):
        asked = {**world.request(app), "id_token_hint": hint, "prompt": "none"}
        response = world.http.post("/oauth2/authorize", data=asked, follow_redirects=False)
        assert response.status_code in {303, 400}
        assert "code=" not in response.headers.get("location", ""), hint[:200]
        shown = world.http.post("/oauth2/logout", data={"id_token_hint": hint}, follow_redirects=False)
        assert shown.text in {"shown: invalid_logout_request", "shown: request_malformed"}, hint[:200]
    assert world.is_active(app, tokens["access_token"]), "nothing was changed"


def test_each_kind_of_token_is_refused_by_every_other_verifier(world: World, office: App) -> None:
    """J16; RFC 8725 sections 3.11 and 3.12: N x N over the kinds that exist."""
    api = world.app("api", access_token_format="jwt")
    person = world.employee(office)
    world.entitle(person, api)
    session_id = world.sign_in(person)
    opaque_tokens, jwt_tokens = world.tokens(office), world.tokens(api)
    logout_token = world.keyring.sign_jws(
        "event", "logout+jwt",
        {"iss": ISSUER, "aud": "api", "sub": "x", "iat": 1, "exp": 9_999_999_999, "jti": "x", "events": {}},
    )  # fmt: skip
    as_id_token = world.keyring.sign_jws(
        "event", "JWT", {"iss": ISSUER, "aud": "api", "sub": "x", "iat": 1, "exp": 9_999_999_999}
    )
    receipt = world.keyring.sign_jws("receipt", "idhub-receipt+jws", {"iss": ISSUER, "sub": "x"})
    session_token = world.http.cookies["idhub_session"]
    kinds = {
        "opaque_access": opaque_tokens["access_token"],
        "jwt_access": jwt_tokens["access_token"],
        "refresh": opaque_tokens["refresh_token"],
        "id": jwt_tokens["id_token"],
        "code": world.code(office),
        "session": session_token,
        "session_id": session_id,
        "logout": logout_token,
        "event_as_id": as_id_token,
        "receipt": receipt,
    }
    right = {
        "userinfo": {"opaque_access", "jwt_access"},
        "introspection": {"opaque_access", "jwt_access", "refresh"},
        "refresh_grant": {"refresh"},
        "id_token_hint": {"id"},
        "logout_hint": {"id"},
        "cookie": {"session"},
        "code_grant": {"code"},
    }

    def accepted(verifier: str, kind: str, value: str) -> bool:
        app = api if kind == "jwt_access" else office
        if verifier == "userinfo":
            return bool(world.userinfo(value).status_code == 200)
        if verifier == "introspection":
            return world.is_active(app, value)
        if verifier == "refresh_grant":
            return bool(world.refresh(office, value).status_code == 200)
        if verifier == "code_grant":
            return bool(world.redeem(office, value).status_code == 200)
        if verifier == "id_token_hint":
            return "code" in query_of(world.authorize(api, id_token_hint=value, prompt="none"))
        if verifier == "logout_hint":
            response = world.http.get("/oauth2/logout", params={"id_token_hint": value}, follow_redirects=False)
            return bool(response.status_code == 303)
        world.http.cookies.set("idhub_session", value)
        try:
            return "code" in query_of(world.authorize(office, prompt="none"))
        finally:
            world.http.cookies.set("idhub_session", session_token)

    for verifier, expected in right.items():
        assert {kind for kind, value in kinds.items() if accepted(verifier, kind, value)} == expected, verifier


def test_userinfo_wants_one_token_in_one_place(world: World, office: App) -> None:
    """RFC 6750 section 2; RFC 9700 section 4.3.2."""
    world.sign_in(world.employee(office))
    token = world.tokens(office)["access_token"]
    missing = world.http.get("/oauth2/userinfo")
    assert missing.status_code == 401
    assert missing.headers["www-authenticate"] == 'Bearer realm="idhub"'
    in_url = world.http.get(f"/oauth2/userinfo?access_token={token}")
    assert in_url.status_code == 400
    twice = world.http.post(
        "/oauth2/userinfo", data={"access_token": token}, headers={"Authorization": f"Bearer {token}"}
    )
    assert twice.json()["error_description"] == "Send the token once."
    assert world.http.post("/oauth2/userinfo", data={"access_token": token}).status_code == 200
    assert world.http.get("/oauth2/userinfo", headers={"Authorization": f"bearer {token}"}).status_code == 200
    for header in ("Bearer", "Bearer ", "Basic x", token, "Bearer a b c"):
        assert world.http.get("/oauth2/userinfo", headers={"Authorization": header}).status_code == 401
    doubled = world.http.get(
        "/oauth2/userinfo", headers=[("Authorization", f"Bearer {token}"), ("Authorization", "Bearer x")]
    )
    assert doubled.status_code == 400
    cookie_only = world.http.get("/oauth2/userinfo", headers={"Cookie": f"access_token={token}"})
    assert cookie_only.status_code == 401


def test_a_token_of_ours_is_read_whatever_the_clock_of_this_machine_says(world: World) -> None:
    """D19: a node that issues may be a minute ahead of the one that is asked; how long it holds the database says."""
    reader = TokenReader(world.keyring, ISSUER)
    begins = int(time.time()) + 60
    claims = {"iss": ISSUER, "sub": "s", "aud": "a", "iat": begins, "nbf": begins, "exp": begins + 300, "jti": "j"}
    assert reader.access_token_id(world.keyring.sign_jws("token", ACCESS_TOKEN_TYP, claims)) == "j"
    assert reader.id_token_hint(world.keyring.sign_jws("token", ID_TOKEN_TYP, claims)) == claims
