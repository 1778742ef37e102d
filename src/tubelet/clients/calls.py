"""A request and its answer, whichever protocol carries them."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

from numpy.typing import NDArray

from tubelet.clients.wire import check_text, request_parameters
from tubelet.spec.errors import InvalidRequestError
from tubelet.spec.priorities import DEFAULT_PRIORITY, PRIORITIES, QUEUE_SHARE, Priority
from tubelet.spec.tensors import DataType, WayIn

__all__ = ["GRACE_S", "Answer", "Call", "ServedConfig", "Tensor", "Wishes"]


GRACE_S = 1.0
"""The server ends work at the deadline and says so; the client waits this much longer for that answer."""


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One input."""

    name: str
    datatype: DataType
    array: NDArray[Any]
    """BYTES: one of Python's bytes."""
    region: str | None = None
    """The region of shared memory at whose beginning it lies; None: it is sent."""

    @property
    def num_bytes(self) -> int:
        """As it travels: in BYTES the length stands first."""
        return 4 + len(self.array[0]) if self.datatype == "BYTES" else self.array.nbytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What a caller wants of one video, or of the features of one.

    Raises:
        InvalidRequestError: ``bad_parameter``, a number or a name that means nothing.
    """

    way: WayIn
    model: str | None
    """None: the one model that is served."""
    top: int
    protocol: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    deadline_s: float | None = None
    with_features: bool = False
    with_views: bool = True
    priority: Priority = DEFAULT_PRIORITY

    def __post_init__(self) -> None:
        if not isinstance(self.top, Integral) or self.top < 1:
            raise InvalidRequestError("bad_parameter", f"top must be a whole number, at least 1, got {self.top!r}")
        check_text("model", self.model)
        check_text("protocol", self.protocol)
        if self.priority not in tuple(PRIORITIES):
            raise InvalidRequestError(
                "bad_parameter", f"priority must be interactive or archive, got {self.priority!r}"
            )
        self.parameters(self.deadline_s)

    def parameters(self, deadline_s: float | None) -> dict[str, str]:
        """Request parameters of an attempt that has ``deadline_s``."""
        return request_parameters(protocol=self.protocol, start_s=self.start_s, end_s=self.end_s, deadline_s=deadline_s)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Call:
    """One attempt of a request."""

    model: str
    """Triton's name."""
    tensors: tuple[Tensor, ...]
    outputs: dict[str, int]
    """What is asked for; a number other than 0: as so many labels."""
    parameters: dict[str, str]

    deadline_s: float
    """How long the answer is worth having; the server is told so, in its parameters and as Triton's own timeout."""
    priority: int = 0
    """Triton's: 1 goes first; 0: as the server thinks fit."""

    @property
    def timeout_us(self) -> int:
        """Triton's own timeout, which ends the wait in its queues while enough is left for the work."""
        return max(1, int(QUEUE_SHARE * self.deadline_s * 1e6))


class Answer(Protocol):
    """What tritonclient makes of an answer, of either protocol."""

    def as_numpy(self, name: str) -> NDArray[Any] | None:
        """A tensor; None where the answer lacks it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedConfig:
    """What is looked at of a model's Triton configuration."""

    name: str
    platform: str
    parameters: dict[str, str]
