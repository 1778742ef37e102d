"""Archives on S3, against a server that speaks its protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.exceptions import S3ClientError
from moto.s3.models import S3Backend, s3_backends
from moto.server import ThreadedMotoServer

from tubelet.archive.files import Files
from tubelet.archive.items import Item
from tubelet.archive.remote import StorageError
from tubelet.archive.sources import open_source
from tubelet.spec.errors import InvalidRequestError, LimitError, MachineError

NUM_OBJECTS = 2500


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def bucket(endpoint: str) -> Iterator[Any]:
    """2500 videos in one folder, some in others, and what is none."""
    s3 = boto3.resource(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )
    bucket = s3.create_bucket(Bucket="archive")
    stored = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]  # the server runs in this process; by HTTP it takes long
    for number in range(NUM_OBJECTS):
        stored.put_object("archive", f"many/{number:05d}.mp4", b"%d" % number)
    for key in (
        "deep/a/1.mp4",
        "deep/b/2.MOV",
        "deep/.hidden/3.mp4",
        "deep/notes.txt",
        "deeper/4.mp4",
        "deep/",
        "plain",
    ):
        bucket.put_object(Key=key, Body=key.encode())
    bucket.put_object(Key="deep/empty.mp4", Body=b"")
    yield bucket
    s3.meta.client.close()


@pytest.fixture
def options(endpoint: str, bucket: Any) -> dict[str, Any]:
    return {"endpoint_url": endpoint, "key": "k", "secret": "s"}


def uris(source: str, options: dict[str, Any]) -> list[str]:
    return [item.uri for item in open_source(source, options).items()]


def test_a_prefix_of_many_objects_comes_in_pages_and_in_order(options: dict[str, Any]) -> None:
    items = open_source("s3://archive/many/", options).items()
    assert next(items) == Item("s3://archive/many/00000.mp4")
    assert [item.uri for item in items] == [f"s3://archive/many/{k:05d}.mp4" for k in range(1, NUM_OBJECTS)]


def test_folders_and_patterns(options: dict[str, Any]) -> None:
    deep = ["s3://archive/deep/a/1.mp4", "s3://archive/deep/b/2.MOV", "s3://archive/deep/empty.mp4"]
    assert uris("s3://archive/deep", options) == deep
    assert uris("s3://archive/deep/*/*", options) == deep[:2]
    assert uris("s3://archive/dee*/**/*.mp4", options) == [deep[0], deep[2], "s3://archive/deeper/4.mp4"]
    assert len(uris("s3://archive/many/0000?.mp4", options)) == 10
    assert len(uris("s3://archive", options)) == NUM_OBJECTS + 4
    assert uris("s3://archive/plain", options) == ["s3://archive/plain"]


def test_lists_on_s3_name_their_neighbours(options: dict[str, Any], bucket: Any) -> None:
    bucket.put_object(Key="many/list.csv", Body=b"video,end_s\n00003.mp4,2\n../deep/a/1.mp4,\n/local.mp4,\n")
    bucket.put_object(Key="many/list.jsonl", Body=json.dumps({"uri": "00004.mp4", "start_s": 1}).encode())
    assert list(open_source("s3://archive/many/list.csv", options).items()) == [
        Item("s3://archive/many/00003.mp4", None, 2.0),
        Item("s3://archive/deep/a/1.mp4"),
        Item("/local.mp4"),
    ]
    assert list(open_source("s3://archive/many/list.jsonl", options).items()) == [
        Item("s3://archive/many/00004.mp4", 1.0, None)
    ]


def test_objects_are_read_by_many_threads(options: dict[str, Any]) -> None:
    files = Files(options)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda k: files.read(f"s3://archive/many/{k:05d}.mp4", most_bytes=9), range(100)))
    assert read == [b"%d" % k for k in range(100)]
    assert files.size("s3://archive/deep/a/1.mp4") == 12
    assert files.read("s3://archive/deep/empty.mp4", most_bytes=9) == b""
    with pytest.raises(LimitError, match="has more than 11 bytes"):
        files.read("s3://archive/deep/a/1.mp4", most_bytes=11)


def test_the_address_of_the_server_may_come_from_the_environment(
    endpoint: str, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ENDPOINT_URL", endpoint), ("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s")):
        monkeypatch.setenv(f"AWS_{name}", value)
    assert Files().read("s3://archive/plain", most_bytes=9) == b"plain"


def test_what_is_not_there_is_told(options: dict[str, Any]) -> None:
    files = Files(options)
    for act in (files.size, lambda uri: files.read(uri, most_bytes=9)):
        for uri in ("s3://archive/nothing.mp4", "s3://nobucket/a.mp4"):
            with pytest.raises(InvalidRequestError, match=f"cannot read {uri}: it does not exist"):
                act(uri)
    with pytest.raises(InvalidRequestError, match="cannot read s3://archive/nowhere/: it does not exist"):
        open_source("s3://archive/nowhere/", options)
    with pytest.raises(InvalidRequestError, match=r"looked for files that match s3://archive/deep/\*\.avi"):
        uris("s3://archive/deep/*.avi", options)
    with pytest.raises(InvalidRequestError, match=r"nothing\.csv: it does not exist"):
        uris("s3://archive/nothing.csv", options)


def refuse(code: str) -> Callable[..., None]:
    class RefusedError(S3ClientError):
        pass

    def refusing(*arguments: Any, **keywords: Any) -> None:
        raise RefusedError(code, "you may not")

    return refusing


def test_a_refused_object_is_a_bad_file(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Backend, "get_object", refuse("AccessDenied"))
    monkeypatch.setattr(S3Backend, "head_object", refuse("AccessDenied"))
    with pytest.raises(InvalidRequestError, match="cannot read s3://archive/plain: access is denied"):
        Files(options).read("s3://archive/plain", most_bytes=9)


def test_credentials_that_are_over_end_the_run(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source("s3://archive/many/", options)
    monkeypatch.setattr(S3Backend, "list_objects", refuse("ExpiredToken"))
    with pytest.raises(MachineError, match=r"no valid credentials for s3:// addresses \(ExpiredToken\)"):
        list(source.items())


def test_a_server_that_is_not_there_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    options = {
        "endpoint_url": "http://127.0.0.1:9",
        "key": "k",
        "secret": "s",
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    with pytest.raises(StorageError, match=r"cannot read s3://archive/a\.mp4 at the moment: Could not connect"):
        Files(options).read("s3://archive/a.mp4", most_bytes=9)
    assert len(pauses) == 3
