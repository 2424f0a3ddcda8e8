"""RP-initiated logout: what may be asked, what happens, where it leads."""

from typing import Any

from sqlalchemy import select, update

from idhub.access.tables import OidcClient
from idhub.credentials import sessions, transactions
from idhub.delivery.tables import Delivery
from tests.oidc.world import AFTER_LOGOUT, App, World, query_of


def logout(world: World, **parameters: str) -> Any:
    return world.http.get("/oauth2/logout", params=parameters, follow_redirects=False)


def confirm(world: World, response: Any, session_id: str) -> Any:
    """What the confirmation page does, and the way back."""
    transaction_id = query_of(response)["transaction"]
    with world.database.transaction() as session:
        sessions.end_session(session, session_id, reason="logout", now=world.clock())
        found = transactions.load(session, transaction_id, world.http.cookies["idhub_browser"], now=world.clock())
    assert found is not None
    return world.http.get(transactions.resume_url(found), follow_redirects=False)


def test_logout_is_confirmed_ends_everything_and_returns(world: World, office: App) -> None:
    wiki = world.app("wiki")
    person = world.employee(office)
    world.entitle(person, wiki)
    session_id = world.sign_in(person)
    tokens, others = world.tokens(office), world.tokens(wiki)
    response = logout(world, id_token_hint=tokens["id_token"], post_logout_redirect_uri=AFTER_LOGOUT, state="s 1")
    assert response.headers["location"].startswith("/logout?transaction=")
    assert world.is_active(office, tokens["access_token"]), "nobody is signed out by a link (ASVS 10.6.2)"
    back = confirm(world, response, session_id)
    assert back.headers["location"] == f"{AFTER_LOGOUT}?state=s+1"
    for app, issued in ((office, tokens), (wiki, others)):
        assert not world.is_active(app, issued["access_token"])
        assert world.refresh(app, issued["refresh_token"]).json()["error"] == "invalid_grant"
    assert world.authorize(office).headers["location"].startswith("/login?")
    with world.database.read() as session:
        planned = session.execute(select(Delivery.channel, Delivery.operation, Delivery.payload, Delivery.lane)).all()
    assert sorted(row.payload["client_id"] for row in planned) == ["office", "wiki"]
    assert {(row.channel, row.operation) for row in planned} == {("backchannel_logout", "logout")}
    assert all(row.payload["sid"] and row.payload["sub"] for row in planned)
    assert all(row.lane.startswith("participant:par_") for row in planned)
    assert len(world.events("session.ended")) == 1
    assert len(world.events("logout.requested")) == 1


UNREGISTERED = [
    "https://office.example/bye?x=1",
    "https://office.example/bye/",
    "https://evil.example/bye",
    "https://wiki.example/bye",
    "https://office.example/callback",
    "javascript:alert(1)",
    "http://[::1",
    "//evil",
]


def test_only_a_registered_address_is_returned_to(world: World, office: App) -> None:
    """A32, keycloak#51712."""
    world.app("wiki", post_logout_redirect_uris=["https://wiki.example/bye"])
    world.sign_in(world.employee(office))
    hint = world.tokens(office)["id_token"]
    for uri in UNREGISTERED:
        for parameters in ({"id_token_hint": hint}, {"client_id": "office"}):
            response = logout(world, post_logout_redirect_uri=uri, **parameters)
            assert (response.status_code, response.text) == (400, "shown: invalid_logout_request"), uri
    assert world.authorize(office, prompt="none").headers["location"].startswith(office.redirect_uri)


def test_an_address_without_a_client_is_refused(world: World, office: App) -> None:
    assert logout(world, post_logout_redirect_uri=AFTER_LOGOUT).text == "shown: invalid_logout_request"
    assert logout(world, client_id="nobody").text == "shown: invalid_logout_request"
    assert logout(world, client_id="office", state="\x00").text == "shown: invalid_logout_request"


def test_hint_and_client_must_agree(world: World, office: App) -> None:
    world.app("wiki")
    world.sign_in(world.employee(office))
    hint = world.tokens(office)["id_token"]
    assert logout(world, id_token_hint=hint, client_id="wiki").text == "shown: invalid_logout_request"
    assert logout(world, id_token_hint=hint, client_id="office").status_code == 303


def test_an_expired_hint_is_still_a_hint(world: World, office: App) -> None:
    """RP-Initiated Logout 1.0 section 2."""
    world.sign_in(world.employee(office))
    hint = world.tokens(office)["id_token"]
    world.clock.advance(hours=2)
    assert logout(world, id_token_hint=hint).headers["location"].startswith("/logout?transaction=")


def test_whoever_is_not_signed_in_has_nothing_to_confirm(world: World, office: App) -> None:
    back = logout(world, client_id="office", post_logout_redirect_uri=AFTER_LOGOUT)
    assert back.headers["location"] == AFTER_LOGOUT
    assert logout(world).headers["location"] == "/logout"


def test_an_address_that_was_taken_away_meanwhile_is_not_returned_to(world: World, office: App) -> None:
    """A32: checked when the logout is asked for, and once more on the way back."""
    session_id = world.sign_in(world.employee(office))
    response = logout(world, client_id="office", post_logout_redirect_uri=AFTER_LOGOUT)
    with world.database.transaction() as session:
        session.execute(update(OidcClient).values(post_logout_redirect_uris=["https://office.example/other"]))
    back = confirm(world, response, session_id)
    assert (back.status_code, back.text) == (400, "shown: invalid_logout_request")


def test_whoever_stays_is_not_sent_to_the_application(world: World, office: App) -> None:
    world.sign_in(world.employee(office))
    response = logout(world, client_id="office", post_logout_redirect_uri=AFTER_LOGOUT)
    resume = f"/oauth2/logout/resume?transaction={query_of(response)['transaction']}"
    assert world.http.get(resume, follow_redirects=False).headers["location"] == "/"


def test_a_sign_in_is_not_resumed_as_a_logout_nor_the_reverse(world: World, office: App) -> None:
    world.sign_in(world.employee(office))
    logging_out = query_of(logout(world, client_id="office"))["transaction"]
    signing_in = query_of(world.authorize(office, prompt="login"))["transaction"]
    for path in (
        f"/oauth2/authorize/resume?transaction={logging_out}",
        f"/oauth2/logout/resume?transaction={signing_in}",
    ):
        assert world.http.get(path, follow_redirects=False).text == "shown: transaction_gone"


def test_a_posted_logout_is_answered_by_303(world: World, office: App) -> None:
    world.sign_in(world.employee(office))
    response = world.http.post("/oauth2/logout", data={"client_id": "office"}, follow_redirects=False)
    assert response.status_code == 303


def test_a_form_of_another_site_is_asked_again_with_the_cookies(world: World, office: App) -> None:
    """It brings none (SameSite): somebody who is signed in must not be told at the application that they are not."""
    person = world.employee(office)
    world.sign_in(person)
    hint = world.tokens(office)["id_token"]
    kept = dict(world.http.cookies)
    world.http.cookies.clear()
    fields = {"id_token_hint": hint, "post_logout_redirect_uri": AFTER_LOGOUT, "state": "s 1"}
    response = world.http.post("/oauth2/logout", data=fields, follow_redirects=False)
    assert (response.status_code, "set-cookie" in response.headers) == (303, False)
    again = response.headers["location"]
    assert again.startswith("/oauth2/logout?")
    assert hint not in again
    world.http.cookies.update(kept)
    assert world.http.get(again, follow_redirects=False).headers["location"].startswith("/logout?transaction=")
    world.http.cookies.clear()
    assert world.http.get(again, follow_redirects=False).headers["location"] == f"{AFTER_LOGOUT}?state=s+1"
    wrong = world.http.post("/oauth2/logout", data={**fields, "post_logout_redirect_uri": "https://evil.example/"})
    assert wrong.text == "shown: invalid_logout_request"
