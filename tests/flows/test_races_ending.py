"""What ends while it is being used, over several `idhub serve` processes, on both databases.

Each race is run several times with the two sides a little apart, so that either is first now and then. Whatever the
order was: when both have answered, what was ended does not work in any process, and what joined meanwhile is told.
Rows O.. are those of the catalogue of offboarding races.
"""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from idhub.credentials.tables import Grant, SessionParticipant, SsoSession
from idhub.delivery.tables import Delivery
from idhub.directory.kinds import Standing
from idhub.directory.tables import Principal
from idhub.lifecycle.tables import Case
from tests.flows.cluster_races import Crowd, statuses
from tests.support.cluster import (
    COMPANY,
    Cluster,
    Someone,
    authorize,
    hidden_fields,
    introspect,
    redeem,
    refresh,
    revoke,
    session_cookie,
    userinfo,
)
from tests.support.wire import Answer, call, form, get

APART = (-0.008, 0.0, 0.008)
"""Seconds between the two sides of a race."""
CONFIGURATION_SECONDS = 1.0
"""How old a client's registration may be in a process."""


def _offboarding(cluster: Cluster, person: Someone, **values: Any) -> bytes:
    return call("POST", f"/api/v1/people/{person.id}/offboarding", values, bearer=cluster.api_token)


def _race(crowd: Crowd, apart: float, first: bytes, second: bytes) -> tuple[Answer, Answer]:
    """Both, `apart` seconds from each other, through different processes."""
    answers = crowd.after((max(0.0, -apart), first), (max(0.0, apart), second))
    assert all(answer.status < 500 for answer in answers), [answer.text for answer in answers]
    return answers[0], answers[1]


def _alive(cluster: Cluster, person: Someone) -> int:
    """Sessions, grants and participants of the person that nobody has ended."""
    with cluster.hub.database.read() as session:
        return sum(
            session.execute(
                select(func.count()).select_from(table).where(table.principal_id == person.id, table.ended_at.is_(None))
            ).scalar_one()
            for table in (SsoSession, Grant, SessionParticipant)
        )


def _untold(cluster: Cluster, person: Someone) -> set[str]:
    """Participants of the person for whom no logout was planned."""
    with cluster.hub.database.read() as session:
        told = set(session.execute(select(Delivery.participant_id).where(Delivery.operation == "logout")).scalars())
        joined = session.execute(
            select(SessionParticipant.id).where(SessionParticipant.principal_id == person.id)
        ).scalars()
        return {participant for participant in joined if participant not in told}


# ---------------------------------------------------------------------- tokens, sessions


@pytest.mark.parametrize("slug", ["office", "wiki"])
def test_refresh_token_revoked_while_it_is_used_leaves_nothing(cluster: Cluster, crowd: Crowd, slug: str) -> None:
    """A19; RFC 7009 section 2.1: the grant goes, with what was being minted from it."""
    secret = cluster.applications[slug]
    (session,) = cluster.sign_in([cluster.employee()])
    for apart in APART:
        tokens = crowd.tokens(slug, session)
        revoked, refreshed = _race(
            crowd, apart, revoke(slug, secret, tokens["refresh_token"]), refresh(slug, secret, tokens["refresh_token"])
        )
        assert revoked.status == 200
        left = refreshed.json() if refreshed.status == 200 else tokens
        for held in (tokens, left):
            assert not crowd.access_works(slug, held["access_token"])
            assert not crowd.refresh_works(slug, held["refresh_token"])


def test_access_token_revoked_while_its_family_goes_on_goes_alone(cluster: Cluster, crowd: Crowd) -> None:
    secret = cluster.applications["wiki"]
    (session,) = cluster.sign_in([cluster.employee()])
    tokens = crowd.tokens("wiki", session)
    for apart in APART:
        revoked, refreshed = _race(
            crowd,
            apart,
            revoke("wiki", secret, tokens["access_token"]),
            refresh("wiki", secret, tokens["refresh_token"]),
        )
        assert (revoked.status, refreshed.status) == (200, 200)
        assert not crowd.access_works("wiki", tokens["access_token"])
        tokens = refreshed.json()
        assert crowd.access_works("wiki", tokens["access_token"])


def test_logout_while_a_code_is_redeemed_leaves_nothing_and_tells_the_application(
    cluster: Cluster, crowd: Crowd
) -> None:
    secret = cluster.applications["office"]
    person = cluster.employee()
    for apart in APART:
        (session,) = cluster.sign_in([person])
        code = crowd.code("office", session)
        page = crowd.ask(get("/logout", cookies=session_cookie(session)))
        leaving = form("/logout", hidden_fields(page.text), cookies=session_cookie(session))
        out, redeemed = _race(crowd, apart, leaving, redeem("office", secret, code))
        assert out.status == 303
        if redeemed.status == 200:
            assert not crowd.access_works("office", redeemed.json()["access_token"])
            assert not crowd.refresh_works("office", redeemed.json()["refresh_token"])
        assert not crowd.session_works(session)
        assert _untold(cluster, person) == set()
        assert _alive(cluster, person) == 0


def test_logout_while_an_application_joins_leaves_nothing_and_tells_it(cluster: Cluster, crowd: Crowd) -> None:
    person = cluster.employee()
    for apart in APART:
        (session,) = cluster.sign_in([person])
        page = crowd.ask(get("/logout", cookies=session_cookie(session)))
        leaving = form("/logout", hidden_fields(page.text), cookies=session_cookie(session))
        _, joined = _race(crowd, apart, leaving, authorize("wiki", session))
        if "code" in joined.query:
            assert crowd.ask(redeem("wiki", cluster.applications["wiki"], joined.query["code"])).status == 400
        assert _untold(cluster, person) == set()
        assert _alive(cluster, person) == 0


# ---------------------------------------------------------------------- leaving


def test_session_that_begins_while_its_person_leaves_does_not_work(cluster: Cluster, crowd: Crowd) -> None:
    """O04: standing and epochs are asked again in the transaction that writes the session."""
    seen: list[bool] = []
    apart, step = 0.0, 0.01
    while len(seen) < 4 or len(set(seen)) < 2:
        assert len(seen) < 16, f"one side was first every time: {seen}"
        person = cluster.employee()
        left, entered = _race(crowd, apart, _offboarding(cluster, person), crowd.login(person))
        assert left.json()["left"]
        session = entered.cookies().get("idhub_session")
        assert (entered.status == 303) == (session is not None)
        if session is not None:
            assert not crowd.session_works(session)
        assert _alive(cluster, person) == 0
        seen.append(session is not None)
        # Whoever was first begins later the next time, by more and more until the other one is first.
        step = step * 2 if len(set(seen[-2:])) == 1 else 0.01
        apart += step if session is not None else -step


def test_what_was_handed_out_before_the_leave_is_refused_after_it(cluster: Cluster, crowd: Crowd) -> None:
    """O01, O05, O07: codes, refresh and access tokens, links, sign-ins in progress, forms, personal tokens."""
    person = cluster.employee()
    (session,) = cluster.sign_in([person])
    held = {slug: crowd.tokens(slug, session) for slug in ("office", "wiki")}
    code = crowd.code("wiki", session)
    personal = cluster.api_token_of(person)
    link = crowd.first(cluster.invite(person, "reset_password"))
    sign_in = crowd.login(person)
    begun = crowd.ask(authorize("desk", session))
    cookies = {**session_cookie(session), **begun.cookies()}
    consent = form(
        "/consent",
        {**hidden_fields(crowd.ask(get(begun.location, cookies=cookies)).text), "consent": "allow"},
        cookies=cookies,
    )
    listed = get("/api/v1/people?size=1", bearer=personal)
    assert statuses(crowd.everywhere(listed)) == {200: 2}

    assert crowd.ask(_offboarding(cluster, person)).status == 200

    for slug, tokens in held.items():
        # O07: believed for five more minutes at the most, by verifiers that never ask.
        assert tokens["expires_in"] <= 300  # type: ignore[operator]
        assert not crowd.access_works(slug, tokens["access_token"])
        answers = crowd.everywhere(refresh(slug, cluster.applications[slug], tokens["refresh_token"]))
        assert {(answer.status, answer.json()["error"]) for answer in answers} == {(400, "invalid_grant")}
    answers = crowd.everywhere(redeem("wiki", cluster.applications["wiki"], code))
    assert {(answer.status, answer.json()["error"]) for answer in answers} == {(400, "invalid_grant")}
    assert not crowd.session_works(session)
    assert {answer.status for answer in crowd.everywhere(listed)} == {401}
    assert {answer.status for answer in crowd.everywhere(link)} == {410}
    assert {answer.status for answer in crowd.everywhere(sign_in)} == {403}
    answered = crowd.everywhere(consent)
    assert all(answer.location.startswith("/login") for answer in answered), [a.location for a in answered]
    resumed = crowd.everywhere(
        get(f"/oauth2/authorize/resume?transaction={begun.query['transaction']}", cookies=cookies)
    )
    assert all("code" not in answer.query for answer in resumed)


def test_refresh_of_somebody_suspended_is_refused_in_every_process(cluster: Cluster, crowd: Crowd) -> None:
    """O01 (CVE-2023-22492), and O16: what is restored is the person, not what they held."""
    person = cluster.employee()
    (session,) = cluster.sign_in([person])
    tokens = crowd.tokens("wiki", session)
    for step in ("suspend", "reactivate"):
        changed = crowd.ask(call("POST", f"/api/v1/people/{person.id}/{step}", {}, bearer=cluster.api_token))
        assert changed.status == 200, changed.text
        assert not crowd.access_works("wiki", tokens["access_token"])
        assert not crowd.refresh_works("wiki", tokens["refresh_token"])
        assert not crowd.session_works(session)
    assert crowd.ask(crowd.login(person)).status == 303


def test_many_offboardings_of_one_person_at_once_are_one_leave(cluster: Cluster, crowd: Crowd) -> None:
    """O21: through every process; one case, one event, one logout an application."""
    person = cluster.employee()
    (session,) = cluster.sign_in([person])
    for slug in ("office", "wiki"):
        crowd.tokens(slug, session)
    answers = crowd.at_once([_offboarding(cluster, person)] * 12)
    assert statuses(answers) == {200: 12}, [answer.text for answer in answers]
    assert sum(answer.json()["left"] for answer in answers) == 1
    assert len({answer.json()["case"] for answer in answers}) == 1
    assert cluster.events("person.offboarded", person) == 1
    with cluster.hub.database.read() as db:
        assert db.execute(select(func.count()).where(Case.principal_id == person.id)).scalar_one() == 1
        planned = db.execute(select(Delivery.application_id).where(Delivery.principal_id == person.id)).scalars().all()
    assert len(planned) == len(set(planned)) == 2
    assert _alive(cluster, person) == 0


def test_leave_rehire_rename_and_move_at_once_end_in_some_order(cluster: Cluster, crowd: Crowd) -> None:
    """O21: idempotent, nothing of before works, and the log tells one story."""
    for apart in APART:
        person = cluster.employee()
        (session,) = cluster.sign_in([person])
        tokens = crowd.tokens("wiki", session)
        base = f"/api/v1/people/{person.id}"
        post = {"company": COMPANY, "employee_number": person.number, "start_date": "2020-01-01"}
        answers = crowd.after(
            (0.0, _offboarding(cluster, person)),
            (max(0.0, apart), call("POST", f"{base}/employments", post, bearer=cluster.api_token)),
            (abs(apart) / 2, call("PATCH", base, {"display_name": "林改名"}, bearer=cluster.api_token)),
            (abs(apart), call("POST", f"{base}/move", {"title": "Lead"}, bearer=cluster.api_token)),
            (max(0.0, -apart), _offboarding(cluster, person)),
        )
        assert all(answer.status < 500 for answer in answers), [answer.text for answer in answers]
        assert {answer.status for answer in answers} <= {200, 201, 404, 409, 400}, [a.text for a in answers]
        assert not crowd.session_works(session)
        assert not crowd.access_works("wiki", tokens["access_token"])
        assert not crowd.refresh_works("wiki", tokens["refresh_token"])
        leaves = sum(answer.json().get("left", False) for answer in answers if answer.status == 200)
        assert leaves == cluster.events("person.offboarded", person) >= 1
        with cluster.hub.database.read() as db:
            row = db.execute(
                select(Principal.standing, Principal.enrolment_epoch).where(Principal.id == person.id)
            ).one()
        assert row.enrolment_epoch == 1 + leaves
        came_back = answers[1].status == 201 and answers[1].json()["changed"]
        if not came_back:
            assert row.standing == Standing.LEFT
        if row.standing == Standing.ACTIVE:
            # Their password was set before the leave: it is over with it.
            assert crowd.ask(crowd.login(person)).status == 403


def test_leave_at_an_instant_holds_from_that_instant_in_every_process(cluster: Cluster, crowd: Crowd) -> None:
    """O18: the end is in the predicate; no worker has to have looked."""
    person = cluster.employee()
    (session,) = cluster.sign_in([person])
    tokens = crowd.tokens("wiki", session)
    ends_at = datetime.now(UTC) + timedelta(seconds=2.0)
    planned = crowd.ask(_offboarding(cluster, person, effective_at=ends_at.isoformat()))
    assert planned.status == 200, planned.text
    before = after = 0
    deadline = time.monotonic() + 10
    while after < 10 and time.monotonic() < deadline:
        began = datetime.now(UTC)
        works = any(answer.status == 200 for answer in crowd.everywhere(userinfo(tokens["access_token"])))
        if began >= ends_at:
            assert not works
            after += 1
        else:
            before += works
    assert before > 0
    assert after == 10
    assert not crowd.session_works(session)


def test_consent_given_while_its_person_leaves_opens_nothing(cluster: Cluster, crowd: Crowd) -> None:
    for apart in APART:
        person = cluster.employee()
        (session,) = cluster.sign_in([person])
        begun = crowd.ask(authorize("desk", session))
        cookies = {**session_cookie(session), **begun.cookies()}
        fields = hidden_fields(crowd.ask(get(begun.location, cookies=cookies)).text)
        allowing = form("/consent", {**fields, "consent": "allow"}, cookies=cookies)
        resuming = get(f"/oauth2/authorize/resume?transaction={begun.query['transaction']}", cookies=cookies)
        left, _, resumed = crowd.after(
            (max(0.0, -apart) + 0.01, _offboarding(cluster, person)),
            (0.0, allowing),
            (0.01 + max(0.0, apart), resuming),
        )
        assert left.json()["left"]
        code = resumed.query.get("code")
        if code is not None:
            assert crowd.ask(redeem("desk", cluster.applications["desk"], code)).status == 400
        assert _untold(cluster, person) == set()
        assert _alive(cluster, person) == 0


# ---------------------------------------------------------------------- entitlement and configuration


def test_entitlement_withdrawn_while_a_code_is_redeemed_leaves_nothing_of_that_application(
    cluster: Cluster, crowd: Crowd
) -> None:
    """A mover: office is not for contractors. The session and the other application go on."""
    for apart in APART:
        person = cluster.employee()
        (session,) = cluster.sign_in([person])
        code, wiki = crowd.code("office", session), crowd.tokens("wiki", session)
        moving = call(
            "POST", f"/api/v1/people/{person.id}/move", {"employment_type": "contractor"}, bearer=cluster.api_token
        )
        moved, redeemed = _race(crowd, apart, moving, redeem("office", cluster.applications["office"], code))
        assert moved.status == 200, moved.text
        if redeemed.status == 200:
            assert not crowd.access_works("office", redeemed.json()["access_token"])
            assert not crowd.refresh_works("office", redeemed.json()["refresh_token"])
        assert all("code" not in a.query for a in crowd.everywhere(authorize("office", session)))
        assert crowd.access_works("wiki", wiki["access_token"])
        assert crowd.session_works(session)


def test_secret_that_was_changed_is_refused_everywhere_a_second_later(cluster: Cluster, crowd: Crowd) -> None:
    """Configuration may be a second old in a process (decision 0003), and no older."""
    old, new = cluster.applications["wiki"], "n" * 43
    (session,) = cluster.sign_in([cluster.employee()])
    codes = [crowd.code("wiki", session) for _ in range(6)]
    assert statuses(crowd.everywhere(introspect("wiki", old, "x"))) == {200: 2}
    cluster.configure(cluster.wish("wiki", secret=new))
    changed = time.monotonic()
    try:
        during = crowd.at_once([redeem("wiki", old, code) for code in codes])
        assert set(statuses(during)) <= {200, 401}
        time.sleep(max(0.0, CONFIGURATION_SECONDS - (time.monotonic() - changed)))
        assert statuses(crowd.everywhere(introspect("wiki", old, "x"))) == {401: 2}
        assert statuses(crowd.everywhere(introspect("wiki", new, "x"))) == {200: 2}
    finally:
        cluster.configure(cluster.wish("wiki", secret=old))
        time.sleep(CONFIGURATION_SECONDS)


@pytest.mark.parametrize("what", ["client", "application"])
def test_what_rests_on_something_disabled_is_dead_at_once(cluster: Cluster, crowd: Crowd, what: str) -> None:
    """The registration may be cached, whether it is enabled is asked of the database on every use."""
    (session,) = cluster.sign_in([cluster.employee()])
    tokens, code = crowd.tokens("wiki", session), crowd.code("wiki", session)
    assert crowd.access_works("wiki", tokens["access_token"])
    wish = cluster.wish("wiki", is_enabled=what != "application")
    cluster.configure(wish if what == "application" else replace(wish, oidc=None))
    try:
        assert {answer.status for answer in crowd.everywhere(userinfo(tokens["access_token"]))} == {401}
        spent = crowd.everywhere(redeem("wiki", cluster.applications["wiki"], code))
        assert {answer.status for answer in spent} <= {400, 401}
        used = crowd.everywhere(refresh("wiki", cluster.applications["wiki"], tokens["refresh_token"]))
        assert {answer.status for answer in used} <= {400, 401}
        assert all("code" not in answer.query for answer in crowd.everywhere(authorize("wiki", session)))
    finally:
        cluster.configure(cluster.wish("wiki"))
        time.sleep(CONFIGURATION_SECONDS)
