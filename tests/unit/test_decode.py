"""Opening and decoding: the right frames, nothing but the given bytes, and an end to everything."""

import ctypes
import io
import os
import socket
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tubelet.preprocess.container import open_video
from tubelet.preprocess.decode import Reading, RgbConverter, read_frames
from tubelet.preprocess.guard import Guard
from tubelet.preprocess.sniff import begins_like_video, is_text, missing_bytes
from tubelet.preprocess.timeline import (
    FALLBACK_FPS,
    VideoClock,
    constant_clock,
    frame_interval,
    frame_times,
    segment,
    video_clock,
)
from tubelet.spec.errors import DeadlineError, InvalidVideoError, LimitError, TubeletError
from tubelet.spec.limits import Limits

Pixels = NDArray[np.uint8]
MakeVideo = Callable[..., bytes]
ReadNumbers = Callable[[list[Pixels]], list[int]]

COUNTABLE = [
    {"codec": "libx264"},
    {"codec": "libx264", "container": "matroska"},
    {"codec": "libx264", "container": "flv"},
    {"codec": "libx264", "muxer": (("movflags", "frag_keyframe+empty_moov"),), "options": (("g", "5"),)},
    {"codec": "libx265", "options": (("x265-params", "log-level=none"),)},
    {"codec": "prores", "container": "mov", "pix_fmt": "yuv422p10le"},
    {"codec": "mjpeg", "container": "mov", "pix_fmt": "yuvj420p"},
    {"codec": "gif", "container": "gif", "pix_fmt": "rgb8"},
]
"""Packets are frames here: N is known before anything is decoded."""
READ_TO_THE_END = [
    {"codec": "libx264", "container": "mpegts"},
    {"codec": "libx264", "container": "h264"},
    {"codec": "libx265", "container": "hevc", "options": (("x265-params", "log-level=none"),)},
    {"codec": "libvpx", "container": "webm", "options": (("auto-alt-ref", "1"), ("lag-in-frames", "16"))},
    {"codec": "libvpx-vp9", "container": "webm"},
    {"codec": "mpeg4", "container": "avi", "options": (("bf", "2"),)},
    {"codec": "mpeg4", "container": "m4v"},
    {"codec": "mpeg2video", "container": "mpegts"},
    {"codec": "mpeg1video", "container": "mpeg"},
    {"codec": "h263", "container": "3gp", "size": (176, 144)},
    {"codec": "flv", "container": "flv"},
    {"codec": "wmv1", "container": "asf"},
    {"codec": "wmv2", "container": "asf"},
    {"codec": "msmpeg4", "container": "asf"},
]


def ids(video: dict[str, object]) -> str:
    return "-".join(str(video.get(key, "mp4")) for key in ("codec", "container"))


def read(video: bytes, wanted: list[int], guard: Guard | None = None) -> tuple[Reading, dict[int, Pixels]]:
    guard = guard or Guard(Limits())
    to_rgb, taken = RgbConverter(), {}
    with open_video(video, guard) as source:
        reading = read_frames(
            source,
            guard,
            wanted=wanted,
            take=lambda number, frame: taken.update({number: to_rgb(frame)}),
            restart=taken.clear,
        )
    return reading, taken


def refusal(video: bytes, limits: Limits | None = None) -> TubeletError:
    with pytest.raises(TubeletError) as caught:
        read(video, [0], Guard(limits or Limits()))
    assert "\n" not in str(caught.value)
    assert "Errno" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("video", COUNTABLE, ids=ids)
def test_reading_stops_after_the_last_wanted_frame(video, make_video: MakeVideo, read_numbers: ReadNumbers):
    reading, taken = read(make_video(**video), [3, 7, 11])
    assert list(taken) == read_numbers(list(taken.values())) == [3, 7, 11]
    assert reading.stopped
    assert len(reading.pts) < 20
    assert reading.num_failed == reading.num_repaired == 0


@pytest.mark.parametrize("video", READ_TO_THE_END, ids=ids)
def test_other_codecs_are_read_to_the_end(video, make_video: MakeVideo, read_numbers: ReadNumbers):
    reading, taken = read(make_video(**video), [3, 7, 11])
    assert list(taken) == read_numbers(list(taken.values())) == [3, 7, 11]
    assert not reading.stopped
    assert len(reading.pts) == 20
    assert reading.num_failed == reading.num_repaired == 0


def test_every_frame_has_its_number(make_video: MakeVideo, read_numbers: ReadNumbers):
    _, taken = read(make_video(60), list(range(60)))
    assert read_numbers(list(taken.values())) == list(range(60))


def test_the_best_stream_is_read(make_video: MakeVideo, read_numbers: ReadNumbers):
    with open_video(make_video(more_streams=((64, 48),)), Guard(Limits())) as source:
        assert source.num_video_streams == 2
        assert (source.stream.width, source.stream.height) == (120, 80)


def test_a_cover_is_no_video():
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        sound = file.add_stream("aac", rate=44_100)
        cover = file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        file.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), dtype=np.uint8), format="rgb24")))
        file.mux(cover.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), dtype=np.float32), format="fltp", layout="stereo")
        silence.sample_rate = 44_100
        file.mux(sound.encode(silence))
        file.mux(sound.encode(None))
    assert refusal(out.getvalue()).code == "no_video_stream"


def test_an_unusual_colour_description_does_not_stop_the_conversion(make_video: MakeVideo, read_numbers: ReadNumbers):
    params = "colormatrix=chroma-derived-nc:colorprim=smpte428:transfer=smpte2084"
    to_rgb, taken = RgbConverter(), []
    guard = Guard(Limits())
    with open_video(make_video(options=(("x264-params", params),)), guard) as source:
        read_frames(source, guard, wanted=[5], take=lambda _, frame: taken.append(to_rgb(frame)), restart=taken.clear)
    assert read_numbers(taken) == [5]
    assert list(to_rgb.warnings) == ["colour"]


@pytest.mark.parametrize(
    ("video", "code"),
    [
        (b"", "empty_video"),
        (b"\x00", "not_a_video"),
        (bytes(16), "not_a_video"),
        (bytes(1_000_000), "not_a_video"),
        (np.random.default_rng(0).bytes(100_000), "not_a_video"),
        (b"<!DOCTYPE html><title>404</title>", "not_a_video"),
        ("Köln, ein Text".encode(), "not_a_video"),
        ("a text in UTF-16".encode("utf-16"), "not_a_video"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "not_a_video"),
        (b"v=0\r\nc=IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n", "not_a_video"),
        (b"PK\x03\x04" + bytes(1000), "not_a_video"),
        (b"\x7fELF" + bytes(1000), "not_a_video"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2", "truncated"),
        (b"\x1aE\xdf\xa3\x01\x00", "truncated"),
        (b"RIFF\xff\xff\x00\x00AVI LIST", "truncated"),
    ],
)
def test_what_is_no_video_is_refused(video, code):
    error = refusal(video)
    assert isinstance(error, InvalidVideoError)
    assert error.code == code


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_an_mp4_that_ends_before_its_header_is_truncated(part, make_video: MakeVideo):
    video = make_video()
    end = video.rindex(b"moov")
    assert refusal(video[: int(end * part)]).code == "truncated"


def test_an_mp4_that_ends_before_its_first_frame_is_truncated(make_video: MakeVideo):
    video = make_video(muxer=(("moov_size", "4096"),))
    assert refusal(video[: video.rindex(b"mdat") + 4]).code == "truncated"


@pytest.mark.parametrize(("codec", "container"), [("ffv1", "matroska"), ("rawvideo", "mov"), ("huffyuv", "avi")])
def test_codecs_outside_the_list_never_run(codec, container, make_video: MakeVideo):
    error = refusal(
        make_video(codec=codec, container=container, pix_fmt="yuv422p" if codec == "huffyuv" else "yuv420p")
    )
    assert error.code == "codec_not_allowed"
    assert codec in error.message


def test_an_unknown_codec_is_refused(make_video: MakeVideo):
    assert refusal(make_video().replace(b"avc1", b"zzzz")).code == "codec_not_allowed"


def test_pictures_of_no_use_are_refused(make_video: MakeVideo):
    assert refusal(make_video(size=(4, 64))).code == "bad_dimensions"
    assert refusal(make_video(size=(16, 1024))).code == "bad_dimensions"


def test_an_encrypted_video_is_refused(make_video: MakeVideo):
    key = (("encryption_scheme", "cenc-aes-ctr"), ("encryption_key", "00" * 16), ("encryption_kid", "11" * 16))
    assert refusal(make_video(muxer=key)).code == "encrypted"


def test_frames_over_the_limit_are_refused_before_they_are_decoded(make_video: MakeVideo):
    error = refusal(make_video(size=(640, 480)), Limits(max_frame_pixels=640 * 480 - 1))
    assert isinstance(error, LimitError)
    assert error.code == "too_many_pixels"
    assert "max_frame_pixels" in error.message
    assert read(make_video(size=(640, 480)), [0], Guard(Limits(max_frame_pixels=640 * 480)))[1]


@pytest.mark.parametrize("size", [(640, 480), (136, 88)], ids=["far beyond", "just beyond"])
@pytest.mark.parametrize(
    ("codec", "container"), [("libx264", "h264"), ("libx264", "mpegts"), ("mpeg2video", "mpegts"), ("libvpx", "webm")]
)
def test_frames_that_grow_over_the_limit_are_refused(size, codec, container, make_video: MakeVideo):
    kind = {"codec": codec, "container": container}
    video = make_video(**kind) + make_video(**kind, size=size)
    with pytest.raises(LimitError, match="max_frame_pixels") as caught:
        read(video, [39], Guard(Limits(max_frame_pixels=120 * 80)))
    assert caught.value.code == "too_many_pixels"
    assert len(read(video, [39])[0].pts) > 20


def test_frames_are_counted_while_they_are_demuxed_and_while_they_are_decoded(make_video: MakeVideo):
    assert refusal(make_video(), Limits(max_decoded_frames=19)).code == "too_long"
    guard = Guard(Limits(max_decoded_frames=20))
    assert len(read(make_video(container="mpegts"), [19], guard)[0].pts) == guard.frames_decoded == 20
    with pytest.raises(LimitError, match="max_decoded_frames"):
        read(make_video(container="mpegts"), [19], guard)


def test_the_clock_is_looked_at_while_opening_and_while_decoding(make_video: MakeVideo):
    assert refusal(make_video(), Limits(decode_timeout_s=1e-9)).code == "decode_timeout"
    with pytest.raises(DeadlineError):
        read(make_video(), [0], Guard(Limits(), deadline=0.0))
    guard = Guard(Limits())
    with open_video(make_video(), guard) as source:
        guard.deadline = 0.0
        with pytest.raises(DeadlineError):
            read_frames(source, guard, wanted=[0], take=lambda number, frame: None, restart=lambda: None)


class OpenWatch:
    """Tells whether any file of a folder was opened, by any library of this process or by another (Linux inotify)."""

    IN_OPEN = 0x20

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self.descriptor, os.fsencode(folder), self.IN_OPEN) >= 0

    def was_opened(self) -> bool:
        try:
            return bool(os.read(self.descriptor, 4096))
        except BlockingIOError:
            return False


@pytest.fixture
def sibling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_video: MakeVideo) -> Iterator[OpenWatch]:
    """A video named sibling.ts in the working directory, and a watch over it."""
    (tmp_path / "sibling.ts").write_bytes(make_video(container="mpegts"))
    monkeypatch.chdir(tmp_path)
    watch = OpenWatch(tmp_path)
    yield watch
    os.close(watch.descriptor)


CONCAT = b"ffconcat version 1.0\nfile sibling.ts\n"
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsibling.ts\n#EXT-X-ENDLIST\n"


def test_the_watch_sees_what_an_unguarded_reader_opens(sibling: OpenWatch):
    assert not sibling.was_opened()
    with av.open(io.BytesIO(CONCAT), "r") as container:
        assert len(list(container.decode(video=0))) == 20
    assert sibling.was_opened()


@pytest.mark.parametrize("script", [CONCAT, CONCAT + b"#\x00", PLAYLIST, PLAYLIST + b"#\x00"])
def test_no_other_file_is_opened(script, sibling: OpenWatch):
    assert refusal(script).code == "not_a_video"
    assert not sibling.was_opened()


def test_no_connection_is_made():
    connections = 0
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            nonlocal connections
            while True:
                client, _ = server.accept()
                with client:
                    if client.recv(4) == b"quit":
                        return
                    connections += 1

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        address = server.getsockname()
        playlist = PLAYLIST.replace(b"sibling.ts", b"http://127.0.0.1:%d/x.ts" % address[1])
        try:
            refusal(playlist)
            refusal(playlist + b"#\x00")
            assert connections == 0
            with pytest.raises(av.FFmpegError):
                av.open(io.BytesIO(playlist), format="hls")
        finally:
            with socket.create_connection(address) as client:
                client.sendall(b"quit")
            acceptor.join()
    assert connections > 0, "the playlist names an address that answers"


@given(st.lists(st.integers(1, 10_000), max_size=30), st.integers(-(2**40), 2**40))
def test_times_follow_the_time_stamps(gaps, first):
    pts = [first]
    for gap in gaps:
        pts.append(pts[-1] + gap)
    times, stamped = frame_times(pts, time_base=Fraction(1, 1000), rate=Fraction(30))
    assert stamped
    np.testing.assert_allclose(times, (np.array(pts) - first) / 1000)


@pytest.mark.parametrize("pts", [[0, None, 2], [0, 2, 1], [5, 5, 6]])
def test_times_are_counted_where_time_stamps_are_missing_or_do_not_rise(pts):
    times, stamped = frame_times(pts, time_base=Fraction(1, 1000), rate=Fraction(10))
    assert not stamped
    np.testing.assert_allclose(times, [0, 0.1, 0.2])


@pytest.mark.parametrize("rate", [None, Fraction(0), Fraction(-1), Fraction(10**9)])
def test_an_absurd_rate_is_not_believed(rate):
    times, _ = frame_times([None, None], time_base=Fraction(1, 1000), rate=rate)
    assert times[1] == float(1 / FALLBACK_FPS)
    assert frame_interval(np.zeros(1), rate=rate) == float(1 / FALLBACK_FPS)


def test_an_interval_is_the_usual_gap():
    assert frame_interval(np.array([0, 0.1, 0.2, 5.0]), rate=Fraction(1000)) == pytest.approx(0.1)


@given(st.floats(0, 3), st.floats(0, 3))
def test_a_segment_holds_its_start_and_not_its_end(start_s, end_s):
    times = np.arange(20) / 10
    part = segment(times, start_s=start_s, end_s=end_s)
    assert times[part].tolist() == [time for time in times if start_s <= time < end_s]


def clock_of(video: bytes) -> VideoClock:
    with open_video(video, Guard(Limits())) as source:
        return source.clock(source.pts)[0]


@pytest.mark.parametrize(
    ("rate", "tick", "end"),
    # The end is the header's, which has the whole video in milliseconds: 666 and 667 of them at the odd rates.
    [(Fraction(25), 512, 10_240), (Fraction(30), 512, 10_230), (Fraction(30_000, 1001), 1001, 20_010)],
    ids=str,
)
def test_an_mp4_has_a_clock_of_the_streams_own_ticks(rate, tick, end, make_video: MakeVideo):
    clock = clock_of(make_video(fps=rate))
    assert clock.num_frames == 20
    assert clock.fps == float(rate)
    assert clock.ticks is not None
    assert clock.ticks.tolist() == [*(tick * number for number in range(20)), end]
    np.testing.assert_allclose(clock.times * float(rate), np.arange(20), atol=1e-9)


def test_decoded_frames_have_the_clock_of_their_mp4(make_video: MakeVideo):
    found, expected = constant_clock(20, fps=25.0), clock_of(make_video())
    assert found.ticks is not None
    assert expected.ticks is not None
    assert found.ticks.tolist() == expected.ticks.tolist()
    assert found.fps == expected.fps
    assert found.interval_s == pytest.approx(expected.interval_s)
    np.testing.assert_allclose(found.times, expected.times)


@pytest.mark.parametrize("container", ["matroska", "mpegts", "flv", "h264"])
def test_a_header_without_duration_or_number_of_frames_gives_no_ticks(container, make_video: MakeVideo):
    clock = clock_of(make_video(container=container))
    assert clock.ticks is None
    assert clock.num_frames == 20


def test_ticks_count_from_the_first_frame(make_video: MakeVideo):
    clock = clock_of(make_video(codec="mpeg4", container="avi", options=(("bf", "0"),)))
    assert clock.ticks is not None
    assert clock.ticks[[0, 1, 20]].tolist() == [0, 1, 20]


def test_a_part_ends_where_the_next_frame_begins(make_video: MakeVideo):
    clock = clock_of(make_video(7, pts_ms=(0, 40, 100, 250, 290, 300, 500)))
    assert clock.ticks is not None
    assert len(clock.ticks) == 8
    part = clock.part(slice(2, 5))
    np.testing.assert_allclose(part.times, [0.1, 0.25, 0.29])
    assert part.ticks is not None
    np.testing.assert_allclose(part.ticks / clock.ticks[6] * 500, [0, 150, 190, 200])
    assert (part.fps, part.interval_s) == (clock.fps, clock.interval_s)
    last = clock.part(slice(6, 7))
    assert last.ticks is not None
    assert last.ticks.tolist() == [0, clock.ticks[7] - clock.ticks[6]]


@pytest.mark.parametrize(
    ("num_claimed", "duration", "end"),
    [
        (4, 410, 410),  # the header's, which is not quite four equal frames
        (4, 600, 600),
        (4, 601, 400),  # more than double: absurd
        (4, 300, 400),  # ends before its last frame does
        (4, -1, 400),
        (4, 2**62, 400),
        (9, 410, 400),  # of other frames than came
    ],
)
def test_a_duration_is_believed_where_it_fits_the_stamps(num_claimed, duration, end):
    clock, stamped = video_clock(
        [7, 107, 207, 307], time_base=Fraction(1, 1000), rate=Fraction(10), num_claimed=num_claimed, duration=duration
    )
    assert stamped
    assert clock.ticks is not None
    assert clock.ticks.tolist() == [0, 100, 200, 300, end]


@pytest.mark.parametrize(
    ("pts", "num_claimed", "duration"),
    [
        ([0, 100], 2, None),
        ([0, 100], 2, 0),
        ([0, 100], 0, 200),
        ([0, None], 2, 200),
        ([100, 0], 2, 200),
        ([-(2**62), 2**62], 2, 200),
    ],
)
def test_there_are_no_ticks_without_duration_and_stamps(pts, num_claimed, duration):
    clock, _ = video_clock(
        pts, time_base=Fraction(1, 1000), rate=Fraction(10), num_claimed=num_claimed, duration=duration
    )
    assert clock.ticks is None
    assert clock.fps == 10


@pytest.mark.parametrize("rate", [None, Fraction(0), Fraction(10**9)])
def test_the_rate_is_that_of_the_stamps_where_the_header_has_none(rate):
    clock, _ = video_clock([0, 40, 80], time_base=Fraction(1, 1000), rate=rate, num_claimed=3, duration=120)
    assert clock.fps == pytest.approx(25)


@pytest.mark.parametrize("video", COUNTABLE + READ_TO_THE_END, ids=ids)
def test_no_video_looks_like_text_or_incomplete(video, make_video: MakeVideo):
    data = make_video(**video)
    assert not is_text(data)
    assert missing_bytes(data) == 0


def test_missing_bytes_are_counted(make_video: MakeVideo):
    for container, codec in (("mp4", "libx264"), ("avi", "mpeg4")):
        video = make_video(container=container, codec=codec)
        assert begins_like_video(video)
        assert missing_bytes(video[:-100]) == 100
