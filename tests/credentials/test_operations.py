"""Operations run in step: what both ask is asked together, and each gets what it asked for."""

from typing import Any

from idhub.credentials.operations import TOGETHER, Operation, Step, both, together


def asking(*names: str) -> Operation[list[Any]]:
    """Asks for one after another; returns what it got."""
    got = []
    for name in names:
        got.append((yield name, {}))
    return got


def several(*names: str) -> Operation[Any]:
    """Asks for all at once; returns what it got."""
    return (yield together(*((name, {}) for name in names)))


def run(operation: Operation[Any]) -> tuple[Any, list[list[str]]]:
    """Answer each with its own name; what came of it, and what was asked in each exchange."""
    exchanges: list[list[str]] = []
    answer: Any = None
    while True:
        try:
            name, parameters = operation.send(answer)
        except StopIteration as stop:
            return stop.value, exchanges
        steps: tuple[Step, ...] = parameters["steps"] if name == TOGETHER else ((name, {}),)
        exchanges.append([step[0] for step in steps])
        answer = exchanges[-1] if name == TOGETHER else name


def test_what_both_ask_is_asked_together_until_one_has_ended() -> None:
    result, exchanges = run(both(asking("a", "b", "c"), asking("x")))
    assert result == (["a", "b", "c"], ["x"])
    assert exchanges == [["a", "x"], ["b"], ["c"]]


def test_one_that_asks_for_several_gets_them_beside_the_other() -> None:
    result, exchanges = run(both(several("a", "b"), both(asking("x"), several("y", "z"))))
    assert result == (["a", "b"], (["x"], ["y", "z"]))
    assert exchanges == [["a", "b", "x", "y", "z"]]


def test_one_that_asks_for_nothing_is_no_exchange() -> None:
    assert run(both(asking(), asking())) == (([], []), [])
    assert run(both(asking(), asking("x", "y"))) == (([], ["x", "y"]), [["x"], ["y"]])
