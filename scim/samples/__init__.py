"""Service providers to try a client on: a good one in memory, and others that are broken on purpose."""
