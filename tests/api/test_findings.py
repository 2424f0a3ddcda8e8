"""Findings through the API: every one on one page, those asked for alone, decided once."""

from typing import Any

import pytest

from tests.api.world import Api


def pages(api: Api, token: str, **asked: Any) -> list[list[dict[str, Any]]]:
    found, after = [], None
    while True:
        query = {**asked, **({"after": after} if after else {})}
        answer = api.call("GET", "/findings", token=token, params=query)
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["findings"])
        if (after := answer.json()["next"]) is None:
            return found


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (200, [5])])
def test_every_finding_stands_on_one_page_in_order_of_discovery(api: Api, limit: int, sizes: list[int]) -> None:
    made = [api.finding(api.world.hq, f"nobody-{number}") for number in range(5)]
    found = pages(api, api.token(), limit=limit)
    assert [len(page) for page in found] == sizes
    assert [row["id"] for page in found for row in page] == made


def test_findings_are_narrowed_by_kind_state_and_company(api: Api) -> None:
    here, there = api.finding(api.world.hq, "one"), api.finding(api.world.berlin, "two")
    token = api.token()
    assert api.call("POST", f"/findings/{here}/accept", token=token).json()["state"] == "accepted"

    def ids(token: str = token, **asked: str) -> list[str]:
        return [row["id"] for page in pages(api, token, **asked) for row in page]

    assert ids(state="accepted") == [here]
    assert ids(state="open") == [there]
    assert ids(kind="ghost_paid") == [here, there]
    assert ids(kind="ghost") == []
    assert ids(api.token("findings:read", organization_id=api.world.berlin)) == [there]
    refused = api.call("GET", "/findings", token=token, params={"application": "nothing"})
    assert (refused.status_code, refused.json()["field"]) == (404, "application")


def test_a_finding_is_decided_once_and_what_was_decided_is_shown(api: Api) -> None:
    finding, token = api.finding(api.world.hq), api.token()
    day = {"reason": "the janitor's", "until": "2026-12-31"}
    answer = api.call("POST", f"/findings/{finding}/dismiss", token=token, json=day)
    assert answer.status_code == 200, answer.text
    shown = api.call("GET", f"/findings/{finding}", token=token).json()
    assert (shown["state"], shown["reason"]) == ("dismissed", "the janitor's")
    for step, body in (("accept", None), ("dismiss", day)):
        again = api.call("POST", f"/findings/{finding}/{step}", token=token, json=body)
        assert (again.status_code, again.json()["rule"]) == (409, "finding.decided")
    assert api.call("POST", f"/findings/{finding}/take-back", token=token).json()["state"] == "reopened"
    undecided = api.call("POST", f"/findings/{finding}/take-back", token=token)
    assert (undecided.status_code, undecided.json()["rule"]) == (409, "finding.undecided")
    assert [event["details"]["was"] for event in api.events("finding.taken_back")] == ["dismissed"]
    events = [event["details"] for event in api.events("finding.dismissed")]
    assert [(event["reason"], event["until"]) for event in events] == [("the janitor's", "2026-12-31")]
