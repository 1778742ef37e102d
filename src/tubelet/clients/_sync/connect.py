# Made of _async/connect.py by docs/make_sync.py: change that file, and make this one again.
"""Opens the connection that an address asks for."""

from __future__ import annotations

from tubelet.clients._sync.grpc import SyncGrpcConnection
from tubelet.clients._sync.served import SyncConnection
from tubelet.clients.address import Address
from tubelet.clients.settings import Headers, Timeouts, Tls

__all__ = ["connect"]


def connect(address: Address, *, timeouts: Timeouts, headers: Headers | None, tls: Tls | None) -> SyncConnection:
    """A connection by the address's protocol; nothing is sent yet."""
    if address.protocol == "grpc":
        return SyncGrpcConnection(address, timeouts=timeouts, headers=headers, tls=tls)
    # Its packages are loaded only where they are needed.
    from tubelet.clients._sync.http import SyncHttpConnection

    return SyncHttpConnection(address, timeouts=timeouts, headers=headers, tls=tls)
