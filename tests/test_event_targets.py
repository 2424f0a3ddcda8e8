"""Events about a person, an application or a delivery are found by a column of their own: each of them fills it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import idhub
from audit.tables import TARGETS


def _recorded() -> Iterator[tuple[str, str, dict[str | None, ast.expr]]]:
    """(place, kind of target, arguments) of every call in the hub that names a target of such a kind."""
    root = Path(idhub.__file__).parent
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            kind = given.get("target_kind")
            if isinstance(kind, ast.Constant) and kind.value in TARGETS:
                yield f"{path.relative_to(root)}:{node.lineno}", kind.value, given


def test_a_target_that_has_a_column_of_its_own_stands_in_it() -> None:
    """Otherwise a search for the target would miss the event: `ix_audit_events_target` leaves these kinds out."""
    wrong = []
    seen = set()
    for place, kind, given in _recorded():
        seen.add(kind)
        column = given.get(TARGETS[kind].name)
        names = {ast.dump(node) for node in ast.walk(given["target_id"])}
        # `x or "unknown"` names x; a column that is `x if known else None` does too.
        if column is None or not any(ast.dump(node) in names for node in ast.walk(column) if _is_a_value(node)):
            wrong.append(place)
    assert not wrong
    assert seen == set(TARGETS)


def _is_a_value(node: ast.AST) -> bool:
    return isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load)
