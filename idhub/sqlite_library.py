"""How SQLite's library is set, which can be said only before anything of it is used."""

import ctypes
import importlib.util
from collections.abc import Sequence

_CONFIG_MEMSTATUS = 9
# Versions in which the fault is corrected: the first of all, and the first of each earlier line that was.
_CORRECTED = (3, 51, 3)
_CORRECTED_BEFORE = {(3, 44): 6, (3, 50): 7}


def count_no_memory() -> bool:
    """Have SQLite keep no count of the memory that it has: nobody asks, and whatever is taken or let go waits for it.

    Returns: whether it keeps none now. A library that is in use already, or is part of the interpreter, stays as it is.
    """
    driver = importlib.util.find_spec("_sqlite3")
    if driver is None or driver.origin is None:
        return False
    try:
        # The driver's own file, not a name: of several libraries it is the one that the driver has.
        configure = ctypes.CDLL(driver.origin).sqlite3_config
    except (OSError, AttributeError):
        return False
    configure.argtypes = [ctypes.c_int]
    return bool(configure(_CONFIG_MEMSTATUS, ctypes.c_int(0)) == 0)


def may_lose_pages(version: Sequence[int]) -> bool:
    """Whether this version has the fault that can lose committed pages when a log is begun anew (`durability.md`)."""
    line = (version[0], version[1])
    if line in _CORRECTED_BEFORE:
        return version[2] < _CORRECTED_BEFORE[line]
    return tuple(version[:3]) < _CORRECTED
