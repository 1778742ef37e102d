"""The command line: exit codes, what goes to which stream, and that it starts light."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from scripted_triton import ScriptedTriton, ensemble, logits_from_bytes, running

from tubelet.cli import main


@pytest.fixture
def triton() -> Iterator[ScriptedTriton]:
    with running(ScriptedTriton()) as scripted:
        yield scripted


def tubelet(*arguments: object, url: str = "127.0.0.1:1") -> Result:
    """Runs the command line; nobody listens on the default address here."""
    return CliRunner(env={"TUBELET_URL": url}).invoke(main, [str(argument) for argument in arguments])


def write_videos(folder: Path, *said: object) -> list[Path]:
    paths = [folder / f"{number}.mp4" for number in range(len(said))]
    for path, content in zip(paths, said, strict=True):
        path.write_text(json.dumps(content))
    return paths


LEFT, DOWN, BROKEN = [3, 1, 0, 0], [0, 0, 0, 3], "in ensemble 'demo', truncated: it ends"


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["classify"],
        ["classify", "a.mp4", "--top", "0"],
        ["classify", "a.mp4", "--priority", "urgent"],
        ["evaluate", "absent.csv"],
        ["evaluate", __file__, "--concurrency", "0"],
        ["export", __file__],
        ["repository", "--target", "cpu", "--out", "x"],
        ["repository", ".", "--target", "tpu", "--out", "x"],
        ["repository", ".", "--target", "cpu", "--out", "x", "--limit", "max_vews=3"],
        ["repository", ".", "--target", "cpu", "--out", "x", "--limit", "max_views=-3"],
        ["serve", "--repository", "absent"],
        ["serve", "--http-port", "http"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert tubelet(*arguments).exit_code == 2


@pytest.mark.parametrize("command", [["--version"], ["--help"], ["classify", "-h"]])
def test_asking_is_exit_code_0(command: list[str]) -> None:
    assert tubelet(*command).exit_code == 0


def test_a_folder_that_is_no_bundle_is_exit_code_1_and_one_line(tmp_path: Path) -> None:
    result = tubelet("repository", tmp_path, "--target", "cpu", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: contract_mismatch: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_no_server_is_exit_code_1(tmp_path: Path) -> None:
    result = tubelet("classify", *write_videos(tmp_path, LEFT))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: backend_lost: no server answers")


def test_an_option_is_preferred_to_the_environment(triton: ScriptedTriton, tmp_path: Path) -> None:
    assert tubelet("classify", *write_videos(tmp_path, LEFT), "--url", triton.url).exit_code == 0


def test_files_come_out_in_order(triton: ScriptedTriton, tmp_path: Path) -> None:
    videos = write_videos(tmp_path, *([LEFT, DOWN] * 6))
    result = tubelet("classify", *videos, "--top", 1, "--json", url=triton.url)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert [line["video"] for line in lines] == [str(video) for video in videos]
    assert [line["labels"][0]["name"] for line in lines] == ["left", "down"] * 6
    assert result.stderr == ""


def test_one_file_that_fails_leaves_the_others_alone(triton: ScriptedTriton, tmp_path: Path) -> None:
    videos = write_videos(tmp_path, LEFT, BROKEN, DOWN)
    for as_json in (False, True):
        result = tubelet("classify", *videos, tmp_path / "absent.mp4", *["--json"] * as_json, url=triton.url)
        assert result.exit_code == 1
        errors = result.stderr.splitlines()
        assert errors[0] == f"error: {videos[1]}: truncated: it ends"
        assert "absent.mp4: bad_input: " in errors[1]
        assert len(errors) == 2
        if as_json:
            lines = [json.loads(line) for line in result.stdout.splitlines()]
            assert [line.get("error", {}).get("code") for line in lines] == [None, "truncated", None, "bad_input"]
        else:
            assert f"{videos[0]}: demo 1x1" in result.stdout
            assert f"{videos[2]}: demo 1x1" in result.stdout


def test_wishes_reach_the_server(triton: ScriptedTriton, tmp_path: Path) -> None:
    wishes = ["--protocol", "4x3", "--start-s", "1.5", "--end-s", "2", "--deadline-s", "9", "--model", "demo"]
    began_s = time.monotonic()
    assert tubelet("classify", *write_videos(tmp_path, LEFT), *wishes, url=triton.url).exit_code == 0
    spent_ms = (time.monotonic() - began_s) * 1000
    parameters = triton.requests[0].parameters
    assert parameters["protocol"].string_param == "4x3"
    assert float(parameters["start_s"].string_param) == 1.5
    # What the questions about the model took is not there any more.
    assert 9000 - spent_ms <= float(parameters["deadline_ms"].string_param) <= 9000


@pytest.mark.parametrize(
    ("wish", "level"), [([], 1), (["--priority", "interactive"], 1), (["--priority", "archive"], 2)]
)
def test_a_priority_reaches_the_server(triton: ScriptedTriton, tmp_path: Path, wish: list[str], level: int) -> None:
    assert tubelet("classify", *write_videos(tmp_path, LEFT, DOWN), *wish, url=triton.url).exit_code == 0
    assert [request.parameters["priority"].uint64_param for request in triton.requests] == [level] * 2


def seen_headers(triton: ScriptedTriton) -> list[dict[str, str]]:
    """Makes the server write down the headers of every request with a video."""
    seen: list[dict[str, str]] = []

    def infer(request: Any, context: Any) -> Any:
        seen.append(dict(context.invocation_metadata()))
        return logits_from_bytes(request, context)

    triton.infer = infer
    return seen


@pytest.mark.parametrize("command", ["classify", "evaluate"])
def test_headers_come_from_the_environment_or_the_command_line(
    triton: ScriptedTriton, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_videos(tmp_path, LEFT)
    (tmp_path / "list.csv").write_text("video,label\n0.mp4,left\n")
    argument = tmp_path / ("0.mp4" if command == "classify" else "list.csv")
    seen = seen_headers(triton)
    monkeypatch.setenv("TUBELET_HEADERS", "Authorization=Bearer a b==\n\nx-team=video\n")
    assert tubelet(command, argument, url=triton.url).exit_code == 0
    assert seen
    assert all((headers["authorization"], headers["x-team"]) == ("Bearer a b==", "video") for headers in seen)
    seen.clear()
    assert tubelet(command, argument, "--header", "x-team=audio", url=triton.url).exit_code == 0
    assert seen
    assert all((headers.get("authorization"), headers["x-team"]) == (None, "audio") for headers in seen)


def test_a_header_without_a_name_is_not_repeated(tmp_path: Path) -> None:
    result = tubelet("models", "--header", "Bearer-secret")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "NAME=VALUE" in result.stderr
    assert "secret" not in result.stderr


def test_chunks_are_a_wish_too(triton: ScriptedTriton, tmp_path: Path) -> None:
    (video,) = write_videos(tmp_path, LEFT)
    triton.models = [ensemble(any_length=True)]
    result = tubelet("classify", video, "--chunked", "--json", url=triton.url)
    assert triton.requests[0].model_name == "demo_chunked"
    assert json.loads(result.stdout)["clip_spans"] == [[0.0, 1.0]]


def test_a_list_is_scored(triton: ScriptedTriton, tmp_path: Path) -> None:
    write_videos(tmp_path, LEFT, DOWN, LEFT)
    csv = tmp_path / "list.csv"
    csv.write_text("video,label\n0.mp4,left\n1.mp4,3\n2.mp4,right\n")
    result = tubelet("evaluate", csv, url=triton.url)
    assert result.exit_code == 0
    figures = [line.split() for line in result.stdout.splitlines()]
    assert [*figures[1][:3], *figures[1][-3:]] == ["top-1", "66.67", "%", "2", "of", "3"]
    assert [*figures[2][:3], *figures[2][-3:]] == ["top-5", "100.00", "%", "3", "of", "3"]


def test_a_list_is_scored_while_one_of_the_servers_is_away(triton: ScriptedTriton, tmp_path: Path) -> None:
    write_videos(tmp_path, LEFT, DOWN)
    csv = tmp_path / "list.csv"
    csv.write_text("video,label\n0.mp4,left\n1.mp4,down\n")
    result = tubelet("evaluate", csv, "--json", "--url", "127.0.0.1:1", "--url", triton.url)
    assert result.exit_code == 0
    assert json.loads(result.stdout.splitlines()[-1])["heads"]["motion"]["top1"]["value"] == 1


def test_a_list_with_a_failed_row_is_exit_code_1(triton: ScriptedTriton, tmp_path: Path) -> None:
    write_videos(tmp_path, LEFT, BROKEN)
    csv = tmp_path / "list.csv"
    csv.write_text("video,label\n0.mp4,left\n1.mp4,left\n")
    result = tubelet("evaluate", csv, "--json", url=triton.url)
    assert result.exit_code == 1
    *rows, score = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["heads"]["motion"]["rank"] for row in rows] == [0, None]
    assert (score["rows"], score["failed"]) == (2, 1)
    assert score["heads"]["motion"]["top1"]["value"] == 0.5
    assert f"error: line 3, {tmp_path / '1.mp4'}: truncated: it ends" in result.stderr


def test_runs_are_compared_and_reports_are_written(triton: ScriptedTriton, tmp_path: Path) -> None:
    write_videos(tmp_path, LEFT, DOWN, BROKEN)
    csv = tmp_path / "list.csv"
    csv.write_text("video,label\n0.mp4,left\n1.mp4,3\n2.mp4,right\n")
    for name, protocol in (("a", "1x1"), ("b", "4x3")):
        result = tubelet("evaluate", csv, "--protocol", protocol, "--out", tmp_path / name, url=triton.url)
        assert result.exit_code == 1
        assert "truncated" in (tmp_path / name / "report.html").read_text()
        assert json.loads((tmp_path / name / "evaluation.json").read_text())["protocol"] == protocol
    result = tubelet("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "compared.html")
    assert result.exit_code == 0
    assert "same answer  100.00 %" in result.stdout
    assert (tmp_path / "compared.html").read_text().startswith("<!")
    as_json = tubelet("compare", tmp_path / "a", tmp_path / "b", "--json")
    assert json.loads(as_json.stdout)["heads"][0]["mcnemar"]["p_value"] == 1
    csv.write_text("video,label\n0.mp4,left\n1.mp4,left\n")
    assert tubelet("evaluate", csv, "--out", tmp_path / "c", url=triton.url).exit_code == 0
    result = tubelet("compare", tmp_path / "a", tmp_path / "c")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "different lists: list.csv with 3 videos, list.csv with 2" in result.stderr
    assert tubelet("compare", tmp_path, tmp_path / "c").exit_code == 1


def test_the_doctor_speaks_json(tmp_path: Path) -> None:
    result = tubelet("doctor", "--json")
    findings = [json.loads(line) for line in result.stdout.splitlines()]
    needed = [finding["ok"] for finding in findings if finding["is_needed"]]
    assert result.exit_code == (0 if all(needed) else 1)
    assert len(tubelet("doctor").stdout.splitlines()) == len(findings)


def test_a_command_without_its_packages_says_what_to_install(tmp_path: Path) -> None:
    script = "import sys; sys.modules['tritonclient'] = None; from tubelet.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", script, "classify", "x.mp4"], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 1
    assert run.stderr == "error: missing: no package tritonclient; pip install 'tubelet[clients]'\n"


def test_the_command_line_starts_without_the_heavy_packages() -> None:
    script = (
        "import sys, tubelet.cli; print(*sorted(set(sys.modules) & {'torch', 'onnx', 'numpy', 'av', 'cv2', 'grpc'}))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == ""
