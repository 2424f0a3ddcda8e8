"""SCIM 2.0 (RFC 7643, RFC 7644): filters, resources as plain dictionaries, and a client.

Owns the protocol alone. It knows no person, no database and no HTTP library: the client speaks through a port it is
given, the server stands on a store it is given, and a filter is compiled against attributes it is told of.

Entry points: `scim.filters.compile_predicate`, `scim.client.ScimClient`, `scim.server.Server`, `scim.dialects.Dialect`.
"""
