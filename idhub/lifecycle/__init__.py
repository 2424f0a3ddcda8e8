"""Joiner, mover, leaver: the one door through which standing changes, and the proof of what followed.

Owns transitions, cases, plans and receipts. Knows applications' channels only through `delivery.channel` and
participants through `lifecycle.ports`; `idhub.app` registers them.
Entry points: `intake` (validated wishes), `rules` (pure decisions), `transition` (the one door), `receipts`.
"""
