"""Sessions, grants, codes, tokens, and the one predicate that says whether any of them may be used.

Owns those tables. Does not own protocols: it knows no OAuth error and no HTTP.

Entry points: `predicate` (may it be used now), `sessions` (SSO sessions), `transactions` (sign-ins in progress),
`codes` (an application joins a session), `spending` (tokens issued and spent) on `store` (the narrow store of the hot
endpoints), `revoke` (what a lifecycle transition ends), `opaque` (values), `purge`.
"""
