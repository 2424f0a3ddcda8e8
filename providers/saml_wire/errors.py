"""What is wrong with a message."""


class WireError(Exception):
    """A message that cannot be used.

    Args:
        reason: stable code for the audit log (`xml.dtd`, `signature.missing`), which tests compare.
        description: one sentence for whoever runs the other side; holds nothing of the message itself.
    """

    def __init__(self, reason: str, description: str) -> None:
        super().__init__(f"{reason}: {description}")
        self.reason = reason
        self.description = description
