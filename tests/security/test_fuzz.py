"""Fuzzing every endpoint from its description: no answer is a server error, no refusal changes or hides anything.

`make test` runs a short, deterministic form; `make fuzz` goes on with new seeds for FUZZ_SECONDS.
"""

import base64
import html
import itertools
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.generation.modes import GenerationMode
from sqlalchemy import func, insert, select
from starlette.testclient import TestClient

from audit.tables import audit_events
from idhub.credentials import opaque
from idhub.credentials.tables import ApiToken
from idhub.credentials.tickets import make_ticket
from idhub.db import new_id
from idhub.directory.organizations import find_organization
from idhub.directory.tables import Installation
from idhub.oidc.metadata import HOT_PATHS
from providers.saml_wire.artifacts import make_artifact
from providers.saml_wire.signatures import sign
from providers.saml_wire.writing import render
from tests.flows import every_door
from tests.flows.every_door import CALLBACK, CAS_SERVICE, VERIFIER
from tests.saml.hostile import mutants
from tests.saml.partner import query_of
from tests.security import descriptions
from tests.security.hall import OTHER_COMPANY, Hall, open_hall
from tests.support.databases import DatabaseKind, Databases
from tests.support.routes import methods_of
from tests.support.row_counts import row_counts

FUZZ_SECONDS = int(os.environ.get("FUZZ_SECONDS", "0"))
EXAMPLES: Mapping[str, int] = {"sqlite": 5, "postgresql": 2}
"""Of each operation in the short form."""
LONG_EXAMPLES = 40
SCOPES: tuple[tuple[str, ...], ...] = (
    ("people:read",), ("people:write",), ("applications:read",), ("applications:write",), ("receipts:read",),
    ("people:write", "applications:write", "receipts:read", "findings:write", "audit:read"),
)  # fmt: skip
_CSRF = re.compile(r'name="csrf_token" value="([^"]+)"')
_UNCOUNTED = frozenset({"audit_events", "throttles", "login_transactions"})
"""What a refusal may add to: the log, counters of guesses, a sign-in that an application asked for."""

_BEFORE_THE_CALLER = frozenset({"control_character", "parameter.unknown", "parameter.repeated", "body.size"})
"""What is refused before anybody asks who calls: counted by the minute like all of strangers, not an event at once."""

Send = Callable[[Any, random.Random], Any]


@pytest.fixture
def fuzzed(database_kind: DatabaseKind, databases: Databases, tmp_path: Path) -> Iterator[Hall]:
    """A hub of one's own: what may be done is done to it."""
    with open_hall(database_kind, databases, tmp_path) as opened:
        yield opened


def _tokens(hall: Hall) -> list[str]:
    """An API token of every kind of scope, of the whole group and of one company."""
    made = []
    with hall.stage.hub.database.transaction() as session:
        epoch = session.execute(select(Installation.epoch)).scalar_one()
        other = find_organization(session, OTHER_COMPANY)
        for scopes in SCOPES:
            for organization_id in (None, other):
                value = opaque.make("api")
                session.execute(
                    insert(ApiToken).values(
                        id=new_id("tok"), token_hash=opaque.hash_of(value), name="fuzz", principal_id=None,
                        installation_epoch=epoch, scopes=list(scopes), organization_id=organization_id,
                        created_at=hall.stage.clock(), expires_at=None, is_local=True,
                    )
                )  # fmt: skip
                made.append(value)
    return made


def _state(hall: Hall) -> dict[str, int]:
    counts = row_counts(hall.stage.hub.database, with_log=False)
    return {name: count for name, count in counts.items() if name not in _UNCOUNTED}


def _events(hall: Hall) -> int:
    with hall.stage.hub.database.read() as session:
        return session.execute(select(func.count()).select_from(audit_events)).scalar_one()


# ---------------------------------------------------------------------- how a generated case is sent


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _encoded(pairs: Any) -> str:
    if not isinstance(pairs, Mapping):
        return quote(_text(pairs).encode("utf-8", "surrogatepass"))
    sent: list[tuple[bytes, bytes]] = []
    for name, value in pairs.items():
        for one in value if isinstance(value, list) else [value]:
            sent.append((_text(name).encode("utf-8", "surrogatepass"), _text(one).encode("utf-8", "surrogatepass")))
    return urlencode(sent)


def _send(client: TestClient, case: Any, headers: Mapping[str, str], body: bytes | None, media_type: str | None) -> Any:
    address = case.formatted_path + (f"?{_encoded(case.query)}" if case.query else "")
    given_headers = {
        _text(name): _text(value)
        for name, value in (case.headers or {}).items()
        if _sendable(_text(name), _text(value))
    }
    sent = {**given_headers, **headers, **({"content-type": media_type} if media_type else {})}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()]
    return client.request(case.method, address, content=body, headers=raw)


def _sendable(name: str, value: str) -> bool:
    """What an HTTP client can put on a line at all; the server's own reader has tests/security/test_server.py."""
    return bool(re.fullmatch(r"[A-Za-z0-9-]{1,60}", name)) and bool(re.fullmatch(r"[\x20-\x7e\xa0-\xff]*", value))


def _is_missing(body: Any) -> bool:
    return type(body).__name__ == "NotSet"


def _json_body(case: Any) -> tuple[bytes | None, str | None]:
    if _is_missing(case.body):
        return None, None
    if isinstance(case.body, bytes):
        return case.body, "application/json"
    text = json.dumps(case.body, allow_nan=True, default=lambda value: bytes(value).decode("latin-1"))
    return text.encode("utf-8", "surrogatepass"), "application/json"


def _form_body(case: Any) -> tuple[bytes | None, str | None]:
    if _is_missing(case.body):
        return None, None
    return _encoded(case.body).encode(), "application/x-www-form-urlencoded"


# ---------------------------------------------------------------------- the verdict


class Fuzzer:
    """Sends cases of one document and judges each answer."""

    def __init__(self, hall: Hall, document: dict[str, Any], send: Send, *, is_api: bool) -> None:
        self._hall, self._send, self._is_api = hall, send, is_api
        schema = schemathesis.openapi.from_dict(document)
        found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
        self.operations: list[Any] = found
        self.answers: Counter[str] = Counter()
        self._examples = EXAMPLES[hall.stage.hub.database.dialect]
        # Nobody else changes this hub meanwhile: what is after one request is before the next.
        self._state, self._events = _state(hall), _events(hall)

    def run(self, name: str) -> None:
        """The short form once, or until FUZZ_SECONDS are over."""
        assert self.operations
        until = time.monotonic() + FUZZ_SECONDS
        number = 0
        while True:
            for operation in self.operations:
                self._fuzz(operation, number)
            number += 1
            if time.monotonic() >= until:
                break
            print(f"fuzz {name}: round {number}, {self.answers.total()} requests, {dict(self.answers)}", flush=True)
        print(f"fuzz {name}: {len(self.operations)} operations, {self.answers.total()} requests, {dict(self.answers)}")
        # A fuzzer that never gets past the door finds nothing.
        assert self.answers["2"] + self.answers["3"] > 0
        assert self.answers["4"] > 0

    def _fuzz(self, operation: Any, number: int) -> None:
        cases = st.one_of(
            operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
            operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
        )

        @seed(number)
        @settings(
            max_examples=LONG_EXAMPLES if FUZZ_SECONDS else self._examples, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), derandomize=False,
        )  # fmt: skip
        @given(cases, st.integers(0, 2**32))
        def judge(case: Any, dice: int) -> None:
            self._judge(case, random.Random(dice))

        judge()

    def _judge(self, case: Any, dice: random.Random) -> None:
        before, logged = self._state, self._events
        answer = self._send(case, dice)
        self._state, self._events = _state(self._hall), _events(self._hall)
        asked = f"{case.method} {case.formatted_path} {case.query} {case.body!r}"
        said = f"{asked} -> {answer.status_code} {answer.text[:300]}"
        assert answer.status_code < 500, said
        self.answers[str(answer.status_code)[0]] += 1
        if answer.status_code < 400:
            return
        assert self._state == before, f"a refusal changed something: {said}"
        if not self._is_api:
            return
        body = answer.json()
        assert body["error"] and body["description"] and body["rule"], said
        assert body["rule"] == "route" or body["field"] or answer.status_code in {403, 409}, said
        if answer.status_code not in {401, 404, 405} and body["rule"] not in _BEFORE_THE_CALLER:
            assert self._events > logged, f"not recorded: {said}"


# ---------------------------------------------------------------------- what is fuzzed


def test_the_api(fuzzed: Hall) -> None:
    """From the document that it publishes, with tokens of every scope."""
    document = fuzzed.stage.machine.get("/api/openapi.json").json()
    tokens = [*_tokens(fuzzed), fuzzed.stage.api_token]
    people = [*fuzzed.people.values(), "QY000001", "BER", "HQ/QY000001", "per_nobody"]

    def send(case: Any, dice: random.Random) -> Any:
        # Most of what could happen needs somebody who exists.
        if case.path_parameters and "person" in case.path_parameters and dice.random() < 0.7:
            case.path_parameters["person"] = quote(dice.choice(people), safe="")
        headers = {"authorization": f"Bearer {dice.choice(tokens)}"} if dice.random() < 0.95 else {}
        body, media_type = _json_body(case)
        return _send(fuzzed.stage.machine, case, headers, body, media_type)

    Fuzzer(fuzzed, document, send, is_api=True).run("api")


def test_the_oauth_endpoints(fuzzed: Hall) -> None:
    """With clients, codes and tokens that exist, in every combination."""
    stage, browser = fuzzed.stage, fuzzed.browsers["employee"]
    slugs = ("opaque-app", "jwt-app")
    tokens = [stage.redeem(slug, stage.code(browser, slug)).json() for slug in slugs for _ in range(3)]
    known = {
        "client_id": slugs,
        "client_secret": stage.secrets.values(),
        "redirect_uri": [CALLBACK.format(slug=slug) for slug in slugs],
        "post_logout_redirect_uri": [CALLBACK.format(slug=slug) for slug in slugs],
        "grant_type": ("authorization_code", "refresh_token", "client_credentials"),
        "code": [stage.code(browser, slug) for slug in slugs for _ in range(3)],
        "code_verifier": [VERIFIER],
        "refresh_token": [token["refresh_token"] for token in tokens],
        "access_token": [token["access_token"] for token in tokens],
        "token": [token[name] for token in tokens for name in ("access_token", "refresh_token", "id_token")],
        "id_token_hint": [token["id_token"] for token in tokens],
        "response_type": ("code", "token"),
        "response_mode": ("query", "fragment", "form_post"),
        "scope": ("openid", "openid offline_access", "profile email"),
        "code_challenge": ["c" * 43],
        "code_challenge_method": ("S256", "plain"),
        "prompt": ("none", "login", "consent", "none login"),
        "max_age": ("0", "1", "86400"),
    }

    def send(case: Any, dice: random.Random) -> Any:
        slug = dice.choice(slugs)
        pair = base64.b64encode(f"{slug}:{stage.secrets[slug]}".encode()).decode()
        headers = dice.choice(
            (
                {"authorization": f"Basic {pair}"}, {"authorization": f"Basic {pair}"},
                {"authorization": f"Bearer {dice.choice(tokens)['access_token']}"}, {},
            )
        )  # fmt: skip
        body, media_type = _form_body(case)
        client = stage.machine if case.formatted_path in HOT_PATHS else browser
        return _send(client, case, headers, body, media_type)

    Fuzzer(fuzzed, descriptions.oauth(fuzzed, known), send, is_api=False).run("oauth")


def _saml_messages(hall: Hall) -> dict[str, list[str]]:
    """Messages of the SAML application, sound and mutated, as each binding carries them."""
    stage, partner = hall.stage, hall.stage.partner
    sound = [partner.authn_request(stage.clock()), partner.logout_request(stage.clock(), "nobody")]
    carried = [query_of(partner.redirect(one, relay_state="rs")) for one in sound]
    posted = [render(sign(one, partner.signer)).encode() for one in sound]
    # Answers of the identity provider to a request that is open, and to none.
    _, answered = every_door._asked_upstream(stage)
    posted += [answered, stage.upstream.document(stage.upstream.answer(None, stage.clock()))]
    changed = [one for document in posted for one in itertools.islice(mutants(document, seed=1), 8)]
    return {
        "SAMLRequest": [one["SAMLRequest"] for one in carried]
        + [base64.b64encode(one).decode() for one in (*posted, *changed)],
        "SAMLResponse": [base64.b64encode(one).decode() for one in (*posted, *changed)],
        "SigAlg": [carried[0]["SigAlg"], "http://www.w3.org/2000/09/xmldsig#rsa-sha1", ""],
        "Signature": [one["Signature"] for one in carried],
        "RelayState": ["rs", "//evil.example", "x" * 2000],
        "SAMLart": [make_artifact(stage.hub.settings.issuer), "AAQ", "\0"],
    }


def test_the_pages(fuzzed: Hall) -> None:
    """Every page and form, by somebody of every role, with the form token of their own session."""
    stage = fuzzed.stage
    browsers = [fuzzed.browsers[name] for name in ("employee", "hr", "administrator", "auditor", "hr_of_other")]
    found = [_CSRF.search(browser.get("/account/security").text) for browser in browsers]
    csrf = {id(browser): html.unescape(one[1]) for browser, one in zip(browsers, found, strict=True) if one}
    assert len(csrf) == len(browsers)
    known = {
        "person_id": [*fuzzed.people.values(), stage.person],
        "company": ("HQ", OTHER_COMPANY),
        "employee_number": ("N1", "QY000001"),
        "employment_type": ("regular", "contractor"),
        "manager": ("QY000001", "HQ/QY000011", "nobody"),
        "department": ("研发/底盘", "/"),
        "start_date": ("2026-11-23", "2020-01-01", "9999-12-31"),
        "end_date": ("2026-12-31", "2019-01-01", ""),
        "effective_at": ("2026-12-31T18:00", "now", ""),
        "display_name": ("新人",),
        "sort": ("name", "-name"),
        "size": ("1", "50", "0", "99999999999999999999"),
        "tab": ("access", "sessions", "events"),
        "language": ("en", "zh-CN"),
        "theme": ("dark", "auto"),
        "return_to": ("/", "//evil.example"),
        "session": ("ses_x",),
        "slug": ("jwt-app", "opaque-app", "saml-app", "wsfed-app", "cas-app", "upstream"),
        "wa": ("wsignin1.0", "wsignout1.0", "wsignoutcleanup1.0", "wattr1.0"),
        "wtrealm": ("urn:wsfed-app", "urn:nobody"),
        "wreply": ("https://wsfed-app.example/reply", "https://evil.example/", "//evil.example"),
        "wctx": ("rm=0", '"><script>', "x" * 9000),
        "wfresh": ("0", "5", "-1", "9" * 20),
        "wct": ("2026-11-23T08:00:00Z", "now"),
        "wauth": ("urn:oasis:names:tc:SAML:1.0:am:password", "urn:ietf:rfc:2246"),
        "service": (CAS_SERVICE, f"{CAS_SERVICE}?next=%2F", "https://nobody.example/", "javascript:alert(1)"),
        "ticket": (make_ticket(), "ST-", "PT-1"),
        "renew": ("true", "false", ""),
        "gateway": ("true", ""),
        "method": ("POST", "HEADER", "get"),
        "format": ("JSON", "XML"),
        "pgtUrl": ("https://nobody.example/callback",),
        "provider": ("upstream", "none"),
        **_saml_messages(fuzzed),
    }

    def send(case: Any, dice: random.Random) -> Any:
        browser = dice.choice(browsers)
        if isinstance(case.body, dict) and "csrf_token" in case.body and dice.random() < 0.9:
            case.body["csrf_token"] = csrf[id(browser)]
        body, media_type = _form_body(case)
        return _send(browser, case, {"origin": stage.hub.settings.issuer}, body, media_type)

    document = descriptions.pages(fuzzed, known)
    # These end the session that fuzzes, or change how it is seen.
    for path in ("/logout", "/account/sessions/end-others", "/account/security"):
        document["paths"].get(path, {}).pop("post", None)
    Fuzzer(fuzzed, document, send, is_api=False).run("pages")


def test_every_route_is_in_one_of_the_documents(small_hall: Hall) -> None:
    described = {
        *small_hall.stage.machine.get("/api/openapi.json").json()["paths"],
        *descriptions.oauth(small_hall, {})["paths"],
        *descriptions.pages(small_hall, {})["paths"],
    }
    missing = set(methods_of(small_hall.app)) - described
    # SCIM has one route for every address of the protocol: test_bad_input.py and tests/api/test_scim.py attack it.
    assert missing == {
        "/api/openapi.json",
        "/hr/receipts/{number}/events",
        "/scim/v2/{path:path}",
        "/static/{version}/{name:path}",
    }
