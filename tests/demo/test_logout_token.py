"""What the sample application accepts as a logout token (Back-Channel Logout 1.0 section 2.6)."""

from typing import Any

import pytest

from idhub.demo.logout_token import EVENT, LogoutTokenError, check_logout_claims

NOW = 1_795_400_000.0
HEADER = {"alg": "ES256", "typ": "logout+jwt", "kid": "k"}
CLAIMS: dict[str, Any] = {
    "iss": "http://127.0.0.1:8000",
    "aud": "office",
    "iat": NOW - 1,
    "exp": NOW + 120,
    "jti": "j1",
    "sub": "s1",
    "sid": "sid1",
    "events": {EVENT: {}},
}


def _check(header: dict[str, Any], claims: dict[str, Any]) -> None:
    check_logout_claims(header, claims, issuer="http://127.0.0.1:8000", client_id="office", now=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"aud": ["other", "office"]},
        {"sid": None},
        {"sub": None},
        {"iat": NOW + 30},
        {"events": {EVENT: {}, "other": {}}},
    ],
)
def test_a_token_by_the_rules_is_accepted(change: dict[str, Any]) -> None:
    _check(HEADER, {**CLAIMS, **change})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"iss": "http://127.0.0.1:8001"}, "iss is not the hub"),
        ({"iss": "http://127.0.0.1:8000/"}, "iss is not the hub"),
        ({"aud": "wiki"}, "aud does not name this application"),
        ({"aud": []}, "aud does not name this application"),
        ({"aud": None}, "aud does not name this application"),
        ({"iat": None}, "iat is missing, too old or in the future"),
        ({"iat": NOW - 3600}, "iat is missing, too old or in the future"),
        ({"iat": NOW + 3600}, "iat is missing, too old or in the future"),
        ({"exp": None}, "exp is missing or past"),
        ({"exp": NOW - 61}, "exp is missing or past"),
        ({"events": None}, "events does not hold the logout event"),
        ({"events": {}}, "events does not hold the logout event"),
        ({"events": {EVENT: True}}, "events does not hold the logout event"),
        ({"nonce": "n"}, "nonce is prohibited"),
        ({"sub": None, "sid": None}, "sub or sid is required"),
        ({"sub": "", "sid": 7}, "sub or sid is required"),
        ({"jti": None}, "jti is required"),
    ],
)
def test_a_token_that_breaks_a_rule_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(LogoutTokenError) as refused:
        _check(HEADER, {**CLAIMS, **change})
    assert str(refused.value) == reason


@pytest.mark.parametrize("typ", [None, "JWT", "at+jwt", "secevent+jwt"])
def test_another_kind_of_token_is_refused(typ: str | None) -> None:
    """RFC 8725 section 3.11: each kind of token is refused by the verifiers of the others."""
    with pytest.raises(LogoutTokenError, match=r"typ must be logout\+jwt"):
        _check({**HEADER, "typ": typ}, CLAIMS)
