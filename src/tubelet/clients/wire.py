"""The border to Triton: its errors become ours, and our wishes become its parameters.

No other module of the clients looks at a gRPC or HTTP status, or at the words of a Triton message.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real

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

__all__ = [
    "check_text",
    "closed_error",
    "foreign_error",
    "is_refused_caller",
    "is_region_in_use",
    "is_unknown_model",
    "is_unknown_region",
    "late_error",
    "lost_error",
    "request_parameters",
    "translated_errors",
    "unreachable_error",
]

_KINDS = {
    "": "INVALID_ARGUMENT",  # tritonclient refused the request before it was sent
    **dict.fromkeys(("400", "405", "411", "415", "422", "431"), "INVALID_ARGUMENT"),
    **dict.fromkeys(("401", "403", "407"), "UNAUTHENTICATED"),
    **dict.fromkeys(("301", "302", "303", "307", "308"), "MOVED"),
    "404": "NOT_FOUND",
    "408": "DEADLINE_EXCEEDED",
    "413": "RESOURCE_EXHAUSTED",
    "429": "OVERLOADED",
    "499": "INTERNAL",
    "500": "INTERNAL",
    "501": "UNIMPLEMENTED",
    "502": "UNAVAILABLE",
    "503": "UNAVAILABLE",
    "504": "DEADLINE_EXCEEDED",
    "StatusCode.PERMISSION_DENIED": "UNAUTHENTICATED",
    "StatusCode.OUT_OF_RANGE": "INVALID_ARGUMENT",
    "StatusCode.FAILED_PRECONDITION": "INVALID_ARGUMENT",
    "StatusCode.UNKNOWN": "INTERNAL",
    "StatusCode.CANCELLED": "INTERNAL",
    "StatusCode.ABORTED": "INTERNAL",
}
"""What a status means, by HTTP's number or gRPC's name; of gRPC's, those whose name is not the meaning."""

_QUEUE_FULL = "exceeds maximum queue size"
_QUEUE_TIMEOUT = "request timeout expired"
_NOBODY = "no server answers; start one with 'tubelet serve', or name its address"
_NO_TRUST = "no trust in the server's certificate, or the server's in ours; see Tls"
_OTHER_PROTOCOL = (
    "another protocol is spoken there; look at the URL: gRPC and HTTP have ports of their own, grpcs:// and https:// "
    "are those with TLS"
)
_OTHER_PROTOCOL_SIGNS = (
    "wrong_version_number",
    "wrong version number",
    "failed parsing http/2",
    "illegal request line",
    "illegal status line",
)
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


def closed_error() -> UnavailableError:
    """What is raised where a client was closed, before a call or while it was under way."""
    return UnavailableError("backend_lost", "this client was closed; make another one")


def foreign_error() -> InvalidRequestError:
    """What is raised where a client was first used in another event loop, or before a fork."""
    return InvalidRequestError(
        "bad_parameter", "this client was used in another event loop or process before; make one for each"
    )


def late_error() -> DeadlineError:
    """What is raised where a request's time ended without an answer."""
    return DeadlineError("deadline_exceeded", "no answer came within the request's time; allow it more")


def lost_error(text: str) -> UnavailableError:
    """What is raised where a connection broke, for the reason that ``text`` gives."""
    if _is_other_protocol(text):
        return UnavailableError("backend_lost", f"{_OTHER_PROTOCOL}: {text}")
    return UnavailableError(
        "backend_lost", f"the connection to the server was lost ({text}); try again in some seconds"
    )


def unreachable_error(text: str) -> InvalidRequestError | UnavailableError:
    """What is raised where no connection comes about, for the reason that ``text`` gives."""
    return _unavailable_error(text, connecting=True)


def is_refused_caller(error: TubeletError) -> bool:
    """Whether caller and server, or a proxy before it, do not trust each other; such as for a token that is over."""
    return _kind_of(error) == "UNAUTHENTICATED" or error.message.startswith(_NO_TRUST)


def is_unknown_model(error: TubeletError) -> bool:
    """Whether the server has never heard of the model, rather than having it unloaded or being loaded again."""
    return _kind_of(error) == "NOT_FOUND" and "is not found" in _words_of(error)


def is_unknown_region(error: TubeletError) -> bool:
    """Whether the server does not know a region of shared memory: it was started anew since it was told of it."""
    return "shared memory region" in _words_of(error)


def is_region_in_use(error: TubeletError) -> bool:
    """Whether the server cannot let go of a region of shared memory yet."""
    return "currently in use" in _words_of(error)


def check_text(name: str, value: object) -> None:
    """Refuses what is neither None nor text that can travel.

    Raises:
        InvalidRequestError: ``bad_parameter``.
    """
    if value is not None and not (isinstance(value, str) and value.isprintable()):
        raise InvalidRequestError("bad_parameter", f"{name} must be printable text, got {value!r}")


def request_parameters(
    *, protocol: str | None, start_s: float | None, end_s: float | None, deadline_s: float | None
) -> dict[str, str]:
    """Request parameters of those wishes that are not None; numbers as text, which every version of Triton carries.

    Raises:
        InvalidRequestError: ``bad_parameter``, a number that is not finite, or a deadline that is not positive.
    """
    numbers: dict[str, object] = {"start_s": start_s, "end_s": end_s, "deadline_s": deadline_s}
    for name, value in numbers.items():
        if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
            raise InvalidRequestError("bad_parameter", f"{name} must be a finite number, got {value!r}")
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
        return OverloadedError(
            "overloaded", "the request waited too long in the queue; try again in a second, allow it more, or send less"
        )
    return _of_status(_kind(status), text or "no further words")


def _kind(status: str | None) -> str:
    status = status or ""
    return _KINDS.get(status, status.removeprefix("StatusCode."))


def _of_status(kind: str, text: str) -> TubeletError:
    match kind:
        case "DEADLINE_EXCEEDED":
            return late_error()
        case "INVALID_ARGUMENT":
            return InvalidRequestError("bad_input", text)
        case "UNAUTHENTICATED":
            return InvalidRequestError("bad_parameter", f"the server refuses this caller; look at the headers: {text}")
        case "MOVED":
            return InvalidRequestError("bad_parameter", f"the server is at another address; give that as URL: {text}")
        case "RESOURCE_EXHAUSTED":
            return LimitError("too_large", f"the server does not take a message of this size: {text}")
        case "OVERLOADED":
            return OverloadedError("overloaded", "too many requests; try again in a second, or send less")
        case "NOT_FOUND":
            return UnavailableError("backend_lost", f"the server has no such model at the moment: {text}")
        case "UNAVAILABLE":
            return _unavailable_error(text)
        case "INTERNAL":
            # Words of the backend that failed may hold a traceback, which is the server's own business.
            return UnavailableError("backend_lost", _LOST)
        case _:
            return UnavailableError("backend_lost", f"the server answered {kind}: {text}")


def _unavailable_error(text: str, *, connecting: bool = False) -> InvalidRequestError | UnavailableError:
    if "certificate" in text.lower():
        # It would be the same the next time.
        return InvalidRequestError("bad_parameter", f"{_NO_TRUST}: {text}")
    return UnavailableError("backend_lost", f"{_unavailable(text, connecting=connecting)}: {text}")


def _unavailable(text: str, *, connecting: bool) -> str:
    words = text.lower()
    if _is_other_protocol(text):
        return _OTHER_PROTOCOL
    if connecting or any(word in words for word in ("connect to", "dns", "resolving")):
        return _NOBODY
    if "unknown model" in words or "not ready" in words:
        return "the model is not ready; try again in some seconds"
    return _LOST


def _is_other_protocol(text: str) -> bool:
    return any(sign in text.lower() for sign in _OTHER_PROTOCOL_SIGNS)


def _kind_of(error: TubeletError) -> str:
    cause = error.__cause__
    return _kind(cause.status()) if isinstance(cause, InferenceServerException) else ""


def _words_of(error: TubeletError) -> str:
    cause = error.__cause__
    return (cause.message() or "").lower() if isinstance(cause, InferenceServerException) else ""
