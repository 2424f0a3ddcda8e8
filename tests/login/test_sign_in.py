"""`idhub.login.sign_in`: who gets a session, and that nothing tells who exists."""

from dataclasses import replace
from datetime import date, timedelta

import orjson
import pytest
from sqlalchemy import select, update

from audit.tables import audit_events
from idhub.authority import HubRole, remove_role
from idhub.credentials.tables import Password, RememberedDevice, SsoSession, Throttle
from idhub.errors import NotPermitted
from idhub.lifecycle.intake import EndCredentials, Offboard, Reactivate, Suspend
from idhub.login import counters, sign_in, throttling
from idhub.login.passwords import HashingPool
from idhub.login.sign_in import Minted, Refusal
from tests.login.world import HERE, PASSWORD, World


@pytest.mark.parametrize(
    "typed",
    [
        "QY000001",
        "qy000001",
        "  qy000001 ",
        "ＱＹ０００００１",
        "WANG.Lei@qiyue.example",
        "+86 138-0013 8000",
        "13800138000",
    ],
)
def test_number_mail_and_mobile_name_a_person_however_typed(world: World, typed: str) -> None:
    """L05."""
    principal_id, _ = world.person(number="QY000001", email="wang.lei@qiyue.example", mobile="+8613800138000")
    assert world.minted(typed).principal_id == principal_id


def test_a_success_mints_a_session_and_its_event(world: World) -> None:
    principal_id, number = world.person()
    before = world.events("login.succeeded")
    minted = world.minted(number)
    signed_in = world.session_of(minted.token)
    assert signed_in is not None and signed_in.principal_id == principal_id and signed_in.amr == ("pwd",)
    assert world.events("login.succeeded") == [*before, ("success", None, principal_id)]


def test_whichever_way_in_is_one_event_about_the_session(world: World) -> None:
    """A link, a password and a changed password: who signed in and that a session began is said once."""
    principal_id, number = world.onboard()
    first = world.redeem(world.invite(principal_id))
    assert isinstance(first, Minted)
    second = world.minted(number)
    third = change(world, second, "seven copper bridges")
    reset = world.redeem(world.invite(principal_id, "reset_password"), "nine wooden doors")
    assert isinstance(reset, Minted)
    with world.database.read() as session:
        rows = session.execute(
            select(audit_events.c.body)
            .where(audit_events.c.type == "login.succeeded")
            .order_by(audit_events.c.id)
        )  # fmt: skip
        bodies = [orjson.loads(bytes(body)) for body in rows.scalars()]
    said = [(one["target"]["id"], one["details"]) for one in bodies]
    assert said == [
        (first.session_id, {"amr": ["pwd"], "after": "password_reset"}),
        (second.session_id, {"amr": ["pwd"], "lane": "stranger"}),
        (third.session_id, {"amr": ["pwd"], "after": "password_changed"}),
        (reset.session_id, {"amr": ["pwd"], "after": "password_reset"}),
    ]
    assert {(one["target"]["kind"], one["person_id"]) for one in bodies} == {("session", principal_id)}
    assert world.count(SsoSession) == len(bodies)


def test_every_cause_of_refusal_is_one_outcome_and_its_reason_is_in_the_log_alone(world: World) -> None:
    """B03: the caller learns that it failed; which cause it was is recorded."""
    _, known = world.person()
    _, without = world.onboard()
    staged_id, staged = world.onboard(starts_on=date(2026, 12, 1))
    world.redeem(world.invite(staged_id))
    suspended_id, suspended = world.person()
    world.change(Suspend(principal_id=suspended_id))
    left_id, left = world.person()
    world.change(Offboard(principal_id=left_id))
    reasons = {
        "nobody-by-this-name": (PASSWORD, Refusal.UNKNOWN_NAME),
        known: ("wrong " + PASSWORD, Refusal.WRONG_PASSWORD),
        without: (PASSWORD, Refusal.NO_PASSWORD),
        staged: (PASSWORD, Refusal.STANDING),
        suspended: (PASSWORD, Refusal.STANDING),
        left: (PASSWORD, Refusal.STANDING),
    }
    for name, (password, reason) in reasons.items():
        assert world.sign_in(name, password) is reason, name
    assert [reason for _, reason, _ in world.events("login.failed")] == [str(r) for _, r in reasons.values()]
    assert world.count(SsoSession, SsoSession.ended_at.is_(None)) == 1  # of setting the known one's password


def test_a_name_that_several_people_have_signs_in_nobody(world: World) -> None:
    world.person(number="QY1", mobile="13900000001")
    world.person(number="QY2", mobile="139-0000-0001")
    assert world.sign_in("13900000001") is Refusal.AMBIGUOUS_NAME
    assert isinstance(world.sign_in("QY1"), Minted)


def test_nobody_takes_the_names_of_whose_role_reaches_further(world: World) -> None:
    """HR of a company writes numbers, addresses and mobiles there: also those that an administrator signs in with."""
    mobile = "13900000002"
    administrator, number = world.person(mobile=mobile)
    taken = (number, f"{number.lower()}@qiyue.example", mobile)
    companies = [world.company(code) for code in ("A", "B")]
    for company in companies:
        world.person("another password of somebody", number=number, mobile=mobile, company=company)
    for name in taken:
        assert world.sign_in(name) is Refusal.AMBIGUOUS_NAME
    world.assign(administrator, companies[0])
    for name in taken:
        assert world.minted(name).principal_id == administrator
    # Somebody of the same reach: neither is meant. One who reaches further: the other is not.
    colleague, _ = world.person(number=number.lower(), mobile=mobile, email=taken[1], company=companies[1])
    world.assign(colleague, companies[1])
    for name in taken:
        assert world.sign_in(name) is Refusal.AMBIGUOUS_NAME
    world.assign(administrator, None)
    for name in taken:
        assert world.minted(name).principal_id == administrator
    # Who lost the role, or left, is one of many again.
    with world.database.transaction() as session:
        remove_role(session, administrator, HubRole.AUDITOR, now=world.clock())
        remove_role(session, colleague, HubRole.AUDITOR, now=world.clock())
    for name in taken:
        assert world.sign_in(name) is Refusal.AMBIGUOUS_NAME


def test_a_name_reused_after_its_owner_left_means_the_new_owner(world: World) -> None:
    old, _ = world.person(number="QY1", email="li.na@qiyue.example")
    world.change(Offboard(principal_id=old))
    new, _ = world.person(number="QY2", email="li.na@qiyue.example", password="seven copper bridges")
    assert world.minted("li.na@qiyue.example", "seven copper bridges").principal_id == new
    assert world.sign_in("li.na@qiyue.example", PASSWORD) is Refusal.WRONG_PASSWORD


def test_unknown_and_known_names_cost_one_verification_each(world: World) -> None:
    """Same work: an argon2 verification happens whether or not there is somebody to compare with."""
    _, number = world.person()
    for name in (number, "nobody"):
        prepared = world.prepare(name)
        verification = world.pool.verify("wrong", prepared.stored_hash).result()
        assert not verification.matches


@pytest.mark.parametrize("meanwhile", [Suspend, Offboard])
def test_a_transition_between_reading_and_minting_wins(world: World, meanwhile: type[Suspend | Offboard]) -> None:
    """O04: the session is stamped with the epochs read before the password was checked."""
    principal_id, number = world.person()
    prepared = world.prepare(number)
    world.change(meanwhile(principal_id=principal_id))
    assert world.finish(prepared, PASSWORD) is Refusal.STANDING


def test_access_that_ended_and_came_back_meanwhile_refuses_too(world: World) -> None:
    principal_id, number = world.person()
    prepared = world.prepare(number)
    world.change(Suspend(principal_id=principal_id))
    world.change(Reactivate(principal_id=principal_id))
    assert world.finish(prepared, PASSWORD) is Refusal.EPOCH
    assert isinstance(world.sign_in(number), Minted)


def test_credentials_ended_meanwhile_refuse_too(world: World) -> None:
    principal_id, number = world.person()
    prepared = world.prepare(number)
    world.change(EndCredentials(principal_id=principal_id))
    assert world.finish(prepared, PASSWORD) is Refusal.EPOCH


def test_a_new_sign_in_makes_a_new_session_and_the_old_one_is_dead(world: World) -> None:
    """T01; ASVS 7.2.4."""
    _, number = world.person()
    first = world.minted(number)
    second = world.minted(number, old=first.session_id)
    assert second.token != first.token
    assert world.session_of(first.token) is None
    assert world.session_of(second.token) is not None


def test_another_person_in_the_same_browser_ends_the_former_ones_session(world: World) -> None:
    """T10."""
    _, one = world.person()
    _, two = world.person(name="李娜")
    first = world.minted(one)
    second = world.minted(two, old=first.session_id)
    assert world.session_of(first.token) is None
    assert world.session_of(second.token) is not None
    assert world.events("session.ended")[-1][1] == "replaced"


def test_a_failed_sign_in_leaves_the_session_of_the_browser_alone(world: World) -> None:
    _, number = world.person()
    first = world.minted(number)
    assert isinstance(world.sign_in(number, "wrong", old=first.session_id), Refusal)
    assert world.session_of(first.token) is not None


def test_throttled_tries_are_refused_before_the_password_is_looked_at(world: World) -> None:
    _, number = world.person()
    for _ in range(counters.PERSON.count + 1):
        world.sign_in(number, "wrong", browser=replace(HERE, address="198.51.100.1"))
    prepared = world.prepare(number, replace(HERE, address="198.51.100.2"))
    assert not prepared.admission.is_admitted
    assert world.events("login.throttled")[-1][1] == "login.limit_person"


def test_of_guesses_at_once_no_more_than_the_limit_are_answered_a_right_one_among_them(world: World) -> None:
    """All were let in before the first was counted; whoever comes after the limit is told that, whatever they typed."""
    _, number = world.person()
    signed_in = world.events("login.succeeded")
    browser = replace(HERE, address="198.51.100.1")
    guesses = [world.prepare(number, browser) for _ in range(counters.PERSON.count + 3)]
    assert all(guess.admission.is_admitted for guess in guesses)
    *wrong, late, later, right = guesses
    assert [world.finish(guess, "wrong", browser=browser) for guess in wrong] == [Refusal.WRONG_PASSWORD] * len(wrong)
    told = [world.finish(late, "wrong", browser=browser), world.finish(later, PASSWORD, browser=browser)]
    told.append(world.finish(right, PASSWORD, browser=browser))
    assert told == [throttling.Admission("stranger", counters.PERSON, timedelta(seconds=90))] * 3
    assert [reason for _, reason, _ in world.events("login.throttled")] == ["login.limit_person"] * 3
    assert world.events("login.succeeded") == signed_in


def test_right_passwords_of_people_who_may_not_act_are_counted_like_wrong_ones(world: World) -> None:
    """B03: or that nobody is ever told to wait would tell that the password is right."""
    principal_id, number = world.person()
    world.change(Suspend(principal_id=principal_id))
    told = [world.sign_in(number) for _ in range(counters.PERSON.count + 1)]
    assert told[:-1] == [Refusal.STANDING] * counters.PERSON.count
    assert told[-1] == throttling.Admission("stranger", counters.PERSON, timedelta(seconds=90))


def test_whoever_signs_in_leaves_nothing_counted_and_their_place_noted_once_a_day(world: World) -> None:
    _, number = world.person()
    began = world.clock()
    for later in (0, 12, 11):
        world.clock.advance(hours=later)
        world.minted(number)
        assert world.count(Throttle) == world.count(Throttle, Throttle.window_started_at == began) == 1
    world.clock.advance(hours=1)
    world.minted(number)
    assert world.count(Throttle) == world.count(Throttle, Throttle.window_started_at == world.clock()) == 1


def test_a_remembered_browser_gets_in_while_strangers_fill_their_lane(world: World) -> None:
    """B06."""
    _, number = world.person()
    device = world.minted(number, remember=True).device_token
    for _ in range(counters.PERSON.count + 1):
        world.sign_in(number, "wrong", browser=replace(HERE, address="198.51.100.1"))
    own = replace(HERE, address="192.0.2.200", device_token=device)
    assert isinstance(world.sign_in(number, browser=own), Minted)


def test_the_device_of_one_person_opens_no_lane_for_another(world: World) -> None:
    _, one = world.person()
    _, two = world.person()
    device = world.minted(one, remember=True).device_token
    assert world.prepare(two, replace(HERE, device_token=device)).attempt.device_hash is None
    assert world.prepare(one, replace(HERE, device_token=device)).attempt.device_hash is not None


def test_a_remembered_device_dies_with_the_enrolment_epoch_and_with_its_time(world: World) -> None:
    principal_id, number = world.person()
    device = world.minted(number, remember=True).device_token
    own = replace(HERE, device_token=device)
    assert world.prepare(number, own).attempt.device_hash is not None
    world.clock.advance(sign_in.REMEMBERED)
    assert world.prepare(number, own).attempt.device_hash is None
    device = world.minted(number, remember=True).device_token
    world.change(Offboard(principal_id=principal_id))
    assert world.count(RememberedDevice, RememberedDevice.expires_at > world.clock()) == 0


def test_a_known_browser_keeps_its_device(world: World) -> None:
    _, number = world.person()
    first = world.minted(number, remember=True)
    again = world.minted(number, browser=replace(HERE, device_token=first.device_token))
    assert again.device_token == first.device_token
    assert first.device_lifetime == sign_in.REMEMBERED and again.device_lifetime is None


def test_an_outdated_hash_is_replaced_when_its_password_is_typed(world: World) -> None:
    principal_id, number = world.person()
    cheap = world.pool
    world.pool = HashingPool(world.settings.model_copy(update={"argon2_time_cost": 2}))
    try:
        world.minted(number)
        with world.database.read() as session:
            stored = session.execute(select(Password.hash).where(Password.principal_id == principal_id)).scalar_one()
        assert ",t=2," in stored
        world.minted(number)
    finally:
        world.pool.close()
        world.pool = cheap


def test_a_password_of_an_earlier_employment_does_not_work_after_the_rehire(world: World) -> None:
    """Invariant 7: the hash is bound to its enrolment epoch."""
    principal_id, number = world.person()
    with world.database.transaction() as session:
        session.execute(update(Password).where(Password.principal_id == principal_id).values(enrolment_epoch=0))
    assert world.sign_in(number) is Refusal.NO_PASSWORD


# ---------------------------------------------------------------- changing one's own password


def change(world: World, minted: Minted, new: str) -> Minted:
    with world.database.transaction() as session:
        prepared = sign_in.prepare_change(
            session, world.keyring, minted.principal_id, minted.session_id, browser=HERE, now=world.clock()
        )
    new_hash = world.pool.hash(new).result()
    with world.database.transaction() as session:
        return sign_in.change_password(
            session, world.keyring, world.settings, prepared, new_hash, browser=HERE, now=world.clock()
        )


def test_a_changed_password_ends_every_session_and_keeps_this_browser_signed_in_anew(world: World) -> None:
    _, number = world.person()
    here, elsewhere = world.minted(number), world.minted(number)
    kept = change(world, here, "seven copper bridges")
    assert world.session_of(here.token) is None and world.session_of(elsewhere.token) is None
    assert world.session_of(kept.token) is not None
    assert world.sign_in(number, PASSWORD) is Refusal.WRONG_PASSWORD
    assert isinstance(world.sign_in(number, "seven copper bridges"), Minted)
    assert world.events("password.changed")[-1][0] == "success"


def test_a_password_changed_meanwhile_elsewhere_is_not_overwritten(world: World) -> None:
    _, number = world.person()
    here = world.minted(number)
    with world.database.transaction() as session:
        prepared = sign_in.prepare_change(
            session, world.keyring, here.principal_id, here.session_id, browser=HERE, now=world.clock()
        )
    other = change(world, world.minted(number), "seven copper bridges")
    with pytest.raises(NotPermitted) as refused, world.database.transaction() as session:
        sign_in.change_password(
            session, world.keyring, world.settings, prepared, "hash", browser=HERE, now=world.clock()
        )
    assert refused.value.rule == "session.ended"
    assert world.session_of(other.token) is not None


def test_tries_at_the_current_password_are_limited(world: World) -> None:
    _, number = world.person()
    here = world.minted(number)
    admissions = []
    for _ in range(counters.PERSON.count + 1):
        with world.database.transaction() as session:
            prepared = sign_in.prepare_change(
                session, world.keyring, here.principal_id, here.session_id, browser=HERE, now=world.clock()
            )
            sign_in.refuse_change(session, prepared, browser=HERE, now=world.clock())
        admissions.append(prepared.admission)
    assert [a.is_admitted for a in admissions] == [True] * counters.PERSON.count + [False]
    assert admissions[-1].retry_after == timedelta(seconds=90)
