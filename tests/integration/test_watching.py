"""The server's side of a load test against a real Triton: known numbers of requests, its processes, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from real_server import Serving

from tubelet.clients import VideoClassifier
from tubelet.loadtest.measured import ServerFigures, StepFigures
from tubelet.loadtest.watching import ServerWatch
from tubelet.preprocess.canary import canary_video
from tubelet.spec.errors import OverloadedError, TubeletError

pytestmark = pytest.mark.needs_triton

STEPS = ["motion_sample", "motion_units", "motion_encoder", "motion_temporal", "motion_average"]
NO_VIDEO = b"no video"


@contextmanager
def left_alone(serving: Serving, classifier: VideoClassifier) -> Iterator[None]:
    """Only the test asks: the server's own canaries, which count like all else, stop for the time of it."""
    os.kill(serving.process.pid, signal.SIGSTOP)
    try:
        for _ in range(3):  # a canary that is under way has its answer before these have
            classifier.classify(canary_video())
        yield
    finally:
        os.kill(serving.process.pid, signal.SIGCONT)


@pytest.fixture
def alone(server: Serving, classifier: VideoClassifier) -> Iterator[None]:
    with left_alone(server, classifier):
        yield


async def watched(watch: ServerWatch, load: Callable[[], Awaitable[Any]]) -> ServerFigures | None:
    async with watch:
        await watch.open()
        await watch.begin()
        await load()
        return await watch.end()


def watch_of(serving: Serving, protocol: str = "grpc", **options: Any) -> ServerWatch:
    return ServerWatch(
        serving.ready[protocol], **{"metrics_url": serving.ready["metrics"], "models": ["motion"], **options}
    )


def figures(watch: ServerWatch, load: Callable[[], Awaitable[Any]]) -> ServerFigures:
    found = asyncio.run(watched(watch, load))
    assert found is not None
    return found


def asking(classifier: VideoClassifier, *videos: bytes, **options: Any) -> Callable[[], Awaitable[list[object]]]:
    """Sends all videos at the same time; gives what came, errors of ours included."""

    def ask(video: bytes) -> object:
        try:
            return classifier.classify(video, **options)
        except TubeletError as exc:
            return exc

    async def ask_all() -> list[object]:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(len(videos)) as threads:
            return await asyncio.gather(*(loop.run_in_executor(threads, ask, video) for video in videos))

    return ask_all


def by_name(found: ServerFigures) -> dict[str, StepFigures]:
    return {step.name: step for step in found.steps}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_known_requests(server: Serving, classifier: VideoClassifier, protocol: str) -> None:
    found = figures(watch_of(server, protocol), asking(classifier, *[canary_video()] * 20))
    assert found.version == "2.51.0"
    assert found.restarts == 0
    assert [step.name for step in found.steps] == ["motion", *STEPS]
    assert [step.is_public for step in found.steps] == [True] + [False] * len(STEPS)
    for step in found.steps:
        assert (step.requests, step.failures) == (20, 0), step
        assert sum(step.batch_sizes.values()) == step.executions > 0, step
        parts = (step.queue_ms, step.input_ms, step.compute_ms, step.output_ms)
        assert min(parts) > 0, step
        assert sum(parts) <= step.total_ms, step
    public, *inner = found.steps
    assert public.compute_ms == pytest.approx(sum(step.compute_ms for step in inner))
    assert max(step.total_ms for step in inner) < public.total_ms


@pytest.mark.usefixtures("alone")
def test_the_encoder_forms_batches_of_units(server: Serving, classifier: VideoClassifier) -> None:
    found = figures(watch_of(server), asking(classifier, *[canary_video()] * 6, protocol="4x3"))
    sizes = by_name(found)["motion_encoder"].batch_sizes
    alone = classifier.classify(canary_video(), protocol="4x3").report.units_encoded
    assert sum(int(size) * number for size, number in sizes.items()) == 6 * alone
    assert by_name(found)["motion_units"].batch_sizes == {"1": 6}


@pytest.mark.usefixtures("alone")
def test_failures_are_counted_once(server: Serving, classifier: VideoClassifier) -> None:
    load = asking(classifier, *[NO_VIDEO] * 7, *[canary_video()] * 3)
    steps = by_name(figures(watch_of(server), load))
    assert (steps["motion"].requests, steps["motion"].failures) == (3, 7)
    # To answer with an error is a step's success, by Triton's count.
    assert (steps["motion_sample"].requests, steps["motion_sample"].failures) == (10, 0)
    assert (steps["motion_units"].requests, steps["motion_units"].failures) == (3, 0)


def test_processes_of_the_server(server: Serving, classifier: VideoClassifier) -> None:
    watch = watch_of(server)

    async def load() -> None:
        for _ in range(3):
            await asking(classifier, *[canary_video()] * 5)()
            await watch.sample()

    found = figures(watch, load)
    processes = {process.name: process for process in found.processes}
    assert set(processes) >= {"tubelet serve", "tritonserver", *STEPS}
    assert {name.partition("#")[0] for name in processes} == {"tubelet serve", "tritonserver", *STEPS}
    assert processes["tubelet serve"].pid == server.process.pid
    (triton,) = (pid for pid in server.processes("bin/tritonserver"))
    assert processes["tritonserver"].pid == triton
    for name in STEPS:
        served = {process.pid for key, process in processes.items() if key.partition("#")[0] == name}
        assert served == set(server.processes(f"/{name}/"))
    assert all(process.most_mib >= process.last_mib > 0 for process in found.processes)
    assert processes["motion_encoder"].cpu_cores > 0
    together = sum(process.last_mib for process in found.processes)
    assert found.series.memory_mib[-1] == pytest.approx(together, rel=0.01)


def test_a_series_holds_every_sample(server: Serving) -> None:
    watch = watch_of(server)

    async def load() -> None:
        for _ in range(4):
            await watch.sample()

    series = figures(watch, load).series
    lengths = {len(values) for values in (series.at_s, series.cpu_cores, series.memory_mib, series.queued)}
    # A last look that comes soon counts with the one before.
    assert lengths in ({4}, {5})
    assert list(series.at_s) == sorted(series.at_s)
    assert min(series.at_s) >= 0
    assert min(series.cpu_cores) >= 0
    assert min(series.queued) >= 0


def test_what_waits_shows(server: Serving, classifier: VideoClassifier) -> None:
    watch = watch_of(server)

    async def load() -> None:
        answers = asyncio.ensure_future(asking(classifier, *[canary_video()] * 40)())
        while not answers.done():
            await watch.sample()
            await asyncio.wait([answers], timeout=0.01)

    assert 5 <= max(figures(watch, load).series.queued) < 40


def test_without_metrics_and_card(server: Serving) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/metrics"
    for metrics_url in (None, nobody, f"{server.ready['http']}/v2"):
        found = figures(watch_of(server, metrics_url=metrics_url), lambda: asyncio.sleep(0))
        assert set(found.series.queued) == {-1}
        assert found.gpus == ()
        assert len(found.steps) == 1 + len(STEPS)


def test_an_unknown_model_is_left_out(server: Serving) -> None:
    found = figures(watch_of(server, models=["motion", "nonsense"]), lambda: asyncio.sleep(0))
    assert [step.name for step in found.steps] == ["motion", *STEPS]


@pytest.mark.parametrize("url", ["127.0.0.1:{port}", "http://127.0.0.1:{port}"])
def test_nobody_there(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    watch = ServerWatch(url.format(port=port), metrics_url=f"http://127.0.0.1:{port}/metrics", models=["motion"])
    assert asyncio.run(watched(watch, watch.sample)) is None


def test_never_begun() -> None:
    async def work() -> ServerFigures | None:
        async with ServerWatch("127.0.0.1:1", metrics_url=None, models=[]) as watch:
            return await watch.end()

    assert asyncio.run(work()) is None


def test_refusals_and_a_restart(serve: Callable[..., Serving], make_repository: Callable[..., Path]) -> None:
    serving = serve(make_repository(queue_size=2))
    with serving.classifier() as classifier:
        refusals_are_failures(serving, classifier)
        a_lost_server_comes_back(serving, classifier)


def refusals_are_failures(serving: Serving, classifier: VideoClassifier) -> None:
    answers: list[object] = []

    async def load() -> None:
        answers.extend(await asking(classifier, *[canary_video()] * 40)())

    with left_alone(serving, classifier):
        steps = by_name(figures(watch_of(serving), load))
    refused = sum(isinstance(answer, OverloadedError) for answer in answers)
    assert refused > 0
    assert (steps["motion"].requests, steps["motion"].failures) == (40 - refused, refused)
    assert (steps["motion_sample"].requests, steps["motion_sample"].failures) == (40 - refused, 0)


def a_lost_server_comes_back(serving: Serving, classifier: VideoClassifier) -> None:
    watch = watch_of(serving)

    async def load() -> None:
        for _ in range(30):
            await asking(classifier, canary_video())()
        await watch.sample()
        os.kill(serving.processes("/motion_units/")[0], signal.SIGKILL)
        back = asyncio.create_task(asyncio.to_thread(serving.wait_for, "ready"))
        while not back.done():
            await watch.sample()
            await asyncio.wait([back], timeout=0.1)
        for _ in range(5):
            await asking(classifier, canary_video())()

    found = figures(watch, load)
    assert found.restarts == 1
    # Canaries of both servers are among them, at each start and each five seconds.
    assert by_name(found)["motion"].requests >= 35
    names = [process.name for process in found.processes]
    assert {"tritonserver", "tritonserver#2", "motion_units", "motion_units#2", "tubelet serve"} <= set(names)
    assert "tubelet serve#2" not in names
