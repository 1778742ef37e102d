"""Bytes of videos, from disks and from file systems that fail in every way."""

from __future__ import annotations

import errno
import os
import socket
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tubelet.archive.files import Files
from tubelet.archive.remote import FileSystems, StorageError, attempt
from tubelet.spec.errors import InvalidRequestError, LimitError, MachineError


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Of tries that failed; they are noted, not slept."""
    noted: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", noted.append)
    return noted


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"12345")
    files = Files()
    assert files.size(str(path)) == 5
    assert files.read(str(path), most_bytes=5) == files.read(str(path), most_bytes=10**9) == b"12345"
    with pytest.raises(LimitError, match=r"a\.mp4 has more than 4 bytes") as raised:
        files.read(str(path), most_bytes=4)
    assert raised.value.code == "too_large"
    path.write_bytes(b"")
    assert files.read(str(path), most_bytes=0) == b""


def test_a_large_file_does_not_come_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 34)
    tracemalloc.start()
    try:
        with pytest.raises(LimitError):
            Files().read(str(tmp_path / "large"), most_bytes=1000)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("act", [Files.size, lambda files, uri: files.read(uri, most_bytes=9)])
def test_what_is_no_file_is_refused_and_never_waited_for(
    tmp_path: Path, act: Callable[[Files, str], Any], pauses: list[float]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind(str(tmp_path / "plug"))
        for uri, told in (
            (tmp_path / "pipe", "is a pipe; expected a regular file"),
            (tmp_path, "is a folder; expected a regular file"),
            ("/dev/zero", "is a device; expected a regular file"),
            (tmp_path / "plug", "socket|No such device or address"),
            (tmp_path / "nothing", "cannot read .*nothing: it does not exist"),
            (tmp_path / "loop", "Too many levels of symbolic links"),
            (tmp_path / ("x" * 300), "File name too long"),
            ("/a\0b", "null byte"),
        ):
            with pytest.raises(InvalidRequestError, match=told) as raised:
                act(Files(), str(uri))
            assert raised.value.code == "bad_input"
    assert pauses == []
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(InvalidRequestError):
            act(Files(), str(tmp_path))
    assert len(list(Path("/proc/self/fd").iterdir())) == open_now


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(InvalidRequestError, match=r"cannot read /secret\.mp4: access is denied"):
        Files().read("/secret.mp4", most_bytes=1)


class Response(Exception):  # noqa: N818  as botocore's errors look from outside
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}


class HttpStatus(Exception):  # noqa: N818  as aiohttp's
    def __init__(self, status: int) -> None:
        super().__init__(f"{status}, message='no'")
        self.status = status


class ReadTimeoutError(Exception):
    """Called as botocore's."""


class NoCredentialsError(Exception):
    """Called as botocore's."""


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        OSError(errno.EMFILE, "Too many open files"),
        HttpStatus(503),
        HttpStatus(429),
        Response(500, "InternalError"),
        caused(OSError(errno.EIO, "slow"), Response(503, "SlowDown")),
        ReadTimeoutError("Read timeout on endpoint URL"),
        caused(FileNotFoundError("http://h/v.mp4"), ConnectionRefusedError(errno.ECONNREFUSED, "refused")),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again(error: Exception, pauses: list[float]) -> None:
    tries = []

    def act() -> str:
        tries.append(1)
        if len(tries) < 4:
            raise error
        return "there"

    assert attempt("s3://b/k", act) == "there"
    assert len(pauses) == 3
    assert all(0 <= pause <= 8 for pause in pauses)

    def never() -> str:
        raise error

    with pytest.raises(StorageError, match="cannot read s3://b/k at the moment: "):
        attempt("s3://b/k", never)


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (FileNotFoundError("bucket/key"), InvalidRequestError, "cannot read s3://b/k: it does not exist"),
        (PermissionError("Access Denied"), InvalidRequestError, "cannot read s3://b/k: access is denied"),
        (HttpStatus(404), InvalidRequestError, "cannot read s3://b/k: 404, message='no'"),
        (ValueError(), InvalidRequestError, "cannot read s3://b/k: ValueError"),
        (ValueError("one\ntwo"), InvalidRequestError, "cannot read s3://b/k: one$"),
        (
            ImportError("no s3fs"),
            MachineError,
            r"no package for s3:// addresses is installed; pip install 'tubelet\[s3\]'",
        ),
        (NoCredentialsError("Unable to locate credentials"), MachineError, "no valid credentials for s3://.*Unable"),
        (
            caused(PermissionError("x"), Response(400, "ExpiredToken")),
            MachineError,
            "no valid credentials.*ExpiredToken",
        ),
    ],
    ids=repr,
)
def test_what_does_not_pass_is_told_at_once(
    error: Exception, kind: type[Exception], told: str, pauses: list[float]
) -> None:
    def act() -> None:
        raise error

    with pytest.raises(kind, match=told):
        attempt("s3://b/k", act)
    assert pauses == []


def test_one_file_system_serves_all_threads_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, dict[str, Any]]] = []

    def filesystem(protocol: str, **options: Any) -> MemoryFileSystem:
        made.append((protocol, options))
        return MemoryFileSystem()

    monkeypatch.setattr(fsspec, "filesystem", filesystem)
    systems = FileSystems({"anon": True, "s3": {"endpoint_url": "http://here"}, "client_kwargs": {"a": 1}})
    with ThreadPoolExecutor(8) as pool:
        found = {id(pair[0]) for pair in pool.map(systems.open, ["s3://b/k"] * 50)}
    assert len(found) == 1
    systems.open("memory://x")
    general = {"skip_instance_cache": True, "use_listings_cache": False, "anon": True, "client_kwargs": {"a": 1}}
    assert made == [("s3", {**general, "endpoint_url": "http://here"}), ("memory", general)]


def test_memory_and_chains() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/f/a.mp4": b"12345"})
    with memory.open("/f/b.zip", "wb") as out, zipfile.ZipFile(out, "w") as archive:
        archive.writestr("inner.mp4", b"678")
    files = Files()
    assert (files.size("memory://f/a.mp4"), files.read("memory://f/a.mp4", most_bytes=5)) == (5, b"12345")
    with pytest.raises(LimitError, match=r"memory://f/a\.mp4 has more than 3 bytes"):
        files.read("memory://f/a.mp4", most_bytes=3)
    assert files.read("zip://inner.mp4::memory://f/b.zip", most_bytes=5) == b"678"
    with pytest.raises(InvalidRequestError, match="memory://f is a folder; expected a regular file"):
        files.size("memory://f")
    memory.store.clear()


class Web(BaseHTTPRequestHandler):
    """10,000 bytes: ``/ranges`` gives parts of them, ``/whole`` all in pieces, ``/flaky`` nothing the first times."""

    body = bytes(range(250)) * 40
    failures: list[str] = []  # noqa: RUF012  of one test's server

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        if self.path == "/nothing" or (self.path == "/flaky" and with_body and len(self.failures) < 2):
            self.failures.append(self.path)
            self.send_response(404 if self.path == "/nothing" else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, status = self.body, 200
        if self.path != "/whole" and (wanted := self.headers.get("Range")):
            first, last = (int(end) for end in wanted.removeprefix("bytes=").split("-"))
            body, status = body[first : last + 1], 206
        self.send_response(status)
        if self.path != "/whole":
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            for start in range(0, len(body), 999):
                self.wfile.write(body[start : start + 999])


@pytest.fixture
def web() -> Iterator[str]:
    Web.failures.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_web(web: str, pauses: list[float]) -> None:
    files = Files()
    assert files.size(f"{web}/ranges") == 10_000
    for path in ("ranges", "whole", "flaky"):
        assert files.read(f"{web}/{path}", most_bytes=10_000) == Web.body
    assert len(pauses) == 2
    for path in ("ranges", "whole"):
        with pytest.raises(LimitError, match="has more than 9999 bytes"):
            files.read(f"{web}/{path}", most_bytes=9999)
    with pytest.raises(InvalidRequestError, match="nothing: it does not exist"):
        files.read(f"{web}/nothing", most_bytes=1)
    with pytest.raises(InvalidRequestError, match="its server does not say how long it is"):
        files.size(f"{web}/whole")
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: files.read(f"{web}/ranges", most_bytes=10_000), range(40))) == {Web.body}
