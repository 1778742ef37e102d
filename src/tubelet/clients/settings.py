"""How a client behaves: its times, its second attempts, and what it shows of itself to the server."""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path

from tubelet.spec.errors import InvalidRequestError

__all__ = ["DEFAULT_URL", "Headers", "Retries", "Timeouts", "Tls", "fresh_headers", "tls_context"]

DEFAULT_URL = "127.0.0.1:8001"
"""Triton's gRPC port on this machine."""

_NAME, _VALUE = re.compile(r"[0-9A-Za-z_.-]+"), re.compile(r"[ -~]*")
_OURS = ("connection", "content-encoding", "content-length", "content-type", "te", "transfer-encoding")

Headers = Mapping[str, str] | Callable[[], Mapping[str, str]]
"""Headers of every call (gRPC: metadata), or what gives them anew for each, for tokens that expire."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """Four bounds, in seconds.

    Raises:
        InvalidRequestError: ``bad_parameter``, one is not a positive, finite number.
    """

    connect_s: float = 5.0
    """Until a connection stands, TLS and HTTP/2 included."""
    question_s: float = 10.0
    """For a question about models, which needs no computing."""
    request_s: float = 300.0
    """For one attempt of a request that names no ``deadline_s``; over HTTP the answer may be as late after the body."""
    total_s: float = 600.0
    """For all attempts of a call together, and the pauses between them."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise InvalidRequestError(
                    "bad_parameter", f"Timeouts: {field.name} must be a positive number of seconds, got {value!r}"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """Second attempts after `OverloadedError` and `UnavailableError`, when nothing was computed or its answer is lost.

    Before each there is a pause of random length, so that callers who were refused together do not come back together:
    up to ``first_pause_s``, then up to twice as long each time, up to ``most_pause_s`` at the most.

    Raises:
        InvalidRequestError: ``bad_parameter``, no attempt at all, or pauses that are no positive numbers.
    """

    attempts: int = 3
    """The first one included: 1 means no second one."""
    first_pause_s: float = 0.25
    most_pause_s: float = 5.0

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, Integral) or self.attempts < 1:
            raise InvalidRequestError("bad_parameter", f"Retries: attempts must be 1 or more, got {self.attempts!r}")
        pauses = (self.first_pause_s, self.most_pause_s)
        if not (all(isinstance(pause, Real) for pause in pauses) and 0 < pauses[0] <= pauses[1] < math.inf):
            raise InvalidRequestError(
                "bad_parameter",
                "Retries: 0 < first_pause_s <= most_pause_s is expected, "
                f"got {self.first_pause_s!r} and {self.most_pause_s!r}",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """Certificates, as PEM files; for ``grpcs://`` and ``https://``.

    Raises:
        InvalidRequestError: ``bad_parameter``, of ``cert_file`` and ``key_file`` there is only one.
    """

    ca_file: str | Path | None = None
    """Who may vouch for the server; None: whom this system trusts."""
    cert_file: str | Path | None = None
    """The client's own certificate, where the server wants one."""
    key_file: str | Path | None = None
    """The key of ``cert_file``."""

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise InvalidRequestError("bad_parameter", "Tls: cert_file and key_file belong together, one is missing")


def fresh_headers(headers: Headers | None) -> dict[str, str]:
    """The headers of one call; names in lower case, as HTTP/2 wants them.

    Raises:
        InvalidRequestError: ``bad_parameter``, one could not be sent as it is.
    """
    given = headers() if callable(headers) else headers or {}
    if not isinstance(given, Mapping):
        raise InvalidRequestError("bad_parameter", f"headers are values by name, got {type(given).__name__}")
    for name, value in given.items():
        if not all(isinstance(text, str) for text in (name, value)) or not (
            _NAME.fullmatch(name) and _VALUE.fullmatch(value)
        ):
            raise InvalidRequestError(
                "bad_parameter", f"header {name!r}: letters, digits and _.- make a name, printable ASCII a value"
            )
        if name.lower() in _OURS or name.lower().startswith("grpc-") or name.lower().endswith("-bin"):
            raise InvalidRequestError(
                "bad_parameter", f"header {name!r} is the protocol's own, or a binary one of gRPC's"
            )
    return {name.lower(): value for name, value in given.items()}


def tls_context(tls: Tls | None) -> ssl.SSLContext:
    """Certificates as Python's ssl has them.

    Raises:
        InvalidRequestError: ``bad_parameter``, a file is not there, or holds no certificate, no key, or one of another
            certificate.
    """
    tls = tls or Tls()
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.cert_file is not None:
            # With a password that is no secret nobody is asked for one at the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    except OSError as exc:
        raise InvalidRequestError("bad_parameter", f"Tls: cannot use these certificates: {exc}") from exc
    return context
