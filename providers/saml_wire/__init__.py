"""SAML 2.0 on the wire: hardened parsing, bindings, XML signatures, metadata. For both roles; decides nothing.

Owns how a message is read and written. Does not own what a message may ask for (`idhub.saml`), keys or tables: keys are
handed in, and only those of the partner's metadata are ever used; what a message says of its own key is not read.

Entry points: `parsing.parse`, `bindings` (Redirect, POST, SOAP), `artifacts`, `signatures.sign` and `verify`,
`metadata`.
"""
