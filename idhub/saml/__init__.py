"""SAML 2.0 identity provider: sign-in and logout for service providers.

Owns the protocol: requests, their ordered checks, assertions, metadata, Single Logout on both channels. Does not own
messages on the wire (`providers.saml_wire`), sessions and what joins them (`idhub.credentials`), sign-in
(`idhub.login`), registrations (`idhub.access.service_providers`) or pages (`idhub.web`).

Entry points: `routes.create_router` (what browsers and service providers call), `channel` and `planner` (logout by the
worker), `refresh` (metadata that is read again).
"""
