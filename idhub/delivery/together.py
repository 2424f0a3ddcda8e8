"""Questions that are asked in the same moment, answered together.

Hundreds of attempts run at once and each needs a little of the database before and after it talks. Asked one by one,
that is a transaction each; asked together, it is one for all that came up while the last one ran.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

from idhub.turns import bulk_work

Q = TypeVar("Q")
A = TypeVar("A")


class Together(Generic[Q, A]):
    """Collects what is asked in one event loop and has it answered in sets, one set at a time.

    Args:
        answer: answers a set, in order, in a thread. When it fails, each question is asked alone, so that one that
            cannot be answered fails nobody else's; it must therefore leave nothing behind when it raises.
        most: how many questions a set has at most.
        threads: where `answer` runs; by default the event loop's.
    """

    def __init__(
        self, answer: Callable[[Sequence[Q]], Sequence[A]], *, most: int, threads: Executor | None = None
    ) -> None:
        self._answer = answer
        self._most = most
        self._threads = threads
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._working: asyncio.Task[None] | None = None

    async def ask(self, question: Q) -> A:
        """The answer to one question. Whoever stops waiting for it disturbs nobody; it may be answered all the same."""
        answered: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answered))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await answered

    async def _work(self) -> None:
        while self._waiting:
            # Whoever is about to ask in this turn of the loop asks with us.
            await asyncio.sleep(0)
            asked, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            asked = [(question, answered) for question, answered in asked if not answered.done()]
            if asked:
                await self._settle(asked)

    def _answered(self, questions: Sequence[Q]) -> Sequence[A]:
        with bulk_work():
            return self._answer(questions)

    async def _settle(self, asked: Sequence[tuple[Q, "asyncio.Future[A]"]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._threads, self._answered, [question for question, _ in asked])
        except Exception as error:
            if len(asked) == 1:
                if not asked[0][1].done():
                    asked[0][1].set_exception(error)
                return
            for one in asked:
                if not one[1].done():
                    await self._settle([one])
            return
        for (_, answered), answer in zip(asked, answers, strict=True):
            if not answered.done():
                answered.set_result(answer)
