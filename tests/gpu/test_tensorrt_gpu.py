"""Plans for real: built, run and held against the checkpoint, on a machine with TensorRT and a GPU.

Nothing of this has run where the project is developed; FAIL_WITHOUT_GPU=1 makes what is missing a failure.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tubelet.demo.clips import write_clips
from tubelet.engines.gpu import find_gpu, find_tensorrt
from tubelet.export.chain import Chain
from tubelet.export.judge import MIN_VIEWS
from tubelet.export.samples import generated_sample
from tubelet.export.tensorrt import build_engines
from tubelet.export.tensorrt_jobs import Wishes
from tubelet.export.verify import verify_bundle
from tubelet.spec.engine import Precision
from tubelet.spec.errors import ContractError, MachineError
from tubelet.spec.manifest import Manifest
from tubelet.spec.plan import Plan

pytestmark = pytest.mark.needs_gpu

CHECKPOINTS = Path(__file__).parents[2] / "export" / "checkpoints"
DEMOS = ("motion", "motion_vtn", "motion_vidtr", "motion_cvidtr")


@pytest.fixture(scope="module", autouse=True)
def _machine() -> None:
    """Skips where there is no GPU or no TensorRT, and says which."""
    import torch

    try:
        find_tensorrt()
        find_gpu()
        if not torch.cuda.is_available():
            raise MachineError("missing", "torch sees no GPU")
    except MachineError as exc:
        if os.environ.get("FAIL_WITHOUT_GPU") == "1":
            raise
        pytest.skip(str(exc))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One timing cache for all builds."""
    return tmp_path_factory.mktemp("cache") / "timing"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, split="evaluation", seed=2, count=MIN_VIEWS)
    return folder


@pytest.fixture
def bundle(demo_bundle: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copies of the demo bundles."""

    def copy(name: str) -> Path:
        shutil.copytree(demo_bundle(name), tmp_path / name)
        return tmp_path / name

    return copy


@pytest.mark.parametrize("name", DEMOS)
def test_fp32_is_exact(bundle: Callable[[str], Path], cache: Path, name: str) -> None:
    """Every number within the budget of fp32: with TF32 it would not be."""
    folder = bundle(name)
    build_engines(folder, Wishes(precision="fp32", timing_cache=cache))
    (found,) = verify_bundle(folder, checkpoint=_checkpoint(folder), videos=None, arithmetics=[("tensorrt", "fp32")])
    assert found.passed
    assert found.processor == find_gpu().name


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", DEMOS[:3])
def test_sixteen_bits_keep_the_budget_and_fuse_attention(
    bundle: Callable[[str], Path], cache: Path, videos: Path, name: str, precision: Precision
) -> None:
    folder = bundle(name)
    encoder = build_engines(folder, Wishes(precision=precision, timing_cache=cache))[0]
    assert encoder.num_fused_attentions == encoder.num_attentions > 0
    arithmetics = [("tensorrt", precision)]
    (found,) = verify_bundle(folder, checkpoint=_checkpoint(folder), videos=videos, arithmetics=arithmetics)  # type: ignore[arg-type]
    assert found.passed


def test_rows_do_not_depend_on_their_batch_beyond_rounding(bundle: Callable[[str], Path], cache: Path) -> None:
    """Batches of either profile, up to the largest."""
    folder = bundle("motion")
    build_engines(folder, Wishes(precision="fp32", timing_cache=cache))
    contract = Manifest.load(folder).contract
    chain = Chain.open(folder, contract, "tensorrt", "fp32")
    plan = Plan.load(folder / "gpu" / "encoder.fp32.plan")
    most = max(profile.inputs["UNITS"].most[0] for profile in plan.profiles)
    sample = generated_sample(contract, num_frames=contract.sampler.num_frames, largest_batch=most, seed=1)
    units = chain.units(sample)
    answers = [chain.answer(sample, units, batch=batch)["VIEW_LOGITS"] for batch in (1, 3, most)]
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], atol=1e-4)


def test_a_plan_of_another_bundle_is_refused(bundle: Callable[[str], Path], cache: Path) -> None:
    folder, other = bundle("motion"), bundle("motion_vtn")
    build_engines(folder, Wishes(precision="fp32", timing_cache=cache))
    shutil.copytree(folder / "gpu", other / "gpu")
    with pytest.raises(ContractError, match="was built for contract"):
        Chain.open(other, Manifest.load(other).contract, "tensorrt", "fp32")


def _checkpoint(bundle: Path) -> Path:
    return CHECKPOINTS / Manifest.load(bundle).build.checkpoint.file
