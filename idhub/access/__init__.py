"""What people get into: applications, entitlements with their reasons, birthright rules, accounts.

Owns those tables, the reading of them, and the pure evaluation of rules. Entitlements of people are written by
`idhub.lifecycle.transition`, which calls `access.entitlements`. Entry points: `applications`, `rules`, `entitlements`.
"""
