"""Image weights as a start for ViViT: what they give, what they cannot give, and what the network then computes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from vivits import MODEL_1, MODEL_2, MODEL_3, MODEL_4, UNIFORM, VIVITS

from tubelet.checkpoints.inflate import KernelInflation, TimeAttention, inflate
from tubelet.models.layers import Encoder
from tubelet.models.vivit import FactorisedEncoder, FactorisedSelfAttention, build
from tubelet.spec.errors import RecipeError

WIDTH, PATCH_PX, GRID, MLP_WIDTH = 12, 8, 3, 20
HEAD = {"head.weight", "head.bias"}


def vit(*, grid: int = GRID, distilled: bool = False, token: bool = True) -> dict[str, Tensor]:
    """A ViT of two layers and two heads by timm's names."""
    rng = np.random.RandomState(0)

    def random(*shape: int, near: float = 0.0) -> Tensor:
        return torch.from_numpy(near + 0.3 * rng.standard_normal(shape)).float()

    image = {
        "pos_embed": random(1, token + distilled + grid**2, WIDTH),
        "patch_embed.proj.weight": random(WIDTH, 3, PATCH_PX, PATCH_PX),
        "patch_embed.proj.bias": random(WIDTH),
        "norm.weight": random(WIDTH, near=1),
        "norm.bias": random(WIDTH),
        "head.weight": random(1000, WIDTH),
        "head.bias": random(1000),
    }
    if token:
        image["cls_token"] = random(1, 1, WIDTH)
    if distilled:
        image |= {"dist_token": random(1, 1, WIDTH), "head_dist.weight": random(9, WIDTH), "head_dist.bias": random(9)}
    for i in range(2):
        for name, rows, columns in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", MLP_WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, MLP_WIDTH),
        ):
            image |= {f"blocks.{i}.{name}.weight": random(rows, columns), f"blocks.{i}.{name}.bias": random(rows)}
        for name in ("norm1", "norm2"):
            image |= {f"blocks.{i}.{name}.weight": random(WIDTH, near=1), f"blocks.{i}.{name}.bias": random(WIDTH)}
    return image


def image_tokens(image: dict[str, Tensor], frames: Tensor, *, token: bool) -> Tensor:
    """The ViT itself, written with functions: frames `[B, S, S, 3]` -> normalised tokens `[B, (1+)N, D]`."""
    kernel, bias = image["patch_embed.proj.weight"], image["patch_embed.proj.bias"]
    tokens = functional.conv2d(frames.permute(0, 3, 1, 2), kernel, bias, stride=PATCH_PX).flatten(2).transpose(1, 2)
    positions = image["pos_embed"]
    if token:
        tokens = torch.cat([image["cls_token"].expand(len(frames), 1, WIDTH), tokens], dim=1) + positions
    else:
        tokens = tokens + positions[:, -(GRID**2) :]

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (WIDTH,), image[f"{name}.weight"], image[f"{name}.bias"], eps=1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, image[f"{name}.weight"], image[f"{name}.bias"])

    for i in range(2):
        qkv = linear(norm(tokens, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
        query, key, value = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        weights = (query @ key.transpose(-1, -2) / (WIDTH // 2) ** 0.5).softmax(dim=-1)
        tokens = tokens + linear((weights @ value).transpose(1, 2).flatten(2), f"blocks.{i}.attn.proj")
        hidden = linear(norm(tokens, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        tokens = tokens + linear(functional.gelu(hidden, approximate="tanh"), f"blocks.{i}.mlp.fc2")
    return norm(tokens, "norm")


def frames_and_still_clips() -> tuple[Tensor, Tensor]:
    frames = torch.from_numpy(np.random.RandomState(1).standard_normal((2, 24, 24, 3))).float()
    return frames, frames.unsqueeze(1).repeat(1, 6, 1, 1, 1)


@pytest.mark.parametrize("kernel", ["average", "central_frame"])
@pytest.mark.parametrize("time_attention", ["zero", "zero_output"])
def test_model_3_starts_as_the_image_model(kernel: KernelInflation, time_attention: TimeAttention) -> None:
    image, (frames, clips) = vit(), frames_and_still_clips()
    model = build(MODEL_3).eval()
    assert isinstance(model, FactorisedSelfAttention)
    start = inflate(image, model, kernel=kernel, time_attention=time_attention)
    model.load_state_dict(start.tensors, strict=False)
    with torch.inference_mode():
        found = model.encoder(model.embedding(clips).flatten(1, 2))
        wanted = image_tokens(image, frames, token=False).mean(dim=1)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", ["average", "central_frame"])
@pytest.mark.parametrize("distilled", [False, True])
def test_the_spatial_encoder_of_model_2_starts_as_the_image_model(kernel: KernelInflation, distilled: bool) -> None:
    image, (frames, clips) = vit(distilled=distilled), frames_and_still_clips()
    model = build(MODEL_2).eval()
    assert isinstance(model, FactorisedEncoder)
    start = inflate(image, model, kernel=kernel)
    model.load_state_dict(start.tensors, strict=False)
    plain = image | {"pos_embed": image["pos_embed"][:, [0, *range(1 + distilled, 10 + distilled)]]}
    with torch.inference_mode():
        found = model.encode(clips[:, :2])
        torch.testing.assert_close(found, image_tokens(plain, frames, token=True)[:, 0], rtol=0, atol=1e-5)
    assert set(start.missing) == {name for name in model.state_dict() if name.startswith(("temporal.", "head."))}


def test_a_model_3_whose_temporal_attention_is_all_zero_cannot_learn_it() -> None:
    """Why there is another choice: with the paper's start no gradient reaches more than the last bias."""
    _, clips = frames_and_still_clips()
    choices: dict[TimeAttention, set[str]] = {"zero": {"out.bias"}, "zero_output": {"out.bias", "out.weight"}}
    for time_attention, learns in choices.items():
        model = build(MODEL_3)
        model.load_state_dict(inflate(vit(), model, kernel="average", time_attention=time_attention).tensors, False)
        model(clips).square().sum().backward()
        attention = model.get_submodule("encoder.blocks.0.time_attention")
        found = {
            name
            for name, parameter in attention.named_parameters()
            if parameter.grad is not None and parameter.grad.any()
        }
        assert found == learns


@pytest.mark.parametrize("kind", VIVITS)
def test_what_is_given_and_what_is_missing_make_the_whole_network(kind: str) -> None:
    model = build(VIVITS[kind][1])
    start = inflate(vit(), model, kernel="central_frame")
    state = model.state_dict()
    assert set(start.tensors) | set(start.missing) == set(state)
    assert not set(start.tensors) & set(start.missing)
    assert all(start.tensors[name].shape == state[name].shape for name in start.tensors)
    assert all(name.startswith(("head.", "representation.", "temporal.")) for name in start.missing)
    assert set(start.missing) >= HEAD


def test_kernels_are_spread_or_put_at_the_middle_frame() -> None:
    image, model = vit(), build(replace(MODEL_1, embedding=replace(MODEL_1.embedding, frames=3)))
    patch = image["patch_embed.proj.weight"]
    model = build(replace(model.sizes, num_frames=9))
    average = inflate(image, model, kernel="average").tensors["embedding.weight"]
    central = inflate(image, model, kernel="central_frame").tensors["embedding.weight"]
    assert average.shape == central.shape == (WIDTH, 3, 3, PATCH_PX, PATCH_PX)
    for frame in range(3):
        torch.testing.assert_close(average[:, :, frame], patch / 3)
        assert torch.equal(central[:, :, frame], patch if frame == 1 else torch.zeros_like(patch))
    even = inflate(image, build(MODEL_1), kernel="central_frame").tensors["embedding.weight"]
    assert torch.equal(even[:, :, 1], patch)  # t // 2, as scenic: the second of two
    uniform = build(replace(MODEL_1, embedding=UNIFORM))
    assert torch.equal(inflate(image, uniform, kernel="average").tensors["embedding.weight"], patch)


def test_positions_are_tiled_over_time_behind_the_class_token() -> None:
    image = vit(distilled=True)
    with_token = inflate(image, build(MODEL_1), kernel="average").tensors["encoder.positions"]
    table = image["pos_embed"]
    assert torch.equal(with_token, torch.cat([table[:, :1], *[table[:, 2:]] * 3], dim=1))
    without_token = inflate(image, build(MODEL_4), kernel="average").tensors["encoder.positions"]
    assert torch.equal(without_token, table[:, 2:].repeat(1, 3, 1))


def test_positions_of_another_grid_are_resized_with_their_corners_kept() -> None:
    image = vit(grid=2)
    found = inflate(image, build(MODEL_1), kernel="average").tensors["encoder.positions"]
    corners = image["pos_embed"][0, 1:].reshape(2, 2, WIDTH)
    grid = found[0, 10:19].reshape(3, 3, WIDTH)  # the second of three times
    torch.testing.assert_close(grid[::2, ::2], corners)
    torch.testing.assert_close(grid[1, 1], corners.mean(dim=(0, 1)))
    torch.testing.assert_close(grid[0, 1], corners[0].mean(dim=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image.pop("norm.bias"), "lacks norm.bias"),
        (lambda image: image.pop("pos_embed"), "has pos_embed"),
        (lambda image: image.pop("cls_token"), "rows for 0 tokens"),
        (lambda image: image.update({"fc_norm.weight": torch.ones(12)}), "has no fc_norm.weight"),
        (lambda image: image.update({"blocks.2.norm1.bias": torch.ones(12)}), "has no blocks.2.norm1.bias"),
        (lambda image: image.update({"pos_embed": torch.ones(1, 9, 12)}), "rows for 1 tokens and a square grid"),
        (lambda image: image.update({"pos_embed": torch.ones(2, 10, 12)}), "got 2x10"),
        (lambda image: image.update({"pos_embed": torch.ones(1, 10, 8)}), r"pos_embed must have shape \(1, 28, 12\)"),
        (lambda image: image.update({"patch_embed.proj.weight": torch.ones(12, 3, 2, 8, 8)}), "must have 4 axes"),
        (
            lambda image: image.update({"patch_embed.proj.weight": torch.ones(12, 3, 4, 4)}),
            r"patch_embed.proj.weight must have shape \(12, 3, 2, 8, 8\), got \(12, 3, 2, 4, 4\)",
        ),
        (lambda image: image.update({"norm.bias": torch.full((12,), torch.inf)}), "norm.bias holds numbers that are"),
    ],
)
def test_image_models_that_do_not_fit_are_refused(change: Callable[[dict[str, Tensor]], object], message: str) -> None:
    image = vit()
    change(image)
    with pytest.raises(RecipeError, match=message) as caught:
        inflate(image, build(MODEL_1), kernel="average")
    assert caught.value.code == "bad_checkpoint"


def test_an_image_model_without_a_class_token_starts_only_networks_without_one() -> None:
    image = vit(token=False)
    with pytest.raises(RecipeError, match="the image model has no cls_token"):
        inflate(image, build(MODEL_1), kernel="average")
    model = build(MODEL_4)
    assert isinstance(model.encoder, Encoder)
    assert set(inflate(image, model, kernel="average").missing) == HEAD
