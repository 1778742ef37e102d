"""Decoding parts of a video: the frames are those of a full decode, whatever was left out."""

import io
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from hashlib import md5
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.stream import VideoStream
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.demo.long_video import panning_frames
from tubelet.preprocess import container as container_module
from tubelet.preprocess import packets as packets_module
from tubelet.preprocess.bitstream import picture_reader
from tubelet.preprocess.container import Source, open_video
from tubelet.preprocess.decode import Reading, read_frames
from tubelet.preprocess.guard import Guard
from tubelet.preprocess.prepare import prepare_video
from tubelet.preprocess.seeking import SeekIndex
from tubelet.spec.errors import LimitError
from tubelet.spec.limits import Limits
from tubelet.spec.request import Request

MakeVideo = Callable[..., bytes]
VIDEOS = Path(__file__).parents[2].parent / "shared" / "videos"
LARGEST = 2e8
"""Pixels times frames of a file that a test decodes several times."""


def x264(params: str = "", **kind: Any) -> dict[str, Any]:
    return {"codec": "libx264", "options": (("g", "30"), ("x264-params", params))} | kind


def x265(params: str = "", **kind: Any) -> dict[str, Any]:
    return {"codec": "libx265", "options": (("x265-params", f"log-level=none:keyint=30:{params}"),)} | kind


SEEKABLE = {
    "x264": x264(),
    "x264 in Matroska": x264(container="matroska"),
    "x264 in FLV": x264(container="flv"),
    "x264 fragmented": x264(muxer=(("movflags", "frag_keyframe+empty_moov"),)),
    "x264 without B-frames": x264("bframes=0"),
    "x264 sixteen B-frames": x264("bframes=16:b-adapt=0:ref=16:b-pyramid=normal:direct=temporal:weightb=1"),
    "x264 strict pyramid": x264("bframes=8:b-adapt=0:b-pyramid=strict"),
    "x264 open groups": x264("open-gop=1"),
    "x264 intra refresh": x264("intra-refresh=1"),
    "x264 headers in each group": x264("repeat-headers=1"),
    "x264 interlaced": x264("tff=1"),
    "x264 slices": x264("slices=4"),
    "x265 open groups": x265(),
    "x265 closed groups": x265("open-gop=0"),
    "x265 leading pictures that decode": x265("open-gop=0:radl=2:bframes=4:b-adapt=0:scenecut=0"),
    "x265 temporal layers": x265("temporal-layers=3:bframes=7:b-adapt=0"),
    "x265 intra refresh": x265("intra-refresh=1"),
    "x265 headers in each group": x265("repeat-headers=1", container="matroska"),
    "SVT-AV1": {"codec": "libsvtav1", "options": (("g", "30"), ("preset", "12"))},
    "SVT-AV1 forward key frames": {
        "codec": "libsvtav1",
        "container": "matroska",
        "options": (("g", "31"), ("preset", "12"), ("svtav1-params", "irefresh-type=1")),
    },
    "SVT-AV1 film grain": {
        "codec": "libsvtav1",
        "options": (("g", "30"), ("preset", "12"), ("svtav1-params", "film-grain=20")),
    },
    "ProRes": {"codec": "prores", "container": "mov", "pix_fmt": "yuv422p10le"},
}
"""Kinds of videos of which parts are decoded."""


@pytest.fixture(autouse=True, scope="module")
def quiet_encoder() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVT_LOG", "0")
        yield


@lru_cache(maxsize=64)
def moving_video(
    *,
    num_frames: int = 90,
    codec: str = "libx264",
    container: str = "mp4",
    options: tuple[tuple[str, str], ...] = (),
    pix_fmt: str = "yuv420p",
    muxer: tuple[tuple[str, str], ...] = (),
    size: tuple[int, int] = (128, 96),
) -> bytes:
    """A video in which each picture is predicted from others."""
    out = io.BytesIO()
    with av.open(out, "w", format=container, options=dict(muxer)) as file:
        stream = file.add_stream(codec, rate=30, options=dict(options))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        for pixels in panning_frames(num_frames, size=size):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    return out.getvalue()


def digest(frame: av.VideoFrame) -> str:
    return md5(frame.to_ndarray(format="rgb24").tobytes(), usedforsecurity=False).hexdigest()


@lru_cache(maxsize=64)
def full_decode(video: bytes) -> list[str]:
    """Digests of all frames, decoded with one thread from the first packet to the last."""
    with av.open(io.BytesIO(video), "r", metadata_errors="replace") as file:
        stream = file.streams.best("video")
        assert isinstance(stream, VideoStream)
        stream.codec_context.thread_count = 1
        return [digest(frame) for frame in file.decode(stream)]


class Parts:
    """What reading some frames of a video gave."""

    def __init__(self, video: bytes, wanted: Iterable[int], change: Callable[[Source], Source] = lambda source: source):
        self.digests: dict[int, str] = {}
        self.num_restarts = 0
        guard = Guard(Limits())
        with open_video(video, guard) as source:
            self.source = change(source)
            self.reading: Reading = read_frames(
                self.source, guard, wanted=frozenset(wanted), take=self._take, restart=self._restart
            )
        self.num_decoded = guard.frames_decoded

    def _take(self, number: int, frame: av.VideoFrame) -> None:
        self.digests[number] = digest(frame)

    def _restart(self) -> None:
        self.digests.clear()
        self.num_restarts += 1

    @property
    def index(self) -> SeekIndex:
        assert self.source.seek_index is not None
        return self.source.seek_index


def check(video: bytes, wanted: Iterable[int]) -> Parts:
    """Reads frames and compares them with those of a full decode."""
    wanted = sorted(wanted)
    expected = full_decode(video)
    parts = Parts(video, wanted)
    assert parts.digests == {number: expected[number] for number in wanted}
    assert list(parts.digests) == wanted
    return parts


def wanted_sets(num_frames: int) -> list[list[int]]:
    """One late frame; a few far apart; every other one in the middle; the last ones; a random choice."""
    chosen = np.random.default_rng(num_frames).choice(num_frames, size=max(1, num_frames // 8), replace=False)
    return [
        [num_frames * 9 // 10],
        sorted({*np.linspace(0, num_frames - 1, 5).astype(int).tolist()}),
        list(range(num_frames * 2 // 5, max(1, num_frames * 3 // 5), 2)),
        list(range(max(0, num_frames - 7), num_frames)),
        sorted(chosen.tolist()),
    ]


@pytest.mark.parametrize("kind", SEEKABLE)
def test_parts_are_those_of_a_full_decode(kind):
    video = moving_video(**SEEKABLE[kind])
    for wanted in wanted_sets(90):
        parts = check(video, wanted)
        assert parts.num_restarts == 0
        assert parts.reading.stopped


@pytest.mark.parametrize("kind", ["x264", "x264 sixteen B-frames", "x265 open groups", "x265 temporal layers"])
@given(wanted=st.sets(st.integers(0, 89), min_size=1, max_size=30))
@settings(max_examples=25)
def test_any_parts_are_those_of_a_full_decode(kind, wanted):
    assert check(moving_video(**SEEKABLE[kind]), wanted).num_restarts == 0


@pytest.mark.parametrize(
    ("kind", "num_starts"),
    [
        ("x264", 3),
        ("x264 open groups", 1),
        ("x264 intra refresh", 1),
        ("x265 open groups", 3),
        ("x265 intra refresh", 1),
        ("SVT-AV1", 3),
        ("ProRes", 90),
    ],
)
def test_only_packets_that_stand_alone_are_starts(kind, num_starts):
    parts = check(moving_video(**SEEKABLE[kind]), [80])
    assert parts.index.is_start.sum() == num_starts


def test_the_containers_key_frames_are_no_starts():
    """What makes the bitstreams worth reading: x264 marks the middle of a refresh as a key frame."""
    with av.open(io.BytesIO(moving_video(**SEEKABLE["x264 intra refresh"])), "r") as file:
        assert sum(packet.is_keyframe for packet in file.demux(video=0)) > 1


NO_B_FRAMES = x264("bframes=0:keyint=20:min-keyint=20:scenecut=0:ref=1")


@pytest.mark.parametrize(
    ("wanted", "num_decoded"),
    # The first two frames come in any case; a picture that is not needed costs nothing but the way to those behind it.
    [([0], 2), ([1], 2), ([10], 11), ([19], 20), ([20], 3), ([25], 8), ([85], 8), ([5, 85], 12), ([20, 40, 60], 5)],
    ids=str,
)
def test_decoding_begins_at_the_last_start_before_a_frame(wanted, num_decoded):
    parts = check(moving_video(**NO_B_FRAMES), wanted)
    assert parts.num_decoded == num_decoded


def test_pictures_that_nobody_wants_or_needs_are_not_decoded():
    kind = x264("bframes=3:b-adapt=0:b-pyramid=none:scenecut=0:keyint=300")
    parts = check(moving_video(**kind), [88])
    assert parts.index.is_disposable.sum() > 60
    assert parts.num_decoded < 30


def test_pictures_of_lower_layers_are_kept_for_the_higher_ones():
    """HEVC's other half: a picture that its own layer does not need."""
    parts = check(moving_video(**SEEKABLE["x265 temporal layers"]), [88])
    read = picture_reader("hevc", parts.source.stream.codec_context.extradata)
    assert read is not None
    assert parts.source.kept is not None
    pictures = [read(memoryview(packet)) for packet in parts.source.kept if packet.size]
    spare = [picture.layer for picture in pictures if picture is not None and picture.is_disposable]
    assert set(spare) == {2, 3}
    assert parts.index.is_disposable.sum() == spare.count(3)


def test_a_part_of_a_request_costs_its_own_frames(make_contract):
    contract = make_contract(clip_frames=4, stride=2)
    video = moving_video(**NO_B_FRAMES)

    def prepare(**parameters: object) -> tuple[int, int]:
        request = Request.from_parameters(parameters, contract, Limits())
        prepared = prepare_video(video, request, contract, Limits())
        return prepared.num_frames, prepared.frames_decoded

    # Frames 41, 43, 45 and 47 of 90: the probe of 2, and 40 to 47.
    assert prepare() == (90, 10)
    # Frames 62 to 68 of 60 to 71.
    assert prepare(start_s=2.0, end_s=2.4) == (12, 11)
    # Frames 3, 5, 7 and 9 of 0 to 14.
    assert prepare(end_s=0.5) == (15, 10)


def test_a_limit_on_frames_counts_those_of_the_file(make_contract):
    contract = make_contract()
    request = Request.from_parameters({"end_s": 0.5}, contract, Limits())
    with pytest.raises(LimitError, match="max_decoded_frames"):
        prepare_video(moving_video(**NO_B_FRAMES), request, contract, Limits(max_decoded_frames=89))


def altered(**changes: Any) -> Callable[[Source], Source]:
    """Makes a source whose index promises something else."""

    def change(source: Source) -> Source:
        assert source.seek_index is not None
        return replace(source, seek_index=replace(source.seek_index, **changes))

    return change


@pytest.mark.parametrize("kind", ["x264", "x264 intra refresh", "x265 open groups", "x265 intra refresh", "SVT-AV1"])
def test_a_start_that_is_none_is_found_out(kind):
    """Pictures that lack what they were predicted from do not come, come in pieces, or at a time that is not theirs."""
    video = moving_video(**SEEKABLE[kind])
    expected = full_decode(video)
    for at in (44, 45, 46, 47):
        starts = np.isin(np.arange(90), [0, at])
        parts = Parts(video, [60], altered(is_start=starts))
        assert parts.num_restarts == 1
        assert parts.digests == {60: expected[60]}


def test_other_packets_than_in_the_first_pass_are_found_out():
    video = moving_video(**SEEKABLE["x264"])
    stamps = Parts(video, [0]).index.pts
    parts = Parts(video, [70], altered(pts=np.where(np.arange(90) == 65, stamps + 1, stamps)))
    assert (parts.num_restarts, parts.digests) == (1, {70: full_decode(video)[70]})


def test_a_frame_that_does_not_come_is_found_out():
    def promise_one_more(source: Source) -> Source:
        stamps = [pts for pts in source.pts if pts is not None]
        return replace(source, pts=[*stamps[:65], stamps[65] - 1, *stamps[65:]])

    video = moving_video(**SEEKABLE["x264"])
    parts = Parts(video, [70], promise_one_more)
    assert (parts.num_restarts, parts.digests) == (1, {70: full_decode(video)[70]})


def damaged_video(kind: dict[str, Any]) -> bytes:
    """A video of 90 frames of which half a picture is spoilt that others need, after frame 60."""
    video = bytearray(moving_video(**{**kind, "options": (*kind["options"], ("crf", "5"))}))
    with av.open(io.BytesIO(bytes(video)), "r") as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
    is_needed = ~Parts(bytes(video), [0]).index.is_disposable
    packet = packets[62 + int(is_needed[62:].argmax())]
    assert packet.pos is not None
    half = slice(packet.pos + packet.size // 2, packet.pos + packet.size)
    video[half] = bytes(byte ^ 0x5A for byte in video[half])
    return bytes(video)


@pytest.mark.parametrize("kind", [x264(), x265("open-gop=0")], ids=["x264", "x265"])
def test_damage_on_the_way_leads_back_to_a_full_decode(kind):
    """What comes out is what comes out of a decode that never tried anything else, every time."""
    video = damaged_video(kind)
    plain = Parts(video, [85], lambda source: replace(source, seek_index=None))
    for _ in range(5):
        parts = Parts(video, [85])
        assert parts.num_restarts == 1
        assert parts.digests == plain.digests
        assert parts.reading == plain.reading


def test_damage_that_was_found_on_the_way_is_said(make_contract):
    contract = make_contract()
    request = Request.from_parameters({"protocol": "tsn"}, contract, Limits())
    prepared = prepare_video(damaged_video(x264()), request, contract, Limits())
    assert [warning.split(":")[0] for warning in prepared.warnings] == ["damaged"]


def remuxed(*videos: bytes, first: int = 0, shift: int = 0, container: str, **muxer: str) -> bytes:
    """The packets of MP4 videos one after the other, from one packet on, shown so many frames later."""
    out = io.BytesIO()
    with av.open(out, "w", format=container, options=muxer) as file:
        copy = None
        for video in videos:
            with av.open(io.BytesIO(video), "r") as source:
                stream = source.streams.video[0]
                copy = copy or file.add_stream_from_template(stream)
                packets = [packet for packet in source.demux(stream) if packet.size]
                ticks = packets[0].duration or 0
                for packet in packets[first:]:
                    assert packet.pts is not None
                    assert packet.dts is not None
                    again: Packet[Any] = Packet(bytes(packet))
                    again.stream, again.time_base, again.is_keyframe = copy, packet.time_base, packet.is_keyframe
                    again.pts, again.dts = packet.pts + shift * ticks, packet.dts + shift * ticks
                    file.mux(again)
            shift += len(packets)
    return out.getvalue()


def starts_of(video: bytes) -> list[int]:
    return np.flatnonzero(Parts(video, [0]).index.is_start).tolist()


def test_a_video_that_begins_with_an_open_group_is_decoded_from_its_beginning():
    """Its leading pictures never come, and all numbers are those of the pictures that do."""
    whole = moving_video(**SEEKABLE["x265 open groups"])
    video = remuxed(whole, first=starts_of(whole)[1], container="matroska")
    num_frames = len(full_decode(video))
    with open_video(video, Guard(Limits())) as source:
        assert source.seek_index is None
        assert len(source.pts) > num_frames
    for wanted in wanted_sets(num_frames):
        check(video, wanted)


@pytest.mark.parametrize("shift", [-5, -12])
@pytest.mark.parametrize("kind", ["x264", "x265 closed groups"])
def test_frames_that_an_edit_list_leaves_out_are_not_counted(kind, shift):
    whole = moving_video(**SEEKABLE[kind])
    video = remuxed(whole, shift=shift, container="mp4", avoid_negative_ts="disabled", use_editlist="1")
    num_frames = len(full_decode(video))
    assert num_frames == 90 + shift
    for wanted in wanted_sets(num_frames):
        parts = check(video, wanted)
        assert parts.num_restarts == 0
        assert not parts.index.is_shown.all()


def test_parameters_that_change_forbid_to_leave_out_packets():
    """Two videos in one file, the second one's headers in its own first packet only."""
    videos = [moving_video(num_frames=45, **x264(f"repeat-headers=1:{own}")) for own in ("cabac=1", "cabac=0")]
    video = remuxed(*videos, container="matroska")
    with open_video(video, Guard(Limits())) as source:
        assert source.seek_index is None
        assert source.countable
    for wanted in wanted_sets(90):
        check(video, wanted)
    same = remuxed(*videos[:1] * 2, container="matroska")
    assert check(same, [80]).index.is_start.sum() == 4


@contextmanager
def nothing_kept(monkeypatch: pytest.MonkeyPatch, limit: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        module = container_module if limit == "MAX_KEPT_BYTES" else packets_module
        patch.setattr(module, limit, 10)
        yield


@pytest.mark.parametrize("limit", ["MAX_KEPT_BYTES", "MAX_KEPT_PACKETS"])
@pytest.mark.parametrize(
    "kind",
    [
        *("x264", "x264 in Matroska", "x264 in FLV", "x264 fragmented", "x265 open groups", "SVT-AV1", "ProRes"),
        {"container": "mpegts"},
        {"container": "h264"},
        {"codec": "mpeg4", "container": "avi"},
        {"codec": "libvpx-vp9", "container": "webm", "options": (("deadline", "realtime"), ("cpu-used", "8"))},
    ],
    ids=str,
)
def test_a_large_video_is_demuxed_again(kind, limit, monkeypatch: pytest.MonkeyPatch):
    video = moving_video(**SEEKABLE[kind] if isinstance(kind, str) else kind)
    with nothing_kept(monkeypatch, limit):
        for wanted in ([70], [5, 80]):
            parts = check(video, wanted)
            assert parts.source.kept is None
            assert parts.num_restarts == 0
    assert check(video, [70]).source.kept is not None


def test_a_large_video_that_breaks_off_is_read_as_far_as_it_goes(monkeypatch: pytest.MonkeyPatch):
    video = moving_video(muxer=(("moov_size", "8192"),))
    video = video[: 8192 + (len(video) - 8192) // 2]
    expected = Parts(video, [10, 20])
    with nothing_kept(monkeypatch, "MAX_KEPT_BYTES"):
        found = Parts(video, [10, 20])
    assert (found.digests, found.reading) == (expected.digests, expected.reading)
    assert len(found.digests) == 2


def index_of(
    starts: Set[int], pts: list[int], hidden: Set[int] = frozenset(), spare: Set[int] = frozenset()
) -> SeekIndex:
    packets = range(len(pts))
    return SeekIndex(
        pts=np.array(pts, dtype=np.int64),
        is_shown=np.array([packet not in hidden for packet in packets]),
        is_start=np.array([packet in starts for packet in packets]),
        is_disposable=np.array([packet in spare for packet in packets]),
    )


OPEN_GROUPS = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8]
"""Time stamps of I P B B I B B P B B: packets 5 and 6 are decoded after the second I and shown before it."""


@pytest.mark.parametrize(
    ("number", "begin", "first"), [(3, 0, 0), (4, 0, 0), (5, 0, 0), (6, 4, 6), (7, 4, 6), (9, 4, 6)]
)
def test_leading_pictures_belong_to_the_group_before(number, begin, first):
    plan = index_of({0, 4}, OPEN_GROUPS).plan([number])
    assert plan.numbers.tolist() == [0, 1, number]
    assert (plan.begins[-1], plan.first_numbers[-1]) == (begin, first)


def test_frames_are_counted_without_those_that_are_not_shown():
    index = index_of({0, 4}, OPEN_GROUPS, hidden={0, 2, 4})
    assert index.packets_by_number().tolist() == [3, 1, 5, 6, 8, 9, 7]
    plan = index.plan([5])
    # Packet 4, which is not shown, would have been number 4.
    assert (plan.begins[-1], plan.first_numbers[-1]) == (4, 4)


def test_what_is_wanted_is_decoded_even_if_nobody_needs_it():
    plan = index_of({0, 4}, OPEN_GROUPS, spare={2, 3, 5, 6, 8, 9}).plan([8])
    assert np.flatnonzero(~plan.is_fed).tolist() == [3, 5, 6, 8]
    assert np.flatnonzero(~plan.comes).tolist() == [2, 4, 5, 7]


@pytest.mark.parametrize(
    ("starts", "pts", "hidden", "whole"),
    [
        ({0, 4}, OPEN_GROUPS, set(), True),
        ({4}, OPEN_GROUPS, set(), False),
        ({0}, [2, 0, 1, 3], set(), False),
        ({0}, [2, 0, 1, 3], {1, 2}, True),
        ({0}, [0, 1], {0, 1}, False),
    ],
)
def test_a_stream_begins_whole_with_a_start_that_is_shown_first(starts, pts, hidden, whole):
    assert index_of(starts, pts, hidden).begins_whole == whole


def files() -> list[Any]:
    """Ordinary videos of a size that a test can decode several times."""
    from test_prepare import rows

    return rows(
        lambda row: (
            row["expected"] == "ok"
            and row["strict"] == "yes"
            and int(row["width"]) * int(row["height"]) * int(row["frames_decoded"]) < LARGEST
        )
    )


@pytest.mark.parametrize("row", files())
def test_parts_of_ordinary_videos_are_those_of_a_full_decode(row):
    video = (VIDEOS / row["file"]).read_bytes()
    for wanted in wanted_sets(len(full_decode(video))):
        assert check(video, wanted).num_restarts == 0
