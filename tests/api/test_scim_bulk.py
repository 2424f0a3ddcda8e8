"""People made together: a bulk request does what its operations would do alone, only in fewer transactions."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from sqlalchemy import event, update

from idhub.api.scim_jobs import work_jobs
from idhub.credentials.tables import ApiToken
from idhub.directory.tables import Installation, Principal
from idhub.provisioning.inbound.extensions import register
from idhub.provisioning.inbound.store import KINDS
from idhub.provisioning.inbound.tables import ScimJobOperation
from idhub.provisioning.inbound.terms import Terms, check_terms
from scim.schemas import BULK_REQUEST, ENTERPRISE_USER, PATCH_OP, USER
from tests.api.test_scim import Scim
from tests.api.test_scim_jobs import ASYNC, _hub, _path
from tests.api.world import Api

_BADGE = "urn:corp:params:scim:schemas:Badge"


@pytest.fixture
def scim(api: Api) -> Scim:
    """A sender limited to HQ."""
    return Scim(api, organization_id=api.world.hq)


@pytest.fixture
def another(api: Api) -> Scim:
    """Another one."""
    return Scim(api, organization_id=api.world.hq, name="another")


def _post(name: str, enterprise: Any = None, **values: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"schemas": [USER], "userName": f"{name}@corp.example", **values}
    if enterprise is not None:
        data[ENTERPRISE_USER] = enterprise
    return {"method": "POST", "path": "/Users", "bulkId": name, "data": data}


def _bulk(scim: Scim, operations: list[Any], **values: Any) -> list[Any]:
    body = {"schemas": [BULK_REQUEST], "Operations": operations, **values}
    shown: list[Any] = scim.ok("POST", "/Bulk", body)["Operations"]
    return shown


def _questions(api: Api) -> list[str]:
    """Filled with what the database is asked from now on; what it is told goes in parts of several rows."""
    seen: list[str] = []

    @event.listens_for(api.world.database.engine, "before_cursor_execute")
    def _keep(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("SELECT"):
            seen.append(statement)

    return seen


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_questions_of_a_load_do_not_grow_with_its_people(scim: Scim) -> None:
    _bulk(scim, [_post("warm1"), _post("warm2")])
    seen = _questions(scim.api)

    few = _bulk(scim, [_post(f"few{n}", {"department": "a/b"}, externalId=f"f{n}") for n in range(3)])
    of_few = len(seen)
    many = _bulk(scim, [_post(f"many{n}", {"department": "a/b"}, externalId=f"m{n}") for n in range(40)])

    assert {each["status"] for each in few + many} == {"201"}
    assert len(seen) - of_few <= of_few


def _load(chance: random.Random, suffix: str) -> list[dict[str, Any]]:
    """People who follow each other, some of whom cannot be made, or only alone."""
    operations = []
    for number in range(14):
        name = f"p{number}.{suffix}"
        values: dict[str, Any] = {"externalId": f"{suffix}-x{number}"}
        enterprise: dict[str, Any] = {"employeeNumber": f"N{number}.{suffix}"}
        match chance.randrange(12):
            case 0:
                values["externalId"] = f"{suffix}-x{chance.randrange(14)}"
            case 1:
                enterprise["employeeNumber"] = f"N{chance.randrange(14)}.{suffix}"
            case 2:
                values["emails"] = [{"value": f"p{chance.randrange(14)}.{suffix}@corp.example", "type": "work"}]
            case 3:
                enterprise["manager"] = {"value": f"{suffix}-x{chance.randrange(14)}"}
            case 4:
                values["active"] = False
            case 5:
                values["displayName"] = chance.choice(["", "x" * 300, "Name\u202e", 7])
            case 6:
                values["userName"] = chance.choice([" ", f"leaver.{suffix}@corp.example", "P0." + suffix])
            case 7:
                enterprise["employeeNumber"] = f"GONE.{suffix}"
            case 8:
                values[_BADGE] = {"number": str(chance.randrange(3)) + suffix}
            case 9:
                enterprise["organization"] = chance.choice(["HQ", "BER", "nowhere"])
            case 10:
                values["phoneNumbers"] = [
                    {"value": f"+49 30 1234{chance.randrange(2)}{ord(suffix[0])}", "type": "mobile"}
                ]
        operations.append(_post(name, enterprise, **values))
    return operations


@pytest.mark.parametrize("seed", range(3))
def test_load_comes_to_what_its_operations_come_to_alone(scim: Scim, another: Scim, seed: int) -> None:
    """The same answers, people and events, whether people are made together or each by a request."""
    _with_badges(scim.api)
    answers, people, events = {}, {}, {}
    for sender, suffix in ((scim, "aa"), (another, "bb")):
        gone = sender.user(f"leaver.{suffix}@corp.example", {"employeeNumber": f"GONE.{suffix}"})
        sender.call("DELETE", f"/Users/{gone['id']}")
        before = len(sender.api.events())

        load = _load(random.Random(seed), suffix)
        told = _bulk(sender, load) if sender is scim else [_alone(sender, operation) for operation in load]
        answers[suffix] = [_plain(each, suffix) for each in told]
        events[suffix] = sorted(
            (each["type"], each["outcome"], str(each.get("reason"))) for each in sender.api.events()[before:]
        )
        listed = sender.found("Users", f'userName co "{suffix}"')
        people[suffix] = sorted(orjson.dumps(_plain(each, suffix), option=orjson.OPT_SORT_KEYS) for each in listed)

    assert answers["aa"] == answers["bb"]
    assert people["aa"] == people["bb"]
    assert events["aa"] == events["bb"]
    assert {each["status"] for each in answers["aa"]} > {"201"}


def _alone(scim: Scim, operation: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request, in the words of a bulk request."""
    answer = scim.call("POST", operation["path"], operation["data"])
    told = {"method": "POST", "status": str(answer.status_code), "bulkId": operation["bulkId"]}
    return told if answer.status_code == 201 else {**told, "response": answer.json()}


def _with_badges(api: Api) -> None:
    badge = {"name": "number", "type": "string", "caseExact": False, "uniqueness": "server"}
    with api.world.database.transaction() as session:
        described = {"schema": _BADGE, "name": "Badge", "description": "Badge", "attributes": [badge]}
        register(session, described, now=api.world.clock())


def _plain(document: Any, suffix: str) -> Any:
    """Without what differs from sender to sender."""
    if isinstance(document, dict):
        apart = {"id", "meta", "location", "version", "$ref"}
        plain = {key: _plain(value, suffix) for key, value in document.items() if key not in apart}
        if isinstance(plain.get("manager"), dict) and str(plain["manager"].get("value", "")).startswith("per_"):
            plain["manager"] = "somebody"
        return plain
    if isinstance(document, list):
        return [_plain(each, suffix) for each in document]
    if isinstance(document, str):
        return document.replace(str(ord(suffix[0])), "~").replace(suffix, "~")
    return document


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_errors_are_counted_in_order_where_people_are_made_together(scim: Scim) -> None:
    operations = [_post("a"), _post("b"), _post("c", userName=""), _post("d"), _post("e")]

    answers = _bulk(scim, operations, failOnErrors=1)

    assert [each["status"] for each in answers] == ["201", "201", "400"]
    assert {each["userName"] for each in scim.ok("GET", "/Users")["Resources"]} == {
        "a@corp.example",
        "b@corp.example",
    }


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_who_is_managed_by_somebody_of_the_load_finds_them(scim: Scim) -> None:
    boss = _post("boss", {"employeeNumber": "N1"}, externalId="b")
    _bulk(scim, [boss, _post("ada", {"manager": {"value": "N1"}}), _post("bo", {"manager": {"value": "b"}})])

    found = scim.found("Users", 'userName eq "boss@corp.example"')[0]["id"]
    managers = [
        scim.found("Users", f'userName eq "{name}@corp.example"')[0][ENTERPRISE_USER]["manager"]["value"]
        for name in ("ada", "bo")
    ]
    assert managers == [found, found]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_people_made_together_count_like_those_made_alone(api: Api) -> None:
    terms = check_terms(Terms(calls_a_minute=4), KINDS).as_json()
    scim = Scim(api, organization_id=api.world.hq, terms=terms)

    answers = _bulk(scim, [_post(f"u{number}") for number in range(6)])

    assert [each["status"] for each in answers] == ["201"] * 4 + ["429"] * 2


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "odd", ['{"schemas": ["a"], "userName": "\\ud800"}', '{"n": 100000000000000000000000000000}', '"text"', "[1]"]
)
def test_data_that_no_request_could_hold_is_refused_alone(scim: Scim, odd: str, later: bool) -> None:
    """Halves of surrogate pairs and numbers beyond 64 bits are JSON, but nothing that is stored or sent on."""
    bad = orjson.dumps(_post("bad")).decode().replace(orjson.dumps(_post("bad")["data"]).decode(), odd)
    good = orjson.dumps(_post("ada")).decode()
    body = f'{{"schemas": ["{BULK_REQUEST}"], "Operations": [{bad}, {good}]}}'
    headers = {"Authorization": f"Bearer {scim.token}", "Content-Type": "application/scim+json"}

    answer = scim.api.http.post("/scim/v2/Bulk", content=body.encode(), headers={**headers, **(ASYNC if later else {})})
    if later and answer.status_code == 202:
        work_jobs(_hub(scim), seconds=30)
        answer = scim.call("GET", _path(answer))

    assert answer.status_code in {200, 400}, answer.text
    if answer.status_code == 200:
        assert [each["status"] for each in answer.json()["Operations"]] == ["400", "201"]
    assert scim.api.events("request.refused")


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_job_that_another_process_works_is_left_to_it(scim: Scim) -> None:
    """One operation of several was done elsewhere meanwhile: none of them is done a second time."""
    body = {"schemas": [BULK_REQUEST], "Operations": [_post("ada"), _post("bo"), _post("cy")]}
    scim.call("POST", "/Bulk", body, headers=ASYNC)
    database = scim.api.world.database

    done: list[bool] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def _another(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("INSERT INTO search_runs") and not done:
            done.append(True)
            cursor.execute("UPDATE scim_job_operations SET is_done = 1 WHERE place = 1")

    assert work_jobs(_hub(scim), seconds=30) == 0
    assert scim.ok("GET", "/Users")["totalResults"] == 0
    with database.transaction() as session:
        session.execute(update(ScimJobOperation).where(ScimJobOperation.place == 1).values(is_done=True, sent=None))
    work_jobs(_hub(scim), seconds=30)
    assert {each["userName"] for each in scim.ok("GET", "/Users")["Resources"]} == {
        "ada@corp.example",
        "cy@corp.example",
    }


@pytest.mark.parametrize("end", ["revoked", "expired", "installation", "left"])
def test_token_that_ends_within_a_load_does_nothing_more(api: Api, end: str) -> None:
    """A load of a thousand operations takes seconds: each asks again whether its token works."""
    owner = api.world.hire()
    epoch = api.world.principal(owner).enrolment_epoch
    scim = Scim(api, organization_id=api.world.hq, principal_id=owner, enrolment_epoch=epoch)
    users = [scim.user(f"u{number}")["id"] for number in range(3)]
    patch = {"schemas": [PATCH_OP], "Operations": [{"op": "replace", "path": "title", "value": "new"}]}
    ways = {
        "revoked": update(ApiToken).values(revoked_at=api.world.clock()),
        "expired": update(ApiToken).values(expires_at=api.world.clock()),
        "installation": update(Installation).values(epoch=Installation.epoch + 1),
        "left": update(Principal).where(Principal.id == owner).values(standing="left"),
    }
    ended = [ways[end]]

    @event.listens_for(api.world.database.engine, "before_cursor_execute")
    def _end(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        # With what the first operation changes.
        if statement.startswith("UPDATE employments") and ended:
            connection.execute(ended.pop())

    answers = _bulk(scim, [{"method": "PATCH", "path": f"/Users/{user}", "data": patch} for user in users])

    assert [each["status"] for each in answers] == ["200", "401", "401"]
    assert [api.world.employments(user)[0].title for user in users] == ["new", None, None]
