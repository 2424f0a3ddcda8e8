"""Who may call what: every endpoint against every way of not being allowed to."""

from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from idhub.api.scopes import SCOPES, check_scopes
from idhub.credentials import opaque
from idhub.credentials.tables import ApiToken
from idhub.directory.tables import Principal
from idhub.errors import Invalid
from idhub.lifecycle import intake
from tests.api.world import BODIES, ENDPOINTS, Api, filled

EVERY = sorted(ENDPOINTS)
ABSENT = {"person": "per_0", "case": "cas_0", "delivery": "dlv_0"}


def call(
    api: Api, endpoint: tuple[str, str], token: str | None, *, headers: dict[str, str] | None = None, **names: str
) -> tuple[int, dict[str, object]]:
    method, path = endpoint
    response = api.call(
        method, filled(path, **{**ABSENT, **names}), token=token, json=BODIES.get(endpoint), headers=headers or {}
    )
    return response.status_code, response.json()


def test_every_endpoint_has_its_row(api: Api) -> None:
    """A new endpoint without a row in `ENDPOINTS` fails here."""
    paths = api.app.openapi()["paths"]
    listed = {
        (method.upper(), path.removeprefix("/api/v1"))
        for path, operations in paths.items()
        if path.startswith("/api/v1")
        for method in operations
    }
    assert listed == set(ENDPOINTS)


def test_without_a_working_token_every_endpoint_answers_401_and_nothing_changes(api: Api) -> None:
    person = api.world.hire()
    before = api.state()
    revoked, expired, old = api.token(), api.token(expires=timedelta(seconds=1)), api.token()
    with api.world.database.transaction() as session:
        session.execute(
            update(ApiToken).where(ApiToken.token_hash == opaque.hash_of(revoked)).values(revoked_at=api.world.clock())
        )
    api.world.clock.advance(seconds=1)
    good = api.token("people:write")
    tried = {
        "no token": None,
        "never given out": opaque.make("api"),
        "another kind": opaque.make("at"),
        "cut short": good[:-1],
        "not one": "a b\xe4",
        "revoked": revoked,
        "expired": expired,
    }
    for endpoint in EVERY:
        for name, token in tried.items():
            status, body = call(api, endpoint, token, person=person)
            assert (status, body["error"], body["field"]) == (401, "unauthenticated", "authorization"), (endpoint, name)
        api.http.cookies.set("idhub_session", good)
        assert call(api, endpoint, None, person=person)[0] == 401, "a cookie is no token"
        api.http.cookies.clear()
        assert call(api, endpoint, None, headers={"Authorization": f"Basic {good}"}, person=person)[0] == 401
    api.raise_installation_epoch()
    for endpoint in EVERY:
        assert call(api, endpoint, old, person=person)[0] == 401, "nothing from before a restored backup works"
    assert api.state() == before


def test_a_401_says_how_to_authenticate(api: Api) -> None:
    """RFC 6750 section 3."""
    for path in ("/api/v1/people", "/scim/v2/Users"):
        missing = api.http.get(path)
        assert (missing.status_code, missing.headers["www-authenticate"]) == (401, 'Bearer realm="idhub"')
        assert missing.headers["cache-control"] == "no-store"
        for token in ("nonsense", opaque.make("api")):
            dead = api.http.get(path, headers={"Authorization": f"Bearer {token}"})
            assert dead.status_code == 401
            assert dead.headers["www-authenticate"] == 'Bearer realm="idhub", error="invalid_token"'


def test_a_scope_opens_its_endpoints_and_no_other(api: Api) -> None:
    tokens = {scope: api.token(scope) for scope in SCOPES}
    before = len(api.events("authorization.denied"))
    refused = 0
    for endpoint in EVERY:
        for scope, token in tokens.items():
            status, body = call(api, endpoint, token)
            if scope in ENDPOINTS[endpoint]:
                assert status != 403, (endpoint, scope, body)
            else:
                assert (status, body["error"]) == (403, "not_permitted"), (endpoint, scope)
                refused += 1
    denied = api.events("authorization.denied")[before:]
    assert len(denied) == refused
    assert {event["outcome"] for event in denied} == {"failure"}


def test_a_scope_says_nothing_about_what_exists(api: Api) -> None:
    """403 alike, whether the person, the case or the delivery is there or not."""
    person = api.world.hire()
    api.world.change(intake.Offboard(principal_id=person))
    token = api.token("audit:read")
    delivery, finding = api.world.deliveries()[0].id, api.finding(api.world.hq)
    for endpoint in EVERY:
        there = call(api, endpoint, token, person=person, case=person, delivery=delivery, finding=finding)
        absent = call(api, endpoint, token)
        assert there[0] == absent[0] == 403
        assert {**there[1], "request_id": 0} == {**absent[1], "request_id": 0}


def test_a_company_limit_hides_everybody_else(api: Api) -> None:
    """What lies outside the token's company answers exactly as what does not exist."""
    world = api.world
    anna = world.hire("Anna", employee_number="B1", organization_id=world.berlin)
    gone = world.hire("Gone", employee_number="B2", organization_id=world.berlin)
    world.change(intake.Offboard(principal_id=gone))
    world.hire(employee_number="H1")
    delivery, finding = world.deliveries()[0].id, api.finding(world.berlin)
    before = api.state()
    token = api.token(organization_id=world.hq)
    for endpoint in EVERY:
        if "{" not in endpoint[1]:
            continue
        for hidden in (anna, "B1", "BER/B1", "b1@qiyue.example"):
            there = call(api, endpoint, token, person=hidden, case=gone, delivery=delivery, finding=finding)
            names: Any = {"case": "nothing", "delivery": "nothing", "finding": "nothing"}
            absent = call(api, endpoint, token, person=f"x{hidden}", **names)
            assert there[0] == absent[0] == 404, (endpoint, hidden, there)
            same = {**there[1], "description": "", "request_id": 0} == {**absent[1], "description": "", "request_id": 0}
            assert same, (endpoint, hidden, there, absent)
            shape = str(there[1]["description"]).replace(hidden, "?").replace(gone, "?")
            assert shape == str(absent[1]["description"]).replace(f"x{hidden}", "?").replace("nothing", "?")
    assert api.state() == before


def test_a_company_limit_hides_companies_and_managers_too(api: Api) -> None:
    world = api.world
    boss = world.hire("Boss", employee_number="B1", organization_id=world.berlin)
    mine = world.hire("王磊", employee_number="H1")
    token = api.token(organization_id=world.hq)

    def refused(method: str, path: str, body: dict[str, object]) -> tuple[object, ...]:
        response = api.call(method, path, token=token, json=body)
        answer = response.json()
        return response.status_code, answer["field"], answer["rule"]

    post = {"employee_number": "N1", "start_date": "2026-01-01"}
    for company in ("BER", "Qiyue Berlin", "no such company", world.berlin):
        answer = refused("POST", "/people", {"display_name": "x", "employment": {**post, "company": company}})
        assert answer == (404, "company", "organization.unknown")
        assert refused("POST", f"/people/{mine}/move", {"company": company}) == answer
    for manager in (boss, "B1", "no such manager"):
        answer = refused("POST", f"/people/{mine}/move", {"manager": manager})
        assert answer == (404, "manager", "person.unknown")


def test_a_company_limit_filters_lists(api: Api) -> None:
    world = api.world
    mine = world.hire("王磊")
    world.hire("Anna", organization_id=world.berlin)
    token = api.token(organization_id=world.hq)
    listed = api.call("GET", "/people", token=token).json()
    assert [person["id"] for person in listed["people"]] == [mine]
    assert api.call("GET", "/applications", token=token).json() == {"applications": []}, "those are the group's"
    assert len(api.call("GET", "/people", token=api.token()).json()["people"]) == 2


def test_a_persons_own_token_dies_with_them(api: Api) -> None:
    world = api.world
    owner = world.hire()
    with world.database.read() as session:
        epoch = session.execute(select(Principal.enrolment_epoch).where(Principal.id == owner)).scalar_one()
    token = api.token("people:read", principal_id=owner, enrolment_epoch=epoch)
    assert api.call("GET", "/people", token=token).status_code == 200
    world.change(intake.Suspend(principal_id=owner))
    assert api.call("GET", "/people", token=token).status_code == 401
    world.change(intake.Reactivate(principal_id=owner))
    assert api.call("GET", "/people", token=token).status_code == 200, "a suspension is no new enrolment"
    world.change(intake.Offboard(principal_id=owner))
    assert api.call("GET", "/people", token=token).status_code == 401
    employment = world.facts(starts_on=date(2026, 11, 1))
    world.change(intake.AddEmployment(principal_id=owner, employment=employment))
    assert api.call("GET", "/people", token=token).status_code == 401, "nothing from before a rehire works"


def test_nobody_ends_their_own_access_by_api(api: Api) -> None:
    world = api.world
    owner = world.hire()
    token = api.token("people:write", principal_id=owner, enrolment_epoch=1)
    for path in ("suspend", "offboarding"):
        response = api.call("POST", f"/people/{owner}/{path}", token=token, json={})
        assert (response.status_code, response.json()["rule"]) == (409, "self")


@pytest.mark.parametrize("text", ["", "people", "people:read admin", "role:assign", "*"])
def test_a_scope_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_scopes([text])
    assert (refused.value.field, refused.value.rule) == ("scope", "scope.unknown")


def test_scopes_may_be_said_in_one_breath() -> None:
    assert check_scopes(["people:read, audit:read", "people:read"]) == ("people:read", "audit:read")
