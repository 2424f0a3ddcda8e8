"""`idhub.login.invitations`: one-time links work once, for the right person, in time."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta

import pytest
from sqlalchemy import update

from idhub.credentials import opaque
from idhub.credentials.tables import Invitation, SsoSession
from idhub.directory.kinds import EmploymentType
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Installation
from idhub.errors import Conflict, NotFound
from idhub.lifecycle.intake import AddEmployment, EmploymentFacts, EndCredentials, Offboard, Reactivate, Suspend
from idhub.login import counters, invitations
from idhub.login.invitations import Invited
from idhub.login.sign_in import Minted, Refusal
from tests.login.world import HERE, PASSWORD, World


def look_up(world: World, token: str) -> Invited | None:
    with world.database.read() as session:
        return invitations.look_up(session, token, now=world.clock())


def test_a_link_sets_the_first_password_and_signs_in(world: World) -> None:
    principal_id, number = world.onboard()
    token = world.invite(principal_id)
    minted = world.redeem(token)
    assert isinstance(minted, Minted)
    signed_in = world.session_of(minted.token)
    assert signed_in is not None and signed_in.principal_id == principal_id
    assert isinstance(world.sign_in(number), Minted)
    for kind in ("invitation.issued", "invitation.used", "password.set"):
        assert world.events(kind) == [("success", None, principal_id)]


def test_the_link_is_built_from_the_issuer_and_hides_nothing_in_its_host(world: World) -> None:
    """T06."""
    token = world.invite(world.onboard()[0])
    assert invitations.link(world.settings, token) == f"{world.settings.issuer}/login/first?token={token}"
    assert opaque.looks_valid("inv", token)


def test_opening_a_link_spends_nothing(world: World) -> None:
    principal_id, number = world.onboard(name="李娜")
    token = world.invite(principal_id)
    for _ in range(3):
        invited = look_up(world, token)
        assert invited is not None
        assert (invited.display_name, invited.login_name) == ("李娜", number)
    assert isinstance(world.redeem(token), Minted)


def test_a_link_works_once(world: World) -> None:
    """T09."""
    token = world.invite(world.onboard()[0])
    assert isinstance(world.redeem(token), Minted)
    assert world.redeem(token, "seven copper bridges") is None
    assert look_up(world, token) is None
    assert world.events("login.failed")[-1][1] == "invitation.unusable"


def test_fifty_parallel_spends_have_exactly_one_success(world: World) -> None:
    """T09; on both databases."""
    principal_id, number = world.onboard()
    token, hashed = world.invite(principal_id), world.pool.hash(PASSWORD).result()
    with ThreadPoolExecutor(12) as threads:
        outcomes = list(threads.map(lambda _: world.redeem(token, hashed=hashed), range(50)))
    assert sum(isinstance(outcome, Minted) for outcome in outcomes) == 1
    assert outcomes.count(None) == 49
    assert len(world.events("invitation.used")) == 1
    assert world.count(SsoSession) == 1
    assert isinstance(world.sign_in(number), Minted)


def test_a_link_is_dead_the_moment_it_expires(world: World) -> None:
    """ASVS 6.4.1."""
    token = world.invite(world.onboard()[0])
    world.clock.advance(world.settings.invitation_lifetime - timedelta(seconds=1))
    assert look_up(world, token) is not None
    world.clock.advance(seconds=1)
    assert look_up(world, token) is None
    assert world.redeem(token) is None


def test_a_newer_link_replaces_the_older(world: World) -> None:
    principal_id, _ = world.onboard()
    older, newer = world.invite(principal_id), world.invite(principal_id)
    assert world.redeem(older) is None
    assert isinstance(world.redeem(newer), Minted)


def rehire(world: World, principal_id: str) -> AddEmployment:
    with world.database.read() as session:
        organization_id = root_organization(session)
    facts = EmploymentFacts(
        organization_id=organization_id, employee_number="QY-again", type=EmploymentType.REGULAR,
        starts_on=date(2026, 11, 1),
    )  # fmt: skip
    return AddEmployment(principal_id=principal_id, employment=facts)


def test_a_link_dies_with_a_suspension_also_after_its_end(world: World) -> None:
    principal_id, _ = world.onboard()
    token = world.invite(principal_id)
    world.change(Suspend(principal_id=principal_id))
    assert world.redeem(token) is None
    world.change(Reactivate(principal_id=principal_id))
    assert world.redeem(token) is None


def test_a_link_dies_with_the_leave_and_a_new_one_works_after_the_rehire(world: World) -> None:
    """Step 8 of the story: nothing from before works, a first-sign-in link does."""
    principal_id, number = world.person()
    token = world.invite(principal_id, "reset_password")
    world.change(Offboard(principal_id=principal_id))
    assert world.redeem(token) is None
    world.change(rehire(world, principal_id))
    assert world.redeem(token) is None
    assert world.sign_in("QY-again") is Refusal.NO_PASSWORD
    assert isinstance(world.redeem(world.invite(principal_id)), Minted)
    assert isinstance(world.sign_in("QY-again"), Minted)
    assert number


def test_a_link_dies_when_credentials_are_ended(world: World) -> None:
    principal_id, _ = world.person()
    token = world.invite(principal_id, "reset_password")
    world.change(EndCredentials(principal_id=principal_id))
    assert world.redeem(token) is None


def test_a_link_dies_with_the_installation_epoch(world: World) -> None:
    token = world.invite(world.onboard()[0])
    with world.database.transaction() as session:
        session.execute(update(Installation).values(epoch=2))
    assert world.redeem(token) is None


def test_a_reset_ends_every_session_and_the_old_password(world: World) -> None:
    principal_id, number = world.person()
    before = world.minted(number)
    minted = world.redeem(world.invite(principal_id, "reset_password"), "seven copper bridges")
    assert isinstance(minted, Minted)
    assert world.session_of(before.token) is None
    assert world.session_of(minted.token) is not None
    assert world.sign_in(number, PASSWORD) is Refusal.WRONG_PASSWORD
    assert isinstance(world.sign_in(number, "seven copper bridges"), Minted)


def test_a_reset_opens_what_strangers_had_closed(world: World) -> None:
    principal_id, number = world.person()
    for _ in range(counters.PERSON.count + 1):
        world.sign_in(number, "wrong")
    assert not world.prepare(number).admission.is_admitted
    world.redeem(world.invite(principal_id, "reset_password"), "seven copper bridges")
    assert isinstance(world.sign_in(number, "seven copper bridges"), Minted)


def test_a_reset_opens_the_own_browser_after_a_hundred_wrong_tries(world: World) -> None:
    """NIST SP 800-63B-4 section 3.2.2: the lane stays closed for that password, not for the next."""
    principal_id, number = world.person()
    own = replace(HERE, device_token=world.minted(number, remember=True).device_token)
    for _ in range(counters.CONSECUTIVE.count):
        assert world.sign_in(number, "wrong", browser=own) is Refusal.WRONG_PASSWORD
        world.clock.advance(seconds=90)
    closed = world.prepare(number, own).admission
    assert closed.lane == "device" and closed.limit is counters.CONSECUTIVE
    world.redeem(world.invite(principal_id, "reset_password"), "seven copper bridges")
    assert isinstance(world.sign_in(number, "seven copper bridges", browser=own), Minted)


def test_somebody_who_starts_later_may_choose_a_password_but_gets_no_session(world: World) -> None:
    principal_id, number = world.onboard(starts_on=date(2026, 12, 1))
    outcome = world.redeem(world.invite(principal_id))
    assert isinstance(outcome, Invited)
    assert world.count(SsoSession) == 0
    assert world.sign_in(number) is Refusal.STANDING


@pytest.mark.parametrize("change", [Suspend, Offboard])
def test_nobody_is_invited_who_may_not_act(world: World, change: type[Suspend | Offboard]) -> None:
    principal_id, _ = world.onboard()
    world.change(change(principal_id=principal_id))
    with pytest.raises(Conflict) as refused:
        world.invite(principal_id)
    assert refused.value.rule == "invitation.standing"
    assert world.count(Invitation) == 0


def test_an_unknown_person_cannot_be_invited(world: World) -> None:
    with pytest.raises(NotFound):
        world.invite("per_nobody")


@pytest.mark.parametrize("token", ["", "idh_inv_", "x" * 10_000, opaque.make("inv"), opaque.make("ses"), "ñ\x00"])
def test_made_up_links_are_refused(world: World, token: str) -> None:
    assert look_up(world, token) is None
    assert world.redeem(token, hashed="never stored") is None


def test_the_stored_link_cannot_be_used_as_a_link(world: World) -> None:
    token = world.invite(world.onboard()[0])
    assert look_up(world, opaque.hash_of(token)) is None
    assert world.count(Invitation, Invitation.token_hash == opaque.hash_of(token)) == 1
    assert world.count(Invitation, Invitation.token_hash == token) == 0
