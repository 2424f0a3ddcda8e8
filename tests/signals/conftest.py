"""A hub with relying parties that can be told of logouts."""

from tests.delivery.conftest import hub

__all__ = ["hub"]
