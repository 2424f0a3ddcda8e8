"""Answers of identity providers over processes and restarts, on both databases: each counts once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from idhub.authority import HubRole, remove_role
from idhub.changes import COMMAND_LINE
from idhub.credentials.sessions import authenticate
from idhub.directory.tables import Principal
from idhub.lifecycle import commands
from idhub.lifecycle.doors import Door
from idhub.login import federation
from idhub.login.contexts import MULTIFACTOR
from idhub.login.links import links_of, unlink
from idhub.login.sign_in import Browser
from providers.saml_wire.bindings import post_value
from tests.flows.every_door import REHIRES
from tests.lifecycle.world import CALLER
from tests.saml.conftest import Scene, open_scene
from tests.saml.test_attacks import _at_once, _other_process
from tests.saml.test_sign_on import _context
from tests.saml.upstream import ACS, begin, deliver, follow, is_in, sign_in
from tests.support.databases import DatabaseKind, Databases
from tests.support.processes import wait_until


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    kind: DatabaseKind = request.param
    for opened in open_scene(kind, databases, tmp_path_factory.mktemp("upstream")):
        opened.stage.clock.advance(timedelta(seconds=1))
        yield opened


def _post(client: TestClient, document: bytes) -> Any:
    """The provider's form in a browser that sends no cookies with it."""
    headers = {"origin": "https://idp.example", "cookie": ""}
    return client.post(ACS, data={"SAMLResponse": post_value(document.decode())}, headers=headers)


def test_an_answer_counts_once_over_processes_and_restarts(fresh: Scene) -> None:
    """S10, ASVS 6.8.3: of two processes that get it at once one keeps it; so it is after a restart."""
    upstream, browser = fresh.stage.upstream, fresh.browser()
    documents = []
    with _other_process(fresh) as other:
        for _ in range(3):
            documents.append(upstream.document(upstream.answer(begin(browser, upstream), fresh.now)))
            posts = [partial(_post, client, documents[-1]) for client in (fresh.browser(), other)]
            assert _at_once(posts) == [303, 400]
    with _other_process(fresh) as restarted:
        assert [_post(restarted, document).status_code for document in documents] == [400] * len(documents)


def test_two_that_take_up_one_answer_get_one_session(fresh: Scene) -> None:
    upstream, browser = fresh.stage.upstream, fresh.browser()
    kept = deliver(browser, upstream.document(upstream.answer(begin(browser, upstream), fresh.now)))
    cookie = str(browser.cookies["idhub_browser"])
    address = kept.headers["location"]
    with _other_process(fresh) as other:
        # Another process finishes what this one kept; of all who try, one.
        other.cookies.set("idhub_browser", cookie)
        tries = [partial(client.get, address) for client in (browser, other, browser, other)]
        assert _at_once(tries) == [303, 400, 400, 400]
    assert len([one for one in fresh.events("login.succeeded") if "provider" in one["details"]]) == 1


def test_a_leave_ends_the_link_and_a_rehire_brings_none_back(fresh: Scene) -> None:
    """Design section 5: platforms give a subject to somebody else one day."""
    upstream, stage = fresh.stage.upstream, fresh.stage
    held = fresh.browser()
    sign_in(fresh.browser(), upstream, fresh.now)
    document = upstream.document(upstream.answer(begin(held, upstream), fresh.now))
    with stage.hub.database.transaction() as session:
        commands.offboard(session, CALLER, stage.person, now=fresh.now)
    refused = follow(held, deliver(held, document))
    assert (refused.status_code, is_in(held)) == (403, False)
    stage.clock.advance(timedelta(days=1))
    REHIRES[Door.CLI](stage)
    stage.clock.advance(timedelta(seconds=1))
    assert sign_in(fresh.browser(), upstream, fresh.now, attributes={}).status_code == 403
    # The rule recognises them anew: a new proof of a new employment makes a new link, in place of the dead one.
    sign_in(again := fresh.browser(), upstream, fresh.now)
    assert is_in(again)
    sign_in(linked := fresh.browser(), upstream, fresh.now, attributes={})
    assert is_in(linked)


def test_a_subject_that_was_given_to_somebody_else_is_theirs(fresh: Scene) -> None:
    upstream, stage = fresh.stage.upstream, fresh.stage
    sign_in(fresh.browser(), upstream, fresh.now)
    with stage.hub.database.transaction() as session:
        commands.offboard(session, CALLER, stage.person, now=fresh.now)
        # Whoever holds a role over the hub is linked by no rule.
        colleague = session.execute(select(Principal.id).where(Principal.id != stage.person)).scalar_one()
        remove_role(session, colleague, HubRole.HR, now=fresh.now)
    stage.clock.advance(timedelta(seconds=1))
    sign_in(browser := fresh.browser(), upstream, fresh.now, attributes={"employeeNumber": ["QY000002"]})
    assert is_in(browser)
    assert fresh.events("login.succeeded")[-1]["person_id"] != stage.person


def test_a_link_that_two_want_at_once_is_one_persons(fresh: Scene) -> None:
    """Two people of whom the provider says the same subject: one is linked, and whoever comes in by it is that one."""
    upstream = fresh.stage.upstream
    waiting = []
    for number in ("QY000001", "QY000002"):
        browser = fresh.browser()
        answer = upstream.answer(begin(browser, upstream), fresh.now, attributes={"employeeNumber": [number]})
        waiting.append(partial(browser.get, deliver(browser, upstream.document(answer)).headers["location"]))
    # Whoever is second is either refused, or finds the link and is its person: which of both, the race decides.
    assert _at_once(waiting) in ([303, 303], [303, 403])
    (linked,) = fresh.events("identity.linked")
    signed = [one for one in fresh.events("login.succeeded") if one["details"].get("provider")]
    assert {one["person_id"] for one in signed} == {linked["person_id"]}


def test_two_subjects_that_want_one_person_at_once_are_one(fresh: Scene) -> None:
    upstream = fresh.stage.upstream
    waiting = []
    for subject in ("first", "second"):
        browser = fresh.browser()
        answer = upstream.answer(begin(browser, upstream), fresh.now, name_id=subject)
        waiting.append(partial(browser.get, deliver(browser, upstream.document(answer)).headers["location"]))
    assert _at_once(waiting) == [303, 403]
    assert len(fresh.events("identity.linked")) == 1


def test_a_step_up_that_is_pending_while_the_person_leaves_ends_nowhere(fresh: Scene) -> None:
    """The provider's answer comes after the leave, and the application's request is resumed after it."""
    fresh.connect()
    upstream, browser = fresh.stage.upstream, fresh.signed_in()
    fresh.stage.clock.advance(timedelta(seconds=1))
    request = fresh.partner.authn_request(fresh.now, [_context(None, MULTIFACTOR)])
    pending = browser.get(fresh.partner.redirect(request)).headers["location"]
    assert pending.startswith("/login?transaction=")
    transaction = pending.partition("=")[2]
    document = upstream.document(upstream.answer(begin(browser, upstream, transaction=transaction), fresh.now,
                                                 context=MULTIFACTOR))  # fmt: skip
    with fresh.stage.hub.database.transaction() as session:
        commands.offboard(session, CALLER, fresh.stage.person, now=fresh.now)
    assert follow(browser, deliver(browser, document)).status_code == 403
    resumed = browser.get("/saml/sso/resume", params={"transaction": transaction})
    assert (resumed.status_code, resumed.headers["location"]) == (303, pending)
    assert fresh.events("assertion.issued") == []


# ---------------------------------------------------------------------- a link that is taken away meanwhile


def _take_link_away(session: Session, fresh: Scene) -> bool:
    (held,) = links_of(session, fresh.stage.person)
    return unlink(session, held.id, held.slug, fresh.stage.person, actor=COMMAND_LINE, request_id=None, now=fresh.now)


def _somebody_waits(fresh: Scene) -> bool:
    """Whether a transaction waits for another one's lock. On SQLite there is one writer, who needs no proof of it."""
    database = fresh.stage.hub.database
    if database.dialect == "sqlite":
        return True
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.read() as session:
        return bool(session.execute(text(waiting)).scalar())


def test_a_link_that_goes_while_somebody_comes_by_it_lets_nobody_in(fresh: Scene) -> None:
    """Looked at before it went, locked after: the sign-in neither goes on nor makes the link again."""
    upstream, browser = fresh.stage.upstream, fresh.browser()
    sign_in(fresh.browser(), upstream, fresh.now)
    document = upstream.document(upstream.answer(begin(browser, upstream), fresh.now, attributes={}))
    address = deliver(browser, document).headers["location"]
    with ThreadPoolExecutor(1) as pool:
        with fresh.stage.hub.database.transaction() as session:
            assert _take_link_away(session, fresh)
            coming = pool.submit(browser.get, address)
            wait_until(lambda: _somebody_waits(fresh), seconds=60, what="the sign-in waits for the person")
        assert coming.result().status_code == 403
    assert fresh.events("login.failed")[-1]["reason"] == "federation.no_link"
    with fresh.stage.hub.database.read() as session:
        assert links_of(session, fresh.stage.person) == []


def test_a_session_that_a_link_makes_while_it_goes_ends_with_it(fresh: Scene) -> None:
    upstream, browser = fresh.stage.upstream, fresh.browser()
    sign_in(fresh.browser(), upstream, fresh.now)
    document = upstream.document(upstream.answer(begin(browser, upstream), fresh.now, attributes={}))
    query = parse_qs(urlsplit(deliver(browser, document).headers["location"]).query)
    database, hub = fresh.stage.hub.database, fresh.stage.hub

    def take_away() -> bool:
        with database.transaction() as session:
            return _take_link_away(session, fresh)

    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as session:
            came = federation.finish(
                session, hub.keyring, hub.settings,
                federation.Kept(query["transaction"][0], query["given"][0]), browser.cookies["idhub_browser"],
                browser=Browser(address="192.0.2.1", user_agent=None, request_id=None), old=None, now=fresh.now,
            )  # fmt: skip
            going = pool.submit(take_away)
            wait_until(lambda: _somebody_waits(fresh), seconds=60, what="taking it away waits for the person")
        assert going.result()
    assert isinstance(came, federation.Finished)
    assert came.minted is not None
    with database.read() as session:
        assert authenticate(session, came.minted.token, now=fresh.now) is None
