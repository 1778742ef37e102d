"""Shapes of TensorRT's profiles: whatever a request may bring is within one of them, for every model there is."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tubelet.export.bundle import contract_of, load_plan, read_labels
from tubelet.export.count import on_meta
from tubelet.export.papers import FULL_SIZE
from tubelet.export.profiles import MOST_VIEWS, plan_profiles, plan_steps
from tubelet.models.registry import build
from tubelet.spec.errors import InvalidRequestError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.plan import PlanStep, Profile, Shapes
from tubelet.spec.protocol import ANY_CLIPS, ANY_FULL, Protocol
from tubelet.spec.recipe import Recipe
from tubelet.spec.tensors import step_tensors

RECIPES = Path(__file__).parents[2] / "export" / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.toml"))


@cache
def contract_named(name: str) -> Contract:
    """Of a recipe; a paper's network has its full size and no weights."""
    recipe = Recipe.load(RECIPES / f"{name}.toml")
    if name in FULL_SIZE:
        sizes: Any = on_meta(FULL_SIZE[name]).sizes
        network = on_meta(lambda: build(recipe.network, replace(sizes, crop_px=recipe.crop.size_px)))
    else:
        network = load_plan(recipe, RECIPES / recipe.checkpoint.file)
    return contract_of(recipe, network, read_labels(recipe, RECIPES))


def profiles(contract: Contract, step: PlanStep, **changes: int) -> tuple[Profile, ...]:
    sizes = {"largest_batch": 4, **changes}
    return plan_profiles(contract, step, limits=Limits(), **sizes)


def axis(profile: Profile, name: str, index: int = 0) -> tuple[int, int, int]:
    shapes = profile.inputs[name]
    return shapes.least[index], shapes.opt[index], shapes.most[index]


def temporal_shapes(
    contract: Contract, *, clips: int, length: int, crops: int, units: int
) -> dict[str, tuple[int, ...]]:
    width = contract.geometry.feature_dim
    assert width is not None
    shapes: dict[str, tuple[int, ...]] = {
        "FEATURES": (units, width),
        "CLIP_UNITS": (clips, length),
        "CROPS": (crops, 2),
    }
    return shapes | ({"CLIP_POSITIONS": (clips, length)} if contract.geometry.positions else {})


@pytest.mark.parametrize("name", NAMES)
def test_the_inputs_are_the_graphs_and_only_what_varies_varies(name: str) -> None:
    contract = contract_named(name)
    for step in plan_steps(contract):
        inputs, _ = step_tensors(contract, "gpu")[step]
        for profile in profiles(contract, step):
            assert list(profile.inputs) == [spec.name for spec in inputs]
            for spec in inputs:
                # The encoder's leave out their batch.
                expected = (-1, *spec.shape) if step == "encoder" else spec.shape
                shapes = profile.inputs[spec.name]
                assert len(shapes.most) == len(expected)
                fixed = [
                    (size, a, c) for size, a, c in zip(expected, shapes.least, shapes.most, strict=True) if size > 0
                ]
                assert all(size == a == c for size, a, c in fixed)


@pytest.mark.parametrize("name", NAMES)
def test_every_protocol_of_every_model_is_within_a_profile(name: str) -> None:
    contract = contract_named(name)
    encoder = profiles(contract, "encoder")
    for text in sorted({*contract.protocols, "1x1", "1x3", "10x1"} - {ANY_CLIPS, ANY_FULL}):
        if not contract.allows(text):
            continue
        protocol = Protocol.parse(text)
        n = contract.units_per_clip
        if protocol.is_full:
            n = contract.most_units_per_clip if protocol.num_frames is None else protocol.num_frames
        units = n * protocol.num_views
        # Views may share units, down to one.
        for rows in (1, units // 2 or 1, units):
            assert any(p.holds({"UNITS": (rows, *contract.unit_shape)}) for p in encoder), text
            if contract.is_joint:
                continue
            shapes = temporal_shapes(contract, clips=protocol.num_clips, length=n, crops=protocol.num_crops, units=rows)
            assert any(p.holds(shapes) for p in profiles(contract, "temporal")), text


@pytest.mark.parametrize("name", NAMES)
def test_profiles_are_distinct_and_the_first_is_the_narrowest(name: str) -> None:
    contract = contract_named(name)
    for step in plan_steps(contract):
        found = profiles(contract, step)
        assert len({str(profile.inputs) for profile in found}) == len(found)
        for profile in found[1:]:
            assert all(
                a <= b
                for tensor in profile.inputs
                for a, b in zip(found[0].inputs[tensor].most, profile.inputs[tensor].most, strict=True)
            )


def test_the_factorised_encoder_of_the_paper() -> None:
    contract = contract_named("vivit_b_16x2_fe_k400")  # 16 tubelets a view, 4x3 views by default
    one, many = profiles(contract, "encoder", largest_batch=32)
    assert one.inputs["UNITS"] == Shapes(least=(1, 2, 224, 224, 3), opt=(16, 2, 224, 224, 3), most=(16, 2, 224, 224, 3))
    assert axis(many, "UNITS") == (1, 192, 480)
    one, many = profiles(contract, "temporal", largest_batch=32)
    assert [axis(one, name) for name in one.inputs] == [(1, 16, 16), (1, 1, 1), (1, 1, 1)]
    assert [axis(many, name) for name in many.inputs] == [(1, 192, 480), (1, 4, 30), (1, 3, 3)]
    assert axis(many, "CLIP_UNITS", 1) == (16, 16, 16)


def test_a_joint_model_has_whole_views_for_units() -> None:
    for name, opt in (("vivit_b_16x2_k400", 12), ("vidtr_s_k400", 30), ("cvidtr_s_k400", 30), ("i3d_r50_8x8_k400", 30)):
        contract = contract_named(name)
        assert plan_steps(contract) == ("encoder",)
        one, many = profiles(contract, "encoder")
        assert (axis(one, "UNITS"), axis(many, "UNITS")) == ((1, 1, 1), (1, opt, 30))


def test_vtn_takes_the_whole_video_and_clips_and_any_length() -> None:
    contract = contract_named("vtn_vit_b_k400")  # 250 frames of the whole video by default
    one, many = profiles(contract, "encoder")
    assert (axis(one, "UNITS"), axis(many, "UNITS")) == ((1, 16, 16), (1, 250, 480))
    one, many, long = profiles(contract, "temporal")
    assert (axis(one, "CLIP_UNITS", 1), axis(many, "CLIP_UNITS", 1)) == ((16, 16, 16), (1, 16, 250))
    assert (axis(many, "CLIP_UNITS"), axis(many, "CROPS")) == ((1, 10, 30), (1, 3, 3))
    assert (axis(long, "CLIP_UNITS"), axis(long, "CLIP_UNITS", 1)) == ((1, 1, 1), (1, 250, Limits().max_units))
    assert long.inputs["CLIP_POSITIONS"] == long.inputs["CLIP_UNITS"]
    # Features that were computed before come as many views of one length.
    assert many.holds(temporal_shapes(contract, clips=5, length=200, crops=1, units=1000))


def test_the_batch_that_was_verified_is_within() -> None:
    contract = contract_named("motion")
    assert axis(profiles(contract, "encoder", largest_batch=500)[-1], "UNITS")[2] == 500


def test_limits_bound_the_largest_shapes(make_vtn_contract: Callable[..., Contract]) -> None:
    contract = make_vtn_contract(num_full=250)
    limits = Limits(max_units=100)
    for step in plan_steps(contract):
        for profile in plan_profiles(contract, step, largest_batch=8, limits=limits):
            rows = profile.inputs["UNITS" if step == "encoder" else "FEATURES"]
            assert rows.most[0] <= 100


def test_equal_profiles_are_one() -> None:
    contract = contract_named("vidtr_s_k400")
    assert len(profiles(contract, "encoder", largest_batch=1, most_views=1)) == 1


def test_more_views_than_the_limits_allow_are_refused() -> None:
    contract = contract_named("motion")
    with pytest.raises(InvalidRequestError, match=r"65 views are asked for, max_views is 64"):
        profiles(contract, "encoder", most_views=65)
    assert axis(profiles(contract, "encoder", most_views=64)[-1], "UNITS")[2] == 64 * contract.units_per_clip
    assert Limits().max_views >= MOST_VIEWS


@pytest.mark.parametrize(
    ("least", "opt", "most"), [((1,), (3,), (2,)), ((2,), (1,), (3,)), ((0,), (1,), (1,)), ((1, 1), (1,), (1,))]
)
def test_shapes_out_of_order_are_refused(least: tuple[int, ...], opt: tuple[int, ...], most: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"least"):
        Shapes(least=least, opt=opt, most=most)
