"""Bulk work learns how many people a commit takes."""

import time

from idhub.lifecycle.pace import Pace


def busy(seconds: float) -> None:
    """Use the processor."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_cheap_people_make_commits_larger_by_no_more_than_twice() -> None:
    pace, sizes = Pace("sqlite"), list[int]()
    for _ in range(8):
        with pace.work_on(pace.size):
            pass
        sizes.append(pace.size)
    assert sizes == [16, 32, 64, 128, 250, 250, 250, 250]


def test_heavy_people_make_commits_smaller_at_once_but_never_empty() -> None:
    pace = Pace("sqlite")
    with pace.work_on(pace.size):
        busy(0.12)
    assert 1 <= pace.size <= 2
    with pace.work_on(1):
        busy(0.2)
    assert pace.size == 1


def test_short_commits_take_fewer_people() -> None:
    pace, short = Pace("sqlite"), Pace("sqlite", is_short=True)
    assert short.size < pace.size
    for one in (pace, short):
        for _ in range(4):
            with one.work_on(8):
                busy(0.012)
    assert short.size < pace.size


def test_waiting_costs_nothing() -> None:
    """A busy machine, or a lock that another holds, makes no batch smaller."""
    pace = Pace("sqlite")
    with pace.work_on(pace.size):
        time.sleep(0.2)
    assert pace.size > 8
