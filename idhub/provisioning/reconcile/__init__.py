"""What applications hold against what they should: drift, orphans, duplicates, ghosts.

Owns: the streamed three-way compare (desired, last known, actual), the match with the register of people and with a
payroll file, findings with their states, and what is done about them under the mass-change brake. Does not own: how a
service is read (`scim.listing`), how an account is switched off (`provisioning.outbound.channel`, through the delivery
lanes), or who works here (`lifecycle`).

Entry points: `run.reconcile` (one application), `payroll.match` and `register.check`, `findings` (decide, list),
`remedy` (preview, act, release).
"""
