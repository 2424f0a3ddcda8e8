"""Fixtures of the audit spoke's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.audit.support import Trail


@pytest.fixture
def trail(database_url: str, tmp_path: Path) -> Iterator[Trail]:
    """An empty trail on SQLite and on PostgreSQL."""
    made = Trail(database_url, tmp_path)
    try:
        yield made
    finally:
        made.engine.dispose()


@pytest.fixture
def sqlite_trail(tmp_path: Path) -> Iterator[Trail]:
    """An empty trail on SQLite alone, for what the database does not matter to."""
    made = Trail(f"sqlite:///{tmp_path / 'trail.db'}", tmp_path)
    try:
        yield made
    finally:
        made.engine.dispose()
