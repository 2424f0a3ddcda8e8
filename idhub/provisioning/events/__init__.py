"""SCIM security events (RFC 9967): who is told of changes of people and groups, and what waits to be told.

A stream belongs to a SCIM token, and hears of whom that token may see. What is to be told is written in the transaction
that changes something, and stays until the receiver has it; `idhub.api.scim_push` sends it, `scim_poll` hands it out.
Owns the streams and their rows. Entry points: `feed.Feed` (what happened), `streams`, `waiting`.
"""
