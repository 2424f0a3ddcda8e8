"""How well a service provider speaks SCIM: named checks, each with its section, over an HTTP port that it is given.

Owns the checks and the grade that follows from them; not the commands around it, nor how receivers of logout and event
tokens are graded (`idhub.signals.certify`, in the same terms).

Makes users and groups of its own, whose names begin with `idhub-certify-`, and removes them. Changes nothing else. A
check that rests on another which failed says so instead of failing with it, so that a fault has one name.

Entry points: `certify` (asks every check) and the `Certificate` that it returns.
"""

from scim.certify.checks import CHECKS
from scim.certify.run import certify
from scim.certify.verdicts import Certificate, Check, Result

__all__ = ["CHECKS", "Certificate", "Check", "Result", "certify"]
