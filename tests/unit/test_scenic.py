"""scenic's checkpoint files: every layout and number format is read, whatever does not fit is refused."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny import CHECKPOINT, NETWORK
from torch import Tensor
from vivits import MODEL_1, MODEL_3, MODEL_4, VIVITS, network_of, small_clips, small_vivit

from tubelet.checkpoints import scenic
from tubelet.checkpoints.flax import flatten, pack_tree, read_tree
from tubelet.checkpoints.scenic import read_parameters, write_checkpoint
from tubelet.models.vivit import FactorisedEncoder, JointVivit, build
from tubelet.models.vivit_sizes import EncoderSizes, FactorisedEncoderSizes, UniformFrameSizes
from tubelet.spec.errors import RecipeError
from tubelet.spec.network import VivitNetwork

Parameters = dict[str, Tensor]


@pytest.fixture
def parameters() -> Parameters:
    return read_parameters(CHECKPOINT)


def load(path: Path, network: VivitNetwork = NETWORK, *, num_frames: int = 6, crop_px: int = 16) -> Any:
    return scenic.load(path, network, num_frames=num_frames, crop_px=crop_px)


def nested(parameters: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in parameters.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value.numpy() if isinstance(value, Tensor) else value
    return tree


def write(path: Path, tree: dict[str, Any]) -> Path:
    path.write_bytes(pack_tree(tree))
    return path


@pytest.mark.parametrize("kind", VIVITS)
def test_what_is_written_is_read_again_for_every_model(tmp_path: Path, kind: str) -> None:
    model = small_vivit(kind)
    write_checkpoint(tmp_path / "checkpoint", model)
    again = load(tmp_path / "checkpoint", network_of(kind), crop_px=24)
    assert again.sizes == model.sizes
    assert type(again) is type(model)
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(again(small_clips()), model(small_clips()))
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    assert all(parameter.is_contiguous() for parameter in again.parameters())


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.builds(
        lambda tubelets, t, side, patch, layers, heads, mlps, **other: FactorisedEncoderSizes(
            width=12, num_frames=tubelets * t, tubelet_frames=t, crop_px=side * patch, patch_px=patch,
            spatial=EncoderSizes(num_layers=layers[0], num_heads=heads[0], mlp_width=mlps[0]),
            temporal=EncoderSizes(num_layers=layers[1], num_heads=heads[1], mlp_width=mlps[1]),
            **other,
        ),
        tubelets=st.integers(1, 4), t=st.integers(1, 3), side=st.integers(1, 3), patch=st.integers(1, 4),
        layers=st.tuples(st.integers(1, 3), st.integers(1, 2)), mlps=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        heads=st.tuples(st.sampled_from([1, 2, 3, 4]), st.sampled_from([1, 6, 12])), num_classes=st.integers(1, 7),
        classifier=st.sampled_from(["token", "gap"]), representation_width=st.none() | st.integers(1, 5),
    )
)  # fmt: skip
def test_sizes_of_a_factorised_encoder_are_read_from_shapes(
    tmp_path_factory: pytest.TempPathFactory, sizes: FactorisedEncoderSizes
) -> None:
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint"
    write_checkpoint(path, FactorisedEncoder(sizes))
    network = replace(NETWORK, classifier=sizes.classifier)
    assert load(path, network, num_frames=sizes.num_frames, crop_px=sizes.crop_px).sizes == sizes


@settings(max_examples=25, deadline=None)
@given(num_frames=st.integers(1, 24), asked=st.integers(1, 24), side=st.integers(1, 2))
def test_uniformly_sampled_frames_are_those_that_the_recipe_asks_for(
    tmp_path_factory: pytest.TempPathFactory, num_frames: int, asked: int, side: int
) -> None:
    """Rounding gives one frame more of some clips, so two numbers may have as many positions: the recipe says which."""
    embedding = UniformFrameSizes(kind="uniform_frames", frames=min(asked, num_frames), patch_px=2)
    sizes = replace(MODEL_1, num_frames=num_frames, crop_px=2 * side, embedding=embedding)
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint"
    write_checkpoint(path, build(sizes))
    network = replace(network_of("model 1"), sampled_frames=embedding.frames)
    assert load(path, network, num_frames=num_frames, crop_px=2 * side).sizes == sizes


def test_the_number_of_sampled_frames_is_asked_for_and_believed_only_where_it_fits(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", small_vivit("model 1, uniform frames"))
    network, sizes = network_of("model 1, uniform frames"), VIVITS["model 1, uniform frames"][1]
    clips = {"num_frames": sizes.num_frames, "crop_px": sizes.crop_px}
    with pytest.raises(RecipeError, match=r"network\.sampled_frames must say how many"):
        load(tmp_path / "checkpoint", replace(network, sampled_frames=None), **clips)
    with pytest.raises(RecipeError, match="positions for"):
        load(tmp_path / "checkpoint", replace(network, sampled_frames=1), **clips)
    write_checkpoint(tmp_path / "checkpoint", small_vivit("model 1"))
    with pytest.raises(RecipeError, match="embedding/kernel has 5 axes: tubelets"):
        load(tmp_path / "checkpoint", network, **clips)


def test_written_files_have_scenics_names_and_shapes(parameters: Parameters) -> None:
    shapes = {name: tuple(value.shape) for name, value in parameters.items()}
    block = "SpatialTransformer/encoderblock_1"
    expected = {
        "embedding/kernel": (2, 8, 8, 3, 16),
        "embedding/bias": (16,),
        "cls_SpatialTransformer": (1, 1, 16),
        "cls_TemporalTransformer": (1, 1, 16),
        "SpatialTransformer/posembed_input/pos_embedding": (1, 5, 16),
        "TemporalTransformer/posembed_input/pos_embedding": (1, 4, 16),
        "TemporalTransformer/encoder_norm/scale": (16,),
        f"{block}/LayerNorm_0/scale": (16,),
        f"{block}/LayerNorm_1/bias": (16,),
        f"{block}/MultiHeadDotProductAttention_0/query/kernel": (16, 2, 8),
        f"{block}/MultiHeadDotProductAttention_0/value/bias": (2, 8),
        f"{block}/MultiHeadDotProductAttention_0/out/kernel": (2, 8, 16),
        f"{block}/MlpBlock_0/Dense_0/kernel": (16, 24),
        f"{block}/MlpBlock_0/Dense_1/kernel": (24, 16),
        "output_projection/kernel": (16, 5),
        "output_projection/bias": (5,),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert len(shapes) == 16 * 3 + 12


def written(tmp_path: Path, model: JointVivit | FactorisedEncoder) -> dict[str, tuple[int, ...]]:
    write_checkpoint(tmp_path / "checkpoint", model)
    return {name: tuple(value.shape) for name, value in read_parameters(tmp_path / "checkpoint").items()}


def test_the_leaves_of_the_other_models_have_scenics_names(tmp_path: Path) -> None:
    shapes = written(tmp_path, small_vivit("model 1"))
    assert len(shapes) == 16 * 2 + 8
    assert shapes["cls"] == (1, 1, 12)
    assert shapes["Transformer/posembed_input/pos_embedding"] == (1, 28, 12)
    shapes = written(tmp_path, small_vivit("model 3, time first"))
    assert len(shapes) == 26 * 2 + 7
    assert shapes["Transformer/encoderblock_1/MultiHeadDotProductAttention_time/query/kernel"] == (12, 2, 6)
    assert shapes["Transformer/encoderblock_1/MultiHeadDotProductAttention_space/out/kernel"] == (2, 6, 12)
    assert shapes["Transformer/encoderblock_0/LayerNorm_mlp/scale"] == (12,)
    assert shapes["Transformer/encoderblock_0/MlpBlock/Dense_1/kernel"] == (20, 12)
    shapes = written(tmp_path, small_vivit("model 4, uniform frames, representation"))
    assert len(shapes) == 16 * 2 + 7 + 2
    assert shapes["embedding/kernel"] == (8, 8, 3, 12)
    assert shapes["pre_logits/kernel"] == (12, 7)
    assert shapes["output_projection/kernel"] == (7, 5)
    shapes = written(tmp_path, small_vivit("average pool"))
    assert "cls_SpatialTransformer" in shapes
    assert not any("Temporal" in name for name in shapes)


def test_linear_maps_are_those_of_flax(parameters: Parameters) -> None:
    """Flax contracts with einsum over (width, heads, head width); ours must give the same numbers."""
    state = {name: tensor.numpy() for name, tensor in load(CHECKPOINT).state_dict().items()}
    leaves = {name: tensor.numpy() for name, tensor in parameters.items()}
    tokens = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    prefix = "SpatialTransformer/encoderblock_0/MultiHeadDotProductAttention_0"
    fused = tokens @ state["spatial.blocks.0.attention.qkv.weight"].T + state["spatial.blocks.0.attention.qkv.bias"]
    for i, name in enumerate(("query", "key", "value")):
        wanted = np.einsum("nd,dhe->nhe", tokens, leaves[f"{prefix}/{name}/kernel"]) + leaves[f"{prefix}/{name}/bias"]
        found = fused[:, i * 16 : (i + 1) * 16].reshape(wanted.shape)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5, err_msg=name)
    wanted = np.einsum("nhe,hed->nd", tokens.reshape(3, 2, 8), leaves[f"{prefix}/out/kernel"])
    np.testing.assert_allclose(tokens @ state["spatial.blocks.0.attention.out.weight"].T, wanted, rtol=0, atol=1e-5)
    assert state["embedding.weight"][7, 2, 1, 3, 5] == leaves["embedding/kernel"][1, 3, 5, 2, 7]


LAYOUTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "newer": lambda tree: {"params": tree, "opt_state": {"0": {"mu": tree}}, "global_step": np.int32(7), "rng": None},
    "older": lambda tree: {
        "optimizer": {"target": tree, "state": {"step": np.int64(3), "param_states": {"x": np.ones(2, np.uint32)}}},
        "model_state": {},
        "accum_train_time": 1.5,
    },
    "older, wrapped": lambda tree: {"optimizer": {"target": {"params": tree}}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_layouts_of_the_training_state_are_read(tmp_path: Path, parameters: Parameters, layout: str) -> None:
    path = write(tmp_path / "checkpoint", LAYOUTS[layout](nested(parameters)))
    read = read_parameters(path)
    assert read.keys() == parameters.keys()
    assert all(torch.equal(read[name], parameters[name]) for name in parameters)


def pack_array(shape: Any, dtype: Any, data: Any, *, code: int = 1) -> msgpack.ExtType:
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, data)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_of_any_width_become_float32(tmp_path: Path, dtype: str) -> None:
    values = np.array([[1.0, -2.5, 0.125]], dtype)
    tree = read_tree(write(tmp_path / "checkpoint", {"a": {"b": values, "c": values[0, 1]}}))
    read = dict(flatten(tree))
    assert read.keys() == {"a/b", "a/c"}
    assert read["a/b"].dtype == torch.float32
    np.testing.assert_array_equal(read["a/b"].numpy(), values.astype(np.float32))
    assert read["a/c"].shape == ()
    assert read["a/c"].item() == -2.5


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    values = np.array([1.0, -3.140625, 1e30], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    tree = {"a": pack_array((3,), "bfloat16", upper.tobytes())}
    read = dict(flatten(read_tree(write(tmp_path / "checkpoint", tree))))
    assert read["a"].dtype == torch.float32
    np.testing.assert_allclose(read["a"].numpy(), values, rtol=2**-7)
    assert read["a"][:2].tolist() == [1.0, -3.140625]


def chunked(whole: NDArray[np.float32], size: int) -> dict[str, Any]:
    flat = whole.reshape(-1)
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): side for i, side in enumerate(whole.shape)},
        "chunks": {str(i): flat[start : start + size] for i, start in enumerate(range(0, len(flat), size))},
    }


def test_chunked_arrays_are_put_together(tmp_path: Path, parameters: Parameters) -> None:
    kernel = parameters["embedding/kernel"].numpy()
    tree = nested(parameters)
    tree["embedding"]["kernel"] = chunked(kernel, 500)  # the last chunk is shorter
    path = write(tmp_path / "checkpoint", {"params": tree})
    assert torch.equal(read_parameters(path)["embedding/kernel"], parameters["embedding/kernel"])
    assert torch.equal(load(path).embedding.weight, load(CHECKPOINT).embedding.weight)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" * 100, b"PK\x03\x04 not msgpack", CHECKPOINT.read_bytes()[:-10], CHECKPOINT.read_bytes() + b"\x01"],
    ids=["empty", "zeros", "zip", "cut off", "too long"],
)
def test_files_that_are_something_else_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(data)
    with pytest.raises(RecipeError) as caught:
        read_parameters(path)
    assert caught.value.code == "bad_checkpoint"


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, CHECKPOINT.stat().st_size - 1), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused_but_never_another_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    data = bytearray(CHECKPOINT.read_bytes())
    data[at] = value
    path = tmp_path_factory.mktemp("changed") / "checkpoint"
    path.write_bytes(data)
    with suppress(RecipeError):
        load(path)


@pytest.mark.parametrize(
    "tree",
    [{}, {"optimizer": {}}, {"params": {}}, {"optimizer": {"state": {}}}, {"params": 3}, {"model": {"a": np.ones(2)}}],
)
def test_files_without_parameters_are_refused(tmp_path: Path, tree: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="must hold parameters") as caught:
        read_parameters(write(tmp_path / "checkpoint", tree))
    assert caught.value.code == "bad_checkpoint"


@pytest.mark.parametrize("depth", [40, 1000, 100_000])
def test_maps_that_nest_without_end_are_refused(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(b"\x81\xa6params" + b"\x81\xa1a" * depth + b"\xc0")
    with pytest.raises(RecipeError, match=r"nest deeper than 32 maps|nest too deep") as caught:
        read_parameters(path)
    assert caught.value.code == "bad_checkpoint"


def test_two_parameters_of_one_name_are_refused(tmp_path: Path, parameters: Parameters) -> None:
    tree = nested(parameters) | {"output_projection/bias": np.zeros(5, np.float32)}
    with pytest.raises(RecipeError, match="two parameters that are called output_projection/bias") as caught:
        read_parameters(write(tmp_path / "checkpoint", {"params": tree}))
    assert caught.value.code == "bad_checkpoint"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(RecipeError, match=r"cannot read|must be a file") as caught:
            read_parameters(path)
        assert caught.value.code == "bad_checkpoint"


@pytest.mark.parametrize(
    "leaf",
    [
        np.ones(3, np.int32),
        np.array([1.0, np.nan], np.float32),
        np.array([np.inf], np.float32),
        np.array([[[1e300] * 16]]),
        pack_array((4,), "float32", b"\x00" * 8),
        pack_array((4,), "object", b"\x00" * 32),
        pack_array((2,), "float32", b"\x00" * 7),
        pack_array((1,), "float32", b"\x00" * 4, code=2),
        pack_array((-1,), "float32", b"\x00" * 8),
        pack_array((2**63, 0), "float32", b"\x00" * 4),
        pack_array(("a", 2**40), "float32", b"\x00" * 4),
        pack_array((1,), "float32", 2**40),
        pack_array((0,), "float32", b""),
        pack_array((True,), "float32", b"\x00" * 4),
        pack_array(3, "float32", b"\x00" * 12),
        pack_array((1,), ["float32"], b"\x00" * 4),
        msgpack.ExtType(1, b"\xc1"),
        {"__msgpack_chunked_array__": True, "shape": {"0": 3}},
        {"__msgpack_chunked_array__": True, "shape": {"0": 3}, "chunks": {}},
        {"__msgpack_chunked_array__": True, "shape": 3, "chunks": {"0": np.ones(3, np.float32)}},
        {"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunks": {"0": np.ones(3, np.float32)}},
        1.5,
        "text",
    ],
    ids=[
        "integers", "nan", "inf", "too large for float32", "shape", "object", "bytes", "complex", "negative", "huge",
        "texts in shape", "number for bytes", "empty", "truth in shape", "number for shape", "list for dtype",
        "rubbish", "no chunks", "empty chunks", "number for chunked shape", "shape of chunks", "number", "text",
    ],
)  # fmt: skip
def test_leaves_that_are_no_finite_floats_are_refused(tmp_path: Path, parameters: Parameters, leaf: Any) -> None:
    tree = nested(parameters) | {"cls_SpatialTransformer": leaf}
    with pytest.raises(RecipeError, match="cls_SpatialTransformer") as caught:
        load(write(tmp_path / "checkpoint", {"params": tree}))
    assert caught.value.code == "bad_checkpoint"


def without(parameters: Parameters, word: str) -> Parameters:
    return {name: value for name, value in parameters.items() if word not in name}


def changed(parameters: Parameters, name: str, shape: tuple[int, ...]) -> Parameters:
    return parameters | {name: torch.zeros(shape)}


POSITIONS = "SpatialTransformer/posembed_input/pos_embedding"
QUERY = "SpatialTransformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: without(p, "TemporalTransformer"), "Model 2 .*looks like .*average_pool"),
        (lambda p: without(p, "Transformer"), "has Transformer or SpatialTransformer.* only embedding, output_proj"),
        (lambda p: without(p, "cls_SpatialTransformer"), "classifier token; this checkpoint lacks a class token"),
        (lambda p: without(p, "cls_TemporalTransformer"), r"lacks a class token \(cls_TemporalTransformer\)"),
        (lambda p: without(p, "SpatialTransformer/encoderblock_0"), r"\(factorised_encoder\) has SpatialTransformer/e"),
        (lambda p: without(p, "encoderblock_1/MlpBlock_0/Dense_1"), "lacks SpatialTransformer/encoderblock_1/Mlp"),
        (lambda p: without(p, "output_projection/bias"), "lacks output_projection/bias"),
        (lambda p: changed(p, "pre_logits/kernel", (16, 8)), "lacks pre_logits/bias"),
        (lambda p: changed(p, "pre_logits/kernel", (8,)), "pre_logits/kernel must have 2 axes"),
        (lambda p: changed(p, "pre_logits/bias", (8,)), "has no pre_logits/bias"),
        (lambda p: changed(p, "SpatialTransformer/encoderblock_7/x", (1,)), "lacks .*encoderblock_2"),
        (lambda p: changed(p, "output_projection/bias", (6,)), r"output_projection/bias must have shape \(5,\)"),
        (lambda p: changed(p, "embedding/kernel", (2, 8, 8, 1, 16)), "embedding/kernel must have shape"),
        (lambda p: changed(p, "embedding/kernel", (2, 8, 4, 3, 16)), "square patches, got 8x4"),
        (lambda p: changed(p, "embedding/kernel", (8, 8, 3, 16)), "served by units of successive frames"),
        (lambda p: changed(p, "embedding/kernel", (8, 3, 16)), "must have 5 axes"),
        (lambda p: changed(p, "embedding/kernel", (2, 0, 0, 3, 16)), "none of them empty|no array"),
        (lambda p: changed(p, POSITIONS, (1, 4, 16)), r"3 tokens; clips of 6 frames .* of 16 px .* have 4 patches"),
        (lambda p: changed(p, POSITIONS, (1, 1, 16)), "rows for more than a class token"),
        (lambda p: changed(p, QUERY, (16, 3, 5)), "multiple of the heads"),
        (lambda p: changed(p, QUERY, (16, 0, 8)), "no array of real numbers"),
    ],
)
def test_parameters_that_do_not_fit_are_named(
    tmp_path: Path, parameters: Parameters, change: Callable[[Parameters], Parameters], message: str
) -> None:
    path = write(tmp_path / "checkpoint", {"params": nested(change(parameters))})
    with pytest.raises(RecipeError, match=message) as caught:
        load(path)
    assert caught.value.code == "bad_checkpoint"


@pytest.mark.parametrize(
    ("num_frames", "crop_px", "message"),
    [
        (8, 16, "3 tokens; clips of 8 frames .* of 16 px .* have 4 tubelets of 2 frames"),
        (6, 32, "4 tokens; clips of 6 frames .* of 32 px .* have 16 patches of 8 px"),
        (7, 16, "multiple of a tubelet's 2 frames, got 7"),
    ],
)
def test_clips_of_another_size_are_refused(num_frames: int, crop_px: int, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load(CHECKPOINT, num_frames=num_frames, crop_px=crop_px)
    assert caught.value.code == "bad_checkpoint"


@pytest.mark.parametrize(
    ("kind", "num_frames", "crop_px", "message"),
    [
        ("model 1", 8, 24, "27 tokens; clips of 8 frames .* of 24 px .* have 4 x 9 tubelets of 2x8x8"),
        ("model 1, uniform frames", 6, 16, "18 tokens; clips of 6 frames .* of 16 px .* have 2 x 4 patches of 8 px"),
        ("model 1, uniform frames", 6, 25, "whole number of patches: 25 px by 8 px"),
        ("model 4", 6, 16, "27 tokens"),
    ],
)
def test_clips_of_another_size_are_refused_by_joint_models(
    tmp_path: Path, kind: str, num_frames: int, crop_px: int, message: str
) -> None:
    write_checkpoint(tmp_path / "checkpoint", small_vivit(kind))
    with pytest.raises(RecipeError, match=message) as caught:
        load(tmp_path / "checkpoint", network_of(kind), num_frames=num_frames, crop_px=crop_px)
    assert caught.value.code == "bad_checkpoint"


@pytest.mark.parametrize(
    ("kind", "as_kind", "message"),
    [
        ("model 1", "model 2", "looks like ViViT Model 1 "),
        ("model 1", "model 4", "looks like ViViT Model 1 "),
        ("model 2", "model 1", "looks like ViViT Model 2 "),
        ("model 2", "average pool", r"looks like ViViT Model 2 \(factorised_encoder\)"),
        ("model 3, time first", "model 4", "looks like ViViT Model 3 "),
        ("model 4", "model 3, time first", "looks like ViViT Model 1 .* or ViViT Model 4 "),
        ("model 1, gsp, representation", "model 1", "classifier token; this checkpoint lacks a class token"),
        ("model 1", "model 1, gsp, representation", "classifier gsp; this checkpoint has a class token"),
        ("average pool", "average pool, gap", "classifier gap; this checkpoint has a class token"),
    ],
)
def test_another_variant_is_refused_and_named(tmp_path: Path, kind: str, as_kind: str, message: str) -> None:
    write_checkpoint(tmp_path / "checkpoint", small_vivit(kind))
    with pytest.raises(RecipeError, match=message) as caught:
        load(tmp_path / "checkpoint", network_of(as_kind), crop_px=24)
    assert caught.value.code == "bad_checkpoint"


def test_a_recipe_may_say_the_heads_and_must_then_be_right(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", small_vivit("model 1"))
    load(tmp_path / "checkpoint", replace(network_of("model 1"), num_heads=2), crop_px=24)
    with pytest.raises(RecipeError, match=r"num_heads 4; .*query/kernel has 2") as caught:
        load(tmp_path / "checkpoint", replace(network_of("model 1"), num_heads=4), crop_px=24)
    assert caught.value.code == "bad_checkpoint"


def test_an_odd_number_of_heads_is_no_model_4(tmp_path: Path) -> None:
    sizes = replace(MODEL_1, classifier="gap", encoder=replace(MODEL_4.encoder, num_heads=3))
    write_checkpoint(tmp_path / "checkpoint", build(sizes))
    with pytest.raises(RecipeError, match="even number of heads, got 3") as caught:
        load(tmp_path / "checkpoint", network_of("model 4"), crop_px=24)
    assert caught.value.code == "bad_checkpoint"


def test_the_order_of_attention_is_the_recipes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", build(MODEL_3))
    for order in ("time_space", "space_time"):
        network = replace(network_of("model 3, time first"), attention_order=order)
        assert load(tmp_path / "checkpoint", network, crop_px=24).sizes == replace(MODEL_3, attention_order=order)
