"""SQLite's write-ahead log as a serving hub keeps it."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager


@contextmanager
def log_copied(path: str | None) -> Iterator[None]:
    """Have SQLite's log copied back by a thread once a second, as `serve` does it; without a path, nothing."""
    if path is None:
        yield
        return
    is_over = threading.Event()

    def copy() -> None:
        with closing(sqlite3.connect(path)) as connection:
            while not is_over.wait(1):
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    thread = threading.Thread(target=copy)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
