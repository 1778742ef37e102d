"""The border to tritonclient: its errors become ours, and our wishes become its parameters.

No other module of the clients looks at a gRPC status or at the words of a Triton message.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

from tritonclient.utils import InferenceServerException

from tubelet.spec.errors import (
    DeadlineError,
    InvalidRequestError,
    LimitError,
    OverloadedError,
    TubeletError,
    UnavailableError,
    error_from_text,
)

__all__ = ["CHANNEL_OPTIONS", "check_url", "is_unknown_model", "request_parameters", "translated_errors"]

_INT32_MAX = 2**31 - 1

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", _INT32_MAX),
    ("grpc.max_receive_message_length", _INT32_MAX),
    # A video must never travel through a proxy that happens to stand in the environment.
    ("grpc.enable_http_proxy", 0),
    # gRPC waits up to two minutes before it looks again for a server that went away; ours is back within seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
"""Options of the gRPC channel: messages of any size, no proxy, quick to find a restarted server."""

_QUEUE_FULL = "exceeds maximum queue size"
_QUEUE_TIMEOUT = "request timeout expired"
_LOST = "the server stopped or lost the model while it worked; try again in some seconds"


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raises tubelet's errors in place of tritonclient's.

    Raises:
        TubeletError: the error that the server named by its code, else the one that the gRPC status means.
    """
    try:
        yield
    except InferenceServerException as exc:
        raise _translate(exc.status(), exc.message()) from exc


def is_unknown_model(error: TubeletError) -> bool:
    """Whether the server has never heard of the model, rather than having it unloaded or being loaded again."""
    cause = error.__cause__
    return (
        isinstance(cause, InferenceServerException)
        and cause.status() == "StatusCode.NOT_FOUND"
        and "is not found" in (cause.message() or "")
    )


def check_url(url: str) -> str:
    """Returns the address as gRPC takes it.

    Raises:
        InvalidRequestError: ``bad_parameter``, it is not of the form ``HOST:PORT``.
    """
    host, colon, port = url.rpartition(":")
    if not (host and colon and re.fullmatch(r"[0-9]{1,5}", port)) or "/" in url:
        raise InvalidRequestError(
            "bad_parameter", f"the address of Triton's gRPC port is HOST:PORT, for example 127.0.0.1:8001, got {url!r}"
        )
    return url


def request_parameters(
    *, protocol: str | None, start_s: float | None, end_s: float | None, deadline_s: float | None
) -> dict[str, str]:
    """Request parameters of those wishes that are not None; numbers as text, which every version of Triton carries.

    Raises:
        InvalidRequestError: ``bad_parameter``, a number that is not finite, or a deadline that is not positive.
    """
    for name, value in {"start_s": start_s, "end_s": end_s, "deadline_s": deadline_s}.items():
        if value is not None and not math.isfinite(value):
            raise InvalidRequestError("bad_parameter", f"{name} must be a finite number, got {value}")
    if deadline_s is not None and deadline_s <= 0:
        raise InvalidRequestError("bad_parameter", f"deadline_s must be positive, got {deadline_s:g}")
    wishes = {
        "protocol": protocol,
        "start_s": None if start_s is None else repr(float(start_s)),
        "end_s": None if end_s is None else repr(float(end_s)),
        "deadline_ms": None if deadline_s is None else repr(float(deadline_s) * 1000),
    }
    return {name: value for name, value in wishes.items() if value is not None}


def _translate(status: str | None, message: str | None) -> TubeletError:
    text = " ".join((message or "").split())
    if (ours := error_from_text(text)) is not None:
        return ours
    if _QUEUE_FULL in text.lower():
        return OverloadedError("overloaded", "the queue of the model is full; try again in a second, or send less")
    if _QUEUE_TIMEOUT in text.lower():
        return DeadlineError("deadline_exceeded", "the request's time ended in the queue; allow it more, or send less")
    # None: tritonclient refused the request before it was sent.
    kind = (status or "INVALID_ARGUMENT").removeprefix("StatusCode.")
    return _of_status(kind, text or "no further words")


def _of_status(kind: str, text: str) -> TubeletError:
    match kind:
        case "DEADLINE_EXCEEDED":
            return DeadlineError("deadline_exceeded", "no answer came within the request's time; allow it more")
        case "INVALID_ARGUMENT" | "OUT_OF_RANGE" | "FAILED_PRECONDITION":
            return InvalidRequestError("bad_input", text)
        case "RESOURCE_EXHAUSTED":
            return LimitError("too_large", f"the server does not take a message of this size: {text}")
        case "NOT_FOUND":
            return UnavailableError("backend_lost", f"the server has no such model at the moment: {text}")
        case "UNAVAILABLE":
            return UnavailableError("backend_lost", f"{_unavailable(text)}: {text}")
        case "INTERNAL" | "UNKNOWN" | "CANCELLED" | "ABORTED":
            # Words of the backend that failed may hold a traceback, which is the server's own business.
            return UnavailableError("backend_lost", _LOST)
        case _:
            return UnavailableError("backend_lost", f"the server answered {kind}: {text}")


def _unavailable(text: str) -> str:
    words = text.lower()
    if "connect to" in words or "dns" in words:
        return "no server answers; start one with 'tubelet serve', or name its gRPC address"
    if "unknown model" in words or "not ready" in words:
        return "the model is not ready; try again in some seconds"
    return _LOST
