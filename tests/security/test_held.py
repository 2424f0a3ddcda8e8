"""While another process writes to SQLite for longer than anybody waits, whatever writes is told to come again.

No answer is a server error, none does half of what was asked, and all of it works when the other has ended.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from providers.saml_wire.bindings import write_soap
from providers.saml_wire.signatures import sign
from tests.flows.every_door import CAS_SERVICE, NUMBER, PASSWORD, WSFED_REALM, Stage, _signed_in, hidden_fields, submit
from tests.security.hall import Hall, open_hall
from tests.support.databases import Databases
from tests.support.row_counts import row_counts

Request = Callable[[], Any]
_SECONDS = 0.05


@pytest.fixture
def held_hall(databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hall]:
    """On SQLite, where nobody is patient."""
    with open_hall("sqlite", databases, tmp_path) as opened:
        monkeypatch.setattr("idhub.db.sqlite._BUSY_TIMEOUT_MS", _SECONDS * 1000)
        monkeypatch.setattr("idhub.credentials.store_sqlite._BUSY_TIMEOUT_S", _SECONDS)
        yield opened


@contextmanager
def held(stage: Stage) -> Iterator[None]:
    with closing(sqlite3.connect(stage.hub.database.engine.url.database or "", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def _machine(stage: Stage) -> dict[str, Request]:
    browser = _signed_in(stage)
    code, other = stage.code(browser, "opaque-app"), stage.code(browser, "opaque-app")
    tokens = stage.redeem("opaque-app", other).json()
    machine, auth = stage.machine, ("opaque-app", stage.secrets["opaque-app"])
    api = {"authorization": f"Bearer {stage.api_token}"}
    scim = {"authorization": f"Bearer {stage._api_token(None, scopes=['scim:write'])}"}
    user = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": "QY777777", "displayName": "新人"}
    patch = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
             "Operations": [{"op": "replace", "value": {"active": False}}]}  # fmt: skip
    bulk = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:BulkRequest"],
            "Operations": [{"method": "POST", "path": "/Users", "bulkId": "a", "data": user}]}  # fmt: skip
    of_person = f"/api/v1/people/{stage.person}"
    address, ticket = f"/scim/v2/Users/{stage.person}", stage.cas_ticket(browser)
    artifact = stage.saml_artifact(browser)
    return {
        "token: code": lambda: stage.redeem("opaque-app", code),
        "token: refresh": lambda: stage.token(
            "opaque-app", grant_type="refresh_token", refresh_token=tokens["refresh_token"]
        ),
        "revoke": lambda: machine.post("/oauth2/revoke", data={"token": tokens["access_token"]}, auth=auth),
        "api: leave": lambda: machine.post(f"{of_person}/offboarding", json={"reason": "test"}, headers=api),
        "api: suspend": lambda: machine.post(f"{of_person}/suspend", json={}, headers=api),
        "scim: create": lambda: machine.post("/scim/v2/Users", json=user, headers=scim),
        "scim: patch": lambda: machine.patch(address, json=patch, headers=scim),
        "scim: delete": lambda: machine.delete(address, headers=scim),
        "scim: bulk": lambda: machine.post("/scim/v2/Bulk", json=bulk, headers=scim),
        "cas: validate": lambda: machine.get("/cas/validate", params={"ticket": ticket, "service": CAS_SERVICE}),
        "cas: serviceValidate": lambda: machine.get(
            "/cas/serviceValidate", params={"ticket": ticket, "service": CAS_SERVICE}
        ),
        "saml: artifact": lambda: _resolved(stage, artifact),
    }


def _resolved(stage: Stage, artifact: str) -> Any:
    question = sign(stage.partner.artifact_resolve(stage.clock(), artifact), stage.partner.signer)
    return stage.machine.post("/saml/artifact", content=write_soap(question))


def _browser(hall: Hall) -> dict[str, Request]:
    stage = hall.stage
    signed_in, new, partner = _signed_in(stage), stage.browser(), stage.partner
    login, logout = new.get("/login"), signed_in.get("/logout")
    invitation = stage.invite(stage.person)
    first = stage.browser()
    first_page = first.get("/login/first", params={"token": invitation})
    hr = stage.hr_browser
    assert hr is not None
    person = hr.get(f"/hr/people/{stage.person}")
    assert all(page.status_code == 200 for page in (login, logout, first_page, person))
    pending = stage.browser()
    sign_in = hidden_fields(stage.authorize(pending, "jwt-app"))
    return {
        "authorize: signed in": lambda: stage.authorize(signed_in, "jwt-app"),
        "login": lambda: submit(new, login, "/login", username=NUMBER, password=PASSWORD),
        "login: of an application": lambda: pending.post(
            "/login", data={**sign_in, "username": NUMBER, "password": PASSWORD},
            headers={"origin": stage.hub.settings.issuer},
        ),
        "login/first": lambda: submit(first, first_page, "/login/first", password=PASSWORD),
        "logout": lambda: submit(signed_in, logout, "/logout"),
        "hr: suspend": lambda: submit(hr, person, f"/hr/people/{stage.person}/suspend", reason="test"),
        "saml: sign-on": lambda: signed_in.get(partner.redirect(partner.authn_request(stage.clock()))),
        "saml: somebody new": lambda: stage.browser().get(partner.redirect(partner.authn_request(stage.clock()))),
        "wsfed": lambda: signed_in.get("/wsfed", params={"wa": "wsignin1.0", "wtrealm": WSFED_REALM}),
        "wsfed: somebody new": lambda: stage.browser().get(
            "/wsfed", params={"wa": "wsignin1.0", "wtrealm": WSFED_REALM}
        ),
        "cas": lambda: signed_in.get("/cas/login", params={"service": CAS_SERVICE}),
        "cas: somebody new": lambda: stage.browser().get("/cas/login", params={"service": CAS_SERVICE}),
    }  # fmt: skip


def _reads(stage: Stage) -> dict[str, Request]:
    browser = _signed_in(stage)
    token = stage.redeem("opaque-app", stage.code(browser, "opaque-app")).json()["access_token"]
    scim = {"authorization": f"Bearer {stage._api_token(None, scopes=['scim:read'])}"}
    auth = ("opaque-app", stage.secrets["opaque-app"])
    machine = stage.machine
    return {
        "introspect": lambda: machine.post("/oauth2/introspect", data={"token": token}, auth=auth),
        "userinfo": lambda: machine.get("/oauth2/userinfo", headers={"authorization": f"Bearer {token}"}),
        "api: people": lambda: machine.get("/api/v1/people", headers={"authorization": f"Bearer {stage.api_token}"}),
        "scim: list": lambda: machine.get("/scim/v2/Users", headers=scim),
        "portal": lambda: browser.get("/"),
        # A first visit leaves nothing behind.
        "authorize: somebody new": lambda: stage.authorize(stage.browser(), "jwt-app"),
        "healthz": lambda: machine.get("/healthz"),
        # Counted when it can be, refused in any case.
        "token: wrong secret": lambda: machine.post(
            "/oauth2/token", data={"grant_type": "refresh_token", "refresh_token": "x"}, auth=("opaque-app", "wrong")
        ),
    }


def test_whoever_writes_while_another_process_does_is_told_to_come_again(held_hall: Hall) -> None:
    stage = held_hall.stage
    requests, reads = {**_machine(stage), **_browser(held_hall)}, _reads(stage)
    before = row_counts(stage.hub.database, with_log=True)
    with held(stage):
        answers = {name: request() for name, request in requests.items()}
        seen = {name: request().status_code for name, request in reads.items()}
    bulk = answers.pop("scim: bulk")
    assert [one["status"] for one in bulk.json()["Operations"]] == ["503"]
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(answers, 503)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers.values())
    assert seen == {**dict.fromkeys(reads, 200), "token: wrong secret": 401}
    assert row_counts(stage.hub.database, with_log=True) == before, "nothing is done by halves"
    # What is spent once was not spent.
    assert requests["token: code"]().status_code == 200
    assert requests["token: refresh"]().status_code == 200
    assert requests["cas: validate"]().text.startswith("yes")
    assert "samlp:Response" in requests["saml: artifact"]().text
    assert requests["login/first"]().status_code == 303
    assert requests["scim: delete"]().status_code == 204
