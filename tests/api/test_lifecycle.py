"""From hire to rehire through the API."""

from datetime import timedelta
from typing import Any

import orjson
from sqlalchemy import update

from idhub.delivery.tables import Delivery
from idhub.lifecycle import receipts
from idhub.lifecycle.receipt_document import verify
from tests.api.world import Api

HIRE: dict[str, Any] = {
    "display_name": "林晓雯",
    "given_name": "Xiaowen",
    "family_name": "Lin",
    "email": "lin.xiaowen@qiyue.example",
    "mobile": "+86 138 0013 8000",
    "employment": {
        "company": "总部",
        "employee_number": "000123",
        "employment_type": "regular",
        "start_date": "2026-01-01",
        "department": "研发/底盘",
        "title": "Engineer",
    },
}


def ok(api: Api, method: str, path: str, body: object = None, *, token: str, status: int = 200) -> dict[str, Any]:
    response = api.call(method, path, token=token, json=body)
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


def hire(api: Api, token: str, **values: Any) -> dict[str, Any]:
    return ok(api, "POST", "/people", {**HIRE, **values}, token=token, status=201)


def test_a_hire_is_active_entitled_and_provisioned(api: Api) -> None:
    token = api.token()
    person = hire(api, token)
    assert person["standing"] == "active"
    assert person["employee_number"] == "000123", "text, zeros kept"
    assert person["department"] == "研发/底盘"
    assert person["employments"][0]["start_date"] == "2026-01-01"
    assert api.world.entitled(person["id"]) == {api.world.office, api.world.wiki}
    assert [row.operation for row in api.world.deliveries(principal_id=person["id"])] == ["provision"]
    event = api.events("person.onboarded")[-1]
    assert (event["door"], event["person_id"]) == ("api", person["id"])
    assert ok(api, "GET", f"/people/{person['id']}", token=token) == person
    for name in ("000123", "HQ%2F000123", "lin.xiaowen@qiyue.example", "13800138000"):
        found = api.call("GET", f"/people/{name}", token=token)
        assert found.status_code == (404 if "%2F" in name else 200), name


def test_a_future_starter_is_staged(api: Api) -> None:
    token = api.token()
    person = hire(api, token, employment={**HIRE["employment"], "start_date": "2027-01-01"})
    assert person["standing"] == "staged"
    assert api.world.entitled(person["id"]) == set()


def test_the_same_number_twice_is_refused(api: Api) -> None:
    token = api.token()
    hire(api, token)
    before = api.state()
    response = api.call("POST", "/people", token=token, json=HIRE)
    assert response.status_code == 409
    assert api.state() == before


def test_attributes_change_and_those_left_out_stay(api: Api) -> None:
    token = api.token()
    person = hire(api, token)
    changed = ok(
        api, "PATCH", f"/people/{person['id']}", {"email": "lin@qiyue.example", "given_name": None}, token=token
    )
    assert changed["email"] == "lin@qiyue.example"
    assert changed["given_name"] is None
    assert changed["mobile"] == person["mobile"]
    assert changed["version"] > person["version"]


def test_a_move_changes_the_post_and_what_follows_from_it(api: Api) -> None:
    token = api.token()
    person = hire(api, token)
    moved = ok(api, "POST", f"/people/{person['id']}/move", {"company": "BER", "title": "Lead"}, token=token)
    assert moved["changed"]
    assert moved["person"]["company"] == "Qiyue Berlin"
    assert moved["person"]["department"] is None, "departments are a company's own"
    assert moved["person"]["employments"][0]["title"] == "Lead"
    assert api.world.entitled(person["id"]) == {api.world.wiki}, "Office is for HQ"


def test_a_move_without_anything_new_is_refused(api: Api) -> None:
    token = api.token()
    person = hire(api, token)
    response = api.call("POST", f"/people/{person['id']}/move", token=token, json={})
    assert (response.status_code, response.json()["rule"]) == (422, "required")
    response = api.call("POST", f"/people/{person['id']}/move", token=token, json={"employment": "emp_0", "title": "x"})
    assert (response.status_code, response.json()["field"]) == (404, "employment")


def test_a_suspension_raises_the_epoch_and_is_undone(api: Api) -> None:
    token = api.token()
    person = hire(api, token)
    before = api.world.principal(person["id"]).access_epoch
    suspended = ok(api, "POST", f"/people/{person['id']}/suspend", {"reason": "parental leave"}, token=token)
    assert suspended["changed"]
    assert api.world.principal(person["id"]).standing == "suspended"
    assert api.world.principal(person["id"]).access_epoch == before + 1
    assert ok(api, "POST", f"/people/{person['id']}/suspend", {}, token=token)["changed"] is False
    assert ok(api, "POST", f"/people/{person['id']}/reactivate", {}, token=token)["changed"]
    assert api.world.principal(person["id"]).standing == "active"
    assert api.events("person.suspended")[-1]["person_id"] == person["id"]


def test_a_preview_writes_nothing(api: Api) -> None:
    token = api.token()
    person = hire(api, token)
    before, events = api.state(), len(api.events())
    plan = ok(api, "GET", f"/people/{person['id']}/offboarding", token=token)
    assert api.state() == before
    assert len(api.events()) == events
    assert [row["application"] for row in plan["rows"]] == ["office", "wiki"]
    at = "2026-12-01T18:00:00+08:00"
    later = api.call("GET", f"/people/{person['id']}/offboarding", token=token, params={"effective_at": at}).json()
    assert later["effective_at"].startswith("2026-12-01T10:00:00")


def test_an_offboarding_now_answers_with_its_case_and_a_receipt_that_is_open(api: Api) -> None:
    token = api.token()
    person = hire(api, token)
    left = ok(api, "POST", f"/people/{person['id']}/offboarding", {"reason": "resigned"}, token=token)
    assert left["left"]
    assert api.world.principal(person["id"]).standing == "left"
    assert api.world.entitled(person["id"]) == set()
    receipt = ok(api, "GET", f"/receipts/{left['case']}", token=token)
    assert receipt["person"] == person["id"]
    assert receipt["complete"] is False, "Office has not answered yet"
    assert receipt["local_done_at"] is not None
    assert ok(api, "GET", f"/receipts/{receipt['number']}", token=token) == receipt
    assert ok(api, "GET", f"/receipts/{person['id']}", token=token) == receipt
    again = ok(api, "POST", f"/people/{person['id']}/offboarding", {}, token=token)
    assert (again["changed"], again["case"]) == (False, left["case"]), "asking twice names the same case"


def test_an_unsigned_receipt_is_not_exported_and_a_signed_one_verifies(api: Api) -> None:
    token, world = api.token(), api.world
    person = hire(api, token)
    case = ok(api, "POST", f"/people/{person['id']}/offboarding", {}, token=token)["case"]
    unsigned = api.call("GET", f"/receipts/{case}/export", token=token)
    assert (unsigned.status_code, unsigned.json()["rule"]) == (404, "receipt.unsigned")
    receipts.sign_due(world.database, world.keyring, issuer="http://127.0.0.1:8000", now=world.clock())
    response = api.call("GET", f"/receipts/{case}/export", token=token)
    assert response.status_code == 200
    assert response.headers["content-disposition"].startswith("attachment; filename=")
    keys = api.http.get("/.well-known/idhub-keys")
    assert keys.headers["content-type"].startswith("application/jwk-set+json")
    verdict = verify(response.content, keys.json())
    assert verdict.is_valid
    assert verdict.disclosed == {"name": "林晓雯", "employee_number": "000123"}
    assert not verify(response.content.replace("林晓雯".encode(), "林晓文".encode()), keys.json()).is_valid


def test_an_offboarding_at_a_time_is_scheduled_and_taken_back(api: Api) -> None:
    token = api.token()
    person = hire(api, token)
    at = (api.world.clock() + timedelta(days=7)).isoformat()
    scheduled = ok(api, "POST", f"/people/{person['id']}/offboarding", {"effective_at": at}, token=token)
    assert not scheduled["left"]
    assert api.world.principal(person["id"]).standing == "active"
    assert api.world.principal(person["id"]).access_ends_at == api.world.clock() + timedelta(days=7)
    ok(api, "DELETE", f"/people/{person['id']}/offboarding", token=token)
    shown = ok(api, "GET", f"/people/{person['id']}", token=token)
    assert shown["access_ends_at"] is None
    assert shown["employments"][0]["end_date"] is None
    twice = api.call("DELETE", f"/people/{person['id']}/offboarding", token=token)
    assert twice.status_code == 409


def test_an_emergency_is_now(api: Api) -> None:
    token = api.token()
    person = hire(api, token)
    at = (api.world.clock() + timedelta(days=7)).isoformat()
    body = {"effective_at": at, "emergency": True}
    refused = api.call("POST", f"/people/{person['id']}/offboarding", token=token, json=body)
    assert (refused.status_code, refused.json()["rule"]) == (422, "emergency.time")
    assert ok(api, "POST", f"/people/{person['id']}/offboarding", {"emergency": True}, token=token)["left"]


def test_a_rehire_has_new_epochs(api: Api) -> None:
    token = api.token()
    person = hire(api, token)
    ok(api, "POST", f"/people/{person['id']}/offboarding", {}, token=token)
    gone = api.world.principal(person["id"])
    api.world.clock.advance(days=30)
    token = api.token()
    again = hire(api, token, employment={**HIRE["employment"], "start_date": "2026-12-20"})
    assert again["id"] == person["id"], "the same number in the same company is the same human"
    back = api.world.principal(person["id"])
    assert back.standing == "active"
    assert back.access_epoch >= gone.access_epoch
    assert back.enrolment_epoch == gone.enrolment_epoch > 1
    assert api.events("person.rehired")


def test_a_further_employment_of_somebody_else_who_left_is_their_rehire(api: Api) -> None:
    token = api.token()
    person = hire(api, token)
    ok(api, "POST", f"/people/{person['id']}/offboarding", {}, token=token)
    body = {"company": "BER", "employee_number": "B9", "start_date": "2026-11-01"}
    back = ok(api, "POST", f"/people/{person['id']}/employments", body, token=token, status=201)
    assert back["person"]["standing"] == "active"
    assert back["person"]["company"] == "Qiyue Berlin"


def test_a_dead_delivery_is_put_back_once(api: Api) -> None:
    token = api.token()
    person = hire(api, token)
    delivery = api.world.deliveries(principal_id=person["id"])[0].id
    alive = api.call("POST", f"/deliveries/{delivery}/retry", token=token)
    assert alive.status_code == 409
    with api.world.database.transaction() as session:
        session.execute(update(Delivery).where(Delivery.id == delivery).values(state="dead"))
    again = api.call("POST", f"/deliveries/{delivery}/retry", token=token)
    assert (again.status_code, again.json()) == (202, {"requeued": delivery})
    assert api.events("delivery.requeued")[-1]["door"] == "api"


def test_lists_are_paged_by_a_cursor(api: Api) -> None:
    token = api.token("people:read")
    everybody = [api.world.hire() for _ in range(5)]
    seen, after = [], ""
    while True:
        page = api.call("GET", "/people", token=token, params={"after": after, "size": 2}).json()
        seen += [person["id"] for person in page["people"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert seen == sorted(everybody)


def test_people_are_found_by_what_they_are_called_within_the_tokens_scope(api: Api) -> None:
    world = api.world
    found = [world.hire(name) for name in ("王磊", "王芳", "王一鸣")]
    other = world.hire("李娜")
    world.hire("王海", organization_id=world.berlin)
    token = api.token("people:read", organization_id=world.hq)

    def ask(**params: str | int) -> dict[str, Any]:
        return dict(api.call("GET", "/people", token=token, params=params).json())

    seen, after = [], ""
    while True:
        page = ask(q="wang", size=1, after=after)
        seen += [person["id"] for person in page["people"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert (len(seen), set(seen)) == (3, set(found))
    assert [person["id"] for person in ask(q="ln")["people"]] == [other]
    assert ask(q="nobody at all") == {"people": [], "next": None}


def test_applications_are_listed_without_secrets(api: Api) -> None:
    response = api.call("GET", "/applications", token=api.token("applications:read"))
    listed = orjson.loads(response.content)["applications"]
    assert [row["slug"] for row in listed] == ["office", "wiki"]
    assert "secret" not in response.text
    assert "token" not in response.text
