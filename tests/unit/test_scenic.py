"""scenic's checkpoint files: every layout and number format is read, whatever does not fit is refused."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny import CHECKPOINT

from tubelet.checkpoints.flax import flatten, pack_tree, read_tree
from tubelet.checkpoints.load import load_model, sha256_file
from tubelet.checkpoints.scenic import (
    factorised_encoder_sizes,
    factorised_encoder_state,
    read_parameters,
    write_checkpoint,
)
from tubelet.models.vivit import FactorisedEncoder, FactorisedEncoderSizes
from tubelet.spec.errors import RecipeError

Parameters = dict[str, NDArray[np.float32]]


@pytest.fixture
def parameters() -> Parameters:
    return read_parameters(CHECKPOINT)


def load(path: Path) -> FactorisedEncoder:
    return load_model(path, format="scenic", family="vivit", variant="factorised_encoder")


def nested(parameters: Parameters) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in parameters.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return tree


def write(path: Path, tree: dict[str, Any]) -> Path:
    path.write_bytes(pack_tree(tree))
    return path


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.builds(
        lambda heads, temporal_heads, tubelets, t, side, patch, **other: FactorisedEncoderSizes(
            width=12, spatial_heads=heads, temporal_heads=temporal_heads, num_frames=tubelets * t, tubelet_frames=t,
            crop_px=side * patch, patch_px=patch, **other,
        ),
        heads=st.sampled_from([1, 2, 3, 4]), temporal_heads=st.sampled_from([1, 6, 12]), tubelets=st.integers(1, 4),
        t=st.integers(1, 3), side=st.integers(1, 3), patch=st.integers(1, 4), mlp_width=st.integers(1, 9),
        spatial_layers=st.integers(1, 3), temporal_layers=st.integers(1, 2), num_classes=st.integers(1, 7),
    )
)  # fmt: skip
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, sizes: FactorisedEncoderSizes) -> None:
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint"
    state = FactorisedEncoder(sizes).state_dict()
    write_checkpoint(path, state, sizes)
    read = read_parameters(path)
    assert factorised_encoder_sizes(read) == sizes
    again = factorised_encoder_state(read, sizes)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_written_files_have_scenics_names_and_shapes(parameters: Parameters) -> None:
    shapes = {name: value.shape for name, value in parameters.items()}
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


def test_linear_maps_are_those_of_flax(parameters: Parameters) -> None:
    """Flax contracts with einsum over (width, heads, head width); ours must give the same numbers."""
    sizes = factorised_encoder_sizes(parameters)
    state = factorised_encoder_state(parameters, sizes)
    tokens = np.random.default_rng(0).standard_normal((3, sizes.width)).astype(np.float32)
    prefix = "SpatialTransformer/encoderblock_0/MultiHeadDotProductAttention_0"
    fused = tokens @ state["spatial.blocks.0.attention.qkv.weight"].numpy().T
    fused += state["spatial.blocks.0.attention.qkv.bias"].numpy()
    for i, name in enumerate(("query", "key", "value")):
        wanted = np.einsum("nd,dhe->nhe", tokens, parameters[f"{prefix}/{name}/kernel"])
        wanted += parameters[f"{prefix}/{name}/bias"]
        found = fused[:, i * sizes.width : (i + 1) * sizes.width].reshape(wanted.shape)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5, err_msg=name)
    heads = tokens.reshape(3, sizes.spatial_heads, -1)
    wanted = np.einsum("nhe,hed->nd", heads, parameters[f"{prefix}/out/kernel"])
    found = tokens @ state["spatial.blocks.0.attention.out.weight"].numpy().T
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    kernel = state["embedding.weight"].numpy()
    assert kernel[7, 2, 1, 3, 5] == parameters["embedding/kernel"][1, 3, 5, 2, 7]


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
    assert all(np.array_equal(read[name], parameters[name]) for name in parameters)


def pack_array(shape: Any, dtype: str, data: bytes, *, code: int = 1) -> msgpack.ExtType:
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, data)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_of_any_width_become_float32(tmp_path: Path, dtype: str) -> None:
    values = np.array([[1.0, -2.5, 0.125]], dtype)
    tree = read_tree(write(tmp_path / "checkpoint", {"a": {"b": values, "c": values[0, 1]}}))
    read = dict(flatten(tree))
    assert read.keys() == {"a/b", "a/c"}
    assert read["a/b"].dtype == np.float32
    np.testing.assert_array_equal(read["a/b"], values.astype(np.float32))
    assert read["a/c"] == np.float32(-2.5)


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    values = np.array([1.0, -3.140625, 1e30], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    tree = {"a": pack_array((3,), "bfloat16", upper.tobytes())}
    read = dict(flatten(read_tree(write(tmp_path / "checkpoint", tree))))
    np.testing.assert_allclose(read["a"], values, rtol=2**-7)
    assert read["a"][0] == 1.0
    assert read["a"][1] == np.float32(-3.140625)


def test_chunked_arrays_are_put_together(tmp_path: Path) -> None:
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    chunks = {str(i): whole.reshape(-1)[i * 5 : (i + 1) * 5] for i in range(3)}
    tree = {"a": {"__msgpack_chunked_array__": True, "shape": {"0": 3, "1": 4}, "chunks": chunks}}
    read = dict(flatten(read_tree(write(tmp_path / "checkpoint", tree))))
    np.testing.assert_array_equal(read["a"], whole)


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


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read"):
        read_parameters(tmp_path / "nothing")
    with pytest.raises(RecipeError, match="cannot read"):
        sha256_file(tmp_path / "nothing")


@pytest.mark.parametrize(
    "leaf",
    [
        np.ones(3, np.int32),
        np.array([1.0, np.nan], np.float32),
        np.array([np.inf], np.float32),
        pack_array((4,), "float32", b"\x00" * 8),
        pack_array((4,), "object", b"\x00" * 32),
        pack_array((2,), "float32", b"\x00" * 7),
        pack_array((1,), "float32", b"\x00" * 4, code=2),
        msgpack.ExtType(1, b"\xc1"),
        {"__msgpack_chunked_array__": True, "shape": {"0": 3}},
        1.5,
        "text",
    ],
    ids=["integers", "nan", "inf", "shape", "object", "bytes", "complex", "rubbish", "chunks", "number", "text"],
)
def test_leaves_that_are_no_finite_floats_are_refused(tmp_path: Path, parameters: Parameters, leaf: Any) -> None:
    tree = nested(parameters) | {"cls_SpatialTransformer": leaf}
    with pytest.raises(RecipeError, match="cls_SpatialTransformer") as caught:
        read_parameters(write(tmp_path / "checkpoint", {"params": tree}))
    assert caught.value.code == "bad_checkpoint"


def without(parameters: Parameters, word: str) -> Parameters:
    return {name: value for name, value in parameters.items() if word not in name}


def changed(parameters: Parameters, name: str, shape: tuple[int, ...]) -> Parameters:
    return parameters | {name: np.zeros(shape, np.float32)}


POSITIONS = "SpatialTransformer/posembed_input/pos_embedding"
QUERY = "SpatialTransformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: without(p, "TemporalTransformer"), "a factorised encoder has TemporalTransformer"),
        (lambda p: without(p, "cls_SpatialTransformer"), "lacks cls_SpatialTransformer"),
        (lambda p: without(p, "SpatialTransformer/encoderblock_0"), "a factorised encoder has Spatial"),
        (lambda p: without(p, "encoderblock_1/MlpBlock_0/Dense_1"), "lacks SpatialTransformer/encoderblock_1/Mlp"),
        (lambda p: without(p, "output_projection/bias"), "lacks output_projection/bias"),
        (lambda p: changed(p, "pre_logits/kernel", (16, 8)), "has no pre_logits/kernel"),
        (lambda p: changed(p, "SpatialTransformer/encoderblock_7/x", (1,)), "lacks .*encoderblock_2"),
        (lambda p: changed(p, "output_projection/bias", (6,)), r"output_projection/bias must have shape \(5,\)"),
        (lambda p: changed(p, "embedding/kernel", (2, 8, 8, 1, 16)), "embedding/kernel must have shape"),
        (lambda p: changed(p, "embedding/kernel", (2, 8, 4, 3, 16)), "square patches"),
        (lambda p: changed(p, "embedding/kernel", (8, 8, 3, 16)), "must have 5 axes"),
        (lambda p: changed(p, POSITIONS, (1, 4, 16)), "square number"),
        (lambda p: changed(p, POSITIONS, (1, 1, 16)), "square number"),
        (lambda p: changed(p, QUERY, (16, 3, 5)), "multiple of the heads"),
        (lambda p: changed(p, QUERY, (16, 0, 8)), "must have 3 axes, none of them empty"),
    ],
)
def test_parameters_that_do_not_fit_are_named(
    parameters: Parameters, change: Callable[[Parameters], Parameters], message: str
) -> None:
    unfit = change(parameters)
    with pytest.raises(RecipeError, match=message) as caught:
        factorised_encoder_state(unfit, factorised_encoder_sizes(unfit))
    assert caught.value.code == "bad_checkpoint"


def test_loads_in_eval_mode_and_float32() -> None:
    model = load(CHECKPOINT)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_combinations_without_a_loader_are_refused() -> None:
    with pytest.raises(RecipeError, match="scenic vivit factorised_encoder") as caught:
        load_model(CHECKPOINT, format="scenic", family="vivit", variant="joint")
    assert caught.value.code == "bad_recipe"
