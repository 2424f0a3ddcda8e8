"""CAS 3: sign-in, validation of tickets and Single Logout for applications that speak nothing newer.

Owns the protocol: its requests, answers, and the message that tells of a logout. Does not own tickets
(`idhub.credentials.tickets`), the way of a person into an application (`idhub.entry`), registrations
(`idhub.access.cas_services`) or pages (`idhub.web`).

Entry points: `routes.create_router` (what browsers and applications call), `channel` and `planner` (logout by the
worker).
"""
