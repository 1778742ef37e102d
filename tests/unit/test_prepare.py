"""The whole way of a video to frames, units, clips and crops."""

import csv
import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.averaging import view_rows
from tubelet.preprocess.geometry import crop_offsets, cut_units
from tubelet.preprocess.prepare import Prepared, prepare_frames, prepare_video
from tubelet.preprocess.resize import resize_frame
from tubelet.preprocess.sampling import plan_units, sample_clips
from tubelet.preprocess.timeline import constant_clock
from tubelet.spec.errors import DeadlineError, InvalidRequestError, InvalidVideoError, LimitError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.request import Request

MakeVideo = Callable[..., bytes]
MakeContract = Callable[..., Contract]
ReadNumbers = Callable[[Any], list[int]]

VIDEOS = Path(__file__).parents[2].parent / "shared" / "videos"


def prepare(video: bytes, contract: Contract, limits: Limits | None = None, **parameters: object) -> Prepared:
    limits = limits or Limits()
    return prepare_video(video, Request.from_parameters(parameters, contract, limits), contract, limits)


def words(prepared: Prepared) -> list[str]:
    return [warning.split(":")[0] for warning in prepared.warnings]


def clips_of(prepared: Prepared, numbers: list[int]) -> list[list[int]]:
    """The clips by the numbers that their frames show."""
    clips = np.array(numbers)[prepared.unit_frames[prepared.clip_units]]
    shown: list[list[int]] = clips.reshape(len(prepared.clip_units), -1).tolist()
    return shown


@pytest.fixture
def contract(make_contract: MakeContract) -> Contract:
    """Clips of 4 frames at stride 2."""
    return make_contract()


def test_shapes_types_and_bookkeeping(contract: Contract, make_video: MakeVideo, read_numbers: ReadNumbers):
    prepared = prepare(make_video(30), contract, protocol="4x3")
    frames = [0, 2, 4, 6, 7, 9, 11, 13, 14, 16, 18, 20, 22, 24, 26, 28]
    assert prepared.frames.shape == (len(frames), 64, 96, 3)
    assert read_numbers(prepared.frames) == frames
    assert prepared.frames.dtype == np.uint8
    assert prepared.unit_frames.shape == (8, 2)
    assert prepared.clip_units.shape == (4, 2)
    assert prepared.crops.tolist() == [[8, 0], [8, 24], [8, 48]]
    for indices in (prepared.unit_frames, prepared.clip_units, prepared.crops):
        assert indices.dtype == np.int32
    assert prepared.frame_times.dtype == np.float32
    assert prepared.frame_times.shape == (4, 4)
    np.testing.assert_allclose(prepared.frame_times * 25, clips_of(prepared, frames), rtol=1e-5)
    assert prepared.num_frames == 30
    assert prepared.duration_s == pytest.approx(1.2)
    assert len(frames) <= prepared.frames_decoded < 30
    assert prepared.warnings == ()
    assert set(prepared.milliseconds) == {"decode", "resize"}
    assert min(prepared.milliseconds.values()) > 0


@pytest.mark.parametrize(
    ("video", "size"),
    [
        ({}, (64, 96)),
        ({"audio": True}, (64, 96)),
        ({"size": (97, 65), "pix_fmt": "yuv444p"}, (64, 95)),
        ({"size": (161, 121), "codec": "libvpx-vp9", "container": "webm"}, (64, 85)),
        ({"size": (80, 120)}, (96, 64)),
        ({"rotation": 90}, (96, 64)),
        ({"rotation": -90}, (96, 64)),
        ({"rotation": 180}, (64, 96)),
        ({"options": (("flags", "+ildct+ilme"), ("x264-params", "tff=1"))}, (64, 96)),
        ({"pix_fmt": "yuv420p10le"}, (64, 96)),
        ({"pix_fmt": "gray"}, (64, 96)),
    ],
    ids=str,
)
def test_pictures_come_out_upright_and_whole(
    video, size, contract: Contract, make_video: MakeVideo, read_numbers: ReadNumbers
):
    prepared = prepare(make_video(**video), contract, protocol="tsn")
    assert read_numbers(prepared.frames) == [2, 7, 12, 17]
    assert prepared.frames.shape[1:3] == size
    assert prepared.warnings == ()


def test_an_odd_rotation_is_left_alone_and_said(contract: Contract, make_video: MakeVideo, read_numbers: ReadNumbers):
    prepared = prepare(make_video(rotation=45), contract, protocol="tsn")
    assert read_numbers(prepared.frames) == [2, 7, 12, 17]
    assert words(prepared) == ["rotation"]


def test_the_best_of_several_streams_is_named(contract: Contract, make_video: MakeVideo, read_numbers: ReadNumbers):
    prepared = prepare(make_video(more_streams=((64, 48),)), contract, protocol="tsn")
    assert read_numbers(prepared.frames) == [2, 7, 12, 17]
    assert words(prepared) == ["streams"]


@pytest.mark.parametrize(("num_frames", "clip"), [(1, [0, 0, 0, 0]), (2, [0, 0, 0, 0]), (3, [0, 2, 1, 0])])
def test_a_short_video_starts_again(
    num_frames, clip, contract: Contract, make_video: MakeVideo, read_numbers: ReadNumbers
):
    prepared = prepare(make_video(num_frames), contract)
    assert clips_of(prepared, read_numbers(prepared.frames)) == [clip]
    assert words(prepared) == ["repeated"]


def test_a_variable_rate_is_sampled_by_frames_and_timed_by_time_stamps(
    contract: Contract, make_video: MakeVideo, read_numbers: ReadNumbers
):
    prepared = prepare(make_video(7, pts_ms=(100, 105, 200, 201, 500, 1000, 2100)), contract)
    assert read_numbers(prepared.frames) == [0, 2, 4, 6]
    np.testing.assert_allclose(prepared.frame_times, [[0, 0.1, 0.4, 2.0]], atol=1e-6)
    assert 2.0 < prepared.duration_s < 4.0  # nobody knows how long the last frame is shown


def test_a_target_rate_is_sampled_by_time(
    make_contract: MakeContract, make_video: MakeVideo, read_numbers: ReadNumbers
):
    at_half_rate = prepare(make_video(40, fps=20), make_contract(target_fps=10.0, stride=1), protocol="2x1")
    assert clips_of(at_half_rate, read_numbers(at_half_rate.frames)) == [[0, 2, 4, 6], [32, 34, 36, 38]]
    at_double_rate = prepare(make_video(40, fps=20), make_contract(target_fps=40.0, stride=1), protocol="2x1")
    assert clips_of(at_double_rate, read_numbers(at_double_rate.frames)) == [[0, 0, 1, 1], [38, 38, 39, 39]]


@pytest.mark.parametrize("container", ["mp4", "mpegts"])
def test_a_part_of_a_video_is_the_video(
    container, contract: Contract, make_video: MakeVideo, read_numbers: ReadNumbers
):
    prepared = prepare(make_video(30, container=container), contract, start_s=0.4, end_s=0.8)
    assert prepared.num_frames == 10
    assert prepared.duration_s == pytest.approx(1.2)  # of the whole
    assert read_numbers(prepared.frames) == [11, 13, 15, 17]
    np.testing.assert_allclose(prepared.frame_times, [[0.44, 0.52, 0.6, 0.68]], atol=1e-5)


@pytest.mark.parametrize("container", ["mp4", "mpegts"])
def test_a_part_without_frames_is_refused(container, contract: Contract, make_video: MakeVideo):
    with pytest.raises(InvalidRequestError, match="start_s=9") as caught:
        prepare(make_video(container=container), contract, start_s=9)
    assert caught.value.code == "bad_parameter"


def test_too_many_views_are_refused_before_anything_is_decoded(contract: Contract, make_video: MakeVideo):
    with pytest.raises(LimitError, match="max_units is 7") as caught:
        prepare(make_video(100), contract, Limits(max_units=7), protocol="4x3")
    assert caught.value.code == "too_many_views"


def test_the_bytes_are_counted_before_they_are_read(contract: Contract):
    with pytest.raises(LimitError, match="max_video_bytes is 10") as caught:
        prepare(bytes(11), contract, Limits(max_video_bytes=10))
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("container", ["mp4", "mpegts"])
def test_a_long_video_is_refused_by_its_time_stamps(container, contract: Contract, make_video: MakeVideo):
    video = make_video(3, pts_ms=(0, 40, 7000), container=container)
    with pytest.raises(LimitError, match="max_duration_s is 6") as caught:
        prepare(video, contract, Limits(max_duration_s=6))
    assert caught.value.code == "too_long"
    assert prepare(video, contract, Limits(max_duration_s=7)).num_frames == 3


def test_the_deadline_ends_the_work(contract: Contract, make_video: MakeVideo):
    request = Request.from_parameters({}, contract, Limits())
    with pytest.raises(DeadlineError):
        prepare_video(make_video(), request, contract, Limits(), deadline=time.monotonic())
    assert prepare_video(make_video(), request, contract, Limits(), deadline=math.inf).num_frames == 20


def test_a_cut_video_is_classified_on_a_full_clip(contract: Contract, make_video: MakeVideo, read_numbers: ReadNumbers):
    whole = make_video(40, muxer=(("moov_size", "4096"),), options=(("g", "5"),))
    prepared = prepare(whole[: 4096 + (len(whole) - 4096) // 2], contract)
    first = (prepared.num_frames - 8) // 2
    assert 8 <= prepared.num_frames < 40
    assert read_numbers(prepared.frames) == [first, first + 2, first + 4, first + 6]
    assert words(prepared)[0] == "damaged"


def test_a_cut_video_without_a_full_clip_is_refused(make_contract: MakeContract, make_video: MakeVideo):
    whole = make_video(40, muxer=(("moov_size", "4096"),), options=(("g", "5"),))
    with pytest.raises(InvalidVideoError, match="fewer than a full clip") as caught:
        prepare(whole[: 4096 + (len(whole) - 4096) // 2], make_contract(clip_frames=40))
    assert caught.value.code == "truncated"


def test_most_of_a_cut_video_is_enough(make_contract: MakeContract, make_video: MakeVideo):
    whole = make_video(40, muxer=(("moov_size", "4096"),), options=(("g", "5"),))
    prepared = prepare(whole[:-10], make_contract(clip_frames=40))
    assert prepared.num_frames >= 38
    assert words(prepared) == ["damaged", "repeated"]


def test_damaged_packets_are_left_out_and_said(contract: Contract, make_video: MakeVideo):
    video = bytearray(make_video(40, options=(("g", "5"),)))
    begin, end = video.index(b"mdat"), video.index(b"moov")
    video[begin + 1000 : end - 500] = bytes(end - begin - 1500)
    prepared = prepare(bytes(video), contract, protocol="10x3")
    assert prepared.num_frames < 40
    assert "damaged" in words(prepared)


def test_changing_sizes_become_one_size(contract: Contract, make_video: MakeVideo, read_numbers: ReadNumbers):
    video = make_video(container="h264") + make_video(container="h264", size=(128, 96))
    prepared = prepare(video, contract, protocol="tsn")
    assert prepared.frames.shape == (4, 64, 96, 3)
    assert read_numbers(prepared.frames) == [5, 15, 5, 15]
    assert words(prepared) == ["timestamps", "size"]


@given(
    st.sampled_from(["mp4", "matroska", "mpegts", "avi", "gif"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
    st.floats(0.3, 1),
    st.booleans(),
)
@settings(max_examples=200)
def test_damaged_bytes_give_a_result_or_an_error_of_ours(
    make_video: MakeVideo, make_contract: MakeContract, make_vtn_contract: MakeContract, container, changes, part, spans
):
    codec = {"avi": "mpeg4", "gif": "gif"}.get(container, "libx264")
    video = bytearray(make_video(container=container, codec=codec, pix_fmt="rgb8" if codec == "gif" else "yuv420p"))
    for at, value in changes:
        video[int(at * len(video))] = value
    try:
        contract, protocol = (make_vtn_contract(), "10x3") if spans else (make_contract(), "1x1")
        prepared = prepare(bytes(video[: int(part * len(video))]), contract, protocol=protocol)
    except (InvalidVideoError, LimitError):
        return
    assert prepared.frames.shape[0] > prepared.unit_frames.max()
    assert 0 <= prepared.clip_positions.min() <= prepared.clip_positions.max() < prepared.num_frames


def test_decoded_frames_are_prepared_like_their_video(contract: Contract, make_video: MakeVideo):
    video = make_video(30)
    with av.open(io.BytesIO(video), "r") as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(np.uint8)
    request = Request.from_parameters({"protocol": "4x3", "end_s": 1.0}, contract, Limits())
    expected = prepare_video(video, request, contract, Limits())
    found = prepare_frames(frames, 25.0, request, contract, Limits())
    for name in ("frames", "unit_frames", "clip_units", "crops"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.frame_times, expected.frame_times, atol=1e-6)
    assert found.num_frames == expected.num_frames == 25
    assert found.duration_s == pytest.approx(expected.duration_s)
    assert found.frames_decoded == 0


def shown_clips(prepared: Prepared, read_numbers: ReadNumbers) -> list[list[int]]:
    return clips_of(prepared, read_numbers(prepared.frames))


@pytest.fixture
def vtn(make_vtn_contract: MakeContract) -> Contract:
    """Clips of 16 frames at stride 8 for 25 fps, and the first ten seconds in 250 frames; units are frames."""
    return make_vtn_contract()


def test_a_span_is_told_by_its_own_positions(vtn: Contract, make_video: MakeVideo, read_numbers: ReadNumbers):
    prepared = prepare(make_video(250), vtn, protocol="10x3")
    assert prepared.clip_positions.dtype == np.int32
    assert prepared.clip_positions.shape == prepared.clip_units.shape == (10, 16)
    assert prepared.clip_positions[0].tolist() == prepared.clip_positions[9].tolist()
    assert prepared.clip_positions[9, [0, 1, 15]].tolist() == [0, 8, 127]
    assert np.array(shown_clips(prepared, read_numbers))[9, [0, 1, 15]].tolist() == [110, 118, 237]
    np.testing.assert_allclose(prepared.frame_times[9, [0, 15]], [4.4, 9.48], atol=1e-5)
    assert prepared.warnings == ()


def test_positions_are_of_the_first_frame_of_a_unit(contract: Contract, make_video: MakeVideo):
    prepared = prepare(make_video(30), contract, protocol="2x1")
    assert prepared.clip_positions.tolist() == [[0, 4], [22, 26]]


def test_three_crops_and_one_have_their_own_short_side(vtn: Contract, make_video: MakeVideo):
    three, one = (prepare(make_video(200), vtn, protocol=protocol) for protocol in ("10x3", "10x1"))
    assert three.frames.shape[1:3] == (48, 72)
    assert three.crops.tolist() == [[0, 0], [0, 12], [0, 24]]
    assert one.frames.shape[1:3] == (64, 96)
    assert one.crops.tolist() == [[8, 24]]


def test_crops_of_a_square_frame_that_are_one_window_are_encoded_once(vtn: Contract, make_video: MakeVideo):
    square = make_video(200, size=(64, 64))
    three, one = (prepare(square, vtn, protocol=protocol) for protocol in ("10x3", "10x1"))
    assert three.crops.tolist() == [[0, 0]]
    np.testing.assert_array_equal(three.clip_units, np.repeat(one.clip_units, 3, axis=0))
    np.testing.assert_array_equal(three.clip_positions, np.repeat(one.clip_positions, 3, axis=0))
    assert three.clip_spans.shape == (10, 2)
    units = cut_units(three.frames, three.unit_frames, three.crops, size_px=vtn.crop.size_px)
    views = units[view_rows(three.clip_units, len(three.crops))]  # [V, n, 1, S, S, 3]
    clips = three.frames[three.unit_frames[one.clip_units]].repeat(3, axis=0)
    np.testing.assert_array_equal(views, clips)  # the whole frame is the crop, in each of the 30 views


def test_the_whole_video_has_as_many_frames_as_the_contract_says(
    make_vtn_contract: MakeContract, make_video: MakeVideo, read_numbers: ReadNumbers
):
    prepared = prepare(make_video(300, fps=30), make_vtn_contract(num_full=7), protocol="full")
    clip = [[0, 49, 99, 149, 199, 249, 299]]
    assert shown_clips(prepared, read_numbers) == prepared.clip_positions.tolist() == clip
    np.testing.assert_allclose(prepared.frame_times * 30, clip, rtol=1e-5)
    assert prepared.warnings == ()


def test_the_whole_of_a_short_video_repeats_frames_and_says_so(vtn: Contract, make_video: MakeVideo):
    prepared = prepare(make_video(200), vtn)
    assert len(prepared.frames) == len(prepared.unit_frames) == 200
    assert prepared.clip_units.shape == prepared.frame_times.shape == (1, 250)
    assert prepared.clip_positions[0, [0, 1, 248, 249]].tolist() == [0, 0, 199, 199]
    assert words(prepared) == ["repeated"]


def test_a_part_is_prepared_as_a_file_of_its_own(vtn: Contract, make_video: MakeVideo, read_numbers: ReadNumbers):
    long, short = make_video(400), make_video(250)
    for protocol in ("10x3", "full"):
        found = prepare(long, vtn, protocol=protocol, start_s=4, end_s=14)
        expected = prepare(short, vtn, protocol=protocol)
        assert found.num_frames == 250
        np.testing.assert_array_equal(found.clip_positions, expected.clip_positions)
        assert (np.array(shown_clips(found, read_numbers)) - 100).tolist() == shown_clips(expected, read_numbers)
        np.testing.assert_allclose(found.frame_times, expected.frame_times + 4, rtol=1e-5)


@pytest.mark.parametrize("container", ["mpegts", "matroska"])
def test_a_stream_without_duration_is_sampled_in_the_whole_video(
    container, vtn: Contract, make_video: MakeVideo, read_numbers: ReadNumbers
):
    prepared = prepare(make_video(250, container=container), vtn, protocol="10x3")
    assert prepared.clip_positions.tolist() == shown_clips(prepared, read_numbers)
    assert prepared.clip_positions[9, [0, 15]].tolist() == [109, 236]


def test_a_cut_video_is_sampled_in_what_came(vtn: Contract, make_video: MakeVideo):
    """Its header still says the duration of the whole."""
    whole = make_video(400, muxer=(("moov_size", "16384"),), options=(("g", "5"),))
    prepared = prepare(whole[: 16_384 + (len(whole) - 16_384) // 2], vtn, protocol="10x3")
    assert words(prepared) == ["damaged"]
    assert 150 < prepared.num_frames < 250
    last_start = 0.9 * (prepared.num_frames - 128) / 25
    np.testing.assert_allclose(prepared.frame_times[9, [0, 15]], [last_start, last_start + 5.08], atol=0.05)


def test_decoded_frames_are_sampled_like_their_mp4(vtn: Contract, make_video: MakeVideo):
    video = make_video(250, size=(96, 64))
    with av.open(io.BytesIO(video), "r") as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(np.uint8)
    for parameters in ({"protocol": "10x3"}, {"protocol": "full", "start_s": 2.0}):
        request = Request.from_parameters(parameters, vtn, Limits())
        found = prepare_frames(frames, 25.0, request, vtn, Limits())
        expected = prepare_video(video, request, vtn, Limits())
        for name in ("frames", "unit_frames", "clip_units", "clip_positions", "crops"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("frames", "fps"),
    [
        (np.zeros((4, 64, 96, 3), dtype=np.float32), 25.0),
        (np.zeros((64, 96, 3), dtype=np.uint8), 25.0),
        (np.zeros((4, 3, 64, 96), dtype=np.uint8), 25.0),
        (np.zeros((0, 64, 96, 3), dtype=np.uint8), 25.0),
        (np.zeros((4, 64, 96, 3), dtype=np.uint8), 0.0),
        (np.zeros((4, 64, 96, 3), dtype=np.uint8), math.nan),
        (np.zeros((4, 64, 96, 3), dtype=np.uint8), math.inf),
    ],
)
def test_other_tensors_are_refused(frames, fps, contract: Contract):
    with pytest.raises(InvalidRequestError) as caught:
        prepare_frames(frames, fps, Request.from_parameters({}, contract, Limits()), contract, Limits())
    assert caught.value.code == "bad_input"


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(max_decoded_frames=3), "too_long"),
        (Limits(max_duration_s=0.1), "too_long"),
        (Limits(max_frame_pixels=64 * 96 - 1), "too_many_pixels"),
        (Limits(max_units=1), "too_many_views"),
    ],
)
def test_the_limits_hold_for_decoded_frames(limits, code, contract: Contract):
    frames = np.zeros((8, 64, 96, 3), dtype=np.uint8)
    with pytest.raises(LimitError) as caught:
        prepare_frames(frames, 25.0, Request.from_parameters({}, contract, limits), contract, limits)
    assert caught.value.code == code


def manifest() -> list[dict[str, str]]:
    if not VIDEOS.is_dir():
        return []
    with (VIDEOS / "MANIFEST.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rows(is_meant: Callable[[dict[str, str]], bool]) -> list[Any]:
    """Rows of the manifest as parameters; where there is none, one that says why it is skipped."""
    found = [pytest.param(row, id=row["file"]) for row in manifest() if is_meant(row)]
    absent = pytest.mark.skip(reason="'shared/videos' does not lie beside the repository")
    return found or [pytest.param({}, marks=absent)]


@pytest.fixture
def in_hostile_folder(videos_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of the hostile scripts name files beside them."""
    monkeypatch.chdir(videos_dir / "hostile")


@pytest.mark.usefixtures("in_hostile_folder")
@pytest.mark.parametrize("row", rows(lambda row: row["expected"] != "ok" or row["strict"] == "no"))
def test_hostile_files_get_an_answer_or_an_error_of_ours(row, contract: Contract):
    video = (VIDEOS / row["file"]).read_bytes()
    if row["strict"] == "yes":
        with pytest.raises((InvalidVideoError, LimitError)):
            prepare(video, contract)
        return
    try:
        prepared = prepare(video, contract)
    except (InvalidVideoError, LimitError):
        return
    assert len(prepared.frames) > prepared.unit_frames.max()


@pytest.mark.parametrize(
    "row",
    rows(lambda row: row["expected"] == "ok" and row["strict"] == "yes"),
)
def test_ordinary_videos_give_the_frames_of_a_full_decode(row, contract: Contract):
    """Index by index and bit by bit those that decoding everything with one thread and counting from 0 gives."""
    video = (VIDEOS / row["file"]).read_bytes()
    request = Request.from_parameters({}, contract, Limits())
    prepared = prepare_video(video, request, contract, Limits())
    if not row["file"].startswith("action_engineer_nasa_multistream"):  # the manifest counts its first stream
        assert prepared.num_frames == int(row["frames_decoded"])
    clips = sample_clips(contract, request.protocol, constant_clock(prepared.num_frames, fps=25.0))
    units = plan_units(clips.frames, unit_frames=2)
    np.testing.assert_array_equal(prepared.unit_frames, units.unit_frames)
    np.testing.assert_array_equal(prepared.clip_units, units.clip_units)
    expected = []
    for number, frame in enumerate(decoded(video)):
        if number in units.frames:
            upright = np.rot90(frame.to_ndarray(format="rgb24"), k=frame.rotation // 90)
            expected.append(resize_frame(contract.resize, upright))
        if number >= units.frames[-1]:
            break
    np.testing.assert_array_equal(prepared.frames, np.stack(expected))
    height, width = prepared.frames.shape[1:3]
    np.testing.assert_array_equal(prepared.crops, crop_offsets(contract.crop, height=height, width=width, num_crops=1))
    assert set(words(prepared)) <= {"repeated", "streams", "timestamps"}


def decoded(video: bytes) -> Any:
    with av.open(io.BytesIO(video), "r", metadata_errors="replace") as container:
        stream = container.streams.best("video")
        assert stream is not None
        stream.codec_context.thread_count = 1
        yield from container.decode(stream)


def test_the_reference_videos_are_there(videos_dir: Path):
    assert len(manifest()) > 100
