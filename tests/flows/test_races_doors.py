"""Two doors end one person's employment at the same moment, over several processes, on both databases.

Whatever the order: one ending with its event, one case with its receipts, one logout an application; both are answered,
and nobody is told of a fault of the hub. Beside `test_races_ending`, whose races are within one door.
"""

import csv
import http.client
import json
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations_with_replacement, product
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import func, select

from idhub.changes import COMMAND_LINE
from idhub.delivery.tables import Delivery
from idhub.directory.kinds import Standing
from idhub.directory.tables import Principal
from idhub.lifecycle import commands
from idhub.lifecycle.hr_import import import_file
from idhub.lifecycle.tables import Case, Receipt
from providers.hr_file import COLUMNS
from tests.flows.cluster_races import Crowd
from tests.lifecycle.world import CALLER
from tests.support.cluster import COMPANY, Cluster, Someone

APART = (0.0, 0.004, -0.004)
"""Seconds by which the second door is later; each pair takes the next one."""


Act = Callable[[Cluster, Someone], Any]
"""What somebody does through a door; raises when the door does not answer as it should."""


def _http(
    process: int, method: str, path: str, body: Any = None, *, scopes: tuple[str, ...] = ("people:write",)
) -> Act:
    """A request to one of the processes; 404 and 409 are answers, to whoever comes too late."""

    def act(cluster: Cluster, person: Someone) -> int:
        token = cluster.api_token if scopes == ("people:write",) else cluster.api_token_of(None, scopes=scopes)
        wire = http.client.HTTPConnection("127.0.0.1", cluster.ports[process], timeout=60)
        wire.request(
            method,
            path.format(person=person.id),
            None if body is None else json.dumps(body),
            {"authorization": f"Bearer {token}", "content-type": "application/json"},
        )
        answer = wire.getresponse()
        said = answer.read()
        wire.close()
        assert answer.status in {200, 201, 204, 404, 409}, (answer.status, said)
        return answer.status

    return act


def _scim(method: str, **values: Any) -> Act:
    patch = {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
        "Operations": [{"op": "replace", "value": values}],
    }
    path = "/scim/v2/Users/{person}"
    return _http(1, method, path, patch if values else None, scopes=("scim:read", "scim:write"))


def _command_line(cluster: Cluster, person: Someone) -> None:
    with cluster.hub.database.transaction() as session:
        commands.offboard(session, CALLER, person.id, now=cluster.hub.clock())


def _hr_file(**values: str) -> Act:
    def act(cluster: Cluster, person: Someone) -> None:
        path = cluster.folder / f"hr-{secrets.token_hex(4)}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            row = {
                "employee_number": person.number, "name": f"林{person.number}", "company": COMPANY,
                "department": "研发",
                "email": f"{person.number.lower()}@qiyue.example", "employment_type": "regular",
                "start_date": "2020-01-01", "status": "active",
            }  # fmt: skip
            writer.writerow(row | values)
        now = cluster.hub.clock()
        import_file(
            cluster.hub.database, path, keyring=cluster.hub.keyring, snapshot=False, dry_run=False, now=now,
            actor=COMMAND_LINE,
        )  # fmt: skip

    return act


LEAVES: Mapping[str, Act] = {
    "api": _http(0, "POST", "/api/v1/people/{person}/offboarding", {}),
    "scim": _scim("DELETE"),
    "cli": _command_line,
    "hr_file": _hr_file(status="left"),
}
OTHERS: Mapping[str, Act] = {
    "rehire": _http(
        1, "POST", "/api/v1/people/{person}/employments",
        {"company": COMPANY, "employee_number": "again", "start_date": "2020-01-01"},
    ),
    "transfer": _http(1, "POST", "/api/v1/people/{person}/move", {"title": "Lead", "department": "研发/平台"}),
    "scim name": _scim("PATCH", displayName="林改名"),
    "scim inactive": _scim("PATCH", active=False),
    "file row": _hr_file(title="经理"),
}  # fmt: skip


def _together(cluster: Cluster, person: Someone, apart: float, first: Act, second: Act) -> list[Any]:
    start = Barrier(2)

    def act(what: Act, seconds: float) -> Any:
        start.wait()
        time.sleep(seconds)
        return what(cluster, person)

    with ThreadPoolExecutor(2) as pool:
        begun = [pool.submit(act, first, max(0.0, -apart)), pool.submit(act, second, max(0.0, apart))]
        return [each.result(timeout=120) for each in begun]


def _standing(cluster: Cluster, person: Someone) -> tuple[str, int]:
    with cluster.hub.database.read() as session:
        row = session.execute(
            select(Principal.standing, Principal.enrolment_epoch).where(Principal.id == person.id)
        ).one()
    return row.standing, row.enrolment_epoch


def _ended_once(cluster: Cluster, crowd: Crowd, person: Someone, session_token: str) -> None:
    """One ending, and all that belongs to it exactly once."""
    assert cluster.events("person.offboarded", person) == 1
    with cluster.hub.database.read() as session:
        cases = session.execute(select(Case.id).where(Case.principal_id == person.id)).scalars().all()
        told = session.execute(
            select(Delivery.application_id).where(Delivery.principal_id == person.id, Delivery.operation == "logout")
        ).scalars().all()  # fmt: skip
    assert len(cases) == 1
    assert len(told) == len(set(told)) == 2
    assert _standing(cluster, person)[1] == 2
    assert not crowd.session_works(session_token)
    deadline, versions = time.monotonic() + 30, list[int]()
    while not versions and time.monotonic() < deadline:
        with cluster.hub.database.read() as session:
            versions += session.execute(select(Receipt.version).where(Receipt.case_id == cases[0])).scalars()
        time.sleep(0.1)
    assert sorted(versions) == list(range(1, len(versions) + 1)) != []
    with cluster.hub.database.read() as session:
        others = select(func.count()).select_from(Case).where(Case.principal_id == person.id, Case.id != cases[0])
        assert session.execute(others).scalar_one() == 0


def _somebody(cluster: Cluster, crowd: Crowd) -> tuple[Someone, str]:
    person = cluster.employee()
    (session_token,) = cluster.sign_in([person])
    for slug in ("office", "wiki"):
        crowd.tokens(slug, session_token)
    return person, session_token


PAIRS = list(combinations_with_replacement(LEAVES, 2))
# Of two files the later one's word stands, whichever it is (tests/lifecycle/test_hr_mistakes.py).
CHANGES = [pair for pair in product(LEAVES, OTHERS) if pair != ("hr_file", "file row")]


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_two_doors_at_once_end_an_employment_once(cluster: Cluster, crowd: Crowd, first: str, second: str) -> None:
    person, session_token = _somebody(cluster, crowd)
    apart = APART[PAIRS.index((first, second)) % len(APART)]
    _together(cluster, person, apart, LEAVES[first], LEAVES[second])
    assert _standing(cluster, person)[0] == Standing.LEFT
    _ended_once(cluster, crowd, person, session_token)


@pytest.mark.parametrize(("door", "other"), CHANGES, ids=["-".join(pair) for pair in CHANGES])
def test_leave_and_another_doors_change_at_once_end_in_one_of_the_two_orders(
    cluster: Cluster, crowd: Crowd, door: str, other: str
) -> None:
    """A change that comes after the leave is refused, or begins a new life; one before it is over with it."""
    person, session_token = _somebody(cluster, crowd)
    apart = APART[(list(LEAVES).index(door) + list(OTHERS).index(other)) % len(APART)]
    _together(cluster, person, apart, LEAVES[door], OTHERS[other])
    standing = _standing(cluster, person)[0]
    if other != "rehire":
        assert standing == Standing.LEFT
        _ended_once(cluster, crowd, person, session_token)
        return
    # Hired for a further post first, the leave of one post (the file's row) is none of the person's.
    ended = cluster.events("person.offboarded", person)
    assert ended == (0 if door == "hr_file" and standing == Standing.ACTIVE and ended == 0 else 1)
    assert _standing(cluster, person)[1] == 1 + ended
    if ended:
        assert not crowd.session_works(session_token)
