"""Videos for load tests: made, decoded again by PyAV, and read from folders."""

import io
import os
import threading
from itertools import combinations
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tubelet.loadtest.scenario import Folder, Synthetic, Videos
from tubelet.loadtest.videos import gather_videos
from tubelet.preprocess.container import open_video
from tubelet.preprocess.guard import Guard
from tubelet.spec.errors import ScenarioError
from tubelet.spec.limits import Limits

CODECS = ["h264", "hevc", "mpeg4", "vp9", "av1", "mjpeg"]
NOWHERE = Path("/nowhere")


def small(**changes: object) -> Synthetic:
    settings: dict[str, object] = {"count": 2, "width": 96, "height": 64, "duration_s": 0.4, "fps": 25.0}
    return Synthetic(kind="synthetic", **(settings | changes))  # type: ignore[arg-type]


def gather(videos: Videos, *, folder: Path = NOWHERE, seed: int = 0) -> tuple[bytes, ...]:
    return gather_videos({"clips": videos}, folder=folder, seed=seed)["clips"]


def decode(video: bytes) -> NDArray[np.float64]:
    """All frames, RGB ``[n, h, w, 3]``."""
    with av.open(io.BytesIO(video), "r") as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]).astype(float)


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_makes_what_was_asked_for_and_a_server_takes_it(codec, capfd, monkeypatch):
    monkeypatch.delenv("SVT_LOG", raising=False)
    for video in gather(small(codec=codec)):
        assert decode(video).shape == (10, 64, 96, 3)
        with open_video(video, Guard(Limits())) as source:
            assert source.stream.codec_context.codec.canonical_name == codec
            assert source.stream.average_rate == 25
            assert (source.countable, len(source.pts)) == (codec not in ("mpeg4", "vp9"), 10)
    assert capfd.readouterr() == ("", ""), "an encoder prints"
    assert "SVT_LOG" not in os.environ


def test_videos_move_and_differ_from_each_other():
    pictures = [decode(video) for video in gather(small(count=6, duration_s=1.0))]
    for one in pictures:
        steps = np.abs(np.diff(one, axis=0)).mean(axis=(1, 2, 3))  # of 255
        assert steps.mean() > 2
        assert steps.min() > 0.2
    for one, other in combinations(pictures, 2):
        assert np.abs(one - other).mean() > 20


def test_entries_with_the_same_settings_have_different_videos():
    made = gather_videos({"a": small(), "b": small()}, folder=NOWHERE, seed=0)
    assert list(made) == ["a", "b"]
    assert len({*made["a"], *made["b"]}) == 4


def test_equal_seeds_make_equal_videos():
    first, again, other = (gather(small(codec="mpeg4"), seed=seed) for seed in (5, 5, -6))
    assert first == again
    assert not set(first) & set(other)


def test_sizes_are_those_of_real_videos():
    sizes = [len(video) for video in gather(small(count=4, width=320, height=240, duration_s=2.0))]
    assert min(sizes) > 15_000
    assert max(sizes) < 150_000


@pytest.mark.parametrize(
    ("fps", "rate"), [(29.97, "2997/100"), (30000 / 1001, "30000/1001"), (0.5, "1/2"), (1000.0, "1000")]
)
def test_frame_rates_are_kept(fps, rate):
    (video,) = gather(small(count=1, codec="mpeg4", fps=fps, duration_s=4 / fps))
    with av.open(io.BytesIO(video), "r") as file:
        assert str(file.streams.video[0].average_rate) == rate
        assert file.streams.video[0].frames == 4


def test_a_video_has_one_frame_at_least():
    (video,) = gather(small(count=1, duration_s=0.001))
    assert len(decode(video)) == 1


@pytest.mark.parametrize("codec", ["mpeg4", "vp9", "av1", "mjpeg"])
def test_odd_sizes_are_made_where_the_codec_has_them(codec):
    (video,) = gather(small(count=1, codec=codec, width=97, height=33, duration_s=0.08))
    assert decode(video).shape == (2, 33, 97, 3)


def test_a_tiny_picture_has_room_for_all_that_moves():
    (video,) = gather(small(count=1, codec="mjpeg", width=1, height=1))
    assert decode(video).shape == (10, 1, 1, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"codec": "h265"}, r"videos\.clips\.codec must be one of h264, hevc, mpeg4, vp9, av1, mjpeg, got 'h265'"),
        ({"width": 97}, "must be even for h264, got 97x64"),
        ({"codec": "hevc", "height": 63}, "must be even for hevc, got 96x63"),
        ({"fps": 1e-6}, r"clips\.fps must be from 0\.1 to 1000, got 1e-06"),
        ({"height": 8194}, "8192 at most, got 96x8194"),
        ({"count": 10**6, "duration_s": 1e6}, r"must be 2e\+10 pixels at most, got 1\.5e\+17"),
        ({"codec": "av1", "width": 2, "height": 2}, r"clips: no av1 of 2x2 at 25 frames a second .* another size"),
    ],
)
def test_videos_that_cannot_be_made_are_refused_in_words(changes, words, capfd):
    with pytest.raises(ScenarioError, match=words) as caught:
        gather(small(**changes))
    assert caught.value.code == "bad_scenario"
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is given real-time priority")
@pytest.mark.parametrize(
    "settings", [small(codec="av1"), small(codec="av1", width=2, height=2)], ids=["made", "refused"]
)
def test_no_encoder_leaves_real_time_priority_behind(settings):
    policies = []

    def make() -> None:
        try:
            gather(settings)
        except ScenarioError:
            policies.append(-1)
        policies.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=make)  # a priority is a thread's own
    thread.start()
    thread.join()
    assert policies[-1] == os.SCHED_OTHER


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    (folder / "b").mkdir(parents=True)
    (folder / ".cache").mkdir()
    for name in ("c.mp4", "a.mp4", "b/d.MOV", "b/e.mp4", "notes", ".hidden.mp4", ".cache/f.mp4"):
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["a.mp4", "b/d.MOV", "b/e.mp4", "c.mp4"]),
        ({"pattern": "*.mp4"}, ["a.mp4", "c.mp4"]),
        ({"pattern": "**/*.mp4", "most": 2}, ["a.mp4", "b/e.mp4"]),
    ],
)
def test_files_are_read_in_the_order_of_their_names(clips, changes, names):
    for path in ("clips", str(clips)):
        found = gather(Folder(kind="folder", path=path, **changes), folder=clips.parent)
        assert [video.decode() for video in found] == names


def test_empty_files_are_kept(clips):
    (clips / "a.mp4").write_bytes(b"")
    assert gather(Folder(kind="folder", path="clips", pattern="a.*"), folder=clips.parent) == (b"",)


@pytest.mark.parametrize(
    ("path", "pattern", "words"),
    [
        ("clips", "*.avi", r"videos\.clips: no file in .*/clips matches '\*\.avi'"),
        ("none", "**/*.*", "no file in .*/none matches"),
        ("clips", "b", "no file in .*/clips matches 'b'"),
        ("clips", "", "cannot look for '' in .*/clips"),
        ("clips", "/etc/*", "cannot look for '/etc/"),
        ("cl\0ips", "*", "cannot look for|no file in"),
    ],
)
def test_folders_without_videos_are_named(clips, path, pattern, words):
    with pytest.raises(ScenarioError, match=words) as caught:
        gather(Folder(kind="folder", path=path, pattern=pattern), folder=clips.parent)
    assert caught.value.code == "bad_scenario"


def test_a_file_that_cannot_be_read_is_named(clips):
    (clips / "bad.mp4").symlink_to("/proc/self/mem")
    with pytest.raises(ScenarioError, match=r"videos\.clips: cannot read .*/clips/bad\.mp4: Input/output error"):
        gather(Folder(kind="folder", path="clips"), folder=clips.parent)
