"""VTN's temporal encoder: who sees whom, positions, and attention in chunks against dense attention."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from vtns import LONGFORMER, small_vtn, views

from tubelet.models import window_attention as chunked
from tubelet.models.longformer import Longformer, LongformerSizes, sinusoids
from tubelet.models.window_attention import CHUNK_FRAMES, window_attention


def dense_attention(query: Tensor, key: Tensor, value: Tensor, *, reach: int) -> Tensor:
    """What `window_attention` must give, with a row of scores over all tokens for each frame."""
    place = torch.arange(key.shape[1])
    is_seen = ((place[1:, None] - place).abs() <= reach) | (place == 0)  # [n, 1+n], the class token at place 0
    queries, keys, values = (part.transpose(1, 2) for part in (query, key, value))
    return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=is_seen).transpose(1, 2)


def heads(n: int, *, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(n)
    key, value = torch.randn(2, batch, 1 + n, 3, 4, dtype=torch.float64)
    return torch.randn(batch, n, 3, 4, dtype=torch.float64), key, value


@pytest.fixture(scope="module")
def encoder() -> Longformer:
    return small_vtn("vit").temporal.double()


LENGTHS = (1, 2, 9, CHUNK_FRAMES - 1, CHUNK_FRAMES, CHUNK_FRAMES + 1, 2 * CHUNK_FRAMES, 3 * CHUNK_FRAMES + 5, 250)


@pytest.mark.parametrize("reach", [1, 9, CHUNK_FRAMES, CHUNK_FRAMES + 3, 70])
@pytest.mark.parametrize("n", LENGTHS)
def test_chunks_give_what_dense_attention_gives(n: int, reach: int) -> None:
    query, key, value = heads(n)
    found, wanted = window_attention(query, key, value, reach=reach), dense_attention(query, key, value, reach=reach)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_the_length_of_a_chunk_changes_no_number(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = heads(45)
    wanted = window_attention(query, key, value, reach=3)
    monkeypatch.setattr(chunked, "CHUNK_FRAMES", chunk)
    torch.testing.assert_close(window_attention(query, key, value, reach=3), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [5, 100])
def test_the_wrong_reach_would_show(n: int) -> None:
    query, key, value = heads(n)
    wanted = dense_attention(query, key, value, reach=2)
    for reach in (1, 3):
        assert (window_attention(query, key, value, reach=reach) - wanted).abs().max() > 0.01


def test_a_frame_sees_its_neighbours_and_the_class_token_alone() -> None:
    n, reach, frame = 50, 4, 33
    query, key, value = heads(n, batch=1)
    value.requires_grad_()
    window_attention(query, key, value, reach=reach)[0, frame].sum().backward()
    assert value.grad is not None
    looked_at = value.grad[0].abs().amax(dim=(1, 2)) > 0
    assert looked_at.nonzero().flatten().tolist() == [0, *range(1 + frame - reach, 1 + frame + reach + 1)]


def test_memory_grows_linearly() -> None:
    """The largest tensor that is made, not the memory of the machine."""

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if isinstance(made, Tensor):
                self.numbers = max(self.numbers, made.numel())
            return made

    largest = []
    for n in (400, 4000):
        with Largest() as mode, torch.inference_mode():
            window_attention(*heads(n, batch=1), reach=9)
        largest.append(mode.numbers)
    assert largest[1] < 11 * largest[0]


def test_the_last_layer_for_the_class_token_alone_gives_the_same(encoder: Longformer) -> None:
    features, positions = views(40)
    with torch.inference_mode():
        seen, attention = encoder(features.double(), positions)
        *_, (tokens, whole) = encoder.states(features.double(), positions)
    torch.testing.assert_close(seen, tokens[:, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(attention, whole, rtol=0, atol=0)


def test_the_class_token_sees_every_frame(encoder: Longformer) -> None:
    features, positions = views(60, batch=1)
    features = features.double().requires_grad_()
    seen, attention = encoder(features, positions)
    seen.square().sum().backward()
    assert features.grad is not None
    assert (features.grad.abs().amax(dim=2) > 0).all()
    assert attention.shape == (1, LONGFORMER.num_heads, 61)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(1, LONGFORMER.num_heads, dtype=torch.float64))


def test_padding_of_the_released_code_changes_nothing(encoder: Longformer) -> None:
    """As released: rows of -1 up to a multiple of twice the window, of the last position, masked in every layer."""
    n, length = 13, 20
    features, positions = views(n)
    features = features.double()
    padding = torch.full((2, length - n, features.shape[2]), -1.0, dtype=torch.float64)
    with torch.inference_mode():
        rows = torch.cat([features, padding], dim=1)
        tokens = encoder.embed(rows, torch.nn.functional.pad(positions, (0, length - n)))
        for layer, window in zip(encoder.layers, LONGFORMER.attention_window, strict=True):
            tokens = masked_layer(layer, tokens, reach=window // 2, num_real=1 + n)
        *_, (wanted, _) = encoder.states(features, positions)
    torch.testing.assert_close(tokens[:, : 1 + n], wanted, rtol=0, atol=1e-12)


def masked_layer(layer: Any, tokens: Tensor, *, reach: int, num_real: int) -> Tensor:
    """A layer of Longformer in its plainest form, with masked padding at the end."""
    batch, length, width = tokens.shape
    place = torch.arange(length)
    is_seen = (((place[:, None] - place).abs() <= reach) | (place == 0)) & (place < num_real)
    global_key, global_value = layer.global_key_value(tokens).chunk(2, dim=2)

    def split(part: Tensor) -> Tensor:
        return part.view(batch, -1, layer.num_heads, width // layer.num_heads).transpose(1, 2)

    query, key, value = (split(part) for part in layer.qkv(tokens).chunk(3, dim=2))
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=is_seen)
    mixed[:, :, :1] = functional.scaled_dot_product_attention(
        split(layer.global_query(tokens[:, :1])),
        split(global_key),
        split(global_value),
        attn_mask=(place < num_real)[None],
    )
    attended = layer.attention_norm(tokens + layer.out(mixed.transpose(1, 2).flatten(2)))
    transformed: Tensor = layer.mlp_norm(attended + layer.mlp(attended))
    return transformed


def test_the_last_two_rows_of_the_table_are_no_frames(encoder: Longformer) -> None:
    features, _ = views(6)
    num_rows = LONGFORMER.max_positions
    assert num_rows is not None
    with torch.inference_mode():
        embedded = [
            encoder.embed(features.double(), torch.arange(6).expand(2, -1) + start)
            for start in (0, num_rows - 2, 5 * (num_rows - 2))
        ]
        embedding: Any = encoder.embedding
        row = embedding.positions.weight[num_rows - 2]
        wanted = embedding.norm(encoder.class_token + row + embedding.types[1])
    for other in embedded[1:]:
        torch.testing.assert_close(other, embedded[0], rtol=0, atol=0)
    torch.testing.assert_close(embedded[0][:, :1], wanted.expand(2, -1, -1), rtol=0, atol=1e-12)


def test_sinusoids_are_those_of_the_transformer_paper() -> None:
    table = sinusoids(300, 7)
    assert table.shape == (300, 7)
    for place, number in ((0, 0), (1, 0), (255, 3), (299, 6)):
        angle = torch.tensor(place / 10_000 ** (number // 2 * 2 / 7), dtype=torch.float64)
        wanted = angle.sin() if number % 2 == 0 else angle.cos()
        assert abs(table[place, number] - wanted) < 1e-7


def test_sinusoids_are_there_in_a_network_built_without_numbers() -> None:
    sizes = LongformerSizes(num_heads=2, mlp_width=8, attention_window=(4,), positions="sinusoidal", max_positions=20)
    with torch.device("meta"):
        encoder: Any = Longformer(sizes, width=12)
    assert torch.equal(encoder.embedding.positions.table, sinusoids(20, 12))
    assert not [name for name in encoder.state_dict() if "positions" in name]


def test_positions_count_only_where_there_are_some() -> None:
    features, positions = views(5)
    for kind, counts in (("vit", True), ("vit_distilled, sinusoidal", True), ("resnet, no positions", False)):
        encoder = small_vtn(kind).temporal
        with torch.inference_mode():
            first, second = encoder(features, positions)[0], encoder(features, positions + 1)[0]
        assert torch.equal(first, second) is not counts
        if counts:
            with pytest.raises(ValueError, match="positions"):
                encoder(features, None)
        else:
            assert torch.equal(encoder(features, None)[0], first)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("max_positions", 2, "at least 3"),
        ("max_positions", None, "a number"),
        ("positions", "none", "a number"),
        ("attention_window", (4, 10**6), "at most 1024"),
    ],
)
def test_sizes_that_fit_nothing_are_refused(field: str, value: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        LongformerSizes(**{name: getattr(LONGFORMER, name) for name in LONGFORMER.__slots__} | {field: value})


def test_networks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        Longformer(LONGFORMER, width=10)
    large = LongformerSizes(
        num_heads=2, mlp_width=8, attention_window=(4,), positions="sinusoidal", max_positions=2**30
    )
    with pytest.raises(ValueError, match="more than"):
        Longformer(large, width=12)
