"""What a request may say beside its video: the request parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tubelet.spec.errors import InvalidRequestError, LimitError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.protocol import ANY_CLIPS, ANY_FULL, Protocol, listed

__all__ = ["PARAMETERS", "Request", "read_deadline_s"]

PARAMETERS = ("protocol", "start_s", "end_s", "deadline_ms")
"""Names of the request parameters, for KServe's ``parameters`` of a request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request's wishes, checked against the model's contract and limits."""

    protocol: Protocol
    start_s: float
    """Start of the part that is classified, in seconds from the first frame."""
    end_s: float
    """End of that part; infinity: the end of the video."""
    deadline_s: float
    """How long the answer is worth having, in seconds from the moment the server begins with it."""

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, object], contract: Contract, limits: Limits) -> Request:
        """Reads request parameters; numbers may come as numbers or as text.

        Raises:
            InvalidRequestError: ``bad_parameter``, for an unknown parameter, a protocol that the model does not
                allow, or a number out of its range.
            LimitError: ``too_many_views``: more of them than ``max_views``, or one longer than ``max_units``.
        """
        if unknown := sorted(set(parameters) - set(PARAMETERS)):
            raise InvalidRequestError(
                "bad_parameter",
                f"unknown parameter {', '.join(map(_shown, unknown[:5]))}; there are {', '.join(PARAMETERS)}",
            )
        start_s = _number(parameters, "start_s", 0.0)
        end_s = _number(parameters, "end_s", math.inf)
        if start_s < 0 or end_s <= start_s:
            raise InvalidRequestError(
                "bad_parameter", f"0 <= start_s < end_s is expected, got {start_s:g} and {end_s:g}"
            )
        return cls(
            protocol=_protocol(parameters, contract, limits),
            start_s=start_s,
            end_s=end_s,
            deadline_s=read_deadline_s(parameters, limits),
        )


def read_deadline_s(parameters: Mapping[str, object], limits: Limits) -> float:
    """How long a request's answer is worth having, in seconds: what ``deadline_ms`` asks for, within the limits.

    Raises:
        InvalidRequestError: ``bad_parameter``, it is no positive number.
    """
    deadline_ms = _number(parameters, "deadline_ms", limits.default_deadline_s * 1000)
    if deadline_ms <= 0:
        raise InvalidRequestError("bad_parameter", f"deadline_ms must be positive, got {deadline_ms:g}")
    return min(deadline_ms / 1000, limits.default_deadline_s)


def _protocol(parameters: Mapping[str, object], contract: Contract, limits: Limits) -> Protocol:
    name = parameters.get("protocol", contract.default_protocol)
    if not isinstance(name, str) or not contract.allows(name) or name in (ANY_CLIPS, ANY_FULL):
        raise InvalidRequestError(
            "bad_parameter",
            f"{contract.name} has no protocol {_shown(name)}; it has {listed(contract.protocols)}",
        )
    protocol = Protocol.parse(name)
    if protocol.num_views > limits.max_views:
        raise LimitError(
            "too_many_views",
            f"protocol {protocol.name} asks for {protocol.num_views} views, max_views is {limits.max_views}",
        )
    if protocol.num_frames is not None:
        _check_length(protocol.name, protocol.num_frames, contract, limits)
    return protocol


def _check_length(name: str, num_frames: int, contract: Contract, limits: Limits) -> None:
    """Of a clip whose length the request has chosen; repeated frames of a short video count for the temporal stage."""
    unit_frames = contract.geometry.unit_frames
    if num_frames % unit_frames:
        raise InvalidRequestError(
            "bad_parameter", f"{contract.name} takes clips of a multiple of {unit_frames} frames, got protocol {name}"
        )
    if (num_units := num_frames // unit_frames) > limits.max_units:
        raise LimitError(
            "too_many_views", f"protocol {name} asks for {num_units} units, max_units is {limits.max_units}"
        )


def _number(parameters: Mapping[str, object], name: str, default: float) -> float:
    value = parameters.get(name, default)
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
        if math.isnan(number) or (math.isinf(number) and value is not default):
            raise ValueError
    except ValueError as exc:
        raise InvalidRequestError("bad_parameter", f"{name} must be a number, got {_shown(value)}") from exc
    return number


def _shown(value: object) -> str:
    """What came, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
