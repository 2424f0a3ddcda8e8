"""Kept statements: the same answers, effects and errors as any other statement of the session."""

import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Integer, Select, bindparam, event, func, insert, literal, select, text, update
from sqlalchemy.exc import DataError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from idhub.db import Database, insert_rows, upsert_on
from idhub.directory.kinds import EmploymentState, EmploymentType, OrganizationKind, PrincipalKind, Standing
from idhub.directory.tables import Employment, Organization, Principal
from idhub.kept import _MOST_TEXTS, Kept, Planned, ahead, answered
from idhub.lifecycle.tables import Case, CaseNumber

NOW = datetime(2026, 11, 29, 10, 0, 0, 123456, tzinfo=UTC)
_IDS: Any = bindparam("ids", expanding=True)
_PEOPLE = select(Principal.id, Principal.standing, Principal.access_starts_at, Principal.access_ends_at)


@pytest.fixture
def people(database: Database) -> Database:
    """Three people with a post and a case each."""
    with database.transaction() as session:
        session.execute(
            insert(Organization).values(
                id="org_1", kind=OrganizationKind.GROUP, code="G", name="集团", time_zone="UTC", created_at=NOW
            )
        )
        for name in "abc":
            session.execute(
                insert(Principal).values(
                    id=name, kind=PrincipalKind.PERSON, organization_id="org_1", standing=Standing.ACTIVE,
                    access_epoch=1, enrolment_epoch=1, access_starts_at=NOW, version=1, created_at=NOW, changed_at=NOW,
                )
            )  # fmt: skip
            session.execute(
                insert(Employment).values(
                    id=f"emp_{name}", principal_id=name, organization_id="org_1", employee_number=name,
                    type=EmploymentType.REGULAR, state=EmploymentState.ACTIVE, starts_on=date(2026, 1, 2),
                    starts_at=NOW, title="50%s %(x)s ?", created_at=NOW, changed_at=NOW,
                )
            )  # fmt: skip
            session.execute(
                insert(Case).values(
                    id=f"cas_{name}", number=name, kind="leaver", principal_id=name, organization_id="org_1",
                    state="running", is_emergency=name == "a", effective_at=NOW, opened_at=NOW, opened_by="x",
                    plan={"ends": {name: None}}, ended={},
                )
            )  # fmt: skip
    return database


@pytest.mark.parametrize("wanted", [[], ["a"], ["c", "a"], ["a", "b", "c", "none"]])
@pytest.mark.parametrize(
    "statement",
    [
        _PEOPLE.where(Principal.id.in_(_IDS), Principal.kind == PrincipalKind.PERSON).order_by(Principal.id),
        select(Employment.principal_id, Employment.starts_on, Employment.ends_on, Employment.title)
        .where(Employment.principal_id.in_(_IDS), Employment.title.like("50%"))
        .order_by(Employment.id),
        select(Case.id, Case.plan, Case.is_emergency, Case.effective_at, func.lower(Case.state).label("state"))
        .where(Case.principal_id.in_(_IDS))
        .order_by(Case.id),
    ],
)
def test_it_answers_as_any_other_statement(
    people: Database, statement: Select[*tuple[Any, ...]], wanted: list[str]
) -> None:
    kept = Kept(statement)
    with people.read() as session:
        theirs = session.execute(statement, {"ids": wanted}).all()
        for _ in range(7):
            ours = kept.all(session, ids=wanted)
            assert [tuple(row) for row in ours] == [tuple(row) for row in theirs]
            assert [row._asdict() for row in ours] == [dict(row._mapping) for row in theirs]


def _suspend() -> Kept:
    return Kept(
        update(Principal)
        .where(Principal.id.in_(_IDS), Principal.access_starts_at <= bindparam("at"))
        .values(standing=bindparam("standing"), changed_at=bindparam("at"), version=Principal.version + 1)
        .returning(Principal.id, Principal.changed_at, Principal.version)
    )


def test_it_is_part_of_the_transaction(people: Database) -> None:
    kept, seen = _suspend(), Kept(_PEOPLE.where(Principal.standing == Standing.SUSPENDED))

    class Undone(Exception):
        pass

    def suspend(session: Session) -> None:
        changed = kept.all(session, ids=["a", "b"], at=NOW, standing=Standing.SUSPENDED)
        assert sorted(changed) == [("a", NOW, 2), ("b", NOW, 2)]
        assert sorted(session.scalars(select(Principal.id).where(Principal.version == 2))) == ["a", "b"]
        session.execute(update(Principal).where(Principal.id == "c").values(standing=Standing.SUSPENDED))
        assert sorted(seen.scalars(session)) == ["a", "b", "c"]

    with pytest.raises(Undone), people.transaction() as session:
        suspend(session)
        raise Undone
    with people.read() as session:
        assert seen.all(session) == []
    with people.transaction() as session:
        suspend(session)
    with people.read() as session:
        assert len(seen.all(session)) == 3


def test_each_set_of_values_is_written(people: Database) -> None:
    kept = Kept(update(Principal).where(Principal.id == bindparam("key")).values(access_ends_at=bindparam("ends")))
    for wanted in ([], ["a"], ["a", "b", "c"]):
        with people.transaction() as session:
            kept.each(session, [{"key": key, "ends": NOW} for key in wanted])
            ended = session.scalars(select(Principal.id).where(Principal.access_ends_at == NOW)).all()
            assert sorted(ended) == wanted


def test_it_is_made_for_each_database(people: Database) -> None:
    def next_number(dialect: str) -> Any:
        statement = upsert_on(dialect, CaseNumber).values(month=bindparam("month"), last=bindparam("last"))
        return statement.on_conflict_do_update(
            index_elements=["month"], set_={"last": CaseNumber.last + statement.excluded.last}
        ).returning(CaseNumber.last)

    kept = Kept(next_number)
    with people.transaction() as session:
        assert [kept.scalars(session, month="2026-11", last=n) for n in (1, 2, 3)] == [[1], [3], [6]]


def test_its_errors_are_those_of_any_statement(people: Database) -> None:
    kept = Kept(update(Principal).where(Principal.id == bindparam("key")).values(organization_id=bindparam("to")))
    with pytest.raises(IntegrityError) as refused, people.transaction() as session:
        kept.run(session, key="a", to="org_none")
        kept.run(session, key="b", to="org_1")
    assert refused.value.params is None, "values are not said"
    if people.dialect == "postgresql":
        assert getattr(refused.value.orig, "sqlstate", None) == "23503"
        with pytest.raises(ProgrammingError), people.read() as session:
            Kept(select(func.no_such_function(bindparam("x", type_=Principal.id.type)))).all(session, x="1")
    with people.transaction() as session:
        kept.run(session, key="a", to="org_1")


def test_a_value_that_is_not_given_is_a_defect(people: Database) -> None:
    with people.read() as session, pytest.raises(KeyError):
        Kept(_PEOPLE.where(Principal.id.in_(_IDS))).all(session)


@pytest.mark.parametrize("criterion", [Principal.id.not_in(_IDS), Principal.version.in_(_IDS)])
def test_lists_of_other_kinds_are_refused(people: Database, criterion: Any) -> None:
    """Written for an `IN` of texts; anything else must be looked at first."""
    with people.read() as session, pytest.raises(ValueError, match="lists of texts"):
        Kept(_PEOPLE.where(criterion)).all(session, ids=["a"])


_EACH_FIRST = """
import importlib, os, sys
import idhub.db, idhub.kept
from sqlalchemy.dialects import sqlite

failed = []
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        importlib.import_module(name)
        for module in [m for m in sys.modules.values() if m.__name__.startswith("idhub")]:
            for kept in [v for v in vars(module).values() if isinstance(v, idhub.kept.Kept)]:
                idhub.kept._Form(kept._make("sqlite"), sqlite.dialect())
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
print(*failed)
"""


def test_whichever_module_comes_first_every_statement_is_known_by_its_types() -> None:
    """A column that points to another has the type of that one, if its table is known when the statement is made."""
    root = Path(__file__).parent.parent
    files = [file.relative_to(root) for file in sorted((root / "idhub").rglob("*.py")) if "Kept(" in file.read_text()]
    names = [".".join(file.with_suffix("").parts) for file in files]
    done = subprocess.run([sys.executable, "-c", _EACH_FIRST, *names], capture_output=True, text=True, check=True)
    assert len(names) > 10
    assert done.stdout.split() == [], done.stderr


def test_whoever_listens_hears_it(people: Database) -> None:
    heard: list[tuple[str, Any]] = []

    @event.listens_for(people.engine, "before_cursor_execute")
    def hear(_connection: Any, _cursor: Any, text: str, values: Any, _context: Any, _many: bool) -> None:
        heard.append((text, values))

    with people.read() as session:
        heard.clear()
        Kept(_PEOPLE.where(Principal.id.in_(_IDS))).all(session, ids=["a", "b"])
        ((text, values),) = heard
        assert text.startswith("SELECT principals.id")
        assert len(session.connection().exec_driver_sql(text, values).all()) == 2


_MOVE = Kept(update(Principal).where(Principal.id == bindparam("key")).values(organization_id=bindparam("to")))
_NAMED = Kept(select(Principal.id).where(Principal.organization_id == bindparam("org")).order_by(Principal.id))


def test_what_is_written_ahead_is_seen_by_every_read(people: Database) -> None:
    """By kept statements, by SQLAlchemy's own, by COPY, and after the block."""
    suspend = Kept(update(Principal).where(Principal.id == bindparam("key")).values(standing=Standing.SUSPENDED))
    suspended = select(Principal.id).where(Principal.standing == Standing.SUSPENDED).order_by(Principal.id)
    kept = Kept(suspended)
    with people.transaction() as session, ahead(session):
        suspend.run(session, key="a")
        first = kept.ask(session)
        suspend.run(session, key="b")
        second = kept.ask(session)
        assert [row.id for row in second.rows()] == ["a", "b"]
        assert [row.id for row in first.rows()] == ["a"], "each sees what was asked before it"
        suspend.run(session, key="c")
        assert session.scalars(suspended).all() == ["a", "b", "c"]
        suspend.run(session, key="c")
        rows = [(f"202-{n:03}", n) for n in range(70)]
        insert_rows(session, CaseNumber, ("month", "last"), rows[:31])
        insert_rows(session, CaseNumber, ("month", "last"), rows[31:])
        assert session.scalar(select(func.count()).select_from(CaseNumber)) == 70
    with people.read() as session:
        assert session.scalars(suspended).all() == ["a", "b", "c"]
        assert session.execute(select(CaseNumber.month, CaseNumber.last).order_by(CaseNumber.month)).all() == rows


@pytest.mark.parametrize("then", ["nothing", "a read", "a statement of SQLAlchemy's", "many rows", "a flush"])
def test_a_statement_that_failed_ahead_is_told_by_whoever_waits(people: Database, then: str) -> None:
    """As the error that it is, whatever was sent behind it; and nothing of the transaction stands."""
    with pytest.raises(IntegrityError) as refused, people.transaction() as session, ahead(session):
        _MOVE.run(session, key="b", to="org_1")
        _MOVE.run(session, key="a", to="org_none")
        _MOVE.run(session, key="c", to="org_1")
        if then == "a read":
            _NAMED.all(session, org="org_1")
        elif then == "a statement of SQLAlchemy's":
            session.execute(select(Principal.id)).all()
        elif then == "many rows":
            insert_rows(session, CaseNumber, ("month", "last"), [(f"202-{n:03}", n) for n in range(70)])
        elif then == "a flush":
            answered(session)
        else:
            insert_rows(session, CaseNumber, ("month", "last"), [("2026-11", 1)])
    assert refused.value.params is None, "values are not said"
    with people.transaction() as session:
        assert _NAMED.scalars(session, org="org_1") == ["a", "b", "c"]
        assert session.scalar(select(func.count()).select_from(CaseNumber)) == 0
        _MOVE.run(session, key="a", to="org_1")


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_refusal_does_not_hide_a_statement_that_failed_ahead(people: Database) -> None:
    """Whoever takes a refusal for a result and commits would believe that the transaction stands."""

    class Refused(Exception):
        pass

    with pytest.raises(IntegrityError), people.transaction() as session, ahead(session):
        _MOVE.run(session, key="a", to="org_none")
        raise Refused


def test_a_refusal_keeps_what_was_written_ahead(people: Database) -> None:
    class Refused(Exception):
        pass

    with people.transaction() as session, pytest.raises(Refused), ahead(session):
        Kept(update(Principal).values(standing=Standing.SUSPENDED)).run(session)
        raise Refused
    with people.read() as session:
        assert session.scalars(select(Principal.id).where(Principal.standing == Standing.ACTIVE)).all() == []


def test_an_error_that_is_caught_is_told_once(people: Database) -> None:
    with people.transaction() as session:
        with ahead(session), pytest.raises(IntegrityError):
            _MOVE.run(session, key="a", to="org_none")
            answered(session)
        session.rollback()
    with people.transaction() as session, ahead(session):
        assert _NAMED.scalars(session, org="org_1") == ["a", "b", "c"]


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_connection_that_is_lost_ahead_is_given_up(people: Database) -> None:
    with pytest.raises(OperationalError) as lost, people.transaction() as session, ahead(session):
        _MOVE.run(session, key="a", to="org_1")
        (backend,) = Kept(select(func.pg_backend_pid())).scalars(session)
        with people.engine.connect() as other:
            other.exec_driver_sql(f"SELECT pg_terminate_backend({backend})")
            other.commit()
        for _ in range(100):
            _MOVE.run(session, key="b", to="org_1")
        _NAMED.all(session, org="org_1")
    assert lost.value.connection_invalidated
    with people.transaction() as session, ahead(session):
        assert _NAMED.scalars(session, org="org_1") == ["a", "b", "c"]


_TITLE = Kept(update(Employment).where(Employment.principal_id == bindparam("key")).values(title=bindparam("title")))
_KEPT_READY = text("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'UPDATE employments SET title%'")


@pytest.mark.parametrize(
    "title",
    ["", "王磊", "a\\b", '"{},NULL', "$1 %s %% %(x)s ?", "line\nline", None],
    ids=lambda title: repr(title)[:20],
)
def test_texts_arrive_as_they_are(people: Database, title: str | None) -> None:
    found = Kept(select(Employment.title).where(Employment.title.in_(bindparam("titles", expanding=True))))
    with people.transaction() as session, ahead(session):
        _TITLE.run(session, key="a", title=title)
        assert session.scalar(select(Employment.title).where(Employment.principal_id == "a")) == title
        assert found.scalars(session, titles=[title or "", "none"]) == ([] if title is None else [title])


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_text_that_would_end_early_is_refused(people: Database) -> None:
    """libpq takes texts up to their first NUL; nothing shortened may be stored, nor found."""
    with pytest.raises(DataError), people.transaction() as session, ahead(session):
        _TITLE.run(session, key="a", title="plant\0manager")
    with people.transaction() as session:
        with pytest.raises(DataError):
            _NAMED.all(session, org="org_1\0")
        with pytest.raises(DataError):
            Kept(_PEOPLE.where(Principal.id.in_(_IDS))).all(session, ids=["a\0"])
        assert session.scalar(select(Employment.title).where(Employment.principal_id == "a")) == "50%s %(x)s ?"


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_value_without_a_form_is_refused(people: Database) -> None:
    with people.transaction() as session:
        with pytest.raises(ProgrammingError, match="cannot adapt"):
            insert_rows(session, CaseNumber, ("month", "last"), [("2026-11", object())])
        insert_rows(session, CaseNumber, ("month", "last"), [("2026-11", 1)])


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize("forgets", [True, False])
def test_statements_are_kept_ready_whatever_a_rollback_forgets(people: Database, forgets: bool) -> None:
    """With a rollback the driver has the server forget every statement, if it knows of one itself."""
    with people.engine.connect() as connection, Session(connection) as session:
        driver: Any = connection.connection.driver_connection
        for place in range(3):
            with pytest.raises(IntegrityError), ahead(session):
                _TITLE.run(session, key="a", title=f"plant {place}")
                _MOVE.run(session, key="a", to="org_none")
                _NAMED.all(session, org="org_1")
            if forgets:
                driver.rollback()
                driver.execute("SELECT 1", prepare=True)
            session.rollback()
            assert _NAMED.scalars(session, org="org_1") == ["a", "b", "c"]
            _TITLE.run(session, key="a", title=f"manager {place}")
            assert session.scalar(select(Employment.title).where(Employment.principal_id == "a")) == f"manager {place}"
            session.commit()
            assert session.scalar(_KEPT_READY) == 1


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_savepoint_that_is_taken_back_forgets_no_statement(people: Database) -> None:
    """What is previewed is done and taken back: to the driver that too is a rollback."""
    with people.transaction() as session:
        driver: Any = session.connection().connection.driver_connection
        for place in range(3):
            driver.execute("SELECT 1", prepare=True)
            with session.begin_nested() as savepoint:
                assert _NAMED.scalars(session, org="org_1") == ["a", "b", "c"]
                _TITLE.run(session, key="a", title="preview")
                savepoint.rollback()
            _TITLE.run(session, key="a", title=f"manager {place}")
        assert session.scalar(select(Employment.title).where(Employment.principal_id == "a")) == "manager 2"


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize("by", ["a flush", "a read"])
def test_a_statement_behind_one_that_failed_is_not_taken_for_kept_ready(people: Database, by: str) -> None:
    """The transaction goes on from a savepoint, and with it the connection."""
    with people.transaction() as session, ahead(session):
        savepoint = session.begin_nested()
        _MOVE.run(session, key="a", to="org_none")
        _TITLE.run(session, key="a", title="plant manager")
        with pytest.raises(IntegrityError):
            if by == "a flush":
                answered(session)
            _NAMED.all(session, org="org_1")
        savepoint.rollback()
        for title in ("manager", "plant manager"):
            _TITLE.run(session, key="a", title=title)
            assert session.scalar(select(Employment.title).where(Employment.principal_id == "a")) == title


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_more_than_the_connection_takes_at_once_is_sent_and_answered(people: Database) -> None:
    """The server stops reading while nobody reads what it answers."""
    echo = Kept(select(literal("x" * 1_000).concat(bindparam("more", type_=Employment.title.type)).label("said")))
    with people.transaction() as session, ahead(session):
        asked = [echo.ask(session, more="y" * 100_000) for _ in range(200)]
        assert all(len(one.rows()[0].said) == 101_000 for one in asked)


_FIRST: Any = (
    select(Principal.id, Principal.standing, Principal.access_starts_at, func.coalesce(Principal.owner_id, "none"))
    .where(Principal.id >= bindparam("reached"), Principal.standing.in_([Standing.ACTIVE, Standing.STAGED]))
    .order_by(Principal.id)
    .limit(bindparam("some", type_=Integer, literal_execute=True))
)
_PLANNED = text("SELECT name FROM pg_prepared_statements WHERE statement LIKE '%principals.standing%'")


@pytest.mark.parametrize("some", [0, 1, 3])
@pytest.mark.parametrize("reached", ["", "b", "z"])
@pytest.mark.parametrize("keeps_plans", [True, False])
def test_planned_statement_finds_what_the_statement_finds(
    people: Database, reached: str, some: int, *, keeps_plans: bool
) -> None:
    planned, given = Planned(_FIRST), {"reached": reached, "some": some, "unasked": "x"}
    with people.read(keeps_plans=keeps_plans) as session:
        first, again = planned.all(session, given), planned.all(session, given)
        expected = session.execute(_FIRST, given).all()

    assert [tuple(row) for row in first] == [tuple(row) for row in expected]
    assert list(first) == list(again)


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_planned_statement_is_kept_ready_with_few_numbers_in_its_text_and_answers_any(people: Database) -> None:
    planned, found = Planned(_FIRST), []
    for _ in range(2):
        for some in range(9):
            with people.read(keeps_plans=True) as session:
                found.append(len(planned.all(session, {"reached": "", "some": some})))
    with people.read(keeps_plans=True) as session:
        # The driver keeps others, by its own rules.
        ours = [name for name in session.execute(_PLANNED).scalars() if name.startswith("idhub_")]

    assert (found, len(ours)) == ([0, 1, 2, 3, 3, 3, 3, 3, 3] * 2, _MOST_TEXTS)


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_planned_statement_is_planned_for_its_values_outside_a_snapshot_that_keeps_plans(people: Database) -> None:
    planned = Planned(_FIRST)
    for _ in range(3):
        with people.read() as session:
            planned.all(session, {"reached": "", "some": 1})
            assert session.execute(_PLANNED).all() == []
        with people.transaction() as session:
            planned.all(session, {"reached": "", "some": 1})
            assert session.execute(_PLANNED).all() == []


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_planned_statement_after_a_snapshot_that_was_rolled_back(people: Database) -> None:
    """The driver may have the server forget what is kept ready."""
    planned = Planned(_FIRST)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), people.read(keeps_plans=True) as session:
            planned.all(session, {"reached": "", "some": 1})
            raise ZeroDivisionError
        with people.transaction() as session:
            session.execute(select(1))
            session.rollback()

    with people.read(keeps_plans=True) as session:
        assert [row.id for row in planned.all(session, {"reached": "", "some": 2})] == ["a", "b"]


@pytest.mark.parametrize("keeps_plans", [True, False])
def test_planned_statement_that_fails_raises_as_any_other(people: Database, *, keeps_plans: bool) -> None:
    wrong: Any = select(Principal.id, text("nothing")).where(Principal.id == bindparam("which"))
    with people.read(keeps_plans=keeps_plans) as session, pytest.raises((ProgrammingError, OperationalError)):
        Planned(wrong).all(session, {"which": "a"})


_WHO: Any = select(Principal.id).where(Principal.id == bindparam("which"))


def test_what_is_asked_as_a_snapshot_begins_is_answered_once_and_only_for_the_same_values(people: Database) -> None:
    planned, asked = Planned(_WHO), {"which": "a"}
    with people.read(keeps_plans=True, first=planned.first(asked)) as session:
        assert [row.id for row in planned.all(session, {"which": "b"})] == ["b"]
        assert [row.id for row in planned.all(session, asked)] == ["a"]
    with people.read(keeps_plans=True, first=planned.first(asked)) as session:
        assert [row.id for row in planned.all(session, {"which": "a"})] == ["a"]
    with people.read(keeps_plans=True) as session:
        assert [row.id for row in planned.all(session, {"which": "b"})] == ["b"], "nothing is left of it"


def test_an_answer_that_nobody_took_is_not_that_of_the_next_snapshot(people: Database) -> None:
    planned, asked = Planned(select(Principal.standing).where(Principal.id == bindparam("which"))), {"which": "a"}
    with people.read(keeps_plans=True, first=planned.first(asked)):
        pass
    with people.transaction() as session:
        session.execute(update(Principal).where(Principal.id == "a").values(standing="left"))
        assert planned.all(session, asked)[0].standing == "left"
    with people.read(keeps_plans=True) as session:
        assert planned.all(session, asked)[0].standing == "left"


def test_what_is_asked_as_a_snapshot_begins_sees_what_the_rest_of_it_sees(people: Database) -> None:
    planned, asked = Planned(select(Principal.standing).where(Principal.id == bindparam("which"))), {"which": "a"}
    with people.read(keeps_plans=True, first=planned.first(asked)) as session:
        before = planned.all(session, asked)[0].standing
        with people.transaction() as other:
            other.execute(update(Principal).where(Principal.id == "a").values(standing="left"))
        assert planned.all(session, asked)[0].standing == before != "left"
