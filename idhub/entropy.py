"""Random bytes of the system, drawn many at a time: a call to the system costs more than what is done with its answer.

For everything that is given out once (tokens, identifiers). Keys and what outlives the process are drawn by themselves.
"""

import os
import threading

_AT_ONCE = 4096
_lock = threading.Lock()
_drawn = b""
_place = 0


def random_bytes(count: int) -> bytes:
    """Bytes that nobody else was given or will be."""
    global _drawn, _place
    with _lock:
        end = _place + count
        if end > len(_drawn):
            _drawn, _place, end = os.urandom(max(_AT_ONCE, count)), 0, count
        given, _place = _drawn[_place:end], end
    return given


def _forget() -> None:
    """A child must not give out what its parent does."""
    global _drawn, _place, _lock
    _drawn, _place, _lock = b"", 0, threading.Lock()


os.register_at_fork(after_in_child=_forget)
