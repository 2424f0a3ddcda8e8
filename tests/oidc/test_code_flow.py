"""The authorization code flow: what an application gets, and what it says."""

import jwt
import pytest

from idhub.credentials.tables import SessionParticipant
from idhub.login.contexts import PASSWORD_PROTECTED
from tests.oidc.world import ISSUER, App, World, challenge_of, query_of


def test_a_signed_in_person_gets_a_code_with_state_and_issuer(world: World, office: App) -> None:
    """RFC 9207 section 2."""
    world.sign_in(world.employee(office))
    response = world.authorize(office)
    assert response.status_code == 303
    assert response.headers["location"].startswith("https://office.example/callback?")
    answer = query_of(response)
    assert answer["state"] == "st-1"
    assert answer["iss"] == ISSUER
    assert answer["code"].startswith("idh_ac_")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["referrer-policy"] == "no-referrer"


def test_a_code_buys_an_id_token_an_access_token_and_a_refresh_token(world: World, office: App) -> None:
    world.sign_in(world.employee(office))
    signed_in_at = world.clock()
    world.clock.advance(minutes=3)
    tokens = world.tokens(office, scope="openid profile email")
    assert tokens.body["token_type"] == "Bearer"
    assert tokens.body["expires_in"] == 300
    assert tokens["access_token"].startswith("idh_at_")
    assert tokens["refresh_token"].startswith("idh_rt_")
    assert tokens["scope"] == "openid profile email"
    keys = {key["kid"]: jwt.PyJWK(key) for key in world.http.get("/oauth2/jwks").json()["keys"]}
    header = jwt.get_unverified_header(tokens["id_token"])
    assert header["alg"] == "ES256"
    claims = jwt.decode(
        tokens["id_token"],
        keys[header["kid"]],
        algorithms=["ES256"],
        audience="office",
        issuer=ISSUER,
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims["nonce"] == "no-1"
    assert claims["auth_time"] == int(signed_in_at.timestamp())
    assert claims["amr"] == ["pwd"]
    assert claims["acr"] == PASSWORD_PROTECTED
    digest = challenge_of(tokens["access_token"])  # the same hash; its left half is at_hash
    assert claims["at_hash"][:20] == digest[:20]
    assert claims["sid"]
    assert "email" not in claims


def test_userinfo_releases_what_the_scope_allows(world: World, office: App) -> None:
    """OIDC Core section 5.4."""
    world.sign_in(world.employee(office))
    narrow = world.userinfo(world.tokens(office)["access_token"]).json()
    assert set(narrow) == {"sub"}
    wide = world.userinfo(world.tokens(office, scope="openid profile email phone organization")["access_token"]).json()
    assert wide["sub"] == narrow["sub"]
    assert wide["name"] == "王磊"
    assert wide["email"] == "qy000001@qiyue.example"
    assert wide["email_verified"] is False
    assert wide["phone_number"] == "+8613800138000"
    assert wide["organization"]["employee_number"] == "QY000001"
    assert wide["organization"]["title"] == "Engineer"
    assert wide["preferred_username"] == "QY000001"


def test_rs256_for_a_client_that_asks_for_it(world: World) -> None:
    app = world.app("old", id_token_alg="RS256")
    world.sign_in(world.employee(app))
    assert jwt.get_unverified_header(world.tokens(app)["id_token"])["alg"] == "RS256"


def test_self_contained_access_tokens_follow_rfc_9068(world: World) -> None:
    app = world.app("api", access_token_format="jwt", access_token_seconds=3600, audience="https://api.example")
    world.sign_in(world.employee(app))
    tokens = world.tokens(app)
    header = jwt.get_unverified_header(tokens["access_token"])
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    assert header["typ"] == "at+jwt"
    assert claims["aud"] == "https://api.example"
    assert claims["client_id"] == "api"
    assert claims["exp"] - claims["iat"] == 300, "a self-contained token lives at most five minutes"
    assert world.is_active(app, tokens["access_token"])
    assert world.userinfo(tokens["access_token"]).json()["sub"] == claims["sub"]
    with world.database.read() as session:
        residual = session.query(SessionParticipant.token_expires_at).scalar()
    assert residual is not None
    assert int(residual.timestamp()) == claims["exp"]


def test_introspection_says_what_the_database_says(world: World, office: App) -> None:
    world.sign_in(world.employee(office))
    tokens = world.tokens(office)
    answer = world.post("/oauth2/introspect", office, {"token": tokens["access_token"]}).json()
    assert answer["active"] is True
    assert answer["client_id"] == "office"
    assert answer["aud"] == "office"
    assert answer["iss"] == ISSUER
    assert answer["exp"] - answer["iat"] == 300
    world.clock.advance(minutes=5)
    assert world.post("/oauth2/introspect", office, {"token": tokens["access_token"]}).json() == {"active": False}
    assert world.userinfo(tokens["access_token"]).status_code == 401


@pytest.mark.parametrize("form", ["opaque", "jwt"])
def test_another_client_learns_nothing_about_a_token(world: World, form: str) -> None:
    """CORE-16.11; RFC 7662 section 4; and it ends none of them (RFC 7009 section 2.1)."""
    app = world.app(access_token_format=form)
    world.sign_in(world.employee(app))
    tokens = world.tokens(app)
    wiki = world.app("wiki")
    for name in ("access_token", "refresh_token"):
        assert world.post("/oauth2/introspect", wiki, {"token": tokens[name]}).json() == {"active": False}
        assert world.post("/oauth2/revoke", wiki, {"token": tokens[name]}).status_code == 400
        assert world.is_active(app, tokens[name])
    assert world.refresh(wiki, tokens["refresh_token"]).json()["error"] == "invalid_grant"
    assert world.userinfo(tokens["access_token"]).status_code == 200


@pytest.mark.parametrize("form", ["opaque", "jwt"])
def test_the_resource_that_a_token_is_for_may_ask_about_it(world: World, form: str) -> None:
    """RFC 7662 section 4: by its client_id, or by the audience that both have; a refresh token is for no resource."""
    parts = world.app("parts", audience="https://parts.example/api")
    for slug, audience in (("by-audience", "https://parts.example/api"), ("by-name", "parts")):
        app = world.app(slug, audience=audience, access_token_format=form)
        world.sign_in(world.employee(app))
        tokens = world.tokens(app)
        said = world.post("/oauth2/introspect", parts, {"token": tokens["access_token"]}).json()
        assert (said["active"], said["client_id"], said["aud"]) == (True, slug, audience)
        assert not world.is_active(parts, tokens["refresh_token"])


def test_pairwise_subjects_differ_and_public_ones_do_not(world: World, office: App) -> None:
    """OIDC Core section 8."""
    wiki, secret_app = world.app("wiki"), world.app("secret", sector="secret.example")
    person = world.employee(office)
    world.entitle(person, wiki)
    world.entitle(person, secret_app)
    world.sign_in(person)
    subs = [world.userinfo(world.tokens(app)["access_token"]).json()["sub"] for app in (office, wiki, secret_app)]
    assert subs[0] == subs[1] != subs[2]
    assert person not in subs


def test_client_credentials_for_a_service_identity(world: World) -> None:
    """RFC 6749 section 4.4."""
    service = world.service()
    app = world.app("robot", grant_types=["client_credentials"], scopes=["parts.read"], service_principal_id=service)
    first = world.token(app, grant_type="client_credentials")
    assert first.status_code == 200, first.text
    assert first.json()["scope"] == "parts.read"
    assert "refresh_token" not in first.json()
    assert "id_token" not in first.json()
    answer = world.post("/oauth2/introspect", app, {"token": first.json()["access_token"]}).json()
    assert answer["sub"] == service
    assert world.userinfo(first.json()["access_token"]).status_code == 403


def test_discovery_and_keys(world: World) -> None:
    for path in ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"):
        document = world.http.get(path).json()
        assert document["issuer"] == ISSUER
        assert document["code_challenge_methods_supported"] == ["S256"]
        assert document["response_types_supported"] == ["code"]
        assert document["authorization_response_iss_parameter_supported"] is True
        assert document["backchannel_logout_supported"] is True
    keys = world.http.get("/oauth2/jwks").json()["keys"]
    assert keys
    assert all("d" not in key and key["use"] == "sig" for key in keys)


def test_somebody_not_signed_in_goes_to_the_login_page_and_comes_back(world: World, office: App) -> None:
    from idhub.credentials import transactions

    person = world.employee(office)
    response = world.authorize(office)
    assert response.status_code == 303
    location = response.headers["location"]
    assert location.startswith("/login?transaction=idh_tx_")
    transaction_id = query_of(response)["transaction"]
    browser = world.http.cookies["idhub_browser"]
    session_id = world.sign_in(person)
    with world.database.transaction() as session:
        found = transactions.load(session, transaction_id, browser, now=world.clock())
        assert found is not None
        assert found.application_name == "Office"
        assert transactions.establish(session, transaction_id, browser, session_id=session_id, now=world.clock())
    back = world.http.get(transactions.resume_url(found), follow_redirects=False)
    assert back.headers["location"].startswith(office.redirect_uri)
    assert query_of(back)["state"] == "st-1"
    again = world.http.get(transactions.resume_url(found), follow_redirects=False)
    assert again.status_code == 400
    assert again.text == "shown: transaction_gone"


def test_single_sign_on_needs_no_second_password(world: World, office: App) -> None:
    wiki = world.app("wiki")
    person = world.employee(office)
    world.entitle(person, wiki)
    world.sign_in(person)
    assert world.tokens(office)["access_token"]
    assert world.tokens(wiki)["access_token"]
    assert world.count(SessionParticipant) == 2
    world.tokens(wiki)
    assert world.count(SessionParticipant) == 2


def test_issuing_and_spending_is_recorded(world: World, office: App) -> None:
    """Each effect by one event; what comes with another effect is in that one's details."""
    session_id = world.sign_in(person := world.employee(office))
    tokens = world.tokens(office)
    world.refresh(office, tokens["refresh_token"])
    (signed_in,), (issued,), (redeemed,) = map(world.events, ("login.succeeded", "code.issued", "token.issued"))
    assert [one["outcome"] for one in (signed_in, issued, redeemed)] == ["success"] * 3
    assert [one["person_id"] for one in (signed_in, issued, redeemed)] == [person] * 3
    assert signed_in["target"] == {"kind": "session", "id": session_id}
    assert issued["details"]["joined"] is True and issued["actor"]["session_id"] == session_id
    assert redeemed["details"]["grant_type"] == "authorization_code"
    assert redeemed["details"]["grant_id"] == issued["details"]["grant"]
    world.tokens(office)
    assert [one["details"]["joined"] for one in world.events("code.issued")] == [True, False]
    assert len(world.events("token.refreshed")) == 1
    world.userinfo(tokens["access_token"])
    world.userinfo(tokens["access_token"])
    world.flush()
    assert world.events("userinfo.read")[0]["details"]["count"] == 2


@pytest.mark.parametrize("method", ["client_secret_post", "client_secret_basic"])
def test_a_client_uses_the_method_it_is_registered_for(world: World, method: str) -> None:
    app = world.app("one", auth_method=method)
    assert app.secret is not None
    basic = world.token(app, grant_type="refresh_token", refresh_token="x")
    posted = world.post(
        "/oauth2/token",
        None,
        {"grant_type": "refresh_token", "refresh_token": "x", "client_id": "one", "client_secret": app.secret},
    )
    right, wrong = (posted, basic) if method == "client_secret_post" else (basic, posted)
    assert right.json()["error"] == "invalid_grant"
    assert wrong.status_code == 401
    assert wrong.json() == {"error": "invalid_client", "error_description": f"This client is registered for {method}."}
