"""`idhub.login.passwords`: policy after NIST SP 800-63B-4, hashing, and its bounded queue."""

import importlib.metadata
import threading
import unicodedata
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from passlib.hash import argon2  # type: ignore[import-untyped]

from idhub.errors import Invalid, Unavailable
from idhub.login import argon2id
from idhub.login.passwords import MAX_PASSWORD_BYTES, HashingPool, Verification, check_policy, normalize
from idhub.settings import Settings

CONTEXT = frozenset({"qiyue", "启岳汽车", "wanglei", "qy000123"})


@pytest.fixture
def pool(settings: Settings) -> Iterator[HashingPool]:
    made = HashingPool(settings)
    yield made
    made.close()


def rule_of(password: str, *, min_length: int = 15) -> str | None:
    try:
        check_policy(normalize(password), min_length=min_length, context=CONTEXT)
    except Invalid as refused:
        assert refused.field in {"password", "new_password"}
        return refused.rule
    return None


def test_the_old_passlib_distribution_is_absent() -> None:
    """Its bcrypt calls fail with bcrypt 5; libpass provides the import name."""
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("passlib")
    assert importlib.metadata.version("libpass")


@pytest.mark.parametrize(("length", "rule"), [(14, "password.too_short"), (15, None), (64, None), (128, None)])
def test_length_decides(length: int, rule: str | None) -> None:
    """ASVS 6.2.1, 6.2.9."""
    text = "quiet harbour lantern beneath seven copper bridges at noon " * 3
    assert rule_of(text[:length].replace(" ", "-").rstrip("-").ljust(length, "x")) == rule


def test_128_characters_of_any_script_are_taken() -> None:
    assert rule_of("海边的风吹过山谷与森林带来远方花香" * 7 + "海边的风吹过山谷与") is None
    assert rule_of("𝔘𝔫𝔦𝔠𝔬𝔡𝔢🌊🌲🚲🎻" * 11) is None


def test_more_than_1024_bytes_are_refused_before_hashing() -> None:
    assert normalize("x" * MAX_PASSWORD_BYTES)
    with pytest.raises(Invalid) as refused:
        normalize("界" * 342)
    assert refused.value.rule == "password.too_long"


@pytest.mark.parametrize(
    "password",
    [
        "aaaaaaaaaaaaaaaaaaaaa1",
        "only lower case words here",
        "48201938471029384756",
        "GROSS BUCHSTABEN HIER",
        "      ten spaces      ",
    ],
)
def test_composition_is_never_the_reason(password: str) -> None:
    """ASVS 6.2.5; NIST 3.1.1.2."""
    assert rule_of(password) is None


@pytest.mark.parametrize(
    "password",
    [
        "passwordpassword", "Passw0rd!Passw0rd!", "Password123456789", "password20261123", "qwertyuiopasdfghjkl",
        "123456789012345", "aaaaaaaaaaaaaaaa", "correct horse battery staple", "iloveyou iloveyou",
        "admin-admin-admin-1", "WOAINI1314woaini", "1q2w3e4r5t6y7u8i",
    ],
)  # fmt: skip
def test_what_attackers_try_first_is_refused_by_name_of_reason(password: str) -> None:
    """ASVS 6.2.4, 6.2.12."""
    assert rule_of(password) == "password.common"


@pytest.mark.parametrize("password", ["password", "12345678", "iloveyou", "sunshine", "1qaz2wsx"])
def test_common_passwords_are_refused_also_where_eight_characters_are_enough(password: str) -> None:
    assert rule_of(password, min_length=8) == "password.common"


@pytest.mark.parametrize(
    "password",
    [
        "lantern-QiYue-bridge-7",
        "我们的启岳汽车真的很不错的呢呀",
        "my name is Wang.Lei ok",
        "harbour QY-000123 harbour",
        "q1yue lantern bridge",
    ],
)
def test_names_of_company_and_person_are_refused_by_name_of_reason(password: str) -> None:
    """ASVS 6.2.11."""
    assert rule_of(password) == "password.context"


def test_control_characters_are_refused() -> None:
    assert rule_of("quiet harbour\x00lantern") == "password.characters"


def test_a_lone_surrogate_is_refused_not_a_crash() -> None:
    with pytest.raises(Invalid) as refused:
        normalize("quiet harbour lantern \ud800")
    assert refused.value.rule == "password.characters"


@pytest.mark.parametrize(
    "tried",
    [
        "quiet harbour Lantern", "quiet harbour lantern ", " quiet harbour lantern", "quiet harbour lanterm", "",
        "quiet  harbour lantern",
    ],
)  # fmt: skip
def test_nothing_is_trimmed_folded_or_cut(pool: HashingPool, tried: str) -> None:
    """ASVS 6.2.8."""
    stored = pool.hash(normalize("quiet harbour lantern")).result()
    assert not pool.verify(normalize(tried), stored).result().matches


def test_the_73rd_byte_counts(pool: HashingPool) -> None:
    stored = pool.hash("a" * 72 + "b").result()
    assert pool.verify("a" * 72 + "b", stored).result().matches
    assert not pool.verify("a" * 72 + "c", stored).result().matches


def test_both_unicode_forms_of_a_password_are_one(pool: HashingPool) -> None:
    composed = unicodedata.normalize("NFC", "café über straße naïve")
    decomposed = unicodedata.normalize("NFD", composed)
    assert composed != decomposed
    stored = pool.hash(normalize(decomposed)).result()
    assert pool.verify(normalize(composed), stored).result().matches


def test_hashes_are_argon2id_with_the_costs_of_the_settings(pool: HashingPool, settings: Settings) -> None:
    stored = pool.hash("quiet harbour lantern").result()
    assert stored.startswith(f"$argon2id$v=19$m={settings.argon2_memory_kib},t={settings.argon2_time_cost},p=1$")
    assert pool.hash("quiet harbour lantern").result() != stored


def test_outdated_costs_are_replaced_at_the_next_success(pool: HashingPool, settings: Settings) -> None:
    stored = pool.hash("quiet harbour lantern").result()
    dearer = HashingPool(settings.model_copy(update={"argon2_time_cost": 2}))
    try:
        verified = dearer.verify("quiet harbour lantern", stored).result()
        assert verified.matches and verified.replacement is not None and ",t=2," in verified.replacement
        assert dearer.verify("quiet harbour lantern", verified.replacement).result().replacement is None
        assert dearer.verify("wrong", stored).result().replacement is None
    finally:
        dearer.close()


@pytest.mark.parametrize("library", argon2id.LIBRARIES)
def test_either_library_computes_what_the_reference_code_does(
    pool: HashingPool, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    """RFC 9106: whichever is faster on a machine, the hashes of all are one kind."""
    monkeypatch.setattr(argon2id, "fastest", lambda: library)
    password = "quiet harbour lantern 启岳"
    assert argon2.using(type="ID").verify(password, pool.hash(password).result())
    for costs in ((1024, 1), (1031, 3)):
        stored = argon2.using(type="ID", memory_cost=costs[0], time_cost=costs[1], parallelism=1).hash(password)
        assert argon2id.read(stored) is not None, "computed here, not through passlib"
        verified = pool.verify(password, stored).result()
        assert verified.matches and (verified.replacement is None) is (costs == (1024, 1))
        assert not pool.verify(password + " ", stored).result().matches


@given(st.binary(max_size=200), st.binary(min_size=16, max_size=16), st.integers(8, 64), st.integers(1, 3))
def test_both_libraries_compute_the_same(password: bytes, salt: bytes, kib: int, passes: int) -> None:
    costs = argon2id.Costs(kib, passes)
    one, other = (compute(password, salt, costs, 32) for compute in argon2id.LIBRARIES.values())
    assert one == other


def test_the_library_that_takes_less_time_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(password: bytes, salt: bytes, costs: argon2id.Costs, size: int) -> bytes:
        for _ in range(9):
            argon2id.by_libsodium(password, salt, costs, size)
        return argon2id.by_libsodium(password, salt, costs, size)

    for names in (("quick", "slow"), ("slow", "quick")):
        each = {"quick": argon2id.by_libsodium, "slow": slow}
        monkeypatch.setattr(argon2id, "LIBRARIES", {name: each[name] for name in names})
        argon2id.fastest.cache_clear()
        assert argon2id.fastest() == "quick"
    argon2id.fastest.cache_clear()


@pytest.mark.parametrize("form", [{"type": "ID", "parallelism": 2}, {"type": "I"}, {"type": "ID", "salt_size": 8}])
def test_hashes_of_other_forms_are_verified_and_replaced(pool: HashingPool, form: dict[str, Any]) -> None:
    stored = argon2.using(**{"memory_cost": 1024, "time_cost": 1, "parallelism": 1, **form}).hash("quiet harbour")
    assert argon2id.read(stored) is None
    verified = pool.verify("quiet harbour", stored).result()
    assert verified.matches and verified.replacement is not None and argon2id.read(verified.replacement) is not None
    assert pool.verify("quiet harbours", stored).result() == Verification(matches=False)


@pytest.mark.parametrize(
    "stored",
    [
        None, "", "not a hash", "$2b$12$abcdefghijklmnopqrstuv", "$argon2id$", "$argon2id$v=19$m=8,t=1,p=1$*$*",
        "$argon2id$v=19$m=1,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaA",
    ],
)  # fmt: skip
def test_what_cannot_be_verified_never_matches(pool: HashingPool, stored: str | None) -> None:
    assert not pool.verify("quiet harbour lantern", stored).result().matches


def test_a_full_queue_refuses_at_once_and_recovers(settings: Settings) -> None:
    """B04: the pool is bounded; whoever comes too late is told when to come back."""
    pool = HashingPool(settings.model_copy(update={"hash_workers": 1, "hash_queue_seconds": 0.2}))
    gate, entered = threading.Event(), threading.Event()

    def slow(*_: Any) -> str:
        entered.set()
        gate.wait(10)
        return "done"

    pool._cost = 0.1
    running: list[Future[str]] = [pool.enter().left_after(pool._submit(slow))]
    assert entered.wait(5)
    running += [pool.enter().left_after(pool._submit(slow)) for _ in range(2)]
    with pytest.raises(Unavailable) as refused:
        pool.hash("quiet harbour lantern")
    assert refused.value.retry_after.total_seconds() >= 1
    assert (pool.depth, pool.refused) == (3, 1)
    gate.set()
    assert [future.result(5) for future in running] == ["done"] * 3
    pool._cost = 0.001
    assert pool.hash("quiet harbour lantern").result(5)
    pool.close()


def test_a_place_is_held_until_it_is_left_and_left_once(settings: Settings) -> None:
    """Whoever undoes nothing when there is no room has a place before anything else is done."""
    pool = HashingPool(settings.model_copy(update={"hash_workers": 1, "hash_queue_seconds": 0.5}))
    pool._cost = 1.0
    with pool.enter() as place:
        with pytest.raises(Unavailable):
            pool.enter()
        assert place.verify("quiet harbour lantern", place.hash("quiet harbour lantern").result()).result().matches
        assert pool.depth == 1
        place.leave()
        assert pool.depth == 0
    assert pool.depth == 0
    pool.close()
