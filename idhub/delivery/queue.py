"""The queue of deliveries, by its verbs.

`plan` stores effects with their change; a worker takes them by `lease`, sends them, and records by `settle` what came
back; `expire_leases` gives back what a silent worker held; `retry_dead`, `pause` and `resume` are for people.
"""

from idhub.delivery.holds import Hold, held_applications, holds, pause, resume
from idhub.delivery.leasing import lease
from idhub.delivery.planning import plan
from idhub.delivery.settling import expire_leases, retry_all_dead, retry_dead, settle, settle_all
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
    "retry_all_dead",
    "retry_dead",
    "settle",
    "settle_all",
    "wake",
]
