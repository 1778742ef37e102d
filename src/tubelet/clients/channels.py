"""What every gRPC channel to a server is made with."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc  # type: ignore[import-untyped]

from tubelet.clients.settings import Timeouts, Tls, tls_context

__all__ = ["channel_options", "credentials"]

_INT32_MAX = 2**31 - 1


def credentials(tls: Tls | None) -> grpc.ChannelCredentials:
    """Certificates as gRPC has them.

    Raises:
        InvalidRequestError: ``bad_parameter``, as `tls_context`.
    """
    tls_context(tls)  # of files that are no certificates gRPC would only say that nobody answers
    tls = tls or Tls()
    # Without it gRPC would take a list of its own, and not the system's.
    ca_file = tls.ca_file or ssl.get_default_verify_paths().cafile
    ca, key, chain = (file and Path(file).read_bytes() for file in (ca_file, tls.key_file, tls.cert_file))
    return grpc.ssl_channel_credentials(ca, key, chain)


def channel_options(timeouts: Timeouts) -> list[tuple[str, int]]:
    """How a channel to a server behaves."""
    return [
        ("grpc.max_send_message_length", _INT32_MAX),
        ("grpc.max_receive_message_length", _INT32_MAX),
        # A video must never travel through a proxy that happens to stand in the environment.
        ("grpc.enable_http_proxy", 0),
        # gRPC waits up to two minutes before it looks again for a server that went away; ours is back within seconds.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # By this name gRPC has the time for one attempt to connect.
        ("grpc.min_reconnect_backoff_ms", int(timeouts.connect_s * 1000)),
    ]
