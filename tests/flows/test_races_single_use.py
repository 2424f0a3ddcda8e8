"""Single use over several `idhub serve` processes, on both databases: of fifty at once exactly one succeeds.

And what was spent stays spent when every process is killed and started again: nothing that prevents a replay lives in
the memory of one.
"""

import json

import pytest

from tests.flows.cluster_races import PARALLEL, Crowd, bodies, statuses
from tests.support.cluster import (
    NEW_PASSWORD,
    Cluster,
    authorize,
    hidden_fields,
    redeem,
    refresh,
    session_cookie,
)
from tests.support.wire import Answer, form, get

PROCESSES = 3
INVALID_GRANT = {
    "error": "invalid_grant",
    "error_description": "The grant is invalid, expired, already used or was issued to another client.",
}


def _one_success(answers: list[Answer]) -> Answer:
    assert statuses(answers) == {200: 1, 400: PARALLEL - 1}
    assert all(answer.json() == INVALID_GRANT for answer in answers if answer.status == 400)
    return next(answer for answer in answers if answer.status == 200)


def _is_family_dead(crowd: Crowd, slug: str, tokens: dict[str, str]) -> bool:
    return not crowd.access_works(slug, tokens["access_token"]) and not crowd.refresh_works(
        slug, tokens["refresh_token"]
    )


@pytest.mark.parametrize("slug", ["office", "wiki"])
def test_code_redeemed_fifty_times_at_once_over_processes_succeeds_once(
    cluster: Cluster, crowd: Crowd, slug: str
) -> None:
    """A08; RFC 6749 section 4.1.2: the others were a replay, so what the one got is dead, in every process."""
    (session,) = cluster.sign_in([cluster.employee()])
    code = crowd.code(slug, session)
    winner = _one_success(crowd.at_once([redeem(slug, cluster.applications[slug], code)] * PARALLEL)).json()
    assert _is_family_dead(crowd, slug, winner)
    assert crowd.session_works(session), "the session is the person's, not the application's"


@pytest.mark.parametrize("slug", ["office", "wiki"])
def test_refresh_token_used_fifty_times_at_once_over_processes_succeeds_once(
    cluster: Cluster, crowd: Crowd, slug: str
) -> None:
    """RFC 9700 section 4.14.2: nobody knows which of them was the thief, so no token of the family works."""
    (session,) = cluster.sign_in([cluster.employee()])
    first = crowd.tokens(slug, session)
    answers = crowd.at_once([refresh(slug, cluster.applications[slug], first["refresh_token"])] * PARALLEL)
    winner = _one_success(answers).json()
    assert _is_family_dead(crowd, slug, winner)
    assert not crowd.access_works(slug, first["access_token"])


@pytest.mark.parametrize("purpose", ["first_password", "reset_password"])
def test_one_time_link_used_fifty_times_at_once_over_processes_succeeds_once(
    cluster: Cluster, crowd: Crowd, purpose: str
) -> None:
    """And of the sessions of before, and of those who lost, none works: the one new session does."""
    person = cluster.employee()
    (session,) = cluster.sign_in([person])
    tokens = crowd.tokens("wiki", session)
    link = cluster.invite(person, "reset_password" if purpose == "reset_password" else "first_password")
    answers = crowd.at_once([crowd.first(link) for _ in range(PARALLEL)])
    assert statuses(answers) == {303: 1, 410: PARALLEL - 1}
    assert all("idhub_session" not in answer.cookies() for answer in answers if answer.status == 410)
    winner = next(answer for answer in answers if answer.status == 303)
    assert crowd.session_works(winner.cookies()["idhub_session"])
    assert not crowd.session_works(session)
    assert _is_family_dead(crowd, "wiki", tokens)
    assert cluster.events("invitation.used", person) == 1
    assert crowd.ask(crowd.login(person)).status == 403
    assert crowd.ask(crowd.login(person, NEW_PASSWORD)).status == 303


def test_password_changed_many_times_at_once_over_processes_changes_once(cluster: Cluster, crowd: Crowd) -> None:
    person = cluster.employee()
    session, other = cluster.sign_in([person, person])
    page = crowd.ask(get("/account/security", cookies=session_cookie(session)))
    fields = {**hidden_fields(page.text), "current_password": person.password}
    answers = crowd.at_once(
        [
            form(
                "/account/security",
                {**fields, "new_password": f"{NEW_PASSWORD} {number}"},
                cookies=session_cookie(session),
            )
            for number in range(8)
        ]
    )
    changed = [answer for answer in answers if "changed=1" in answer.location]
    assert len(changed) == 1, statuses(answers)
    assert all(answer.status < 500 for answer in answers), [
        (a.status, a.text[:2000]) for a in answers if a.status >= 500
    ]
    assert not crowd.session_works(session)
    assert not crowd.session_works(other)
    assert crowd.session_works(changed[0].cookies()["idhub_session"])
    assert cluster.events("password.changed", person) == 1


def test_sign_in_resumed_fifty_times_at_once_over_processes_answers_the_application_once(
    cluster: Cluster, crowd: Crowd
) -> None:
    person = cluster.employee()
    (session,) = cluster.sign_in([person])
    begun = crowd.ask(authorize("desk", session))
    assert begun.location.startswith("/consent?transaction="), begun.location
    transaction, browser = begun.query["transaction"], begun.cookies()
    cookies = {**session_cookie(session), **browser}
    page = crowd.ask(get(begun.location, cookies=cookies))
    answered = crowd.ask(form("/consent", {**hidden_fields(page.text), "consent": "allow"}, cookies=cookies))
    assert answered.location == f"/oauth2/authorize/resume?transaction={transaction}", answered.text
    answers = crowd.at_once([get(answered.location, cookies=cookies)] * PARALLEL)
    codes = [answer.query["code"] for answer in answers if "code" in answer.query]
    assert len(codes) == 1
    assert statuses(answers) == {303: 1, 400: PARALLEL - 1}
    assert crowd.ask(redeem("desk", cluster.applications["desk"], codes[0])).status == 200


def test_wrong_passwords_are_counted_over_processes_together(cluster: Cluster, crowd: Crowd) -> None:
    """Ten are looked at, whichever processes they came to; the rest wait, and so does the right one."""
    person = cluster.employee()
    answers = crowd.at_once([crowd.login(person, "not the password") for _ in range(PARALLEL)])
    assert statuses(answers) == {403: 10, 429: PARALLEL - 10}
    assert {answer.status for answer in crowd.at_once([crowd.login(person)] * 3)} == {429}


def test_what_was_spent_stays_spent_when_every_process_is_killed_and_started_again(
    cluster: Cluster, crowd: Crowd
) -> None:
    """The class of CVE-2026-9802: every store against replay, after a restart of all processes."""
    person, guessed, invited = cluster.employees(3)
    (session,) = cluster.sign_in([person])
    secret = cluster.applications["wiki"]
    # A code that was spent, one that was replayed, a refresh token that was spent.
    code, replayed = crowd.code("wiki", session), crowd.code("wiki", session)
    by_code = crowd.ask(redeem("wiki", secret, code)).json()
    assert crowd.ask(redeem("wiki", secret, replayed)).status == 200
    assert crowd.ask(redeem("wiki", secret, replayed)).json() == INVALID_GRANT
    rotated = crowd.ask(refresh("wiki", secret, by_code["refresh_token"])).json()
    link = cluster.invite(invited)
    spent_form = crowd.first(link)
    assert crowd.ask(spent_form).status == 303
    assert statuses(crowd.at_once([crowd.login(guessed, "not the password") for _ in range(12)])) == {403: 10, 429: 2}
    begun = crowd.ask(authorize("desk", session))
    cookies = {**session_cookie(session), **begun.cookies()}
    page = crowd.ask(get(begun.location, cookies=cookies))
    resume = crowd.ask(form("/consent", {**hidden_fields(page.text), "consent": "allow"}, cookies=cookies)).location
    assert "code" in crowd.ask(get(resume, cookies=cookies)).query

    cluster.kill()
    cluster.start()
    crowd.reconnect()

    assert crowd.access_works("wiki", rotated["access_token"]), "what was good before is good after"
    assert {answer.status for answer in crowd.everywhere(spent_form)} == {410}
    assert {answer.status for answer in crowd.everywhere(get(resume, cookies=cookies))} == {400}
    assert {answer.status for answer in crowd.everywhere(crowd.login(guessed))} == {429}
    assert bodies(crowd.everywhere(redeem("wiki", secret, replayed)), 400) == {_as_text(INVALID_GRANT)}
    answers = crowd.everywhere(refresh("wiki", secret, by_code["refresh_token"]))
    assert bodies(answers, 400) == {_as_text(INVALID_GRANT)}
    assert statuses(answers) == {400: len(cluster.ports)}
    assert _is_family_dead(crowd, "wiki", rotated), "the replay was recognised"
    assert {answer.status for answer in crowd.everywhere(redeem("wiki", secret, code))} == {400}


def _as_text(value: dict[str, str]) -> str:
    return json.dumps(value, separators=(",", ":"))
