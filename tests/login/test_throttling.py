"""`idhub.login.throttling`: guessing is slow, and nobody can be locked out by somebody else."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from idhub.credentials.purge import purge_expired
from idhub.credentials.tables import Throttle
from idhub.db import Database
from idhub.keys import Keyring
from idhub.login.counters import ADDRESS, CLIENT, CLIENTS, CONSECUTIVE, PERSON, SAME_PASSWORD, SPRAY
from idhub.login.throttling import Admission, Attempt, ClientGuess, claim, claim_client, look, password_bucket, succeed
from tests.support.clock import Clock

HOME, AWAY = "203.0.113.7", "198.51.100.9"


class Door:
    """Tries, each in a transaction of its own, as routes make them."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self._database, self._keyring, self.clock = database, keyring, clock
        self.is_alone = True

    def fail(self, name: str, address: str = AWAY, device: str | None = None) -> Admission:
        return self._fail(Attempt(name, address, device))

    def _fail(self, attempt: Attempt) -> Admission:
        """What a look says before is what the count does."""
        with self._database.transaction() as session:
            seen = look(session, self._keyring, attempt, now=self.clock())
            counted = claim(session, self._keyring, attempt, now=self.clock())
            if self.is_alone:
                assert seen.admission == counted
            return counted

    def succeed(self, name: str, address: str = HOME, device: str | None = None) -> Admission:
        attempt = Attempt(name, address, device)
        with self._database.transaction() as session:
            seen = look(session, self._keyring, attempt, now=self.clock())
            if seen.admission.is_admitted:
                succeed(session, self._keyring, attempt, seen, now=self.clock())
        return seen.admission

    def spray(self, number: int, bucket: str, device: str | None = None, address: str | None = None) -> Admission:
        """One password for the next name, from an address of its own."""
        return self._fail(Attempt(f"per_{number}", address or f"198.51.{number // 250}.{number % 250}", device, bucket))

    def guess(self, client_id: str, address: str = AWAY, *, secret_hash: str | None = "5" * 64) -> ClientGuess:
        with self._database.transaction() as session:
            return claim_client(session, self._keyring, client_id, address, secret_hash=secret_hash, now=self.clock())

    def rows(self) -> int:
        with self._database.read() as session:
            return session.execute(select(func.count()).select_from(Throttle)).scalar_one()

    def purge(self) -> int:
        """What the worker does once an hour."""
        return purge_expired(self._database, now=self.clock()).get("throttles", 0)


@pytest.fixture
def door(database: Database, keyring: Keyring, clock: Clock) -> Door:
    return Door(database, keyring, clock)


def test_the_eleventh_failure_within_the_window_is_refused_with_a_time(door: Door) -> None:
    assert all(door.fail("per_1").is_admitted for _ in range(PERSON.count))
    refused = door.fail("per_1")
    assert refused.limit is PERSON
    assert refused.retry_after == timedelta(seconds=90)


def test_one_try_becomes_free_when_its_time_has_come_and_not_before(door: Door) -> None:
    for _ in range(PERSON.count):
        door.fail("per_1")
    door.clock.advance(seconds=89)
    refused = door.fail("per_1")
    assert refused.retry_after == timedelta(seconds=1)
    door.clock.advance(seconds=1)
    assert door.fail("per_1").is_admitted
    assert not door.fail("per_1").is_admitted


def test_refused_tries_do_not_prolong_the_wait(door: Door) -> None:
    for _ in range(PERSON.count + 30):
        door.fail("per_1")
    door.clock.advance(seconds=90)
    assert door.fail("per_1").is_admitted


def test_parallel_guesses_are_no_more_than_the_limit(door: Door) -> None:
    door.is_alone = False
    with ThreadPoolExecutor(8) as threads:
        admissions = list(threads.map(lambda _: door.fail("per_1"), range(40)))
    assert sum(admission.is_admitted for admission in admissions) == PERSON.count


def test_a_success_disregards_earlier_failures(door: Door) -> None:
    for _ in range(PERSON.count - 1):
        door.fail("per_1")
    assert door.succeed("per_1", AWAY).is_admitted
    assert all(door.fail("per_1").is_admitted for _ in range(PERSON.count))


def test_unknown_names_are_counted_exactly_as_known_ones(door: Door) -> None:
    """B03."""
    known = [door.fail("per_1").retry_after for _ in range(15)]
    unknown = [door.fail("0f3a", "192.0.2.33").retry_after for _ in range(15)]
    assert known == unknown


def test_a_stranger_cannot_lock_out_a_remembered_browser(door: Door) -> None:
    """B06: also when the stranger sits behind the same address."""
    for _ in range(PERSON.count + 5):
        door.fail("per_ceo", HOME)
    for n in range(ADDRESS.count + 5):
        door.fail(f"per_{n}", HOME)
    assert not door.fail("per_ceo", HOME).is_admitted
    assert door.succeed("per_ceo", HOME, device="d" * 64).is_admitted


def test_a_stranger_cannot_lock_out_a_place_with_a_success_before(door: Door) -> None:
    door.succeed("per_ceo", HOME)
    for _ in range(PERSON.count + 5):
        door.fail("per_ceo", AWAY)
    assert not door.fail("per_ceo", "192.0.2.44").is_admitted
    assert door.succeed("per_ceo", HOME).is_admitted


def test_a_place_is_forgotten_after_thirty_days(door: Door) -> None:
    assert door.succeed("per_1", HOME).lane == "stranger"
    door.clock.advance(days=29)
    assert door.fail("per_1", HOME).lane == "place"
    door.clock.advance(days=2)
    assert door.fail("per_1", HOME).lane == "stranger"


def test_a_remembered_browser_has_a_limit_of_its_own(door: Door) -> None:
    assert all(door.fail("per_1", device="d" * 64).is_admitted for _ in range(PERSON.count))
    assert not door.fail("per_1", device="d" * 64).is_admitted
    assert door.fail("per_1").is_admitted


def test_a_hundred_failures_in_a_row_close_the_lane_however_long_one_waits(door: Door) -> None:
    """NIST SP 800-63B-4 section 3.2.2."""
    for n in range(CONSECUTIVE.count):
        door.clock.advance(seconds=90)
        assert door.fail("per_1", f"192.0.2.{n}").is_admitted
    door.clock.advance(days=40)
    closed = door.fail("per_1")
    assert closed.limit is CONSECUTIVE and closed.retry_after is None


def test_a_closed_lane_opens_when_the_person_signs_in_from_their_own_browser(door: Door) -> None:
    for n in range(CONSECUTIVE.count):
        door.clock.advance(seconds=90)
        door.fail("per_1", f"192.0.2.{n}")
    assert not door.fail("per_1").is_admitted
    assert door.succeed("per_1", device="d" * 64).is_admitted
    assert door.fail("per_1").is_admitted


def test_spraying_many_names_from_one_address_is_stopped(door: Door) -> None:
    """B08: one password against many people."""
    admissions = [door.fail(f"per_{n}") for n in range(SPRAY.count + 1)]
    assert all(admission.is_admitted for admission in admissions[:-1])
    assert admissions[-1].limit is SPRAY
    assert door.fail("per_other", HOME).is_admitted


def test_people_who_mistype_and_then_succeed_are_no_spray(door: Door) -> None:
    """An office behind one address: what ends in a success counts for nothing."""
    for n in range(SPRAY.count * 2):
        assert door.fail(f"per_{n}", HOME).is_admitted
        assert door.succeed(f"per_{n}", HOME).is_admitted
        door.clock.advance(seconds=10)


def test_an_own_success_does_not_reset_what_was_sprayed(door: Door) -> None:
    for n in range(SPRAY.count):
        door.fail(f"per_{n}")
    door.clock.advance(seconds=1)
    assert not door.fail("per_last").is_admitted
    door.succeed("per_attacker", AWAY, device="d" * 64)
    assert not door.fail("per_last").is_admitted


def test_one_password_for_many_names_from_many_addresses_is_stopped(door: Door, keyring: Keyring) -> None:
    """B08: a spray that no address gives away. Nobody's own count is touched by what was refused."""
    bucket = password_bucket(keyring, "Welcome2026!")
    assert all(door.spray(n, bucket).is_admitted for n in range(SAME_PASSWORD.count))
    refused = door.spray(900, bucket)
    assert refused.limit is SAME_PASSWORD
    assert refused.retry_after is not None
    assert refused.retry_after <= SAME_PASSWORD.window / SAME_PASSWORD.count  # type: ignore[operator]
    for _ in range(PERSON.count):
        assert door.fail("per_900").is_admitted, "the person was not charged"


def test_a_spray_locks_out_nobody_who_is_known(door: Door, keyring: Keyring) -> None:
    bucket, other = "abcd", "dcba"
    door.succeed("per_1", HOME)
    for n in range(SAME_PASSWORD.count + 5):
        door.spray(n + 100, bucket)
    assert not door.spray(950, bucket).is_admitted
    assert door.spray(1, bucket, address=HOME).is_admitted, "from a place with a success before"
    assert door.spray(951, bucket, device="d" * 64).is_admitted, "from a browser of their own"
    assert door.spray(952, other).is_admitted, "with another password"
    door.clock.advance(minutes=4)
    assert door.spray(953, bucket).is_admitted, "and everybody when the spray pauses"


def test_people_who_choose_alike_are_no_spray(door: Door) -> None:
    """Successes count for nothing, and one person's repeated try counts once."""
    for n in range(SAME_PASSWORD.count * 2):
        attempt = Attempt(f"per_{n}", f"203.0.{n}.7", None, "abcd")
        with door._database.transaction() as session:
            seen = look(session, door._keyring, attempt, now=door.clock())
            assert seen.admission.is_admitted
            succeed(session, door._keyring, attempt, seen, now=door.clock())
    for _ in range(PERSON.count):
        door.spray(901, "abcd")
    assert door.spray(902, "abcd").is_admitted


def test_what_is_kept_of_a_tried_password_tells_nothing(keyring: Keyring) -> None:
    """Sixteen bits of a keyed hash: one password in 65,536 fits."""
    bucket = password_bucket(keyring, "quiet harbour lantern")
    assert len(bucket) == 4
    assert int(bucket, 16) < 65_536


def test_wrong_client_secrets_are_counted_in_the_database(door: Door) -> None:
    """B09: over all processes, and after a restart; per client and address."""
    guesses = [door.guess("office") for _ in range(CLIENT.count + 1)]
    assert [guess.retry_after is None for guess in guesses] == [True] * CLIENT.count + [False]
    assert door.guess("wiki").retry_after is None
    assert door.guess("office", HOME).retry_after is None
    door.clock.advance(seconds=3)
    assert door.guess("office").retry_after is None


def test_a_new_secret_has_not_been_guessed_at(door: Door) -> None:
    for _ in range(CLIENT.count):
        assert door.guess("office").retry_after is None
    assert door.guess("office").retry_after is not None
    assert door.guess("office", secret_hash="7" * 64).retry_after is None
    assert door.guess("office").retry_after is not None


def test_an_address_that_gets_many_clients_wrong_is_reported_and_fills_no_table(door: Door) -> None:
    """B08 for clients. Made-up names leave no rows of their own."""
    told = [door.guess(f"client-{n}", secret_hash=None).is_spray for n in range(CLIENTS.count + 200)]
    assert told == [False] * CLIENTS.count + [True] * 200
    assert door.rows() <= CLIENTS.count + 1
    assert not door.guess("client-0", HOME).is_spray


def test_one_address_cannot_hammer_one_name_for_ever(door: Door) -> None:
    for _ in range(ADDRESS.count):
        door.fail("per_1")
    assert door.fail("per_2").limit is ADDRESS


def test_addresses_of_one_ipv6_household_count_as_one(door: Door) -> None:
    for n in range(ADDRESS.count):
        door.fail("per_1", f"2001:db8:1:2::{n:x}")
    assert door.fail("per_2", "2001:db8:1:2:ffff::1").limit is ADDRESS
    assert door.fail("per_2", "2001:db8:1:3::1").is_admitted


def test_old_counters_are_purged_and_full_ones_stay_longer(door: Door) -> None:
    door.fail("per_1")
    for _ in range(CONSECUTIVE.count):
        door.fail("per_2")
        door.clock.advance(minutes=2)
    assert door.purge() == 0
    door.clock.advance(days=91)
    assert door.purge() > 0
    assert door.fail("per_1").is_admitted
    assert door.fail("per_2").limit is CONSECUTIVE
    door.clock.advance(days=270)
    door.purge()
    assert door.fail("per_2").is_admitted


def test_failures_in_a_row_are_not_forgotten_over_night(door: Door) -> None:
    """NIST SP 800-63B-4 section 3.2.2: only a success disregards them, not that the worker tidies up."""
    for _ in range(CONSECUTIVE.count // 2):
        door.fail("per_1")
        door.clock.advance(minutes=2)
    for _ in range(CONSECUTIVE.count // 2):
        door.clock.advance(days=1)
        door.purge()
        door.fail("per_1")
    assert door.fail("per_1").limit is CONSECUTIVE


def test_a_place_is_remembered_over_a_holiday(door: Door) -> None:
    """Strangers cannot lock somebody out who last signed in there four weeks ago."""
    door.succeed("per_1", HOME)
    door.clock.advance(days=29)
    door.purge()
    assert door.succeed("per_1", HOME).lane == "place"
    door.clock.advance(days=32)
    assert door.purge() > 0
    assert door.succeed("per_1", HOME).lane == "stranger"
