"""Pages: the portal, the HR, administration and audit consoles, and what signs people in.

Owns routes that answer HTML, the read-only queries behind lists, templates, static files and catalogues. Owns no rule:
who may do what is asked of `idhub.authority`, what changes goes through `idhub.lifecycle` and `idhub.delivery`.
Each route opens one transaction, closes it, then renders. Entry point: `routes.create_router(services)`.
"""
