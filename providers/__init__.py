"""Upstream sources of identity and of sign-in, as a spoke.

Owns: talking to a source (the HR file, a company's SAML identity provider) and turning what it says into typed values;
SAML on the wire, for both of its sides. Does not own: what becomes of what was said. Nothing here knows people,
standing, the database or the hub; a spoke imports neither the hub nor another spoke.

Entry points: `providers.hr_file.HrFile`, `providers.saml`, `providers.saml_wire`; errors, and the proof that a source
was read whole, in `providers.base`.
"""
