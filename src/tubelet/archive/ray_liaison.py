"""Between the tasks of a cluster and the driver: what is known of the same bytes already, and when to stop.

The ledger is a file of the driver's machine. An actor stands between: tasks put questions there, by hash, and the
driver, who alone opens the ledger, fetches them, all that there are at a time, and puts the answers there. An answer
that does not come costs a video scored again, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, NamedTuple

from tubelet.archive.items import Item
from tubelet.archive.rows import Row
from tubelet.archive.scorer import Find

__all__ = ["answer_questions", "ask", "end_questions", "start_liaison", "wait_for_stop"]

_MOST_CALLS = 100_000
"""That wait at a time; no answer may wait behind them."""
_ASK_S = 30.0
_RESTART_S = 1.0
_END_S = 5.0


class _Question(NamedTuple):
    number: int
    content_sha256: str
    item: Item


class _Liaison:
    """The actor. All its calls share one event loop."""

    def __init__(self) -> None:
        self._open: dict[int, asyncio.Future[Row | None]] = {}
        self._new: list[_Question] = []
        self._something_new = asyncio.Event()
        self._count = 0
        self._stopping = asyncio.Event()
        self._is_over = False

    async def find(self, content_sha256: str, item: Item) -> Row | None:
        """A task's question."""
        self._count += 1
        question = _Question(self._count, content_sha256, item)
        answer = self._open[question.number] = asyncio.get_running_loop().create_future()
        self._new.append(question)
        self._something_new.set()
        try:
            found: Row | None = await answer
            return found
        finally:
            del self._open[question.number]

    async def questions(self) -> list[_Question] | None:
        """Waits for questions, and gives all that have come since the last time; None when it is over."""
        await self._something_new.wait()
        self._something_new.clear()
        new, self._new = self._new, []
        return None if self._is_over else new

    async def answer(self, answers: dict[int, Row | None]) -> None:
        """The driver's answers, by the question's number."""
        for number, row in answers.items():
            if number in self._open and not self._open[number].done():
                self._open[number].set_result(row)

    async def end(self) -> None:
        """The driver does not wait for questions any more."""
        self._is_over = True
        self._something_new.set()

    async def stop(self) -> None:
        """The driver wants the tasks to end."""
        self._stopping.set()

    async def stopped(self) -> None:
        """Returns when the driver wants the tasks to end."""
        await self._stopping.wait()


def start_liaison() -> Any:
    """Starts the actor, on the driver's machine. It ends with the driver.

    Returns:
        Its handle, for the functions of this module; ``stop.remote()`` ends the tasks.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    as_actor: Any = ray.remote(num_cpus=0, max_restarts=-1)
    return as_actor(_Liaison).options(scheduling_strategy=here, max_concurrency=_MOST_CALLS).remote()


async def answer_questions(liaison: Any, find: Find) -> None:
    """Answers what tasks ask, until `end_questions`; for the driver."""
    from ray.exceptions import RayActorError

    while True:
        try:
            questions = await liaison.questions.remote()
            if questions is None:
                return
            answers = {}
            for number, sha256, item in questions:
                found = find(sha256, item)
                answers[number] = await found if isinstance(found, Awaitable) else found
            await liaison.answer.remote(answers)
        except RayActorError:  # it is being started anew
            await asyncio.sleep(_RESTART_S)


async def end_questions(liaison: Any, answering: asyncio.Task[None]) -> None:
    """Ends `answer_questions`, and leaves no call in the air: Ray's client complains of those when it is shut down."""
    from ray.exceptions import RayError

    with suppress(RayError, TimeoutError):
        await asyncio.wait_for(liaison.end.remote(), _END_S)
        await asyncio.wait({answering}, timeout=_END_S)
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)


async def ask(liaison: Any, content_sha256: str, item: Item) -> Row | None:
    """What is known of these bytes; for tasks. None when nothing is, or nobody answers."""
    from ray.exceptions import RayActorError

    try:
        found: Row | None = await asyncio.wait_for(liaison.find.remote(content_sha256, item), _ASK_S)
    except (RayActorError, TimeoutError):
        return None
    return found


async def wait_for_stop(liaison: Any, stopping: asyncio.Event) -> None:
    """Sets ``stopping`` when the driver wants the tasks to end; for tasks."""
    from ray.exceptions import RayActorError

    try:
        await liaison.stopped.remote()
    except RayActorError:  # then this task ends with its batch
        return
    stopping.set()
