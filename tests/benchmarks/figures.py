"""What benchmarks share: how a quantile is taken, how a row is printed, how progress is shown, where databases lie."""

import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed, by nearest rank: one that was measured, in each benchmark the same.

    The p99 of a hundred is the second slowest; of fewer it is the slowest.

    Args:
        values: at least one, in any order.
        share: above 0, at most 1.
    """
    return sorted(values)[math.ceil(len(values) * share) - 1]


def as_line(row: Mapping[str, Any]) -> str:
    """A row of a table: `database`, `durability`, `name`, `value` and `unit`."""
    return f"{row['database']:<11} {row['durability']:<7} {row['name']:<58} {row['value']:>12,.2f} {row['unit']}"


def progress(words: str) -> None:
    """Where a long run is, on one line of a terminal that each call writes anew; nothing where nobody looks."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{words}", end="", file=sys.stderr, flush=True)


@contextmanager
def folder_in_memory(name: str) -> Iterator[Path]:
    """A folder for databases whose disk is not what is measured: in memory where there is room for it."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    where = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(prefix=f"idhub-{name}-", dir=where) as folder:
        yield Path(folder)
