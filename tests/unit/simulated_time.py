"""An event loop whose clock jumps to the next thing that is to happen: seconds of a load test take no time."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Its clock stands still but while it waits, and where somebody moves ``now``."""

    def __init__(self) -> None:
        super().__init__(_JumpingSelector(self))
        self.now = 1000.0

    def time(self) -> float:
        return self.now


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everybody waits for something that never happens"
        self._loop.now += max(0.0, timeout)
        return super().select(0)


def run_simulated(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine in simulated time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(work)


def block_for(seconds: float) -> None:
    """What a busy processor does to an event loop: time passes, and nothing else happens."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    loop.now += seconds
