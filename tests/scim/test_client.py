"""The SCIM client against answers as services give them, good and bad."""

from __future__ import annotations

import asyncio
import json as json_module
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest

from scim.client import MAX_RETRY_AFTER, ScimClient
from scim.dialects import GENERIC, PUT_ONLY, Dialect
from scim.errors import (
    MAX_REMOTE_TEXT,
    RemoteConflict,
    RemoteError,
    RemoteNotFound,
    RemoteRefused,
    RemoteUnauthorized,
    RemoteUnavailable,
)
from scim.pace import Pace
from scim.schemas import ENTERPRISE_USER, PATCH_OP, USER

T = TypeVar("T")
NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
TOKEN = "s3cret.token_of-this.test"


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(document: Any, status: int = 200, **headers: str) -> Answer:
        return Answer(status, json_module.dumps(document).encode(), headers)


@dataclass(frozen=True)
class Request:
    method: str
    url: str
    headers: Mapping[str, str]
    json: Any
    timeout: timedelta


class Port:
    """Plays answers in order and keeps what was asked."""

    def __init__(self, *answers: Answer | RemoteError) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        json: Any,
        timeout: timedelta,  # noqa: ASYNC109 - the port's signature
    ) -> Answer:
        self.requests.append(Request(method, url, headers, json, timeout))
        answer = self.answers.pop(0)
        if isinstance(answer, RemoteError):
            raise answer
        return answer


def client(port: Port, *, dialect: Dialect = GENERIC, time_left: timedelta = timedelta(seconds=8)) -> ScimClient:
    return ScimClient(
        port,
        "https://office.example/scim/v2/",
        TOKEN,
        time_left=lambda: time_left,
        now=lambda: NOW,
        dialect=dialect,
        trace="dlv_1",
    )


def run(call: Awaitable[T]) -> T:
    async def awaited() -> T:
        return await call

    return asyncio.run(awaited())


def refused(call: Awaitable[Any], kind: type[RemoteError]) -> Any:
    with pytest.raises(RemoteError) as caught:
        run(call)
    assert type(caught.value) is kind
    return caught.value


def listed(*users: Mapping[str, Any], total: int | None = None) -> Answer:
    return Answer.of({"totalResults": len(users) if total is None else total, "Resources": list(users)})


def filter_of(request: Request) -> str:
    return parse_qs(urlsplit(request.url).query)["filter"][0]


ALICE = {"schemas": [USER], "id": "7", "externalId": "per_1", "userName": "alice@corp.example", "active": True}


def test_find_asks_by_external_id_and_then_by_user_name() -> None:
    port = Port(listed(), listed(ALICE))
    assert run(client(port).find_user(external_id="per_1", user_name="Alice@corp.example")) == [ALICE]
    assert [filter_of(request) for request in port.requests] == [
        'externalId eq "per_1"',
        'userName eq "Alice@corp.example"',
    ]
    assert port.requests[0].url.startswith("https://office.example/scim/v2/Users?")


def test_find_stops_at_the_external_id() -> None:
    port = Port(listed(ALICE))
    assert run(client(port).find_user(external_id="per_1", user_name="x")) == [ALICE]
    assert len(port.requests) == 1


def test_filter_values_cannot_leave_their_quotes() -> None:
    port = Port(listed())
    run(client(port).find_by_user_name('" or userName pr or userName eq "&filter=x'))
    assert filter_of(port.requests[0]) == 'userName eq "\\" or userName pr or userName eq \\"&filter=x"'


def test_user_that_does_not_match_the_question_is_not_found() -> None:
    """A service that ignores filters answers with anybody: adopting that account would be a takeover."""
    port = Port(listed({**ALICE, "externalId": "per_2"}), listed({**ALICE, "userName": "bob"}))
    assert run(client(port).find_user(external_id="per_1", user_name="alice")) == []


def test_external_id_is_case_exact() -> None:
    assert run(client(Port(listed({**ALICE, "externalId": "PER_1"}))).find_by_external_id("per_1")) == []


def test_list_that_is_longer_than_its_page_proves_no_absence() -> None:
    error = refused(client(Port(listed(ALICE, total=4000))).find_by_external_id("per_9"), RemoteRefused)
    assert error.description == (
        "The application answered a search for one user with 4000: it does not honour the filter."
    )


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b""),
        Answer(200, b"<html>Sign in</html>"),
        Answer(200, b"[]"),
        Answer.of({}),
        Answer.of({"totalResults": "0"}),
        Answer.of({"totalResults": True}),
        Answer.of({"totalResults": 0, "Resources": {}}),
        Answer.of({"totalResults": 1}),
        Answer(200, b"[" * 100_000),
        Answer(404, b""),
    ],
)
def test_unreadable_list_is_not_an_empty_list(answer: Answer) -> None:
    with pytest.raises(RemoteError):
        run(client(Port(answer)).find_by_external_id("per_1"))


@pytest.mark.parametrize("unit", [b"{},", b"[],", b'{"a":{}},', b"[[[]]],"])
def test_answer_of_nothing_but_brackets_is_not_read(unit: bytes) -> None:
    """Of 16 MB, 360 to 480 MB were made, and up to two seconds passed in which nobody was answered."""
    body = b'{"totalResults":1,"Resources":[' + unit * (15_900_000 // len(unit)) + unit[:-1] + b"]}"
    began = time.process_time()
    refused(client(Port(Answer(body=body))).list_users({"startIndex": 1}), RemoteUnavailable)
    assert time.process_time() - began < 0.5


def test_group_of_many_in_few_letters_is_read() -> None:
    members = b",".join(b'{"value":"%d"}' % number for number in range(60_000))
    answer = Answer(body=b'{"id":"g1","displayName":"x","members":[' + members + b"]}")
    found = run(client(Port(answer)).resource("GET", "/Groups/g1"))
    assert len(found["members"]) == 60_000


def test_service_without_external_id_filter_is_asked_by_user_name_only() -> None:
    port = Port(listed(ALICE))
    dialect = Dialect(name="old", finds_external_id=False)
    assert run(client(port, dialect=dialect).find_user(external_id="per_1", user_name="alice@corp.example")) == [ALICE]
    assert filter_of(port.requests[0]).startswith("userName")


def test_get_refuses_another_users_record() -> None:
    error = refused(client(Port(Answer.of({**ALICE, "id": "8"}))).get_user("7"), RemoteUnavailable)
    assert error.description == "The application answered with another user than the one asked for."


@pytest.mark.parametrize("user_id", ["a/b", "../Groups/1", "7?x=1", "7#x", "张"])
def test_user_id_stays_one_segment(user_id: str) -> None:
    port = Port(Answer.of({"id": user_id}))
    run(client(port).get_user(user_id))
    path = port.requests[0].url.removeprefix("https://office.example/scim/v2/Users/")
    assert not set(path) & set("/?#")


@pytest.mark.parametrize("user_id", ["", ".", ".."])
def test_user_id_that_would_leave_the_collection_is_not_sent(user_id: str) -> None:
    port = Port()
    refused(client(port).get_user(user_id), RemoteRefused)
    assert port.requests == []


def test_create_sends_schemas_and_returns_the_services_user() -> None:
    port = Port(Answer.of(ALICE, status=201))
    attributes = {"userName": "alice", "active": True, f"{ENTERPRISE_USER}:department": "研发"}
    assert run(client(port).create_user(attributes)) == ALICE
    request = port.requests[0]
    assert (request.method, request.url) == ("POST", "https://office.example/scim/v2/Users")
    assert request.headers["Content-Type"] == "application/scim+json"
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert request.headers["X-Idhub-Delivery"] == "dlv_1"
    assert request.json == {
        "schemas": [USER, ENTERPRISE_USER],
        "userName": "alice",
        "active": True,
        ENTERPRISE_USER: {"department": "研发"},
    }


def test_create_answered_without_a_user_may_have_happened() -> None:
    error = refused(client(Port(Answer(201, b""))).create_user({"userName": "a"}), RemoteUnavailable)
    assert error.may_have_arrived


def test_patch_names_each_attribute() -> None:
    port = Port(Answer(204))
    run(client(port).update_user(ALICE, {"active": False, "title": None, f"{ENTERPRISE_USER}:department": "研发"}))
    assert port.requests[0].method == "PATCH"
    assert port.requests[0].json == {
        "schemas": [PATCH_OP],
        "Operations": [
            {"op": "replace", "path": "active", "value": False},
            {"op": "remove", "path": "title"},
            {"op": "replace", "path": f"{ENTERPRISE_USER}:department", "value": "研发"},
        ],
    }


def test_put_keeps_what_the_application_added() -> None:
    port = Port(Answer(200))
    held = {**ALICE, "nickName": "Al", "meta": {"version": "1"}, ENTERPRISE_USER: {"costCenter": "9"}, "title": "x"}
    changes = {"active": False, "title": None, f"{ENTERPRISE_USER}:department": "研发"}
    run(client(port, dialect=PUT_ONLY).update_user(held, changes))
    assert port.requests[0].method == "PUT"
    assert port.requests[0].json == {
        "schemas": [USER, ENTERPRISE_USER],
        "id": "7",
        "externalId": "per_1",
        "userName": "alice@corp.example",
        "active": False,
        "nickName": "Al",
        ENTERPRISE_USER: {"costCenter": "9", "department": "研发"},
    }


def test_active_as_text_where_the_service_wants_it() -> None:
    port = Port(Answer(204))
    run(client(port, dialect=Dialect(name="text", active_form="text")).set_active(ALICE, False))
    assert port.requests[0].json["Operations"] == [{"op": "replace", "path": "active", "value": "False"}]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(408), RemoteUnavailable),
        (Answer(425), RemoteUnavailable),
        (Answer(429), RemoteUnavailable),
        (Answer(500), RemoteUnavailable),
        (Answer(502), RemoteUnavailable),
        (Answer(503), RemoteUnavailable),
        (Answer(504), RemoteUnavailable),
        (Answer(401), RemoteUnauthorized),
        (Answer(403), RemoteUnauthorized),
        (Answer(403, headers={"x-ratelimit-remaining": "3", "x-ratelimit-reset": "30"}), RemoteUnauthorized),
        (Answer(403, headers={"x-ratelimit-remaining": "0", "x-ratelimit-reset": "30"}), RemoteUnavailable),
        (Answer(403, headers={"Retry-After": "60"}), RemoteUnavailable),
        (Answer(404), RemoteNotFound),
        (Answer(410), RemoteNotFound),
        (Answer(409), RemoteConflict),
        (Answer.of({"scimType": "uniqueness"}, status=400), RemoteConflict),
        (Answer.of({"scimType": "invalidValue"}, status=400), RemoteRefused),
        (Answer(400), RemoteRefused),
        (Answer(405), RemoteRefused),
        (Answer(413), RemoteRefused),
        (Answer(501), RemoteRefused),
        (Answer(302, headers={"Location": "http://169.254.169.254/"}), RemoteRefused),
        (Answer(101), RemoteRefused),
    ],
)
def test_kind_of_refusal(answer: Answer, kind: type[RemoteError]) -> None:
    error = refused(client(Port(answer)).get_user("7"), kind)
    assert error.status_code == answer.status


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, timedelta(seconds=7)),
        ({"Retry-After": "0"}, timedelta(0)),
        ({"Retry-After": "Mon, 23 Nov 2026 02:00:30 GMT"}, timedelta(seconds=30)),
        # The service's clock is five minutes off: its own Date says how long it means.
        (
            {"Retry-After": "Mon, 23 Nov 2026 02:05:30 GMT", "Date": "Mon, 23 Nov 2026 02:05:00 GMT"},
            timedelta(seconds=30),
        ),
        ({"Retry-After": "Mon, 23 Nov 2026 01:00:00 GMT"}, timedelta(0)),
        ({"Retry-After": "9" * 400}, MAX_RETRY_AFTER),
        ({"Retry-After": "86400"}, MAX_RETRY_AFTER),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "٣"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(headers: Mapping[str, str], expected: timedelta | None, status: int) -> None:
    """D12; RFC 9110 section 10.2.3."""
    error = refused(client(Port(Answer(status, headers=headers))).get_user("7"), RemoteUnavailable)
    assert error.retry_after == expected


class Refusing(Pace):
    """While the first one waits for its turn, the service refuses somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    async def take(self, now: datetime, *, patience: timedelta, asked: int = 0) -> timedelta:
        self.taken += 1
        if self.taken > 1:
            return timedelta(0)
        asyncio.get_running_loop().call_soon(lambda: self.learn({"Retry-After": "1"}, 429, now=NOW))
        return timedelta(milliseconds=1)


def test_a_turn_that_a_later_refusal_made_void_is_taken_anew() -> None:
    pace, port = Refusing(), Port(Answer.of(ALICE))
    asked = ScimClient(
        port, "https://x.example", TOKEN, time_left=lambda: timedelta(seconds=8), now=lambda: NOW, pace=pace
    )
    assert run(asked.get_user("7"))["id"] == "7"
    assert (pace.taken, len(port.requests)) == (2, 1)


def test_error_carries_the_other_sides_words_and_no_secret() -> None:
    """C18: whatever a service echoes, the token is not in it."""
    detail = f"no right for Bearer {TOKEN} nor {TOKEN}\r\n\u202eevil\x1b[31m " + "x" * 1000
    error = refused(client(Port(Answer.of({"detail": detail}, status=403))).get_user("7"), RemoteUnauthorized)
    assert error.description.startswith(
        "The application answered 403: no right for Bearer [redacted] nor [redacted] evil [31m xxx"
    )
    assert TOKEN not in error.description
    assert len(error.description) < MAX_REMOTE_TEXT + 50
    assert TOKEN not in repr(error)


def test_token_cut_by_the_bound_does_not_leak_half() -> None:
    for lead in range(MAX_REMOTE_TEXT - len(TOKEN) - 2, MAX_REMOTE_TEXT + 2):
        answer = Answer.of({"detail": "x" * lead + TOKEN}, status=400)
        assert TOKEN[:6] not in refused(client(Port(answer)).get_user("7"), RemoteRefused).description


@pytest.mark.parametrize(
    "words",
    [
        {"message": "API rate limit exceeded"},
        {"error": "API rate limit exceeded"},
        {"detail": None, "error": "API rate limit exceeded"},
    ],
)
def test_error_in_words_of_its_own_is_read(words: dict[str, Any]) -> None:
    error = refused(client(Port(Answer.of(words, status=400))).get_user("7"), RemoteRefused)
    assert error.description == "The application answered 400: API rate limit exceeded"


@pytest.mark.parametrize("detail", [None, 7, ["x"], {"a": "b"}, ""])
def test_detail_that_is_no_text_is_left_out(detail: Any) -> None:
    error = refused(client(Port(Answer.of({"detail": detail}, status=400))).get_user("7"), RemoteRefused)
    assert error.description == "The application answered 400."


@pytest.mark.parametrize("token", ["a\r\nX-Admin: 1", "a b", "ключ", "a\x00"])
def test_token_that_would_break_the_header_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(RemoteRefused) as caught:
        ScimClient(Port(), "https://x.example", token, time_left=lambda: timedelta(1), now=lambda: NOW)
    assert token not in str(caught.value)


def test_no_request_is_begun_after_the_deadline() -> None:
    port = Port()
    error = refused(client(port, time_left=timedelta(0)).create_user({"userName": "a"}), RemoteUnavailable)
    assert not error.may_have_arrived
    assert port.requests == []


def test_request_gets_the_time_that_is_left() -> None:
    port = Port(Answer.of(ALICE))
    run(client(port, time_left=timedelta(seconds=3)).get_user("7"))
    assert port.requests[0].timeout == timedelta(seconds=3)


def test_exchanges_are_kept_for_evidence_without_names_or_secrets() -> None:
    port = Port(listed(), RemoteUnavailable("No answer came in time.", may_have_arrived=True), Answer.of(ALICE))
    talk = client(port)
    run(talk.find_by_user_name("alice@corp.example"))
    refused(talk.create_user({"userName": "alice"}), RemoteUnavailable)
    run(talk.get_user("7"))
    assert [(exchange.method, exchange.path, exchange.status) for exchange in talk.exchanges] == [
        ("GET", "/Users", 200),
        ("POST", "/Users", None),
        ("GET", "/Users/{id}", 200),
    ]
    assert TOKEN not in repr(talk.exchanges) + repr(talk)


def test_service_that_says_after_each_answer_that_nothing_is_left_gets_every_request_of_a_delivery() -> None:
    """It never got a second one: what it said was waited for, an hour each time."""
    said = {"ratelimit-remaining": "0", "ratelimit-reset": "3600"}
    nobody: dict[str, Any] = {"totalResults": 0, "Resources": []}
    port = Port(*(Answer.of(nobody, 200, **said) for _ in range(3)))
    talk = client(port)
    for _ in range(3):
        assert run(talk.find_by_user_name("lin")) == []
    assert len(port.requests) == 3
