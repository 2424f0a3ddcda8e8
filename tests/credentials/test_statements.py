"""Statements that come later: threads that ask for them at once all get them."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Executable, literal, select
from sqlalchemy.dialects import sqlite

from idhub.credentials import statements


def test_first_questions_at_once_skip_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that two take at once would count as two, and the one behind it would never be taken."""
    taken: list[str] = []
    never = threading.Event()

    def slow(_: bool) -> Mapping[str, Executable]:
        taken.append("slow")
        # Long enough for the others to come in as well, if nothing keeps them out.
        never.wait(0.1)
        return {"first": select(literal(1))}

    def last(_: bool) -> Mapping[str, Executable]:
        taken.append("last")
        return {"last": select(literal(2))}

    monkeypatch.setattr(statements, "_SOURCES", [slow, last])
    made = statements._Statements(sqlite.dialect(paramstyle="qmark"), True)
    start = threading.Barrier(4)

    def ask() -> str:
        start.wait(20)
        return made["last"].sql

    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(ask) for _ in range(4)]
        assert len({answer.result(20) for answer in answers}) == 1
    assert taken == ["slow", "last"]
    with pytest.raises(KeyError):
        made["unknown"]
