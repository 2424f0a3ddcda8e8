"""What every answer carries, whichever route gives it; which words of a request nobody believes."""

import re
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.flows.test_bad_input import CASES
from tests.security.hall import Hall, open_hall
from tests.support.databases import Databases
from tests.support.routes import methods_of

PUBLIC = {
    "/.well-known/idhub-keys", "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration",
    "/oauth2/jwks", "/login/saml/metadata", "/saml/metadata", "/wsfed/metadata",
    "/FederationMetadata/2007-06/FederationMetadata.xml",
    "/static/{version}/{name:path}",
}  # fmt: skip
"""What may be kept by a cache, because it is the same for everybody."""
HOSTILE_HOSTS = ("evil.example", "127.0.0.1:8000.evil.example", "127.0.0.1:8000@evil.example", "[::1]", "a b")
FORWARDED = {
    "x-forwarded-host": "evil.example",
    "x-forwarded-proto": "https",
    "x-forwarded-port": "444",
    "x-forwarded-prefix": "/evil",
    "forwarded": "host=evil.example;proto=https",
    "x-original-url": "/admin",
    "x-rewrite-url": "/admin",
    "x-host": "evil.example",
}
CLAIMED = {
    "x-user": "QY000012", "x_forwarded_user": "QY000012", "x-forwarded-user": "QY000012", "x-remote-user": "QY000012",
    "remote-user": "QY000012", "x-forwarded-email": "qy000012@qiyue.example", "x-ssl-client-cert": "AAAA",
    "x-authenticated-userid": "QY000012",
}  # fmt: skip


def addresses(hall: Hall) -> Iterator[tuple[str, str, str]]:
    """Method, path and address of every route, with values that fit."""
    for path, methods in sorted(methods_of(hall.app).items()):
        address = path
        for name, value in (CASES[path].values or {}).items():
            address = address.replace("{" + name + "}", hall.stage.person if value == "PERSON" else value)
        for method in sorted(methods):
            yield method, path, address


def callers(hall: Hall) -> Iterator[tuple[TestClient, dict[str, str]]]:
    yield hall.stranger(), {}
    yield hall.browsers["hr"], {}
    yield hall.stage.machine, {"authorization": f"Bearer {hall.stage.api_token}"}


def test_every_answer_of_every_route_protects_itself(small_hall: Hall) -> None:
    """ASVS 3.4; RFC 9700 sections 4.2, 4.3 and 4.16; T16."""
    for browser, headers in callers(small_hall):
        for method, path, address in addresses(small_hall):
            for sent in (method, "PUT"):
                answer = small_hall.request(browser, sent, address, headers=headers)
                said = f"{sent} {address} -> {answer.status_code} {dict(answer.headers)}"
                assert answer.headers["x-content-type-options"] == "nosniff", said
                assert answer.headers["referrer-policy"] == "no-referrer", said
                kept = answer.headers.get("cache-control", "")
                assert kept == "no-store" or path in PUBLIC, said
                kind = answer.headers.get("content-type", "")
                if kind.startswith("text/html") or (path not in PUBLIC | {"/oauth2/token"} and "/oauth2/" not in path):
                    policy = answer.headers.get("content-security-policy", "")
                    assert "default-src 'none'" in policy, said
                    assert "frame-ancestors 'none'" in policy, said
                    assert "unsafe" not in policy, said
                assert "server" not in answer.headers, said
                assert not [name for name in answer.headers if name.startswith("access-control-")], said
                assert answer.status_code != 307, "RFC 9700 section 4.12"


def test_no_other_site_reads_anything(small_hall: Hall) -> None:
    """T11: no Origin is ever allowed, `null` neither."""
    for browser, headers in callers(small_hall):
        for method, _, address in addresses(small_hall):
            for origin, sent in (("https://evil.example", "OPTIONS"), ("null", method)):
                asked = {"origin": origin, "access-control-request-method": method, **headers}
                answer = small_hall.request(browser, sent, address, headers=asked)
                allowed = [name for name in answer.headers if name.startswith("access-control-")]
                assert not allowed, (sent, address, allowed)


def test_no_header_of_a_request_changes_where_the_hub_believes_to_be(small_hall: Hall) -> None:
    """T06: Host and its relatives make no address, in no answer of any route."""
    for browser, headers in callers(small_hall):
        for method, _, address in addresses(small_hall):
            is_small = address in {"/login", "/", "/oauth2/authorize", "/.well-known/openid-configuration"}
            hosts = HOSTILE_HOSTS if is_small else HOSTILE_HOSTS[:1]
            for forged in ({**FORWARDED, "host": host} for host in hosts):
                answer = small_hall.request(browser, method, address, headers={**headers, **forged})
                assert answer.status_code < 500 or "retry-after" in answer.headers, (address, forged)
                assert "evil" not in answer.text, (address, forged)
                assert "evil" not in str(answer.headers), (address, forged)


def test_nobody_is_who_a_header_says(small_hall: Hall) -> None:
    """G04, T07: spoofed identity headers open nothing, with hyphen or underscore."""
    stranger = small_hall.stranger()
    for method, path, address in addresses(small_hall):
        plain = small_hall.request(stranger, method, address)
        forged = small_hall.request(stranger, method, address, headers=CLAIMED)
        assert forged.status_code == plain.status_code, path
        where = [re.sub(r"(?<=transaction=)[^&]+", "", one.headers.get("location", "")) for one in (plain, forged)]
        assert where[0] == where[1], path


def test_a_method_is_what_the_request_line_says(small_hall: Hall) -> None:
    """Neither a header nor a field turns a read into a change."""
    from tests.api.world import ENDPOINTS

    names = ("x-http-method-override", "x-http-method", "x-method-override")
    token = {"authorization": f"Bearer {small_hall.stage.api_token}"}
    person = small_hall.people["employee"]
    machine = small_hall.stage.machine
    assert ("PATCH", "/people/{person}") in ENDPOINTS
    for method in ("DELETE", "PATCH", "POST"):
        for name in names:
            overridden = machine.get(f"/api/v1/people/{person}", headers={**token, name: method})
            assert overridden.status_code == 200
        assert machine.get(f"/api/v1/people/{person}?_method={method}", headers=token).status_code == 422
        posted = machine.post(
            f"/api/v1/people/{person}/suspend", json={"_method": "DELETE"}, headers={**token, names[0]: "DELETE"}
        )
        assert posted.status_code == 422
    assert machine.get(f"/api/v1/people/{person}", headers=token).json()["standing"] == "active"


def test_https_brings_hsts_and_cookies_bound_to_the_host(
    databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """ASVS 3.3.1, 3.4.1; RFC 6797: on every page, and no cookie without Secure."""
    folder = tmp_path_factory.mktemp("https")
    with open_hall("sqlite", databases, folder, issuer="http://127.0.0.1:8000") as plain:
        page = plain.stranger().get("/login")
        assert "strict-transport-security" not in page.headers
        assert "secure" not in page.headers["set-cookie"].lower()
        from dataclasses import replace

        from idhub.app import create_app

        settings = plain.stage.hub.settings.model_copy(update={"issuer": "https://id.example"})
        app = create_app(replace(plain.stage.hub, settings=settings), with_worker=False)
        with TestClient(app, base_url="https://id.example", follow_redirects=False) as browser:
            for address in ("/login", "/", "/api/v1/people", "/nothing", "/healthz", "/static/x/nothing.css"):
                answer = browser.get(address)
                assert answer.headers["strict-transport-security"] == "max-age=31536000", address
                for cookie in answer.headers.get_list("set-cookie"):
                    assert cookie.startswith("__Host-idhub_"), cookie
                    assert "; secure" in cookie.lower(), cookie
