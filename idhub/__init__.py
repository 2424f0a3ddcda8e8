"""idhub: the hub of the identity hub.

Owns the directory, sign-in, credentials, entitlements, deliveries and the lifecycle that binds them. It imports the
spokes (`providers`, `scim`, `audit`); no spoke imports it. Start reading at `idhub.app` (how everything is composed)
and `idhub.lifecycle.transition` (the one door through which a principal's standing changes).
"""

from idhub.sqlite_library import count_no_memory

__version__ = "0.1.0"

# Before any module of ours takes hold of SQLite.
count_no_memory()
