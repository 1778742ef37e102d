"""A proxy in front of a server that wants TLS and a token: a real nginx with the file that the project ships."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from real_server import Serving
from test_front import Front, free_ports

TOKEN = "open-sesame"
_REQUEST = (
    "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost "
    "-addext subjectAltName=DNS:localhost,IP:127.0.0.1"
)


@dataclass(frozen=True)
class Fence:
    """Ports of the proxy, and the certificate to trust."""

    http: int
    grpc: int
    certificate: Path

    def url(self, kind: str) -> str:
        return f"grpcs://127.0.0.1:{self.grpc}" if kind == "grpc" else f"https://127.0.0.1:{self.http}"


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate that vouches for itself, and its key, in ``folder``."""
    key, certificate = folder / "tls.key", folder / "tls.crt"
    subprocess.run([*_REQUEST.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


@contextmanager
def fenced(server: Serving, folder: Path) -> Iterator[Fence]:
    """Runs the proxy, which writes into ``folder`` only; skips the test where a program is missing."""
    for program, package in (("nginx", "nginx-light"), ("openssl", "openssl")):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: {package})")
    certificate, key = make_certificate(folder)
    http, grpc = free_ports(2)
    known = f'map $http_authorization $is_known {{ default 0; "Bearer {TOKEN}" 1; }}'
    files = {
        "global.conf": f"ssl_certificate {certificate};\nssl_certificate_key {key};\n{known}\n",
        "http.conf": f"listen 127.0.0.1:{http} ssl;\nif ($is_known = 0) {{ return 401; }}\n",
        "grpc.conf": f"listen 127.0.0.1:{grpc} ssl http2;\nif ($is_known = 0) {{ return 401; }}\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    front = Front(folder, server)
    try:
        yield Fence(http, grpc, certificate)
    finally:
        front.stop()
