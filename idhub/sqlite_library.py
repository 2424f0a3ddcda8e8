"""How SQLite's library is set, which can be said only before anything of it is used."""

import ctypes
import importlib.util

_CONFIG_MEMSTATUS = 9


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
