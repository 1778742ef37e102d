"""The training of the demo model: where it starts, what it sees, that it learns, and what the committed weights do."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tubelet.checkpoints.load import load_model
from tubelet.demo.clips import write_clips
from tubelet.demo.dataset import Example, draw_batch, load_examples, read_table
from tubelet.demo.evaluate import TorchEvaluation, evaluate_in_torch
from tubelet.demo.initialise import drifting_gabors, initialise, smooth_positions
from tubelet.demo.motion import LABELS
from tubelet.demo.train import Schedule, motion_sizes, train
from tubelet.models.vivit import FactorisedEncoder
from tubelet.spec.recipe import Recipe

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "export" / "recipes" / "motion.toml"
CHECKPOINT = ROOT / "export" / "checkpoints" / "motion.msgpack"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return Recipe.load(RECIPE)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), split="evaluation", seed=21, count=24, workers=1)


@pytest.fixture(scope="module")
def examples(table: Path, recipe: Recipe) -> list[Example]:
    return load_examples(table, resize=recipe.resize, workers=1)


def test_examples_are_whole_videos_in_order(examples: list[Example], table: Path, recipe: Recipe) -> None:
    side = recipe.resize.short_side_px
    assert [example.label for example in examples] == [label for _, label in read_table(table)]
    assert {example.frames.shape[1:] for example in examples} == {(side, side, 3)}
    assert all(20 <= len(example.frames) <= 90 for example in examples)


def test_a_batch_is_what_the_network_takes(examples: list[Example], recipe: Recipe) -> None:
    clips, classes = draw_batch(np.random.default_rng(0), examples, recipe=recipe)
    side = recipe.crop.size_px
    assert clips.shape == (len(examples), recipe.sampler.num_frames, side, side, 3)
    assert clips.dtype == torch.float32
    assert -1 <= float(clips.min()) < -0.5 < 0.5 < float(clips.max()) <= 1
    assert classes.min() >= 0
    assert classes.max() < len(LABELS)
    again, _ = draw_batch(np.random.default_rng(0), examples, recipe=recipe)
    assert torch.equal(clips, again)


def test_a_gabor_pair_answers_to_its_own_direction_of_motion() -> None:
    kernels = drifting_gabors(np.random.default_rng(3), width=32, frames=4, patch_px=8).astype(np.float64)
    assert kernels.shape == (32, 3, 4, 8, 8)
    assert np.allclose((kernels**2).sum(axis=(1, 2, 3, 4)), 1)
    assert np.allclose(kernels.mean(axis=(2, 3, 4)), 0, atol=1e-6)
    clips = kernels[0::2]  # the even kernels themselves are the moving pictures

    def energy(pictures: NDArray[np.float64]) -> NDArray[np.float64]:
        answers = np.einsum("kcthw,kjcthw->kj", pictures, kernels.reshape(16, 2, 3, 4, 8, 8))
        return np.asarray((answers**2).sum(axis=1))

    forwards, backwards = energy(clips), energy(clips[:, :, ::-1])
    assert (forwards >= backwards - 1e-9).mean() > 0.9
    assert np.median(forwards) > 1.5 * np.median(backwards)


def test_positions_of_neighbours_are_alike() -> None:
    rows = smooth_positions(np.random.default_rng(0), width=96, grid=6).reshape(6, 6, 96)
    near = np.linalg.norm(rows[:, 1:] - rows[:, :-1], axis=-1).mean()
    far = np.linalg.norm(rows[0, 0] - rows[5, 5])
    assert near < far / 2


def test_start_depends_on_the_seed_alone(recipe: Recipe) -> None:
    first, second, other = (FactorisedEncoder(motion_sizes(recipe)) for _ in range(3))
    for model, seed in ((first, 1), (second, 1), (other, 2)):
        initialise(model, seed=seed)
    assert torch.equal(first.embedding.weight, second.embedding.weight)
    assert torch.equal(first.spatial.positions[:, 1:], second.spatial.positions[:, 1:])
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_rate_warms_up_and_ends_near_zero() -> None:
    schedule = Schedule(steps=1000)
    rates = [schedule.rate(step) for step in range(1000)]
    assert int(np.argmax(rates)) in range(schedule.warmup_steps - 1, schedule.warmup_steps + 1)
    assert max(rates) <= schedule.peak_rate
    assert 0 <= rates[-1] < 1e-3 * schedule.peak_rate


def test_training_is_repeatable(examples: list[Example], recipe: Recipe) -> None:
    schedule = Schedule(steps=4, batch=8, warmup_steps=2, seed=4)
    first, second = (train(examples, recipe=recipe, schedule=schedule) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_sixty_steps_are_better_than_guessing(examples: list[Example], recipe: Recipe) -> None:
    model = train(examples, recipe=recipe, schedule=Schedule(steps=60, batch=24, warmup_steps=10, seed=5)).eval()
    clips, classes = draw_batch(np.random.default_rng(9), examples * 4, recipe=recipe)
    with torch.inference_mode():
        loss = float(torch.nn.functional.cross_entropy(model(clips), classes))
    assert loss < 0.9 * math.log(len(LABELS))


def test_an_evaluation_counts_by_label() -> None:
    evaluation = TorchEvaluation(wanted=("left", "grow", "left", "left"), found=("left", "left", "up", "left"))
    assert evaluation.top1 == 0.5
    assert evaluation.top1_by_label() == {"left": 2 / 3, "grow": 0.0}


def test_committed_checkpoint_is_small_and_fits_the_recipe(recipe: Recipe) -> None:
    assert CHECKPOINT.stat().st_size < 2_000_000
    source = recipe.checkpoint
    assert RECIPE.parent / source.file == RECIPE.parent / "../checkpoints/motion.msgpack"
    model = load_model(CHECKPOINT, format=source.format, family=recipe.family, variant=recipe.variant)
    assert model.sizes == motion_sizes(recipe)


@pytest.mark.parametrize(("protocol", "least"), [(None, 0.9), ("4x3", 0.8)])
def test_committed_checkpoint_knows_clips_never_trained_on(table: Path, protocol: str | None, least: float) -> None:
    evaluation = evaluate_in_torch(table, recipe=RECIPE, protocol=protocol)
    assert len(evaluation.wanted) == 24
    assert evaluation.top1 >= least, list(zip(evaluation.wanted, evaluation.found, strict=True))
