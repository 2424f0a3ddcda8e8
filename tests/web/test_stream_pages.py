"""Event receivers: named, paused, tried again and removed from their pages, within the visitor's companies alone."""

import re
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from audit.tables import audit_events
from idhub.authority import HubRole, assign_role
from idhub.credentials import opaque
from idhub.credentials.tables import ApiToken
from idhub.db import new_id
from idhub.directory.tables import Installation, Organization
from idhub.provisioning.events.streams import StreamWish, create_stream, list_streams
from idhub.provisioning.events.tables import EventRow, EventStream
from tests.web.conftest import SignIn
from tests.web.html import rows_of, text_of, token_of
from tests.web.sample import SampleHub

PATH = "/admin/streams"
SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


def sender(hub: SampleHub, name: str, organization_id: str | None = None) -> str:
    """A SCIM token; returns its id."""
    with hub.database.transaction() as session:
        token = ApiToken(
            id=new_id("tok"),
            token_hash=opaque.hash_of(name + (organization_id or "")),
            name=name,
            installation_epoch=session.scalars(select(Installation.epoch)).one(),
            scopes=["scim:read"],
            organization_id=organization_id,
            created_at=hub.clock(),
            expires_at=hub.clock() + timedelta(days=30),
        )
        session.add(token)
        return token.id


def stream(hub: SampleHub, name: str, organization_id: str | None = None, push_url: str | None = None) -> str:
    """A stream of a new sender; returns its id."""
    sender(hub, name, organization_id)
    with hub.database.transaction() as session:
        wanted = StreamWish(token_name=name, organization_id=organization_id, push_url=push_url)
        return create_stream(session, wanted, keyring=hub.services.keyring, now=hub.clock())


def company(hub: SampleHub) -> str:
    """A company below the root."""
    with hub.database.read() as session:
        found = session.scalars(select(Organization.id).where(Organization.parent_id.is_not(None))).first()
        assert found is not None
        return found


def test_receiver_is_named_paused_tried_again_and_removed(hub: SampleHub, sign_in: SignIn) -> None:
    token, client = sender(hub, "directory"), sign_in("高远")
    csrf = token_of(client.get(PATH).text)
    form = {"csrf_token": csrf, "token": token, "push": "https://receiver.example/e", "authorization": "Bearer canary"}
    made = client.post(PATH, data={**form, "e0": "on", "e2": "on", "full": "on"})
    place = made.headers["location"].partition("?")[0]
    shown = client.get(place)
    with hub.database.transaction() as session:
        session.execute(update(EventStream).values(failures=3, last_error="The receiver answered 500."))
    failing = client.get(place).text
    steps = []
    for step in ("resume", "pause", "pause", "resume", "remove"):
        answer = client.post(place, data={"csrf_token": csrf, "step": step})
        steps.append((answer.status_code, answer.headers.get("location", "").partition("?done=")[2]))
        if step == "resume":
            with hub.database.transaction() as session:
                session.execute(update(EventStream).values(failures=0))

    assert made.status_code == 303
    assert shown.status_code == 200
    assert "canary" not in shown.text
    assert "prov:create:full" in shown.text
    assert "prov:create:notice" not in shown.text
    assert "The receiver answered 500." in failing
    assert 'data-test="resume"' in failing
    assert steps == [(303, "resumed"), (303, "paused"), (409, ""), (303, "resumed"), (303, "removed")]
    assert client.get(place).status_code == 404
    kinds = ["created", "resumed", "paused", "resumed", "removed"]
    with hub.database.read() as session:
        told = select(audit_events.c.type, audit_events.c.actor_id).where(audit_events.c.target_kind == "scim_stream")
        events = session.execute(told.order_by(audit_events.c.id)).all()
    assert [row[0] for row in events] == [f"scim_stream.{kind}" for kind in kinds]
    assert {row[1] for row in events} == {hub.people["高远"]}


@SQLITE
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"token": "tok_x", "e0": "on"}, "Choose one of the listed tokens."),
        ({}, "Choose at least one event."),
        ({"e0": "on", "push": "http://receiver.example/e"}, "https"),
        ({"e0": "on", "push": "https://169.254.169.254/e"}, "169.254.169.254"),
        ({"e0": "on", "authorization": "Bearer canary"}, "needs an address to send to"),
        ({"e0": "on", "audience": "ü"}, "one line of plain characters"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_made(
    hub: SampleHub, sign_in: SignIn, values: dict[str, str], said: str
) -> None:
    token, client = sender(hub, "directory"), sign_in("高远")
    form = {"csrf_token": token_of(client.get(PATH).text), "token": token, **values}
    answer = client.post(PATH, data=form)

    assert answer.status_code == 422
    assert said in text_of(answer.text, "errors")
    assert "canary" not in answer.text
    with hub.database.read() as session:
        assert list_streams(session) == []


@SQLITE
def test_health_says_what_is_wrong(hub: SampleHub, sign_in: SignIn) -> None:
    client, now = sign_in("何慕青"), hub.clock()
    ids = {name: stream(hub, name) for name in ("well", "paused", "failing", "slow", "dead")}
    with hub.database.transaction() as session:
        session.get_one(EventStream, ids["paused"]).paused_at = now
        failing_row = session.get_one(EventStream, ids["failing"])
        failing_row.failures, failing_row.last_error, failing_row.lost = 2, "The receiver answered 503.", 4
        session.execute(update(ApiToken).where(ApiToken.name == "dead").values(revoked_at=now))
        session.add(
            EventRow(
                stream_id=ids["slow"], token_id="a", transaction_id="t", resource="User", resource_id="per_x",
                kind="prov:delete", details=[], happened_at=now - timedelta(hours=2), is_ready=True,
            )
        )  # fmt: skip
    badges = {name: text_of(client.get(f"{PATH}/{one}").text, "health") for name, one in ids.items()}
    listed = client.get(PATH).text
    failing = client.get(f"{PATH}/{ids['failing']}").text

    assert {name: text.strip() for name, text in badges.items()} == {
        "well": "Normal",
        "paused": "Paused",
        "failing": "Not taken",
        "slow": "Waits long",
        "dead": "Its token does not work",
    }
    assert set(rows_of(listed)) == set(ids.values())
    assert "4 events were lost" in failing
    assert "The last 2 attempts came to nothing." in failing
    assert 'data-test="pause"' not in failing, "an auditor changes nothing"


def test_administrator_of_a_company_sees_its_own_alone(hub: SampleHub, sign_in: SignIn) -> None:
    """What is of another company, or of all, is as if there were none: in lists, counts, choices and answers."""
    mine = company(hub)
    with hub.database.transaction() as session:
        others = session.scalars(select(Organization.id).where(Organization.id != mine)).all()
        assign_role(
            session,
            hub.people["周子昂"],
            HubRole.ADMINISTRATOR,
            organization_id=mine,
            now=hub.clock(),
            assigned_by="cli",
        )
        elsewhere = next(one for one in others if session.get_one(Organization, one).parent_id is not None)
    own, unlimited, other = stream(hub, "own", mine), stream(hub, "zz-whole"), stream(hub, "zz-other", elsewhere)
    client = sign_in("周子昂")
    page = client.get(PATH).text
    csrf = token_of(page)
    foreign = sender(hub, "zz-third", elsewhere)
    refused = client.post(PATH, data={"csrf_token": csrf, "token": foreign, "e0": "on"})
    step = {"csrf_token": csrf, "step": "pause"}

    assert rows_of(page) == [own]
    assert "zz-" not in page
    assert text_of(page, "receivers").split()[-1] == "1"
    assert client.get(f"{PATH}/{own}").status_code == 200
    unknown = _plain(client.get(f"{PATH}/evs_x").text)
    for hidden in (unlimited, other):
        assert client.get(f"{PATH}/{hidden}").status_code == 404
        assert _plain(client.get(f"{PATH}/{hidden}").text.replace(hidden, "evs_x")) == unknown
        assert client.post(f"{PATH}/{hidden}", data=step).status_code == 404
    assert client.post(f"{PATH}/{own}", data=step).status_code == 303
    assert refused.status_code == 422
    with hub.database.read() as session:
        paused = {one.id for one in list_streams(session) if one.paused_at is not None}
        assert paused == {own}
        assert len(list_streams(session)) == 3


def _plain(page: str) -> str:
    """The page without its form tokens."""
    return re.sub(r'name="csrf_token" value="[^"]*"', "", page)
