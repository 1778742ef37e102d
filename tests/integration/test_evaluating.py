"""`tubelet evaluate` and `tubelet compare` as people type them, against a real server."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from real_server import ROOT, TUBELET, Serving
from sklearn.metrics import average_precision_score

from tubelet.averaging import probabilities
from tubelet.evaluation.measure import head_ranking
from tubelet.evaluation.outcome import SCORES, load_outcome
from tubelet.evaluation.result import Evaluation, MultiLabelResult, SingleLabelResult
from tubelet.export.bundle import export_bundle
from tubelet.export.repository import write_repository
from tubelet.spec.limits import Limits

HEADS = ("noun", "verb")

pytestmark = pytest.mark.needs_triton


@pytest.fixture(scope="module")
def run(server: Serving) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: object, rc: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TUBELET_URL": server.ready["grpc"]}
        done = subprocess.run(
            [TUBELET, *map(str, arguments)], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == rc, done.stderr
        return done

    return run


Run = Callable[..., subprocess.CompletedProcess[str]]


def head_of(folder: Path) -> tuple[Evaluation, SingleLabelResult]:
    evaluation = Evaluation.load(folder / "evaluation.json")
    (head,) = evaluation.heads
    assert isinstance(head, SingleLabelResult)
    return evaluation, head


def labels_of(clips: Path) -> list[dict[str, str]]:
    with (clips / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def protocols(run: Run, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two protocols on the same list."""
    out = tmp_path_factory.mktemp("protocols")
    for protocol in ("1x1", "4x3"):
        run("evaluate", clips / "labels.csv", "--protocol", protocol, "--out", out / protocol)
    return {protocol: out / protocol for protocol in ("1x1", "4x3")}


def test_what_was_scored_is_what_the_model_answers(server: Serving, clips: Path, protocols: dict[str, Path]) -> None:
    evaluation, head = head_of(protocols["4x3"])
    outcome = load_outcome(protocols["4x3"])
    ranking = head_ranking(outcome, 0)
    assert (evaluation.num_videos, evaluation.num_failed, evaluation.views) == (16, 0, 12)
    assert head.calibration is not None
    with server.classifier() as classifier:
        contract = classifier.describe().contract
        for row, listed in enumerate(labels_of(clips)):
            found = classifier.classify(clips / listed["video"], protocol="4x3", top=contract.num_classes)
            assert outcome.logits[row].tobytes() == found.logits.tobytes()
            assert outcome.labelled.wanted_names(0)[row] == (listed["label"],)
            names = [label.name for label in found.labels]
            assert names.index(listed["label"]) == ranking.rank[row]
            shares = probabilities(found.logits.astype(float), contract.heads)
            assert ranking.probability[row] == pytest.approx(shares.max())
    assert head.all_videos.top1.value == (ranking.rank == 0).mean()


def test_protocols_are_compared(run: Run, protocols: dict[str, Path], tmp_path: Path) -> None:
    done = run("compare", protocols["1x1"], protocols["4x3"], "--json", "--out", tmp_path / "compared.html")
    found = json.loads(done.stdout)
    (head,) = found["heads"]
    assert (found["a"]["protocol"], found["b"]["protocol"], found["num_videos"]) == ("1x1", "4x3", 16)
    assert head["difference"]["low"] <= head["top1_b"]["value"] - head["top1_a"]["value"] <= head["difference"]["high"]
    pairs = head["mcnemar"]
    assert pairs["both_right"] + pairs["only_a"] == round(16 * head["top1_a"]["value"])
    assert 0.9 < found["logits"]["mean_cosine"] < 1
    page = (tmp_path / "compared.html").read_text()
    assert "1x1" in page
    assert "4x3" in page
    assert "McNemar" in (protocols["1x1"] / "report.html").read_text() + page


def test_a_killed_run_goes_on_and_ends_the_same(run: Run, server: Serving, clips: Path, tmp_path: Path) -> None:
    # Many parts of few videos, since a run of a second may be over before it is killed.
    rows = [f"{clips / row['video']},{row['label']},{part / 1000}" for row in labels_of(clips) for part in range(8)]
    listed, out = tmp_path / "list.csv", tmp_path / "killed"
    listed.write_text("\n".join(["video,label,start_s", *rows]))
    command: list[str | Path] = [TUBELET, "evaluate", listed, "--protocol", "4x3", "--concurrency", "1", "--out", out]
    with subprocess.Popen([*command, "--url", server.ready["grpc"]], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "answers" in process.stderr.readline()
        wait_for_writes(process, out / SCORES)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "evaluation.json").exists()
    done = run("evaluate", listed, "--protocol", "4x3", "--out", out)
    said = re.search(r"([0-9]+) items were done before; going on", done.stderr)
    assert said is not None
    assert 0 < int(said[1]) < len(rows)
    run("evaluate", listed, "--protocol", "4x3", "--out", tmp_path / "whole")
    one, other = load_outcome(out), load_outcome(tmp_path / "whole")
    assert one.logits.tobytes() == other.logits.tobytes()
    assert head_of(out)[1] == head_of(tmp_path / "whole")[1]
    again = run("evaluate", listed, "--protocol", "4x3", "--out", out)
    assert f"{len(rows)} items were done before" in again.stderr


def wait_for_writes(process: subprocess.Popen[str], folder: Path) -> None:
    """Until the ledger has been written to twice: what the first time brought is then durable."""

    def written() -> list[int]:
        return [path.stat().st_mtime_ns for path in folder.glob("ledger.sqlite*") if path.exists()]

    for _ in range(2):
        before = written()
        while written() == before:
            assert process.poll() is None, "it ended before anything was written"
            time.sleep(0.01)


def test_files_that_are_missing_or_broken_fail_and_can_be_left_out(run: Run, clips: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((clips / labels_of(clips)[0]["video"]).read_bytes()[:300])
    rows = [f"{clips / row['video']},{row['label']}" for row in labels_of(clips)[:3]]
    listed = tmp_path / "list.csv"
    listed.write_text("\n".join(["video,label", *rows, f"{broken},left", f"{tmp_path}/gone.mp4,left", ""]))
    done = run("evaluate", listed, "--json", rc=1)
    *answers, summary = (json.loads(line) for line in done.stdout.splitlines())
    assert [answer["error"] is None for answer in answers] == [True, True, True, False, False]
    assert (summary["rows"], summary["failed"], len(summary["failures_by_code"])) == (5, 2, 2)
    assert summary["heads"]["motion"]["answered"]["num_videos"] == 3
    assert "error: line 6, " in done.stderr
    summary = json.loads(run("evaluate", listed, "--json", "--skip-missing", rc=1).stdout.splitlines()[-1])
    assert (summary["rows"], summary["list"]["num_skipped"], summary["failed"]) == (4, 1, 1)


def test_a_kinetics_list_with_names_of_its_own(run: Run, server: Serving, clips: Path, tmp_path: Path) -> None:
    with server.classifier() as classifier:
        found = classifier.classify(clips / labels_of(clips)[0]["video"], top=1000)
    names = [label.name for label in sorted(found.labels, key=lambda label: label.index)]
    (tmp_path / "names.txt").write_text("\n".join(f"moving {name}" for name in names) + "\n")
    lines = ["label,youtube_id,time_start,time_end,split"]
    for row in labels_of(clips)[:4]:
        folder = tmp_path / "videos" / f"moving {row['label']}"
        folder.mkdir(parents=True, exist_ok=True)
        identifier = row["video"][:5]
        (folder / f"{identifier}_000004_000014.mp4").symlink_to(clips / row["video"])
        lines.append(f"moving {row['label']},{identifier},4,14,val")
    (tmp_path / "kinetics_val.csv").write_text("\r\n".join(lines))
    arguments: list[Any] = ["evaluate", tmp_path / "kinetics_val.csv", "--videos", tmp_path / "videos"]
    summary = json.loads(run(*arguments, "--labels", tmp_path / "names.txt", "--json").stdout.splitlines()[-1])
    assert (summary["rows"], summary["failed"], summary["list"]["format"]) == (4, 0, "kinetics")
    refused = run(*arguments, rc=1).stderr
    assert "kinetics_val.csv, line 2: label 'moving " in refused


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The demo's network with its eight classes read otherwise: as two heads, and as a multi-label head."""
    recipes, work = ROOT / "export" / "recipes", tmp_path_factory.mktemp("others")
    names = (recipes.parent / "labels" / "motion.txt").read_text().splitlines()
    for head, some in (("noun", names[:5]), ("verb", names[5:])):
        (work / f"{head}.txt").write_text("".join(f"{name}\n" for name in some))
    motion = (recipes / "motion.toml").read_text().replace('"../', f'"{recipes.parent}/')
    one_head = f'[[heads]]\nname = "motion"\nactivation = "softmax"\nlabels = "{recipes.parent}/labels/motion.txt"\n'
    two_heads = "\n".join(f'[[heads]]\nname = "{h}"\nactivation = "softmax"\nlabels = "{h}.txt"\n' for h in HEADS)
    assert one_head in motion
    bundles = []
    for name, text in {
        "tags": motion.replace('activation = "softmax"', 'activation = "sigmoid"'),
        "pairs": motion.replace(one_head, two_heads).replace('product = "none"', 'product = "action"'),
    }.items():
        recipe = work / f"{name}.toml"
        recipe.write_text(text.replace('name = "motion"', f'name = "{name}"', 1))
        export_bundle(recipe, checkpoint=recipes.parent / "checkpoints" / "motion.msgpack", out=work / name)
        bundles.append(work / name)
    write_repository(bundles, target="cpu", out=work / "repository", limits=Limits())
    with Serving(work / "repository") as serving:
        yield serving


def test_verbs_nouns_and_actions(run: Run, others: Serving, clips: Path, tmp_path: Path) -> None:
    lines, right = ["video,verb,noun"], {"verb": 0, "noun": 0, "action": 0}
    with others.classifier(model="pairs") as classifier:
        for number, row in enumerate(labels_of(clips)):
            found = classifier.classify(clips / row["video"], top=8)
            ranked = {
                head: [it.name.removeprefix(f"{head}: ") for it in found.labels if it.name.startswith(f"{head}: ")]
                for head in HEADS
            }
            said = {"verb": ranked["verb"][number % 2], "noun": ranked["noun"][number // 2 % 2]}
            lines.append(f"{clips / row['video']},{said['verb']},{said['noun']}")
            for head in HEADS:
                right[head] += said[head] == ranked[head][0]
            right["action"] += found.product[0].name == f"{said['noun']}, {said['verb']}"
    assert 0 < right["action"] < min(right["verb"], right["noun"]) < 16
    (tmp_path / "list.csv").write_text("\n".join(lines))
    arguments = ("evaluate", tmp_path / "list.csv", "--model", "pairs", "--url", others.ready["grpc"])
    lines = run(*arguments, "--json", "--out", tmp_path / "out").stdout.splitlines()
    summary = json.loads(lines[-1])
    found_tops = {name: figures["top1"]["value"] for name, figures in (summary["heads"] | summary["product"]).items()}
    assert found_tops == {name: count / 16 for name, count in right.items()}
    assert "action" in (tmp_path / "out" / "report.html").read_text()
    compared = json.loads(run("compare", tmp_path / "out", tmp_path / "out", "--json").stdout)
    assert compared["product"]["agreement"]["share"] == 1


def test_multi_label_models_are_judged_by_average_precision(
    run: Run, others: Serving, clips: Path, tmp_path: Path
) -> None:
    rows = [f"{clips / row['video']},{row['label']}|{row['label']}" for row in labels_of(clips)]
    (tmp_path / "list.csv").write_text("\n".join(["video,label", *rows, ""]))
    arguments = ("evaluate", tmp_path / "list.csv", "--model", "tags", "--url", others.ready["grpc"])
    done = run(*arguments, "--out", tmp_path / "out")
    assert re.search(r"mAP +[0-9.]+ %", done.stdout)
    (head,) = Evaluation.load(tmp_path / "out" / "evaluation.json").heads
    assert isinstance(head, MultiLabelResult)
    outcome = load_outcome(tmp_path / "out")
    theirs = average_precision_score(outcome.labelled.right_classes(0), outcome.logits, average=None)
    assert head.all_videos.value == pytest.approx(theirs.mean())
    assert [one.average_precision for one in head.classes] == pytest.approx(list(theirs))
