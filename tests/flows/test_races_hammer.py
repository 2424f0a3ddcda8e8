"""The short form of `make soak-races`: everybody uses everything while people leave, over several processes.

What is measured there is only checked here. The checker itself is tried on histories that must not pass.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.benchmarks.soak import SETTINGS, Piece, figures_of, soak
from tests.benchmarks.soak_history import Ending, Use, Verdict, check
from tests.support.cluster import Cluster, running_cluster
from tests.support.databases import Databases

KINDS = frozenset({"page", "token"})
GROUPS = dict.fromkeys(KINDS, "some")
LEAVE = Ending(0, 0, 10.0, 10.2, KINDS)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def cluster(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Two processes on one database."""
    folder = tmp_path_factory.mktemp("cluster")
    with running_cluster(request.param, databases, folder, processes=2, settings=SETTINGS) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_use_that_begins_after_the_offboarding_returned_succeeds_in_any_process(cluster: Cluster) -> None:
    """Invariant 2, with every kind of credential at every kind of endpoint; raises what the history does not prove."""
    found, piece = soak(cluster, clients=34, leaves=4, withdrawals=2, say=print)
    assert found.endings == 4
    assert found.attempts_after >= 3 * 10
    assert piece.withdrawals == 2


def test_figures_of_several_pieces_are_those_of_all_their_values() -> None:
    common: dict[str, Any] = {
        "processes": 2, "clients": 34, "pause_ms": 0, "proving_nothing": 0, "unknown": 0, "violations": 0, "waits": [],
        "late_here": [], "late_elsewhere": [],
    }  # fmt: skip
    one = Piece(**common, seconds=1, leaves=1, uses=10, attempts_after=3, took=[0.1], zero={"all": [0.1]})
    two = Piece(
        **common, seconds=3, leaves=2, uses=50, attempts_after=4, took=[0.2, 0.3], zero={"all": [0.4, 0.2]},
        withdrawals=1, withdrawn=[0.5],
    )  # fmt: skip
    figures = figures_of([one, two])
    assert (figures["pieces"], figures["leaves"], figures["uses"], figures["uses_a_second"]) == (2, 3, 60, 15)
    assert figures["uses_begun_within_10_ms_after"] == 7
    assert figures["offboarding_call_ms"] == {"p50": 200.0, "p99": 300.0, "max": 300.0, "n": 3}
    assert figures["zero_access_ms"] == {"all": {"p50": 200.0, "p99": 400.0, "max": 400.0, "n": 3}}
    assert figures["withdrawal_zero_access_ms"]["n"] == figures["withdrawals"] == 1


def _use(kind: str, began: float, verdict: Verdict, *, process: int = 0, took: float = 0.005) -> Use:
    return Use(0, kind, process, began, began + took, verdict)


def _good() -> list[Use]:
    return [
        *(_use(kind, 9.95, "ok") for kind in KINDS),
        *(_use(kind, 10.1, "ok", process=1) for kind in KINDS),
        *(_use(kind, 10.205, "refused") for kind in KINDS),
    ]


def test_history_in_which_everything_stopped_in_time_passes() -> None:
    found = check(_good(), [LEAVE], groups=GROUPS)
    assert found.holds, found.complaint()
    assert found.zero["all"] == [pytest.approx(0.1)]
    assert found.late_here == found.late_elsewhere == [0.0]


def test_history_with_a_success_that_began_after_the_answer_does_not_pass() -> None:
    found = check([*_good(), _use("token", 10.3, "ok", process=1)], [LEAVE], groups=GROUPS)
    assert not found.holds
    assert [use.kind for use in found.violations] == ["token"]
    assert found.late_elsewhere == [pytest.approx(0.1)]
    assert found.late_here == [0.0]


def test_success_that_began_before_the_answer_and_ended_after_it_is_no_violation() -> None:
    found = check([*_good(), _use("token", 10.19, "ok", took=0.5)], [LEAVE], groups=GROUPS)
    assert found.holds, found.complaint()


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ("ok", "no success in the 100 ms before"),
        ("refused", "no attempt in the 10 ms after"),
        ("page ok", "kind page: never succeeded before an ending"),
        ("page refused", "kind page: was never refused after an ending"),
    ],
)
def test_history_that_proves_nothing_does_not_pass(missing: str, complaint: str) -> None:
    kind, _, verdict = missing.rpartition(" ")
    uses = [use for use in _good() if use.verdict != verdict or (kind and use.kind != kind)]
    found = check(uses, [LEAVE], groups=GROUPS)
    assert not found.holds
    assert complaint in found.complaint()


@pytest.mark.parametrize("verdict", ["unknown", "ok"])
def test_attempts_that_come_late_or_say_nothing_are_no_proof(verdict: Verdict) -> None:
    """A use 11 ms after, or one answered 503, is not the attempt in the 10 ms after."""
    late = [_use(kind, 10.211, "refused") for kind in KINDS]
    said_nothing = [_use(kind, 10.205, "unknown") for kind in KINDS] if verdict == "unknown" else []
    before = [use for use in _good() if use.verdict == "ok"]
    found = check([*before, *late, *said_nothing], [LEAVE], groups=GROUPS)
    assert not found.holds
    assert found.silent == [(0, "no attempt in the 10 ms after")]


def test_one_ending_for_which_the_load_was_late_spoils_no_others() -> None:
    second = LEAVE._replace(holder=1)
    late = [use._replace(holder=1) for use in _good() if use.verdict == "ok"]
    found = check([*_good(), *late], [LEAVE, second], groups=GROUPS)
    assert found.holds, found.complaint()
    assert found.proving_nothing == 1
    third = LEAVE._replace(holder=2)
    later = [use._replace(holder=2) for use in _good() if use.verdict == "ok"]
    assert not check([*_good(), *late, *later], [LEAVE, second, third], groups=GROUPS).holds


def test_success_more_than_100_ms_before_is_no_proof() -> None:
    uses = [use._replace(began=9.8, ended=9.85) if use.began < LEAVE.asked else use for use in _good()]
    found = check(uses, [LEAVE], groups=GROUPS)
    assert found.silent == [(0, "no success in the 100 ms before")]


def test_run_without_endings_does_not_pass() -> None:
    found = check(_good(), [], groups=GROUPS)
    assert not found.holds
    assert found.complaint() == "nothing was ended"
