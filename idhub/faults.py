"""Fault points: the moments around every commit and every send, at which a test may stop the process.

Every write transaction, on either speed, and every outbound request passes `at`; nobody places points by hand. What
happens there is `act`, which is None: nothing in this project sets it, no setting, variable or request reaches it. The
fault tests do, in a process that they start themselves (`tests/support/nursery.py`).
"""

from collections.abc import Callable
from typing import Literal

Moment = Literal["commit.before", "commit.after", "send.before", "send.after"]

act: Callable[[Moment], None] | None = None


def at(moment: Moment) -> None:
    """Pass a fault point."""
    if act is not None:
        act(moment)
