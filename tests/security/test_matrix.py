"""Each kind of credential at every verifier but its own (RFC 8725 sections 3.11 and 3.12, J16; RFC 9700).

Generated from the registries: prefixes of opaque values, purposes of keys, `typ` of what is signed, routes. A new kind
or a new verifier without a row fails.
"""

import base64
import html
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, get_args
from urllib.parse import parse_qs, parse_qsl, urlsplit

import jwt
import pytest
from sqlalchemy import delete, select
from starlette.testclient import TestClient

from audit.checkpoint import Checkpoint, Ed25519Signer, load_keys, sign_checkpoint, verify_note
from audit.errors import AuditError
from idhub.credentials import opaque
from idhub.credentials.tables import AuthorizationCode, Grant, Invitation, RefreshToken, SsoSession, Throttle
from idhub.demo.logout_token import EVENT, LogoutTokenError, check_logout_claims
from idhub.keys import PURPOSES
from idhub.lifecycle.receipt_document import TYP as RECEIPT_TYP
from idhub.lifecycle.receipt_document import Unreadable, verify, wrap
from idhub.oidc.claims import ACCESS_TOKEN_TYP, ID_TOKEN_TYP
from tests.flows import every_door
from tests.flows.every_door import (
    CALLBACK,
    CAS_SERVICE,
    NUMBER,
    PASSWORD,
    VERIFIER,
    WSFED_REALM,
    Stage,
    hidden_fields,
    submit,
)
from tests.oidc.world import query_of
from tests.saml import upstream
from tests.saml.partner import read_answer
from tests.security.hall import Hall
from tests.support.routes import methods_of

SLUG = "opaque-app"
Cell = Callable[[Stage, str], bool]
_ADDRESSES = itertools.count()


class Kinds:
    """One living value of every kind, all of one person."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.browser = stage.browser()
        assert stage.sign_in(self.browser, NUMBER)
        page = self.browser.get("/account/security")
        csrf = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
        assert csrf
        self.csrf = html.unescape(csrf[1])
        opaque_tokens = stage.redeem(SLUG, stage.code(self.browser, SLUG)).json()
        jwt_tokens = stage.redeem("jwt-app", stage.code(self.browser, "jwt-app")).json()
        # Of their own: what an identity provider was asked, and what it has answered.
        self.asking, response = every_door._asked_upstream(stage)
        self.answered, answered = every_door._asked_upstream(stage)
        kept = parse_qs(urlsplit(upstream.deliver(self.answered, answered).headers["location"]).query)
        self.given = kept["given"][0]
        self.pending = stage.browser()
        shown = stage.authorize(self.pending, SLUG)
        posted = self.pending.post("/oauth2/authorize", data=dict(parse_qsl(shown.request.url.query.decode())))
        now = int(stage.clock().timestamp())
        keyring, issuer = stage.hub.keyring, stage.hub.settings.issuer
        logout = {
            "iss": issuer, "aud": SLUG, "sub": "sub", "sid": "sid", "iat": now, "exp": now + 120, "jti": "one",
            "events": {EVENT: {}},
        }  # fmt: skip
        note = Checkpoint("idhub/audit", 1, b"r" * 32, stage.clock())
        signer = Ed25519Signer(keyring.signing_key("checkpoint").private)
        self.values: dict[str, str] = {
            "at": opaque_tokens["access_token"],
            "rt": opaque_tokens["refresh_token"],
            "id token": jwt_tokens["id_token"],
            "jwt access token": jwt_tokens["access_token"],
            "ac": stage.code(self.browser, SLUG),
            "ses": str(self.browser.cookies["idhub_session"]),
            "dev": str(self.browser.cookies["idhub_device"]),
            "browser cookie": str(self.pending.cookies["idhub_browser"]),
            "tx": parse_qs(urlsplit(posted.headers["location"]).query)["transaction"][0],
            "sealed tx": hidden_fields(shown)["transaction"],
            "inv": stage.invite(stage.person),
            "api": stage.api_token,
            "scim token": stage._api_token(None, scopes=["scim:write"]),
            "csrf token": self.csrf,
            "client secret": stage.secrets[SLUG],
            "password": PASSWORD,
            "code verifier": VERIFIER,
            "logout token": keyring.sign_jws("event", "logout+jwt", logout),
            "receipt": keyring.sign_jws("receipt", RECEIPT_TYP, b"{}"),
            "receipt as id token": keyring.sign_jws("receipt", ID_TOKEN_TYP, logout),
            "event as access token": keyring.sign_jws("event", ACCESS_TOKEN_TYP, {**logout, "client_id": SLUG}),
            "checkpoint": sign_checkpoint(note, signer),
            "saml response": self._saml_response(),
            "upstream response": base64.b64encode(response).decode(),
            "answered tx": kept["transaction"][0],
            "answer's token": self.given,
            "saml artifact": stage.saml_artifact(self.browser),
            "wsfed token": self._wsfed_token(),
            "service ticket": self._stage.cas_ticket(self.browser) or "",
            "session id": self._session_id(),
            "person id": stage.person,
        }

    def _saml_response(self) -> str:
        answer = self._stage.saml_answer(self.browser)
        assert answer is not None and answer.status == ["Success"]
        return base64.b64encode(answer.document).decode()

    def _wsfed_token(self) -> str:
        token = re.search(r'name="wresult" value="([^"]*)"', self._stage.wsfed_page(self.browser).text)
        assert token
        return base64.b64encode(html.unescape(token[1]).encode()).decode()

    def _session_id(self) -> str:
        with self._stage.hub.database.read() as session:
            token = str(self.browser.cookies["idhub_session"])
            return session.execute(
                select(SsoSession.id).where(SsoSession.token_hash == opaque.hash_of(token))
            ).scalar_one()


SIGNED: Mapping[str, frozenset[str]] = {
    "token": frozenset({"id token", "jwt access token"}),
    "event": frozenset({"logout token", "event as access token"}),
    "receipt": frozenset({"receipt", "receipt as id token"}),
    "checkpoint": frozenset({"checkpoint"}),
    "saml": frozenset({"saml response", "wsfed token"}),
}
"""Kinds signed by the keys of each purpose."""


# ---------------------------------------------------------------------- verifiers


def _userinfo(stage: Stage, value: str) -> bool:
    in_header = stage.machine.get("/oauth2/userinfo", headers={b"authorization": b"Bearer " + value.encode()})
    in_body = stage.machine.post("/oauth2/userinfo", data={"access_token": value})
    assert in_header.status_code == in_body.status_code or in_header.status_code in {400, 401}
    return 200 in {in_header.status_code, in_body.status_code}


def _introspection(stage: Stage, value: str) -> bool:
    return any(
        bool(
            stage.machine.post(
                "/oauth2/introspect", data={"token": value, "token_type_hint": hint}, auth=(slug, stage.secrets[slug])
            )
            .json()
            .get("active")
        )
        for slug in (SLUG, "jwt-app")
        for hint in ("access_token", "refresh_token", "id_token")
    )


def _alive(stage: Stage) -> list[Any]:
    with stage.hub.database.read() as session:
        return [
            session.execute(select(column).order_by(column)).scalars().all()
            for column in (
                SsoSession.ended_at, Grant.ended_at, RefreshToken.spent_at, Invitation.spent_at,
                AuthorizationCode.spent_at,
            )
        ]  # fmt: skip


def _revocation(stage: Stage, value: str) -> bool:
    before = _alive(stage), [_userinfo(stage, KINDS[name]) for name in ("at", "jwt access token")]
    for slug in (SLUG, "jwt-app"):
        answer = stage.machine.post("/oauth2/revoke", data={"token": value}, auth=(slug, stage.secrets[slug]))
        assert answer.status_code in {200, 400}, answer.text
    return before != (_alive(stage), [_userinfo(stage, KINDS[name]) for name in ("at", "jwt access token")])


def _grant(grant_type: str, name: str) -> Cell:
    def accepts(stage: Stage, value: str) -> bool:
        fields = {
            "grant_type": grant_type, name: value, "redirect_uri": CALLBACK.format(slug=SLUG),
            "code_verifier": VERIFIER,
        }  # fmt: skip
        return bool(stage.token(SLUG, **fields).status_code == 200)

    return accepts


def _client_authentication(stage: Stage, value: str) -> bool:
    """At each endpoint that authenticates clients."""
    accepted = set()
    for path in ("/oauth2/token", "/oauth2/introspect", "/oauth2/revoke"):
        if not value.isascii():
            continue
        machine = stage.machine
        # An address of its own: limits are not what is asked here.
        machine._transport.client = (f"198.51.100.{next(_ADDRESSES) % 250}", 50_000)  # type: ignore[attr-defined]
        try:
            posted = {"token": "x", "client_id": SLUG, "client_secret": value}
            answers = (
                machine.post(path, data=posted), machine.post(path, data={"token": "x"}, auth=(SLUG, value)),
            )  # fmt: skip
        finally:
            machine._transport.client = ("testclient", 50_000)  # type: ignore[attr-defined]
        # The token endpoint goes on to say that the grant is missing.
        accepted |= {answer.status_code == 200 or "grant_type" in answer.text for answer in answers}
    # Registered for the header alone, the right secret in the body is as good as none (test_token.py).
    return True in accepted


def _elsewhere(stage: Stage) -> TestClient:
    """A caller at an address of its own, with no guesses counted: limits are not what is asked here."""
    with stage.hub.database.transaction() as session:
        session.execute(delete(Throttle))
    address = f"203.0.113.{next(_ADDRESSES) % 250}"
    made = TestClient(stage.app, base_url=stage.hub.settings.issuer, follow_redirects=False, client=(address, 50_000))
    # In the one running loop, whose database connections the fast endpoints use.
    made.portal = stage.machine.portal
    return made


def _client_assertion(stage: Stage, value: str) -> bool:
    data = {
        "grant_type": "client_credentials", "client_id": SLUG, "client_assertion": value,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    }  # fmt: skip
    return bool(stage.machine.post("/oauth2/token", data=data).status_code == 200)


def _hint_at_authorize(stage: Stage, value: str) -> bool:
    answer = MADE.browser.get(
        "/oauth2/authorize",
        params={
            "response_type": "code", "client_id": "jwt-app", "redirect_uri": CALLBACK.format(slug="jwt-app"),
            "scope": "openid", "code_challenge": "c" * 43, "code_challenge_method": "S256", "prompt": "none",
            "id_token_hint": value,
        },
    )  # fmt: skip
    return answer.status_code == 303 and "code" in query_of(answer)


def _hint_at_logout(stage: Stage, value: str) -> bool:
    return bool(MADE.browser.get("/oauth2/logout", params={"id_token_hint": value}).status_code == 303)


def _api(stage: Stage, value: str) -> bool:
    return any(
        stage.machine.get("/api/v1/people", headers={b"authorization": scheme + value.encode()}).status_code == 200
        for scheme in (b"Bearer ", b"bearer ", b"Basic ", b"")
    )


def _scim(stage: Stage, value: str) -> bool:
    cookie = stage.machine.get("/scim/v2/Users", headers={b"cookie": b"idhub_session=" + value.encode()})
    assert cookie.status_code == 401
    return any(
        stage.machine.get("/scim/v2/Users", headers={b"authorization": scheme + value.encode()}).status_code == 200
        for scheme in (b"Bearer ", b"bearer ", b"Basic ", b"")
    )


def _login(stage: Stage, value: str) -> bool:
    browser = _elsewhere(stage)
    page = browser.get("/login")
    answer = submit(browser, page, "/login", username=NUMBER, password=value)
    return answer.status_code == 303 and "idhub_session" in browser.cookies


def _name(stage: Stage, value: str) -> bool:
    """As a login name, with the right password."""
    browser = _elsewhere(stage)
    page = browser.get("/login")
    return bool(submit(browser, page, "/login", username=value, password=PASSWORD).status_code == 303)


def _link(stage: Stage, value: str) -> bool:
    return 'name="password"' in stage.browser().get("/login/first", params={"token": value}).text


def _cookie(name: str, address: str = "/") -> Cell:
    def accepts(stage: Stage, value: str) -> bool:
        browser = stage.browser()
        answer = browser.get(address, headers={b"cookie": f"{name}=".encode() + value.encode()})
        return bool(answer.status_code == 200)

    return accepts


def _authorize_cookie(stage: Stage, value: str) -> bool:
    browser = stage.browser()
    browser.cookies.clear()
    answer = browser.get(
        "/oauth2/authorize", params={
            "response_type": "code", "client_id": SLUG, "redirect_uri": CALLBACK.format(slug=SLUG), "scope": "openid",
            "code_challenge": "c" * 43, "code_challenge_method": "S256", "prompt": "none",
        }, headers={b"cookie": b"idhub_session=" + value.encode()},
    )  # fmt: skip
    return answer.status_code == 303 and "code" in query_of(answer)


def _saml_cookie(stage: Stage, value: str) -> bool:
    partner = stage.partner
    browser = stage.browser()
    answer = browser.get(
        partner.redirect(partner.authn_request(stage.clock(), IsPassive="true")),
        headers={b"cookie": b"idhub_session=" + value.encode()},
    )
    return read_answer(answer).status == ["Success"]


def _wsfed_cookie(stage: Stage, value: str) -> bool:
    answer = stage.browser().get(
        "/wsfed",
        params={"wa": "wsignin1.0", "wtrealm": WSFED_REALM},
        headers={b"cookie": b"idhub_session=" + value.encode()},
    )
    return "wresult" in answer.text


def _wsfed_parameters(stage: Stage, value: str) -> bool:
    """As anything that a request may carry: nothing in it is a credential, and it signs nobody in or out."""
    names = ("wtrealm", "wresult", "wauth", "whr", "wreq", "username", "password")
    answers = [
        stage.browser().get("/wsfed", params={"wa": action, "wtrealm": WSFED_REALM, name: value})
        for action in ("wsignin1.0", "wsignout1.0")
        for name in names
    ]
    return any("wresult" in answer.text for answer in answers)


def _saml_message(stage: Stage, value: str) -> bool:
    """As a message of either kind, at every place that takes one."""
    browser = MADE.browser
    answers = [
        browser.post(path, data={kind: value})
        for path in ("/saml/sso", "/saml/slo")
        for kind in ("SAMLRequest", "SAMLResponse")
    ]
    answers += [browser.post(path, content=value.encode()) for path in ("/saml/slo/soap", "/saml/artifact")]
    answers += [browser.get("/saml/sso", params={"SAMLRequest": value, "SigAlg": value, "Signature": value})]
    return any(answer.status_code != 400 for answer in answers)


def _cas_cookie(stage: Stage, value: str) -> bool:
    answer = stage.browser().get(
        "/cas/login", params={"service": CAS_SERVICE, "gateway": "true"},
        headers={b"cookie": b"idhub_session=" + value.encode()},
    )  # fmt: skip
    return "ticket" in query_of(answer)


def _cas_ticket(stage: Stage, value: str) -> bool:
    """As a ticket, at every place that takes one; last where it may be taken, because that uses it up."""
    asked = {"ticket": value, "service": CAS_SERVICE}
    found = [stage.cas_user(value, f"{CAS_SERVICE}/") is not None] if value != KINDS["service ticket"] else []
    for path in ("serviceValidate", "proxyValidate", "p3/proxyValidate", "p3/serviceValidate"):
        answer = stage.machine.get(f"/cas/{path}", params=asked)
        assert answer.status_code == 200
        found.append("<cas:user>" in answer.text)
    assert found.count(True) <= 1
    return any(found)


def _cas_transaction(stage: Stage, value: str) -> bool:
    answers = [
        browser.get(path, params={"transaction": value})
        for browser in (MADE.pending, MADE.browser)
        for path in ("/cas/login/resume", "/cas/logout/resume")
    ]
    return any(answer.status_code != 400 for answer in answers)


def _saml_transaction(stage: Stage, value: str) -> bool:
    """What is given by an OIDC sign-in, or anything else, is none of SAML's, whoever brings it."""
    answers = [
        browser.get(path, params={"transaction": value, **more})
        for browser in (MADE.pending, MADE.browser)
        for path in ("/saml/sso/resume", "/saml/logout", "/wsfed/resume", "/wsfed/signout")
        for more in ({}, {"given": value}, {"given": KINDS["browser cookie"]})
        # Its own browser may bind its own transaction again; that opens nothing.
        if not (value in {KINDS["tx"], KINDS["sealed tx"]} and more.get("given") == KINDS["browser cookie"])
    ]
    return any(answer.status_code != 400 for answer in answers)


def _upstream_answer(stage: Stage, value: str) -> bool:
    """As what an identity provider answers, with and without cookies."""
    fields = {"SAMLResponse": value}
    answers = [one.post("/login/saml/acs", data=fields) for one in (stage.browser(), MADE.browser, MADE.asking)]
    return any(answer.status_code != 400 for answer in answers)


def _upstream_logout(stage: Stage, value: str) -> bool:
    """As a logout of an identity provider, by every binding."""
    browser = MADE.browser
    answers = [browser.post("/login/saml/slo", data={kind: value}) for kind in ("SAMLRequest", "SAMLResponse")]
    answers.append(browser.post("/login/saml/slo/soap", content=value.encode()))
    answers.append(browser.get("/login/saml/slo", params={"SAMLRequest": value, "SigAlg": value, "Signature": value}))
    return any(answer.status_code != 400 for answer in answers)


def _answered_transaction(stage: Stage, value: str) -> bool:
    """A sign-in that an identity provider has answered: of its own browser alone, and with what that was given."""
    fields = {"transaction": value, "given": MADE.given}
    foreign = [one.get("/login/saml/finish", params=fields) for one in (stage.browser(), MADE.browser)]
    foreign += [MADE.answered.get("/login/saml/finish", params={**fields, "given": one}) for one in ("", value)]
    assert {answer.status_code for answer in foreign} == {400}
    answers = [one.get("/login/saml/finish", params=fields) for one in (MADE.pending, MADE.answered)]
    return any(answer.status_code != 400 for answer in answers)


def _answers_token(stage: Stage, value: str) -> bool:
    """What the browser that brought an answer takes it up with."""
    fields = {"transaction": MADE.values["answered tx"], "given": value}
    return MADE.answered.get("/login/saml/finish", params=fields).status_code != 400


def _transaction_at_provider(stage: Stage, value: str) -> bool:
    address = f"/login/with/{stage.upstream.slug}"
    foreign = stage.browser().get(address, params={"transaction": value})
    assert foreign.status_code == 400
    answers = [one.get(address, params={"transaction": value}) for one in (MADE.pending, MADE.answered)]
    return any(answer.status_code == 303 for answer in answers)


def _transaction(browser_cookie: str | None) -> Cell:
    """A sign-in in progress: of its own browser, or, with another cookie, of none."""

    def accepts(stage: Stage, value: str) -> bool:
        browser = MADE.pending if browser_cookie is None else stage.browser()
        shown = browser.get("/login", params={"transaction": value})
        resumed = browser.get("/oauth2/authorize/resume", params={"transaction": value})
        assert "code=" not in resumed.headers.get("location", "")
        return bool(shown.status_code == 200 or resumed.status_code == 303)

    return accepts


def _browser_cookie(stage: Stage, value: str) -> bool:
    answer = stage.browser().get(
        "/login", params={"transaction": KINDS["tx"]}, headers={b"cookie": b"idhub_browser=" + value.encode()}
    )
    return bool(answer.status_code == 200)


def _csrf(stage: Stage, value: str) -> bool:
    answer = MADE.browser.post("/account/sessions/end", data={"session": "ses_none", "csrf_token": value})
    assert answer.status_code < 500
    return bool(answer.status_code not in {400, 403})


def _receipt(stage: Stage, value: str) -> bool:
    keys = stage.hub.keyring.jwks("receipt", "checkpoint", "token", "event")
    try:
        problems = verify(wrap(value, {}), keys).problems
    except Unreadable:
        return False
    # The sample's payload is empty: that its signature and kind hold is what this verifier decides.
    return not [one for one in problems if "signature" in one or "typ" in one or "key is named" in one or "alg" in one]


def _checkpoint(stage: Stage, value: str) -> bool:
    with suppress(AuditError):
        verify_note(value, load_keys(stage.hub.keyring.jwks("checkpoint", "receipt", "token", "event")))
        return True
    return False


def _logout_receiver(stage: Stage, value: str) -> bool:
    """As the sample application does: the hub's published keys, then the rules of section 2.6."""
    keys = {key["kid"]: key for key in stage.machine.get("/oauth2/jwks").json()["keys"]}
    try:
        header = jwt.get_unverified_header(value)
        key = jwt.PyJWK(keys[header["kid"]])
        claims = jwt.decode(value, key, options={"verify_aud": False, "verify_exp": False, "verify_iat": False})
        check_logout_claims(
            header, claims, issuer=stage.hub.settings.issuer, client_id=SLUG, now=stage.clock().timestamp()
        )
    except (jwt.PyJWTError, LogoutTokenError, KeyError, ValueError):
        return False
    return True


def _api_with_cookie(stage: Stage, value: str) -> bool:
    answer = stage.machine.get("/api/v1/people", headers={b"cookie": b"idhub_session=" + value.encode()})
    return bool(answer.status_code == 200)


VERIFIERS: Mapping[str, tuple[Cell, frozenset[str]]] = {
    "userinfo": (_userinfo, frozenset({"at", "jwt access token"})),
    "introspection": (_introspection, frozenset({"at", "rt", "jwt access token"})),
    "code grant": (_grant("authorization_code", "code"), frozenset({"ac"})),
    "refresh grant": (_grant("refresh_token", "refresh_token"), frozenset({"rt"})),
    "client credentials": (_grant("client_credentials", "token"), frozenset()),
    "jwt bearer grant": (_grant("urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion"), frozenset()),
    "token exchange": (_grant("urn:ietf:params:oauth:grant-type:token-exchange", "subject_token"), frozenset()),
    "password grant": (_grant("password", "password"), frozenset()),
    "device grant": (_grant("urn:ietf:params:oauth:grant-type:device_code", "device_code"), frozenset()),
    "client authentication": (_client_authentication, frozenset({"client secret"})),
    "client assertion": (_client_assertion, frozenset()),
    "id_token_hint": (_hint_at_authorize, frozenset({"id token"})),
    "id_token_hint at logout": (_hint_at_logout, frozenset({"id token"})),
    "api": (_api, frozenset({"api"})),
    "scim": (_scim, frozenset({"scim token"})),
    "api by cookie": (_api_with_cookie, frozenset()),
    "login form": (_login, frozenset({"password"})),
    "login name": (_name, frozenset()),
    "one-time link": (_link, frozenset({"inv"})),
    "session cookie": (_cookie("idhub_session"), frozenset({"ses"})),
    "session cookie at authorize": (_authorize_cookie, frozenset({"ses"})),
    "device cookie": (_cookie("idhub_device"), frozenset()),
    "ended cookie": (_cookie("idhub_ended"), frozenset()),
    "session cookie at saml": (_saml_cookie, frozenset({"ses"})),
    "saml message": (_saml_message, frozenset()),
    "saml artifact": (lambda stage, value: stage.resolve_artifact(value), frozenset({"saml artifact"})),
    "session cookie at wsfed": (_wsfed_cookie, frozenset({"ses"})),
    "wsfed parameters": (_wsfed_parameters, frozenset()),
    "saml transaction": (_saml_transaction, frozenset()),
    "upstream answer": (_upstream_answer, frozenset({"upstream response"})),
    "upstream logout": (_upstream_logout, frozenset()),
    "transaction with an answer": (_answered_transaction, frozenset({"answered tx"})),
    "answer's token": (_answers_token, frozenset({"answer's token"})),
    "transaction at a provider": (_transaction_at_provider, frozenset({"tx", "sealed tx", "answered tx"})),
    "session cookie at cas": (_cas_cookie, frozenset({"ses"})),
    "cas ticket": (_cas_ticket, frozenset({"service ticket"})),
    "cas transaction": (_cas_transaction, frozenset()),
    "transaction": (_transaction(None), frozenset({"tx", "sealed tx"})),
    "transaction of another browser": (_transaction("none"), frozenset()),
    "browser cookie": (_browser_cookie, frozenset({"browser cookie"})),
    "form token": (_csrf, frozenset({"csrf token"})),
    "receipt": (_receipt, frozenset({"receipt"})),
    "checkpoint": (_checkpoint, frozenset({"checkpoint"})),
    "logout receiver": (_logout_receiver, frozenset({"logout token"})),
    "revocation": (_revocation, frozenset({"at", "rt", "jwt access token"})),
}
"""Verifier -> how it is asked, and the kinds that it takes. Revocation comes last: what it takes is dead then."""

PLACES: Mapping[str, tuple[str, ...]] = {
    "/oauth2/userinfo": ("userinfo",),
    "/oauth2/introspect": ("introspection", "client authentication"),
    "/oauth2/revoke": ("revocation", "client authentication"),
    "/oauth2/token": (
        "code grant", "refresh grant", "client credentials", "jwt bearer grant", "token exchange", "password grant",
        "device grant", "client authentication", "client assertion",
    ),
    "/oauth2/authorize": ("id_token_hint", "session cookie at authorize"),
    "/oauth2/authorize/resume": ("transaction", "transaction of another browser"),
    "/oauth2/logout": ("id_token_hint at logout",),
    "/oauth2/logout/resume": ("transaction of another browser",),
    "/saml/sso": ("session cookie at saml", "saml message"),
    "/saml/sso/resume": ("saml transaction",),
    "/saml/launch/{slug}": ("session cookie at saml",),
    "/saml/slo": ("saml message",),
    "/saml/slo/soap": ("saml message",),
    "/saml/artifact": ("saml message", "saml artifact"),
    "/saml/logout": ("saml transaction",),
    "/wsfed": ("session cookie at wsfed", "wsfed parameters"),
    "/wsfed/resume": ("saml transaction",),
    "/wsfed/signout": ("saml transaction",),
    "/cas/login": ("session cookie at cas",),
    "/cas/login/resume": ("cas transaction",),
    "/cas/logout": ("session cookie",),
    "/cas/logout/resume": ("cas transaction",),
    "/cas/validate": ("cas ticket",),
    "/cas/serviceValidate": ("cas ticket",),
    "/cas/proxyValidate": ("cas ticket",),
    "/cas/p3/serviceValidate": ("cas ticket",),
    "/cas/p3/proxyValidate": ("cas ticket",),
    "/login": ("login form", "login name", "transaction", "browser cookie", "device cookie"),
    "/login/first": ("one-time link",),
    "/login/saml/acs": ("upstream answer",),
    "/login/saml/finish": ("transaction with an answer", "answer's token"),
    "/login/saml/slo": ("upstream logout",),
    "/login/saml/slo/soap": ("upstream logout",),
    "/login/with/{slug}": ("transaction at a provider",),
    "/logout": ("ended cookie", "session cookie"),
    "/account/sessions/end": ("form token",),
    "/scim/v2/{path:path}": ("scim",),
}  # fmt: skip
"""Routes that read a credential of their own kind. Every other one is a page (session cookie), the API, or public."""
OPEN = {
    "/.well-known/idhub-keys", "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration",
    "/api/openapi.json", "/healthz", "/metrics", "/oauth2/jwks", "/readyz", "/static/{version}/{name:path}",
    "/preferences", "/saml/metadata", "/login/saml/metadata", "/wsfed/metadata", "/cas/proxy",
    "/FederationMetadata/2007-06/FederationMetadata.xml",
}  # fmt: skip
_PAGES = ("/account", "/admin", "/audit", "/consent", "/error", "/hr")

KINDS: dict[str, str] = {}
MADE: Kinds


@pytest.fixture
def made(hall: Hall) -> Iterator[Kinds]:
    global MADE  # noqa: PLW0603 - what the verifiers above act with
    MADE = Kinds(hall.stage)
    KINDS.clear()
    KINDS.update(MADE.values)
    yield MADE


def test_every_kind_that_exists_has_its_row(made: Kinds) -> None:
    assert set(KINDS) >= opaque.KINDS
    assert set(SIGNED) == set(PURPOSES)
    assert set().union(*SIGNED.values()) <= set(KINDS)
    for kind in get_args(opaque.Kind):
        assert opaque.looks_valid(kind, KINDS[kind]), kind


def test_every_route_that_reads_a_credential_has_its_verifiers(small_hall: Hall) -> None:
    for path in methods_of(small_hall.app):
        known = path in PLACES or path in OPEN or path == "/" or path.startswith((*_PAGES, "/api/v1/"))
        assert known, f"{path}: name its verifiers"
    assert {name for names in PLACES.values() for name in names} <= set(VERIFIERS)


_BY_DATABASE = (
    "userinfo", "introspection", "code grant", "refresh grant", "api", "scim", "login form", "one-time link",
    "session cookie", "transaction", "browser cookie", "revocation",
)  # fmt: skip
"""What a row of the database decides; the others are decided before it is asked, and alike on both."""


@pytest.mark.parametrize(
    ("database_kind", "verifier"),
    [*(("sqlite", name) for name in VERIFIERS), *(("postgresql", name) for name in _BY_DATABASE)],
    indirect=["database_kind"],
)
def test_a_verifier_takes_its_own_kind_and_no_other(hall: Hall, made: Kinds, verifier: str) -> None:
    accepts, right = VERIFIERS[verifier]
    taken = set()
    # Its own last: what is single use is spent then.
    for kind in sorted(KINDS, key=lambda name: (name in right, name)):
        if accepts(hall.stage, KINDS[kind]):
            taken.add(kind)
    assert taken == right
