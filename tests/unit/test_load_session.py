"""A load test as a whole, against a scripted server: what it leaves behind where it is broken off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_triton import ScriptedTriton, running

from tubelet.loadtest.scenario import Closed, Folder, RequestKind, Scenario, Stream
from tubelet.loadtest.session import Session


@pytest.fixture
def triton() -> Iterator[ScriptedTriton]:
    with running(ScriptedTriton()) as scripted:
        yield scripted


class Metrics:
    """Metrics without a line, over connections that the server never ends."""

    def __init__(self) -> None:
        self.asked = 0
        self.asked_twice = asyncio.Event()
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            self.asked += 1
            if self.asked == 2:
                self.asked_twice.set()
        self.ended.set()
        writer.close()


def scenario(url: str, *, metrics_port: int, folder: Path) -> Scenario:
    (folder / "left.mp4").write_bytes(b"[3.0, 1.0, 0.0, -1.0]")
    kind = RequestKind(name="k", model="demo", videos="v")
    return Scenario(
        name="t",
        url=url,
        metrics_url=f"http://127.0.0.1:{metrics_port}/metrics",
        videos={"v": Folder(kind="folder", path=".")},
        streams=(Stream(name="s", arrivals=Closed(kind="closed", callers=1, pause_s=0.01), requests=(kind,)),),
        warm_up_s=0.0,
        duration_s=60.0,
    )


def test_who_cancels_it_leaves_no_connection_and_no_thread(triton: ScriptedTriton, tmp_path: Path) -> None:
    async def work() -> list[threading.Thread]:
        metrics = Metrics()
        async with await asyncio.start_server(metrics.serve, "127.0.0.1", 0) as server:
            what = scenario(triton.url, metrics_port=server.sockets[0].getsockname()[1], folder=tmp_path)
            test = asyncio.create_task(Session(scenario=what, folder=tmp_path).run())
            asked = asyncio.create_task(metrics.asked_twice.wait())
            await asyncio.wait([test, asked], return_when=asyncio.FIRST_COMPLETED)
            assert not test.done()
            threads = [thread for thread in threading.enumerate() if thread.name.startswith("watch")]
            test.cancel()
            with pytest.raises(asyncio.CancelledError):
                await test
            await asyncio.wait_for(metrics.ended.wait(), 10)
            return threads

    threads = asyncio.run(work())
    assert len(threads) == 1
    threads[0].join(10)
    assert not threads[0].is_alive()
