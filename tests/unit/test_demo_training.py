"""The training of the demo models: where they start, what they see, that they learn, what the committed weights do."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tubelet.demo.clips import write_clips
from tubelet.demo.clocks import frequencies, look_ahead, time_pairs
from tubelet.demo.dataset import Example, draw_batch, load_examples, read_table
from tubelet.demo.energy import oppose
from tubelet.demo.evaluate import TorchEvaluation, evaluate_in_torch
from tubelet.demo.flow import flow
from tubelet.demo.initialise import drifting_gabors, gratings, initialise, smooth_positions
from tubelet.demo.models import DEMO_MODELS, motion_sizes
from tubelet.demo.motion import LABELS
from tubelet.demo.train import save, table_of_clips
from tubelet.demo.training import Schedule, train
from tubelet.demo.windows import random_window
from tubelet.export.bundle import load_plan
from tubelet.models.vivit import FactorisedEncoder
from tubelet.preprocess.pyslowfast import multi_view_clips
from tubelet.preprocess.timeline import constant_clock
from tubelet.spec.manifest import Sampler
from tubelet.spec.recipe import Recipe

RECIPES = Path(__file__).parents[2] / "export" / "recipes"
LEAST_TOP1 = {"vivit": 0.9, "vtn": 0.8, "vidtr": 0.85, "cvidtr": 0.85}


def load(name: str) -> Recipe:
    return Recipe.load(RECIPES / DEMO_MODELS[name].recipe)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load("vivit")


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
    assert {example.fps for example in examples} <= {10, 12, 15, 20, 24, 25, 30, 50, 60}


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_a_batch_is_what_the_network_takes(name: str, examples: list[Example]) -> None:
    recipe = load(name)
    batch = draw_batch(np.random.default_rng(0), examples, recipe=recipe)
    side, num_frames = recipe.crop.size_px, recipe.sampler.num_frames
    assert batch.clips.shape == (len(examples), num_frames, side, side, 3)
    assert batch.clips.dtype == torch.float32
    assert float(batch.clips.min()) < -0.5 < 0.5 < float(batch.clips.max())
    assert batch.positions.shape == (len(examples), num_frames)
    assert batch.classes.min() >= 0
    assert batch.classes.max() < len(LABELS)
    again = draw_batch(np.random.default_rng(0), examples, recipe=recipe)
    assert torch.equal(batch.clips, again.clips)
    model, _ = DEMO_MODELS[name].start(recipe)
    assert model(batch.clips[:2], batch.positions[:2]).shape == (2, len(LABELS))


def sampler(kind: str, *, num_frames: int = 8, stride: int = 3, target_fps: float | None = None) -> Sampler:
    short_video = "wrap" if kind == "scenic" else "repeat_last"
    return Sampler(kind=kind, num_frames=num_frames, stride=stride, target_fps=target_fps, short_video=short_video)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "tail"), [("scenic", [15, 18, 1]), ("gluonmm", [15, 18, 18])])
def test_a_short_video_wraps_or_stays(kind: str, tail: list[int]) -> None:
    window = random_window(np.random.default_rng(0), 20, fps=30, sampler=sampler(kind))
    assert window.frames[5:].tolist() == tail


def test_windows_of_long_videos_start_anywhere() -> None:
    rng = np.random.default_rng(0)
    windows = [random_window(rng, 50, fps=30, sampler=sampler("gluonmm")) for _ in range(300)]
    assert {int(window.frames[0]) for window in windows} == set(range(27))
    assert all(set(np.diff(window.frames)) == {3} for window in windows)


@pytest.mark.parametrize("fps", [10, 24, 60])
def test_a_stretched_window_is_a_served_clip(fps: int) -> None:
    stretched = sampler("pyslowfast", num_frames=16, stride=2, target_fps=30.0)
    served, positions = multi_view_clips(
        constant_clock(90, fps=fps), clip_frames=16, stride=2, target_fps=30.0, num_clips=1
    )
    rng = np.random.default_rng(1)
    windows = [random_window(rng, 90, fps=fps, sampler=stretched) for _ in range(100)]
    assert all(np.array_equal(window.frames - window.frames[0], served[0]) for window in windows)
    anew = [np.array_equal(window.positions, positions[0]) for window in windows]
    in_video = [np.array_equal(window.positions, window.frames) for window in windows]
    assert all(one or other for one, other in zip(anew, in_video, strict=True))
    assert sum(anew) > 20
    assert sum(in_video) > 20


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


def drifting(dx: int, dy: int, num_frames: int = 8) -> torch.Tensor:
    """Smooth noise that moves by so many pixels from frame to frame: `[1, T, 48, 48, 3]`."""
    noise = np.random.default_rng(5).normal(size=(120, 120)).cumsum(axis=0).cumsum(axis=1)
    smooth = noise - (np.roll(noise, 9, 0) + np.roll(noise, 9, 1) - np.roll(noise, (9, 9), (0, 1)))
    smooth = (smooth[10:, 10:] - smooth[10:, 10:].mean()) / smooth[10:, 10:].std()
    starts = [(30 - dy * t, 30 - dx * t) for t in range(num_frames)]
    frames = np.stack([smooth[y : y + 48, x : x + 48] for y, x in starts])
    return torch.from_numpy(np.repeat(frames[None, ..., None], 3, axis=4)).float()


def test_flow_says_where_the_picture_moves() -> None:
    along_x, along_y = (flow(drifting(*step), grid=4).mean(dim=(0, 1, 2)) for step in ((2, 0), (0, 2)))
    assert along_x[0] < -3 * abs(along_x[1])
    assert along_y[1] < -3 * abs(along_y[0])
    assert flow(drifting(0, 0), grid=4).abs().max() == 0


def test_heads_look_ahead_by_the_lag() -> None:
    torch.manual_seed(0)
    angles = frequencies(0.3, 2.2, 6)
    qkv = torch.nn.Linear(24, 72)
    look_ahead(qkv, num_heads=2, turns=2 * angles, first_channel=8, gain=2.0)
    tokens = torch.zeros(20, 24)
    tokens[:, 8:20] = time_pairs(20, angles, amplitude=1.5)
    query, key, _ = qkv(tokens).view(20, 3, 2, 12).unbind(1)
    for head in range(2):
        seen = (query[:, head] @ key[:, head].T).argmax(dim=1)
        assert seen[:18].tolist() == list(range(2, 20))


def test_opponent_energy_has_the_sign_of_the_motion() -> None:
    widen, narrow = torch.nn.Linear(10, 16), torch.nn.Linear(16, 10)
    for tensor in (*widen.parameters(), *narrow.parameters()):
        torch.nn.init.zeros_(tensor)
    oppose(widen, narrow, content=4)
    phase = torch.linspace(0, 6, 20)
    turns = torch.tensor([0.7, -0.7])  # one grating drifts forwards, the other backwards
    now = torch.stack([phase.cos(), phase.sin()] * 2, dim=1)
    later = torch.cat([torch.stack([(phase + turn).cos(), (phase + turn).sin()], dim=1) for turn in turns], dim=1)
    tokens = torch.cat([now, later, torch.zeros(20, 2)], dim=1)
    for activation in (torch.nn.functional.gelu, torch.nn.functional.relu):
        energy = narrow(activation(widen(tokens)))[:, 8:]
        assert (energy[:, 0].mean() * energy[:, 1].mean()) < 0
        assert torch.allclose(energy[:, 0].mean(), -energy[:, 1].mean(), rtol=0.2)


def test_gratings_are_pairs_of_length_one() -> None:
    kernels = gratings(2, wavelength_px=12.0, patch_px=12)
    assert kernels.shape == (4, 3, 12, 12)
    assert np.allclose((kernels**2).sum(axis=(1, 2, 3)), 1)
    assert np.allclose(kernels.mean(axis=(2, 3)), 0, atol=1e-6)
    assert np.allclose(kernels[0, 0].T, kernels[2, 0], atol=1e-6)  # at right angles


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


@pytest.mark.parametrize("name", ["vivit", "vtn"])
def test_training_is_repeatable(name: str, examples: list[Example]) -> None:
    schedule = dataclasses.replace(DEMO_MODELS[name].schedule, steps=4, batch=8, warmup_steps=2, seed=4)
    first, second = (
        train(examples, start=DEMO_MODELS[name].start, recipe=load(name), schedule=schedule) for _ in range(2)
    )
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_sixty_steps_are_better_than_guessing(name: str, examples: list[Example]) -> None:
    recipe, demo = load(name), DEMO_MODELS[name]
    schedule = dataclasses.replace(demo.schedule, steps=60, batch=24, warmup_steps=10, seed=5)
    model = train(examples, start=demo.start, recipe=recipe, schedule=schedule).eval()
    batch = draw_batch(np.random.default_rng(9), examples * 4, recipe=recipe)
    with torch.inference_mode():
        loss = float(torch.nn.functional.cross_entropy(model(batch.clips, batch.positions), batch.classes))
    assert loss < 0.9 * math.log(len(LABELS))


def test_an_evaluation_counts_by_label() -> None:
    evaluation = TorchEvaluation(wanted=("left", "grow", "left", "left"), found=("left", "left", "up", "left"))
    assert evaluation.top1 == 0.5
    assert evaluation.top1_by_label() == {"left": 2 / 3, "grow": 0.0}


def test_clips_are_rendered_once(tmp_path: Path) -> None:
    first = table_of_clips(tmp_path, split="train", seed=0, count=1)
    (video, _), *_ = read_table(first)
    video.write_bytes(b"kept")
    assert table_of_clips(tmp_path, split="train", seed=0, count=1) == first
    assert video.read_bytes() == b"kept"
    assert len(read_table(table_of_clips(tmp_path, split="train", seed=0, count=2))) == 2
    assert video.read_bytes() != b"kept"


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_committed_checkpoint_is_small_and_fits_the_recipe(name: str, tmp_path: Path) -> None:
    recipe = load(name)
    path = RECIPES / recipe.checkpoint.file
    assert path.stat().st_size < 2_000_000
    model = load_plan(recipe, path)
    started, _ = DEMO_MODELS[name].start(recipe)
    assert model.sizes == started.sizes
    save(tmp_path / path.name, model, recipe)
    again = load_plan(recipe, tmp_path / path.name).state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", DEMO_MODELS)
@pytest.mark.parametrize("protocol", [None, "4x3"])
def test_committed_checkpoint_knows_clips_never_trained_on(name: str, table: Path, protocol: str | None) -> None:
    evaluation = evaluate_in_torch(table, recipe=RECIPES / DEMO_MODELS[name].recipe, protocol=protocol)
    assert len(evaluation.wanted) == 24
    assert evaluation.top1 >= LEAST_TOP1[name] - 0.1 * (protocol is not None)


def test_vtn_knows_whole_videos(table: Path) -> None:
    assert evaluate_in_torch(table, recipe=RECIPES / "motion_vtn.toml", protocol="full").top1 >= 0.75
