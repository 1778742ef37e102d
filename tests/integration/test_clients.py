"""Both clients over both protocols against a real Triton: one answer, TLS, headers, shared memory, cancelling."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fence import TOKEN, Fence, fenced, make_certificate
from real_server import ROOT, SHM, Serving
from test_deadlines import NUM_FRAMES, Gated, Watch, gated  # noqa: F401

from tubelet.clients import AsyncVideoClassifier, Classification, Tls, VideoClassifier
from tubelet.preprocess.canary import canary_video
from tubelet.spec.errors import InvalidRequestError, InvalidVideoError, LimitError, UnavailableError

pytestmark = pytest.mark.needs_triton

PROTOCOLS = ["grpc", "http"]
CLIENTS = [VideoClassifier, AsyncVideoClassifier]
FULL = f"full{NUM_FRAMES}"


def ask(kind: type, url: str, name: str, *arguments: Any, options: Any = None, **wishes: Any) -> Any:
    """Calls one method of a client that is made for it."""
    if kind is VideoClassifier:
        with VideoClassifier(url, **(options or {})) as classifier:
            return getattr(classifier, name)(*arguments, **wishes)

    async def run() -> Any:
        async with AsyncVideoClassifier(url, **(options or {})) as classifier:
            return await getattr(classifier, name)(*arguments, **wishes)

    return asyncio.run(run())


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestEveryWay:
    def test_one_answer(self, server: Serving, classifier: VideoClassifier, protocol: str, kind: type) -> None:
        expected = classifier.classify(canary_video(), protocol="4x3", top=3)
        found = ask(kind, server.ready[protocol], "classify", canary_video(), protocol="4x3", top=3)
        assert found.labels == expected.labels
        for name in ("logits", "view_logits", "frame_times", "clip_spans"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert found.report.contract_digest == classifier.describe().contract.digest
        assert found.report.duration_s == expected.report.duration_s

    def test_without_views(self, server: Serving, classifier: VideoClassifier, protocol: str, kind: type) -> None:
        expected = classifier.classify(canary_video(), protocol="4x3")
        found = ask(kind, server.ready[protocol], "classify", canary_video(), protocol="4x3", with_views=False)
        assert found.labels == expected.labels
        np.testing.assert_array_equal(found.logits, expected.logits)
        assert found.view_logits.shape == (0, len(expected.logits))
        assert (found.frame_times, found.clip_spans) == (None, None)
        assert found.report.views == len(expected.view_logits) == 12

    def test_frames(self, server: Serving, classifier: VideoClassifier, protocol: str, kind: type) -> None:
        frames = np.random.default_rng(0).integers(0, 255, (24, 48, 64, 3), dtype=np.uint8)
        expected = classifier.classify(frames, fps=12.5)
        found = ask(kind, server.ready[protocol], "classify", frames, fps=12.5)
        np.testing.assert_array_equal(found.logits, expected.logits)

    def test_descriptions(self, server: Serving, classifier: VideoClassifier, protocol: str, kind: type) -> None:
        url = server.ready[protocol]
        assert ask(kind, url, "models") == ("motion",)
        assert ask(kind, url, "describe") == classifier.describe()
        with pytest.raises(InvalidRequestError, match="no model 'nothing'; the server has motion"):
            ask(kind, url, "describe", "nothing")
        with pytest.raises(InvalidRequestError, match="inner step"):
            ask(kind, url, "describe", "motion_sample")

    def test_errors(self, server: Serving, protocol: str, kind: type) -> None:
        for video, wishes, error in (
            (b"no video", {}, InvalidVideoError),
            (canary_video(), {"protocol": "3x7"}, InvalidRequestError),
            (canary_video(), {"protocol": "65x1"}, LimitError),
            (canary_video(), {"start_s": 1e6}, InvalidRequestError),
        ):
            with pytest.raises(error):
                ask(kind, server.ready[protocol], "classify", video, **wishes)


# --- TLS and headers


@pytest.fixture(scope="module")
def fence(server: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fence]:
    with fenced(server, tmp_path_factory.mktemp("fence")) as fence:
        yield fence


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestThroughTheFront:
    def test_with_tls_and_a_token(self, fence: Fence, protocol: str, kind: type) -> None:
        options = {
            "model": "motion",
            "tls": Tls(ca_file=fence.certificate),
            "headers": lambda: {"Authorization": f"Bearer {TOKEN}"},
        }
        found = ask(kind, fence.url(protocol), "classify", canary_video(), options=options)
        assert isinstance(found, Classification)

    @pytest.mark.parametrize("headers", [None, {"authorization": "Bearer something-else"}])
    def test_without_a_token(self, fence: Fence, protocol: str, kind: type, headers: Any) -> None:
        options = {"model": "motion", "tls": Tls(ca_file=str(fence.certificate)), "headers": headers}
        with pytest.raises(InvalidRequestError, match=r"(?i)authorization") as caught:
            ask(kind, fence.url(protocol), "describe", options=options)
        assert caught.value.code == "bad_parameter"

    @pytest.mark.parametrize("is_ours", [False, True])
    def test_a_server_for_which_nobody_vouches(
        self, fence: Fence, tmp_path: Path, protocol: str, kind: type, is_ours: bool
    ) -> None:
        """Neither a certificate of ours nor this system's."""
        tls = Tls(ca_file=make_certificate(tmp_path)[0]) if is_ours else None
        with pytest.raises(InvalidRequestError, match="no trust in the server's certificate"):
            ask(kind, fence.url(protocol), "describe", options={"tls": tls})

    def test_a_certificate_that_is_not_there(self, fence: Fence, protocol: str, kind: type) -> None:
        options = {"tls": Tls(ca_file="/nowhere/ca.pem")}
        with pytest.raises(InvalidRequestError, match="certificate"):
            ask(kind, fence.url(protocol), "describe", options=options)


# --- shared memory

LARGE = 3 << 20
FRAMES = np.random.default_rng(1).integers(0, 255, (40, 160, 240, 3), dtype=np.uint8)


def large_video() -> bytes:
    """The canary, and a part of it that players leap over."""
    return canary_video() + LARGE.to_bytes(4, "big") + b"free" + bytes(LARGE - 8)


def client_regions() -> list[str]:
    """Those of this process that lie in shared memory."""
    return [path.name for path in SHM.glob(f"tubeletclient_{os.getpid()}_*")]


def mapped_regions(serving: Serving) -> set[str]:
    """Clients' regions that the server has in its memory."""
    (triton,) = serving.processes("bin/tritonserver")
    maps = Path(f"/proc/{triton}/maps").read_text(encoding="utf-8")
    return set(re.findall(r"tubeletclient_\w+", maps))


@pytest.fixture(scope="module")
def sharing_server(repository: Path) -> Iterator[Serving]:
    with Serving(repository, ["--allow-shared-memory"]) as serving:
        yield serving
    assert client_regions() == []


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_large_inputs_go_through_shared_memory(
    sharing_server: Serving, classifier: VideoClassifier, protocol: str, kind: type
) -> None:
    for source, wishes in ((large_video(), {"protocol": "4x3"}), (FRAMES, {"fps": 25.0})):
        expected = classifier.classify(source, **wishes)
        found = ask(kind, sharing_server.ready[protocol], "classify", source, options={"shared_memory": True}, **wishes)
        np.testing.assert_array_equal(found.logits, expected.logits)
        assert client_regions() == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_regions_are_used_again_and_follow_each_other(
    sharing_server: Serving, classifier: VideoClassifier, protocol: str
) -> None:
    """Another video in the same region, and two at a time, never get each other's answer."""
    other = FRAMES[::-1].copy()
    expected = [classifier.classify(frames, fps=25.0).logits for frames in (FRAMES, other)]
    assert not np.array_equal(expected[0], expected[1])
    with (
        VideoClassifier(sharing_server.ready[protocol], shared_memory=True) as sharing,
        ThreadPoolExecutor(2) as pool,
    ):
        for frames, logits in zip((FRAMES, other), expected, strict=True):
            np.testing.assert_array_equal(sharing.classify(frames, fps=25.0).logits, logits)
        (only,) = client_regions()
        assert mapped_regions(sharing_server) == {only}
        calls = [pool.submit(sharing.classify, frames, fps=25.0) for frames in (FRAMES, other) * 4]
        for call, logits in zip(calls, expected * 4, strict=True):
            np.testing.assert_array_equal(call.result().logits, logits)
        assert only in client_regions()
        assert len(client_regions()) <= 2
    assert client_regions() == []
    assert mapped_regions(sharing_server) == set()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_failed_call_leaves_nothing_in_shared_memory(sharing_server: Serving, protocol: str) -> None:
    with VideoClassifier(sharing_server.ready[protocol], shared_memory=True) as sharing:
        with pytest.raises(InvalidVideoError):
            sharing.classify(bytes(LARGE))
        assert client_regions() == []
        assert sharing.classify(large_video()).labels
    assert mapped_regions(sharing_server) == set()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_does_not_allow_it_gets_the_bytes(
    server: Serving, classifier: VideoClassifier, protocol: str
) -> None:
    with VideoClassifier(server.ready[protocol], shared_memory=True) as sharing:
        for _ in range(2):
            found = sharing.classify(FRAMES, fps=25.0)
            np.testing.assert_array_equal(found.logits, classifier.classify(FRAMES, fps=25.0).logits)
            assert client_regions() == []


def test_a_server_that_was_started_again_is_told_again(repository: Path) -> None:
    with Serving(repository, ["--allow-shared-memory"]) as serving, ExitStack() as stack:
        sharing = [
            stack.enter_context(VideoClassifier(serving.ready[protocol], shared_memory=True)) for protocol in PROTOCOLS
        ]
        expected = [one.classify(FRAMES, fps=25.0).logits for one in sharing]
        assert len(mapped_regions(serving)) == 2
        (triton,) = serving.processes("bin/tritonserver")
        os.kill(triton, signal.SIGKILL)
        serving.wait_for("ready")
        assert mapped_regions(serving) == set()
        for one, logits in zip(sharing, expected, strict=True):
            np.testing.assert_array_equal(one.classify(FRAMES, fps=25.0).logits, logits)
        assert len(mapped_regions(serving)) == 2
    assert client_regions() == []


KILLED = """
import os, signal, sys
import numpy as np
from tubelet.clients import VideoClassifier

classifier = VideoClassifier(sys.argv[1], shared_memory=True)
classifier.classify(np.zeros((40, 160, 240, 3), np.uint8), fps=25.0)
(region,) = [name for name in os.listdir("/dev/shm") if name.startswith(f"tubeletclient_{{os.getpid()}}_")]
sys.stdout.write(region + "\\n")
sys.stdout.flush()
{end}
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_client_that_is_never_closed_leaves_nothing(sharing_server: Serving, end: str) -> None:
    command = [sys.executable, "-c", KILLED.format(end=end), sharing_server.ready["grpc"]]
    # The end of its output is the end of all its processes: one of them tidies up after a kill.
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.startswith("tubeletclient_")
    assert not (SHM / done.stdout.strip()).exists()


# --- work that nobody waits for


def drain(url: str) -> None:
    """Questions that the server hears after whatever was said before on other connections."""
    with VideoClassifier(url) as other:
        for _ in range(20):
            other.describe("motion_vtn")
            other.models()


def test_a_cancelled_task_ends_the_work_on_the_server(gated: Gated) -> None:  # noqa: F811
    async def work() -> None:
        async with AsyncVideoClassifier(gated.serving.ready["grpc"], model="motion_vtn") as classifier:
            await classifier.describe()
            call = asyncio.create_task(classifier.classify(gated.video, protocol=FULL))
            await asyncio.to_thread(watch.wait_for_arrival)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            for _ in range(20):  # behind the cancel on the same connection
                await classifier.models()
            await asyncio.to_thread(watch.assert_refused, 0)

    with Watch(gated, "sample", "units", "cancelled") as watch:
        asyncio.run(work())


def test_closing_from_another_thread_ends_it(gated: Gated) -> None:  # noqa: F811
    url = gated.serving.ready["grpc"]
    classifier = VideoClassifier(url, model="motion_vtn")
    with Watch(gated, "sample", "units", "cancelled") as watch, ThreadPoolExecutor(1) as pool:
        call = pool.submit(classifier.classify, gated.video, protocol=FULL)
        watch.wait_for_arrival()
        classifier.close()
        assert isinstance(call.exception(), UnavailableError)
        drain(url)
        watch.assert_refused(0)


INTERRUPTED = """
import signal, sys
from pathlib import Path
from tubelet.clients import VideoClassifier

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
with VideoClassifier(sys.argv[1], model="motion_vtn") as classifier:
    try:
        classifier.classify(Path(sys.argv[2]), protocol=sys.argv[3])
    except KeyboardInterrupt:
        sys.stdout.write(str(classifier.models()) + "\\n")
        sys.stdout.flush()
        sys.stdin.read()
"""


def test_ctrl_c_ends_it(gated: Gated, tmp_path: Path) -> None:  # noqa: F811
    """The program goes on after it, and so does its connection."""
    url = gated.serving.ready["grpc"]
    (tmp_path / "video").write_bytes(gated.video)
    command = [sys.executable, "-c", INTERRUPTED, url, tmp_path / "video", FULL]
    with (
        Watch(gated, "sample", "units", "cancelled") as watch,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        watch.wait_for_arrival()
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert "motion_vtn" in process.stdout.readline()
        drain(url)
        watch.assert_refused(0)
        process.communicate()
    assert process.returncode == 0


# --- the examples that users copy


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_example_of_many_videos(server: Serving, clips: Path, protocol: str) -> None:
    videos = [*sorted(clips.glob("*.mp4")), clips / "absent.mp4"]
    command = [sys.executable, ROOT / "clients" / "python" / "classify_many.py", server.ready[protocol], *videos]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(video) for video in videos]
    found = [line.partition(": ")[2].split()[0] for line in lines]
    assert found[-1] == "error:"
    right = [name == video.stem.partition("_")[2] for name, video in zip(found[:-1], videos[:-1], strict=True)]
    assert sum(right) >= 14
    assert len(right) == 16


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_example_of_one_video(server: Serving, clips: Path, protocol: str) -> None:
    video = min(clips.glob("*.mp4"))
    command = [sys.executable, ROOT / "clients" / "python" / "classify.py", video, server.ready[protocol]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert [len(line.split()) for line in done.stdout.splitlines()] == [2, 2, 2]
