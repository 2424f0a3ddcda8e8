"""The preview and what confirming it does; the receipt, its download and its live changes."""

import re
from datetime import timedelta

import orjson
import pytest
from sqlalchemy import delete, func, select

from audit.tables import audit_events
from idhub.access.tables import Account, Entitlement
from idhub.authority import HubRole, assign_role
from idhub.credentials.tables import Grant
from idhub.delivery.tables import Delivery
from idhub.directory.organizations import root_organization
from idhub.directory.people import show_person
from idhub.directory.tables import Principal
from idhub.lifecycle.receipt_document import verify
from idhub.lifecycle.tables import Case, CaseRow, Receipt
from tests.support.clock import Clock
from tests.web.conftest import SignIn
from tests.web.html import rows_of, text_of, token_of
from tests.web.sample import SampleHub, Story

SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
NAME = "赵明轩"


def _fields(page: str) -> dict[str, str]:
    found = re.search(r'name="fingerprint" value="([^"]+)"', page)
    assert found
    return {"csrf_token": token_of(page), "fingerprint": found[1]}


def _standing(hub: SampleHub, name: str) -> str:
    with hub.database.read() as session:
        return session.execute(select(Principal.standing).where(Principal.id == hub.people[name])).scalar_one()


def _counts(hub: SampleHub) -> tuple[int, ...]:
    with hub.database.read() as session:
        return tuple(
            session.execute(select(func.count()).select_from(table)).scalar_one() for table in (Case, Delivery, Receipt)
        )


def test_a_preview_writes_nothing_but_the_visit(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in("沈佳宁")
    before = _counts(hub)

    page = client.get(f"/hr/offboarding/{hub.people[NAME]}/preview").text

    assert "Preview, nothing has been written" in page
    assert len(rows_of(page)) == 6
    assert _counts(hub) == before
    with hub.database.read() as session:
        kinds = session.execute(select(audit_events.c.type).order_by(audit_events.c.id.desc()).limit(1)).scalars().all()
    assert kinds == ["page.viewed"]


def test_confirming_with_the_name_offboards_and_opens_the_receipt(hub: SampleHub, sign_in: SignIn) -> None:
    client, path = sign_in("沈佳宁"), f"/hr/offboarding/{hub.people[NAME]}/preview"
    fields = _fields(client.get(path).text)

    response = client.post(path, data={**fields, "confirm_name": NAME, "reason": "resigned"})

    assert response.status_code == 303
    assert re.fullmatch(r"/hr/receipts/R-2026-11-\d{4}", response.headers["location"])
    assert _standing(hub, NAME) == "left"
    page = client.get(response.headers["location"]).text
    assert "Open · 0 of 6" in page
    assert "Not signed yet" in page


def test_a_time_to_come_schedules_and_can_be_taken_back(hub: SampleHub, sign_in: SignIn) -> None:
    client, path = sign_in("沈佳宁"), f"/hr/offboarding/{hub.people[NAME]}/preview"
    fields = _fields(client.get(path).text)

    response = client.post(path, data={**fields, "confirm_name": NAME, "effective_at": "2026-11-30 18:00"})

    receipt = client.get(response.headers["location"]).text
    assert "Scheduled for 30 Nov 2026, 18:00 (UTC+8)." in receipt
    assert _standing(hub, NAME) == "active"
    cancelled = client.post(f"/hr/offboarding/{hub.people[NAME]}/cancel", data={"csrf_token": token_of(receipt)})
    assert cancelled.status_code == 303
    assert "This leave was taken back" in client.get(response.headers["location"]).text


@SQLITE
def test_hr_of_a_company_takes_no_leave_back_of_who_has_authority_beyond_it(hub: SampleHub, sign_in: SignIn) -> None:
    """Decision 0033: ending is theirs, giving back is not; nor is the button there."""
    with hub.database.transaction() as session:
        home, root = show_person(session, hub.people[NAME]).organization_id, root_organization(session)
        for name, role, place in (("魏东来", HubRole.HR, home), (NAME, HubRole.AUDITOR, root)):
            assign_role(session, hub.people[name], role, organization_id=place, now=hub.clock(), assigned_by="cli")
    client, path = sign_in("魏东来"), f"/hr/offboarding/{hub.people[NAME]}"
    fields = _fields(client.get(f"{path}/preview").text)
    sent = client.post(f"{path}/preview", data={**fields, "confirm_name": NAME, "effective_at": "2026-11-30 18:00"})
    receipt = client.get(sent.headers["location"]).text
    assert "Scheduled for 30 Nov 2026" in receipt
    assert "Cancel this leave" not in receipt
    assert client.post(f"{path}/cancel", data={"csrf_token": fields["csrf_token"]}).status_code == 404
    assert "Scheduled for 30 Nov 2026" in client.get(sent.headers["location"]).text
    assert "Cancel this leave" in sign_in("沈佳宁").get(sent.headers["location"]).text


@SQLITE
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"confirm_name": ""}, "The name differs."),
        ({"confirm_name": "赵明"}, "The name differs."),
        ({"confirm_name": NAME, "fingerprint": "0000 0000 0000"}, "The plan changed since you opened it."),
        ({"confirm_name": NAME, "fingerprint": ""}, "The plan changed since you opened it."),
        ({"confirm_name": NAME, "effective_at": "never"}, "The time could not be read."),
        ({"confirm_name": NAME, "effective_at": "2020-01-01"}, "This time has passed."),
        ({"confirm_name": NAME, "effective_at": "9" * 500}, "The time could not be read."),
        ({"confirm_name": NAME, "reason": "x" * 900}, "This is too long."),
        ({"confirm_name": NAME, "reason": "a\u202eb"}, "This contains characters that do not belong here."),
    ],
)
def test_what_contradicts_the_plan_changes_nobody(
    hub: SampleHub, sign_in: SignIn, changes: dict[str, str], sentence: str
) -> None:
    client, path = sign_in("沈佳宁"), f"/hr/offboarding/{hub.people[NAME]}/preview"
    before = _counts(hub)

    response = client.post(path, data={**_fields(client.get(path).text), **changes})

    assert response.status_code == 409
    assert sentence in response.text
    assert _counts(hub) == before
    assert _standing(hub, NAME) == "active"


@SQLITE
@pytest.mark.parametrize("who", ["高远", "何慕青", "郑可欣"])
def test_who_may_not_offboard_sees_no_preview(hub: SampleHub, sign_in: SignIn, who: str) -> None:
    client, path = sign_in(who), f"/hr/offboarding/{hub.people[NAME]}/preview"

    assert client.get(path).status_code == 404
    fields = {"csrf_token": token_of(client.get("/").text), "confirm_name": NAME}
    assert client.post(path, data=fields).status_code == 404
    assert _standing(hub, NAME) == "active"


@SQLITE
def test_an_emergency_is_now_whatever_the_form_says(hub: SampleHub, sign_in: SignIn) -> None:
    client, path = sign_in("沈佳宁"), f"/hr/offboarding/{hub.people[NAME]}/preview"
    page = client.get(f"{path}?emergency=1").text
    assert "Emergency leave: access ends now" in page

    client.post(path, data={**_fields(page), "confirm_name": NAME, "emergency": "1", "effective_at": "2026-12-24"})

    assert _standing(hub, NAME) == "left"


@SQLITE
def test_nobody_offboards_themselves(hub: SampleHub, sign_in: SignIn) -> None:
    client, path = sign_in("沈佳宁"), f"/hr/offboarding/{hub.people['沈佳宁']}/preview"
    page = client.get(path).text
    assert "Ask a colleague" in page
    assert 'name="confirm_name"' not in page


def test_who_has_left_leads_to_the_receipt(story: Story, look: SignIn) -> None:
    response = look("沈佳宁").get(f"/hr/offboarding/{story.hub.people[story.LEAVER]}/preview")

    assert response.headers["location"] == f"/hr/receipts/{story.receipt}"


def test_a_receipt_names_what_is_open_and_since_when(story: Story, look: SignIn) -> None:
    page = look("沈佳宁").get(f"/hr/receipts/{story.receipt}").text

    assert text_of(page, "status").endswith("Open · 4 of 6")
    assert "GitLab source code has no sufficient evidence, 37 min 4 s overdue." in page
    assert "409 uniqueness: userName is taken" in page
    assert text_of(page, "signature").endswith("Valid")
    assert 'data-live="/hr/receipts/' in page


def test_a_downloaded_receipt_verifies_with_the_published_keys(story: Story, look: SignIn) -> None:
    response = look("何慕青").get(f"/hr/receipts/{story.receipt}/download")

    assert response.headers["content-disposition"] == f'attachment; filename="{story.receipt}-v1.json"'
    keys = story.hub.services.keyring.jwks("receipt")
    assert verify(response.content, keys).is_valid
    middle = len(response.content) // 2
    flipped = bytes([response.content[middle] ^ 1])
    assert not verify(response.content[:middle] + flipped + response.content[middle + 1 :], keys).is_valid


@SQLITE
def test_a_receipt_that_does_not_verify_is_never_called_valid(hub: SampleHub, sign_in: SignIn) -> None:
    number = hub.leave(NAME)
    hub.deliver()
    hub.sign_receipts()
    with hub.database.transaction() as session:
        row = session.execute(select(Receipt)).scalar_one()
        head, _, tail = row.jws.rpartition(".")
        row.jws = f"{head}.{'A' if tail[0] != 'A' else 'B'}{tail[1:]}"

    page = sign_in("沈佳宁").get(f"/hr/receipts/{number}").text

    assert "The signature of this receipt does not verify." in page
    assert 'data-test="download"' not in page
    assert text_of(page, "signature").endswith("Invalid")


def test_a_row_that_needs_no_evidence_raises_no_alarm(hub: SampleHub, sign_in: SignIn) -> None:
    """Nothing was known to end there: without evidence for good, in grey; what still lacks evidence is red."""
    number = hub.leave(NAME)
    with hub.database.transaction() as session:
        row = session.execute(select(CaseRow).limit(1)).scalar_one()
        row.channel, row.delivery_id, row.required_grade, row.note = "none", None, 0, "no_account"
    client = sign_in("沈佳宁")

    page = client.get(f"/hr/receipts/{number}").text
    assert (page.count('class="grade g0"'), page.count('class="grade g0 met"')) == (5, 1)
    assert page.count('<rect class="f-e0"') == page.count('<rect class="f-e0 met"') == 1

    hub.deliver()
    page = client.get(f"/hr/receipts/{number}").text
    assert (page.count('class="grade g0"'), page.count('class="grade g0 met"')) == (0, 1)
    assert '<rect class="f-e0"' not in page


@pytest.mark.parametrize("number", ["R-2026-11-9999", "per_x", "R-2026-11-0001%00", "a" * 300])
def test_an_unknown_receipt_is_not_found(look: SignIn, number: str) -> None:
    assert look("沈佳宁").get(f"/hr/receipts/{number}").status_code == 404


def test_receipts_can_be_filtered_and_found_by_name(story: Story, look: SignIn) -> None:
    client = look("沈佳宁")

    assert rows_of(client.get("/hr/receipts").text) == [story.scheduled, story.receipt]
    assert rows_of(client.get("/hr/receipts?state=scheduled").text) == [story.scheduled]
    assert rows_of(client.get("/hr/receipts?q=徐浩").text) == [story.receipt]
    assert rows_of(client.get("/hr/receipts?month=2026-10").text) == []
    assert "2 rows overdue" in client.get("/hr/receipts").text


@SQLITE
def test_live_changes_arrive_and_end_with_the_receipt(hub: SampleHub, sign_in: SignIn, clock: Clock) -> None:
    number = hub.leave(NAME)
    client = sign_in("沈佳宁")
    hub.deliver()
    hub.sign_receipts()
    clock.advance(timedelta(seconds=5))

    with client.stream("GET", f"/hr/receipts/{number}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        text = "".join(response.iter_text())

    change, _, end = text.partition("event: end")
    assert end
    data = orjson.loads(re.search(r"data: (.*)\n", change[change.index("event: change") :])[1])  # type: ignore[index]
    assert data["counter"] == "6 of 6 done"
    assert sum(part.startswith("row-") for part in data["parts"]) == 6
    assert "receipt-status" in data["parts"]


@SQLITE
def test_live_changes_are_not_for_everybody(hub: SampleHub, sign_in: SignIn) -> None:
    number = hub.leave(NAME)

    assert sign_in("郑可欣").get(f"/hr/receipts/{number}/events").status_code == 404


@SQLITE
def test_channels_are_counted_where_there_are_some(hub: SampleHub, sign_in: SignIn) -> None:
    """Nothing is "0/0 reachable": of whom no application is told, that is said."""
    client = sign_in("沈佳宁")
    untold = hub.people["何慕青"]
    with hub.database.transaction() as session:
        session.execute(delete(Account).where(Account.principal_id == untold))
        session.execute(delete(Grant).where(Grant.principal_id == untold))
        session.execute(delete(Entitlement).where(Entitlement.principal_id == untold))
    english = {"accept-language": "en"}

    some = client.get(f"/hr/offboarding/{hub.people[NAME]}/preview", headers=english).text
    none = client.get(f"/hr/offboarding/{untold}/preview", headers=english).text

    assert re.fullmatch(r"(\d+)/\1", text_of(some, "channels"))
    assert text_of(none, "channels") == "—"
    assert "no automatic channel" in none
