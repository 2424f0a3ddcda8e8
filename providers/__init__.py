"""Upstream sources of identity and of sign-in, as a spoke.

Owns: talking to a source (today the HR file) and turning what it says into typed records with the place each came from.
Does not own: what becomes of a record. Nothing here knows people, standing, the database or the hub; a spoke imports
neither the hub nor another spoke (design, section 6).

Entry points: `providers.hr_file.HrFile`; the protocols of a source in `providers.base`.
"""
