"""The queue of deliveries, by its verbs.

`plan` stores effects with their change; a worker takes them by `lease`, sends them, and records by `settle` what came
back; `expire_leases` gives back what a silent worker held; `send_again`, `pause` and `resume` are for people.
"""

from idhub.delivery.holds import Hold, held_applications, holds, pause, resume
from idhub.delivery.leasing import lease
from idhub.delivery.planning import plan
from idhub.delivery.settling import expire_leases, send_again, send_dead_again, settle, settle_all
from idhub.delivery.wake import wake

__all__ = [
    "Hold",
    "expire_leases",
    "held_applications",
    "holds",
    "lease",
    "pause",
    "plan",
    "resume",
    "send_again",
    "send_dead_again",
    "settle",
    "settle_all",
    "wake",
]
