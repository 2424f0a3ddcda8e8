"""SCIM events (RFC 9967): what happens to people and groups reaches whoever listens, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Timer
from time import monotonic
from typing import Any

import jwt
import pytest
from sqlalchemy import event, func, select, update

from idhub import faults
from idhub.access.tables import EntitlementRule
from idhub.api.scim import PREFIX
from idhub.api.scim_jobs import work_jobs
from idhub.changes import COMMAND_LINE
from idhub.credentials import opaque
from idhub.credentials.tables import ApiToken
from idhub.db import Database
from idhub.directory.people import show_person
from idhub.errors import Invalid, NotFound
from idhub.lifecycle import intake
from idhub.lifecycle.due import apply_due
from idhub.lifecycle.hr_import import import_file
from idhub.lifecycle.ports import follower_of
from idhub.provisioning.events.feed import Feed, forget_listeners
from idhub.provisioning.events.streams import StreamWish, create_stream, list_streams, remove_stream
from idhub.provisioning.events.tables import EventRow, EventStream
from idhub.provisioning.events.waiting import KEPT, purge_events
from idhub.provisioning.inbound.terms import Terms
from idhub.services import Hub
from idhub.settings import Settings
from scim.events import BY_URI
from scim.schemas import BULK_REQUEST, ENTERPRISE_USER, GROUP, PATCH_OP, USER
from tests.api.test_scim import BASE, Scim
from tests.api.world import Api
from tests.providers.hr_samples import row, write_csv

EVENT = "urn:ietf:params:scim:event:"
ASYNC = {"Prefer": "respond-async"}
ISSUER = BASE.removesuffix(PREFIX)


class Receiver:
    """Polls a stream, verifies every token as RFC 8417 and RFC 9967 say, and keeps what it holds."""

    def __init__(self, scim: Scim, **wish: Any) -> None:
        self.scim, self.world = scim, scim.api.world
        with self.world.database.read() as session:
            token = session.execute(
                select(ApiToken).where(ApiToken.token_hash == opaque.hash_of(scim.token))
            ).scalar_one()
        wanted = StreamWish(token_name=token.name, organization_id=token.organization_id, **wish)
        with self.world.database.transaction() as session:
            self.id = create_stream(session, wanted, keyring=self.world.keyring, now=self.world.clock())
            forget_listeners(session)
        self.address = f"{BASE}/Events/{self.id}"
        self.claims: list[dict[str, Any]] = []

    def ask(self, body: Any = None, **options: Any) -> Any:
        """One poll; `returnImmediately` unless said otherwise."""
        asked = {"returnImmediately": True, **(body or {})}
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        return self.scim.call("POST", f"/Events/{self.id}", asked, headers=headers, **options)

    def take(self) -> list[dict[str, Any]]:
        """Claims of everything that is new, acknowledged."""
        taken: list[dict[str, Any]] = []
        while sets := self.ask().json()["sets"]:
            taken += [self.verified(token_id, token) for token_id, token in sets.items()]
            answer = self.ask({"ack": list(sets), "maxEvents": 0})
            assert answer.json() == {"sets": {}}
        self.claims += taken
        return taken

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        """What is new, as (subject, events by the end of their URIs)."""
        return [
            (each["sub_id"]["uri"], {uri.removeprefix(EVENT): value for uri, value in each["events"].items()})
            for each in self.take()
        ]

    def verified(self, token_id: str, token: str) -> dict[str, Any]:
        """The claims of a token that an independent library finds signed by a published key."""
        keys = {key["kid"]: jwt.PyJWK(key) for key in self.scim.api.http.get("/oauth2/jwks").json()["keys"]}
        header = jwt.get_unverified_header(token)
        options: Any = {"require": ["iss", "iat", "jti", "aud"], "verify_iat": False}
        claims: dict[str, Any] = jwt.decode(
            token,
            keys[header["kid"]],
            algorithms=["ES256"],
            audience=self.address,
            issuer=self.scim.api.app.state.services.settings.issuer,
            options=options,
        )
        assert header["typ"] == "secevent+jwt", "RFC 8417 section 2.3"
        assert claims["jti"] == token_id and not {"sub", "exp"} & claims.keys(), "RFC 8417 sections 2.2 and 3"
        assert claims["sub_id"]["format"] == "scim" and claims["sub_id"]["uri"].startswith("/"), "RFC 9967 section 2.1"
        assert claims["txn"] and claims["events"].keys() <= BY_URI.keys(), "RFC 9967 sections 2.2 and 7.4"
        for uri, payload in claims["events"].items():
            listed, full = uri.endswith(":notice"), uri.endswith(":full")
            assert (bool(payload.get("attributes")), "data" in payload) == (listed, full), "RFC 9967 section 2.4"
        return claims


@pytest.fixture
def scim(listening: Api) -> Scim:
    """A sender limited to HQ."""
    return Scim(listening, organization_id=listening.world.hq, name="directory", expires=timedelta(days=30))


@pytest.fixture
def receiver(scim: Scim) -> Receiver:
    """Its stream."""
    return Receiver(scim)


# --- people, through the one door -------------------------------------------------------------------------------------


def test_hire_change_suspension_return_and_leave_are_told(receiver: Receiver) -> None:
    """RFC 9967 section 2.4: the notice forms, from whatever door."""
    world = receiver.world
    person = world.hire("李思雨", title="Engineer")
    hired = receiver.told()
    employment_id = world.employments(person)[0].id
    world.change(intake.Move(principal_id=person, employment_id=employment_id, values={"title": "Lead"}))
    moved = receiver.told()
    world.change(intake.Suspend(principal_id=person, reason="x"))
    suspended = receiver.told()
    world.change(intake.Reactivate(principal_id=person))
    back = receiver.told()
    world.change(intake.Offboard(principal_id=person, reason="x"))
    left = receiver.told()

    uri = f"/Users/{person}"
    ((subject, events),) = hired
    assert (subject, list(events)) == (uri, ["prov:create:notice", "prov:activate"])
    named = events["prov:create:notice"]["attributes"]
    assert {"id", "userName", "displayName", "emails", "title", f"{ENTERPRISE_USER}:employeeNumber"} <= set(named)
    assert "phoneNumbers" not in named
    assert moved == [(uri, {"prov:patch:notice": {"attributes": ["title"]}})]
    assert suspended == [(uri, {"prov:patch:notice": {"attributes": ["active"]}, "prov:deactivate": {}})]
    assert back == [(uri, {"prov:patch:notice": {"attributes": ["active"]}, "prov:activate": {}})]
    assert left == [(uri, {"prov:patch:notice": {"attributes": ["active"]}, "prov:deactivate": {}})]
    assert len({each["txn"] for each in receiver.claims}) == len(receiver.claims) == 5


def test_no_value_of_anybody_is_told(receiver: Receiver) -> None:
    person = receiver.world.hire("李思雨", title="Engineer")
    receiver.take()
    shown = show_person_of(receiver, person)

    text = repr(receiver.claims)
    assert not any(value in text for value in ("李思雨", "Engineer", shown.email or "?", "QY0"))


def show_person_of(receiver: Receiver, person: str) -> Any:
    with receiver.world.database.read() as session:
        return show_person(session, person)


def test_first_day_that_comes_by_itself_is_told(receiver: Receiver) -> None:
    world = receiver.world
    person = world.hire("新人", starts_on=world.clock().date() + timedelta(days=3))
    staged = receiver.told()
    world.at(world.clock() + timedelta(days=4))
    apply_due(world.database, now=world.clock())
    begun = receiver.told()

    assert [list(events) for _, events in staged] == [["prov:create:notice"]]
    assert begun == [(f"/Users/{person}", {"prov:activate": {}})]


def test_nothing_is_told_of_what_changed_nothing(receiver: Receiver) -> None:
    world = receiver.world
    person = world.hire()
    receiver.take()
    world.change(intake.Reevaluate(principal_id=person))
    world.change(intake.EndCredentials(principal_id=person, reason="x"))

    assert receiver.told() == []


@pytest.mark.parametrize("has_rules", [True, False])
def test_joiners_of_an_import_are_told(receiver: Receiver, tmp_path: Path, *, has_rules: bool) -> None:
    """A first load into a hub without rules takes a way of its own."""
    world = receiver.world
    if not has_rules:
        with world.database.transaction() as session:
            session.execute(update(EntitlementRule).values(valid_to=world.clock()))
    places = ["HQ"] * 60 + ["BER"]
    rows = [_row(number, place) for number, place in enumerate(places)]
    report = import_file(
        world.database,
        write_csv(tmp_path / "people.csv", rows),
        keyring=world.keyring,
        snapshot=True,
        dry_run=False,
        now=world.clock(),
        actor=COMMAND_LINE,
    )
    told = receiver.told()

    assert report.new == 61
    assert len(told) == 60
    assert all(list(events) == ["prov:create:notice", "prov:activate"] for _, events in told)


def _row(number: int, company: str) -> dict[str, str]:
    name = f"N{number:03}"
    own = {"employee_number": name, "email": f"{name}@x.example", "mobile": "", "manager_employee_number": ""}
    return row(company=company, **own)


# --- who hears of whom ------------------------------------------------------------------------------------------------


def test_receiver_never_hears_of_people_outside_its_company(receiver: Receiver) -> None:
    world = receiver.world
    person = world.hire("Elsewhere", organization_id=world.berlin)
    employment_id = world.employments(person)[0].id
    world.change(intake.Move(principal_id=person, employment_id=employment_id, values={"title": "x"}))
    world.change(intake.Offboard(principal_id=person, reason="x"))

    assert receiver.told() == []
    with world.database.read() as session:
        assert session.execute(select(func.count()).select_from(EventRow)).scalar_one() == 0


def test_who_comes_into_the_company_or_leaves_it_joins_and_leaves_the_feed(receiver: Receiver) -> None:
    """RFC 9967 section 2.3."""
    world = receiver.world
    person = world.hire("Mover", organization_id=world.berlin)
    employment_id = world.employments(person)[0].id
    move = {"principal_id": person, "employment_id": employment_id}
    world.change(intake.Move(**move, values={"organization_id": world.hq}))
    came = receiver.told()
    world.change(intake.Move(**move, values={"organization_id": world.berlin}))
    gone = receiver.told()

    assert came == [(f"/Users/{person}", {"feed:add": {}})]
    assert gone == [(f"/Users/{person}", {"feed:remove": {}})]


def test_receiver_of_the_whole_group_hears_of_everybody(listening: Api) -> None:
    receiver = Receiver(Scim(listening, "scim:read", name="everything"))
    world = receiver.world
    people = [world.hire("One"), world.hire("Two", organization_id=world.berlin)]

    assert [subject for subject, _ in receiver.told()] == [f"/Users/{person}" for person in people]


def test_attributes_that_the_token_may_not_read_are_not_named(listening: Api) -> None:
    terms = Terms(readable=frozenset({"userName", "title"})).as_json()
    receiver = Receiver(Scim(listening, "scim:read", name="narrow", terms=terms))
    world = receiver.world
    person = world.hire(title="Engineer")
    created = receiver.told()
    world.change(intake.UpdatePerson(principal_id=person, values={"display_name": "Other"}))
    unseen = receiver.told()

    assert created[0][1]["prov:create:notice"]["attributes"] == ["id", "userName", "title"]
    assert unseen == []


def test_token_for_groups_hears_of_no_person(listening: Api) -> None:
    terms = Terms(resources=frozenset({"Group"})).as_json()
    receiver = Receiver(Scim(listening, "scim:read", name="groups", terms=terms))
    receiver.world.hire()

    assert receiver.told() == []


def test_only_requested_events_are_told(scim: Scim) -> None:
    receiver = Receiver(scim, events=[f"{EVENT}prov:deactivate"])
    world = receiver.world
    person = world.hire()
    world.change(intake.Suspend(principal_id=person, reason="x"))

    assert receiver.told() == [(f"/Users/{person}", {"prov:deactivate": {}})]


def test_each_receiver_has_a_token_of_its_own_of_one_transaction(listening: Api, scim: Scim) -> None:
    """RFC 9967 section 2.2: `txn` is the same for all receivers, `jti` is not."""
    first = Receiver(scim)
    second = Receiver(Scim(listening, "scim:read", name="second"))
    scim.api.world.hire()

    (one,), (other,) = first.take(), second.take()
    assert one["txn"] == other["txn"] and one["jti"] != other["jti"]


# --- the SCIM door ----------------------------------------------------------------------------------------------------


def test_words_of_a_sender_are_told_as_one_token_each(receiver: Receiver) -> None:
    scim = receiver.scim
    user = scim.user("ada@corp.example", externalId="ada", nickName="A", title="x")
    created = receiver.take()
    scim.patch(
        user,
        {"op": "replace", "path": "title", "value": "y"},
        {"op": "replace", "path": "nickName", "value": "B"},
        {"op": "replace", "path": "locale", "value": "de"},
    )
    patched = receiver.told()
    scim.ok("PUT", f"/Users/{user['id']}", {"schemas": [USER], "userName": "ada@corp.example", "title": "z"})
    put = receiver.told()
    deleted = scim.call("DELETE", f"/Users/{user['id']}")
    gone = receiver.told()

    uri = f"/Users/{user['id']}"
    (claims,) = created
    assert claims["sub_id"] == {"format": "scim", "uri": uri, "id": user["id"], "externalId": "ada"}
    assert list(claims["events"]) == [f"{EVENT}prov:create:notice", f"{EVENT}prov:activate"]
    assert "nickName" in claims["events"][f"{EVENT}prov:create:notice"]["attributes"]
    assert patched == [(uri, {"prov:patch:notice": {"attributes": ["locale", "title", "nickName"]}})]
    ((_, events),) = put
    assert list(events) == ["prov:put:notice"] and {"title", "nickName"} <= set(events["prov:put:notice"]["attributes"])
    assert deleted.status_code == 204
    assert gone == [(uri, {"prov:delete": {}})], "section 2.4.4: nothing else beside it"


def test_deleted_person_who_comes_back_is_new(receiver: Receiver) -> None:
    scim = receiver.scim
    user = scim.user("ada@corp.example")
    scim.call("DELETE", f"/Users/{user['id']}")
    receiver.take()
    scim.user("ada@corp.example")
    told = receiver.told()

    ((subject, events),) = told
    assert (subject, list(events)) == (f"/Users/{user['id']}", ["prov:create:notice", "prov:activate"])


def test_deleted_person_is_not_heard_of_while_gone(receiver: Receiver) -> None:
    scim, world = receiver.scim, receiver.world
    user = scim.user("ada@corp.example")
    scim.call("DELETE", f"/Users/{user['id']}")
    receiver.take()
    world.change(intake.UpdatePerson(principal_id=user["id"], values={"display_name": "Other"}))

    assert receiver.told() == []


def test_groups_are_told(receiver: Receiver) -> None:
    scim = receiver.scim
    user = scim.user("ada@corp.example")
    receiver.take()
    group = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "Team"})
    scim.patch(group, {"op": "add", "path": "members", "value": [{"value": user["id"]}]})
    scim.patch(group, {"op": "replace", "path": "displayName", "value": "Crew"})
    scim.call("DELETE", f"/Groups/{group['id']}")
    told = receiver.told()

    assert {subject for subject, _ in told} == {f"/Groups/{group['id']}"}
    assert [events for _, events in told] == [
        {"prov:create:notice": {"attributes": ["id", "displayName"]}},
        {"prov:patch:notice": {"attributes": ["members"]}},
        {"prov:patch:notice": {"attributes": ["displayName"]}},
        {"prov:delete": {}},
    ]


def test_refused_request_tells_nothing(receiver: Receiver) -> None:
    scim = receiver.scim
    scim.user("ada@corp.example")
    user = scim.user("bo@corp.example")
    receiver.take()
    answer = scim.call(
        "PATCH",
        f"/Users/{user['id']}",
        {
            "schemas": [PATCH_OP],
            "Operations": [
                {"op": "replace", "path": "title", "value": "x"},
                {"op": "replace", "path": "userName", "value": "ada@corp.example"},
            ],
        },
    )

    assert answer.status_code == 409
    assert receiver.told() == []


# --- asynchronous bulk ------------------------------------------------------------------------------------------------


def _hub(scim: Scim) -> Hub:
    world = scim.api.world
    return Hub(Settings(issuer=ISSUER), world.database, world.keyring, world.clock, "node-worker")


def _bulk(scim: Scim) -> Any:
    operations: list[dict[str, Any]] = [
        {
            "method": "POST",
            "path": "/Users",
            "bulkId": name,
            "data": {"schemas": [USER], "userName": f"{name}@x.example"},
        }
        for name in ("ada", "bo")
    ]
    operations += [
        {"method": "PATCH", "path": "/Users/bulkId:ada", "data": [{"op": "add", "path": "title", "value": "x"}]},
        {"method": "POST", "path": "/Users", "bulkId": "nobody", "data": {"schemas": [USER], "userName": ""}},
    ]
    return scim.call("POST", "/Bulk", {"schemas": [BULK_REQUEST], "Operations": operations}, headers=ASYNC)


def test_asynchronous_request_is_told_operation_by_operation(receiver: Receiver) -> None:
    """RFC 9967 sections 2.5.1 and 3."""
    scim = receiver.scim
    accepted = _bulk(scim)
    work_jobs(_hub(scim), seconds=30)
    taken = receiver.take()

    txn = accepted.headers["set-txn"]
    assert (accepted.status_code, accepted.content, accepted.headers["preference-applied"]) == (
        202,
        b"",
        "respond-async",
    )
    answers = {
        each["txn"]: (each["sub_id"]["uri"], payload)
        for each in taken
        for uri, payload in each["events"].items()
        if uri == f"{EVENT}misc:asyncresp"
    }
    assert sorted(answers) == [f"{txn}:{place}" for place in range(4)]
    ids = {each["sub_id"]["uri"] for each in taken if f"{EVENT}prov:create:notice" in each["events"]}
    assert {answers[f"{txn}:0"][0], answers[f"{txn}:1"][0]} == ids
    assert answers[f"{txn}:2"][0] == answers[f"{txn}:0"][0]
    assert [answers[f"{txn}:{place}"][1]["status"] for place in range(4)] == ["201", "201", "200", "400"]
    assert answers[f"{txn}:0"][1]["version"].startswith('W/"')
    assert answers[f"{txn}:3"][1]["response"]["scimType"] == "invalidValue"
    assert answers[f"{txn}:3"][0] == f"/Bulk/{txn}"
    patched = next(each for each in taken if f"{EVENT}prov:patch:notice" in each["events"])
    assert patched["txn"] == f"{txn}:2", "what an operation does has the operation's transaction"


def test_answers_go_to_whoever_asked_alone(listening: Api, receiver: Receiver) -> None:
    other = Scim(listening, name="other", organization_id=listening.world.hq)
    _bulk(other)
    work_jobs(_hub(other), seconds=30)

    assert not any("asyncresp" in uri for each in receiver.take() for uri in each["events"])


def test_answer_that_a_crash_cut_short_is_told_all_the_same(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The effect is there and its answer is not complete: what is known is told when the request is over."""
    scim = receiver.scim
    accepted = _bulk(scim)

    class _Killed(BaseException):
        pass

    def die(name: str) -> None:
        if name == "commit.after":
            raise _Killed

    monkeypatch.setattr(faults, "at", die)
    with pytest.raises(_Killed):
        work_jobs(_hub(scim), seconds=30)
    monkeypatch.undo()
    early = [each["txn"] for each in receiver.take() if f"{EVENT}misc:asyncresp" in each["events"]]
    work_jobs(_hub(scim), seconds=30)
    late = [each["txn"] for each in receiver.take() if f"{EVENT}misc:asyncresp" in each["events"]]

    txn = accepted.headers["set-txn"]
    assert early == []
    assert sorted(late) == [f"{txn}:{place}" for place in range(4)]


# --- discovery --------------------------------------------------------------------------------------------------------


def test_server_says_what_it_tells_to_whom_it_tells(scim: Scim) -> None:
    """RFC 9967 section 4: absent where nothing is configured."""
    before = scim.ok("GET", "/ServiceProviderConfig")
    Receiver(scim, events=[f"{EVENT}prov:delete", f"{EVENT}prov:create:notice"])
    after = scim.ok("GET", "/ServiceProviderConfig")
    other = Scim(scim.api, name="other").ok("GET", "/ServiceProviderConfig")

    assert "securityEvents" not in before and "securityEvents" not in other
    assert after["securityEvents"] == {
        "asyncRequest": "request",
        "eventUris": [f"{EVENT}prov:create:notice", f"{EVENT}prov:delete"],
    }


# --- polling ----------------------------------------------------------------------------------------------------------


def test_what_is_not_acknowledged_is_told_again_the_same(receiver: Receiver) -> None:
    """RFC 8936 section 2.4: the token stays the same in everything that is signed."""
    receiver.world.hire()
    first, second = receiver.ask().json()["sets"], receiver.ask().json()["sets"]
    (token_id,) = first

    assert receiver.verified(token_id, first[token_id]) == receiver.verified(token_id, second[token_id])


def test_tokens_come_in_order_and_in_parts(receiver: Receiver) -> None:
    people = [receiver.world.hire() for _ in range(3)]
    first = receiver.ask({"maxEvents": 2}).json()
    rest = receiver.ask({"maxEvents": 2, "ack": list(first["sets"])}).json()

    assert (len(first["sets"]), first["moreAvailable"]) == (2, True)
    assert (len(rest["sets"]), "moreAvailable" in rest) == (1, False)
    told = [receiver.verified(*each)["sub_id"]["id"] for each in [*first["sets"].items(), *rest["sets"].items()]]
    assert told == people


def test_token_that_the_receiver_refuses_is_not_told_again_and_counted(receiver: Receiver) -> None:
    receiver.world.hire()
    (token_id,) = receiver.ask().json()["sets"]
    answer = receiver.ask({"setErrs": {token_id: {"err": "invalid_request", "description": "x"}}})

    assert answer.json() == {"sets": {}}
    with receiver.world.database.read() as session:
        (stream,) = list_streams(session)
    assert (stream.waiting, stream.refused) == (0, 1)


def test_acknowledging_what_is_anothers_takes_nothing_away(listening: Api, receiver: Receiver) -> None:
    other = Receiver(Scim(listening, "scim:read", name="zz"))
    receiver.world.hire()
    (token_id,) = receiver.ask().json()["sets"]
    other.ask({"ack": [token_id]})

    assert list(receiver.ask().json()["sets"]) == [token_id]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_request_waits_until_something_is_told(receiver: Receiver) -> None:
    """RFC 8936 section 2.2: without `returnImmediately` it is a long poll."""
    Timer(0.5, receiver.world.hire).start()
    answer = receiver.ask({"returnImmediately": False})

    assert len(answer.json()["sets"]) == 1


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_few_wait_at_once_and_others_are_answered(receiver: Receiver) -> None:
    """Whoever waits holds a place of those who work; a dozen receivers must not hold them all."""
    began = monotonic()
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: _timed(receiver), range(12)))

    at_once = [seconds for seconds, sets in answers if not sets and seconds < 5]
    assert len(at_once) >= 8 and monotonic() - began < 30


def _timed(receiver: Receiver) -> tuple[float, Any]:
    began = monotonic()
    sets = receiver.ask({"returnImmediately": False}).json()["sets"]
    return monotonic() - began, sets


def _others(receiver: Receiver) -> Scim:
    return Scim(receiver.scim.api, name="stranger", organization_id=receiver.world.hq)


_BAD: list[tuple[Any, int]] = [
    ({"maxEvents": -1}, 400),
    ({"maxEvents": True}, 400),
    ({"maxEvents": "1"}, 400),
    ({"returnImmediately": "yes"}, 400),
    ({"ack": "x"}, 400),
    ({"ack": [1]}, 400),
    ({"ack": ["x"] * 1_001}, 400),
    ({"ack": ["x" * 101]}, 400),
    ({"setErrs": ["x"]}, 400),
    ({"setErrs": {"x": "y"}}, 400),
]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_bad_polls_are_refused_and_take_nothing_away(receiver: Receiver) -> None:
    receiver.world.hire()
    for body, status in _BAD:
        assert receiver.ask(body).status_code == status, body
    path = f"{PREFIX}/Events/{receiver.id}"
    headers = {"Authorization": f"Bearer {receiver.scim.token}"}
    http = receiver.scim.api.http
    for content in (b"[]", b"{", b"\xff", b'{"ack": [], "ack": []}', b"[" * 100_000):
        assert http.post(path, content=content, headers=headers).status_code == 400
    form = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
    assert http.post(path, content=b"a=b", headers=form).status_code == 415
    assert http.get(path, headers=headers).status_code == 405
    assert http.post(path, content=b"{}").status_code == 401
    assert http.post(path + "x", content=b"{}", headers=headers).status_code == 404
    assert http.post(PREFIX + "/Events", content=b"{}", headers=headers).status_code == 404
    assert len(receiver.ask().json()["sets"]) == 1


def test_stream_is_its_own_tokens_alone(receiver: Receiver) -> None:
    receiver.world.hire()
    stranger = _others(receiver).call("POST", f"/Events/{receiver.id}", {"returnImmediately": True}, headers=JSON)
    elsewhere = Scim(receiver.scim.api, name="directory", organization_id=receiver.world.berlin)
    namesake = elsewhere.call("POST", f"/Events/{receiver.id}", {"returnImmediately": True}, headers=JSON)
    unlimited = Scim(receiver.scim.api, name="directory")
    whole = unlimited.call("POST", f"/Events/{receiver.id}", {"returnImmediately": True}, headers=JSON)
    no_scope = Scim(receiver.scim.api, "people:read", name="directory", organization_id=receiver.world.hq)
    scopeless = no_scope.call("POST", f"/Events/{receiver.id}", {"returnImmediately": True}, headers=JSON)

    statuses = [answer.status_code for answer in (stranger, namesake, whole, scopeless)]
    assert statuses == [404, 404, 404, 403]


JSON = {"Content-Type": "application/json"}


def test_new_token_of_the_same_name_goes_on_with_the_stream(receiver: Receiver) -> None:
    world = receiver.world
    with world.database.transaction() as session:
        session.execute(update(ApiToken).values(revoked_at=world.clock()))
    assert receiver.ask().status_code == 401
    world.hire()
    receiver.scim = Scim(receiver.scim.api, name="directory", organization_id=world.hq)

    assert len(receiver.told()) == 1


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"events": [f"{EVENT}prov:delete:full"]}, "event"),
        ({"events": ["x"]}, "event"),
        ({"authorization": "Bearer x"}, "authorization_file"),
        ({"authorization": "Bearer x\r\nHost: y", "push_url": "https://r.example/e"}, "authorization_file"),
        ({"authorization": "", "push_url": "https://r.example/e"}, "authorization_file"),
        ({"audience": "a\nb"}, "audience"),
        ({"token_name": "nobody"}, "token"),
    ],
)
def test_wish_that_cannot_be_is_refused(scim: Scim, wish: dict[str, Any], field: str) -> None:
    world = scim.api.world
    wanted = StreamWish(**{"token_name": "directory", "organization_id": world.hq, **wish})
    with world.database.transaction() as session, pytest.raises((Invalid, NotFound)) as refused:
        create_stream(session, wanted, keyring=world.keyring, now=world.clock())

    assert refused.value.field == field


def test_removed_stream_leaves_nothing(receiver: Receiver) -> None:
    world = receiver.world
    world.hire()
    with world.database.transaction() as session:
        remove_stream(session, receiver.id)
        forget_listeners(session)
    world.hire()

    assert receiver.ask().status_code == 404
    with world.database.read() as session:
        assert session.execute(select(func.count()).select_from(EventRow)).scalar_one() == 0


def test_event_waits_a_week_and_its_loss_is_counted(receiver: Receiver) -> None:
    world = receiver.world
    world.hire()
    kept = purge_events(world.database, now=world.clock() + KEPT - timedelta(seconds=1))
    lost = purge_events(world.database, now=world.clock() + KEPT + timedelta(seconds=1))

    with world.database.read() as session:
        (stream,) = list_streams(session)
    # Of a new person: made, and may begin.
    assert (kept, lost, stream.lost, stream.waiting) == (0, 2, 2, 0)


def test_where_nobody_listens_nothing_is_read_or_written(listening: Api) -> None:
    """Who listens is asked once a second, however many transitions there are."""
    world = listening.world
    with world.database.read() as session:
        feed = follower_of(session)
        assert isinstance(feed, Feed)
        assert not feed.listens(session)
    with _statements(world.database) as statements:
        person = world.hire()
        world.change(intake.Suspend(principal_id=person, reason="x"))
        world.change(intake.Offboard(principal_id=person, reason="x"))

    assert not [text for text in statements if "scim_event" in text]


@contextmanager
def _statements(database: Database) -> Iterator[list[str]]:
    """Statements that a database runs meanwhile."""
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, text: str, *_: Any) -> None:
        seen.append(text)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def test_stream_row_holds_no_header_in_clear(scim: Scim) -> None:
    world = scim.api.world
    wish = StreamWish(
        token_name="directory", organization_id=world.hq, push_url="https://r.example/e", authorization="Bearer canary"
    )
    with world.database.transaction() as session:
        create_stream(session, wish, keyring=world.keyring, now=world.clock())
    with world.database.read() as session:
        row = session.execute(select(EventStream.__table__)).one()

    assert b"canary" not in repr(tuple(row)).encode()
