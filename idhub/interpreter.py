"""Which Python this is: how it was built decides what each request costs.

Also a program: `.ci/environment` asks it, before anything is installed, which of several interpreters to take. So it
imports the standard library alone.

    python -P idhub/interpreter.py

It prints what it found. Exit status 0: built with profile-guided optimisation; 3: without; 1: nothing for the hub.
"""

import platform
import sys
import sysconfig
from importlib.util import find_spec
from typing import Final

LEAST: Final = (3, 11)
_PLAIN: Final = 3


def is_optimised() -> bool:
    """Whether it was built with profile-guided optimisation; without it requests take up to a fifth longer.

    Distributions build theirs so and do not say it; who builds CPython says it to `configure`.
    """
    return sys.base_prefix == "/usr" or "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")


def described() -> str:
    """Implementation, version and build, for people: "CPython 3.11.2, optimised"."""
    plain = "built without profile-guided optimisation: requests take up to a fifth longer"
    how = "optimised" if is_optimised() else plain
    return f"{platform.python_implementation()} {platform.python_version()}, {how}"


def _main() -> int:
    if sys.version_info < LEAST or not (find_spec("pip") or find_spec("ensurepip")):
        return 1
    print(described())
    return 0 if is_optimised() else _PLAIN


if __name__ == "__main__":
    sys.exit(_main())
