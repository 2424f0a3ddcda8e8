"""Entering an application without a session: the page comes at once, and the code in the transaction of the sign-in."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from sqlalchemy import func, insert, select, update
from starlette.testclient import TestClient

from audit.tables import audit_events
from idhub import admission
from idhub.access.tables import Application, Entitlement, OidcClient
from idhub.app import HubApp
from idhub.credentials import opaque, transactions
from idhub.credentials.tables import AuthorizationCode, LoginTransaction, SsoSession
from idhub.db import new_id
from idhub.directory.organizations import root_organization
from idhub.login import providers
from idhub.oidc import clients
from idhub.pages import safe_local_path
from idhub.pages.direct import DirectPage
from tests.flows.every_door import CALLBACK, NUMBER, PASSWORD, Stage, hidden_fields, submit
from tests.security.hall import open_stage
from tests.support.databases import DatabaseKind, Databases

OPEN, ASKING, CLOSED, ENDING = "jwt-app", "asking-app", "closed-app", "ending-app"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stage(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """A furnished hub with three more applications: one asks for consent, one is not the person's, one will end."""
    kind: DatabaseKind = request.param
    with open_stage(kind, databases, tmp_path_factory.mktemp("entrance")) as made:
        made.furnish()
        for slug in (ASKING, CLOSED, ENDING):
            _add_application(made, slug)
        yield made


def _add_application(stage: Stage, slug: str) -> None:
    now, application_id = stage.clock(), new_id("app")
    with stage.hub.database.transaction() as session:
        session.execute(
            insert(Application).values(
                id=application_id, slug=slug, name=slug, organization_id=root_organization(session),
                criticality="normal", revocation_deadline_seconds=3600, is_enabled=True, created_at=now, changed_at=now,
            )
        )  # fmt: skip
        session.execute(
            insert(OidcClient).values(
                client_id=slug, application_id=application_id, auth_method="client_secret_basic",
                redirect_uris=[CALLBACK.format(slug=slug)], post_logout_redirect_uris=[],
                scopes=["openid", "offline_access"], grant_types=["authorization_code"], access_token_format="opaque",
                id_token_alg="ES256", requires_consent=slug == ASKING, is_enabled=True, created_at=now, changed_at=now,
            )
        )  # fmt: skip
        if slug != CLOSED:
            session.execute(
                insert(Entitlement).values(
                    id=new_id("ent"), principal_id=stage.person, application_id=application_id, role="member",
                    reason_kind="direct", reason_ref="test", valid_from=now, recorded_at=now,
                )
            )  # fmt: skip


def _count(stage: Stage, what: Any, *conditions: Any) -> int:
    with stage.hub.database.read() as session:
        return session.execute(select(func.count()).select_from(what).where(*conditions)).scalar_one()


def _sign_in(browser: TestClient, page: Any, password: str = PASSWORD) -> Any:
    return submit(browser, page, "/login", username=NUMBER, password=password)


def _query(location: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


def test_a_first_visit_gets_the_page_and_its_form_leads_straight_to_the_application(stage: Stage) -> None:
    browser = stage.browser()
    page = stage.authorize(browser, OPEN)
    assert page.status_code == 200 and 'name="password"' in page.text
    assert page.headers["cache-control"] == "no-store"
    assert f"form-action 'self' https://{OPEN}.example" in page.headers["content-security-policy"]
    assert browser.cookies["idhub_browser"]
    events = _count(stage, audit_events)
    answer = _sign_in(browser, page)
    assert answer.status_code == 303
    location = answer.headers["location"]
    assert location.startswith(CALLBACK.format(slug=OPEN) + "?")
    answered = _query(location)
    assert (answered["state"], answered["iss"]) == ("s", stage.hub.settings.issuer)
    tokens = stage.redeem(OPEN, answered["code"]).json()
    assert tokens["id_token"] and tokens["access_token"]
    assert stage.code(browser, OPEN), "the browser is signed in"
    with stage.hub.database.read() as session:
        kinds = session.execute(select(audit_events.c.type).order_by(audit_events.c.id)).scalars().all()
    assert kinds[events:][:3] == ["login.succeeded", "code.issued", "token.issued"]


def test_the_page_is_the_same_at_its_own_address(stage: Stage) -> None:
    """Reloading, or another language, goes on with the same sign-in."""
    browser = stage.browser()
    page = stage.authorize(browser, OPEN)
    transaction = hidden_fields(page)["transaction"]
    again = browser.get("/login", params={"transaction": transaction})
    assert hidden_fields(again)["transaction"] == transaction
    assert f"/login?transaction={transaction}" in page.text
    assert "code" in _query(_sign_in(browser, again).headers["location"])


def test_a_sign_in_answers_its_application_once(stage: Stage) -> None:
    browser = stage.browser()
    page = stage.authorize(browser, OPEN)
    fields = hidden_fields(page)
    assert "code" in _query(_sign_in(browser, page).headers["location"])
    resumed = browser.get("/oauth2/authorize/resume", params={"transaction": fields["transaction"]})
    assert resumed.status_code == 400 and "location" not in resumed.headers
    codes = _count(stage, AuthorizationCode)
    # The same form once more, from the same browser before it had a session.
    before = stage.browser()
    before.cookies.set("idhub_browser", browser.cookies["idhub_browser"])
    assert _sign_in(before, page).headers["location"] == "/"
    assert _count(stage, AuthorizationCode) == codes


def test_a_form_in_another_browser_answers_nothing(stage: Stage) -> None:
    """The transaction is its browser's: a link that somebody sent signs nobody in to an application."""
    page = stage.authorize(stage.browser(), OPEN)
    other = stage.browser()
    own = stage.authorize(other, OPEN)
    fields = {**hidden_fields(own), "transaction": hidden_fields(page)["transaction"]}
    answer = other.post("/login", data={**fields, "username": NUMBER, "password": PASSWORD})
    assert answer.headers["location"] == "/"


def test_a_wrong_password_shows_the_page_again_and_the_right_one_goes_on(stage: Stage) -> None:
    browser = stage.browser()
    codes = _count(stage, AuthorizationCode)
    again = _sign_in(browser, stage.authorize(browser, OPEN), "not the password at all")
    assert again.status_code == 403 and "idhub_session" not in browser.cookies
    assert _count(stage, AuthorizationCode) == codes
    assert "code" in _query(_sign_in(browser, again).headers["location"])


@pytest.mark.parametrize("slug", [ASKING, CLOSED])
def test_what_is_missing_is_said_when_the_request_resumes(stage: Stage, slug: str) -> None:
    """Consent, or the right to enter: the session begins, no code is issued."""
    browser = stage.browser()
    page = stage.authorize(browser, slug)
    transaction, codes = hidden_fields(page)["transaction"], _count(stage, AuthorizationCode)
    answer = _sign_in(browser, page)
    assert answer.headers["location"] == f"/oauth2/authorize/resume?transaction={transaction}"
    assert "idhub_session" in browser.cookies
    assert _count(stage, AuthorizationCode) == codes
    resumed = browser.get(answer.headers["location"])
    expected = {ASKING: "/consent", CLOSED: "/error"}[slug]
    assert resumed.headers["location"] == f"{expected}?transaction={transaction}"


def test_a_client_that_was_disabled_meanwhile_gets_no_code(stage: Stage) -> None:
    """Whatever of its registration is remembered: whether it may have a code is asked of the database."""
    browser = stage.browser()
    page = stage.authorize(browser, ENDING)
    with stage.hub.database.transaction() as session:
        session.execute(update(OidcClient).where(OidcClient.client_id == ENDING).values(is_enabled=False))
    answer = _sign_in(browser, page)
    assert answer.headers["location"].startswith("/oauth2/authorize/resume?")
    assert browser.get(answer.headers["location"]).status_code == 400


def test_somebody_with_a_session_is_sent_to_the_page(stage: Stage) -> None:
    """Their session is looked at there, and ended when another person signs in."""
    browser = stage.browser()
    assert stage.sign_in(browser, NUMBER)
    address = stage.authorize(stage.browser(), OPEN).request.url
    sent = browser.get(f"{address}&prompt=login")
    assert sent.status_code == 303 and sent.headers["location"].startswith("/login?transaction=")
    sessions = _count(stage, SsoSession, SsoSession.ended_at.is_(None))
    answer = _sign_in(browser, browser.get(sent.headers["location"]))
    assert answer.headers["location"].startswith("/oauth2/authorize/resume?")
    assert "code" in _query(browser.get(answer.headers["location"]).headers["location"])
    assert _count(stage, SsoSession, SsoSession.ended_at.is_(None)) == sessions


def test_whoever_only_looks_at_the_page_leaves_nothing_behind(stage: Stage) -> None:
    """The page holds the request. What is left of an answered one is that it was answered."""
    begun, browser = _count(stage, LoginTransaction), stage.browser()
    page = stage.authorize(browser, OPEN)
    transaction = hidden_fields(page)["transaction"]
    assert transactions.is_sealed(transaction) and "jwt-app" not in transaction
    assert browser.get("/login", params={"transaction": transaction}).status_code == 200
    assert _sign_in(browser, page, "not the password at all").status_code == 403
    assert _count(stage, LoginTransaction) == begun
    assert "code" in _query(_sign_in(browser, page).headers["location"])
    with stage.hub.database.read() as session:
        left = session.execute(
            select(LoginTransaction.request, LoginTransaction.completed_at).where(
                LoginTransaction.id_hash == opaque.hash_of(transaction)
            )
        ).one()
    assert left.request == {} and left.completed_at is not None
    assert browser.get("/login", params={"transaction": transaction}).status_code == 400, "it is over"


def test_a_first_visit_asks_the_database_nothing_that_was_asked_a_moment_ago(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registration and the providers on the page are configuration, and may be a second old."""
    for module in (clients, providers):
        monkeypatch.setattr(module, "_CACHE_SECONDS", 60.0)
    assert stage.authorize(stage.browser(), OPEN).status_code == 200

    def fail(_operation: Any) -> Any:
        raise AssertionError("the database is asked")

    store = stage.app.state.services.store
    monkeypatch.setattr(store, "read", fail)
    monkeypatch.setattr(store, "write", fail)
    assert 'name="password"' in stage.authorize(stage.browser(), OPEN).text


def test_a_request_too_long_for_an_address_is_kept_here(stage: Stage) -> None:
    browser, begun = stage.browser(), _count(stage, LoginTransaction)
    address = f"{stage.authorize(stage.browser(), OPEN).request.url}".replace("state=s", f"state={'s' * 2_000}")
    sent = browser.get(address)
    assert sent.status_code == 303 and len(sent.headers["location"]) < 100
    assert _count(stage, LoginTransaction) == begun + 1
    answer = _sign_in(browser, browser.get(sent.headers["location"]))
    assert _query(answer.headers["location"])["state"] == "s" * 2_000


def test_the_longest_that_a_page_holds_still_fits_into_its_address(stage: Stage) -> None:
    """Who chooses another language comes back to the page by it."""

    def sealed(length: int) -> str | None:
        return transactions.sealed(
            stage.hub.keyring, protocol="oidc", browser_token="t" * 43, request={"state": "s" * length}, client_id="c",
            application_id="a", now=stage.clock(),
        )  # fmt: skip

    longest = next(found for length in range(2_000, 0, -1) if (found := sealed(length)))
    assert transactions.is_sealed(longest)
    path = f"/login?transaction={longest}"
    assert safe_local_path(path) == path


@pytest.mark.parametrize("change", ["flipped", "padded", "cut", "spelled otherwise", "late"])
def test_what_a_page_holds_is_taken_as_it_was_given_and_in_time(stage: Stage, change: str) -> None:
    browser = stage.browser()
    page = stage.authorize(browser, OPEN)
    given = hidden_fields(page)["transaction"]
    # The last character of a text of this length has bits that say nothing.
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = letters[letters.index(given[-1]) ^ 1]
    changed = {
        "flipped": given[:40] + ("A" if given[40] != "A" else "B") + given[41:],
        "padded": given + "=",
        "cut": given[:-4],
        "spelled otherwise": given[:-1] + other,
        "late": given,
    }[change]
    codes = _count(stage, AuthorizationCode)
    if change == "late":
        stage.clock.advance(stage.hub.settings.login_transaction_lifetime)
    fields = {**hidden_fields(page), "transaction": changed, "username": NUMBER, "password": PASSWORD}
    assert browser.get("/login", params={"transaction": changed}).status_code == 400
    assert browser.post("/login", data=fields).headers["location"] == "/"
    assert _count(stage, AuthorizationCode) == codes


def test_a_form_of_another_site_is_sent_to_the_page(stage: Stage) -> None:
    """It comes without this site's cookies (SameSite): whether somebody is signed in shows only at the next address."""
    browser = stage.browser()
    address = stage.authorize(stage.browser(), OPEN).request.url
    begun = _count(stage, LoginTransaction)
    posted = browser.post("/oauth2/authorize", data=_query(str(address)))
    assert posted.status_code == 303 and posted.headers["location"].startswith("/login?transaction=")
    assert _count(stage, LoginTransaction) == begun + 1


# ---------------------------------------------------------------------- the embedded server's short way


def test_sign_ins_wait_for_each_other_and_nobody_else_waits_for_them(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many begin at once: few are worked on at a time, and whoever is signed in, or no person, passes them."""
    signed_in, new = stage.browser(), stage.browser()
    assert _sign_in(signed_in, stage.authorize(signed_in, OPEN)).status_code == 303
    token = stage.redeem(OPEN, stage.code(signed_in, OPEN)).json()["access_token"]
    lane = stage.app.state.services.admission.sign_ins
    monkeypatch.setattr(admission, "_PATIENCE", 0.01)
    taken = sum(1 for _ in iter(lane.take_now, False))
    try:
        for answer in (stage.authorize(new, OPEN), new.get("/login"), new.post("/login", data={"username": "a"})):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "code" in _query(stage.authorize(signed_in, OPEN).headers["location"])
        assert stage.machine.get("/.well-known/openid-configuration").status_code == 200
        assert stage.is_active(OPEN, token)
    finally:
        for _ in range(taken):
            lane.give()
    assert taken > 0
    assert stage.authorize(new, OPEN).status_code == 200


@pytest.mark.parametrize("path", ["/login", "/oauth2/authorize"])
def test_whoever_sends_slowly_keeps_nobody_from_signing_in(stage: Stage, path: str) -> None:
    """B04: a form that never arrives whole, more often than sign-ins are worked on at once."""
    lane = stage.app.state.services.admission.sign_ins
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "headers": [
            (b"host", b"127.0.0.1:8000"), (b"content-type", b"application/x-www-form-urlencoded"),
            (b"content-length", b"99"),
        ],
    }  # fmt: skip

    async def begun() -> list[bool]:
        waiting = asyncio.Semaphore(0)

        async def receive() -> Any:
            waiting.release()
            await asyncio.Event().wait()

        async def send(_: Any) -> None:
            """Nobody listens."""

        senders = [asyncio.create_task(stage.app(dict(scope), receive, send)) for _ in range(20)]
        for _ in senders:
            await waiting.acquire()
        free = lane.take_now()
        if free:
            lane.give()
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        return [free, lane.take_now()]

    assert asyncio.run(asyncio.wait_for(begun(), 60)) == [True, True]
    lane.give()


_FORM = "application/x-www-form-urlencoded"
_QUERY = urlencode(
    {
        "response_type": "code", "client_id": OPEN, "redirect_uri": CALLBACK.format(slug=OPEN), "scope": "openid",
        "code_challenge": "c" * 43, "code_challenge_method": "S256",
    }
)  # fmt: skip
WAYS: list[tuple[str, str, str, str, str]] = [
    ("GET", "/login", "", "", ""),
    ("GET", "/login", "transaction=nonsense", "", ""),
    ("POST", "/login", "", "username=a&password=b&csrf_token=x", _FORM),
    ("POST", "/login", "", "username=a&password=b&csrf_token=x&username=c", _FORM),
    ("POST", "/login", "", "username=a", "text/plain"),
    ("POST", "/login", "", "x" * 70_000, _FORM),
    ("GET", "/oauth2/authorize", _QUERY, "", ""),
    ("GET", "/oauth2/authorize", "", "", ""),
    ("GET", "/oauth2/authorize", _QUERY.replace("S256", "plain"), "", ""),
    ("POST", "/oauth2/authorize", "", _QUERY, _FORM),
    ("POST", "/oauth2/authorize", _QUERY, _QUERY, _FORM),
    ("POST", "/oauth2/authorize", "", "x" * 70_000, _FORM),
    ("GET", "/oauth2/authorize/resume", "transaction=nonsense", "", ""),
]
_VARYING = re.compile(rb"(idh_s?tx_|transaction=|idhub_browser=|req_|csrf_token\" value=\")[A-Za-z0-9_.~-]*")


def _comparable(raw: bytes) -> tuple[bytes, set[bytes], bytes]:
    head, _, body = _VARYING.sub(rb"\1", raw).partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    # The reason is the library's word.
    return status[:12], set(headers), body


@pytest.mark.parametrize(("method", "path", "query", "body", "media_type"), WAYS)
def test_both_ways_give_the_same_answer(
    stage: Stage, method: str, path: str, query: str, body: str, media_type: str
) -> None:
    assert isinstance(stage.app, HubApp) and stage.machine.portal is not None
    page = stage.app.direct[path.encode()]
    assert isinstance(page, DirectPage)
    headers = [(b"host", b"idhub"), (b"accept", b"text/html")]
    headers += [(b"content-type", media_type.encode())] if media_type else []
    peer = ("testclient", 50_000)
    short = stage.machine.portal.call(page.answer, method, headers, body.encode(), peer, b"", query.encode())
    answer = stage.browser().request(
        method, f"{path}?{query}" if query else path, content=body,
        headers={"host": "idhub", "accept": "text/html", **({"content-type": media_type} if media_type else {})},
    )  # fmt: skip
    lines = [b"%b: %b" % (name, value) for name, value in answer.headers.raw]
    long = b"HTTP/1.1 %d %b\r\n" % (answer.status_code, answer.reason_phrase.encode())
    assert _comparable(short) == _comparable(long + b"\r\n".join(lines) + b"\r\n\r\n" + answer.content)


def test_what_fails_on_the_short_way_is_translated(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(stage.app, HubApp) and stage.machine.portal is not None
    page = stage.app.direct[b"/login"]
    assert isinstance(page, DirectPage)

    async def fail(_request: Any) -> Any:
        raise RuntimeError("a defect")

    monkeypatch.setattr(page, "_handlers", {"GET": fail})
    raw: bytes = stage.machine.portal.call(page.answer, "GET", [], b"", None, b"", b"")
    assert raw.startswith(b"HTTP/1.1 500 ") and b"a defect" not in raw
    assert b"x-request-id: req_" in raw and b"content-security-policy: " in raw
