"""Archives scored through real servers, by the command that users type, whatever happens to file, server or run."""

import os
import re
import shutil
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from real_score import Scoring, check_rows, make_archive, rows_of
from real_server import Serving

from tubelet.clients import VideoClassifier
from tubelet.spec.errors import TubeletError

pytestmark = pytest.mark.needs_triton

NUM_VIDEOS = 120


@pytest.fixture(scope="module")
def archive(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(clips, tmp_path_factory.mktemp("archive") / "videos", NUM_VIDEOS)


@pytest.fixture(scope="module")
def narrow(make_repository: Callable[..., Path]) -> Iterator[Serving]:
    """A server with a short queue, which tests may take pieces from: it mends itself."""
    with Serving(make_repository(queue_size=4)) as serving:
        yield serving


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not condition():
        pause.wait(0.01)


def done(address: str) -> float:
    """Items done, by the run's own metrics."""
    values = re.findall(r"^tubelet_score_videos_total\{.*\} (.*)$", scrape(address), re.MULTILINE)
    return sum(map(float, values))


def scrape(address: str) -> str:
    with urlopen(address) as answer:
        text: str = answer.read().decode()
    return text


def says(address: str, pattern: str) -> bool:
    return re.search(pattern, scrape(address)) is not None


@pytest.fixture
def metered(tmp_path: Path) -> Iterator[Callable[..., tuple[Scoring, str]]]:
    """Starts runs with metrics; gives each with the address of these."""
    started: list[Scoring] = []

    def start(source: Path, *urls: str, arguments: tuple[str, ...] = ()) -> tuple[Scoring, str]:
        run = Scoring(source, tmp_path / "out", *urls, arguments=("--metrics-port=0", *arguments))
        started.append(run)
        return run, run.wait_for_words("metrics: ").split()[1]

    yield start
    for run in started:
        run.__exit__()


def test_good_and_bad_files_get_their_rows(server: Serving, clips: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "videos", tmp_path / "out"
    good = sorted(clips.glob("*.mp4"))
    (source / "deep").mkdir(parents=True)
    for path in good:
        shutil.copy(path, source / path.name)
    shutil.copy(good[0], source / "deep" / "again.mp4")
    (source / "empty.mp4").write_bytes(b"")
    (source / "words.mp4").write_text("no video at all")
    (source / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    with Scoring(source, out, server.ready["grpc"], arguments=("--logits", "--top=2", "--part-rows=7")) as run:
        summary = run.summary()
    assert (summary["done_now"], summary["copied_now"], summary["failed"], summary["parts"]) == (20, 1, 3, 3)
    assert summary["failed_now"] == {"bad_input": 1, "empty_video": 1, "not_a_video": 1}
    rows = {Path(row["uri"]).name: row for row in rows_of(out)}
    assert len(rows) == 20
    assert rows["empty.mp4"]["error_code"] == "empty_video"
    assert rows["words.mp4"]["error_code"] == "not_a_video"
    assert rows["gone.mp4"]["error_code"] == "bad_input"
    assert rows["gone.mp4"]["content_sha256"] is None
    pair = rows["again.mp4"], rows[good[0].name]
    assert {row["copied_from"] is None for row in pair} == {True, False}
    assert pair[0]["logits"] == pair[1]["logits"]
    with server.classifier() as classifier:
        for path in good:
            found, row = classifier.classify(path), rows[path.name]
            np.testing.assert_array_equal(np.array(row["logits"], np.float32), found.logits)
            assert [label["name"] for label in row["labels"]] == [label.name for label in found.labels[:2]]
            assert (row["views"], row["frames_decoded"]) == (found.report.views, found.report.frames_decoded)


def test_hostile_files_get_the_codes_that_callers_get(server: Serving, videos_dir: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "videos", tmp_path / "out"
    source.mkdir()
    for path in (videos_dir / "hostile").iterdir():
        # Videos of hours would be most of this test's time.
        if path.stat().st_size < 300_000:
            shutil.copy(path, source / f"{path.name}.mp4")
    with Scoring(source, out, server.ready["grpc"]) as run:
        summary = run.summary()
    rows = rows_of(out)
    assert summary["done_now"] == len(rows) == len(list(source.iterdir())) > 30
    with server.classifier() as classifier:
        assert {row["uri"]: row["error_code"] for row in rows} == {
            row["uri"]: code_of(classifier, Path(row["uri"])) for row in rows
        }


def code_of(classifier: VideoClassifier, path: Path) -> str | None:
    try:
        classifier.classify(path)
    except TubeletError as exc:
        return exc.code
    return None


def test_the_same_command_again_does_nothing_and_another_run_is_refused(
    server: Serving, clips: Path, tmp_path: Path
) -> None:
    out, url = tmp_path / "out", server.ready["grpc"]
    with Scoring(clips, out, url) as run:
        assert run.summary()["done_now"] == 16
    before = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    with Scoring(clips, out, url) as run:
        summary = run.summary()
    assert (summary["done_now"], summary["done_before"], summary["parts"]) == (0, 16, 1)
    with Scoring(clips, out, url, arguments=("--protocol=4x3",)) as run:
        code, err = run.end()
    assert code == 1
    assert "protocol was '1x1', now it is '4x3'" in err
    assert {path.name: path.read_bytes() for path in out.glob("*.parquet")} == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model=nix",), 1, "no model 'nix'"),
        (("--protocol=7y7",), 1, "protocol of model motion must be one of"),
        (("--concurrency=0",), 2, "'auto' is expected"),
        (("--header=token",), 2, "NAME=VALUE is expected"),
        (("--url=ftp://here",), 1, "bad_parameter"),
    ],
)
def test_what_cannot_be_begun_is_said(
    server: Serving, clips: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    urls = () if arguments[0].startswith("--url") else (server.ready["grpc"],)
    with Scoring(clips, tmp_path / "out", *urls, arguments=arguments) as run:
        found, err = run.end()
    assert (found, words in err) == (code, True), err
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_killed_is_waited_for_as_long_as_patience_lasts(
    narrow: Serving, archive: Path, metered: Callable[..., tuple[Scoring, str]], tmp_path: Path
) -> None:
    url, out, impatient_out = narrow.ready["grpc"], tmp_path / "out", tmp_path / "impatient"
    arguments = ("--protocol=4x3",)  # so that both are still at work when the server goes
    with Scoring(archive, impatient_out, url, arguments=("--patience-s=0.5", *arguments)) as impatient:
        impatient.wait_for("back")
        run, address = metered(archive, url, arguments=arguments)
        wait_until(lambda: done(address) > 5)
        os.kill(narrow.processes("bin/tritonserver")[0], signal.SIGKILL)
        code, err = impatient.end()
    assert (code, "no server was there for 0.5 s" in err, "the same command goes on" in err) == (1, True, True), err
    assert run.wait_for("away")["server"] == url
    run.wait_for("back")
    count = done(address)
    wait_until(lambda: done(address) > count + 20)
    # Triton stays, and says that it is ready: only an answer shows that a backend is back.
    os.kill(narrow.processes("/motion_encoder/")[0], signal.SIGKILL)
    run.wait_for("away")
    run.wait_for("back")
    assert run.summary()["done"] == NUM_VIDEOS
    check_rows(rows_of(out), archive)
    with Scoring(archive, impatient_out, url, arguments=arguments) as again:
        assert again.summary()["done"] == NUM_VIDEOS
    check_rows(rows_of(impatient_out), archive)


def test_a_short_queue_puts_no_refusal_into_a_row(narrow: Serving, archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Scoring(archive, out, narrow.ready["grpc"], arguments=("--concurrency=24",)) as run:
        assert run.summary()["done_now"] == NUM_VIDEOS
    check_rows(rows_of(out), archive)


def test_two_servers_share_and_one_takes_over(
    server: Serving,
    narrow: Serving,
    archive: Path,
    metered: Callable[..., tuple[Scoring, str]],
    tmp_path: Path,
) -> None:
    urls = server.ready["grpc"], narrow.ready["grpc"]
    run, address = metered(archive, *urls)
    for busy in (rf'in_flight{{server="{url}"}} [1-9]' for url in urls):
        wait_until(partial(says, address, busy))
    os.kill(narrow.processes("bin/tritonserver")[0], signal.SIGKILL)
    assert run.wait_for("away")["server"] == urls[1]
    assert run.summary()["done_now"] == NUM_VIDEOS
    check_rows(rows_of(tmp_path / "out"), archive)


def test_metrics_tell_what_goes_on(
    server: Serving, archive: Path, metered: Callable[..., tuple[Scoring, str]], tmp_path: Path
) -> None:
    url, entries = server.ready["grpc"], tmp_path / "videos.csv"
    entries.write_text("video\n" + "".join(f"{path}\n" for path in sorted(archive.iterdir())))
    run, address = metered(entries, url, arguments=("--concurrency=3",))
    wait_until(lambda: done(address) > 20)
    text = scrape(address)
    run.summary()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    count = float(values['tubelet_score_videos_total{outcome="ok"}'])
    assert 20 < count < NUM_VIDEOS
    assert float(values["tubelet_score_items_left"]) == NUM_VIDEOS - count
    assert float(values["tubelet_score_views_total"]) == count
    assert float(values["tubelet_score_bytes_total"]) > 10_000 * count
    assert float(values[f'tubelet_score_pace{{server="{url}"}}']) == 3
    assert float(values[f'tubelet_score_in_flight{{server="{url}"}}']) <= 3
    assert float(values[f'tubelet_score_server_up{{server="{url}"}}']) == 1
    assert float(values["tubelet_score_request_seconds_count"]) >= count
    assert float(values["tubelet_score_waiting_bytes"]) > 0


def test_a_signal_ends_the_run_in_good_order(
    server: Serving,
    archive: Path,
    metered: Callable[..., tuple[Scoring, str]],
    tmp_path: Path,
) -> None:
    run, address = metered(archive, server.ready["grpc"])
    wait_until(lambda: done(address) > 20)
    run.signal(signal.SIGINT)
    code, err = run.end()
    assert code == 130, err
    assert "the same command goes on" in err
    summary, rows = run.events[-1], rows_of(tmp_path / "out")
    assert 20 < summary["done_now"] == len(rows) < NUM_VIDEOS
    assert not summary["is_complete"]
    assert Counter(row["error_code"] for row in rows) == {None: len(rows)}
    with Scoring(archive, tmp_path / "out", server.ready["grpc"]) as run:
        assert run.summary()["done"] == NUM_VIDEOS
    check_rows(rows_of(tmp_path / "out"), archive)


def test_a_second_signal_ends_at_once(
    server: Serving, archive: Path, metered: Callable[..., tuple[Scoring, str]]
) -> None:
    run, address = metered(archive, server.ready["grpc"])
    wait_until(lambda: done(address) > 20)
    # Requests in flight hang, so only the second signal can end the run.
    stopped = server.processes("bin/tritonserver")[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        run.signal(signal.SIGINT)
        run.wait_for_words("stopping")
        run.signal(signal.SIGTERM)
        assert run.end()[0] == 143
    finally:
        os.kill(stopped, signal.SIGCONT)


def test_a_signal_while_no_server_is_there_ends_the_wait(clips: Path, tmp_path: Path) -> None:
    with Scoring(clips, tmp_path / "out", f"127.0.0.1:{free_port()}") as run:
        run.wait_for_words("waiting for")
        run.signal(signal.SIGTERM)
        assert run.end()[0] == 143
