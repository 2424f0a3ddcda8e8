"""The terms of a SCIM token: what its words end, whom it brings back, and how far it reaches."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from idhub.directory.kinds import Standing
from idhub.errors import Invalid
from idhub.provisioning.inbound.store import KINDS
from idhub.provisioning.inbound.terms import Ending, Return, Terms, check_terms, read_terms
from scim.schemas import BULK_REQUEST, ENTERPRISE_USER, GROUP, PATCH_OP, USER
from tests.api.test_scim import Scim
from tests.api.world import Api

OFF = {"op": "replace", "path": "active", "value": False}
ON = {"op": "replace", "path": "active", "value": True}


def _sender(api: Api, terms: Terms | None = None, **values: Any) -> Scim:
    stored = check_terms(terms or Terms(**values), KINDS).as_json()
    return Scim(api, organization_id=api.world.hq, terms=stored or None)


def _standing(sender: Scim, user: Any) -> Standing:
    return Standing(sender.api.world.principal(user["id"]).standing)


def _epochs(sender: Scim, user: Any) -> tuple[int, int]:
    row = sender.api.world.principal(user["id"])
    return row.access_epoch, row.enrolment_epoch


def _put(sender: Scim, user: Any, **values: Any) -> Any:
    return sender.ok("PUT", f"/Users/{user['id']}", {"schemas": [USER], "userName": user["userName"], **values})


# --- what ends, and how -----------------------------------------------------------------------------------------------

WORDS: dict[str, Any] = {
    "inactive: PATCH": lambda sender, user: sender.patch(user, OFF),
    "inactive: PATCH as Entra says it": lambda sender, user: sender.patch(
        user, {"op": "Replace", "path": "active", "value": "False"}
    ),
    "inactive: PATCH without a path": lambda sender, user: sender.patch(
        user, {"op": "replace", "value": {"active": False}}
    ),
    "inactive: PUT": lambda sender, user: _put(sender, user, active=False),
    "deleted": lambda sender, user: sender.call("DELETE", f"/Users/{user['id']}"),
    "deleted: bulk": lambda sender, user: sender.ok(
        "POST",
        "/Bulk",
        {"schemas": [BULK_REQUEST], "Operations": [{"method": "DELETE", "path": f"/Users/{user['id']}"}]},
    ),
    "unsaid: PUT": _put,
    "unsaid: PATCH removes it": lambda sender, user: sender.patch(user, {"op": "remove", "path": "active"}),
}
"""Every word that can end somebody; the term that says how stands before the colon."""


@pytest.mark.parametrize("ending", list(Ending))
def test_word_ends_as_the_terms_say(api: Api, ending: Ending) -> None:
    expected = {
        Ending.KEEP: (Standing.ACTIVE, False, False),
        Ending.SUSPEND: (Standing.SUSPENDED, True, False),
        Ending.LEAVE: (Standing.LEFT, True, True),
    }[ending]
    found: dict[str, tuple[Standing, bool, bool]] = {}
    for word, say in WORDS.items():
        if ending is Ending.KEEP and not word.startswith("unsaid"):
            continue
        terms: dict[str, Any] = {word.partition(":")[0]: ending}
        sender = _sender(api, Terms(**terms))
        user = sender.user(f"{len(found)}@corp.example")
        before = _epochs(sender, user)

        say(sender, user)

        access, enrolment = _epochs(sender, user)
        found[word] = _standing(sender, user), access > before[0], enrolment > before[1]

    assert found == dict.fromkeys(found, expected)
    assert len(found) == (2 if ending is Ending.KEEP else len(WORDS))
    doors = [event["door"] for kind in ("person.suspended", "person.offboarded") for event in api.events(kind)]
    assert doors == ([] if ending is Ending.KEEP else ["scim"] * len(WORDS))


@pytest.mark.parametrize("ending", [Ending.SUSPEND, Ending.LEAVE])
def test_removal_from_scope_ends_as_the_terms_say(api: Api, ending: Ending) -> None:
    sender = _sender(api, scope_group="Staff", out_of_scope=ending)
    ended = Standing.SUSPENDED if ending is Ending.SUSPEND else Standing.LEFT
    for way in ("PATCH", "PUT", "DELETE"):
        kept, gone = sender.user(f"kept.{way}@corp.example"), sender.user(f"gone.{way}@corp.example")
        members = [{"value": each["id"]} for each in (kept, gone)]
        group = sender.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "Staff", "members": members})
        other = sender.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": way, "members": members})
        sender.patch(other, {"op": "remove", "path": "members"})
        assert _standing(sender, gone) == Standing.ACTIVE

        if way == "PATCH":
            sender.patch(group, {"op": "remove", "path": f'members[value eq "{gone["id"]}"]'})
        elif way == "PUT":
            body = {"schemas": [GROUP], "displayName": "Staff", "members": members[:1]}
            sender.ok("PUT", f"/Groups/{group['id']}", body)
        else:
            sender.call("DELETE", f"/Groups/{group['id']}")

        assert _standing(sender, gone) == ended
        assert _standing(sender, kept) == (ended if way == "DELETE" else Standing.ACTIVE)
        sender.call("DELETE", f"/Groups/{group['id']}")


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_scope_group_keeps_its_name_and_does_not_empty_at_once(api: Api) -> None:
    sender = _sender(api, scope_group="Staff", out_of_scope=Ending.SUSPEND)
    users = [sender.user(f"u{number}@corp.example") for number in range(21)]
    group = sender.ok(
        "POST",
        "/Groups",
        {"schemas": [GROUP], "displayName": "Staff", "members": [{"value": user["id"]} for user in users]},
    )
    before = api.state()

    rename = {"schemas": [PATCH_OP], "Operations": [{"op": "replace", "path": "displayName", "value": "Ex"}]}
    renamed = sender.call("PATCH", f"/Groups/{group['id']}", rename)
    ended = sender.call("DELETE", f"/Groups/{group['id']}")

    assert (renamed.status_code, renamed.json()["scimType"]) == (400, "invalidValue")
    assert (ended.status_code, ended.json()["detail"]) == (403, "A request takes at most 20 people out of scope.")
    assert api.state() == before
    assert len(sender.ok("GET", f"/Groups/{group['id']}")["members"]) == 21


def test_put_without_active_leaves_who_is_suspended_suspended(api: Api) -> None:
    """It says nothing of standing: an administrator's suspension is not undone by a sender that did not mention it."""
    sender = _sender(api)
    user = sender.user()
    token = api.token("people:write")
    api.call("POST", f"/people/{user['id']}/suspend", token=token, json={"reason": "lost badge"})

    shown = _put(sender, user, title="x")

    assert (_standing(sender, user), shown["active"]) == (Standing.SUSPENDED, False)


@pytest.mark.parametrize("returns", list(Return))
def test_active_brings_back_whom_the_terms_allow(api: Api, returns: Return) -> None:
    sender = _sender(api, returns=returns)
    for by_whom in ("sender", "administrator", "other sender"):
        user = sender.user(f"{by_whom.replace(' ', '.')}@corp.example")
        if by_whom == "administrator":
            api.call("POST", f"/people/{user['id']}/suspend", token=api.token("people:write"), json={"reason": "x"})
        else:
            ends = sender if by_whom == "sender" else Scim(api, organization_id=api.world.hq, name="other")
            ends.patch(user, OFF)
        assert _standing(sender, user) == Standing.SUSPENDED

        answer = sender.call("PATCH", f"/Users/{user['id']}", {"schemas": [PATCH_OP], "Operations": [ON]})

        comes_back = returns is Return.ANYBODY or by_whom == "sender"
        assert answer.status_code == (200 if comes_back else 403), answer.text
        assert _standing(sender, user) == (Standing.ACTIVE if comes_back else Standing.SUSPENDED)


def test_later_suspension_by_somebody_else_is_not_the_senders_to_undo(api: Api) -> None:
    sender = _sender(api, returns=Return.OWN)
    user = sender.user()
    sender.patch(user, OFF)
    token = api.token("people:write")
    for act in ("reactivate", "suspend"):
        api.call("POST", f"/people/{user['id']}/{act}", token=token, json={"reason": "x"})

    answer = sender.call("PATCH", f"/Users/{user['id']}", {"schemas": [PATCH_OP], "Operations": [ON]})

    assert (answer.status_code, _standing(sender, user)) == (403, Standing.SUSPENDED)


def test_who_was_deleted_and_only_suspended_comes_back_by_post(api: Api) -> None:
    sender = _sender(api, deleted=Ending.SUSPEND)
    user = sender.user(enterprise={"employeeNumber": "QY9"}, title="Clerk")
    sender.call("DELETE", f"/Users/{user['id']}")
    gone = sender.call("GET", f"/Users/{user['id']}")

    again = sender.user(enterprise={"employeeNumber": "QY9"}, title="Engineer")

    assert gone.status_code == 404
    assert (again["id"], _standing(sender, user)) == (user["id"], Standing.ACTIVE)
    assert [post.title for post in api.world.employments(user["id"])] == ["Engineer"]
    assert _epochs(sender, user)[1] == 1


# --- how far a token reaches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_what_is_not_readable_is_neither_shown_nor_compared_nor_sorted_by(api: Api) -> None:
    writer = _sender(api)
    user = writer.user(
        title="Clerk", emails=[{"value": "a@corp.example", "type": "work"}], enterprise={"department": "X"}
    )
    reader = _sender(api, readable=frozenset({"username", "active", f"{ENTERPRISE_USER}:Department"}))

    shown = reader.ok("GET", f"/Users/{user['id']}", params={"attributes": "userName,emails,title"})
    whole = reader.ok("GET", f"/Users/{user['id']}")
    filtered = reader.call("GET", "/Users", params={"filter": 'emails.value eq "a@corp.example"'})
    sorted_ = [reader.call("GET", "/Users", params={"sortBy": name}) for name in ("title", "emails.value")]

    assert shown.keys() == {"schemas", "id", "userName"}
    assert whole.keys() == {"schemas", "id", "userName", "active", "meta", ENTERPRISE_USER}
    assert whole[ENTERPRISE_USER] == {"department": "X"}
    assert [answer.json()["scimType"] for answer in (filtered, *sorted_)] == ["invalidFilter", *["invalidPath"] * 2]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_patch_does_not_tell_what_may_neither_be_read_nor_written(api: Api) -> None:
    """An operation that would change nothing is answered like one that would: neither is done."""
    user = _sender(api).user(title="Clerk", phoneNumbers=[{"value": "+86 138 0000 0000", "type": "mobile"}])
    guesser = _sender(api, readable=frozenset({"userName"}), writable=frozenset({"nickName"}))
    guesses = [{"op": "replace", "path": "title", "value": title} for title in ("Clerk", "Boss")]
    guesses += [{"op": "remove", "path": f'phoneNumbers[value eq "{number}"]'} for number in ("+86 138 0000 0000", "1")]

    answers = [
        guesser.call("PATCH", f"/Users/{user['id']}", {"schemas": [PATCH_OP], "Operations": [guess]})
        for guess in guesses
    ]

    assert {(answer.status_code, answer.json()["scimType"]) for answer in answers} == {(400, "invalidPath")}


def test_what_is_not_writable_stays(api: Api) -> None:
    writer = _sender(api)
    user = writer.user(title="Clerk", nickName="B", externalId="e1", enterprise={"department": "X", "costCenter": "1"})
    limited = _sender(api, writable=frozenset({"nickName", f"{ENTERPRISE_USER}:costCenter"}))

    put = _put(limited, user, title="Boss", nickName="C", active=False, **{ENTERPRISE_USER: {"costCenter": "2"}})
    refused = limited.call(
        "PATCH",
        f"/Users/{user['id']}",
        {"schemas": [PATCH_OP], "Operations": [{"op": "replace", "path": "nickName", "value": "D"}, OFF]},
    )
    made = limited.call("POST", "/Users", {"schemas": [USER], "userName": "new@corp.example"})
    ended = limited.call("DELETE", f"/Users/{user['id']}")

    assert (put["title"], put["nickName"], put["active"], put["userName"]) == ("Clerk", "C", True, user["userName"])
    assert put[ENTERPRISE_USER]["costCenter"] == "2"
    assert put[ENTERPRISE_USER]["department"] == "X"
    assert (refused.status_code, refused.json()["scimType"]) == (400, "mutability")
    assert (made.status_code, ended.status_code) == (403, 403)
    assert limited.ok("GET", f"/Users/{user['id']}")["nickName"] == "C"
    assert _standing(writer, user) == Standing.ACTIVE


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_discovery_says_what_the_token_may(api: Api) -> None:
    limited = _sender(
        api, readable=frozenset({"userName"}), writable=frozenset({"userName"}), resources=frozenset({"user"})
    )

    types = [each["name"] for each in limited.ok("GET", "/ResourceTypes")["Resources"]]
    schema = limited.ok("GET", f"/Schemas/{USER}")
    title = next(each for each in schema["attributes"] if each["name"] == "title")

    assert types == ["User"]
    assert (title["returned"], title["mutability"]) == ("never", "readOnly")


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_type_that_is_not_the_tokens_does_not_exist_for_it(api: Api) -> None:
    group = _sender(api).ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "Team"})
    limited = _sender(api, resources=frozenset({"User"}))
    before = api.state()

    answers = [
        limited.call("GET", "/Groups"),
        limited.call("GET", f"/Groups/{group['id']}"),
        limited.call("POST", "/Groups", {"schemas": [GROUP], "displayName": "x"}),
        limited.call("DELETE", f"/Groups/{group['id']}"),
        limited.call("POST", "/Groups/.search", {}),
    ]
    bulk = limited.ok(
        "POST",
        "/Bulk",
        {"schemas": [BULK_REQUEST], "Operations": [{"method": "DELETE", "path": f"/Groups/{group['id']}"}]},
    )

    assert [answer.status_code for answer in answers] == [404] * 5
    assert bulk["Operations"][0]["status"] == "404"
    assert api.state() == before


def test_calls_beyond_the_rate_wait_and_bulk_operations_weigh(api: Api) -> None:
    sender = _sender(api, calls_a_minute=4)
    other = _sender(api)
    operations = [
        {
            "method": "POST", "path": "/Users", "bulkId": str(number),
            "data": {"schemas": [USER], "userName": f"u{number}@corp.example"},
        }
        for number in range(3)
    ]  # fmt: skip

    bulk = sender.ok("POST", "/Bulk", {"schemas": [BULK_REQUEST], "Operations": operations})
    last, refused = sender.call("GET", "/Users"), sender.call("GET", "/Users")
    api.world.at(api.world.clock() + timedelta(seconds=15))
    later = sender.call("GET", "/Users")

    assert [each["status"] for each in bulk["Operations"]] == ["201"] * 3
    assert (last.status_code, refused.status_code, later.status_code) == (200, 429, 200)
    assert refused.headers["retry-after"] == "15"
    assert other.call("GET", "/Users").status_code == 200
    assert api.events("request.refused")[-1]["reason"] == "scim.429"


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_terms_that_are_not_understood_close_the_door(api: Api) -> None:
    later = Scim(api, terms={"attributes_of_2030": ["x"]})
    broken = Scim(api, terms={"deleted": "forget"})

    assert [each.call("GET", "/Users").status_code for each in (later, broken)] == [403, 403]


# --- terms themselves -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"inactive": Ending.KEEP}, "terms"),
        ({"deleted": Ending.KEEP}, "terms"),
        ({"scope_group": "Staff"}, "scope_group"),
        ({"out_of_scope": Ending.LEAVE}, "scope_group"),
        ({"readable": frozenset({"salary"})}, "readable"),
        ({"writable": frozenset({"urn:x:y:salary"})}, "writable"),
        ({"writable": frozenset({"a b"})}, "writable"),
        ({"readable": frozenset(f"a{n}" for n in range(101))}, "readable"),
        ({"resources": frozenset({"Device"})}, "resource"),
        ({"calls_a_minute": 0}, "calls_a_minute"),
        ({"calls_a_minute": 1_000_001}, "calls_a_minute"),
    ],
)
def test_terms_that_make_no_sense_name_what_is_wrong(values: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as error:
        check_terms(Terms(**values), KINDS)

    assert error.value.field == field
    assert re.search(r"\.$", error.value.description)


def test_terms_are_stored_and_read_back() -> None:
    terms = check_terms(
        Terms(
            inactive=Ending.LEAVE,
            scope_group="Staff",
            out_of_scope=Ending.SUSPEND,
            returns=Return.OWN,
            readable=frozenset({"EMAILS", ENTERPRISE_USER}),
            calls_a_minute=60,
        ),
        KINDS,
    )

    assert read_terms(terms.as_json()) == terms
    assert terms.readable == frozenset({"emails", ENTERPRISE_USER})
    assert Terms().as_json() == {}
