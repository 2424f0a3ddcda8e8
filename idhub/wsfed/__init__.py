"""WS-Federation 1.2, passive requestor profile: sign-in and sign-out for older applications.

Owns the form of request and answer: parameters, the token response, metadata, sign-out. Everything between them is
SAML's (`idhub.saml`): relying parties are registered beside service providers, a sign-in goes the same way, the token
is its assertion, signed with the same key under the same issuer; sessions, receipts and the logout that a browser
carries know no difference.

Entry point: `routes.create_router`.

OASIS WS-Federation 1.2 section 13.
"""
