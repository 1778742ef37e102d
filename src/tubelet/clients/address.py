"""Where a server is, and which protocol is spoken there."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from tubelet.spec.errors import InvalidRequestError

__all__ = ["Address", "parse_url"]

_SCHEMES = {"grpc": ("grpc", False), "grpcs": ("grpc", True), "http": ("http", False), "https": ("http", True)}
_PORTS = {"http": 80, "https": 443, "grpcs": 443}


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """A server's address."""

    protocol: Literal["grpc", "http"]
    host: str
    """A name or an address; one of IPv6 in brackets."""
    port: int
    tls: bool
    path: str = ""
    """HTTP only: what stands before ``/v2``, without a slash at its end."""

    @property
    def authority(self) -> str:
        """``HOST:PORT``."""
        return f"{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """HTTP only: what all its addresses begin with."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.path}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine is reached there."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False


def parse_url(url: str) -> Address:
    """Reads ``HOST:PORT`` and ``grpc://HOST:PORT``, ``grpcs://HOST[:PORT]``, ``http://`` and ``https://HOST[:PORT][/PATH]``.

    Raises:
        InvalidRequestError: ``bad_parameter``, it has none of these forms.
    """
    if not isinstance(url, str):
        raise _unfit(url)
    scheme, separator, rest = url.rpartition("://")
    scheme = scheme.lower() if separator else "grpc"
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+)(?::([0-9]{1,5}))?((?:/[^\s?#]*)?)", rest)
    if scheme not in _SCHEMES or found is None:
        raise _unfit(url)
    protocol, tls = _SCHEMES[scheme]
    host, port, path = found.groups()
    number = int(port) if port else _PORTS.get(scheme)
    if number is None or not 0 < number < 65536 or (path.strip("/") and protocol == "grpc"):
        raise _unfit(url)
    return Address(
        protocol="grpc" if protocol == "grpc" else "http", host=host, port=number, tls=tls, path=path.rstrip("/")
    )


def _unfit(url: object) -> InvalidRequestError:
    return InvalidRequestError(
        "bad_parameter",
        "the server's address is HOST:PORT of its gRPC, for example 127.0.0.1:8001, "
        f"or a URL that begins with grpc://, grpcs://, http:// or https://, got {url!r}",
    )
