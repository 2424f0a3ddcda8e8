"""How many examples random tests draw: few in `make test`, many where somebody asks for them."""

import os

_TIMES = "SCIM_PROOF_TIMES"


def times(examples: int) -> int:
    """So many examples, or as many times more as the environment says (`make scim-proof`)."""
    return examples * int(os.environ.get(_TIMES, "1"))
