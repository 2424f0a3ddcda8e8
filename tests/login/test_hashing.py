"""`idhub.login.hashing`: results are handed over together while others wait, and nobody is kept for long."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial

import pytest

from idhub.login.hashing import LONGEST_HELD, MOST_TOGETHER, HashingThreads


@pytest.fixture
def threads() -> Iterator[HashingThreads]:
    made = HashingThreads(1)
    yield made
    made.close()


class Behind:
    """Works only once all of it is queued, and notes in what order who worked and who was told."""

    def __init__(self, threads: HashingThreads, seconds: list[float]) -> None:
        self.order: list[str] = []
        everybody = threading.Event()
        self.futures: list[Future[int]] = []
        for place, spent in enumerate(seconds):
            future = threads.submit(self._work(everybody, place, spent))
            future.add_done_callback(partial(self._told, place))
            self.futures.append(future)
        everybody.set()
        for future in self.futures:
            future.exception(10)

    def _told(self, place: int, _: Future[int]) -> None:
        self.order.append(f"told {place}")

    def _work(self, everybody: threading.Event, place: int, spent: float) -> Callable[[], int]:
        def work() -> int:
            everybody.wait(10)
            time.sleep(spent)
            self.order.append(f"worked {place}")
            return place

        return work


def names(kind: str, places: range) -> list[str]:
    return [f"{kind} {place}" for place in places]


def test_results_wait_for_those_behind_them_and_not_for_many(threads: HashingThreads) -> None:
    done = Behind(threads, [0.001] * (MOST_TOGETHER + 2))
    first, rest = range(MOST_TOGETHER), range(MOST_TOGETHER, MOST_TOGETHER + 2)
    assert done.order == [
        *names("worked", first), *names("told", first), *names("worked", rest), *names("told", rest)
    ]  # fmt: skip
    assert [future.result() for future in done.futures] == list(range(MOST_TOGETHER + 2))


def test_nobody_waits_for_a_hash_that_takes_long(threads: HashingThreads) -> None:
    """Costly settings: the next hash would end too late."""
    done = Behind(threads, [1.2 * LONGEST_HELD] * 2)
    assert done.order == ["worked 0", "told 0", "worked 1", "told 1"]


def test_what_another_thread_took_keeps_nobody_waiting() -> None:
    threads, gate = HashingThreads(2), threading.Event()
    try:
        slow = threads.submit(lambda: gate.wait(10))
        assert threads.submit(lambda: "quick").result(5) == "quick"
        assert not slow.done()
        gate.set()
        assert slow.result(5)
    finally:
        threads.close()


def test_a_failure_is_told_to_whom_it_concerns(threads: HashingThreads) -> None:
    gate = threading.Event()
    before = threads.submit(lambda: gate.wait(10))
    failing, after = threads.submit(lambda: 1 // 0), threads.submit(lambda: "well")
    gate.set()
    assert before.result(5) and after.result(5) == "well"
    with pytest.raises(ZeroDivisionError):
        failing.result(5)


def test_what_is_cancelled_in_the_queue_is_not_done(threads: HashingThreads) -> None:
    gate, done = threading.Event(), list[str]()
    before = threads.submit(lambda: gate.wait(10))
    unwanted, wanted = (threads.submit(partial(done.append, name)) for name in ("unwanted", "wanted"))
    assert unwanted.cancel()
    gate.set()
    before.result(5), wanted.result(5)
    assert done == ["wanted"]


def test_closing_lets_queued_work_end() -> None:
    threads = HashingThreads(2)
    futures = [threads.submit(partial(int, place)) for place in range(50)]
    threads.close()
    assert [future.result(0) for future in futures] == list(range(50))
    threads.close()
