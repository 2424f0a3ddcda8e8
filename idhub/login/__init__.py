"""Signing in: who is it, and what comes next.

Owns passwords (hashing, policy), throttling (whom a try counts against: `throttling`; how it is counted: `counters`;
whose address it has: `addresses`), one-time links, and the decision which step a sign-in takes next. Does not own
sessions, tokens or the use predicate (`idhub.credentials`), nor any page (`idhub.web.login`).

Entry points: `sign_in.prepare` and `sign_in.finish`, `invitations.invite` and `invitations.redeem`,
`passwords.HashingPool`, `flow.next_step`.
"""
