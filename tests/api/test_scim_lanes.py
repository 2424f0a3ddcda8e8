"""Lanes of what SCIM senders read: which a request takes, and that nobody waits for what is slow who is not."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any
from urllib.parse import urlencode

import httpx2
import orjson
import pytest
from sqlalchemy import update

from idhub import admission
from idhub.api.scim_lanes import KnownSenders, Reading, reading_of
from idhub.credentials import opaque
from idhub.credentials.tables import ApiToken
from scim.messages import MEDIA_TYPE
from scim.schemas import ENTERPRISE_USER, ERROR, SEARCH_REQUEST, USER
from tests.api.test_scim import Scim
from tests.api.world import Api

_CURSOR = {"cursor": ""}
_ONE: tuple[dict[str, str], ...] = (
    {"filter": 'userName eq "ada@corp.example"'},
    {"filter": 'USERNAME EQ "a b \\" or"', "count": "1"},
    {"filter": f'{USER}:userName eq "ada"'},
    {"filter": 'externalId eq "x"'},
    {"filter": f'{ENTERPRISE_USER}:employeeNumber eq "QY1"'},
    {"filter": 'emails[type eq "work"].value eq "ada@corp.example"'},
    {"filter": 'emails.value eq "ada@corp.example"'},
    {"filter": 'userName eq "ada"', **_CURSOR},
)
_WALKED: tuple[dict[str, str], ...] = (
    {"filter": 'userName sw "ada"', **_CURSOR},
    {"filter": 'displayName sw "王"', **_CURSOR, "count": "100"},
    {**_CURSOR, "count": "200"},
    {"Cursor": "x", "attributes": "userName"},
)
_SLOW: tuple[dict[str, str], ...] = (
    {},
    {"startIndex": "90000"},
    {**_CURSOR, "count": "1000"},
    {**_CURSOR, "sortBy": "userName"},
    {"filter": 'userName sw "ada"'},
    {"filter": 'displayName eq "Ada"', **_CURSOR},
    {"filter": 'displayName co "da"', **_CURSOR},
    {"filter": 'displayName ew "da"', **_CURSOR},
    {"filter": 'title eq "x"', **_CURSOR},
    {"filter": 'meta.lastModified ge "2026-01-01T00:00:00Z"', **_CURSOR},
    {"filter": 'userName eq "a" or title eq "b"'},
    {"filter": 'userName eq "a" and emails co "b"'},
    {"filter": 'not (userName eq "a")', **_CURSOR},
    {"filter": 'userName eq "' + "a" * 3_000 + '"'},
    {"count": "many", **_CURSOR},
)


def _readings(query: dict[str, str]) -> set[Reading]:
    searched = {"schemas": [SEARCH_REQUEST], **query}
    return {
        reading_of("GET", "Users", urlencode(query), b""),
        reading_of("POST", "Users/.search", "", orjson.dumps(searched)),
    }


@pytest.mark.parametrize("query", _ONE, ids=str)
def test_whom_an_index_finds_is_one(query: dict[str, str]) -> None:
    assert _readings(query) == {Reading.ONE}


@pytest.mark.parametrize("query", _WALKED, ids=str)
def test_what_is_read_in_the_order_of_an_index_is_a_walk(query: dict[str, str]) -> None:
    assert _readings(query) == {Reading.WALK}


@pytest.mark.parametrize("query", _SLOW, ids=lambda query: str(query)[:60])
def test_whatever_else_is_long(query: dict[str, str]) -> None:
    assert _readings(query) == {Reading.LONG}


def test_a_group_is_one_without_its_members_alone() -> None:
    by_name = {"filter": 'displayName eq "Team"'}
    without = {"excludedAttributes": "members"}

    assert reading_of("GET", "Groups", urlencode({**by_name, **without}), b"") is Reading.ONE
    assert reading_of("GET", "Groups/grp_1", urlencode(without), b"") is Reading.ONE
    assert reading_of("GET", "Groups", urlencode(by_name), b"") is Reading.LONG
    assert reading_of("GET", "Groups", urlencode(without), b"") is Reading.LONG
    assert reading_of("GET", "Groups/grp_1", "", b"") is Reading.LONG


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"null", b'{"filter": 1, "cursor": ""}', b'{"count": [], "cursor": ""}']
)
def test_what_cannot_be_read_is_long(body: bytes) -> None:
    assert reading_of("POST", "Users/.search", "", body) is Reading.LONG


@pytest.mark.parametrize("path", ["Users/per_1", "ServiceProviderConfig", "Schemas", "ResourceTypes/User", "Me"])
def test_one_resource_and_what_describes_the_server_is_one(path: str) -> None:
    assert reading_of("GET", path, "", b"") is Reading.ONE


def test_search_over_all_types_is_not() -> None:
    assert reading_of("POST", ".search", "", orjson.dumps({"filter": 'userName eq "a"'})) is Reading.LONG


def test_slow_lists_keep_no_quick_one_waiting_and_are_told_to_come_back(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal is an error of SCIM (RFC 7644 section 3.12)."""
    scim, lanes, go_on = Scim(api, organization_id=api.world.hq), api.app.state.services.admission, threading.Event()
    user = scim.user()
    scim.ok("GET", "/Users")
    monkeypatch.setattr(admission, "_PATIENCE", 0.05)
    portal = api.http.portal
    assert portal is not None
    held = [portal.start_task_soon(lanes.reading_long.run, "another", go_on.wait) for _ in range(2)]
    try:
        found = scim.ok("GET", "/Users", params={"filter": f'userName eq "{user["userName"]}"'})
        one = scim.ok("GET", f"/Users/{user['id']}")
        refused = scim.call("GET", "/Users", params={"filter": 'displayName co "a"', "cursor": ""})
    finally:
        go_on.set()
    assert all(each.result(timeout=20) for each in held)
    listed = scim.ok("GET", "/Users", params={"filter": 'userName co "a"', "cursor": ""})

    assert (found["totalResults"], one["id"], len(listed["Resources"])) == (1, user["id"], 1)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert (refused.json()["schemas"], refused.json()["status"]) == ([ERROR], "503")
    assert refused.headers["content-type"] == MEDIA_TYPE
    assert lanes.refused == 1


def _asks(api: Api, token: str, *, address: str = "198.51.100.7") -> Callable[[], Any]:
    """A request for one user, from an address."""

    async def ask() -> int:
        transport = httpx2.ASGITransport(app=api.app, client=(address, 50_000))
        async with httpx2.AsyncClient(transport=transport, base_url=str(api.http.base_url)) as client:
            answer = await client.get(
                "/scim/v2/Users", params=_ONE[0], headers={"Authorization": f"Bearer {token}"}, timeout=60
            )
        return answer.status_code

    return ask


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "new"])
def test_flood_of_invented_tokens_keeps_no_true_sender_out(
    api: Api, monkeypatch: pytest.MonkeyPatch, *, is_known: bool
) -> None:
    """Each invented token has the right form, and is said once. Whoever is not known yet comes from elsewhere."""
    scim, lanes, go_on = Scim(api), api.app.state.services.admission, threading.Event()
    if is_known:
        scim.ok("GET", "/Users", params=_ONE[0])
    monkeypatch.setattr(admission, "_MOST_WAIT", 20)
    monkeypatch.setattr(admission, "_PATIENCE", 20.0)
    flood = [_asks(api, opaque.make("api")) for _ in range(60)]

    async def beside() -> tuple[int, int, list[int]]:
        own = (lanes.reading, lanes.reading_long, lanes.reading_unverified)
        held = [asyncio.ensure_future(lane.run("another", go_on.wait)) for lane in own for _ in range(lane.threads)]
        invented = [asyncio.ensure_future(ask()) for ask in flood]
        # As many as may wait do; the others are told to come back.
        for each in islice(asyncio.as_completed(invented), len(flood) - 20):
            await each
        true = asyncio.ensure_future(_asks(api, scim.token, address="203.0.113.9")())
        await asyncio.sleep(0.1)
        go_on.set()
        await asyncio.gather(*held)
        status = await true
        return status, sum(each.done() for each in invented), list(await asyncio.gather(*invented))

    portal = api.http.portal
    assert portal is not None
    try:
        status, answered_before, statuses = portal.call(beside)
    finally:
        go_on.set()

    assert status == 200
    # In the same lane one of the flood goes first, and the others wait behind.
    assert is_known or answered_before < len(flood) - 10
    assert Counter(statuses).keys() == {401, 503}


def test_who_is_known_is_looked_up_all_the_same_and_forgotten_when_the_token_works_no_more(api: Api) -> None:
    scim = Scim(api)
    scim.ok("GET", "/Users", params=_ONE[0])
    with api.world.database.transaction() as session:
        session.execute(
            update(ApiToken)
            .where(ApiToken.token_hash == opaque.hash_of(scim.token))
            .values(revoked_at=api.world.clock())
        )

    assert [scim.call("GET", "/Users", params=_ONE[0]).status_code for _ in range(2)] == [401, 401]


def test_senders_are_known_while_their_token_works_and_the_oldest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("idhub.api.scim_lanes._MOST_KNOWN", 2)
    known = KnownSenders()
    for number in range(3):
        known.note(f"Bearer {number}", f"tok_{number}")
    known.note("Bearer 2", None)

    assert [known.find(f"Bearer {number}") for number in range(4)] == [None, "tok_1", None, None]
