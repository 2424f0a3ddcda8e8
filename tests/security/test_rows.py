"""Each attack row is one test case: the tests that it names exist; what it says is absent is absent."""

import ast
from functools import cache
from pathlib import Path

import pytest

from idhub.oidc.grants import GRANT_TYPES
from idhub.oidc.metadata import metadata
from tests.security.hall import Hall
from tests.security.rows import ABSENT, ROWS
from tests.support.routes import methods_of

_ROOT = Path(__file__).resolve().parents[2]


@cache
def named_in(file: str) -> frozenset[str]:
    """Names of the test functions of a file."""
    tree = ast.parse((_ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("row", ROWS)
def test_row(row: str) -> None:
    """The tests that show the row are there; they fail when the row breaks."""
    shown = ROWS[row]
    assert shown.source and shown.what and shown.expected
    assert shown.shown_by
    for node in shown.shown_by:
        file, _, name = node.partition("::")
        assert name.startswith("test_")
        assert name in named_in(file), f"{row}: {node} is gone"


@pytest.mark.parametrize("row", ABSENT)
def test_absent_row(small_hall: Hall, row: str) -> None:
    """The row stays out as long as nothing of the kind exists; then it comes back as a row to be shown."""
    said = metadata(small_hall.stage.hub.settings.issuer)
    present = [
        *methods_of(small_hall.app), *GRANT_TYPES, *said, *said["token_endpoint_auth_methods_supported"],
    ]  # fmt: skip
    own = {"/account/sessions/end"}
    for sign in ABSENT[row].signs:
        found = [one for one in present if sign in one and one not in own]
        assert not found, f"{row} is due: {found}. {ABSENT[row].what}"


def test_no_row_stands_twice() -> None:
    assert not set(ROWS) & set(ABSENT)
