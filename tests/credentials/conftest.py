"""Fixtures of the credential tests: the world of the OIDC tests, without its endpoints mattering."""

from tests.oidc.conftest import office, world

__all__ = ["office", "world"]
