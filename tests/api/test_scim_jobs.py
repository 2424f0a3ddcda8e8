"""Bulk requests that are worked later: accepted, worked, shown, cancelled, and what interrupts them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from idhub import faults
from idhub.api import scim_jobs
from idhub.api.scim import PREFIX
from idhub.api.scim_jobs import has_jobs, purge_jobs, work_jobs
from idhub.credentials.tables import ApiToken
from idhub.directory.kinds import Standing
from idhub.provisioning.inbound.store import KINDS
from idhub.provisioning.inbound.tables import ScimJobOperation
from idhub.provisioning.inbound.terms import Terms, check_terms
from idhub.services import Hub
from idhub.settings import Settings
from scim.schemas import BULK_REQUEST, BULK_RESPONSE, BULK_STATUS, GROUP, USER
from tests.api.test_scim import BASE, Scim
from tests.api.world import Api

ASYNC = {"Prefer": "respond-async, wait=10"}


@pytest.fixture
def scim(api: Api) -> Scim:
    """A sender limited to HQ."""
    return Scim(api, organization_id=api.world.hq)


def _hub(scim: Scim) -> Hub:
    """What the worker works with."""
    world = scim.api.world
    return Hub(Settings(issuer=BASE.removesuffix(PREFIX)), world.database, world.keyring, world.clock, "node-worker")


def _post(name: str, **values: Any) -> dict[str, Any]:
    data = {"schemas": [USER], "userName": f"{name}@corp.example", **values}
    return {"method": "POST", "path": "/Users", "bulkId": name, "data": data}


def _send(scim: Scim, operations: list[Any], **values: Any) -> Any:
    return scim.call("POST", "/Bulk", {"schemas": [BULK_REQUEST], "Operations": operations, **values}, headers=ASYNC)


def _path(answer: Any) -> str:
    return str(answer.headers["location"]).removeprefix(BASE)


def test_accepted_request_is_worked_and_shown(scim: Scim) -> None:
    operations = [
        {
            "method": "POST",
            "path": "/Groups",
            "bulkId": "team",
            "data": {"schemas": [GROUP], "displayName": "Team", "members": [{"value": "bulkId:ada"}]},
        },
        _post("ada"),
        _post("", userName=""),
        {"method": "PATCH", "path": "/Users/bulkId:ada", "data": [{"op": "add", "path": "title", "value": "x"}]},
    ]
    operations[2]["bulkId"] = "nobody"

    accepted = _send(scim, operations)
    waiting = scim.call("GET", _path(accepted))
    users_before = scim.ok("GET", "/Users")["totalResults"]
    done = work_jobs(_hub(scim), seconds=30)
    shown = scim.call("GET", _path(accepted))

    assert (accepted.status_code, accepted.headers["preference-applied"]) == (202, "respond-async")
    assert (waiting.status_code, waiting.json()["status"], waiting.json()["Operations"]) == (202, "waiting", [])
    assert waiting.headers["retry-after"] == "1"
    assert (users_before, done) == (0, 4)
    document = shown.json()
    assert shown.status_code == 200
    assert document["schemas"] == [BULK_RESPONSE, BULK_STATUS]
    assert [document[part] for part in ("status", "total", "done", "errors")] == ["done", 4, 4, 1]
    assert [each["status"] for each in document["Operations"]] == ["201", "201", "400", "200"]
    assert document["Operations"][2]["response"]["scimType"] == "invalidValue"
    ada = document["Operations"][1]["location"].removeprefix(BASE)
    team = scim.ok("GET", document["Operations"][0]["location"].removeprefix(BASE))
    assert (scim.ok("GET", ada)["title"], team["members"][0]["value"]) == ("x", ada.rpartition("/")[2])
    assert [event["door"] for event in scim.api.events("person.onboarded")] == ["scim"]
    assert len(scim.api.events("scim_job.accepted")) == len(scim.api.events("scim_job.ended")) == 1
    assert scim.api.events("request.refused")[-1]["reason"] == "invalidValue"


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_results_are_read_in_pages(scim: Scim) -> None:
    accepted = _send(scim, [_post(f"u{number}") for number in range(5)])
    work_jobs(_hub(scim), seconds=30)

    page = scim.ok("GET", _path(accepted), params={"startIndex": 4, "count": 1})

    assert [each["bulkId"] for each in page["Operations"]] == ["u3"]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_what_was_sent_is_sealed_and_forgotten_when_it_is_done(scim: Scim) -> None:
    _send(scim, [_post("canary-name"), _post("other")])
    with scim.api.world.database.read() as session:
        before = session.execute(select(ScimJobOperation.sent)).scalars().all()
    work_jobs(_hub(scim), seconds=30)
    with scim.api.world.database.read() as session:
        after = session.execute(select(ScimJobOperation.sent)).scalars().all()

    assert all(sent is not None and b"canary-name" not in sent for sent in before)
    assert after == [None, None]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_delete_cancels_what_is_not_done(scim: Scim) -> None:
    accepted = _send(scim, [_post("ada"), _post("bo")])

    cancelled = scim.call("DELETE", _path(accepted))
    worked = work_jobs(_hub(scim), seconds=30)
    shown = scim.ok("GET", _path(accepted))

    assert (cancelled.status_code, worked, shown["status"], shown["done"]) == (204, 0, "cancelled", 0)
    assert scim.ok("GET", "/Users")["totalResults"] == 0
    assert scim.call("DELETE", _path(accepted)).status_code == 204


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_errors_end_the_job_where_the_sender_says_so(scim: Scim) -> None:
    operations = [_post("a", userName=""), _post("b", userName=""), _post("c")]

    accepted = _send(scim, operations, failOnErrors=2)
    work_jobs(_hub(scim), seconds=30)
    shown = scim.ok("GET", _path(accepted))

    assert [shown[part] for part in ("status", "done", "errors")] == ["done", 2, 2]
    assert scim.ok("GET", "/Users")["totalResults"] == 0


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("point", ["commit.before", "commit.after"])
def test_job_goes_on_after_a_crash_and_does_nothing_twice(
    scim: Scim, point: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies in, or just after, the commit of the effect: of two made together, or of one made alone."""
    accepted = _send(scim, [_post("ada"), _post("bo"), _post("cy", active=False)])
    crossed = 0

    class _Killed(BaseException):
        pass

    def die(name: str) -> None:
        nonlocal crossed
        crossed += name == point
        if name == point and crossed == number:
            raise _Killed

    monkeypatch.setattr(faults, "at", die)
    with pytest.raises(_Killed):
        work_jobs(_hub(scim), seconds=30)
    monkeypatch.undo()
    work_jobs(_hub(scim), seconds=30)
    shown = scim.ok("GET", _path(accepted))

    assert [shown[part] for part in ("status", "total", "done", "errors")] == ["done", 3, 3, 0]
    assert scim.ok("GET", "/Users")["totalResults"] == 3
    assert len(scim.api.events("person.onboarded")) == 3


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_fault_of_ours_is_one_operations_alone(scim: Scim, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = _send(scim, [_post("ada"), _post("bo")])
    crossed = 0

    def fail(name: str) -> None:
        nonlocal crossed
        crossed += name == "commit.before"
        if name == "commit.before" and crossed in {1, 2}:
            # Of both together, then of the first alone.
            raise ZeroDivisionError

    monkeypatch.setattr(faults, "at", fail)
    work_jobs(_hub(scim), seconds=30)
    shown = scim.ok("GET", _path(accepted))

    assert [each["status"] for each in shown["Operations"]] == ["500", "201"]
    assert [shown[part] for part in ("status", "done", "errors")] == ["done", 2, 1]
    assert "ZeroDivisionError" not in str(shown)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_what_cannot_be_opened_any_more_ends_the_job(scim: Scim) -> None:
    """As after the loss of the master key."""
    accepted = _send(scim, [_post("ada")])
    with scim.api.world.database.transaction() as session:
        session.execute(update(ScimJobOperation).values(sent=b"nonsense"))

    work_jobs(_hub(scim), seconds=30)

    assert scim.ok("GET", _path(accepted))["status"] == "cancelled"
    assert scim.ok("GET", "/Users")["totalResults"] == 0


def test_two_workers_at_once_do_each_operation_once(scim: Scim) -> None:
    """What a lease that was lost, and not noticed, comes to."""
    from concurrent.futures import ThreadPoolExecutor

    accepted = _send(scim, [_post(f"u{number}") for number in range(12)])
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: work_jobs(_hub(scim), seconds=30), range(3)))
    work_jobs(_hub(scim), seconds=30)
    shown = scim.ok("GET", _path(accepted))

    assert sum(done) <= 12
    assert [shown[part] for part in ("status", "done", "errors")] == ["done", 12, 0]
    assert scim.ok("GET", "/Users")["totalResults"] == 12


@pytest.mark.parametrize("end", ["revoked", "expired", "installation", "terms"])
def test_token_that_ends_meanwhile_does_nothing_more(scim: Scim, end: str) -> None:
    user = scim.user()
    _send(scim, [{"method": "DELETE", "path": f"/Users/{user['id']}"}])
    now = scim.api.world.clock()
    ways: dict[str, dict[str, Any]] = {
        "revoked": {"revoked_at": now},
        "expired": {"expires_at": now},
        "installation": {"installation_epoch": 0},
        "terms": {"terms": {"of_2030": True}},
    }
    with scim.api.world.database.transaction() as session:
        session.execute(update(ApiToken).values(**ways[end]))

    assert work_jobs(_hub(scim), seconds=30) == 0
    assert Standing(scim.api.world.principal(user["id"]).standing) == Standing.ACTIVE
    assert scim.api.events("scim_job.ended")[-1]["details"]["status"] == "cancelled"
    assert not has_jobs(scim.api.world.database)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_job_is_its_senders_alone(scim: Scim) -> None:
    accepted = _send(scim, [_post("ada")])
    path = _path(accepted)
    other = Scim(scim.api, organization_id=scim.api.world.hq, name="other")
    elsewhere = Scim(scim.api, organization_id=scim.api.world.berlin)
    renewed = Scim(scim.api, organization_id=scim.api.world.hq)

    answers = [sender.call(verb, path) for sender in (other, elsewhere) for verb in ("GET", "DELETE")]

    assert [answer.status_code for answer in answers] == [404] * 4
    assert renewed.call("GET", path).status_code == 202
    assert work_jobs(_hub(scim), seconds=30) == 1


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_reading_token_asks_for_nothing(scim: Scim) -> None:
    reader = Scim(scim.api, "scim:read", organization_id=scim.api.world.hq)

    assert _send(reader, [_post("ada")]).status_code == 403
    assert not has_jobs(scim.api.world.database)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_company_limit_and_terms_hold_when_an_operation_is_done(scim: Scim) -> None:
    other = scim.api.world.hire("Jana", organization_id=scim.api.world.berlin, employee_number="B1")
    terms = check_terms(Terms(writable=frozenset({"userName"})), KINDS).as_json()
    limited = Scim(scim.api, organization_id=scim.api.world.hq, terms=terms)
    user = scim.user()

    jobs = [
        _send(scim, [{"method": "DELETE", "path": f"/Users/{other}"}]),
        _send(limited, [{"method": "DELETE", "path": f"/Users/{user['id']}"}]),
    ]
    work_jobs(_hub(scim), seconds=30)

    results = [
        sender.ok("GET", _path(job))["Operations"][0]["status"]
        for sender, job in zip((scim, limited), jobs, strict=True)
    ]
    assert results == ["404", "403"]


def test_rate_of_the_token_paces_the_job_and_lets_others_go_on(scim: Scim) -> None:
    terms = check_terms(Terms(calls_a_minute=3), KINDS).as_json()
    slow = Scim(scim.api, organization_id=scim.api.world.hq, terms=terms, name="slow")
    first = _send(slow, [_post(f"s{number}") for number in range(4)])
    second = _send(scim, [_post("fast")])

    done = work_jobs(_hub(scim), seconds=30)
    scim.api.world.at(scim.api.world.clock() + timedelta(minutes=1))
    later = work_jobs(_hub(scim), seconds=30)

    assert (done, later) == (3, 2)
    assert slow.ok("GET", _path(first))["status"] == "done"
    assert scim.ok("GET", _path(second))["status"] == "done"


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_limits_are_said_and_kept(scim: Scim) -> None:
    said = scim.ok("GET", "/ServiceProviderConfig")["bulk"]
    later = scim.ok("GET", "/ServiceProviderConfig", headers=ASYNC)["bulk"]
    one = [_post("a")]

    many = _send(scim, [_post(f"u{number}") for number in range(said["maxOperations"] + 1)])
    too_many = _send(scim, [{"method": "DELETE", "path": "/Users/x"}] * (later["maxOperations"] + 1))
    open_ = [_send(scim, one) for _ in range(10)]

    assert (said["maxOperations"], later["maxOperations"]) == (1_000, 20_000)
    assert (many.status_code, too_many.status_code) == (202, 413)
    assert [answer.status_code for answer in open_] == [202] * 9 + [429]
    assert open_[-1].headers["retry-after"] == "60"


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("GET", "/Bulk/nothing", 404),
        ("DELETE", "/Bulk/nothing", 404),
        ("PATCH", "/Bulk/nothing", 405),
        ("GET", "/Bulk", 405),
    ],
)
def test_address_of_no_job(scim: Scim, verb: str, path: str, status: int) -> None:
    assert scim.call(verb, path).status_code == status


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_results_are_forgotten_after_a_week(scim: Scim) -> None:
    accepted = _send(scim, [_post("ada")])
    work_jobs(_hub(scim), seconds=30)
    early = purge_jobs(scim.api.world.database, now=scim.api.world.clock() + timedelta(days=6))
    late = purge_jobs(scim.api.world.database, now=scim.api.world.clock() + timedelta(days=8))

    assert (early, late) == (0, 1)
    assert scim.call("GET", _path(accepted)).status_code == 404
    assert timedelta(days=7) == scim_jobs.KEPT
