"""The authorization endpoint: what it refuses, where it tells so, and where it sends a person."""

from typing import Any
from urllib.parse import quote

from sqlalchemy import update

from idhub.access.tables import OidcClient
from idhub.credentials import sessions, transactions
from idhub.credentials.tables import AuthorizationCode, Consent, LoginTransaction
from idhub.login.contexts import MULTIFACTOR, PASSWORD
from tests.oidc.world import ISSUER, App, World, query_of


def is_shown(response: Any, reason: str) -> bool:
    """An error page of the hub, and nothing is redirected."""
    return response.status_code == 400 and response.text == f"shown: {reason}" and "location" not in response.headers


def error_of(response: Any) -> tuple[str, str]:
    """Code and description that went back to the client, with state and issuer as RFC 9207 wants them."""
    assert response.status_code == 303, response.text
    assert response.headers["location"].startswith("https://office.example/callback?")
    answer = query_of(response)
    assert answer["iss"] == ISSUER
    assert "code" not in answer
    return answer["error"], answer["error_description"]


BAD_REDIRECTS = [
    "http://127.0.0.1.evil.test/cb",
    "http://127.0.0.1@evil.test/cb",
    "http://localhost:x@evil/",
    "http://127.0.0.1:9/cb/../evil",
    "http://127.0.0.1:99999/cb",
    "http://127.0.0.1:0/cb",
    "http://127.0.0.2/cb",
    "http://localhost/cb",
    "https://127.0.0.1/cb",
    "http://127.0.0.1/cb?next=evil",
    "http://127.0.0.1/cb#x",
    "http://127.0.0.1\\@evil.test/cb",
    "http://127.0.0.1/CB",
    " http://127.0.0.1/cb",
]


def test_loopback_is_matched_by_host_and_path_never_by_prefix(world: World) -> None:
    """A01, CVE-2024-8883; RFC 8252 section 7.3."""
    app = world.app("native", auth_method="none", is_native=True, redirect_uris=["http://127.0.0.1/cb"])
    world.sign_in(world.employee(app))
    for redirect_uri in BAD_REDIRECTS:
        assert is_shown(world.authorize(app, redirect_uri=redirect_uri), "invalid_redirect_uri"), redirect_uri


def test_an_installed_application_may_use_any_loopback_port(world: World) -> None:
    """RFC 8252 section 7.3."""
    app = world.app("native", auth_method="none", is_native=True, redirect_uris=["http://127.0.0.1/cb"])
    world.sign_in(world.employee(app))
    response = world.authorize(app, redirect_uri="http://127.0.0.1:49152/cb")
    assert response.headers["location"].startswith("/consent?transaction=")


def test_a_web_application_may_not_vary_the_port(world: World) -> None:
    app = world.app("web", redirect_uris=["http://127.0.0.1:9001/cb"])
    world.sign_in(world.employee(app))
    assert is_shown(world.authorize(app, redirect_uri="http://127.0.0.1:9002/cb"), "invalid_redirect_uri")


TRAVERSING_REDIRECTS = [
    "https://office.example/callback/..;/evil",
    "https://office.example/callback/%2e%2e/evil",
    "https://office.example/callback\\evil",
    "https://office.example./callback",
    "https://office.example/callback/",
    "https://office.example:443/callback",
    "https://OFFICE.example/callback",
    "https://office.example/callback?x=1",
    "https://office.example",
    "javascript:alert(1)",
    "http://[::1",
    "http://[::1]:x/",
    "//office.example/callback",
    "https://office.example/" + "a" * 30_000,
    "",
]


def test_redirect_uris_are_compared_exactly_whatever_the_response_mode(world: World, office: App) -> None:
    """A03, A06, A07; RFC 9700 section 2.1."""
    world.sign_in(world.employee(office))
    for response_mode in (None, "query", "fragment", "form_post", "form_post.jwt"):
        for redirect_uri in TRAVERSING_REDIRECTS:
            response = world.authorize(office, redirect_uri=redirect_uri, response_mode=response_mode)
            assert is_shown(response, "invalid_redirect_uri"), (redirect_uri, response_mode)
    assert is_shown(world.authorize(office, redirect_uri="https://x.example/" + "a" * 64_000), "request_malformed")
    assert world.count(AuthorizationCode) == 0
    world.flush()
    assert sorted(world.reasons("authorization.refused")) == [
        "shown.invalid_redirect_uri",
        "shown.request_malformed",
    ]


BAD_PARAMETERS: list[tuple[dict[str, str | None], str, str]] = [
    ({"response_type": None}, "invalid_request", "response_type is missing."),
    ({"response_type": "token"}, "unsupported_response_type", "response_type must be code."),
    ({"response_type": "code id_token"}, "unsupported_response_type", "response_type must be code."),
    ({"response_mode": "form_post"}, "invalid_request", "response_mode must be query."),
    ({"code_challenge": None}, "invalid_request", "code_challenge is missing: PKCE is required."),
    ({"code_challenge_method": None}, "invalid_request", "code_challenge_method must be S256."),
    ({"code_challenge_method": "plain"}, "invalid_request", "code_challenge_method must be S256."),
    ({"code_challenge": "a" * 42}, "invalid_request", "code_challenge must be 43 base64url characters."),
    ({"code_challenge": "a" * 42 + "="}, "invalid_request", "code_challenge must be 43 base64url characters."),
    ({"scope": None}, "invalid_scope", "scope names nothing that this client may ask for."),
    ({"scope": "unheard.of"}, "invalid_scope", "scope names nothing that this client may ask for."),
    ({"scope": 'openid "'}, "invalid_scope", "scope contains characters that are not allowed."),
    ({"prompt": "none login"}, "invalid_request", "prompt none cannot be combined."),
    ({"prompt": "maybe"}, "invalid_request", "prompt has an unknown value."),
    ({"max_age": "-1"}, "invalid_request", "max_age must be a number of seconds."),
    ({"max_age": "9" * 11}, "invalid_request", "max_age is too long."),
    ({"max_age": "1e3"}, "invalid_request", "max_age must be a number of seconds."),
    ({"request": "x.y.z"}, "request_not_supported", "request is not supported."),
    ({"request_uri": "urn:x"}, "request_uri_not_supported", "request_uri is not supported."),
    ({"registration": "{}"}, "registration_not_supported", "registration is not supported."),
    ({"claims": "{}"}, "invalid_request", "claims is not supported; use scope."),
    ({"nonce": "n" * 513}, "invalid_request", "nonce is too long."),
    ({"nonce": "a\x00b"}, "invalid_request", "nonce contains characters that are not allowed."),
    ({"login_hint": "x" * 255}, "invalid_request", "login_hint is too long."),
    ({"id_token_hint": "a.b.c"}, "invalid_request", "id_token_hint is not an ID token of this client."),
]


def test_a_bad_parameter_goes_back_to_the_client_by_name(world: World, office: App) -> None:
    world.sign_in(world.employee(office))
    for changes, error, description in BAD_PARAMETERS:
        assert error_of(world.authorize(office, **changes)) == (error, description), changes
    assert world.count(AuthorizationCode) == 0
    world.flush()
    counts = [event["details"]["count"] for event in world.events("authorization.refused")]
    assert sum(counts) == len(BAD_PARAMETERS), "each is recorded"


def test_a_parameter_given_twice_is_refused(world: World, office: App) -> None:
    """A28; RFC 6749 section 3.1."""
    world.sign_in(world.employee(office))
    values = {**world.request(office), "surprise": "1"}
    query = "&".join(f"{key}={quote(value)}" for key, value in values.items())
    for name in ("client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge", "surprise"):
        response = world.http.get(f"/oauth2/authorize?{query}&{name}={quote(values[name])}", follow_redirects=False)
        if name == "client_id":
            assert is_shown(response, "unknown_client")
        elif name == "redirect_uri":
            assert is_shown(response, "invalid_redirect_uri")
        else:
            assert error_of(response) == ("invalid_request", f"{name} is given more than once.")
    assert world.count(AuthorizationCode) == 0


def test_unreadable_values_are_never_a_server_error(world: World, office: App) -> None:
    """A07: invalid UTF-8, lone surrogates, NUL, line breaks, too much; of every parameter."""
    world.sign_in(world.employee(office))
    for name in ("client_id", "redirect_uri", "scope", "state", "nonce", "prompt", "x"):
        query = "&".join(f"{key}={quote(text)}" for key, text in world.request(office).items() if key != name)
        for value in ("%FF%FE", "%ED%A0%80", "a%00b", "%0d%0aX-Evil:1", "x" * 20_000):
            response = world.http.get(f"/oauth2/authorize?{query}&{name}={value}", follow_redirects=False)
            if name in {"client_id", "redirect_uri"}:
                assert response.status_code == 400, (name, value)
                assert "location" not in response.headers
            else:
                error, description = error_of(response)
                assert error == "invalid_request"
                assert description.startswith(name)
    assert world.count(AuthorizationCode) == 0


def test_state_that_cannot_be_read_does_not_come_back(world: World, office: App) -> None:
    response = world.http.get(
        "/oauth2/authorize",
        params={**world.request(office, state=None), "state": "a\x00b"},
        follow_redirects=False,
    )
    assert "state" not in query_of(response)


def test_an_unknown_or_disabled_client_is_shown_an_error(world: World, office: App) -> None:
    assert is_shown(world.authorize(office, client_id="nobody"), "unknown_client")
    assert is_shown(world.authorize(office, client_id=None), "unknown_client")
    with world.database.transaction() as session:
        session.execute(update(OidcClient).values(is_enabled=False))
    assert is_shown(world.authorize(office), "unknown_client")


def test_a_client_without_the_grant_of_codes_is_shown_an_error(world: World) -> None:
    """V10.4.4: what only acts for itself gets no person's code, however it came by an address."""
    app = world.app("robot", grant_types=["client_credentials"])
    world.sign_in(world.employee(app))
    for changes in ({}, {"prompt": "none"}, {"response_mode": "form_post"}):
        assert is_shown(world.authorize(app, **changes), "unknown_client")
    assert world.count(AuthorizationCode) == 0


def test_a_disabled_client_gets_no_code_although_its_registration_may_be_a_second_old(
    world: World, office: App
) -> None:
    world.sign_in(world.employee(office))
    assert "code" in query_of(world.authorize(office))
    with world.database.transaction() as session:
        session.execute(update(OidcClient).values(is_enabled=False))
    assert is_shown(world.authorize(office), "unknown_client")
    assert world.count(AuthorizationCode) == 1


def test_a_posted_request_is_answered_by_303(world: World, office: App) -> None:
    """A31; RFC 9700 section 4.12."""
    world.sign_in(world.employee(office))
    response = world.http.post("/oauth2/authorize", data=world.request(office), follow_redirects=False)
    assert response.status_code == 303
    assert "code" in query_of(response)
    both = world.http.post("/oauth2/authorize?x=1", data=world.request(office), follow_redirects=False)
    assert is_shown(both, "request_malformed")
    wrong = world.http.post("/oauth2/authorize", json=world.request(office), follow_redirects=False)
    assert is_shown(wrong, "request_malformed")
    huge = world.http.post("/oauth2/authorize", data={"x": "y" * 70_000}, follow_redirects=False)
    assert is_shown(huge, "request_malformed")


# ---------------------------------------------------------------- who, and when


def test_prompt_none_never_shows_a_page(world: World, office: App) -> None:
    assert error_of(world.authorize(office, prompt="none")) == ("login_required", "The person must sign in.")
    stranger = world.onboard()
    world.sign_in(stranger)
    assert error_of(world.authorize(office, prompt="none")) == (
        "access_denied",
        "The person may not use this application.",
    )


def test_a_person_without_entitlement_gets_a_page_that_helps(world: World, office: App) -> None:
    stranger = world.onboard()
    world.sign_in(stranger)
    response = world.authorize(office)
    assert response.headers["location"].startswith("/error?transaction=idh_tx_")
    with world.database.read() as session:
        found = transactions.load(
            session, query_of(response)["transaction"], world.http.cookies["idhub_browser"], now=world.clock()
        )
    assert found is not None
    assert found.refusal == "not_entitled"
    assert found.application_name == "Office"
    refused = world.events("authorization.refused")
    assert [(event["reason"], event["person_id"]) for event in refused] == [("access_denied.not_entitled", stranger)]


def test_an_id_token_hint_of_somebody_else_never_yields_the_current_persons_code(world: World, office: App) -> None:
    """A29; OIDC Core section 3.1.2.1."""
    first, second = world.employee(office), world.employee(office, "李娜")
    world.sign_in(first)
    hint = world.tokens(office)["id_token"]
    assert "code" in query_of(world.authorize(office, id_token_hint=hint, prompt="none"))
    world.sign_in(second)
    assert error_of(world.authorize(office, id_token_hint=hint, prompt="none"))[0] == "login_required"
    response = world.authorize(office, id_token_hint=hint)
    assert response.headers["location"].startswith("/login?transaction=")
    browser = world.http.cookies["idhub_browser"]
    transaction_id = query_of(response)["transaction"]
    session_id = world.sign_in(second)
    with world.database.transaction() as session:
        transactions.establish(session, transaction_id, browser, session_id=session_id, now=world.clock())
    back = world.http.get(f"/oauth2/authorize/resume?transaction={transaction_id}", follow_redirects=False)
    assert error_of(back)[0] == "login_required"


def test_an_id_token_of_another_client_is_no_hint(world: World, office: App) -> None:
    wiki = world.app("wiki")
    person = world.employee(office)
    world.entitle(person, wiki)
    world.sign_in(person)
    hint = world.tokens(wiki)["id_token"]
    assert error_of(world.authorize(office, id_token_hint=hint))[0] == "invalid_request"


def test_max_age_and_prompt_login_ask_for_the_password_again(world: World, office: App) -> None:
    """ASVS 7.6.1; OIDC Core section 3.1.2.1."""
    person = world.employee(office)
    world.sign_in(person)
    world.clock.advance(minutes=10)
    assert "code" in query_of(world.authorize(office, max_age="600"))
    assert world.authorize(office, max_age="599").headers["location"].startswith("/login?")
    response = world.authorize(office, prompt="login")
    assert response.headers["location"].startswith("/login?")
    resume = f"/oauth2/authorize/resume?transaction={query_of(response)['transaction']}"
    again = world.http.get(resume, follow_redirects=False)
    assert again.headers["location"].startswith("/login?"), "the old session does not count as a fresh sign-in"
    session_id = world.sign_in(person)
    with world.database.transaction() as session:
        transactions.establish(
            session,
            query_of(response)["transaction"],
            world.http.cookies["idhub_browser"],
            session_id=session_id,
            now=world.clock(),
        )
    assert "code" in query_of(world.http.get(resume, follow_redirects=False))


def test_acr_values_ask_once_for_a_better_sign_in(world: World, office: App) -> None:
    """OIDC Core section 3.1.2.1: a wish. What no sign-in gives asks nobody; what one gives is asked for once."""
    person = world.employee(office)
    world.sign_in(person, amr=["fed"])
    assert "code" in query_of(world.authorize(office, acr_values=f"urn:x {MULTIFACTOR}"))
    assert "code" in query_of(world.authorize(office, acr_values=PASSWORD, prompt="none")), "nobody may be asked"
    response = world.authorize(office, acr_values=f"urn:x {PASSWORD}")
    assert response.headers["location"].startswith("/login?")
    resume = f"/oauth2/authorize/resume?transaction={query_of(response)['transaction']}"
    session_id = world.sign_in(person, amr=["fed"])
    with world.database.transaction() as session:
        transactions.establish(
            session,
            query_of(response)["transaction"],
            world.http.cookies["idhub_browser"],
            session_id=session_id,
            now=world.clock(),
        )
    assert "code" in query_of(world.http.get(resume, follow_redirects=False)), "asked once, and it goes on"
    world.sign_in(person)
    assert "code" in query_of(world.authorize(office, acr_values=PASSWORD))


def test_a_public_client_asks_every_time(world: World) -> None:
    """A24, CVE-2023-34246."""
    app = world.app("spa", auth_method="none")
    world.sign_in(world.employee(app))
    for _ in range(2):
        response = world.authorize(app)
        assert response.headers["location"].startswith("/consent?transaction=")
        assert error_of(world.authorize(app, prompt="none"))[0] == "consent_required"
        resumed = answer(world, response, "allow")
        assert "code" in query_of(resumed)
    assert world.count(Consent) == 0


def answer(world: World, response: Any, word: Any, *, session_id: str | None = None) -> Any:
    """Answer the consent page as the person who is signed in, or of another session, and come back."""
    transaction_id = query_of(response)["transaction"]
    with world.database.transaction() as session:
        signed_in = sessions.authenticate(session, world.http.cookies["idhub_session"], now=world.clock())
        assert signed_in is not None
        assert transactions.answer_consent(
            session,
            transaction_id,
            world.http.cookies["idhub_browser"],
            answer=word,
            session_id=session_id or signed_in.session_id,
            now=world.clock(),
        )
    return world.http.get(f"/oauth2/authorize/resume?transaction={transaction_id}", follow_redirects=False)


def test_what_one_person_allowed_is_not_allowed_by_the_next_in_the_same_browser(world: World) -> None:
    app = world.app("partner", requires_consent=True)
    first = world.sign_in(world.employee(app))
    response = world.authorize(app)
    world.sign_in(world.employee(app))

    resumed = answer(world, response, "allow", session_id=first)

    assert resumed.headers["location"].startswith("/consent?transaction=")
    assert world.count(Consent) == 0
    assert world.count(AuthorizationCode) == 0


def test_consent_is_remembered_for_a_confidential_client_and_only_for_its_scope(world: World) -> None:
    app = world.app("partner", requires_consent=True)
    world.sign_in(world.employee(app))
    assert "code" in query_of(answer(world, world.authorize(app), "allow"))
    assert "code" in query_of(world.authorize(app))
    assert world.authorize(app, scope="openid email").headers["location"].startswith("/consent?")


def test_a_denial_goes_back_as_access_denied(world: World) -> None:
    app = world.app("partner", requires_consent=True)
    world.sign_in(world.employee(app))
    denied = answer(world, world.authorize(app), "deny")
    assert error_of(denied) == ("access_denied", "The person did not allow it.")
    assert world.count(AuthorizationCode) == 0


def test_a_transaction_belongs_to_one_browser_and_one_answer(world: World, office: App) -> None:
    """T01 and T03 for sign-ins: neither a stolen nor a used address does anything."""
    person = world.employee(office)
    response = world.authorize(office)
    resume = f"/oauth2/authorize/resume?transaction={query_of(response)['transaction']}"
    world.sign_in(person)
    browser = world.http.cookies["idhub_browser"]
    world.http.cookies.delete("idhub_browser")
    assert is_shown(world.http.get(resume, follow_redirects=False), "transaction_gone")
    world.http.cookies.set("idhub_browser", "x" * 43)
    assert is_shown(world.http.get(resume, follow_redirects=False), "transaction_gone")
    world.http.cookies.delete("idhub_browser")
    world.http.cookies.set("idhub_browser", browser)
    assert "code" in query_of(world.http.get(resume, follow_redirects=False))
    assert is_shown(world.http.get(resume, follow_redirects=False), "transaction_gone")
    for broken in ("", "idh_tx_x", "%00", "x" * 5_000):
        gone = world.http.get(f"/oauth2/authorize/resume?transaction={broken}", follow_redirects=False)
        assert is_shown(gone, "transaction_gone")


def test_a_transaction_expires(world: World, office: App) -> None:
    person = world.employee(office)
    response = world.authorize(office)
    world.clock.advance(minutes=30)
    world.sign_in(person)
    resume = f"/oauth2/authorize/resume?transaction={query_of(response)['transaction']}"
    assert is_shown(world.http.get(resume, follow_redirects=False), "transaction_gone")


def test_a_resumed_request_is_checked_again(world: World, office: App) -> None:
    person = world.employee(office)
    response = world.authorize(office)
    world.sign_in(person)
    with world.database.transaction() as session:
        session.execute(update(OidcClient).values(redirect_uris=["https://elsewhere.example/cb"]))
    resume = f"/oauth2/authorize/resume?transaction={query_of(response)['transaction']}"
    assert is_shown(world.http.get(resume, follow_redirects=False), "invalid_redirect_uri")
    assert world.count(AuthorizationCode) == 0


def test_junk_requests_leave_no_rows_but_one_count(world: World, office: App) -> None:
    """Anonymous refusals are aggregated, so that junk cannot fill the disk."""
    for _ in range(20):
        world.authorize(office, client_id="nobody")
        world.authorize(office, response_type="token")
    world.flush()
    events = world.events("authorization.refused")
    assert sorted((event["reason"], event["details"]["count"]) for event in events) == [
        ("shown.unknown_client", 20),
        ("unsupported_response_type", 20),
    ]
    assert world.count(LoginTransaction) == 0
