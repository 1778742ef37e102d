"""A real server under small loads: what is counted of them over both protocols, and what a pause of it does."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fence import TOKEN, Fence, fenced, make_certificate
from real_server import TUBELET, Serving

from tubelet.loadtest.histograms import from_text
from tubelet.loadtest.measured import Measurement, Result
from tubelet.loadtest.running import event_loop, measure
from tubelet.loadtest.scenario import Closed, RequestKind, Scenario, Steady, Stream, Synthetic
from tubelet.loadtest.sending import Sender
from tubelet.spec.errors import InvalidVideoError, ScenarioError

pytestmark = pytest.mark.needs_triton

HOSTILE = b"this is no video" * 50
SOME = Synthetic(kind="synthetic")


@pytest.fixture(scope="module")
def videos(clips: Path) -> dict[str, tuple[bytes, ...]]:
    return {
        "clips": tuple(path.read_bytes() for path in sorted(clips.glob("*.mp4"))[:4]),
        "hostile": (HOSTILE,),
    }


@pytest.fixture(autouse=True)
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked a proxy would get no answer."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def kind(name: str = "short", **options: Any) -> RequestKind:
    return RequestKind(**{"name": name, "model": "motion", "videos": "clips", **options})


def closed(url: str, *requests: RequestKind, **options: Any) -> Scenario:
    """A warm-up would make counts depend on the server's speed; the count ends it long before the time does."""
    stream = Stream(name="main", arrivals=Closed(kind="closed", callers=2), requests=requests or (kind(),))
    basis = Scenario(
        name="test", url=url, videos={"clips": SOME, "hostile": SOME}, streams=(stream,), duration_s=60.0, warm_up_s=0.0
    )
    return replace(basis, **options)


def run(scenario: Scenario, videos: dict[str, tuple[bytes, ...]], **options: Any) -> Measurement:
    async def work() -> Measurement:
        async with Sender(scenario, videos) as sender:
            await sender.prepare()
            assert set(sender.contracts) == {one.model for _, one in scenario.kinds}
            assert all(sender.contracts.values())
            for call in options.pop("meanwhile", ()):
                call()
            return await measure(scenario, sender, folder=Path(), watch=None, stop=asyncio.Event(), **options)

    with asyncio.Runner(loop_factory=event_loop) as runner:
        return runner.run(work())


def test_both_protocols_count_the_same(server: Serving, videos: dict[str, tuple[bytes, ...]]) -> None:
    kinds = (kind("short", weight=2.0), kind("views", protocol="2x3"), kind("hostile", videos="hostile"))
    found = {}
    for protocol in ("grpc", "http"):
        scenario = closed(server.ready[protocol], *kinds, most_requests=24)
        archive = replace(scenario.streams[0], priority="archive", deadline_s=20.0)
        found[protocol] = run(replace(scenario, streams=(archive,)), videos)
    for one in found.values():
        short, views, hostile = one.kinds
        assert one.stopped_by == "count"
        assert one.together.requests == 24
        assert min(short.answered, views.answered, hostile.requests) > 0
        assert short.errors == views.errors == {}
        assert hostile.errors == {"not_a_video": hostile.requests}
        assert (views.protocol, views.views) == ("2x3", 6 * views.answered)
        assert short.units > 0
        assert 0 < short.server.p50_ms <= short.latency.max_ms
        assert one.together.latency.count == one.together.answered
        assert one.rate > 0
    counts = [
        [(one.name, one.requests, one.answered, one.views, one.units, one.bytes_sent) for one in figures.kinds]
        for figures in found.values()
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_reply_has_what_the_report_says(server: Serving, videos: dict[str, tuple[bytes, ...]], protocol: str) -> None:
    async def work() -> None:
        kinds = (kind("views", protocol="2x3"), kind("hostile", videos="hostile"))
        async with Sender(closed(server.ready[protocol], *kinds), videos) as sender:
            await sender.prepare()
            reply = await sender.send("views", 5)
            assert (reply.protocol, reply.views, reply.num_bytes) == ("2x3", 6, len(videos["clips"][1]))
            assert reply.units > 0
            assert reply.server_ms > 0
            with pytest.raises(InvalidVideoError):
                await sender.send("hostile", 0)

    asyncio.run(work())


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model": "nobody"}, "no model 'nobody'; the server has motion"),
        ({"protocol": "9x9"}, "short: model motion has the protocols .*, got '9x9'"),
        ({"model": "motion_sample"}, "no model of tubelet"),
    ],
)
def test_what_the_server_does_not_have_is_said_before_the_load(
    server: Serving, videos: dict[str, tuple[bytes, ...]], protocol: str, wrong: dict[str, str], words: str
) -> None:
    with pytest.raises(ScenarioError, match=words):
        run(closed(server.ready[protocol], kind(**wrong)), videos)


def test_an_address_that_is_none_is_the_scenarios_error(videos: dict[str, tuple[bytes, ...]]) -> None:
    with pytest.raises(ScenarioError, match="address"):
        run(closed("ftp://127.0.0.1:1"), videos)


def test_a_server_that_stands_still_for_two_seconds_shows_in_all_that_was_due(
    server: Serving, videos: dict[str, tuple[bytes, ...]]
) -> None:
    steady = Stream(name="main", arrivals=Steady(kind="steady", rate=10, spacing="constant"), requests=(kind(),))
    scenario = closed(server.ready["grpc"], streams=(steady,), duration_s=6.0, warm_up_s=1.0)
    (triton,) = server.processes("bin/tritonserver")

    def pause() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(2.5, os.kill, triton, signal.SIGSTOP)
        loop.call_later(4.5, os.kill, triton, signal.SIGCONT)

    try:
        found = run(scenario, videos, meanwhile=[pause])
    finally:
        os.kill(triton, signal.SIGCONT)
    latency = found.together.latency
    assert (found.together.requests, found.together.errors) == (60, {})
    assert latency.p999_ms > 1500
    items = from_text(latency.histogram).get_recorded_iterator()
    late = sum(item.count_at_value_iterated_to for item in items if item.value_iterated_to > 1_000_000)
    assert 7 <= late <= 40
    assert max(found.series.in_flight) >= 10


@pytest.fixture(scope="module")
def fence(server: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fence]:
    with fenced(server, tmp_path_factory.mktemp("fence")) as fence:
        yield fence


def load_through(
    fence: Fence, protocol: str, folder: Path, certificate: Path, *, metrics_url: str
) -> subprocess.CompletedProcess[str]:
    """`tubelet loadtest` with a token: two callers, until they have six answers."""
    scenario = folder / "fenced.toml"
    scenario.write_text(
        f"""
name = "fenced 1.0"
url = "{fence.url(protocol)}"
metrics_url = "{metrics_url}"
warm_up_s = 0.0
duration_s = 60.0
most_requests = 6
promise = "errors <= 0 %"
videos.short = {{ kind = "synthetic", count = 1, duration_s = 1.0 }}
[[streams]]
name = "callers"
arrivals = {{ kind = "closed", callers = 2 }}
requests = [{{ name = "short", model = "motion", videos = "short" }}]
"""
    )
    command: list[str | Path] = [TUBELET, "loadtest", scenario, "--out", folder, "--ca-file", certificate]
    environment = {**os.environ, "TUBELET_HEADERS": f"authorization=Bearer {TOKEN}"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_load_goes_through_tls(server: Serving, fence: Fence, tmp_path: Path, protocol: str) -> None:
    done = load_through(fence, protocol, tmp_path, fence.certificate, metrics_url=server.ready["metrics"])
    assert done.returncode == 0, done.stderr
    found = Result.load(tmp_path / "fenced 1.0.json").measurement
    assert (found.together.answered, found.together.errors) == (6, {})
    # The questions beside the load want the same certificate. Over HTTP the proxy keeps all models' counts to itself.
    assert found.server is not None
    assert found.server.version == "2.51.0"
    served = [step.name for step in found.server.steps if step.is_public]
    assert served == (["motion"] if protocol == "grpc" else [])


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_load_goes_to_a_server_for_which_nobody_vouches(
    server: Serving, fence: Fence, tmp_path: Path, protocol: str
) -> None:
    other = make_certificate(tmp_path)[0]
    done = load_through(fence, protocol, tmp_path, other, metrics_url=server.ready["metrics"])
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: bad_parameter: no trust in the server's certificate")
    assert not (tmp_path / "fenced 1.0.json").exists()
