"""Reading every user: the proof holds for an honest list, and for no other."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scim.errors import RemoteRefused, RemoteUnavailable
from scim.listing import ListingProof, Paging, UserListing, paging_of

_NOW = datetime(2026, 11, 23, tzinfo=UTC)


class Service:
    """A list of users in memory; `alter` makes a liar of it."""

    def __init__(self, users: int, page: int, alter: Callable[[int, dict[str, Any]], dict[str, Any]] | None = None):
        self.ids = [f"u{number}" for number in range(users)]
        self.page, self.alter = page, alter
        self.asked: list[dict[str, str | int]] = []

    async def list_users(self, parameters: Mapping[str, str | int]) -> dict[str, Any]:
        self.asked.append(dict(parameters))
        start = int(parameters["cursor"] or 0) if "cursor" in parameters else int(parameters["startIndex"]) - 1
        ids = self.ids[start : start + min(self.page, int(parameters["count"]))]
        answer: dict[str, Any] = {"totalResults": len(self.ids), "Resources": [{"id": user} for user in ids]}
        if "cursor" in parameters:
            if start + len(ids) < len(self.ids):
                answer["nextCursor"] = str(start + len(ids))
        else:
            answer["startIndex"] = start + 1
        return self.alter(len(self.asked), answer) if self.alter else answer


def read(service: Any, paging: Paging = "index") -> tuple[list[str], ListingProof]:
    async def run() -> tuple[list[str], ListingProof]:
        async def no_wait(_seconds: float) -> None:
            return None

        listing = UserListing(service, now=lambda: _NOW, paging=paging, sleep=no_wait)
        ids: list[str] = []
        while (page := await listing.next_page()) is not None:
            ids += [user["id"] for user in page.users]
        return ids, listing.proof(distinct=len(set(ids)))

    return asyncio.run(run())


@pytest.mark.parametrize("paging", ["index", "cursor"])
@pytest.mark.parametrize(("users", "page"), [(0, 10), (1, 10), (10, 10), (11, 10), (95, 10), (3, 1000)])
def test_honest_list_is_read_whole(paging: Paging, users: int, page: int) -> None:
    service = Service(users, page)
    ids, proof = read(service, paging)
    assert ids == service.ids
    assert (proof.is_complete, proof.total, proof.read) == (True, users, users)


def _without(name: str) -> Callable[[int, dict[str, Any]], dict[str, Any]]:
    return lambda _number, answer: {key: value for key, value in answer.items() if key != name}


def _on(page: int, **changes: Any) -> Callable[[int, dict[str, Any]], dict[str, Any]]:
    return lambda number, answer: {**answer, **changes} if number == page else answer


LIARS: Mapping[str, Callable[[int, dict[str, Any]], dict[str, Any]]] = {
    "says no total": _without("totalResults"),
    "total grows": _on(2, totalResults=26),
    "total is text": lambda _n, answer: {**answer, "totalResults": str(answer["totalResults"])},
    "total is true": lambda _n, answer: {**answer, "totalResults": True},
    "more than it lists": lambda _n, answer: {**answer, "totalResults": 40},
    "fewer than it lists": lambda _n, answer: {**answer, "totalResults": 12},
    "no list": _on(2, Resources={"id": "u1"}),
    "empty page": _on(2, Resources=[]),
    "an entry without id": _on(2, Resources=[{"id": "u9"}, {"userName": "x"}]),
    "an id that is a number": _on(1, Resources=[{"id": 7}]),
    "an id with a line break": _on(1, Resources=[{"id": "u0\nu1"}]),
    "an entry that is text": _on(1, Resources=["u0"]),
    "answers from elsewhere": lambda n, answer: {**answer, "startIndex": 1} if n > 1 else answer,
    "one moved": _on(2, Resources=[{"id": "u8"}, {"id": "u10"}]),
    "a flood": _on(1, Resources=[{"id": f"f{n}"} for n in range(3_000)]),
}


@pytest.mark.parametrize("liar", LIARS)
def test_list_that_shows_less_is_incomplete(liar: str) -> None:
    _, proof = read(Service(25, 10, LIARS[liar]))
    assert not proof.is_complete
    assert proof.gaps


def test_service_that_ignores_the_place_is_incomplete_although_its_total_fits() -> None:
    """Some send the first page whatever is asked, and give its length as the total."""
    service = Service(25, 10, lambda _n, _a: {"totalResults": 10, "Resources": [{"id": f"u{n}"} for n in range(10)]})
    _, proof = read(service)
    assert not proof.is_complete


def test_somebody_removed_from_what_was_read_shifts_the_rest_and_is_noticed() -> None:
    def shift(number: int, answer: dict[str, Any]) -> dict[str, Any]:
        if number == 2:
            # Since page 1, u3 went and a new one came at the end: the total is as it was.
            return {**answer, "Resources": [{"id": f"u{n}"} for n in range(10, 20)]}
        return answer

    _, proof = read(Service(25, 10, shift))
    assert not proof.is_complete
    assert "order" in proof.gaps[0]


def test_id_that_came_twice_breaks_the_proof() -> None:
    service = Service(20, 50)
    service.ids[7] = "u3"
    ids, proof = read(service)
    assert len(ids) == 20
    assert not proof.is_complete


def test_cursor_in_a_circle_ends() -> None:
    service = Service(30, 10, lambda _n, answer: {**answer, "nextCursor": "10"})
    _, proof = read(service, "cursor")
    assert not proof.is_complete
    assert len(service.asked) < 5


def test_cursors_without_end_and_without_users_end() -> None:
    service = Service(0, 10, lambda n, answer: {**answer, "nextCursor": f"0{n}", "Resources": []})
    service.page = 0
    _, proof = read(service, "cursor")
    assert not proof.is_complete
    assert len(service.asked) < 200


class Failing(Service):
    def __init__(self, failures: int, error: Exception) -> None:
        super().__init__(25, 10)
        self.failures, self.error = failures, error

    async def list_users(self, parameters: Mapping[str, str | int]) -> dict[str, Any]:
        if parameters.get("startIndex") == 10 and self.failures:
            self.failures -= 1
            raise self.error
        return await super().list_users(parameters)


def test_page_that_fails_for_a_moment_is_asked_for_again() -> None:
    _, proof = read(Failing(2, RemoteUnavailable("503", retry_after=timedelta(seconds=1))))
    assert proof.is_complete


@pytest.mark.parametrize("error", [RemoteUnavailable("The application answered 503."), RemoteRefused("403")])
def test_page_that_stays_away_names_itself(error: Exception) -> None:
    ids, proof = read(Failing(99, error))
    assert len(ids) == 10
    assert not proof.is_complete
    assert proof.gaps[0].startswith("Page 2: ")


def test_cursor_is_used_only_where_it_is_offered() -> None:
    class Configured:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        async def service_provider_config(self) -> Any:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    async def run(answer: Any) -> Paging:
        return await paging_of(Configured(answer))

    assert asyncio.run(run({"pagination": {"cursor": True}})) == "cursor"
    for other in ({}, {"pagination": {"cursor": "yes"}}, {"pagination": True}, RemoteRefused("404")):
        assert asyncio.run(run(other)) == "index"


def test_service_that_counts_only_by_index_is_asked_so_at_the_end() -> None:
    def alter(_number: int, answer: dict[str, Any]) -> dict[str, Any]:
        if "startIndex" in answer:
            return answer
        return {key: value for key, value in answer.items() if key != "totalResults"}

    service = Service(25, 10, alter)
    _, proof = read(service, "cursor")
    assert (proof.is_complete, proof.total, proof.read) == (True, 25, 25)
    assert service.asked[-1] == {"startIndex": 1, "count": 1}
    assert not read(Service(25, 10, _without("totalResults")), "cursor")[1].is_complete
