"""Identifiers of rows."""

import threading
import time

from idhub.entropy import random_bytes

_ID_ALPHABET = "0123456789abcdefghijklmnopqrstuv"
_ID_PAIRS = tuple(high + low for high in _ID_ALPHABET for low in _ID_ALPHABET)
_ID_ODD_BYTES = 7
_last_id = 0
_id_lock = threading.Lock()


def new_ids(prefix: str, count: int) -> list[str]:
    """New identifiers: `prefix_` and 26 characters, time-ordered within a process, 56 random bits.

    Identifiers are names, not secrets: nothing is authorized by knowing one.
    """
    global _last_id  # noqa: PLW0603 - one counter a process is the point
    # Milliseconds and a counter of 12 bits, which carries over into the milliseconds.
    now = time.time_ns() // 1_000_000 << 12
    with _id_lock:
        first = max(now, _last_id + 1)
        _last_id = first + count - 1
    odd = random_bytes(_ID_ODD_BYTES * count).hex()
    ids = []
    block, head = -1, ""
    for number in range(count):
        place = first + number
        if place >> 10 != block:
            block = place >> 10
            head = f"{prefix}_" + "".join(_ID_PAIRS[block >> shift & 1023] for shift in (40, 30, 20, 10, 0))
        start = number * _ID_ODD_BYTES * 2
        ids.append(f"{head}{_ID_PAIRS[place & 1023]}{odd[start : start + _ID_ODD_BYTES * 2]}")
    return ids


def new_id(prefix: str) -> str:
    """One new identifier (`new_ids`)."""
    return new_ids(prefix, 1)[0]
