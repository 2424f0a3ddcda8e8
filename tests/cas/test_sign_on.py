"""Sign-in: an application's address, the way over the hub's pages, and the ticket that comes of it. CAS 2.1, 2.2."""

from urllib.parse import parse_qs, urlsplit

import pytest

from tests.cas.conftest import SERVICE, CasScene, ticket_in
from tests.flows.every_door import NUMBER, PASSWORD, submit


def test_a_person_signs_in_and_the_application_learns_who_it_is(cas: CasScene) -> None:
    browser = cas.browser()
    begun = cas.ask(browser)
    assert begun.status_code == 303
    assert begun.headers["location"].startswith("/login?transaction=")
    page = browser.get(begun.headers["location"])
    signed = submit(browser, page, "/login", username=NUMBER, password=PASSWORD)
    assert signed.headers["location"].startswith("/cas/login/resume?transaction=")
    answer = browser.get(signed.headers["location"])
    assert answer.headers["location"].startswith(f"{SERVICE}?ticket=ST-")
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert len(ticket_in(answer)) == 32, "every client takes 32 characters (CAS 3.1.1)"

    said = cas.validate(ticket_in(answer))

    assert said.user == NUMBER
    assert said.attributes["employeeNumber"] == [NUMBER]
    assert said.attributes["displayName"] == ["林晓雯"]
    assert said.attributes["roles"] == ["member"]
    assert said.attributes["isFromNewLogin"] == ["true"]
    issued, validated = cas.scene.events("ticket.issued")[-1], cas.scene.events("ticket.validated")[-1]
    assert issued["person_id"] == validated["person_id"] == cas.stage.person
    assert validated["target"] == issued["target"] and validated["target"]["kind"] == "cas_service"
    assert validated["details"] == {"session": issued["actor"]["session_id"]}
    again = browser.get(signed.headers["location"])
    assert again.status_code == 400, "a sign-in answers once"


def test_a_session_that_is_there_needs_no_page(cas: CasScene) -> None:
    said = cas.validate(cas.ticket(cas.signed_in()))
    assert said.user == NUMBER
    assert said.attributes["isFromNewLogin"] == ["false"]


def test_the_login_page_lets_its_form_end_at_the_application(cas: CasScene) -> None:
    """Browsers hold redirects after a form against `form-action`."""
    browser = cas.browser()
    page = browser.get(cas.ask(browser).headers["location"])
    assert "form-action 'self' https://app.example" in page.headers["content-security-policy"]


def test_renew_asks_for_the_password_again(cas: CasScene) -> None:
    browser = cas.signed_in()
    begun = cas.ask(browser, renew="true")
    assert begun.headers["location"].startswith("/login?")
    page = browser.get(begun.headers["location"])
    signed = submit(browser, page, "/login", username=NUMBER, password=PASSWORD)
    ticket = ticket_in(browser.get(signed.headers["location"]))
    assert cas.validate(ticket, renew="true").user == NUMBER


def test_a_ticket_of_an_earlier_sign_in_does_not_do_where_a_fresh_one_is_wanted(cas: CasScene) -> None:
    """CAS 2.5.1: renew."""
    ticket = cas.ticket(cas.signed_in())
    assert cas.validate(ticket, renew="true").code == "INVALID_TICKET"
    assert cas.validate(ticket).code == "INVALID_TICKET", "it is used up"


@pytest.mark.parametrize("value", ["false", "", "0"])
def test_a_switch_that_says_no_is_off(cas: CasScene, value: str) -> None:
    assert cas.ticket(cas.signed_in(), renew=value).startswith("ST-")


def test_gateway_asks_nobody_anything(cas: CasScene) -> None:
    answer = cas.ask(cas.browser(), gateway="true")
    assert (answer.status_code, answer.headers["location"]) == (303, SERVICE)
    assert cas.ticket(cas.signed_in(), gateway="true").startswith("ST-")


def test_renew_counts_where_gateway_is_there_too(cas: CasScene) -> None:
    answer = cas.ask(cas.signed_in(), gateway="true", renew="true")
    assert answer.headers["location"].startswith("/login?")


def test_an_answer_by_post_is_carried_by_a_form(cas: CasScene) -> None:
    page = cas.ask(cas.signed_in(), method="POST")
    assert page.status_code == 200
    assert f'action="{SERVICE}"' in page.text
    assert 'name="ticket" value="ST-' in page.text
    assert "https://app.example" in page.headers["content-security-policy"]


def test_without_an_application_a_person_gets_to_the_hub(cas: CasScene) -> None:
    answer = cas.browser().get("/cas/login")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_who_is_not_entitled_reads_why(cas: CasScene) -> None:
    cas.connect("closed", services=["https://closed.example/"], entitle=[])
    browser = cas.signed_in()
    answer = cas.ask(browser, "https://closed.example/")
    assert answer.headers["location"].startswith("/error?transaction=")
    page = browser.get(answer.headers["location"])
    assert page.status_code == 403
    assert "You cannot open closed" in page.text
    refused = cas.scene.events("authorization.refused")[-1]
    assert (refused["reason"], refused["door"]) == ("access_denied.not_entitled", "cas")
    silent = cas.ask(browser, "https://closed.example/", gateway="true")
    assert silent.headers["location"] == "https://closed.example/"


def test_what_a_person_is_called_is_up_to_the_application(cas: CasScene) -> None:
    users = {}
    for kind in ("email", "pairwise"):
        for slug in (f"{kind}-one", f"{kind}-two"):
            service = f"https://{slug}.example/"
            cas.connect(slug, services=[service], user=kind)
            users[slug] = [cas.validate(cas.ticket(cas.signed_in(), service), service).user for _ in range(2)]
    assert users["email-one"] == users["email-two"] == ["qy000001@qiyue.example"] * 2
    assert users["pairwise-one"][0] == users["pairwise-one"][1]
    assert users["pairwise-one"] != users["pairwise-two"], "two applications do not find out that it is one person"


def test_only_the_wanted_attributes_are_told_under_the_wanted_names(cas: CasScene) -> None:
    service = "https://few.example/"
    cas.connect("few", services=[service], attributes={"mail": "email", "mobile": "mobile"})
    said = cas.validate(cas.ticket(cas.signed_in(), service), service)
    own = {"authenticationDate", "isFromNewLogin", "longTermAuthenticationRequestTokenUsed"}
    assert set(said.attributes) - own == {"mail"}, "no element for what nobody has"
    older = cas.validate(cas.ticket(cas.signed_in(), service), service, path="serviceValidate")
    assert (older.user, older.attributes) == (NUMBER, {}), "CAS 2 tells no attributes"


def test_an_address_that_has_a_query_keeps_it(cas: CasScene) -> None:
    answer = cas.ask(cas.signed_in(), f"{SERVICE}?next=%2Fa%3Fb%3Dc")
    location = urlsplit(answer.headers["location"])
    assert location.query.startswith("next=%2Fa%3Fb%3Dc&ticket=ST-")
    assert parse_qs(location.query)["next"] == ["/a?b=c"]
