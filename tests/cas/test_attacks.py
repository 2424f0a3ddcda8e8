"""Tickets in wrong hands, at wrong places, twice; addresses that are somebody else's; text that is markup."""

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from idhub.app import create_app
from idhub.credentials.tables import ServiceTicket, SessionParticipant
from idhub.credentials.tickets import TICKET_LIFETIME, looks_like_ticket, make_ticket
from idhub.directory.tables import Person
from idhub.lifecycle import commands
from idhub.services import open_hub
from tests.cas.conftest import SERVICE, CasScene, Said, open_cas_scene, read, ticket_in
from tests.flows.every_door import HR_NUMBER, NUMBER, submit
from tests.lifecycle.world import CALLER
from tests.support.databases import DatabaseKind, Databases


def _refusals(cas: CasScene) -> list[str]:
    return [event["reason"] for event in cas.scene.events("ticket.refused")]


def test_a_ticket_is_good_once(cas: CasScene) -> None:
    ticket = cas.ticket(cas.signed_in())
    assert cas.validate(ticket).user == NUMBER
    for path in ("p3/serviceValidate", "serviceValidate", "p3/proxyValidate", "proxyValidate"):
        assert cas.validate(ticket, path=path).code == "INVALID_TICKET"
    answer = cas.stage.machine.get("/cas/validate", params={"ticket": ticket, "service": SERVICE})
    assert answer.text == "no\n\n"


def test_a_ticket_is_stored_as_a_hash_alone(cas: CasScene) -> None:
    ticket = cas.ticket(cas.signed_in())
    with cas.stage.hub.database.read() as session:
        stored = session.execute(select(ServiceTicket.ticket_hash)).scalars().all()
    assert all(len(one) == 64 for one in stored)
    assert ticket not in stored
    assert all(ticket not in str(event) for event in cas.scene.events("ticket.issued"))


def test_an_old_ticket_is_none(cas: CasScene) -> None:
    ticket = cas.ticket(cas.signed_in())
    cas.stage.clock.advance(TICKET_LIFETIME)
    assert cas.validate(ticket).code == "INVALID_TICKET"
    just_good = cas.ticket(cas.signed_in())
    cas.stage.clock.advance(TICKET_LIFETIME / 2)
    assert cas.validate(just_good).user == NUMBER


@pytest.mark.parametrize(
    "other",
    [
        f"{SERVICE}?",
        f"{SERVICE}/",
        f"{SERVICE}?next=/",
        "https://APP.example/login",
        "https://app.example:443/login",
        "http://app.example/login",
        "https://app.example/",
        "https://app.example@evil.example/login",
        "x",
    ],
)
def test_a_ticket_is_for_one_address_to_the_letter_and_used_up_by_another(cas: CasScene, other: str) -> None:
    """CAS 2.5.3: INVALID_SERVICE, and the ticket MUST be invalidated."""
    ticket = cas.ticket(cas.signed_in())
    said = cas.validate(ticket, other)
    assert (said.code, said.text) == ("INVALID_SERVICE", "The ticket was issued for another service.")
    assert cas.validate(ticket).code == "INVALID_TICKET"
    assert _refusals(cas)[-1] == "wrong_service"


def test_a_ticket_of_another_application_is_none(cas: CasScene) -> None:
    cas.connect("second", services=["https://second.example/"])
    ticket = cas.ticket(cas.signed_in())
    assert cas.validate(ticket, "https://second.example/").code == "INVALID_SERVICE"


@pytest.mark.parametrize(
    "ticket", ["ST-", "ST-1", "PT-" + "a" * 29, "PGT-1", "ST-" + "é" * 29, "ST-" + "a" * 29, "x" * 256, "x" * 3_000]
)
def test_what_is_no_ticket_is_refused_unread(cas: CasScene, ticket: str) -> None:
    assert cas.validate(ticket).code == "INVALID_TICKET_SPEC"


def test_a_ticket_that_was_never_given_out(cas: CasScene) -> None:
    said = cas.validate(make_ticket())
    assert (said.code, said.text) == ("INVALID_TICKET", "The ticket is unknown, spent or no longer valid.")


def test_the_form_of_tickets() -> None:
    made = {make_ticket() for _ in range(1_000)}
    assert len(made) == 1_000
    assert all(looks_like_ticket(one) and len(one) == 32 and one.startswith("ST-") for one in made)
    one = made.pop()
    assert not looks_like_ticket(one[:-1])
    assert not looks_like_ticket(one.lower())
    assert not looks_like_ticket(one + "\n")


def test_a_person_who_leaves_between_the_ticket_and_its_use_does_not_get_in(cas: CasScene) -> None:
    stage = cas.stage
    ticket = cas.ticket(cas.signed_in(HR_NUMBER))
    with stage.hub.database.read() as session:
        person = session.execute(select(Person.id).where(Person.display_name == "沈佳宁")).scalar_one()
    with stage.hub.database.transaction() as session:
        commands.suspend(session, CALLER, person, now=stage.clock())
    try:
        assert cas.validate(ticket).code == "INVALID_TICKET"
        refused = cas.scene.events("ticket.refused")[-1]
        assert (refused["reason"], refused["person_id"]) == ("session_ended", person)
    finally:
        with stage.hub.database.transaction() as session:
            commands.reactivate(session, CALLER, person, now=stage.clock())
    assert cas.validate(ticket).code == "INVALID_TICKET"


def test_a_session_that_was_ended_takes_its_tickets_along(cas: CasScene) -> None:
    browser = cas.signed_in()
    ticket = cas.ticket(browser)
    submit(browser, browser.get("/logout"), "/logout")
    assert cas.validate(ticket).code == "INVALID_TICKET"


def test_an_entitlement_or_a_registration_that_ends_meanwhile(cas: CasScene) -> None:
    service = "https://ending.example/"
    cas.connect("ending", services=[service])
    ticket = cas.ticket(cas.signed_in(), service)
    cas.connect("ending", services=[service], entitle=[])
    assert cas.validate(ticket, service).code == "INVALID_TICKET"
    assert _refusals(cas)[-1] == "not_entitled"
    cas.connect("ending", services=[service])
    ticket = cas.ticket(cas.signed_in(), service)
    cas.scene.apply({"slug": "ending", "name": "ending"})
    assert cas.validate(ticket, service).code == "INVALID_TICKET"
    assert cas.ask(cas.signed_in(), service).status_code == 400


def test_two_people_of_one_number_are_not_taken_for_each_other(databases: Databases, tmp_path: Path) -> None:
    """Numbers are unique within a company alone."""
    for cas in open_cas_scene("sqlite", databases, tmp_path):
        browser = cas.signed_in()
        ticket = cas.ticket(browser)
        cas.stage.import_rows([_row_of_another_company()], snapshot=False)
        assert cas.validate(cas.ticket(browser)).user == NUMBER, "who may not enter cannot be mistaken for"
        cas.connect(entitle=[{"role": "member", "rule": 'employments.type eq "regular"'}])
        assert cas.validate(ticket).code == "INVALID_TICKET"
        assert _refusals(cas) == ["ambiguous_user"]
        page = browser.get(cas.ask(browser).headers["location"])
        assert page.status_code == 403
        assert "app would take you for somebody else" in page.text


def _row_of_another_company() -> dict[str, str]:
    return {
        "employee_number": NUMBER, "name": "另一人", "company": "TWIN", "department": "x", "status": "active",
        "employment_type": "regular", "start_date": "2020-01-01",
    }  # fmt: skip


def test_who_has_no_name_for_the_application_reads_why(cas: CasScene) -> None:
    service = "https://mail.example/"
    cas.connect("mail", services=[service], user="email")
    browser = cas.signed_in()
    ticket = cas.ticket(browser, service)
    with cas.stage.hub.database.transaction() as session:
        session.execute(update(Person).where(Person.id == cas.stage.person).values(email=None))
    try:
        assert cas.validate(ticket, service).code == "INVALID_TICKET"
        page = browser.get(cas.ask(browser, service).headers["location"])
        assert page.status_code == 403
        assert "mail cannot be told who you are" in page.text
    finally:
        with cas.stage.hub.database.transaction() as session:
            statement = update(Person).where(Person.id == cas.stage.person)
            session.execute(statement.values(email="qy000001@qiyue.example"))


def test_markup_in_what_is_told_stays_text(cas: CasScene) -> None:
    hostile = "</cas:user><cas:user>root</cas:user>&<![CDATA[\x01]]>"
    with cas.stage.hub.database.transaction() as session:
        session.execute(update(Person).where(Person.id == cas.stage.person).values(display_name=hostile))
    try:
        said = cas.validate(cas.ticket(cas.signed_in()))
        assert said.user == NUMBER
        assert said.attributes["displayName"] == [hostile.replace("\x01", "\ufffd")]
        asked = {"ticket": cas.ticket(cas.signed_in()), "service": SERVICE, "format": "JSON"}
        document = cas.stage.machine.get("/cas/p3/serviceValidate", params=asked).json()
        told = document["serviceResponse"]["authenticationSuccess"]
        assert (told["user"], told["attributes"]["displayName"]) == (NUMBER, [hostile])
    finally:
        with cas.stage.hub.database.transaction() as session:
            session.execute(update(Person).where(Person.id == cas.stage.person).values(display_name="林晓雯"))


def test_an_answer_in_json_refuses_in_json(cas: CasScene) -> None:
    asked = {"ticket": make_ticket(), "service": SERVICE, "format": "json"}
    answer = cas.stage.machine.get("/cas/serviceValidate", params=asked)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    failure = answer.json()["serviceResponse"]["authenticationFailure"]
    assert failure == {"code": "INVALID_TICKET", "description": "The ticket is unknown, spent or no longer valid."}


def test_nothing_that_was_asked_comes_back_in_an_answer(cas: CasScene) -> None:
    marker = "<script>alert(1)</script>"
    asked = {"ticket": marker, "service": f"https://{marker}/", "format": marker, "pgtUrl": marker}
    for path in ("validate", "serviceValidate", "p3/serviceValidate", "proxy", "login", "logout"):
        answer = cas.stage.machine.get(f"/cas/{path}", params=asked)
        assert "alert(1)" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("query", "status_of_login"),
    [
        (b"", 303),
        (b"ticket=ST-1", 303),
        (b"service=https://app.example/login", 303),
        (b"service=&ticket=", 303),
        (b"service=https://app.example/login&ticket=ST-1&ticket=ST-2", 400),
        (b"service=https://app.example/login&service=https://evil.example/&ticket=ST-1", 400),
        (b"SERVICE=https://app.example/login&service=https://evil.example/&ticket=ST-1", 400),
        (b"service=%ff&ticket=ST-1", 400),
        (b"&" * 100 + b"service=x" * 2_000, 400),
    ],
)
def test_a_request_that_cannot_be_read(cas: CasScene, query: bytes, status_of_login: int) -> None:
    answer = cas.stage.machine.get(f"/cas/serviceValidate?{query.decode('latin-1')}")
    said = read(answer.text)
    assert (answer.status_code, said.code) == (200, "INVALID_REQUEST")
    assert said.text == "The request needs service and ticket, each once."
    login = cas.browser().get(f"/cas/login?{query.decode('latin-1')}")
    assert login.status_code == status_of_login
    assert "evil.example" not in login.headers.get("location", "")


def test_proxy_tickets_are_refused_and_nobody_is_called_for_them(cas: CasScene) -> None:
    """CAS 2.5.4, 2.7: no proxy-granting ticket is named in the answer; `pgtUrl` is never fetched."""
    ticket = cas.ticket(cas.signed_in())
    answer = cas.stage.machine.get(
        "/cas/p3/serviceValidate",
        params={"ticket": ticket, "service": SERVICE, "pgtUrl": "https://app.example/callback"},
    )
    assert read(answer.text).user == NUMBER
    assert "proxyGrantingTicket" not in answer.text
    refused = cas.stage.machine.get("/cas/proxy", params={"pgt": "PGT-1", "targetService": SERVICE})
    assert '<cas:proxyFailure code="UNAUTHORIZED_SERVICE">This server issues no proxy tickets.' in refused.text


def test_an_unknown_method_is_refused(cas: CasScene) -> None:
    assert cas.ask(cas.signed_in(), method="HEADER").status_code == 400


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_ticket_is_good_once_over_processes_and_restarts(
    kind: DatabaseKind, databases: Databases, tmp_path: Path
) -> None:
    for cas in open_cas_scene(kind, databases, tmp_path):
        ticket, kept, late = (cas.ticket(cas.signed_in()) for _ in range(3))
        assert cas.validate(kept).user == NUMBER
        other = open_hub(cas.stage.hub.settings, clock=cas.stage.clock)
        try:
            with TestClient(create_app(other, with_worker=False), base_url=other.settings.issuer) as machine:
                said = _all_at_once([cas.stage.machine, machine] * 4, ticket)
                assert sorted(one.user or "" for one in said) == [""] * 7 + [NUMBER]
                assert {one.code for one in said if one.user is None} == {"INVALID_TICKET"}
                again = _all_at_once([machine], kept)
                assert again[0].code == "INVALID_TICKET", "a process that has just begun knows it"
                assert _all_at_once([machine], late)[0].user == NUMBER, "whichever process issued it"
            assert cas.validate(late).code == "INVALID_TICKET"
            with cas.stage.hub.database.read() as session:
                joined = select(SessionParticipant.sid).where(SessionParticipant.sid.in_([ticket, kept, late]))
                assert len(session.execute(joined).scalars().all()) == 3
        finally:
            other.close()


def _all_at_once(machines: list[TestClient], ticket: str) -> list[Said]:
    """What applications are told that ask about one ticket in one instant."""
    said: list[Said] = []
    begin = threading.Barrier(len(machines))

    def ask(machine: TestClient) -> None:
        begin.wait()
        answer = machine.get("/cas/p3/serviceValidate", params={"ticket": ticket, "service": SERVICE})
        said.append(read(answer.text))

    threads = [threading.Thread(target=ask, args=(one,)) for one in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def test_two_resumptions_of_one_sign_on_answer_once(cas: CasScene) -> None:
    browser = cas.browser()
    begun = cas.ask(browser)
    page = browser.get(begun.headers["location"])
    signed = submit(browser, page, "/login", username=NUMBER, password="quiet harbour lantern")
    answers: list[Any] = []
    begin = threading.Barrier(4)

    def resume() -> None:
        own = cas.stage.browser()
        own.cookies = browser.cookies
        begin.wait()
        answers.append(own.get(signed.headers["location"]))

    threads = [threading.Thread(target=resume) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [303, 400, 400, 400]
    assert cas.validate(next(ticket_in(one) for one in answers if one.status_code == 303)).user == NUMBER


def test_a_sign_on_of_another_browser_is_none(cas: CasScene) -> None:
    begun = cas.ask(cas.browser())
    resume = begun.headers["location"].replace("/login?", "/cas/login/resume?")
    assert cas.signed_in().get(resume).status_code == 400
