"""What packets say of themselves, on packets written by hand."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.preprocess.bitstream import MAX_UNITS, Picture, picture_reader

AVC = bytes((1, 100, 0, 10, 0xFF, 0xE0, 0))
"""Header of H.264 in MP4 that has lengths of four bytes and no parameter sets."""
HEVC = bytes((1, *[0] * 20, 0xFF, 0))
AV1_KEY_SHOWN, AV1_KEY_HIDDEN, AV1_INTER_SHOWN, AV1_SHOWN_AGAIN = 0x10, 0x00, 0x30, 0x80


def packet(units: Sequence[bytes], length_bytes: int = 4) -> memoryview:
    return memoryview(b"".join(len(unit).to_bytes(length_bytes, "big") + unit for unit in units))


def avc(kind: int, *, is_reference: bool = True) -> bytes:
    return bytes((kind | 0x60 * is_reference, 0x88, 0x84))


def hevc(kind: int, *, layer: int = 1, stream_layer: int = 0) -> bytes:
    return bytes((kind << 1 | stream_layer >> 5, (stream_layer & 31) << 3 | layer, 0x80))


def av1(*units: tuple[int, bytes]) -> memoryview:
    return memoryview(b"".join(bytes((kind << 3 | 2, len(body))) + body for kind, body in units))


def read(codec: str, extradata: bytes | None, data: memoryview) -> Picture | None:
    reader = picture_reader(codec, extradata)
    assert reader is not None
    return reader(data)


SPS, PPS, SEI, DELIMITER = avc(7), avc(8), avc(6, is_reference=False), avc(9, is_reference=False)


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ([avc(5)], (True, False, b"")),
        ([DELIMITER, SPS, PPS, SEI, avc(5), avc(5)], (True, False, SPS + PPS)),
        ([SEI, avc(1)], (False, False, b"")),
        ([avc(1, is_reference=False)], (False, True, b"")),
        ([avc(1, is_reference=False), avc(1)], (False, False, b"")),  # two fields, one of them a reference
        ([avc(5), avc(1)], (True, False, b"")),  # an IDR field and its second field
    ],
)
def test_h264(units, expected):
    is_start, is_disposable, parameters = expected
    assert read("h264", AVC, packet(units)) == Picture(is_start, is_disposable, 0, parameters)


@pytest.mark.parametrize("units", [[], [SEI], [SPS, PPS], [avc(2)], [avc(1), avc(4)]])
def test_h264_that_is_not_understood(units):
    assert read("h264", AVC, packet(units)) is None


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ([hevc(19)], (True, False, 1)),
        ([hevc(20)], (True, False, 1)),
        ([hevc(35), hevc(39), hevc(21), hevc(21)], (True, False, 1)),
        ([hevc(1)], (False, False, 1)),
        ([hevc(0)], (False, True, 1)),
        ([hevc(8)], (False, True, 1)),
        ([hevc(9)], (False, False, 1)),
        ([hevc(0, layer=3)], (False, True, 3)),
        ([hevc(1, layer=2), hevc(0, stream_layer=40)], (False, False, 2)),
        ([hevc(0, stream_layer=1), hevc(19)], (True, False, 1)),
    ],
)
def test_hevc(units, expected):
    is_start, is_disposable, layer = expected
    assert read("hevc", HEVC, packet(units)) == Picture(is_start, is_disposable, layer, b"")


def test_parameter_sets_of_hevc_are_told():
    sets = [hevc(32), hevc(33), hevc(34)]
    assert read("hevc", HEVC, packet([*sets, hevc(20)])) == Picture(True, False, 1, b"".join(sets))


@pytest.mark.parametrize(
    "units", [[hevc(16)], [hevc(18)], [hevc(1), hevc(36)], [hevc(1), hevc(37)], [hevc(39)], [b"\2"]]
)
def test_hevc_that_is_not_understood_or_spliced(units):
    assert read("hevc", HEVC, packet(units)) is None


SEQUENCE = (1, bytes((0, 0, 0)))


@pytest.mark.parametrize(
    ("units", "is_start", "parameters"),
    [
        ([(2, b""), SEQUENCE, (6, bytes((AV1_KEY_SHOWN, 1)))], True, SEQUENCE[1]),
        ([SEQUENCE, (3, bytes((AV1_KEY_SHOWN, 1))), (4, b"tiles")], True, SEQUENCE[1]),
        ([(6, bytes((AV1_KEY_SHOWN, 1)))], False, b""),  # without its header
        ([SEQUENCE, (6, bytes((AV1_KEY_HIDDEN, 1)))], False, SEQUENCE[1]),
        ([SEQUENCE, (6, bytes((AV1_INTER_SHOWN, 1))), (6, bytes((AV1_KEY_SHOWN, 1)))], False, SEQUENCE[1]),
        ([(3, bytes((AV1_SHOWN_AGAIN, 1)))], False, b""),
    ],
)
def test_av1(units, is_start, parameters):
    assert read("libdav1d", None, av1(*units)) == Picture(is_start, False, 0, parameters)


@pytest.mark.parametrize("units", [[], [SEQUENCE], [(1, bytes((8, 0))), (6, b"\x10")]])
def test_av1_that_is_not_understood(units):
    assert read("libdav1d", None, av1(*units)) is None


def test_av1_lengths_of_several_bytes():
    body = bytes((AV1_KEY_SHOWN, *[0] * 299))
    data = av1(SEQUENCE).tobytes() + bytes((6 << 3 | 2, 300 & 127 | 128, 300 >> 7)) + body
    picture = read("libdav1d", None, memoryview(data))
    assert picture is not None
    assert picture.is_start
    assert read("libdav1d", None, memoryview(data[:-1])) is None


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\0\0\0\0", b"\0\0\0\x09\x65\x88", b"\0\0\0\1\x65\0", b"\xff" * 9])
def test_lengths_that_do_not_add_up(codec, data):
    assert read(codec, AVC if codec == "h264" else HEVC, memoryview(data)) is None


def test_packets_in_too_many_parts_are_given_up():
    assert read("h264", AVC, packet([SEI] * (MAX_UNITS - 1) + [avc(5)])) is not None
    assert read("h264", AVC, packet([SEI] * MAX_UNITS + [avc(5)])) is None


@pytest.mark.parametrize(
    ("codec", "extradata"),
    [
        ("h264", None),
        ("h264", b"\0\0\0\1\x67\x64\0\x0a"),
        ("h264", AVC[:6]),
        ("hevc", HEVC[:22]),
        ("vvc", HEVC),
        ("gif", b""),
        ("mpeg4", b""),
    ],
)
def test_other_streams_have_no_reader(codec, extradata):
    assert picture_reader(codec, extradata) is None


def test_lengths_may_have_other_sizes():
    assert read("h264", AVC[:4] + b"\xfd" + AVC[5:], packet([avc(5)], length_bytes=2)) is not None
    assert read("hevc", HEVC[:21] + b"\xfc" + HEVC[22:], packet([hevc(20)], length_bytes=1)) is not None


@given(st.sampled_from(["h264", "hevc", "libdav1d", "prores"]), st.binary(max_size=200))
def test_any_bytes_are_read_or_given_up(codec, data):
    read(codec, HEVC if codec == "hevc" else AVC, memoryview(data))
