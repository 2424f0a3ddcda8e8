"""OpenID Connect provider and OAuth 2.0 authorization server.

Owns the protocol: requests, client authentication, grants, claims, tokens, metadata, RP-initiated logout. Does not own
sessions, codes and tokens themselves (`idhub.credentials`), sign-in (`idhub.login`), pages (`idhub.web`) or telling
applications of a logout (`idhub.signals`).

Entry points: `routes.create_router` (browser endpoints, plain FastAPI) and `front.create_hot` (endpoints that machines
call at high rate, raw ASGI on the narrow store). Each says by a protocol which services it needs.
"""
