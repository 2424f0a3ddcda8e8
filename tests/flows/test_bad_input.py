"""Bad input on every endpoint: a clear error, nothing changed, recorded, and never our fault.

The attacks are generated from the routes of the whole application: a new route without a row in `CASES` fails.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select
from starlette.testclient import TestClient

from audit.tables import audit_events
from idhub.app import create_app
from idhub.authority import HubRole, assign_role
from idhub.directory.organizations import root_organization
from idhub.directory.people import find_person
from idhub.directory.tables import Principal
from idhub.oidc.metadata import HOT_PATHS
from idhub.services import open_hub
from idhub.settings import Settings
from tests.flows import every_door
from tests.flows.every_door import HR_NUMBER, NUMBER, PASSWORD, Stage, submit
from tests.support.clock import Clock
from tests.support.databases import DatabaseKind, Databases
from tests.support.routes import methods_of
from tests.support.row_counts import row_counts

UNKNOWN = "R-2026-11-9999"
AUDITOR_NUMBER = "QY000003"
AUDITORS: dict[int, TestClient] = {}


@dataclass(frozen=True)
class Case:
    """How a route is attacked: where it lies, and which parameters it takes."""

    values: Mapping[str, str] | None = None
    """Values of the path's parameters that fit their form."""
    parameters: tuple[str, ...] = ("transaction",)
    """Names of query parameters and form fields that are doubled, oversized and broken."""


_OAUTH = ("grant_type", "code", "client_id", "client_secret", "redirect_uri", "code_verifier", "refresh_token", "scope")
_AUTHORIZE = (
    "client_id", "redirect_uri", "response_type", "scope", "state", "nonce", "code_challenge", "code_challenge_method",
    "prompt", "max_age", "login_hint", "id_token_hint", "response_mode", "request", "request_uri", "claims",
)  # fmt: skip
_LIST = ("q", "sort", "size", "state", "after", "before", "org", "type", "app", "range", "month")
_POST = (
    "csrf_token", "reason", "display_name", "company", "employee_number", "employment_type", "department", "manager",
    "start_date", "end_date", "fingerprint", "confirm_name", "effective_at",
)  # fmt: skip
_PERSON = {"person_id": "PERSON"}
_API_PERSON = {"person": "PERSON"}

_SAML = ("SAMLart", "SAMLRequest", "SAMLResponse", "RelayState", "SigAlg", "Signature", "SAMLEncoding")

_WSFED = ("wa", "wtrealm", "wreply", "wctx", "wct", "wfresh", "wauth", "whr", "wreq")
_CAS = ("service", "renew", "gateway", "method", "ticket", "pgtUrl", "format")

CASES: Mapping[str, Case] = {
    "/": Case(),
    "/.well-known/idhub-keys": Case(),
    "/.well-known/oauth-authorization-server": Case(),
    "/.well-known/openid-configuration": Case(),
    "/account": Case(),
    "/admin": Case(),
    "/account/security": Case(parameters=("current_password", "new_password", "csrf_token", "changed")),
    "/account/sessions": Case(parameters=("ended",)),
    "/account/sessions/end": Case(parameters=("session", "csrf_token")),
    "/account/sessions/end-others": Case(parameters=("csrf_token",)),
    "/admin/apps": Case(parameters=_LIST),
    "/admin/apps/{slug}": Case({"slug": "jwt-app"}),
    "/admin/apps/{slug}/provisioning": Case({"slug": "jwt-app"}, ("person", "step", "review", "done", "csrf_token")),
    "/admin/apps/{slug}/saml": Case({"slug": "saml-app"}, ("person",)),
    "/admin/apps/{slug}/wsfed": Case({"slug": "wsfed-app"}, ("person",)),
    "/account/links": Case(parameters=("done",)),
    "/account/links/add": Case(parameters=("provider", "csrf_token")),
    "/account/links/remove": Case(parameters=("provider", "csrf_token")),
    "/admin/providers": Case(),
    "/admin/providers/{provider}": Case({"provider": "upstream"}),
    "/admin/deliveries": Case(parameters=_LIST),
    "/admin/deliveries/{delivery_id}": Case({"delivery_id": "dlv_x"}),
    "/admin/deliveries/{delivery_id}/retry": Case({"delivery_id": "dlv_x"}, ("csrf_token",)),
    "/admin/streams": Case(
        parameters=("done", "csrf_token", "token", "push", "authorization", "audience", "full", "e0", "e8")
    ),
    "/admin/streams/{stream_id}": Case({"stream_id": "evs_x"}, ("done", "step", "csrf_token")),
    "/admin/ghosts": Case(parameters=(*_LIST, "class", "state", "app", "asked")),
    "/admin/ghosts/held/{slug}": Case({"slug": "jwt-app"}, ("csrf_token",)),
    "/hr/sources": Case(parameters=(*_LIST, "kind", "company", "run")),
    "/hr/sources/import": Case(parameters=("csrf_token", "mode", "file")),
    "/hr/sources/import/{upload_id}": Case({"upload_id": "upl_x"}, ("csrf_token", "step")),
    "/hr/sources/release": Case(parameters=("csrf_token", "run", "company")),
    "/admin/ghosts/run": Case(parameters=("csrf_token",)),
    "/admin/ghosts/{finding_id}": Case({"finding_id": "fnd_x"}),
    "/admin/ghosts/{finding_id}/accept": Case({"finding_id": "fnd_x"}, ("csrf_token",)),
    "/admin/ghosts/{finding_id}/take-back": Case({"finding_id": "fnd_x"}, ("csrf_token",)),
    "/admin/ghosts/{finding_id}/act": Case({"finding_id": "fnd_x"}, ("csrf_token", "action")),
    "/admin/ghosts/{finding_id}/dismiss": Case({"finding_id": "fnd_x"}, ("csrf_token", "reason", "until")),
    "/api/openapi.json": Case(),
    "/api/v1/applications": Case(),
    "/api/v1/applications/{application}/preview/{person}": Case({"application": "jwt-app", **_API_PERSON}),
    "/api/v1/applications/{application}/retry": Case({"application": "jwt-app"}),
    "/api/v1/applications/{application}/reviews": Case({"application": "jwt-app"}),
    "/api/v1/applications/{application}/reviews/{review}": Case({"application": "jwt-app", "review": "rev_x"}),
    "/api/v1/applications/{application}/sync": Case({"application": "jwt-app"}),
    "/api/v1/deliveries/{delivery}/retry": Case({"delivery": "dlv_x"}),
    "/api/v1/findings": Case(parameters=("kind", "state", "application", "after", "limit")),
    "/api/v1/findings/{finding}": Case({"finding": "fnd_x"}),
    "/api/v1/findings/{finding}/accept": Case({"finding": "fnd_x"}),
    "/api/v1/findings/{finding}/act": Case({"finding": "fnd_x"}),
    "/api/v1/findings/{finding}/take-back": Case({"finding": "fnd_x"}),
    "/api/v1/findings/{finding}/dismiss": Case({"finding": "fnd_x"}),
    "/api/v1/people": Case(parameters=("q", "after", "size")),
    "/api/v1/people/{person}": Case(_API_PERSON),
    "/api/v1/people/{person}/employments": Case(_API_PERSON),
    "/api/v1/people/{person}/links": Case(_API_PERSON),
    "/api/v1/people/{person}/links/{provider}": Case({**_API_PERSON, "provider": "idp_x"}),
    "/api/v1/people/{person}/move": Case(_API_PERSON),
    "/api/v1/people/{person}/offboarding": Case(_API_PERSON, ("at", "emergency")),
    "/api/v1/people/{person}/reactivate": Case(_API_PERSON),
    "/api/v1/people/{person}/suspend": Case(_API_PERSON),
    "/api/v1/receipts/{case}": Case({"case": UNKNOWN}),
    "/api/v1/receipts/{case}/export": Case({"case": UNKNOWN}),
    "/scim/v2/{path:path}": Case({"path:path": "Users"}, ("filter", "sortBy", "count", "startIndex", "attributes")),
    "/audit": Case(),
    "/audit/events": Case(parameters=(*_LIST, "view", "result", "action")),
    "/audit/events/{event_id}/download": Case({"event_id": "evt_x"}),
    "/consent": Case(parameters=("transaction", "consent", "csrf_token")),
    "/error": Case(),
    "/healthz": Case(),
    "/hr": Case(),
    "/hr/offboarding/{person_id}/cancel": Case(_PERSON, _POST),
    "/hr/offboarding/{person_id}/preview": Case(_PERSON, (*_POST, "effective", "emergency")),
    "/hr/people": Case(parameters=_LIST),
    "/hr/people/new": Case(parameters=_POST),
    "/hr/people/{person_id}": Case(_PERSON, ("tab", "after")),
    "/hr/people/{person_id}/links/{provider_id}": Case({**_PERSON, "provider_id": "idp_x"}, ("csrf_token",)),
    "/hr/people/{person_id}/move": Case(_PERSON, _POST),
    "/hr/people/{person_id}/reactivate": Case(_PERSON, _POST),
    "/hr/people/{person_id}/rehire": Case(_PERSON, _POST),
    "/hr/people/{person_id}/suspend": Case(_PERSON, _POST),
    "/hr/pick/companies": Case(parameters=("q",)),
    "/hr/pick/people": Case(parameters=("q",)),
    "/hr/receipts": Case(parameters=_LIST),
    "/hr/receipts/{number}": Case({"number": UNKNOWN}),
    "/hr/receipts/{number}/download": Case({"number": UNKNOWN}),
    "/hr/receipts/{number}/events": Case({"number": UNKNOWN}),
    "/login": Case(parameters=("username", "password", "csrf_token", "transaction", "return_to")),
    "/login/first": Case(parameters=("token", "password", "csrf_token")),
    "/login/saml/acs": Case(parameters=_SAML),
    "/login/saml/finish": Case(parameters=("transaction", "given")),
    "/login/saml/metadata": Case(),
    "/login/saml/slo": Case(parameters=_SAML),
    "/login/saml/slo/soap": Case(),
    "/login/with/{slug}": Case({"slug": "unknown"}, ("transaction", "return_to")),
    "/logout": Case(parameters=("transaction", "csrf_token")),
    "/metrics": Case(),
    "/oauth2/authorize": Case(parameters=_AUTHORIZE),
    "/oauth2/authorize/resume": Case(),
    "/oauth2/introspect": Case(parameters=("token", "token_type_hint", "client_id")),
    "/oauth2/jwks": Case(),
    "/oauth2/logout": Case(parameters=("id_token_hint", "client_id", "post_logout_redirect_uri", "state")),
    "/cas/login": Case(parameters=_CAS),
    "/cas/login/resume": Case(parameters=("transaction",)),
    "/cas/logout": Case(parameters=_CAS),
    "/cas/logout/resume": Case(parameters=("transaction",)),
    "/cas/p3/proxyValidate": Case(parameters=_CAS),
    "/cas/p3/serviceValidate": Case(parameters=_CAS),
    "/cas/proxy": Case(parameters=_CAS),
    "/cas/proxyValidate": Case(parameters=_CAS),
    "/cas/serviceValidate": Case(parameters=_CAS),
    "/cas/validate": Case(parameters=_CAS),
    "/oauth2/logout/resume": Case(),
    "/oauth2/revoke": Case(parameters=("token", "token_type_hint", "client_id")),
    "/oauth2/token": Case(parameters=_OAUTH),
    "/oauth2/userinfo": Case(parameters=("access_token",)),
    "/preferences": Case(parameters=("language", "theme", "return_to")),
    "/readyz": Case(),
    "/saml/artifact": Case(),
    "/saml/launch/{slug}": Case({"slug": "unknown"}),
    "/saml/logout": Case(parameters=("transaction", "given")),
    "/saml/metadata": Case(),
    "/saml/slo": Case(parameters=_SAML),
    "/saml/slo/soap": Case(),
    "/saml/sso": Case(parameters=_SAML),
    "/saml/sso/resume": Case(parameters=("transaction", "given")),
    "/FederationMetadata/2007-06/FederationMetadata.xml": Case(),
    "/wsfed": Case(parameters=_WSFED),
    "/wsfed/metadata": Case(),
    "/wsfed/resume": Case(parameters=("transaction", "given")),
    "/wsfed/signout": Case(parameters=("transaction",)),
    "/static/{version}/{name:path}": Case({"version": "x", "name:path": "nothing.css"}),
}

_FORM = "application/x-www-form-urlencoded"
_PART = b'--x\r\nContent-Disposition: form-data; name="csrf_token"\r\n\r\na\r\n'
BODIES: tuple[tuple[str | None, bytes], ...] = (
    ("text/plain", b'{"reason":"x"}'),
    (None, b"csrf_token=x"),
    ("application/json", b""),
    ("application/json", b"{"),
    ("application/json", b'{"reason":"\xff"}'),
    ("application/json", b'{"reason":"\\ud800","display_name":"\\udfff"}'),
    ("application/json", b'{"reason":"\\u0000","title":"\\u0000"}'),
    ("application/json", b'{"reason":1,"reason":[]}'),
    ("application/json", b'{"reason":{"a":NaN},"at":1e999,"title":' + b"9" * 5_000 + b"}"),
    ("application/json", b"[" * 20_000),
    ("application/json", b'"' + b"a" * 200_000 + b'"'),
    ("application/json", b"null"),
    ("multipart/form-data", b"no boundary"),
    ("multipart/form-data; boundary=x", _PART * 10_000 + b"--x--\r\n"),
    (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="csrf_token"; filename="a"\r\n\r\na',
    ),
    ("application/xml", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'),
    (_FORM, b""),
    (_FORM, b"=&=&=&%&%zz"),
    (_FORM, b"\x00\xff\xfe"),
    (_FORM, b"%ff=%ff"),
    (_FORM, b"&".join(b"a%d=1" % n for n in range(10_000))),
    (_FORM, b"csrf_token=" + b"x" * 100_000),
)
HEADERS: tuple[Mapping[str, str], ...] = (
    {"accept-language": "zh;q=abc,,;;,en-" + "x" * 5_000},
    {"accept-language": "\xff\xfe"},
    {"range": "bytes=" + ",".join(f"{n}-" for n in range(4_000))},
    {"host": "evil.example"},
    {"host": "[::1"},
    {"host": "a b@c:99999"},
    {"x-forwarded-for": "not, an, address, \xff"},
    {"x-forwarded-for": "1.2.3.4," * 2_000, "x-forwarded-host": "evil.example", "forwarded": "for=_;host=evil"},
    {"authorization": "Bearer " + "x" * 9_000},
    {"authorization": "Basic \xff\xff"},
    {"authorization": "Basic YWFh"},
    {"cookie": "idhub_session=\xff; idhub_browser=; idhub_device=" + "x" * 4_000},
    {"cookie": "idhub_lang=../../x; idhub_theme=<script>; idhub_ended=%00; idhub_browser=" + "\xe9" * 40},
    {"cookie": '=;;=; ""; idhub_session'},
    {"x-user": "admin", "x_forwarded_user": "admin", "x-remote-user": "admin"},
)
METHODS = ("PUT", "TRACE", "OPTIONS", "PROPFIND")
REFUSALS = ("request.refused", "authorization.denied", "authorization.refused", "token.refused")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stage(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """A furnished hub, and a colleague who may do everything."""
    kind: DatabaseKind = request.param
    folder, clock = tmp_path_factory.mktemp("bad"), Clock()
    with databases.fresh(kind, folder, migrated=False) as url:
        settings = Settings(
            data_dir=folder, database_url=url, database_pool_size=8, argon2_memory_kib=1024, argon2_time_cost=1
        )
        hub = replace(open_hub(settings, clock=clock))
        app = create_app(hub, with_worker=False)
        with TestClient(app, base_url=settings.issuer, follow_redirects=False, raise_server_exceptions=False) as http:
            made = Stage(hub, app, clock, folder, http)
            made.furnish()
            _give_roles(made)
            yield made
        hub.close()


def _give_roles(stage: Stage) -> None:
    """The HR colleague administers too; a third person audits, which excludes every other role."""
    stage.import_rows([every_door._row(AUDITOR_NUMBER, "何慕青")], snapshot=False)
    principal_id = ""
    with stage.hub.database.transaction() as session:
        root = root_organization(session)
        for number, role in ((HR_NUMBER, HubRole.ADMINISTRATOR), (AUDITOR_NUMBER, HubRole.AUDITOR)):
            principal_id = find_person(session, number)
            assign_role(session, principal_id, role, organization_id=root, now=stage.clock(), assigned_by="test")
    stage._set_password(principal_id)
    AUDITORS[id(stage)] = browser = stage.browser()
    assert stage.sign_in(browser, AUDITOR_NUMBER)


def _state(stage: Stage) -> dict[str, int]:
    """Row counts of everything but the log, and how often people were changed."""
    found = row_counts(stage.hub.database, with_log=False)
    with stage.hub.database.read() as session:
        return {**found, "versions": int(session.execute(select(func.sum(Principal.version))).scalar_one())}


def _refusals(stage: Stage) -> list[dict[str, Any]]:
    with stage.hub.database.read() as session:
        bodies = session.execute(
            select(audit_events.c.body).where(audit_events.c.type.in_(REFUSALS)).order_by(audit_events.c.id)
        ).scalars()
        return [orjson.loads(body) for body in bodies]


def _address(stage: Stage, path: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        path = path.replace("{" + name + "}", stage.person if value == "PERSON" else value)
    return path


def _judge(answer: Any, said: str) -> None:
    assert answer.status_code < 500 or (answer.status_code == 503 and "retry-after" in answer.headers), said
    assert not [name for name in answer.headers if name.startswith("access-control-")], said
    kind = answer.headers.get("content-type", "")
    if kind.startswith("text/html"):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy, said
        assert answer.headers["x-content-type-options"] == "nosniff", said
        assert answer.headers["referrer-policy"] == "no-referrer", said
        assert answer.headers["cache-control"] == "no-store", said
        assert "<script>alert" not in answer.text and "Traceback" not in answer.text, said
    if answer.status_code >= 400 and answer.status_code != 405:
        is_fault = kind.startswith("text/xml") and "<soap:Fault>" in answer.text
        assert is_fault or kind.startswith("text/html") or "error" in answer.json() or "status" in answer.json(), said


def _attacks(stage: Stage, path: str, case: Case, methods: Iterable[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, address and options of every attack on a route."""
    fits = _address(stage, path, case.values or {})
    for method in sorted(methods):
        is_form = method != "GET"
        for name in case.parameters:
            for value in ("%00", "%ff", "%ed%a0%80", "x" * 9_000, f"a&{name}=b", "%3Cscript%3Ealert(1)"):
                pair = f"{name}={value}"
                if is_form:
                    yield method, fits, {"content": pair.encode(), "headers": {"content-type": _FORM}}
                else:
                    yield method, f"{fits}?{pair}", {}
        if is_form:
            for content_type, body in BODIES:
                yield method, fits, {"content": body, "headers": {"content-type": content_type} if content_type else {}}
        for broken in ("%00", "%ff", "a" * 3_000, "..%2f..%2fetc", "%ed%a0%80", "'%20or%201=1--", "%E2%80%AE"):
            for name in case.values or {}:
                yield method, _address(stage, path, {**(case.values or {}), name: broken}), {}
        for headers in HEADERS:
            yield method, fits, {"headers": {**headers, "origin": "https://evil.example"}}
        yield method, fits + "?" + "&".join(f"p{n}=1" for n in range(3_000)), {"headers": {"origin": "null"}}
    for method in METHODS:
        yield method, fits, {}


def _bytes(options: dict[str, Any]) -> dict[str, Any]:
    headers = options.get("headers", {})
    return {**options, "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]}


def test_every_route_has_a_case(stage: Stage) -> None:
    assert methods_of(stage.app).keys() - CASES.keys() == set()


@pytest.mark.parametrize("path", CASES, ids=[path.strip("/").replace("/", ".") or "portal" for path in CASES])
def test_bad_input_is_refused_clearly_and_changes_nothing(stage: Stage, path: str) -> None:
    methods = methods_of(stage.app).get(path)
    assert methods, "no such route (any more)"
    is_api = path.startswith(("/api/", "/scim/"))
    caller = stage.machine if is_api else AUDITORS[id(stage)] if path.startswith("/audit") else stage.hr_browser
    assert caller is not None
    value = stage._api_token(None, scopes=["scim:write"]) if path.startswith("/scim/") else stage.api_token
    token = {"authorization": f"Bearer {value}"} if is_api else {}
    is_small = stage.hub.database.dialect == "postgresql"
    before = _state(stage)
    for number, (method, address, options) in enumerate(_attacks(stage, path, CASES[path], methods)):
        if is_small and number % 3:
            continue
        # Strangers are sent to the sign-in page nearly everywhere: a part of the attacks will do.
        callers = [(caller, token), *([(stage.machine, {})] if number % 4 == 0 and not is_small else [])]
        for client, more in callers:
            sent = {**options, "headers": {**more, **options.get("headers", {})}}
            answer = client.request(method, address, **_bytes(sent))
            _judge(answer, f"{method} {address[:100]} {str(options)[:200]} -> {answer.status_code} {answer.text[:300]}")
    after = _state(stage)
    if path in HOT_PATHS:
        # Wrong client secrets are counted: that is the limit on guessing.
        before["throttles"] = after["throttles"]
    if path == "/scim/v2/{path:path}":
        # A list that is answered keeps what it rendered; that says nothing which people do not say themselves.
        before["scim_documents"] = after["scim_documents"]
    if path == "/oauth2/logout":
        # An application may ask for a logout without saying anything: that begins a question to the person.
        before["login_transactions"] = after["login_transactions"]
    assert after == before


def test_what_a_signed_in_person_is_refused_is_an_event_of_theirs(stage: Stage) -> None:
    assert stage.hr_browser is not None
    for path in ("/preferences", "/hr/people/{person_id}/suspend", "/account/sessions/end", "/logout"):
        known = len(_refusals(stage))
        address = _address(stage, path, CASES[path].values or {})
        answer = stage.hr_browser.post(address, content=b"a=b", headers={"content-type": "text/plain"})
        assert answer.status_code == 415, "T02"
        (event,) = _refusals(stage)[known:]
        assert (event["type"], event["door"], event["reason"]) == ("request.refused", "console", "form.content_type")
        assert event["actor"]["kind"] == "person" and event["actor"]["session_id"]
        assert event["target"] == {"kind": "page", "id": f"POST {path}"}


def test_what_a_person_may_not_do_is_an_event_of_theirs(stage: Stage) -> None:
    browser = stage.browser()
    assert stage.sign_in(browser, NUMBER)
    known = len(_refusals(stage))
    assert browser.get("/hr/people").status_code == 404
    (event,) = _refusals(stage)[known:]
    assert (event["type"], event["door"], event["person_id"]) == ("authorization.denied", "console", stage.person)


def test_what_a_token_is_refused_is_an_event_of_its_own(stage: Stage) -> None:
    known = len(_refusals(stage))
    token = {"authorization": f"Bearer {stage.api_token}"}
    assert stage.machine.post("/api/v1/people", content=b"{", headers=token).status_code == 422
    (event,) = _refusals(stage)[known:]
    assert (event["type"], event["door"], event["actor"]["kind"]) == ("request.refused", "api", "service")


def test_what_strangers_are_refused_is_counted_by_the_minute(stage: Stage) -> None:
    """Junk does not fill the disk: a thousand requests are a handful of rows."""
    stage.clock.advance(minutes=5)
    assert stage.machine.portal is not None
    services = stage.app.state.services
    stage.machine.portal.call(services.journal.flush)
    known = len(_refusals(stage))
    stage.machine.cookies.clear()
    for _ in range(40):
        stage.machine.post("/login", content=b"a=b", headers={"content-type": "text/plain"})
        stage.machine.post("/api/v1/people", content=b"{")
        stage.machine.post("/oauth2/token", content=b"{")
        stage.machine.get("/no/such/address")
    assert len(_refusals(stage)) == known
    stage.machine.portal.call(services.journal.flush)
    events = _refusals(stage)[known:]
    assert [event["details"]["count"] for event in events] == [40] * 4
    assert {event["door"] for event in events} == {"login", "api", "oidc"}
    assert {event["actor"]["kind"] for event in events} == {"anonymous"}


def test_cookies_of_an_https_hub_are_bound_to_its_host(stage: Stage) -> None:
    settings = stage.hub.settings.model_copy(update={"issuer": "https://id.example"})
    app: FastAPI = create_app(replace(stage.hub, settings=settings), with_worker=False)
    with TestClient(app, base_url="https://id.example", follow_redirects=False) as browser:
        page = browser.get("/login")
        answer = submit(browser, page, "/login", username=HR_NUMBER, password=PASSWORD)
        assert answer.status_code == 303
        given = [*page.headers.get_list("set-cookie"), *answer.headers.get_list("set-cookie")]
        given += browser.post("/preferences", data={"language": "en"}).headers.get_list("set-cookie")
    names = {cookie.partition("=")[0] for cookie in given}
    assert {"__Host-idhub_session", "__Host-idhub_browser", "__Host-idhub_device", "__Host-idhub_lang"} <= names
    for cookie in given:
        attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"httponly", "samesite=lax", "secure", "path=/"} <= attributes, cookie
        assert not [one for one in attributes if one.startswith("domain")], cookie
