"""Whatever is sent: a clear 4xx that names the field, recorded, nothing changed, never a 5xx."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from httpx2 import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from idhub.lifecycle import intake
from tests.api.world import BODIES, ENDPOINTS, Api, filled

WITH_BODY = sorted(BODIES)
NAMES = {"person": "QY000001", "case": "QY000001", "delivery": "nothing", "finding": "nothing", "provider": "nothing"}
unread = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
"""What is refused before a database is asked anything: alike on both."""
RAW = {
    "nothing": b"",
    "cut short": b'{"reason": "x',
    "not JSON": b"reason=x",
    "two values": b"{} {}",
    "not UTF-8": b'{"reason": "\xff\xfe"}',
    "a name twice": b'{"reason": "a", "reason": "b"}',
    "a name twice below": b'{"employment": {"company": "HQ", "company": "BER"}}',
    "not a number": b'{"reason": NaN}',
    "infinite": b'{"reason": -Infinity}',
    "many digits": b'{"reason": ' + b"9" * 9_000 + b"}",
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a list": b"[]",
    "a text": b'"offboard"',
    "null": b"null",
    "a number": b"1",
    "an unknown field": b'{"rason": "typo"}',
    "a surrogate as a name": b'{"\\ud800": 1}',
}


def refused(api: Api, response: Response, before: dict[str, Any], what: object) -> dict[str, Any]:
    """A refusal as it must be."""
    assert 400 <= response.status_code < 500, (what, response.status_code, response.text[:300])
    answer: dict[str, Any] = response.json()
    assert set(answer) == {"error", "description", "field", "rule", "request_id"}, what
    assert answer["field"], (what, answer)
    assert answer["rule"], (what, answer)
    assert answer["request_id"]
    assert len(response.content) < 4_000, "what was sent is not sent back"
    assert "Traceback" not in response.text
    assert api.state() == before, what
    return answer


def path_of(endpoint: tuple[str, str]) -> str:
    return filled(endpoint[1], **NAMES)


@unread
@pytest.mark.parametrize("endpoint", WITH_BODY, ids=[" ".join(endpoint) for endpoint in WITH_BODY])
def test_a_body_that_is_none_is_refused_and_recorded(api: Api, endpoint: tuple[str, str]) -> None:
    api.world.hire()
    token, before = api.token(), api.state()
    recorded = len(api.events("request.refused"))
    for name, content in RAW.items():
        response = api.call(
            endpoint[0], path_of(endpoint), token=token, content=content, headers={"Content-Type": "application/json"}
        )
        refused(api, response, before, name)
    events = api.events("request.refused")[recorded:]
    assert len(events) == len(RAW), "each of an authenticated caller is an event of its own"
    assert {event["target"]["id"] for event in events} == {f"{endpoint[0]} /api/v1{endpoint[1]}"}


@unread
@pytest.mark.parametrize("endpoint", WITH_BODY, ids=[" ".join(endpoint) for endpoint in WITH_BODY])
def test_only_json_that_says_so_is_read(api: Api, endpoint: tuple[str, str]) -> None:
    """T02: a page elsewhere may send text/plain without asking; it must not do anything."""
    api.world.hire()
    token, before = api.token(), api.state()
    content = json.dumps(BODIES[endpoint]).encode()
    for media in (
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        None,
    ):
        headers = {"Content-Type": media} if media else {}
        response = api.call(endpoint[0], path_of(endpoint), token=token, content=content, headers=headers)
        refused(api, response, before, media)


@unread
@pytest.mark.parametrize("endpoint", WITH_BODY, ids=[" ".join(endpoint) for endpoint in WITH_BODY])
def test_a_body_that_is_too_large_is_not_read(api: Api, endpoint: tuple[str, str]) -> None:
    api.world.hire()
    token, before = api.token(), api.state()
    json_type = {"Content-Type": "application/json"}
    large = b'{"reason": "' + b"a" * 1_000_001 + b'"}'

    def chunks() -> Iterator[bytes]:
        yield b'{"reason": "x"}'

    for content in (large, chunks()):
        response = api.call(endpoint[0], path_of(endpoint), token=token, content=content, headers=json_type)
        answer = refused(api, response, before, "size")
        assert (answer["field"], answer["rule"]) == ("body", "body.size")
    for length in ("-1", "x", "1" * 5_000, "0x10"):
        headers = {**json_type, "Content-Length": length}
        response = api.call(endpoint[0], path_of(endpoint), token=token, content=b"{}", headers=headers)
        refused(api, response, before, length)


VALUES: tuple[Any, ...] = (
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "\u202eabc",
    "a\nb",
    "x" * 100_000,
    0,
    -1,
    10**400,
    1.5,
    True,
    [],
    {},
    ["HQ"],
    {"$ne": None},
    "9999-12-31",
    "0001-01-01",
    "0000-00-00",
    "2026-02-30",
    "2026-01-01T00:00:00",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "'; DROP TABLE people; --",
    "../../etc/passwd",
    "研发//底盘",
    "/".join("a" * 100),
)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name)
            yield from leaves(inner, (*path, name))


def replaced(value: Any, path: tuple[str, ...], new: Any) -> Any:
    if not path:
        return new
    return {**value, path[0]: replaced(value[path[0]], path[1:], new)}


FULL: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/people"): {
        "display_name": "新人", "given_name": "Ren", "family_name": "Xin", "email": "x@qiyue.example",
        "mobile": "13800138000", "locale": "zh-CN",
        "employment": {
            "company": "HQ", "employee_number": "N1", "employment_type": "regular", "start_date": "2026-01-01",
            "end_date": "2027-01-01", "department": "研发", "title": "Engineer", "manager": "QY000001",
        },
    },
    ("PATCH", "/people/{person}"): {
        "display_name": "新人", "given_name": "Ren", "family_name": "Xin", "email": "x@qiyue.example",
        "mobile": "13800138000", "locale": "zh-CN",
    },
    ("POST", "/people/{person}/employments"): {
        "company": "HQ", "employee_number": "N1", "employment_type": "regular", "start_date": "2026-01-01",
        "end_date": "2027-01-01", "department": "研发", "title": "Engineer", "manager": "QY000001",
    },
    ("POST", "/people/{person}/suspend"): {"reason": "leave"},
    ("POST", "/people/{person}/reactivate"): {"reason": "back"},
    ("POST", "/people/{person}/offboarding"): {
        "reason": "left", "effective_at": "2027-01-01T00:00:00Z", "emergency": False,
    },
    ("POST", "/people/{person}/move"): {
        "employment": "emp_0", "company": "BER", "department": "研发", "title": "Lead", "manager": "QY000001",
        "employment_type": "intern", "end_date": "2027-01-01",
    },
    ("POST", "/findings/{finding}/dismiss"): {"reason": "a machine's account", "until": "2026-12-31"},
    ("POST", "/findings/{finding}/act"): {"action": "disable"},
    ("POST", "/applications/{application}/reviews/{review}"): {"decision": "confirm", "person": "QY000001"},
    ("POST", "/applications/{application}/sync"): {"step": "start"},
}  # fmt: skip


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=[" ".join(endpoint) for endpoint in WITH_BODY])
def test_every_field_takes_what_it_means_or_is_refused_by_name(api: Api, endpoint: tuple[str, str]) -> None:
    """One field after the other is made wrong in every way."""
    world = api.world
    world.hire("陈静")
    token, full = api.token(), FULL[endpoint]
    before = api.state()
    for path in leaves(full):
        for value in VALUES:
            content = json.dumps(replaced(full, path, value)).encode()
            response = api.call(
                endpoint[0],
                path_of(endpoint),
                token=token,
                content=content,
                headers={"Content-Type": "application/json"},
            )
            what = (endpoint, path, str(value)[:40])
            assert response.status_code < 500, (what, response.text[:300])
            if response.status_code >= 400:
                refused(api, response, before, what)
            else:
                before = api.state()


def test_addresses_that_nothing_has_are_refused(api: Api) -> None:
    person = api.world.hire()
    api.world.change(intake.Offboard(principal_id=person))
    token, before = api.token(), api.state()
    hostile = (
        "%00",
        "a%00b",
        "%ed%a0%80",
        "%ff",
        "x" * 20_000,
        "%0d%0aSet-Cookie:x",
        "per_%00",
        "HQ%2f1",
        "%2e%2e",
        "*",
    )
    for method, path in sorted(ENDPOINTS):
        if "{" not in path:
            continue
        for text in hostile:
            address = filled(path, person=text, case=text, delivery=text, finding=text, provider=text)
            response = api.call(method, address, token=token, json=BODIES.get((method, path)))
            assert 400 <= response.status_code < 500, (method, path, text[:20], response.text[:200])
            assert api.state() == before


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("size=0", "size"),
        ("size=101", "size"),
        ("size=x", "size"),
        ("size=" + "9" * 6_000, "size"),
        ("size=1&size=2", "size"),
        ("after=%00", "address"),
        ("after=" + "x" * 41, "after"),
        ("q=" + "x" * 101, "q"),
        ("sise=1", "sise"),
        ("%ed%a0%80=1", None),
    ],
)
def test_a_query_that_cannot_be_meant_is_refused(api: Api, query: str, field: str | None) -> None:
    response = api.call("GET", f"/people?{query}", token=api.token())
    answer = refused(api, response, api.state(), query)
    assert field is None or answer["field"] == field


@pytest.mark.parametrize("at", ["yesterday", "0", "2026-01-01", "2026-01-01T00:00", "9999-12-31T23:59:59-14:00"])
def test_a_preview_at_no_time_is_refused(api: Api, at: str) -> None:
    person = api.world.hire()
    response = api.call("GET", f"/people/{person}/offboarding", token=api.token(), params={"effective_at": at})
    assert refused(api, response, api.state(), at)["field"] == "effective_at"


def test_other_addresses_and_methods_are_no_such_address(api: Api) -> None:
    token = api.token()
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("PUT", "/people", 405),
        ("DELETE", "/people", 405),
        ("GET", "/people/", 404),
        ("TRACE", "/people", 405),
    ):
        response = api.call(method, path, token=token)
        assert response.status_code == status, (method, path)
        assert response.json()["rule"] == "route"


def test_strangers_are_counted_instead_of_recorded_one_by_one(api: Api) -> None:
    """Junk cannot fill the disk: one event a minute, address and reason."""
    before = len(api.events())
    for _ in range(50):
        api.call("GET", "/people")
    assert len(api.events()) == before


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30) | st.sampled_from([v for v in VALUES if isinstance(v, str) and len(v) < 200]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def from_schema(schema: dict[str, Any], definitions: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema of the published OpenAPI document means, and some that it does not."""
    if "$ref" in schema:
        return from_schema(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    if "anyOf" in schema:
        return st.one_of([from_schema(one, definitions) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"]) | JUNK
    match schema.get("type"):
        case "object":
            needed = set(schema.get("required", ()))
            fields = {name: from_schema(one, definitions) for name, one in schema.get("properties", {}).items()}
            return st.fixed_dictionaries(
                {name: one for name, one in fields.items() if name in needed},
                optional={name: one for name, one in fields.items() if name not in needed},
            )
        case "boolean":
            return st.booleans() | JUNK
        case "null":
            return st.none()
        case "string" if schema.get("format") == "date":
            return st.dates().map(str) | JUNK
        case "string" if schema.get("format") == "date-time":
            return st.datetimes(timezones=st.timezones()).map(str) | JUNK
        case "string":
            known = st.sampled_from(
                ["HQ", "BER", "总部", "QY000001", "regular", "x@qiyue.example", "13800138000", "研发/底盘"]
            )
            return known | st.text(max_size=schema.get("maxLength", 50) % 300) | JUNK
    return JUNK


@pytest.mark.slow
def test_whatever_the_published_schema_lets_through_is_answered(api: Api) -> None:
    """Bodies made from the hub's own OpenAPI document, most of them nearly right."""
    document = api.app.openapi()
    definitions = document["components"]["schemas"]
    bodies = {
        endpoint: from_schema(
            document["paths"][f"/api/v1{endpoint[1]}"][endpoint[0].lower()]["requestBody"]["content"][
                "application/json"
            ]["schema"],
            definitions,
        )
        for endpoint in WITH_BODY
    }
    api.world.hire("陈静")
    token, before = api.token(), api.state()

    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(WITH_BODY).flatmap(lambda endpoint: st.tuples(st.just(endpoint), bodies[endpoint])))
    def answered(case: tuple[tuple[str, str], Any]) -> None:
        nonlocal before
        (method, path), body = case
        content = json.dumps(body).encode()
        response = api.call(
            method, filled(path, **NAMES), token=token, content=content, headers={"Content-Type": "application/json"}
        )
        assert response.status_code < 500, response.text[:300]
        if response.status_code >= 400:
            refused(api, response, before, case)
        else:
            before = api.state()

    answered()
