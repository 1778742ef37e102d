"""VidTr's networks: against slow readings of the paper and of torch's own attention, as graphs, and their counts."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tubelet.export.count import on_meta
from tubelet.export.papers import FULL_SIZE
from tubelet.models.network import VideoNetwork
from tubelet.models.vidtr import CompactVidtr, CompactVidtrSizes, JointVidtr, SeparableVidtr, VidtrSizes
from tubelet.models.vidtr_attention import JointAttention, PoolingAttention, SeparableAttention, keep_times

SIZES = VidtrSizes(
    num_frames=6,
    patch_frames=1,
    crop_px=12,
    patch_px=4,
    width=24,
    num_layers=4,
    num_heads=3,
    mlp_width=20,
    activation="relu",
    num_classes=5,
)


def compact(sizes: VidtrSizes = SIZES, *, pool_layers: Any = (0, 2), dropped_times: Any = (2, 1)) -> CompactVidtrSizes:
    return CompactVidtrSizes(**dataclasses.asdict(sizes), pool_layers=pool_layers, dropped_times=dropped_times)


MODELS: dict[str, Callable[[], VideoNetwork]] = {
    "separable": lambda: SeparableVidtr(SIZES),
    "joint": lambda: JointVidtr(dataclasses.replace(SIZES, patch_frames=2, activation="gelu")),
    "compact": lambda: CompactVidtr(compact(pool_layers=(0, 1), dropped_times=(1, 4))),
}


Module = TypeVar("Module", bound=nn.Module)


def randomise(model: Module, seed: int = 0) -> Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def heads_of(attention: Any, tokens: Tensor) -> list[Tensor]:
    """Queries, keys and values `[H, X, Y, D/H]` of tokens `[X, Y, D]`."""
    parts = attention.qkv(tokens).chunk(3, dim=-1)
    return [part.unflatten(-1, (attention.num_heads, -1)).permute(2, 0, 1, 3) for part in parts]


def rows_of(query: Tensor, key: Tensor) -> Tensor:
    return (query @ key.T / query.shape[-1] ** 0.5).softmax(dim=-1)


@torch.inference_mode()
def test_separable_attention_is_time_then_space_with_the_same_queries_and_keys() -> None:
    attention = randomise(SeparableAttention(12, 2, num_times=3))
    tokens, positions = noise(1, 15, 12), noise(1, 15, 12, seed=2)
    query, key, value = heads_of(attention, (tokens + positions)[0].view(3, 5, 12))
    mixed = torch.empty_like(value)
    for h in range(2):
        for y in range(5):
            mixed[h, :, y] = rows_of(query[h, :, y], key[h, :, y]) @ value[h, :, y]
        for x in range(3):
            mixed[h, x] = rows_of(query[h, x], key[h, x]) @ mixed[h, x]
    expected = attention.out(mixed.permute(1, 2, 0, 3).reshape(15, 12))
    torch.testing.assert_close(attention(tokens, positions)[0], expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_pooling_keeps_the_rows_that_deviate_most_head_by_head_and_place_by_place() -> None:
    attention = randomise(PoolingAttention(12, 2, num_times=5, num_kept=3))
    tokens = noise(1, 20, 12)
    query, key, value = heads_of(attention, tokens[0].view(5, 4, 12))
    mixed, residual = torch.empty(2, 3, 4, 6), torch.empty(2, 3, 4, 6)
    kept = torch.empty(2, 4, 3, dtype=torch.int64)
    for h in range(2):
        for y in range(4):
            rows = rows_of(query[h, :, y], key[h, :, y])
            ranked = np.argsort(-np.std(rows.numpy(), axis=1, ddof=1))
            kept[h, y] = torch.tensor(sorted(ranked[:3].tolist()))
            mixed[h, :, y] = rows[kept[h, y]].softmax(dim=-1) @ value[h, :, y]
            residual[h, :, y] = tokens[0].view(5, 4, 2, 6)[kept[h, y], y, h]
        for x in range(3):
            places = (kept[h, :, x], torch.arange(4))
            mixed[h, x] = rows_of(query[h][places], key[h][places]) @ mixed[h, x]
    attended, found = attention.pool(tokens)
    assert torch.equal(found[0], kept)
    assert len({tuple(times) for times in kept.flatten(0, 1).tolist()}) > 1
    expected = attention.out(mixed.permute(1, 2, 0, 3).reshape(12, 12))
    torch.testing.assert_close(attended[0], expected, rtol=0, atol=1e-5)
    remaining = keep_times(tokens, found, num_times=5)[0]
    assert torch.equal(remaining, residual.permute(1, 2, 0, 3).reshape(12, 12))


@torch.inference_mode()
def test_joint_attention_is_torchs_whose_values_know_no_positions() -> None:
    attention = randomise(JointAttention(12, 3))
    torchs = nn.MultiheadAttention(12, 3, batch_first=True)
    state = {
        "in_proj_weight": attention.qkv.weight,
        "in_proj_bias": attention.qkv.bias,
        "out_proj.weight": attention.out.weight,
        "out_proj.bias": attention.out.bias,
    }
    torchs.load_state_dict(state)
    tokens, positions = noise(2, 7, 12), noise(1, 7, 12, seed=2)
    placed = tokens + positions
    torch.testing.assert_close(attention(tokens), torchs(tokens, tokens, tokens)[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(attention(tokens, positions), torchs(placed, placed, tokens)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "placed"),
    [
        (SeparableVidtr(SIZES), 1),
        (JointVidtr(SIZES), 1),
        (CompactVidtr(compact()), 1),
        (SeparableVidtr(dataclasses.replace(SIZES, num_frames=16)), 4),
        (SeparableVidtr(dataclasses.replace(SIZES, num_frames=32, patch_frames=2)), 4),
        (JointVidtr(dataclasses.replace(SIZES, num_frames=16)), 4),
        (CompactVidtr(compact(dataclasses.replace(SIZES, num_frames=16))), 1),
    ],
)
def test_positions_are_added_in_the_first_layer_or_in_all_of_16_times(model: VideoNetwork, placed: int) -> None:
    given: list[bool] = []
    for block in model.blocks:  # type: ignore[union-attr]
        block.register_forward_pre_hook(lambda _module, inputs: given.append(inputs[1] is not None))
    with torch.inference_mode():
        model(noise(1, model.num_frames, 12, 12, 3))
    assert given == [i < placed for i in range(4)]


@torch.inference_mode()
def test_the_class_token_of_c_vidtr_stands_aside_until_the_last_pooling() -> None:
    model = randomise(CompactVidtr(compact()))
    tokens: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: tokens.append(output))
    model(torch.cat([noise(1, 6, 12, 12, 3), noise(1, 6, 12, 12, 3, seed=3)]))
    assert [after.shape[1] for after in tokens] == [1 + 4 * 9, 1 + 4 * 9, 1 + 3 * 9, 1 + 3 * 9]
    for after in tokens[:3]:
        assert torch.equal(after[0, 0], after[1, 0])
    assert not torch.allclose(tokens[3][0, 0], tokens[3][1, 0])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch", [1, 5])
def test_the_graph_computes_what_torch_computes(name: str, batch: int, graphs: Callable[[str], bytes]) -> None:
    clips = noise(batch, 6, 12, 12, 3, seed=4)
    session = onnxruntime.InferenceSession(graphs(name))
    (found,) = session.run(None, {"clips": clips.numpy()})
    with torch.inference_mode():
        expected = randomise(MODELS[name]())(clips).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def graphs() -> Callable[[str], bytes]:
    made: dict[str, bytes] = {}

    def make(name: str) -> bytes:
        if name not in made:
            made[name] = graph_of(randomise(MODELS[name]()), noise(2, 6, 12, 12, 3))
        return made[name]

    return make


def graph_of(model: VideoNetwork, clips: Tensor) -> bytes:
    """The ONNX graph of a network, opset 20, its batch dynamic."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter to its own developers
        program = torch.onnx.export(
            model,
            (clips,),
            input_names=["clips"],
            dynamic_shapes=({0: torch.export.Dim("B")},),
            opset_version=20,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def test_double_precision_agrees_with_single() -> None:
    for make in MODELS.values():
        model, clips = randomise(make()), noise(2, 6, 12, 12, 3)
        with torch.inference_mode():
            single = model(clips)
            torch.testing.assert_close(model.double()(clips.double()).float(), single, rtol=0, atol=1e-4)


@pytest.mark.parametrize("network", [SeparableVidtr, JointVidtr])
def test_eval_has_no_dropout_and_training_has(network: type[SeparableVidtr | JointVidtr]) -> None:
    model, clips = randomise(network(SIZES, dropout=0.5)), noise(1, 6, 12, 12, 3)
    assert torch.equal(model(clips), model(clips))
    model.train()
    assert not torch.equal(model(clips), model(clips))


@pytest.mark.parametrize(
    ("pool_layers", "dropped_times", "match"),
    [
        ((1, 3), (1, 1), r"a layer must follow.*there are 4 layers"),
        ((7,), (1,), r"a layer must follow"),
        ((), (), r"a layer must follow"),
        ((0, 1), (3, 3), r"of 6 times one must be left"),
        ((0, 1), (3,), r"of 6 times one must be left"),
    ],
)
def test_poolings_that_leave_nothing_are_refused(pool_layers: Any, dropped_times: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        compact(pool_layers=pool_layers, dropped_times=dropped_times)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("vidtr_s_k400", 87_473_296),
        ("vidtr_m_k400", 88_689_808),
        ("vidtr_l_k400", 91_122_832),
        ("cvidtr_s_k400", 87_159_952),
        ("cvidtr_m_k400", 88_364_176),
        ("vidtr_vanilla_k400", 87_159_952),
    ],
)
def test_the_published_sizes_have_the_published_parameters(name: str, parameters: int) -> None:
    model = on_meta(FULL_SIZE[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
