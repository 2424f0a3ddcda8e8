"""What is sent to applications: mapping, plan, channel, groups, adoption, runs over all accounts.

Entry points: `planner.ScimPlanner`, `channel.ScimChannel`, `upkeep` (what the worker does by the hour).
"""
