"""`idhub.entropy`: every byte is given out once, over threads and processes."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from idhub import entropy
from idhub.entropy import random_bytes


@pytest.mark.parametrize("count", [0, 1, 32, 4_095, 4_096, 4_097, 20_000])
def test_as_many_bytes_as_were_asked_for(count: int) -> None:
    assert len(random_bytes(count)) == count


def test_no_bytes_are_given_twice() -> None:
    drawn = [random_bytes(16) for _ in range(2_000)]
    assert len(set(drawn)) == len(drawn)


def test_threads_get_bytes_of_their_own() -> None:
    with ThreadPoolExecutor(8) as threads:
        drawn = list(threads.map(lambda _: random_bytes(24), range(4_000)))
    assert len(set(drawn)) == len(drawn)


def test_a_child_does_not_give_out_what_its_parent_does() -> None:
    random_bytes(1)
    assert entropy._place < len(entropy._drawn), "the parent has bytes left to give"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, random_bytes(32))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 32) != random_bytes(32)
    os.close(read)
    os.close(write)
