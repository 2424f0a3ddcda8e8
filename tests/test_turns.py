"""Turns of SQLite's writers: whoever somebody waits for goes first, and nobody waits for ever."""

import fcntl
import threading
import time

import pytest

from idhub.db import Database
from idhub.turns import Turns, bulk_work


def writer(turns: Turns, name: str, order: list[str], *, is_bulk: bool) -> threading.Thread:
    """A thread that writes its name when its turn has come; it is in the queue when this returns."""

    def work() -> None:
        with turns.mine():
            order.append(name)

    def main() -> None:
        if is_bulk:
            with bulk_work():
                work()
        else:
            work()

    waiting = len(turns._urgent) + len(turns._bulk)
    thread = threading.Thread(target=main)
    thread.start()
    deadline = time.monotonic() + 10
    while len(turns._urgent) + len(turns._bulk) == waiting and time.monotonic() < deadline:
        time.sleep(0.001)
    return thread


def test_whoever_somebody_waits_for_goes_before_bulk_work_that_came_earlier() -> None:
    turns, order = Turns(30), list[str]()
    with turns.mine():
        threads = [
            writer(turns, "bulk 1", order, is_bulk=True),
            writer(turns, "bulk 2", order, is_bulk=True),
            writer(turns, "sign-in", order, is_bulk=False),
        ]
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == ["sign-in", "bulk 1", "bulk 2"]


def test_one_writes_at_a_time() -> None:
    turns, inside, most = Turns(30), list[int](), list[int]()

    def work() -> None:
        for _ in range(50):
            with turns.mine():
                inside.append(1)
                most.append(len(inside))
                time.sleep(0)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(most) == 400
    assert max(most) == 1


def test_a_turn_that_does_not_come_is_not_waited_for_for_ever() -> None:
    """Whoever holds the turn hangs: the next one goes on after its patience, and the queue is in order again."""
    turns = Turns(0.05)
    with turns.mine():
        done = list[str]()
        writer(turns, "impatient", done, is_bulk=False).join(10)
        assert done == ["impatient"]
    with turns.mine():
        assert not turns._urgent


def test_a_failure_passes_the_turn_on() -> None:
    turns, order = Turns(30), list[str]()

    def fail() -> None:
        with turns.mine():
            waiting.append(writer(turns, "next", order, is_bulk=False))
            raise ValueError

    waiting: list[threading.Thread] = []
    with pytest.raises(ValueError):
        fail()
    waiting[0].join(10)
    assert order == ["next"]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_bulk_work_lets_whoever_stands_in_line_in_another_process_write_first(database: Database) -> None:
    """Who waits holds a shared lock on the file beside the database; bulk work waits a moment for it to be given up."""
    with open(f"{database.engine.url.database}-line", "w") as line:
        fcntl.flock(line, fcntl.LOCK_SH)
        began = time.monotonic()
        with bulk_work(), database.transaction():
            assert time.monotonic() - began >= 0.2
