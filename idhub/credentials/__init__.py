"""Sessions, grants, codes, tokens, and the one predicate that says whether any of them may be used.

Owns those tables. Entry points: `predicate` (may it be used now), `sessions`, `store` (the narrow store of the fast
endpoints), `revoke` (what a lifecycle transition ends).
"""
