"""`/admin/ghosts`: what is shown, to whom, and what a decision does. A browser without JavaScript."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from audit.tables import audit_events
from idhub.access.tables import ReconcilePlan
from idhub.db import create_database
from idhub.delivery.tables import Delivery
from idhub.keys import MasterKey, load_keyring
from idhub.migrations import migrate
from idhub.provisioning.reconcile.tables import Finding
from idhub.settings import Settings
from tests.support.clock import Clock
from tests.web.conftest import _browser
from tests.web.ghosts import plant
from tests.web.html import links_of, rows_of, text_of, token_of
from tests.web.sample import SampleHub

ADMIN, HR, AUDITOR, EMPLOYEE = "高远", "沈佳宁", "何慕青", "郑可欣"


class Ghosts:
    """The hub with its findings, and browsers."""

    def __init__(self, hub: SampleHub) -> None:
        self.hub = hub
        self.ids = plant(hub)

    def look(self, name: str) -> TestClient:
        return _browser(self.hub, name)

    def post(self, name: str, path: str, /, **fields: str) -> Any:
        client = self.look(name)
        return client.post(path, data={"csrf_token": token_of(client.get("/admin/ghosts").text), **fields})

    def finding(self, subject: str) -> Finding:
        with self.hub.database.read() as session:
            return session.execute(select(Finding).where(Finding.id == self.ids[subject])).scalar_one()


@pytest.fixture(scope="module")
def ghosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ghosts]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("ghosts"))
    database = create_database(settings)
    migrate(database)
    clock = Clock()
    keyring = load_keyring(database, MasterKey.load(settings.effective_master_key_file, create=True), now=clock())
    hub = SampleHub(settings, database, keyring, clock).fill()
    hub.deliver()
    hub.know_accounts()
    yield Ghosts(hub)
    database.dispose()


def test_list_shows_sources_classes_and_what_contradicts(ghosts: Ghosts) -> None:
    page = ghosts.look(ADMIN).get("/admin/ghosts?size=100").text
    assert text_of(page, "source-payroll").endswith("15")
    assert "1 not read whole" in page
    assert 'data-test="incomplete"' in page
    assert "Page 4: The application answered 503." in page
    assert text_of(page, "live") == str(len(ghosts.ids))
    assert set(rows_of(page)) == set(ghosts.ids.values())
    for words in ("Ghost account", "Paid though left", "Left here, alive there", "Duplicate person", "overdue"):
        assert words in page


@pytest.mark.parametrize(
    ("query", "subjects"),
    [
        ("class=left_alive", {"xu.haoran"}),
        ("q=dev_test07", {"dev_test07"}),
        ("q=徐浩然", {"xu.haoran", "xu.h", "启岳乘用车/QY000005"}),
        ("app=plm", {"dev_test07", "sapadm2", "xu.haoran", "lin.xiaowen"}),
        ("state=done", set()),
        ("q=nobody-at-all", set()),
    ],
)
def test_filters_run_over_everything(ghosts: Ghosts, query: str, subjects: set[str]) -> None:
    page = ghosts.look(AUDITOR).get(f"/admin/ghosts?{query}").text
    assert set(rows_of(page)) == {ghosts.ids[subject] for subject in subjects}


def test_pages_follow_each_other(ghosts: Ghosts) -> None:
    client, path, seen = ghosts.look(ADMIN), "/admin/ghosts?size=25", []
    while path:
        page = client.get(path).text
        seen += rows_of(page)
        path = links_of(page, "next") or ""
    assert len(seen) == len(set(seen)) == len(ghosts.ids)


def test_parameter_that_cannot_be_used_is_dropped_with_a_notice(ghosts: Ghosts) -> None:
    response = ghosts.look(ADMIN).get("/admin/ghosts?class=nonsense&after=%00")
    assert response.status_code == 200
    assert "left out: class" in response.text


def test_texts_of_applications_are_escaped(ghosts: Ghosts) -> None:
    page = ghosts.look(ADMIN).get(f"/admin/ghosts/{ghosts.ids['lin.xiaowen']}").text
    assert "&lt;b&gt;Director&lt;/b&gt;" in page
    assert "<b>Director" not in page
    assert "lin.xiaowen &lt;i&gt;" in page


@pytest.mark.parametrize(
    ("who", "status", "preview"), [(ADMIN, 200, True), (HR, 200, True), (AUDITOR, 200, False), (EMPLOYEE, 404, False)]
)
def test_who_sees_a_finding_and_who_may_decide(ghosts: Ghosts, who: str, status: int, preview: bool) -> None:
    client, path = ghosts.look(who), f"/admin/ghosts/{ghosts.ids['dev_test07']}"
    assert client.get("/admin/ghosts").status_code == status
    response = client.get(path)
    assert response.status_code == status
    assert ('data-test="preview-disable"' in response.text) == preview
    assert (client.get(f"{path}/act?action=disable").status_code == 200) == preview
    assert ("/audit/events?object=" in response.text) == (who == AUDITOR)


def test_preview_writes_nothing_and_the_confirmation_plans_a_delivery(ghosts: Ghosts) -> None:
    finding_id = ghosts.ids["dev_test07"]
    page = ghosts.look(ADMIN).get(f"/admin/ghosts/{finding_id}/act?action=disable").text
    assert "nothing has been written" in page
    assert ghosts.finding("dev_test07").state == "open"
    response = ghosts.post(ADMIN, f"/admin/ghosts/{finding_id}/act", action="disable")
    assert response.status_code == 303
    finding = ghosts.finding("dev_test07")
    assert (finding.state, finding.decided_by) == ("accepted", ghosts.hub.people[ADMIN])
    with ghosts.hub.database.read() as session:
        delivery = session.execute(select(Delivery).where(Delivery.id == finding.delivery_id)).scalar_one()
    assert (delivery.operation, delivery.principal_id) == ("deprovision", None)
    shown = ghosts.look(ADMIN).get(f"/admin/ghosts/{finding_id}").text
    assert f"/admin/deliveries/{delivery.id}" in shown
    again = ghosts.post(ADMIN, f"/admin/ghosts/{finding_id}/act", action="link")
    assert again.status_code == 409


@pytest.mark.parametrize("action", ["", "delete", "restore"])
def test_remedy_that_is_none_for_it_is_refused(ghosts: Ghosts, action: str) -> None:
    finding_id = ghosts.ids["bot01"]
    assert ghosts.look(ADMIN).get(f"/admin/ghosts/{finding_id}/act?action={action}").status_code == 404
    assert ghosts.post(ADMIN, f"/admin/ghosts/{finding_id}/act", action=action).status_code == 409
    assert ghosts.finding("bot01").state == "open"


def test_exception_is_registered_with_reason_and_end(ghosts: Ghosts) -> None:
    path = f"/admin/ghosts/{ghosts.ids['sapadm2']}/dismiss"
    without = ghosts.post(HR, path, reason="", until="2026-12-31")
    assert without.status_code == 409
    assert "Say why" in without.text
    assert "2026-12-31" in without.text
    endless = ghosts.post(HR, path, reason="paint shop", until="")
    assert "Name the last day" in endless.text
    wrong = ghosts.post(HR, path, reason="paint shop", until="soon")
    assert "could not be read" in wrong.text
    assert ghosts.finding("sapadm2").state == "open"
    assert ghosts.post(HR, path, reason="paint shop", until="2026-12-31").status_code == 303
    assert ghosts.finding("sapadm2").state == "dismissed"
    assert "paint shop" in ghosts.look(HR).get(f"/admin/ghosts/{ghosts.ids['sapadm2']}").text
    assert rows_of(ghosts.look(HR).get("/admin/ghosts?state=dismissed").text) == [ghosts.ids["sapadm2"]]


def test_exception_is_taken_back_and_can_be_registered_anew(ghosts: Ghosts) -> None:
    path, until = f"/admin/ghosts/{ghosts.ids['bot05']}", "2026-12-31"
    assert "take-back" not in ghosts.look(HR).get(path).text
    early = ghosts.post(HR, f"{path}/take-back")
    assert (early.status_code, "Nothing was decided about this finding." in early.text) == (409, True)
    assert ghosts.post(HR, f"{path}/dismiss", reason="paint shop", until=until).status_code == 303
    page = ghosts.look(HR).get(path)
    assert 'data-test="take-back"' in page.text
    assert "Take the exception back" in page.text
    assert ghosts.post(HR, f"{path}/take-back").status_code == 303
    found = ghosts.finding("bot05")
    assert (found.state, found.reason, found.dismissed_until) == ("reopened", None, None)
    assert found.deadline_at > ghosts.hub.clock()
    assert ghosts.post(HR, f"{path}/take-back").status_code == 409
    assert ghosts.post(HR, f"{path}/dismiss", reason="paint shop", until=until).status_code == 303
    with ghosts.hub.database.read() as session:
        types = session.execute(
            select(audit_events.c.type)
            .where(audit_events.c.target_id == ghosts.ids["bot05"], audit_events.c.type != "page.viewed")
            .order_by(audit_events.c.id)
        ).scalars()
        assert list(types)[-3:] == ["finding.dismissed", "finding.taken_back", "finding.dismissed"]


def test_who_has_taken_a_finding_on_can_put_it_back(ghosts: Ghosts) -> None:
    path, before = f"/admin/ghosts/{ghosts.ids['bot06']}", ghosts.finding("bot06").deadline_at
    assert ghosts.post(ADMIN, f"{path}/accept").status_code == 303
    page = ghosts.look(ADMIN).get(path, headers={"accept-language": "zh-CN"}).text
    assert "撤销受理" in page
    assert ghosts.post(ADMIN, f"{path}/take-back").status_code == 303
    assert (ghosts.finding("bot06").state, ghosts.finding("bot06").deadline_at) == ("reopened", before)
    assert ghosts.post(ADMIN, f"{path}/accept").status_code == 303


def test_remedy_on_its_way_is_not_taken_back(ghosts: Ghosts) -> None:
    path = f"/admin/ghosts/{ghosts.ids['bot07']}"
    assert ghosts.post(ADMIN, f"{path}/act", action="disable").status_code == 303
    assert "take-back" not in ghosts.look(ADMIN).get(path).text
    refused = ghosts.post(ADMIN, f"{path}/take-back")
    assert (refused.status_code, "Its remedy is on its way" in refused.text) == (409, True)
    assert ghosts.finding("bot07").state == "accepted"


def test_finding_is_taken_on(ghosts: Ghosts) -> None:
    path = f"/admin/ghosts/{ghosts.ids['bot02']}/accept"
    assert ghosts.post(ADMIN, path).status_code == 303
    assert ghosts.finding("bot02").state == "accepted"
    assert ghosts.post(ADMIN, path).status_code == 409


def test_auditor_decides_nothing(ghosts: Ghosts) -> None:
    for step, fields in (
        ("accept", {}),
        ("dismiss", {"reason": "x", "until": "2026-12-31"}),
        ("act", {"action": "disable"}),
        ("take-back", {}),
    ):
        assert ghosts.post(AUDITOR, f"/admin/ghosts/{ghosts.ids['bot03']}/{step}", **fields).status_code == 404
    assert ghosts.post(AUDITOR, "/admin/ghosts/held/gitlab").status_code == 404
    assert ghosts.post(AUDITOR, "/admin/ghosts/run").status_code == 404
    assert ghosts.finding("bot03").state == "open"


def test_what_the_brake_holds_needs_two_people(ghosts: Ghosts) -> None:
    with ghosts.hub.database.transaction() as session:
        held = (Finding.subject.in_(("bot10", "bot11")),)
        session.execute(update(Finding).where(*held).values(held_at=ghosts.hub.clock()))
    page = ghosts.look(ADMIN).get("/admin/ghosts").text
    assert "The brake holds 2 accounts of GitLab source code back." in page
    assert ghosts.post(ADMIN, "/admin/ghosts/held/gitlab").status_code == 303
    same = ghosts.post(ADMIN, "/admin/ghosts/held/gitlab")
    assert same.status_code == 409
    assert "A second person must approve" in same.text
    assert ghosts.post(HR, "/admin/ghosts/held/gitlab").status_code == 303
    assert {ghosts.finding(subject).state for subject in ("bot10", "bot11")} == {"accepted"}
    assert ghosts.post(HR, "/admin/ghosts/held/nothing").status_code == 404


def test_comparison_is_asked_for_once_and_the_page_says_what_waits(ghosts: Ghosts) -> None:
    assert 'data-test="turns"' not in ghosts.look(ADMIN).get("/admin/ghosts").text
    answer = ghosts.post(ADMIN, "/admin/ghosts/run")
    assert answer.status_code == 303
    with ghosts.hub.database.read() as session:
        planned = dict(session.execute(select(ReconcilePlan.application_id, ReconcilePlan.next_run_at)).all())
        asked = session.execute(select(audit_events.c.target_id).where(audit_events.c.type == "reconcile.asked"))
        assert sorted(asked.scalars()) == sorted(planned)
    assert set(planned.values()) == {ghosts.hub.clock()}
    page = ghosts.look(ADMIN).get(answer.headers["location"]).text
    assert f"{len(planned)} applications are compared one after the other." in page
    assert page.count("waits for its turn") == min(len(planned), 10)
    again = ghosts.post(ADMIN, "/admin/ghosts/run")
    assert (again.status_code, "nothing more was asked for" in again.text) == (409, True)
    for name in (HR, AUDITOR):
        assert "Comparison under way" in ghosts.look(name).get("/admin/ghosts").text, name
    assert "正在比对" in ghosts.look(HR).get("/admin/ghosts?asked=3", headers={"accept-language": "zh-CN"}).text


@pytest.mark.parametrize("asked", ["0", "-1", "1000", "x", "٣", "1" * 99, "<b>"])
def test_number_that_nobody_asked_for_is_not_said(ghosts: Ghosts, asked: str) -> None:
    page = ghosts.look(ADMIN).get("/admin/ghosts", params={"asked": asked})
    assert (page.status_code, 'data-test="asked"' in page.text) == (200, False)


def test_form_without_its_token_is_refused(ghosts: Ghosts) -> None:
    response = ghosts.look(ADMIN).post(f"/admin/ghosts/{ghosts.ids['bot04']}/accept", data={"csrf_token": "x"})
    assert response.status_code == 403
    assert ghosts.finding("bot04").state == "open"


def test_visit_of_a_person_is_an_event(ghosts: Ghosts) -> None:
    ghosts.look(AUDITOR).get(f"/admin/ghosts/{ghosts.ids['xu.haoran']}")
    with ghosts.hub.database.read() as session:
        seen = session.execute(
            select(audit_events.c.type).where(audit_events.c.target_id == ghosts.ids["xu.haoran"])
        ).scalars()
        assert "page.viewed" in list(seen)


def test_chinese_page_says_the_same(ghosts: Ghosts) -> None:
    page = ghosts.look(HR).get("/admin/ghosts?size=100", headers={"accept-language": "zh-CN"}).text
    for words in (
        "账号比对",
        "幽灵账号",
        "在薪已离职",
        "平台残留",
        "重复人员",
        "读取完整",
        "未通过完整性证明",
        "待判定",
    ):
        assert words in page
    detail = ghosts.look(HR).get(f"/admin/ghosts/{ghosts.ids['both']}", headers={"accept-language": "zh-CN"}).text
    assert "强匹配键指向多个人" in detail
