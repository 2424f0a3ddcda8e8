"""The token endpoint: PKCE, single use, rotation, who may have what, and what is said of bad requests."""

from datetime import date, timedelta
from typing import Any

import jwt
import pytest
from sqlalchemy import delete, insert, select, update

from idhub.access.tables import Application, OidcClient
from idhub.credentials import opaque, sessions
from idhub.credentials.journal import Journal
from idhub.credentials.tables import AccessToken, Grant, RefreshToken
from idhub.demo.processes import wait_until
from idhub.directory.kinds import Standing
from idhub.directory.tables import Installation, Principal
from tests.oidc.world import VERIFIER, App, Services, World, running

SPENT = "The grant is invalid, expired, already used or was issued to another client."


def error_of(response: Any) -> tuple[int, str, str]:
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert set(body) == {"error", "error_description"}
    return response.status_code, body["error"], body["error_description"]


# ---------------------------------------------------------------- codes


BAD_VERIFIERS = [
    ("", "invalid_request", "code_verifier is missing."),
    ("v" * 42, "invalid_request", "code_verifier must be 43 to 128 unreserved characters."),
    ("v" * 129, "invalid_request", "code_verifier is too long."),
    ("v" * 42 + "!", "invalid_request", "code_verifier must be 43 to 128 unreserved characters."),
    ("w" * 43, "invalid_grant", SPENT),
]


def test_a_code_needs_the_verifier_of_its_challenge(world: World, office: App) -> None:
    """A10; RFC 7636 section 4.6."""
    world.sign_in(world.employee(office))
    code = world.code(office)
    for verifier, error, description in BAD_VERIFIERS:
        assert error_of(world.redeem(office, code, code_verifier=verifier)) == (400, error, description), verifier
    assert world.count(AccessToken) == 0
    assert len(world.reasons("token.refused")) == len(BAD_VERIFIERS)
    assert world.redeem(office, code).status_code == 200, "who has no verifier cannot burn the code either"


def test_a_code_redeemed_twice_is_refused_and_revokes_tokens(world: World, office: App) -> None:
    """RFC 6749 section 4.1.2; ASVS 10.4.2."""
    world.sign_in(world.employee(office))
    code = world.code(office)
    tokens = world.redeem(office, code).json()
    assert error_of(world.redeem(office, code)) == (400, "invalid_grant", SPENT)
    assert not world.is_active(office, tokens["access_token"])
    assert error_of(world.refresh(office, tokens["refresh_token"]))[1] == "invalid_grant"
    assert world.userinfo(tokens["access_token"]).status_code == 401
    assert world.reasons("code.replayed") == ["invalid_grant.code_spent"]


def test_single_use_survives_a_restart(world: World, office: App) -> None:
    """CVE-2026-9802: every anti-replay store is tested across a restart."""
    from idhub.credentials.store import create_store
    from idhub.db import create_database

    world.sign_in(world.employee(office))
    code = world.code(office)
    tokens = world.redeem(office, code).json()
    second = world.refresh(office, tokens["refresh_token"]).json()
    world.http.portal.call(world.endpoints.store.close)  # type: ignore[union-attr]
    world.database.dispose()
    database = create_database(world.settings)
    database.session_info.update(world.database.session_info)
    store = create_store(world.settings, database, world.keyring)
    services = Services(world.settings, database, world.keyring, world.clock, store, Journal(store))
    try:
        with running(services) as (endpoints, http):
            after = World(database, world.keyring, world.settings, world.clock, endpoints, http)
            assert after.is_active(office, second["access_token"])
            assert error_of(after.refresh(office, tokens["refresh_token"]))[1] == "invalid_grant"
            assert not after.is_active(office, second["access_token"])
            assert error_of(after.redeem(office, code))[1] == "invalid_grant"
    finally:
        database.dispose()


def test_a_code_of_another_client_is_refused_and_stays(world: World, office: App) -> None:
    """RFC 6749 section 4.1.3."""
    wiki = world.app("wiki")
    world.sign_in(world.employee(office))
    code = world.code(office)
    assert error_of(world.redeem(wiki, code)) == (400, "invalid_grant", SPENT)
    assert world.reasons("token.refused") == ["invalid_grant.code_of_another_client"]
    assert world.redeem(office, code).status_code == 200


def test_a_code_needs_the_redirect_uri_it_was_sent_to(world: World, office: App) -> None:
    world.sign_in(world.employee(office))
    code = world.code(office)
    other = world.redeem(office, code, redirect_uri="https://office.example/other")
    assert error_of(other) == (400, "invalid_grant", SPENT)
    assert world.reasons("token.refused") == ["invalid_grant.redirect_uri_differs"]


def test_a_code_lives_sixty_seconds(world: World, office: App) -> None:
    world.sign_in(world.employee(office))
    code = world.code(office)
    world.clock.advance(seconds=60)
    assert error_of(world.redeem(office, code)) == (400, "invalid_grant", SPENT)
    assert world.reasons("token.refused") == ["invalid_grant.code_expired"]


def test_a_code_is_worth_nothing_after_the_session_it_rests_on(world: World, office: App) -> None:
    """Not even an ID token, although the code itself has seconds left."""
    session_id = world.sign_in(world.employee(office))
    world.clock.advance(hours=7)
    with world.database.transaction() as session:
        sessions.touch(session, session_id, now=world.clock(), settings=world.settings)
    world.clock.advance(hours=4, minutes=59, seconds=30)
    code = world.code(office)
    world.clock.advance(seconds=30)
    assert error_of(world.redeem(office, code)) == (400, "invalid_grant", SPENT)
    assert world.reasons("token.refused") == ["invalid_grant.session_expired"]


def test_what_was_never_given_out_is_worth_nothing(world: World, office: App) -> None:
    """Of the right form, and unknown: at each endpoint, by each grant."""
    world.sign_in(world.employee(office))
    tokens = world.tokens(office)
    assert error_of(world.redeem(office, opaque.make("ac"))) == (400, "invalid_grant", SPENT)
    assert error_of(world.refresh(office, opaque.make("rt"))) == (400, "invalid_grant", SPENT)
    for kind in ("at", "rt", "ac", "ses", "api"):
        token = opaque.make(kind)
        assert not world.is_active(office, token)
        assert world.userinfo(token).status_code == 401
        assert world.post("/oauth2/revoke", office, {"token": token}).status_code == 200
    assert world.is_active(office, tokens["access_token"])
    assert world.events("token.revoked") == []


# ---------------------------------------------------------------- refresh


def test_a_refresh_token_rotates_and_its_reuse_kills_the_family(world: World, office: App) -> None:
    """RFC 9700 section 4.14.2; ASVS 10.4.5."""
    world.sign_in(world.employee(office))
    first = world.tokens(office)
    second = world.refresh(office, first["refresh_token"]).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert second["id_token"]
    assert world.is_active(office, second["refresh_token"])
    assert not world.is_active(office, first["refresh_token"]), "it is spent, and asking about it is no use"
    third = world.refresh(office, second["refresh_token"]).json()
    assert error_of(world.refresh(office, first["refresh_token"])) == (400, "invalid_grant", SPENT)
    assert world.reasons("token.replayed") == ["invalid_grant.refresh_spent"]
    assert error_of(world.refresh(office, third["refresh_token"]))[1] == "invalid_grant"
    for tokens in (second, third):
        assert not world.is_active(office, tokens["access_token"])


def test_a_client_that_does_not_rotate_keeps_its_refresh_token(world: World) -> None:
    """FAPI 2.0 section 5.3.2.1: rotation is a policy of the client."""
    app = world.app("fapi", rotates_refresh=False)
    world.sign_in(world.employee(app))
    token = world.tokens(app, scope="openid offline_access")["refresh_token"]
    for _ in range(2):
        world.clock.advance(days=6)
        answer = world.refresh(app, token)
        assert answer.status_code == 200, answer.text
        assert "refresh_token" not in answer.json()
    world.clock.advance(days=7)
    assert error_of(world.refresh(app, token))[1] == "invalid_grant"


def test_a_refresh_token_has_an_idle_and_an_absolute_end(world: World, office: App) -> None:
    """ASVS 10.4.8."""
    world.sign_in(world.employee(office))
    token = world.tokens(office, scope="openid offline_access")["refresh_token"]
    for _ in range(4):
        world.clock.advance(days=6)
        token = world.refresh(office, token).json()["refresh_token"]
    world.clock.advance(days=6)
    assert error_of(world.refresh(office, token))[1] == "invalid_grant", "30 days after the family began"
    assert world.reasons("token.refused") == ["invalid_grant.refresh_expired"]


def test_without_offline_access_nothing_outlives_the_session(world: World, office: App) -> None:
    world.sign_in(world.employee(office))
    token = world.tokens(office)["refresh_token"]
    world.clock.advance(hours=11, minutes=58)
    answer = world.refresh(office, token).json()
    assert answer["expires_in"] == 120
    world.clock.advance(minutes=2)
    assert error_of(world.refresh(office, answer["refresh_token"]))[1] == "invalid_grant"


def test_scope_may_shrink_and_never_grow(world: World, office: App) -> None:
    """RFC 6749 section 6."""
    world.sign_in(world.employee(office))
    token = world.tokens(office, scope="openid email")["refresh_token"]
    wider = world.refresh(office, token, scope="openid phone")
    assert error_of(wider) == (400, "invalid_scope", "scope exceeds what was granted.")
    assert world.reasons("token.refused") == ["invalid_grant.scope_exceeds_grant"]
    narrow = world.refresh(office, token, scope="openid").json()
    assert narrow["scope"] == "openid"
    assert world.refresh(office, narrow["refresh_token"]).json()["scope"] == "openid email"


def test_a_refresh_token_of_another_client_is_refused(world: World, office: App) -> None:
    wiki = world.app("wiki")
    world.sign_in(world.employee(office))
    token = world.tokens(office)["refresh_token"]
    assert error_of(world.refresh(wiki, token)) == (400, "invalid_grant", SPENT)
    assert world.refresh(office, token).status_code == 200


# ---------------------------------------------------------------- revocation


def test_revoking_a_refresh_token_ends_access_tokens_of_the_grant(world: World, office: App) -> None:
    """A19, keycloak#35813; RFC 7009 section 2.1."""
    world.sign_in(world.employee(office))
    tokens = world.tokens(office, scope="openid offline_access")
    other = world.tokens(office)
    revoked = world.post("/oauth2/revoke", office, {"token": tokens["refresh_token"]})
    assert (revoked.status_code, revoked.content) == (200, b"")
    assert not world.is_active(office, tokens["access_token"])
    assert error_of(world.refresh(office, tokens["refresh_token"]))[1] == "invalid_grant"
    assert world.is_active(office, other["access_token"]), "another grant is another grant"
    assert len(world.events("token.revoked")) == 1


def test_revoking_an_access_token_ends_that_one(world: World) -> None:
    for kind in ("opaque", "jwt"):
        app = world.app(kind, access_token_format=kind)
        world.sign_in(world.employee(app))
        tokens = world.tokens(app)
        world.post("/oauth2/revoke", app, {"token": tokens["access_token"], "token_type_hint": "refresh_token"})
        assert not world.is_active(app, tokens["access_token"])
        assert world.userinfo(tokens["access_token"]).status_code == 401
        assert world.refresh(app, tokens["refresh_token"]).status_code == 200


def test_revoking_what_is_unknown_succeeds_and_anothers_is_refused(world: World, office: App) -> None:
    """RFC 7009 sections 2.1 and 2.2."""
    wiki = world.app("wiki")
    world.sign_in(world.employee(office))
    tokens = world.tokens(office)
    assert world.post("/oauth2/revoke", office, {"token": "never given out"}).status_code == 200
    refused = world.post("/oauth2/revoke", wiki, {"token": tokens["access_token"]})
    assert error_of(refused) == (400, "invalid_grant", "The token was issued to another client.")
    assert world.is_active(office, tokens["access_token"])


# ---------------------------------------------------------------- standing


def _suspended(world: World, person: str, app: App) -> None:
    world.suspend(person)


def _suspended_and_back(world: World, person: str, app: App) -> None:
    world.suspend(person)
    world.reactivate(person)


def _left(world: World, person: str, app: App) -> None:
    world.offboard(person)


def _withdrawn(world: World, person: str, app: App) -> None:
    world.withdraw(person, app)


def _client_off(world: World, person: str, app: App) -> None:
    with world.database.transaction() as session:
        session.execute(update(Application).values(is_enabled=False))


def _installation_restored(world: World, person: str, app: App) -> None:
    with world.database.transaction() as session:
        session.execute(update(Installation).values(epoch=Installation.epoch + 1))


@pytest.mark.parametrize(
    "ending", [_suspended, _suspended_and_back, _left, _withdrawn, _client_off, _installation_restored]
)
def test_every_door_every_grant_refuses_somebody_whose_access_ended(world: World, office: App, ending: Any) -> None:
    """A22, O01, O05: everything issued before is refused after, by every endpoint, with the same words."""
    person = world.employee(office)
    world.sign_in(person)
    tokens = world.tokens(office, scope="openid offline_access")
    unspent = world.code(office)
    ending(world, person, office)
    assert error_of(world.redeem(office, unspent)) == (400, "invalid_grant", SPENT)
    assert error_of(world.refresh(office, tokens["refresh_token"])) == (400, "invalid_grant", SPENT)
    for token in (tokens["access_token"], tokens["refresh_token"]):
        introspected = world.post("/oauth2/introspect", office, {"token": token})
        assert introspected.json() == {"active": False}
    assert world.userinfo(tokens["access_token"]).status_code == 401
    if ending is _withdrawn:
        assert world.authorize(office).headers["location"].startswith("/error?transaction=")
    elif ending is _client_off:
        assert world.authorize(office).status_code == 400
    else:
        assert world.authorize(office).headers["location"].startswith("/login?transaction=")
    assert len(world.reasons("token.refused")) == 2


def test_every_door_before_the_first_day_and_after_the_last_nothing_is_granted(world: World, office: App) -> None:
    """A22: the access window counts by itself; no worker has to run at midnight."""
    person = world.onboard(ends_on=date(2026, 11, 24))
    world.entitle(person, office)
    world.sign_in(person)
    tokens = world.tokens(office, scope="openid offline_access")
    world.clock.advance(hours=37, minutes=59)  # 23:59 of the last working day in Shanghai
    alive = world.refresh(office, tokens["refresh_token"])
    assert alive.status_code == 200
    world.clock.advance(minutes=1)
    assert error_of(world.refresh(office, alive.json()["refresh_token"])) == (400, "invalid_grant", SPENT)
    assert not world.is_active(office, alive.json()["access_token"])
    assert world.userinfo(alive.json()["access_token"]).status_code == 401
    assert world.reasons("token.refused") == ["invalid_grant.standing"]


def test_a_service_identity_is_refused_when_it_is_not_active(world: World) -> None:
    service = world.service()
    app = world.app("robot", grant_types=["client_credentials"], scopes=["parts.read"], service_principal_id=service)
    token = world.token(app, grant_type="client_credentials").json()["access_token"]
    assert world.is_active(app, token)
    with world.database.transaction() as session:
        session.execute(update(Principal).where(Principal.id == service).values(standing=Standing.SUSPENDED))
    assert error_of(world.token(app, grant_type="client_credentials"))[1] == "invalid_grant"
    assert not world.is_active(app, token)


@pytest.mark.parametrize("why", ["suspended", "ended", "not begun", "left"])
def test_every_door_a_service_identity_that_may_not_act_begins_nothing(world: World, why: str) -> None:
    """A22: also the first time, when there is no grant yet that could be refused."""
    service = world.service()
    app = world.app("robot", grant_types=["client_credentials"], scopes=["parts.read"], service_principal_id=service)
    now = world.clock()
    cases: dict[str, dict[str, Any]] = {
        "suspended": {"standing": Standing.SUSPENDED},
        "left": {"standing": Standing.LEFT},
        "ended": {"access_ends_at": now},
        "not begun": {"access_starts_at": now + timedelta(seconds=1)},
    }
    with world.database.transaction() as session:
        session.execute(update(Principal).where(Principal.id == service).values(**cases[why]))
    assert error_of(world.token(app, grant_type="client_credentials")) == (400, "invalid_grant", SPENT)
    assert world.reasons("token.refused") == ["invalid_grant.standing"]
    assert (world.count(Grant), world.count(AccessToken)) == (0, 0)


def test_client_credentials_are_for_those_who_have_them(world: World, office: App) -> None:
    assert error_of(world.token(office, grant_type="client_credentials"))[1] == "unauthorized_client"
    app = world.app("robot", grant_types=["client_credentials"], scopes=["parts.read"])
    assert error_of(world.token(app, grant_type="client_credentials")) == (
        400,
        "unauthorized_client",
        "This client has no service identity.",
    )
    service = world.service()
    able = world.app("able", grant_types=["client_credentials"], scopes=["a", "openid"], service_principal_id=service)
    assert error_of(world.token(able, grant_type="client_credentials", scope="b"))[1] == "invalid_scope"
    assert error_of(world.token(able, grant_type="client_credentials", scope="openid"))[1] == "invalid_scope"
    assert world.token(able, grant_type="client_credentials", scope="a").status_code == 200
    assert world.token(able, grant_type="client_credentials", scope="a").status_code == 200
    assert world.count(Grant) == 1, "a service's grant is used again"


# ---------------------------------------------------------------- requests


BAD_FIELDS: list[tuple[dict[str, str], str, str]] = [
    ({"grant_type": ""}, "invalid_request", "grant_type is missing."),
    ({"grant_type": "password"}, "unsupported_grant_type", "grant_type is not supported."),
    ({"code": ""}, "invalid_request", "code is missing."),
    ({"code": "x" * 201}, "invalid_request", "code is too long."),
    ({"code": "a\x00b"}, "invalid_request", "code contains characters that are not allowed."),
    ({"code": "idh_ac_guess"}, "invalid_grant", SPENT),
    ({"redirect_uri": ""}, "invalid_request", "redirect_uri is missing."),
    ({"redirect_uri": "http://[::1"}, "invalid_grant", SPENT),
]


def test_a_bad_token_request_is_named_and_recorded(world: World, office: App) -> None:
    world.sign_in(world.employee(office))
    code = world.code(office)
    for fields, error, description in BAD_FIELDS:
        changed = {"code": code, **fields}
        assert error_of(world.redeem(office, **changed)) == (400, error, description), fields
    assert world.count(AccessToken) == 0
    assert len(world.reasons("token.refused")) == len(BAD_FIELDS)
    assert world.redeem(office, code).status_code == 200


BODIES: list[tuple[str, bytes, str, str]] = [
    ("application/json", b'{"grant_type":"x"}', "invalid_request",
     "Content-Type must be application/x-www-form-urlencoded."),
    ("text/plain", b"grant_type=x", "invalid_request", "Content-Type must be application/x-www-form-urlencoded."),
    ("", b"grant_type=x", "invalid_request", "Content-Type must be application/x-www-form-urlencoded."),
    ("multipart/form-data; boundary=x", b"--x", "invalid_request",
     "Content-Type must be application/x-www-form-urlencoded."),
    ("application/x-www-form-urlencoded", b"", "invalid_request", "grant_type is missing."),
    ("application/x-www-form-urlencoded", b"a=1&a=2", "invalid_request", "a is given more than once."),
    ("application/x-www-form-urlencoded", b"client_id=office&client_id=office", "invalid_request",
     "client_id is given more than once."),
    ("application/x-www-form-urlencoded", b"grant_type=%FF", "invalid_request",
     "grant_type contains characters that are not allowed."),
    ("application/x-www-form-urlencoded", b"grant_type=%ED%A0%80", "invalid_request",
     "grant_type contains characters that are not allowed."),
    ("application/x-www-form-urlencoded", b"\xff\xfe=1", "invalid_request", "A parameter name is not readable."),
    ("application/x-www-form-urlencoded", b"=1", "invalid_request", "A parameter name is not readable."),
    ("application/x-www-form-urlencoded", b"&".join(b"p%d=1" % i for i in range(61)), "invalid_request",
     "There are too many parameters."),
    ("application/x-www-form-urlencoded", b"x=" + b"y" * 70_000, "invalid_request", "The request is too large."),
]  # fmt: skip


PATHS = ("/oauth2/token", "/oauth2/introspect", "/oauth2/revoke")


def test_bodies_that_cannot_be_read_are_refused_alike(world: World, office: App) -> None:
    for path in PATHS:
        for content_type, body, error, description in BODIES:
            response = world.http.post(path, content=body, headers={"Content-Type": content_type}, auth=office.auth)
            missing = "grant_type is missing." if path == PATHS[0] else "token is missing."
            told = missing if "grant_type is missing" in description else description
            status = 413 if "too large" in description else 400
            assert error_of(response) == (status, error, told), (path, content_type, body[:40])
    world.flush()
    refused = world.reasons("token.refused") + world.reasons("request.refused")
    assert refused
    assert all(reason.startswith("invalid_request") for reason in refused)


def test_parameters_in_the_url_are_refused(world: World, office: App) -> None:
    """A28: query and body; RFC 6749 section 3.2."""
    response = world.http.post("/oauth2/token?client_id=office", data={"grant_type": "x"}, auth=office.auth)
    assert error_of(response) == (400, "invalid_request", "Parameters must be in the body, not in the URL.")


def test_other_methods_are_refused(world: World) -> None:
    for path in PATHS:
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
            response = world.http.request(method, path, headers={"Origin": "https://evil.test"})
            assert response.status_code == 405
            assert response.headers["allow"] == "POST"
            assert "access-control-allow-origin" not in response.headers


# ---------------------------------------------------------------- clients


BAD_HEADERS = [
    "Basic",
    "Basic !!!",
    "Basic b2ZmaWNl",
    "Basic Og==",
    "Basic /////w==",
    "Bearer abc",
    "Digest x",
    "Basic " + "QUFB" * 1_000,
]


def test_a_malformed_authorization_header_is_invalid_client(world: World, office: App) -> None:
    for header in BAD_HEADERS:
        response = world.http.post("/oauth2/token", data={"grant_type": "x"}, headers={"Authorization": header})
        assert error_of(response) == (401, "invalid_client", "The Authorization header is malformed."), header
        assert response.headers["www-authenticate"].startswith("Basic ")


def test_unknown_client_and_wrong_secret_are_told_apart_by_nobody(world: World, office: App) -> None:
    """B03."""
    wrong = App("office", "wrong", office.application_id)
    nobody = App("nobody", "wrong", office.application_id)
    public = App("office", None, office.application_id)
    answers = [world.token(app, grant_type="client_credentials") for app in (wrong, nobody, public)]
    assert {error_of(response) for response in answers} == {(401, "invalid_client", "Client authentication failed.")}
    missing = world.http.post("/oauth2/token", data={"grant_type": "client_credentials"})
    assert error_of(missing) == (401, "invalid_client", "Client authentication is missing.")


def test_two_ways_of_client_authentication_are_one_too_many(world: World, office: App) -> None:
    """RFC 6749 section 2.3."""
    two = world.http.post("/oauth2/token", data={"grant_type": "x", "client_secret": office.secret}, auth=office.auth)
    assert error_of(two) == (400, "invalid_request", "Use one way of client authentication only.")
    other = world.http.post("/oauth2/token", data={"grant_type": "x", "client_id": "wiki"}, auth=office.auth)
    assert error_of(other) == (400, "invalid_request", "client_id differs from the authenticated client.")
    assertion = world.http.post("/oauth2/token", data={"client_assertion": "a.b.c", "client_id": "office"})
    assert error_of(assertion)[1] == "invalid_client"


def test_guessing_a_secret_is_limited_per_client_and_address(world: World, office: App) -> None:
    """B09; RFC 6749 section 10.10."""
    wrong = App("office", "wrong", office.application_id)
    answers = [world.token(wrong, grant_type="client_credentials") for _ in range(25)]
    assert [response.status_code for response in answers] == [401] * 20 + [429] * 5
    assert int(answers[-1].headers["retry-after"]) > 0
    wiki = world.app("wiki")
    assert world.token(wiki, grant_type="refresh_token", refresh_token="x").status_code == 400
    world.flush()
    counts = {
        event["reason"]: event["details"]["count"] for event in world.events("token.refused") if "details" in event
    }
    assert counts["invalid_client.client.proof"] == 20
    assert counts["slow_down.client.throttled"] == 5
    assert {event["target"]["id"] for event in world.events("token.refused") if "details" in event} == {"office"}


def test_wrong_secrets_are_counted_over_all_processes_and_restarts(world: World, office: App) -> None:
    """B09. A second process learns of the limit with its first wrong guess."""
    from idhub.credentials.journal import Journal
    from idhub.credentials.store import create_store
    from tests.oidc.world import Services, running

    wrong = App("office", "wrong", office.application_id)
    for _ in range(20):
        assert world.token(wrong, grant_type="refresh_token").status_code == 401
    store = create_store(world.settings, world.database, world.keyring)
    again = Services(world.settings, world.database, world.keyring, world.clock, store, Journal(store))
    with running(again) as (_, http):
        guesses = [http.post("/oauth2/token", data={"grant_type": "x"}, auth=wrong.auth) for _ in range(2)]
        assert [guess.status_code for guess in guesses] == [429, 429]
        right = http.post("/oauth2/token", data={"grant_type": "x"}, auth=office.auth)
        assert right.status_code == 429, "while it is closed, the right secret is not told from a wrong one"
        world.clock.advance(minutes=1)


def test_a_client_that_comes_back_is_not_refused_for_what_was_asked_while_it_was_away(world: World) -> None:
    """Its application went on asking meanwhile."""
    office, wiki = world.app("office", is_enabled=False), world.app("wiki")

    def keeps_asking(app: App) -> None:
        assert [world.token(app, grant_type="x").status_code for _ in range(25)] == [401] * 20 + [429] * 5

    def change(statement: Any) -> None:
        with world.database.transaction() as session:
            session.execute(statement)

    keeps_asking(office)
    change(update(OidcClient).where(OidcClient.client_id == "office").values(is_enabled=True))
    with world.database.read() as session:
        wiki_row = session.execute(select(OidcClient.__table__).where(OidcClient.client_id == "wiki")).mappings().one()
    change(delete(OidcClient).where(OidcClient.client_id == "wiki"))
    keeps_asking(wiki)
    change(insert(OidcClient).values(dict(wiki_row)))
    assert world.token(wiki, grant_type="x").status_code == 400
    # What a process has in mind of a registration is a second old at most; a count of a minute would last longer.
    wait_until(lambda: world.token(office, grant_type="x").status_code == 400, seconds=20, what="it is recognised")


def test_what_succeeds_writes_no_counter(world: World, office: App) -> None:
    from idhub.credentials.tables import Throttle

    world.sign_in(world.employee(office))
    for _ in range(3):
        world.tokens(office)
    assert world.count(Throttle) == 0


def test_an_address_that_gets_many_clients_wrong_is_in_the_log(world: World, office: App) -> None:
    """B08 for clients: reported, and the right secret still works from that address."""
    for number in range(33):
        answer = world.http.post("/oauth2/token", data={"grant_type": "x"}, auth=(f"c{number}", "wrong"))
        assert answer.status_code == 401
    assert world.token(office, grant_type="x").status_code == 400
    world.flush()
    assert "invalid_client.client.spray" in world.reasons("token.refused")


def test_a_public_client_needs_pkce_and_no_secret(world: World) -> None:
    from tests.oidc.test_authorize import answer
    from tests.oidc.world import query_of

    app = world.app("spa", auth_method="none")
    world.sign_in(world.employee(app))
    code = query_of(answer(world, world.authorize(app), "allow"))["code"]
    without = world.token(app, grant_type="authorization_code", code=code, redirect_uri=app.redirect_uri)
    assert error_of(without)[1] == "invalid_request"
    with_secret = world.http.post(
        "/oauth2/token", data={"grant_type": "refresh_token", "client_id": "spa", "client_secret": "x"}
    )
    assert error_of(with_secret)[1] == "invalid_client"
    tokens = world.redeem(app, code, code_verifier=VERIFIER)
    assert tokens.status_code == 200
    asked = world.post("/oauth2/introspect", app, {"token": tokens.json()["access_token"]})
    assert error_of(asked) == (401, "invalid_client", "Introspection needs client authentication.")


def test_a_changed_registration_counts_within_a_second(world: World, office: App) -> None:
    """T18: configuration may be one second old, the predicate is never."""
    import time

    world.sign_in(world.employee(office))
    tokens = world.tokens(office)
    with world.database.transaction() as session:
        session.execute(update(OidcClient).values(is_enabled=False))
    assert error_of(world.refresh(office, tokens["refresh_token"]))[1] in {"invalid_grant", "invalid_client"}
    time.sleep(1.05)
    assert error_of(world.refresh(office, tokens["refresh_token"]))[1] == "invalid_client"
    assert world.count(RefreshToken, RefreshToken.spent_at.is_not(None)) == 0


def test_addresses_are_those_that_trusted_proxies_vouch_for(world: World, office: App) -> None:
    """B07, T06: X-Forwarded-For of anybody else is not believed, so a new one per guess helps nobody."""
    wrong = ("office", "wrong")
    answers = [
        world.http.post(
            "/oauth2/token", data={"grant_type": "x"}, auth=wrong, headers={"X-Forwarded-For": f"198.51.100.{number}"}
        )
        for number in range(25)
    ]
    assert answers[-1].status_code == 429
    world.flush()
    counted = [event for event in world.events("token.refused") if "details" in event]
    assert {event["actor"].get("ip") for event in counted} == {"testclient"}


@pytest.mark.parametrize("alg", ["ES256", "RS256"])
def test_a_self_contained_token_is_signed_as_its_client_is_registered(world: World, alg: str) -> None:
    """RFC 9068 section 2.1; verified by a library that did not sign it."""
    app = world.app(access_token_format="jwt", id_token_alg=alg)
    world.sign_in(world.employee(app))
    tokens = world.tokens(app)
    keys = {key["kid"]: key for key in world.http.get("/oauth2/jwks").json()["keys"]}
    for name in ("access_token", "id_token"):
        header = jwt.get_unverified_header(tokens[name])
        assert header["alg"] == alg
        key = jwt.PyJWK(keys[header["kid"]])
        claims = jwt.decode(tokens[name], key, algorithms=[alg], audience=app.client_id, options={"verify_exp": False,
                            "verify_iat": False})  # fmt: skip
        assert claims["iss"] == world.settings.issuer
    assert world.is_active(app, tokens["access_token"])
