"""`tubelet engine`: what it plans, what it says and leaves where something fails, and what stands beside a plan.

TensorRT itself is scripted here; it runs for real in tests/gpu/.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from scripted_tensorrt import Script, installed
from tiny import CHECKPOINT

from tubelet.cli import main
from tubelet.engines.gpu import find_gpu, find_tensorrt
from tubelet.engines.open import check_machine
from tubelet.export.digests import graph_sha256, graphs_sha256
from tubelet.export.gpu_engines import open_gpu_engines
from tubelet.export.tensorrt import build_engines
from tubelet.export.tensorrt_jobs import Wishes, describe, make_jobs, size_warning
from tubelet.export.tensorrt_ops import most_numbers
from tubelet.spec.engine import EngineName, Precision
from tubelet.spec.errors import ContractError, InternalError, MachineError
from tubelet.spec.manifest import Manifest
from tubelet.spec.plan import BuildOptions, Gpu, Plan, check_plan_fits

H200 = Gpu(name="NVIDIA H200", compute_capability="9.0", driver="615.61")


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may spoil."""
    shutil.copytree(tiny_bundle, tmp_path / "tiny")
    shutil.copy(CHECKPOINT, tmp_path / "tiny" / "checkpoint")
    return tmp_path / "tiny"


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has nvidia-smi answer a line, as on a machine with that card."""

    def show(line: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\necho \"$@\" > '{folder}/asked'\necho '{line}'\n")
        (folder / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return show


@pytest.fixture
def no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def script(card: Callable[[str], None]) -> Iterator[Script]:
    """A machine with a card and a scripted TensorRT."""
    card("NVIDIA H200, 9.0, 615.61")
    with installed(Script(layers=[{"Name": "_gemm_mha_v2_myl0_1"}, "MatMul_1"])) as scripted:
        yield scripted


def engine(bundle: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["engine", str(bundle), *map(str, arguments)])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What it would do


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_dry_run_says_what_would_be_built_and_writes_nothing(bundle: Path, precision: str) -> None:
    before = files(bundle)
    found = engine(bundle, "--precision", precision, "--dry-run", "--builder-level", 5)
    assert found.exit_code == 0, found.output
    said = found.stdout
    manifest = Manifest.load(bundle)
    assert said.startswith(f"tiny, contract {manifest.contract_digest}, {precision}\n")
    graph = "encoder.onnx" if precision == "fp32" else f"gpu/encoder.{precision}.onnx"
    assert f"encoder: {graph}, " in said
    assert ("Attention" in said) == (precision != "fp32")
    assert "TensorRT's parser takes every layer" in said
    # 3 tubelets a view, 2x3 views by default.
    assert "profile 0, one view: UNITS 1x2x16x16x3 to 3x2x16x16x3, kernels for 3x2x16x16x3" in said
    assert "profile 1, many views: UNITS 1x2x16x16x3 to 90x2x16x16x3, kernels for 18x2x16x16x3" in said
    assert "builder level 5" in said
    assert f"gives gpu/encoder.{precision}.plan, gpu/encoder.{precision}.plan.json" in said
    assert "gives gpu/temporal.plan" in said
    assert files(bundle) == before


def test_a_dry_run_fails_where_the_parser_would(bundle: Path) -> None:
    path = bundle / "temporal.onnx"
    model = onnx.load(path)
    next(node for node in model.graph.node if node.op_type == "Gather").op_type = "Unknowable"
    onnx.save_model(model, path)
    found = engine(bundle, "--precision", "fp32", "--dry-run")
    assert found.exit_code == 1
    assert "TensorRT's parser would refuse" in found.stdout
    assert "Unknowable" in found.stderr
    assert found.stderr.startswith("error: internal: ")


def test_a_dry_run_remarks_more_heads_than_a_grid_has_blocks(bundle: Path) -> None:
    wishes = Wishes(precision="fp32", most_views=30)
    job = make_jobs(bundle, Manifest.load(bundle), wishes)[0]
    most_units = max(profile.inputs["UNITS"].most[0] for profile in job.profiles)
    fits = 65_535 // most_units
    said = ["\n".join(describe(replace(job, most_heads=heads), wishes.options)) for heads in (fits, fits + 1)]
    assert "remark" not in said[0]
    assert f"if the build fails, take --most-views {65_535 // (fits + 1)}" in said[1]


def test_a_dry_run_remarks_tensors_beyond_32_bits(bundle: Path) -> None:
    wishes = Wishes(precision="fp32", most_views=30)
    job = make_jobs(bundle, Manifest.load(bundle), wishes)[0]
    assert job.most_numbers == most_numbers(bundle / "encoder.onnx") > 0
    most_units = max(profile.inputs["UNITS"].most[0] for profile in job.profiles)
    fits = (2**31 - 1) // most_units
    said = ["\n".join(describe(replace(job, most_numbers=n), wishes.options)) for n in (fits, fits + 1, 2**33)]
    assert "remark" not in said[0]
    # 3 tubelets a view.
    assert f"if the build fails, take --most-views {(2**31 - 1) // (3 * (fits + 1))}" in said[1]
    assert "take --most-views 1" in said[2]


def test_the_graph_alone_needs_no_tensorrt(bundle: Path) -> None:
    found = engine(bundle, "--precision", "fp16", "--graph-only")
    assert found.exit_code == 0, found.output
    assert (bundle / "gpu" / "encoder.fp16.onnx").is_file()
    assert found.stdout == f"{bundle}: gpu/encoder.fp16.onnx\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--precision", "fp64"],
        ["--precision", "fp16", "--builder-level", "6"],
        ["--precision", "fp16", "--compatible-hardware", "volta"],
        ["--precision", "fp16", "--dry-run", "--graph-only"],
    ],
)
def test_wrong_usage_is_exit_code_2(bundle: Path, arguments: list[str]) -> None:
    assert engine(bundle, *arguments).exit_code == 2


def test_a_graph_of_another_contract_is_refused(bundle: Path) -> None:
    path = bundle / "encoder.onnx"
    model = onnx.load(path)
    next(entry for entry in model.metadata_props if entry.key == "contract_digest").value = "sha256:other"
    onnx.save_model(model, path)
    assert "exported for sha256:other" in engine(bundle, "--precision", "fp32", "--dry-run").stderr


# What this machine lacks


def test_without_tensorrt_the_remedy_is_said(bundle: Path) -> None:
    before = files(bundle)
    found = engine(bundle, "--precision", "fp16")
    assert found.exit_code == 1
    assert found.stderr.startswith("error: missing: no TensorRT")
    assert "tensorrt-cu13==11.2.1.2" in found.stderr
    assert files(bundle) == before


@pytest.mark.usefixtures("no_card")
def test_without_a_card_the_remedy_is_said(bundle: Path) -> None:
    with installed(Script()), pytest.raises(MachineError, match=r"missing: no NVIDIA GPU is here"):
        build_engines(bundle, Wishes(precision="fp16"))


def test_a_tensorrt_that_is_too_old_is_refused() -> None:
    with installed(Script(version="10.13.3.9")), pytest.raises(MachineError, match=r"TensorRT 10\.13\.3\.9 is here"):
        find_tensorrt()
    with installed(Script(version="10.16.1.11")):
        assert find_tensorrt() == "10.16.1.11"


def test_the_card_is_the_first_that_cuda_may_see(
    card: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card("NVIDIA H200, 9.0, 615.61")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5,GPU-6")
    assert find_gpu() == H200
    assert "--id=GPU-5 " in (tmp_path / "bin" / "asked").read_text()
    card("No devices were found")
    with pytest.raises(MachineError, match="nvidia-smi shows none"):
        find_gpu()


@pytest.mark.usefixtures("no_card")
@pytest.mark.parametrize("chosen", ["tensorrt", "onnxruntime_cuda", "onnxruntime_tensorrt"])
def test_the_engines_for_gpus_say_what_is_missing(bundle: Path, chosen: EngineName) -> None:
    with pytest.raises(MachineError, match="missing"):
        check_machine(chosen, "fp16")
    found = CliRunner().invoke(main, ["verify", str(bundle), "--engine", chosen])
    assert found.exit_code == 1
    assert "error: missing: " in found.stderr


def test_a_provider_that_makes_way_for_another_is_no_engine(bundle: Path, card: Callable[[str], None]) -> None:
    card("NVIDIA H200, 9.0, 615.61")  # a card, and ONNX Runtime without its provider
    manifest = Manifest.load(bundle)
    with pytest.raises(MachineError, match="ONNX Runtime has no CUDAExecutionProvider here"):
        open_gpu_engines(bundle, manifest.contract, "onnxruntime_cuda", "fp32")


# What it builds


def test_two_plans_are_built_and_say_what_they_are(bundle: Path, script: Script) -> None:
    found = engine(
        bundle, "--precision", "fp16", "--workspace-gib", 4, "--refit", "--compatible-hardware", "ampere-plus"
    )
    assert found.exit_code == 0, found.output
    assert found.stdout.splitlines() == [
        f"{bundle}: encoder, fp16, 0.0 MB, for NVIDIA H200",
        f"{bundle}: temporal, fp32, 0.0 MB, for NVIDIA H200",
    ]
    plan = bundle / "gpu" / "encoder.fp16.plan"
    about, manifest = Plan.load(plan), Manifest.load(bundle)
    assert plan.read_bytes() == b"a plan"
    assert about.plan_sha256 == hashlib.sha256(b"a plan").hexdigest()
    assert (about.contract_digest, about.step, about.precision) == (manifest.contract_digest, "encoder", "fp16")
    assert (about.graph, about.graph_sha256) == (
        "gpu/encoder.fp16.onnx", graph_sha256(bundle, "gpu/encoder.fp16.onnx")
    )  # fmt: skip
    assert (about.tensorrt, about.gpu, about.plan_bytes) == ("11.2.1.2", H200, 6)
    assert about.options == BuildOptions(workspace_gib=4, refit=True, compatible_hardware="ampere-plus")
    assert about.num_attentions > about.num_fused_attentions == 1
    assert max(profile.inputs["UNITS"].most[0] for profile in about.profiles) == 90
    assert "1 of" in found.stderr
    assert "warning: attention that is not one kernel" in found.stderr
    assert Plan.load(bundle / "gpu" / "temporal.plan").graph == "temporal.onnx"


def test_the_network_is_configured_as_asked(bundle: Path, script: Script) -> None:
    build_engines(bundle, Wishes(precision="fp32", options=BuildOptions(builder_level=2, compatible_versions=True)))
    assert script.network_flags == 0
    assert script.network_name.startswith("tiny temporal sha256:")
    assert script.config["WORKSPACE"] == 16 << 30
    assert script.config["builder_optimization_level"] == 2
    assert script.config["profiling_verbosity"].name == "DETAILED"
    assert script.config["hardware_compatibility_level"].name == "NONE"
    assert (script.set_flags, script.cleared_flags) == ({"VERSION_COMPATIBLE"}, {"TF32"})
    encoder, temporal = script.profiles[:2], script.profiles[2:]
    assert [profile["UNITS"][2][0] for profile in encoder] == [3, 90]
    assert [set(profile) for profile in temporal] == [{"FEATURES", "CLIP_UNITS", "CROPS"}] * 2


def test_tensorrt_10_is_told_to_be_strongly_typed_by_name(bundle: Path, script: Script) -> None:
    with installed(replace(script, version="10.16.1.11")) as older:
        build_engines(bundle, Wishes(precision="fp32"))
    assert older.network_flags == 1 << 1


def test_a_temporal_plan_that_fits_is_kept(bundle: Path, script: Script) -> None:
    build_engines(bundle, Wishes(precision="fp16"))
    lines: list[str] = []
    build_engines(bundle, Wishes(precision="bf16"), progress=lines.append)
    assert script.builds == 3
    assert "gpu/temporal.plan is there already" in lines
    build_engines(bundle, Wishes(precision="bf16", most_views=12))
    assert script.builds == 5


def test_a_damaged_temporal_plan_is_not_kept(bundle: Path, script: Script) -> None:
    build_engines(bundle, Wishes(precision="fp32"))
    (bundle / "gpu" / "temporal.plan").write_bytes(b"half a plan")
    build_engines(bundle, Wishes(precision="fp32"))
    assert script.builds == 4
    assert (bundle / "gpu" / "temporal.plan").read_bytes() == b"a plan"


def test_the_timing_cache_is_read_and_written_again(bundle: Path, script: Script, tmp_path: Path) -> None:
    cache = tmp_path / "caches" / "h200"
    build_engines(bundle, Wishes(precision="fp32", timing_cache=cache))
    assert cache.read_bytes() == b"++"  # of two builds
    assert script.cache == b"+"


def test_a_timing_cache_of_another_card_is_refused(bundle: Path, script: Script, tmp_path: Path) -> None:
    script.takes_cache = False
    with pytest.raises(ContractError, match="the timing cache is of another GPU or TensorRT"):
        build_engines(bundle, Wishes(precision="fp32", timing_cache=tmp_path / "cache"))
    assert not (bundle / "gpu").exists()


def test_every_error_of_the_parser_is_said_with_its_node(bundle: Path, script: Script) -> None:
    script.parser_errors = [
        {"node_name": "node_A", "node_operator": "Foo", "code": "UNSUPPORTED_NODE", "desc": "no such layer"},
        {"node_name": "", "node_operator": "Bar", "code": "UNSUPPORTED_NODE_ATTR", "desc": "axis"},
    ]
    expected = r"node_A \(Foo\): UNSUPPORTED_NODE, no such layer; 0 \(Bar\): UNSUPPORTED_NODE_ATTR, axis"
    with pytest.raises(InternalError, match=expected):
        build_engines(bundle, Wishes(precision="fp32"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": None, "complaint": "no kernel\n  for this"}, r"cannot build encoder\.onnx: no kernel for this"),
        ({"plan": None}, r"TensorRT gives no reason"),
        ({"takes_profiles": False}, r"cannot take the profile 'one view'"),
        ({"has_driver": False}, r"finds no GPU that it can use"),
    ],
)
def test_what_fails_is_said_in_tensorrts_last_words(
    bundle: Path, script: Script, change: dict[str, object], message: str
) -> None:
    for name, value in change.items():
        setattr(script, name, value)
    with pytest.raises(MachineError, match=message):
        build_engines(bundle, Wishes(precision="fp32"))
    assert not (bundle / "gpu").exists()


def test_progress_is_told_and_an_interrupt_stops_the_build(bundle: Path, script: Script) -> None:
    lines: list[str] = []
    build_engines(bundle, Wishes(precision="fp32"), progress=lines.append)
    assert [line for line in lines if line.startswith("TensorRT: ")][:2] == [
        "TensorRT: Building Engine, 4 of 16",
        "TensorRT: Building Engine, 8 of 16",
    ]
    before = files(bundle)

    def interrupt(line: str) -> None:
        if line.startswith("TensorRT: "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engines(bundle, Wishes(precision="fp32"), progress=interrupt)
    assert files(bundle) == before


def test_layers_of_other_profiles_and_other_layers_are_no_fused_attention(script: Script) -> None:
    from tubelet.export.tensorrt_build import count_fused_attentions

    layers: list[str | dict[str, object]] = [
        {"Name": "_gemm_mha_v2_myl0_3", "TacticName": "_gemm_mha_v2"},
        {"Name": "_gemm_mha_v2_myl0_3 [profile 1]", "TacticName": "_gemm_mha_v2"},
        {"Name": "block_1", "TacticName": "sm90_fMHA_kernel"},
        {"Name": "Softmax_4", "TacticName": "softmax"},
        "_mha_9",
    ]
    assert count_fused_attentions(layers) == 3


@pytest.mark.parametrize(
    ("plan_bytes", "precision", "warned"),
    [
        (20_000_000, "fp16", False),
        (40_000_000, "fp16", True),
        (40_000_000, "fp32", False),
        (21_000_000, "int8", True),
        (12_000_000, "fp8", False),
    ],
)
def test_a_plan_as_large_as_in_a_wider_type_is_warned_of(plan_bytes: int, precision: Precision, warned: bool) -> None:
    assert bool(size_warning(plan_bytes=plan_bytes, num_weights=10_000_000, precision=precision)) == warned
    assert size_warning(plan_bytes=plan_bytes, num_weights=100_000, precision=precision) is None


# What stands beside a plan


@pytest.fixture
def about(bundle: Path, script: Script) -> Plan:
    return build_engines(bundle, Wishes(precision="fp16"))[0]


def fits(about: Plan, **here: object) -> None:
    found = {
        "contract_digest": about.contract_digest,
        "graph_sha256": about.graph_sha256,
        "tensorrt": about.tensorrt,
        "gpu": about.gpu,
    }
    check_plan_fits(about, **(found | here))  # type: ignore[arg-type]


def test_a_plan_fits_where_it_was_built_and_nowhere_else(about: Plan) -> None:
    fits(about)
    other = Gpu(name="NVIDIA H100", compute_capability="9.0", driver="615.61")
    for here, message in (
        ({"contract_digest": "sha256:other"}, "contract sha256"),
        ({"graph_sha256": "other"}, r"gpu/encoder\.fp16\.onnx"),
        ({"tensorrt": "11.3.0.1"}, r"TensorRT 11\.2\.1\.2, but 11\.3\.0\.1 is here; build it again"),
        ({"gpu": other}, "GPU NVIDIA H200, but NVIDIA H100 is here"),
    ):
        with pytest.raises(ContractError, match=message):
            fits(about, **here)
    # Another driver is no other plan.
    fits(about, gpu=replace(about.gpu, driver="620.1"))


def test_a_compatible_plan_fits_elsewhere_too(about: Plan) -> None:
    hopper = Gpu(name="NVIDIA H100", compute_capability="9.0", driver="1")
    ada = Gpu(name="NVIDIA L4", compute_capability="8.9", driver="1")
    same = replace(about, options=BuildOptions(compatible_hardware="same-compute-capability"))
    fits(same, gpu=hopper)
    with pytest.raises(ContractError, match=r"compute capability 9\.0, but 8\.9 is here"):
        fits(same, gpu=ada)
    fits(replace(about, options=BuildOptions(compatible_hardware="ampere-plus")), gpu=ada)
    fits(replace(about, options=BuildOptions(compatible_versions=True)), tensorrt="11.4.0.106")


@pytest.mark.usefixtures("about")
@pytest.mark.parametrize("text", ["", "{}", '{"schema_version": 1}', None])
def test_a_plan_whose_words_are_lost_is_refused(bundle: Path, text: str | None) -> None:
    plan = bundle / "gpu" / "encoder.fp16.plan"
    words = plan.with_name(f"{plan.name}.json")
    words.unlink() if text is None else words.write_text(text)
    with pytest.raises(ContractError, match=r"encoder\.fp16\.plan has no encoder\.fp16\.plan\.json that can be read"):
        Plan.load(plan)


@pytest.mark.usefixtures("about")
def test_words_without_a_plan_are_refused(bundle: Path) -> None:
    (bundle / "gpu" / "encoder.fp16.plan").unlink()
    with pytest.raises(ContractError, match=r"encoder\.fp16\.plan is not there; build it again"):
        Plan.load(bundle / "gpu" / "encoder.fp16.plan")


@pytest.mark.usefixtures("about")
def test_verify_refuses_a_plan_that_does_not_fit(bundle: Path, script: Script) -> None:
    contract = Manifest.load(bundle).contract
    plan = bundle / "gpu" / "encoder.fp16.plan"
    words = plan.with_name(f"{plan.name}.json")
    good = words.read_text()
    words.write_text(json.dumps(json.loads(good) | {"contract_digest": "sha256:other"}))
    with pytest.raises(ContractError, match=r"built for contract sha256:other, .* build it again"):
        open_gpu_engines(bundle, contract, "tensorrt", "fp16")
    words.write_text(good)
    plan.write_bytes(b"another plan")
    with pytest.raises(ContractError, match=r"is not the plan that encoder\.fp16\.plan\.json is about"):
        open_gpu_engines(bundle, contract, "tensorrt", "fp16")


def test_what_is_verified_is_the_plan_where_plans_run(bundle: Path, script: Script) -> None:
    contract = Manifest.load(bundle).contract
    build_engines(bundle, Wishes(precision="fp16"))
    by_plan, by_graph = (graphs_sha256(bundle, contract, "fp16", name) for name in ("tensorrt", "onnxruntime_cuda"))
    assert by_graph == graphs_sha256(bundle, contract, "fp16", "onnxruntime_host")
    script.plan = b"a plan of another build"
    build_engines(bundle, Wishes(precision="fp16"))
    assert graphs_sha256(bundle, contract, "fp16", "tensorrt") != by_plan
    assert graphs_sha256(bundle, contract, "fp16", "onnxruntime_cuda") == by_graph
    with pytest.raises(ContractError, match=r"gpu/encoder\.bf16\.plan is not there; run tubelet engine"):
        graphs_sha256(bundle, contract, "bf16", "tensorrt")


def test_verify_computes_the_graphs_for_gpus_on_the_processor(bundle: Path) -> None:
    """fp32 takes no videos: the graphs of both targets are one."""
    found = CliRunner().invoke(main, ["verify", str(bundle), "--engine", "onnxruntime_host"])
    assert found.exit_code == 0, found.output
    noted = {(v.engine, v.precision): v for v in Manifest.load(bundle).build.verified}
    assert noted["onnxruntime_host", "fp32"].passed
