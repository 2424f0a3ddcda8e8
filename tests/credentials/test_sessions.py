"""SSO sessions: timeouts, ends, and what `authenticate` believes."""

import pytest
from sqlalchemy import update

from idhub.credentials import opaque, sessions
from idhub.credentials.tables import Grant, SsoSession
from idhub.directory.tables import Installation
from tests.oidc.world import App, World


def token_of(world: World) -> str:
    return world.http.cookies["idhub_session"]


def is_signed_in(world: World, token: str) -> bool:
    with world.database.read() as session:
        return sessions.authenticate(session, token, now=world.clock()) is not None


def test_authenticate_says_who_and_how(world: World) -> None:
    person = world.onboard()
    session_id = world.sign_in(person)
    with world.database.read() as session:
        found = sessions.authenticate(session, token_of(world), now=world.clock())
    assert found is not None
    assert (found.principal_id, found.session_id, found.display_name) == (person, session_id, "王磊")
    assert found.amr == ("pwd",)
    assert found.authenticated_at == world.clock()


def test_a_session_ends_when_idle_and_in_any_case(world: World) -> None:
    """ASVS 7.3.1 and 7.3.2, with a clock under control."""
    session_id = world.sign_in(world.onboard())
    token = token_of(world)
    world.clock.advance(hours=7, minutes=59)
    assert is_signed_in(world, token)
    with world.database.transaction() as session:
        sessions.touch(session, session_id, now=world.clock(), settings=world.settings)
    world.clock.advance(hours=4)
    assert is_signed_in(world, token), "use moved the idle end"
    world.clock.advance(minutes=1)
    assert not is_signed_in(world, token), "twelve hours are twelve hours"


def test_touching_does_not_revive(world: World) -> None:
    session_id = world.sign_in(world.onboard())
    world.clock.advance(hours=8)
    with world.database.transaction() as session:
        sessions.touch(session, session_id, now=world.clock(), settings=world.settings)
    assert not is_signed_in(world, token_of(world))


def test_an_ended_session_is_ended_once_and_with_its_grants(world: World, office: App) -> None:
    session_id = world.sign_in(world.employee(office))
    world.tokens(office)
    with world.database.transaction() as session:
        told = sessions.end_session(session, session_id, reason="logout", now=world.clock())
        again = sessions.end_session(session, session_id, reason="logout", now=world.clock())
    assert [participant.client_id for participant in told] == ["office"]
    assert again == []
    assert not is_signed_in(world, token_of(world))
    assert world.count(Grant, Grant.ended_at.is_(None)) == 0
    assert len(world.events("session.ended")) == 1
    with world.database.transaction() as session:
        assert sessions.end_session(session, "ses_unknown", reason="logout", now=world.clock()) == []


@pytest.mark.parametrize("value", ["", "x", "\ud800", "idh_ses_" + "A" * 48, "a" * 1_000_000])
def test_what_is_no_session_token_is_nobody(world: World, value: str) -> None:
    world.sign_in(world.onboard())
    assert not is_signed_in(world, value)
    assert not is_signed_in(world, opaque.make("ses"))


def test_every_door_a_leave_a_suspension_and_a_restore_end_sessions(world: World) -> None:
    """Design section 5: two epochs, and one of the installation."""
    person = world.onboard()
    world.sign_in(person)
    first = token_of(world)
    world.suspend(person)
    assert not is_signed_in(world, first)
    world.reactivate(person)
    assert not is_signed_in(world, first), "nothing issued before a suspension works after it"
    world.sign_in(person)
    second = token_of(world)
    with world.database.transaction() as session:
        session.execute(update(Installation).values(epoch=Installation.epoch + 1))
    assert not is_signed_in(world, second)
    world.sign_in(person)
    third = token_of(world)
    world.offboard(person)
    assert not is_signed_in(world, third)


def test_the_epochs_on_a_session_are_those_that_were_read(world: World) -> None:
    person = world.onboard()
    session_id = world.sign_in(person)
    with world.database.read() as session:
        epochs = sessions.read_epochs(session, person)
        row = session.execute(SsoSession.__table__.select().where(SsoSession.id == session_id)).one()
        assert sessions.read_epochs(session, "per_nobody") is None
    assert epochs == sessions.Epochs(row.access_epoch, row.enrolment_epoch, row.installation_epoch)
