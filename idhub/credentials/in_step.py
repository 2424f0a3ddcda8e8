"""Operations of a group, run in step on one connection to PostgreSQL.

Each goes on to the next thing it asks of the database, and all then ask in one exchange (`idhub.credentials.pinned`).
What can be written together is kept until the end of their transaction: deferred rows, events, counters. To each other
they are what transactions at the same moment are, between which the rules hold already: every claim is one conditional
statement, every look at a principal is locked.

Who shares a group with whom, what becomes of one that broke and where connections come from is `store_postgres`'s.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from audit.events import Event
from audit.personal import Sealer
from audit.trail import event_rows
from idhub import faults
from idhub.credentials.operations import (
    AFTERWARDS,
    DEFERRED,
    DURABLE,
    HELD,
    HOLD,
    LOCK,
    LOCKS,
    RECORD,
    TOGETHER,
    VOLATILE,
    Operation,
    Row,
    Step,
)
from idhub.credentials.pinned import BEGIN, COMMIT, WITHOUT_DISK, Lost, Pinned, Question
from idhub.credentials.statements import AT_ONCE, Statement

_COUNTERS: Final = "throttle."
Begun = tuple[Operation[Any], Step | None]
"""An operation, and what it has asked already; None: it has not begun."""


class CommitUnknown(Lost):
    """The connection broke while committing: whether it did is not known, so it must not be tried again."""


LOCKED_OUT: Final = object()
"""Outcome of an operation that met what somebody else has locked: it has written nothing, and comes again."""
_Lock = tuple[str, str]
"""Statement of `LOCKS`, and what it locks by."""


class _Group:
    """One transaction of several operations: what can be written together at its end is kept until then."""

    def __init__(self, begin: Sequence[Question]) -> None:
        self.begin = begin
        """What begins it."""
        self.events: list[Event] = []
        self.deferred: list[Question] = []
        self.has_begun = False
        """The database was asked something; until then there is nothing to roll back."""
        self.locked: set[str] = set()
        """Principals that this transaction has locked, until its end."""
        self.taken: set[_Lock] = set()
        """What one of its operations has locked for itself: to another that is as if another transaction had."""
        self.to_hold: set[str] = set()
        """Keys of counters that are about to be changed."""
        self.afterwards: list[Step] = []
        """Of `AFTERWARDS`."""
        self.holds_counters = False
        """It has counted a try, and keeps others from those counters until its end."""
        self.writes_volatile = False
        self.writes_lasting = False

    @property
    def is_volatile(self) -> bool:
        """It has written, and nothing but what may be lost with a database that crashes."""
        return self.writes_volatile and not self.writes_lasting


class _Turn:
    """What one operation asks before it can go on."""

    def __init__(self, place: int, operation: Operation[Any], first: Step | None = None) -> None:
        self.place = place
        self.operation = operation
        self._first = first
        """What it has asked already."""
        self.rows: Any = None
        self.questions: list[Question] = []
        self.locking: list[_Lock | None] = []
        """Of each question, what it locks."""
        self._answers: list[int | None] = []
        """Of each step, its question; None: it needed none."""
        self._is_together = False

    def go_on(self, file: Callable[[Step], tuple[Question, _Lock | None] | None]) -> None:
        """Run the operation until the database is asked.

        Args:
            file: of a step, what the database is asked; None: nothing, it has been seen to.

        Raises:
            StopIteration: the operation has ended; its value is the outcome.
        """
        while True:
            step, self._first = self._first or self.operation.send(self.rows), None
            self._is_together = step[0] == TOGETHER
            steps = step[1]["steps"] if self._is_together else (step,)
            self.questions, self.locking, self._answers = [], [], []
            for one in steps:
                asked = file(one)
                if asked is None:
                    self._answers.append(None)
                    continue
                self._answers.append(len(self.questions))
                self.questions.append(asked[0])
                self.locking.append(asked[1])
            if self.questions:
                return
            self.rows = [()] * len(steps) if self._is_together else ()

    def take(self, answers: Sequence[Sequence[Row]]) -> None:
        """Take the answers to the questions."""
        found = [() if place is None else answers[place] for place in self._answers]
        self.rows = found if self._is_together else found[0]


class InStep:
    """Runs operations on a connection that it is given. Keeps nothing between them."""

    def __init__(self, statements: Mapping[str, Statement], sealer: Sealer) -> None:
        self._statements = statements
        self._sealer = sealer

    async def look(self, pinned: Pinned, operations: Sequence[Begun]) -> list[Any]:
        """Run operations that only read, in no transaction; their outcomes."""
        return await self._drive(pinned, operations, None)

    async def transact(
        self, pinned: Pinned, operations: Sequence[Begun], *, begin: Sequence[Question] = (BEGIN,)
    ) -> tuple[list[Any], Sequence[Step]]:
        """Run operations in one transaction; their outcomes, and what is left to be done after it.

        The outcome of one that met a locked principal is `LOCKED_OUT`.

        Raises:
            CommitUnknown: nothing must be tried again.
        """
        group = _Group(begin)
        outcomes = await self._drive(pinned, operations, group)
        afterwards: Sequence[Step] = group.afterwards
        if afterwards:
            afterwards = [(HOLD, {"keys": sorted(group.to_hold)}), *afterwards]
        if group.holds_counters or not group.writes_lasting:
            # Nobody waits less for having them later.
            group.deferred += [self._question(step) for step in group.afterwards]
            afterwards = ()
        last = sorted(group.deferred, key=_rank)
        last = self._holding(group, last) + last
        if group.events:
            for table, rows in event_rows(group.events, sealer=self._sealer).tables():
                last += [(f"audit:{table}", values) for values in rows]
        if group.has_begun:
            last += [WITHOUT_DISK, COMMIT] if group.is_volatile else [COMMIT]
        elif group.is_volatile:
            # What goes over in one exchange is one transaction.
            last.insert(0, WITHOUT_DISK)
        elif len(last) > 1:
            last = [*group.begin, *last, COMMIT]
        faults.at("commit.before")
        try:
            # One statement is a transaction of its own.
            if last:
                await pinned.ask(last)
        except (Lost, TimeoutError) as error:
            raise CommitUnknown from error
        faults.at("commit.after")
        return outcomes, afterwards

    async def _drive(self, pinned: Pinned, operations: Sequence[Begun], group: _Group | None) -> list[Any]:
        """Run operations in step to their ends; their outcomes."""
        outcomes: list[Any] = [LOCKED_OUT] * len(operations)
        going = [_Turn(place, *begun) for place, begun in enumerate(operations)]
        while going:
            asking: list[_Turn] = []
            for turn in going:
                try:
                    turn.go_on(lambda step: self._file(step, group))
                except StopIteration as stop:
                    outcomes[turn.place] = stop.value
                else:
                    asking.append(turn)
            if not asking:
                break
            answers = await self._ask(pinned, asking, group)
            going = []
            for turn, own in zip(asking, answers, strict=True):
                if self._is_locked_out(turn, own, group):
                    turn.operation.close()
                    continue
                turn.take(own)
                going.append(turn)
        return outcomes

    async def _ask(self, pinned: Pinned, asking: Sequence[_Turn], group: _Group | None) -> list[list[Sequence[Row]]]:
        """The answers to what each asks: first what each asks first, which is of one kind more often than not."""
        stages = range(max(len(turn.questions) for turn in asking))
        order = [(turn, stage) for stage in stages for turn in self._in_one_order(asking, stage)]
        questions = [turn.questions[stage] for turn, stage in order]
        before = [] if group is None or group.has_begun else [*group.begin]
        if group is not None:
            group.has_begun = True
            before += self._holding(group, questions)
        rows = (await pinned.ask([*before, *questions]))[len(before) :]
        found = {(turn.place, stage): one for (turn, stage), one in zip(order, rows, strict=True)}
        return [[found[turn.place, stage] for stage in range(len(turn.questions))] for turn in asking]

    def _in_one_order(self, asking: Sequence[_Turn], stage: int) -> Sequence[_Turn]:
        """Those of one kind beside each other, and what changes rows in the same order in every group.

        Two groups then wait for each other's rows in turn, not in a circle.
        """
        those = [turn for turn in asking if stage < len(turn.questions)]
        if len(those) > 1:
            those.sort(key=lambda turn: self._place_of(turn.questions[stage]))
        return those

    def _place_of(self, question: Question) -> tuple[str, str]:
        name, values = question
        # Who only reads waits for nobody, nor does what locks at once.
        return name, "" if self._statements[name].sql.startswith("SELECT") else str(values)

    def _file(self, step: Step, group: _Group | None) -> tuple[Question, _Lock | None] | None:
        """What the database is asked for a step, and what that locks; None: it is kept for the end."""
        name, parameters = step
        if name == DURABLE:
            # Whatever lasts is committed as the database's own setting of synchronous_commit says, which is not
            # lowered for it.
            return None
        lock: _Lock | None = None
        if group is not None and name == HOLD:
            group.to_hold.update(parameters["keys"])
            return None
        if group is not None:
            if name in VOLATILE:
                group.writes_volatile = True
                group.holds_counters = group.holds_counters or name not in DEFERRED
            elif name == RECORD or not self._statements[name].sql.startswith("SELECT"):
                group.writes_lasting = True
            if name in AFTERWARDS:
                group.afterwards.append(step)
                return None
            if name == RECORD:
                group.events += parameters["events"]
                return None
            if name in DEFERRED or name in HELD:
                group.deferred.append(self._question(step))
                return None
            if name in LOCKS:
                lock = name, parameters[LOCKS[name]]
                if name == LOCK and lock[1] in group.locked:
                    return None
                name += AT_ONCE
        return self._question((name, parameters)), lock

    def _holding(self, group: _Group, questions: Sequence[Question]) -> list[Question]:
        """What is asked before counters are changed."""
        if not group.to_hold or not any(name in VOLATILE and name.startswith(_COUNTERS) for name, _ in questions):
            return []
        keys, group.to_hold = sorted(group.to_hold), set()
        return [self._question((HOLD, {"keys": keys}))]

    def _question(self, step: Step) -> Question:
        name, parameters = step
        return name, self._statements[name].bind(parameters)

    @staticmethod
    def _is_locked_out(turn: _Turn, answers: Sequence[Sequence[Row]], group: _Group | None) -> bool:
        """Whether a transition holds the principal, or another operation what this one wants for itself."""
        if group is None:
            return False
        for place, (lock, rows) in enumerate(zip(turn.locking, answers, strict=True)):
            if lock is None:
                continue
            if lock[0] == LOCK:
                if not rows:
                    return True
                group.locked.add(lock[1])
            elif not rows:
                # Where nothing is there to be locked, what is asked with it finds nothing.
                return bool(answers[place + 1])
            elif lock in group.taken:
                return True
            else:
                group.taken.add(lock)
                group.locked.add(rows[0]["principal_id"])
        return False


def _rank(question: Question) -> tuple[int, str]:
    """A row before those that refer to it, those of one kind beside each other, and what others change in one order."""
    name, values = question
    return DEFERRED.get(name, -1), str(values) if name.startswith(_COUNTERS) else ""
