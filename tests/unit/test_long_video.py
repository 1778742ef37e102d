"""The memory that a long video takes: its own bytes, the frames that are wanted, and little else."""

import io
import subprocess
import sys
from pathlib import Path

import av
import pytest

from tubelet.demo.long_video import encode_panning, repeat_video

TESTS = Path(__file__).parents[1]
MIB = 2**20
GROUPS_FRAMES = 40
LONG_TURNS = 1500
"""Of two groups of pictures: 60,000 frames, 33 minutes."""

CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from conftest import small_vtn_contract
from pathlib import Path
from tubelet.preprocess.prepare import prepare_video
from tubelet.spec.limits import Limits
from tubelet.spec.request import Request
contract, limits = small_vtn_contract(num_full=100, span_s=None), Limits()
video = Path(sys.argv[2]).read_bytes()
request = Request.from_parameters({"protocol": "full"}, contract, limits)
prepared = prepare_video(video, request, contract, limits)
assert len(prepared.frames) == len(set(prepared.frame_times[0].tolist())) == 100
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(prepared.num_frames, prepared.frames_decoded, int(status["VmHWM"].split()[0]) * 1024)
"""


def measure(video: Path) -> tuple[int, int, int]:
    """Frames of a video, frames decoded, and the peak of a process's memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(TESTS), str(video)], capture_output=True, text=True, check=True
    )
    num_frames, num_decoded, peak_bytes = map(int, done.stdout.split())
    return num_frames, num_decoded, peak_bytes


@pytest.fixture(scope="module")
def groups() -> io.BytesIO:
    """Two groups of pictures."""
    video = io.BytesIO()
    options = {"g": "20", "keyint_min": "20", "sc_threshold": "0", "preset": "veryfast"}
    encode_panning(video, GROUPS_FRAMES, size=(320, 240), options=options)
    return video


def repeated(groups: io.BytesIO, path: Path, *, times: int) -> Path:
    groups.seek(0)
    repeat_video(groups, path, times=times)
    return path


def test_a_video_that_is_repeated_shows_the_same_pictures_again(groups: io.BytesIO, tmp_path: Path):
    with av.open(str(repeated(groups, tmp_path / "thrice.mp4", times=3))) as file:
        frames = [frame.to_ndarray(format="gray") for frame in file.decode(video=0)]
    assert len(frames) == 3 * GROUPS_FRAMES
    for number in (0, 1, 19, 39):
        assert (frames[number] == frames[number + GROUPS_FRAMES]).all()
    assert (frames[0] != frames[20]).any()


def test_memory_does_not_grow_with_the_length(groups: io.BytesIO, tmp_path: Path):
    """A second copy of the packets would take 60 MiB here, and all frames a gigabyte."""
    short = repeated(groups, tmp_path / "short.mp4", times=3)
    long = repeated(groups, tmp_path / "long.mp4", times=LONG_TURNS)
    short_frames, _, short_peak = measure(short)
    long_frames, num_decoded, long_peak = measure(long)
    assert (short_frames, long_frames) == (3 * GROUPS_FRAMES, LONG_TURNS * GROUPS_FRAMES)
    assert num_decoded < 100 * 20
    assert long_peak - short_peak < long.stat().st_size + 32 * MIB
