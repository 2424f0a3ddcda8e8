"""Accounts in applications, over SCIM: what they should be, how they are made so, and how that is proven.

Owns the mapping of a person to a SCIM user, the plan of a transition's SCIM deliveries, and the channel that sends
them. Owns no table: accounts and targets are `access`'s, deliveries are `delivery`'s.
Entry points: `planner.ScimPlanner`, `outbound.ScimChannel`.
"""
