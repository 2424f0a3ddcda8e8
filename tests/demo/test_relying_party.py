"""The sample application's sessions and its back-channel logout endpoint."""

import time
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey
from starlette.testclient import TestClient

from idhub.demo.logout_token import EVENT
from idhub.demo.relying_party import Identity, Options, RelyingParty, Sessions

ISSUER = "http://127.0.0.1:8000"
KEY = ECKey.generate_key("P-256", {"kid": "k1", "use": "sig", "alg": "ES256"})
OTHER_KEY = ECKey.generate_key("P-256", {"kid": "k1", "use": "sig", "alg": "ES256"})
HEADER = {"alg": "ES256", "typ": "logout+jwt", "kid": "k1"}


@pytest.fixture
def relying_party() -> RelyingParty:
    """Office, with the hub's metadata and keys already known."""
    options = Options("office", "Office", "办公", 9001, ISSUER, "office", "secret", observer_key="observer")
    made = RelyingParty(options)
    made.hub.server_metadata.update(
        {
            "_loaded_at": 1,
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/authorize",
            "end_session_endpoint": f"{ISSUER}/logout",
            "jwks": {"keys": [KEY.as_dict(private=False)]},
        }
    )
    return made


@pytest.fixture
def browser(relying_party: RelyingParty) -> TestClient:
    """A browser at Office."""
    return TestClient(relying_party.application(), base_url="http://127.0.0.1:9001", follow_redirects=False)


def _sign_in(relying_party: RelyingParty, browser: TestClient, *, sub: str = "s1", sid: str = "sid1") -> None:
    browser.get("/")
    _, session = relying_party.sessions.find(browser.cookies["office_session"])
    session.identity = Identity(sub, sid, {"name": "林晓", "sub": sub}, {"id_token": "t"}, time.time())


def _claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": "office", "iat": now, "exp": now + 120, "jti": "j1", "sub": "s1", "sid": "sid1"}
    return {**claims, "events": {EVENT: {}}, **changes}


def _token(key: ECKey = KEY, header: dict[str, Any] | None = None, **changes: Any) -> str:
    return jwt.encode(header or HEADER, _claims(**changes), key)


def test_back_channel_logout_ends_the_session_and_the_page_says_so(
    relying_party: RelyingParty, browser: TestClient
) -> None:
    _sign_in(relying_party, browser)
    assert "林晓" in browser.get("/").text

    answer = browser.post("/backchannel-logout", data={"logout_token": _token()})

    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert not relying_party.sessions.live()
    assert "您的会话已被身份中心终止" in browser.get("/").text


def test_a_replayed_logout_token_is_refused(relying_party: RelyingParty, browser: TestClient) -> None:
    token = _token()
    assert browser.post("/backchannel-logout", data={"logout_token": token}).status_code == 200
    _sign_in(relying_party, browser)

    answer = browser.post("/backchannel-logout", data={"logout_token": token})

    assert answer.status_code == 400
    assert answer.json() == {"error": "invalid_request", "error_description": "jti was seen before"}
    assert len(relying_party.sessions.live()) == 1


@pytest.mark.parametrize(
    "token",
    [
        _token(OTHER_KEY),
        _token()[:-4] + "AAAA",
        "not a token",
        "eyJhbGciOiJub25lIiwidHlwIjoibG9nb3V0K2p3dCJ9.e30.",  # {"alg":"none","typ":"logout+jwt"}
    ],
)
def test_a_token_the_hub_did_not_sign_is_refused(relying_party: RelyingParty, browser: TestClient, token: str) -> None:
    _sign_in(relying_party, browser)

    answer = browser.post("/backchannel-logout", data={"logout_token": token})

    assert answer.status_code == 400
    assert answer.json()["error_description"] == "the signature is not the hub's"
    assert len(relying_party.sessions.live()) == 1


def test_a_missing_logout_token_is_refused(browser: TestClient) -> None:
    answer = browser.post("/backchannel-logout")

    assert answer.status_code == 400
    assert answer.json()["error_description"] == "logout_token is missing"


def test_a_session_id_known_before_sign_in_is_worth_nothing_after_it() -> None:
    sessions = Sessions()
    before, session = sessions.find(None)

    after = sessions.renew(before)

    assert sessions.find(after)[1] is session
    assert sessions.find(before)[1] is not session


def test_sid_ends_one_session_and_sub_alone_ends_all_of_a_person() -> None:
    sessions = Sessions()
    for sub, sid in (("s1", "a"), ("s1", "b"), ("s2", "c")):
        sessions.find(None)[1].identity = Identity(sub, sid, {}, {}, 0.0)

    assert sessions.end(sub="s1", sid="a", now=1.0) == 1
    assert sessions.end(sub="s1", sid=None, now=2.0) == 1
    assert [identity.sub for identity in sessions.live()] == ["s2"]


def test_sign_in_sends_state_nonce_and_a_pkce_challenge(browser: TestClient) -> None:
    location = browser.get("/login").headers["location"]

    assert location.startswith(f"{ISSUER}/authorize?")
    assert "code_challenge_method=S256" in location
    for parameter in ("state=", "nonce=", "code_challenge="):
        assert parameter in location


@pytest.mark.parametrize("issuer", [None, "http://127.0.0.1:9999"])
def test_an_answer_that_does_not_name_the_hub_is_refused(browser: TestClient, issuer: str | None) -> None:
    """RFC 9207 section 2.4: mix-up defence."""
    query = {"code": "c", "state": "s"} | ({"iss": issuer} if issuer else {})

    answer = browser.get("/callback", params=query)

    assert answer.status_code == 400
    assert "does not name the hub as its issuer" in answer.text


def test_signing_out_leads_to_the_hub_with_the_id_token_as_hint(
    relying_party: RelyingParty, browser: TestClient
) -> None:
    _sign_in(relying_party, browser)

    answer = browser.post("/logout")

    assert answer.status_code == 303
    assert answer.headers["location"].startswith(f"{ISSUER}/logout?id_token_hint=t&")
    assert not relying_party.sessions.live()


def test_signing_out_from_a_foreign_page_is_refused(relying_party: RelyingParty, browser: TestClient) -> None:
    _sign_in(relying_party, browser)

    assert browser.post("/logout", headers={"origin": "https://evil.example"}).status_code == 400
    assert len(relying_party.sessions.live()) == 1


@pytest.mark.parametrize("authorization", [None, "Bearer ", "Bearer wrong", "observer"])
def test_what_the_application_holds_is_for_its_observer_alone(browser: TestClient, authorization: str | None) -> None:
    headers = {"authorization": authorization} if authorization else {}

    assert browser.get("/state", headers=headers).status_code == 401


def test_a_name_with_markup_is_shown_as_text(relying_party: RelyingParty, browser: TestClient) -> None:
    _sign_in(relying_party, browser)
    _, session = relying_party.sessions.find(browser.cookies["office_session"])
    session.identity = Identity("s", "d", {"name": "<script>alert(1)</script>"}, {}, 0.0)

    assert "<script>" not in browser.get("/").text
