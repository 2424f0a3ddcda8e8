"""Accounts in applications, over SCIM: what they should be, how they are made so, and how that is proven.

`outbound` owns the mapping of a person to a SCIM user, the plan of a transition's SCIM deliveries, and the channel that
sends them; accounts and targets are `access`'s, deliveries are `delivery`'s. `reconcile` compares what applications
really hold with what they should. `inbound` owns the store of the SCIM server and its tables: how senders name people
and groups, and what the directory has no place for.
Entry points: `outbound.planner.ScimPlanner`, `outbound.channel.ScimChannel`, `inbound.store.DirectoryStore`,
`reconcile`.
"""
