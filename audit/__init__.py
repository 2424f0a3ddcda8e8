"""The audit trail: what happened, in a form that nobody can change unnoticed.

Owns the typed catalogue of events and their canonical bytes (`audit.events`), the tables they are kept in
and the way in and out of them (`audit.trail`, `audit.search`, `audit.export`, `audit.retention`), the
RFC 9162 tree over them (`audit.merkle`, `audit.tiles`, `audit.sequencer`), signed checkpoints and their
witnesses (`audit.checkpoint`) and the stand-alone verifier (`audit.verify`, `audit.checker`).

Does not own keys (a `Sealer` and a `Signer` come in as arguments), the clock (`now` comes in), the directory
(events name people by id and outlive them), nor who may read what (`search` takes the allowed organizations).

This module imports nothing: `python -m audit.verify` needs the standard library and `cryptography` alone.
"""
