"""Opens the connection that an address asks for."""

from __future__ import annotations

from tubelet.clients._async.grpc import AsyncGrpcConnection
from tubelet.clients._async.served import AsyncConnection
from tubelet.clients.address import Address
from tubelet.clients.settings import Headers, Timeouts, Tls

__all__ = ["connect"]


def connect(address: Address, *, timeouts: Timeouts, headers: Headers | None, tls: Tls | None) -> AsyncConnection:
    """A connection by the address's protocol; nothing is sent yet."""
    if address.protocol == "grpc":
        return AsyncGrpcConnection(address, timeouts=timeouts, headers=headers, tls=tls)
    # Its packages are loaded only where they are needed.
    from tubelet.clients._async.http import AsyncHttpConnection

    return AsyncHttpConnection(address, timeouts=timeouts, headers=headers, tls=tls)
