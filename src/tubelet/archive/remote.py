"""fsspec's file systems: one of each kind for all threads, and whatever they raise as our errors."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import fsspec
import tenacity

from tubelet.archive.addresses import protocol_of
from tubelet.spec.errors import InvalidRequestError, MachineError, TubeletError, UnavailableError

__all__ = ["FileSystems", "StorageError", "attempt", "reading"]

T = TypeVar("T")

_ATTEMPTS = 4
_TRANSIENT_ERRNOS = frozenset(
    (
        errno.EAGAIN,
        errno.EBUSY,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.EMFILE,
        errno.ENETUNREACH,
        errno.ENFILE,
        errno.EPIPE,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
    )
)
_TRANSIENT_STATUSES = frozenset((408, 425, 429, 500, 502, 503, 504))
# By name, since the packages that define them need not be there (botocore, aiohttp).
_TRANSIENT_NAMES = frozenset(
    (
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectTimeoutError",
        "EndpointConnectionError",
        "HTTPClientError",
        "IncompleteRead",
        "ReadTimeoutError",
    )
)
# What is wrong with the caller's credentials is wrong with every file.
_CREDENTIAL_NAMES = frozenset(("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"))
_CREDENTIAL_CODES = frozenset(
    ("ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch")
)
_PLAIN = (FileNotFoundError, PermissionError)
_EXTRAS = {"s3": "tubelet[s3]", "s3a": "tubelet[s3]", "http": "fsspec[http]", "https": "fsspec[http]"}


class StorageError(UnavailableError):
    """A storage does not answer at the moment, or says that it cannot; this says nothing about what lies there."""


class FileSystems:
    """Opens URLs.

    One instance of a file system serves all threads: the asynchronous ones (S3, HTTP) run in a loop of fsspec's own, to
    which calls from any thread are handed. fsspec's own cache would make another instance, with connections of its own,
    for each thread.

    Args:
        storage_options: for fsspec. Those under the name of a protocol (``{"s3": {"anon": True}}``) are for that one,
            all others for every one.
    """

    def __init__(self, storage_options: Mapping[str, object] | None = None) -> None:
        self._options = dict(storage_options or {})
        self._opened: dict[str, Any] = {}
        self._lock = threading.Lock()

    def open(self, url: str) -> tuple[Any, str]:
        """The file system, and the path in it. Errors are fsspec's; see `attempt`."""
        protocol = protocol_of(url)
        if "::" in url:
            return fsspec.url_to_fs(url, **self._options_of(protocol))  # type: ignore[no-any-return]
        with self._lock:
            if protocol not in self._opened:
                # Listings are read once, and would fill the memory.
                options = {"use_listings_cache": False, **self._options_of(protocol)}
                self._opened[protocol] = fsspec.filesystem(protocol, skip_instance_cache=True, **options)
            file_system = self._opened[protocol]
        return file_system, file_system._strip_protocol(url)

    def _options_of(self, protocol: str) -> dict[str, Any]:
        known = fsspec.available_protocols()
        for_all = {
            name: value for name, value in self._options.items() if name not in known or not isinstance(value, Mapping)
        }
        own = self._options.get(protocol)
        return {**for_all, **own} if isinstance(own, Mapping) else for_all


def attempt(address: str, act: Callable[[], T]) -> T:
    """Gives what ``act`` gives; tries again, after pauses of up to some seconds, where that may help. See `reading`."""
    tries = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=8),
        retry=tenacity.retry_if_exception(_is_transient),
        reraise=True,
    )
    with reading(address):
        return tries(act)


@contextmanager
def reading(address: str) -> Iterator[None]:
    """Makes whatever a file system raises ours.

    Raises:
        InvalidRequestError: ``bad_input``, ``address`` cannot be read.
        StorageError: it may well be read later.
        MachineError: ``missing``, this machine has no package or no credentials for such addresses.
    """
    try:
        yield
    except (TubeletError, MemoryError):
        raise
    except Exception as exc:  # each of fsspec's backends raises errors of its own
        raise _ours(address, exc) from exc


def _ours(address: str, exc: Exception) -> TubeletError:
    protocol = protocol_of(address)
    if isinstance(exc, ImportError):
        package = _EXTRAS.get(protocol)
        remedy = f"pip install '{package}'" if package else f"{exc}"
        return MachineError("missing", f"no package for {protocol}:// addresses is installed; {remedy}")
    if _names(exc) & _CREDENTIAL_NAMES or _code(exc) in _CREDENTIAL_CODES:
        return MachineError(
            "missing",
            f"no valid credentials for {protocol}:// addresses ({_code(exc) or exc}); renew them, or give others",
        )
    if _is_transient(exc):
        cause = exc.__cause__ if isinstance(exc, _PLAIN) else exc
        return StorageError("backend_lost", f"cannot read {address} at the moment: {_reason(cause or exc)}")
    return InvalidRequestError("bad_input", f"cannot read {address}: {_reason(exc)}")


def _reason(exc: BaseException) -> str:
    if isinstance(exc, FileNotFoundError):
        return "it does not exist"
    if isinstance(exc, PermissionError):
        return "access is denied"
    text = (getattr(exc, "strerror", None) or str(exc)).strip()
    return text.splitlines()[0][:300] if text else type(exc).__name__


def _is_transient(exc: BaseException) -> bool:
    if isinstance(exc, TubeletError):
        return False
    if isinstance(exc, _PLAIN):
        # fsspec's HTTP says so of whatever it could not ask, too; what lies behind it tells.
        return exc.__cause__ is not None and _is_transient(exc.__cause__)
    if isinstance(exc, TimeoutError | ConnectionError) or _names(exc) & _TRANSIENT_NAMES:
        return True
    if any(_status(error) in _TRANSIENT_STATUSES for error in _causes(exc)):
        return True
    # s3fs puts the message where others put the number.
    numbers = [getattr(exc, "errno", None), *exc.args[:1]]
    return isinstance(exc, OSError) and any(number in _TRANSIENT_ERRNOS for number in numbers if type(number) is int)


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__


def _names(exc: BaseException) -> set[str]:
    return {cls.__name__ for error in _causes(exc) for cls in type(error).__mro__}


def _status(exc: BaseException) -> object:
    """Of HTTP: aiohttp's errors have it themselves, botocore's in their response."""
    response = getattr(exc, "response", None)
    if isinstance(response, Mapping):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return getattr(exc, "status", None)


def _code(exc: BaseException) -> str | None:
    """S3's own word for what is wrong."""
    for error in _causes(exc):
        response = getattr(error, "response", None)
        if isinstance(response, Mapping):
            code = response.get("Error", {}).get("Code")
            return str(code) if code else None
    return None
