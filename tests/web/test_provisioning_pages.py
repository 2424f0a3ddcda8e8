"""An application's provisioning: what would be sent, accounts to review, a run over all accounts."""

import re
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from idhub.access.tables import Account, Application, ScimTarget
from idhub.delivery.holds import NOTES, Failed, holds, note_answers
from idhub.delivery.tables import Delivery
from idhub.provisioning.outbound.tables import AdoptionReview, SyncRun
from idhub.web.labels import HOLD
from tests.web.conftest import SignIn
from tests.web.html import text_of, token_of
from tests.web.sample import SampleHub

PATH = "/admin/apps/gitlab/provisioning"
SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


def application_id(hub: SampleHub) -> str:
    with hub.database.read() as session:
        return session.scalars(select(Application.id).where(Application.slug == "gitlab")).one()


def person_with_account(hub: SampleHub) -> tuple[str, str]:
    """(principal, account) of somebody who is to have an account there."""
    with hub.database.read() as session:
        row = session.execute(
            select(Account.principal_id, Account.id).where(
                Account.application_id == application_id(hub), Account.desired_state == "active"
            )
        ).first()
        assert row is not None
        assert row[0] is not None
        return row[0], row[1]


def test_a_run_is_begun_paused_and_ended(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in("高远")
    page = client.get(PATH).text
    for step, state in (("start", "running"), ("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        answer = client.post(PATH, data={"csrf_token": token_of(page), "step": step})
        assert (answer.status_code, (answer.headers.get("location") or "").partition("?")[0]) == (303, PATH)
        with hub.database.read() as session:
            assert session.scalars(select(SyncRun.state)).one() == state
        assert ("<progress" in client.get(PATH).text) == (state in {"running", "paused"})
    again = client.post(PATH, data={"csrf_token": token_of(page), "step": "pause"})
    assert again.status_code == 409
    assert client.post(PATH, data={"csrf_token": token_of(page), "step": "nonsense"}).status_code == 409


@SQLITE
def test_what_would_be_sent_for_a_person(hub: SampleHub, sign_in: SignIn) -> None:
    person, _ = person_with_account(hub)
    page = sign_in("高远").get(f"{PATH}?person={person}").text
    assert '"userName"' in text_of(page, "resource")
    unknown = sign_in("高远").get(f"{PATH}?person=nobody-of-this-name")
    assert (unknown.status_code, "nobody-of-this-name" in unknown.text) == (200, True)


def test_an_account_is_linked_or_left_alone(hub: SampleHub, sign_in: SignIn) -> None:
    person, account = person_with_account(hub)
    with hub.database.transaction() as session:
        row = session.get_one(Account, account)
        row.external_id = None
        for name in ("one", "two"):
            session.add(
                AdoptionReview(
                    id=f"rev_{name}",
                    application_id=row.application_id,
                    user_id=name,
                    user_name=f"{name}@there.example",
                    problem="review",
                    rule="email",
                    candidates=[person],
                    state="open",
                    created_at=hub.clock(),
                )
            )
    client = sign_in("高远")
    page = client.get(PATH).text
    assert "one@there.example" in page
    form = {"csrf_token": token_of(page), "step": "confirm", "review": "rev_one", "person": person}
    assert client.post(PATH, data={**form, "person": "nobody"}).status_code == 409
    assert client.post(PATH, data=form).status_code == 303
    assert client.post(PATH, data=form).status_code == 409
    assert client.post(PATH, data={**form, "step": "reject", "review": "rev_two"}).status_code == 303
    with hub.database.read() as session:
        assert session.scalars(select(Account.external_id).where(Account.id == account)).one() == "one"
        states = {row.id: row.state for row in session.scalars(select(AdoptionReview))}
        assert states == {"rev_one": "confirmed", "rev_two": "rejected"}
        waiting = select(Delivery.id).where(Delivery.account_id == account, Delivery.state == "pending")
        assert session.scalars(waiting).first() is not None


@SQLITE
@pytest.mark.parametrize("step", ["start", "retry", "probe", "discover"])
def test_what_was_begun_is_said(hub: SampleHub, sign_in: SignIn, step: str) -> None:
    """What a worker does is not there yet when the page comes back."""
    client = sign_in("高远")
    answer = client.post(PATH, data={"csrf_token": token_of(client.get(PATH).text), "step": step})

    said = client.get(answer.headers["location"]).text
    invented = client.get(f"{PATH}?done=<b>paid</b>").text

    assert answer.headers["location"] == f"{PATH}?done={step}"
    assert "Load the page again" in said
    assert "Load the page again" not in invented
    assert "<b>paid" not in invented


@SQLITE
def test_a_review_offers_whom_it_found_by_name(hub: SampleHub, sign_in: SignIn) -> None:
    person, account = person_with_account(hub)
    with hub.database.transaction() as session:
        session.add(
            AdoptionReview(
                id="rev_one", application_id=session.get_one(Account, account).application_id, user_id="one",
                user_name="one@there.example", problem="review", rule="email", candidates=[person], state="open",
                created_at=hub.clock(),
            )
        )  # fmt: skip
    name = next(name for name, one in hub.people.items() if one == person)

    page = sign_in("高远").get(PATH).text

    assert f"Link to {name}" in page
    assert f'name="person" value="{person}"' in page


@SQLITE
def test_a_refused_credential_and_dead_letters_say_what_to_do(hub: SampleHub, sign_in: SignIn) -> None:
    failed = [Failed((application_id(hub), "scim"), f"dlv_{n}", "unauthorized", "401") for n in range(3)]
    _, account = person_with_account(hub)
    with hub.database.transaction() as session:
        note_answers(session, failed, set(), now=hub.clock())
        session.execute(update(Delivery).where(Delivery.account_id == account).values(state="dead"))
    client = sign_in("高远")

    english = client.get(PATH, headers={"accept-language": "en"}).text
    chinese = client.get(PATH, headers={"accept-language": "zh-CN"}).text

    assert "idhub provisioning token stage gitlab FILE" in english
    assert "存入新令牌" in chinese
    assert "/admin/deliveries?app=gitlab&amp;state=dead" in english
    assert "as written" not in chinese


@SQLITE
def test_an_auditor_looks_and_changes_nothing(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in("何慕青")
    page = client.get(PATH).text
    assert 'data-test="start"' not in page
    assert client.post(PATH, data={"csrf_token": token_of(client.get("/").text), "step": "start"}).status_code == 404
    with hub.database.read() as session:
        assert session.scalars(select(SyncRun.id)).all() == []


@SQLITE
@pytest.mark.parametrize("path", [PATH, "/admin/apps/gitlab", "/admin/deliveries"])
def test_why_a_queue_stands_still_is_said_in_both_languages_with_the_reason(
    hub: SampleHub, sign_in: SignIn, path: str
) -> None:
    detail = "The certificate or TLS of gitlab.corp.example is not accepted (certificate has expired)."
    failed = Failed((application_id(hub), "scim"), "dlv_1", "tls", detail)
    with hub.database.transaction() as session:
        note_answers(session, [failed], set(), now=hub.clock())
    client = sign_in("高远")
    chinese = client.get(path, headers={"accept-language": "zh-CN"}).text
    english = client.get(path, headers={"accept-language": "en"}).text

    assert f"应用的证书或 TLS 不被接受。下发按顺序等待。 {detail}" in chinese
    assert "The application&#39;s certificate or TLS is not accepted. Deliveries wait in order. " + detail in english


@SQLITE
def test_what_is_held_can_be_tried_at_once(hub: SampleHub, sign_in: SignIn) -> None:
    """Whoever mended the other side need not wait for the hub to look by itself."""
    failed = Failed((application_id(hub), "scim"), "dlv_1", "tls", "expired")
    client = sign_in("高远")
    before = client.get(PATH).text
    with hub.database.transaction() as session:
        note_answers(session, [failed], set(), now=hub.clock())
    page = client.get(PATH).text
    with hub.database.read() as session:
        (held,) = holds(session, [application_id(hub)])
    client.post(PATH, data={"csrf_token": token_of(page), "step": "probe"})
    with hub.database.read() as session:
        (tried,) = holds(session, [application_id(hub)])

    assert ('data-test="probe"' in before, 'data-test="probe"' in page) == (False, True)
    assert (held.is_probe_due(hub.clock()), tried.is_probe_due(hub.clock())) == (False, True)


def test_every_note_that_the_hub_writes_has_its_words() -> None:
    assert HOLD == NOTES


@SQLITE
def test_what_waits_for_a_decision_is_no_failure(hub: SampleHub, sign_in: SignIn) -> None:
    """Nothing is wrong with it, and sending it again would change nothing."""
    _, account = person_with_account(hub)
    with hub.database.transaction() as session:
        session.execute(
            update(Delivery).where(Delivery.account_id == account).values(state="review", finished_at=hub.clock())
        )
        delivery = session.scalars(select(Delivery.id).where(Delivery.account_id == account)).first()
    client = sign_in("高远")
    listed, one = client.get("/admin/deliveries").text, client.get(f"/admin/deliveries/{delivery}").text
    provisioning, applications = client.get(PATH).text, client.get("/admin/apps").text

    assert text_of(listed, "dead").split()[-1] == "0"
    assert 'id="dead"' not in listed
    assert "Waits for a decision" in listed
    assert "Waits for a decision" in text_of(one, "state")
    assert f'href="{PATH}">Accounts to review</a>' in one
    assert 'data-test="retry"' in one
    assert "Waits for a decision" in applications
    assert 'data-test="retry"' not in provisioning


def connection_of(page: str) -> str:
    """The words of the card, one space between them."""
    card = page.partition('data-test="connection"')[2].partition("</section>")[0]
    return " ".join(re.sub("<[^>]+>", " ", card).split())


@SQLITE
def test_the_way_to_the_application_is_shown(hub: SampleHub, sign_in: SignIn) -> None:
    """Which address its firewall sees, through what, how fast, and when the token ends, long before it does."""
    client = sign_in("高远")
    plain = connection_of(client.get(PATH).text)
    options = {
        "proxy": "http://proxy.dmz.qiyue.example:3128",
        "egress_address": "10.20.8.44",
        "requests_per_minute": 120,
        "delete_after": 90 * 86_400,
        "adopt": {"automatic": ["external_id"], "review": ["email", "employee_number"]},
    }
    ends_at = hub.clock() + timedelta(days=300)
    with hub.database.transaction() as session:
        target = session.get_one(ScimTarget, application_id(hub))
        target.options, target.token_expires_at = options, ends_at
    shown = connection_of(client.get(PATH).text)
    chinese = connection_of(client.get(PATH, headers={"accept-language": "zh-CN"}).text)

    for words in ("no end is noted", "Proxy none", "any address of the hub", "as the application says", "never"):
        assert words in plain
    for words in ("proxy.dmz.qiyue.example:3128", "10.20.8.44", "120", "90 d", "externalId", "mail · employee number"):
        assert words in shown
    assert "no end" not in shown
    assert [word for word in ("Proxy", "Token", "mail", "never") if word in chinese] == []
