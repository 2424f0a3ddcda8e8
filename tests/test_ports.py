"""Ports of the demo and of the tests: nobody else gets one, also while its server is down for a moment."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

from idhub.demo.processes import free_port

_LOOKS = "from idhub.demo.processes import free_port; print(*[free_port() for _ in range(40)], flush=True); input()"


def test_several_who_look_at_once_get_different_ports_and_no_outgoing_connection_takes_one() -> None:
    command = [sys.executable, "-c", _LOOKS]
    others = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
        )
        for _ in range(3)
    ]
    try:
        taken = Counter(free_port() for _ in range(40))
        for other in others:
            assert other.stdout is not None
            taken.update(map(int, other.stdout.readline().split()))
    finally:
        for other in others:
            other.communicate("\n", timeout=30)
    assert (len(taken), taken.most_common(1)[0][1]) == (160, 1)
    assert max(taken) < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def test_ports_are_given_anew_when_all_were() -> None:
    assert len({free_port() for _ in range(300)}) < 100
