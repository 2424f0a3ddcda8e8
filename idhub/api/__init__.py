"""Administration from outside the pages: the REST API under `/api/v1`, and configuration as code.

Owns the shapes of requests and answers and their checks; every act goes through `lifecycle.commands` or
`access.applications`, and is asked of `authority.authorize`. Entry points: `routes`, `configuration`.
"""
