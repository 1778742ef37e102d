"""Attention as one node: every one of each network is found, nothing else is, and the numbers stay."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from vivits import small_clips, small_vivit

from tubelet.export.attention import ATTENTION_OPSET, Fusion, fuse_attention
from tubelet.export.onnx import OPSET
from tubelet.spec.manifest import Manifest

PARTS = ("query", "key", "value")


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, feeds)[0]
    return found


def exported(module: torch.nn.Module, *inputs: torch.Tensor | None) -> ir.Model:
    given = [value for value in inputs if value is not None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter tells its own developers
        program = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=list(PARTS[: len(given)]),
            dynamic_shapes=tuple(None if value is None else {0: torch.export.Dim("B")} for value in inputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model


def attentions(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "Attention"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("motion", Fusion(fused=3, left=0, most_heads=4)),
        ("motion_vtn", Fusion(fused=2, left=0, most_heads=12)),
        # 4 layers, each over time (17 places x 4 heads) and over space.
        ("motion_vidtr", Fusion(fused=8, left=0, most_heads=68)),
        # 2 layers that drop times keep both softmaxes of their scores, and fuse what comes after over space.
        ("motion_cvidtr", Fusion(fused=6, left=4, most_heads=64)),
    ],
)
def test_every_attention_of_the_demo_models_is_fused(
    demo_bundle: Callable[[str], Path], name: str, expected: Fusion
) -> None:
    graph = demo_bundle(name) / "encoder.onnx"
    contract = Manifest.load(graph.parent).contract
    model = ir.load(graph)
    assert fuse_attention(model) == expected
    assert model.opset_imports[""] == ATTENTION_OPSET
    assert len(attentions(model)) == expected.fused
    for batch in (1, 5):
        units = np.random.default_rng(batch).integers(0, 256, (batch, *contract.unit_shape), dtype=np.uint8)
        wanted = run(ir.load(graph), {"UNITS": units})
        np.testing.assert_allclose(run(model, {"UNITS": units}), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "fused"), [("model 1", 2), ("model 3, time first", 4), ("model 3, space first, gmp", 4), ("model 4", 4)]
)
def test_every_attention_of_vivits_other_models_is_fused(kind: str, fused: int) -> None:
    model = exported(small_vivit(kind), small_clips(2), None)
    clips = {"query": small_clips(3).numpy()}
    wanted = run(model, clips)
    found = fuse_attention(model)
    assert (found.fused, found.left) == (fused, 0)
    np.testing.assert_allclose(run(model, clips), wanted, rtol=0, atol=1e-6)


class Attend(torch.nn.Module):
    """Attention as torch has it, with something of its own about it."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.change = change

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        scale = 0.3 if self.change == "scale" else None
        if self.change in ("nothing", "scale"):
            return torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)
        scores = (query * 0.5) @ (key * 0.5).transpose(2, 3)
        if self.change == "mask":
            scores = scores + torch.arange(scores.shape[3]) / 10
        shares = scores.softmax(dim=2 if self.change == "other axis" else 3)
        mixed = shares @ value
        return mixed + shares.mean() if self.change == "shares used twice" else mixed


def parts(batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return [torch.randn(batch, 3, 5, 8, generator=generator) for _ in PARTS]


@pytest.mark.parametrize("change", ["nothing", "scale"])
def test_the_scale_is_kept(change: str) -> None:
    model = exported(Attend(change), *parts())
    assert fuse_attention(model).fused == 1
    (node,) = attentions(model)
    assert node.attributes.get_float("scale", 0.0) == pytest.approx(0.3 if change == "scale" else 8**-0.5, rel=1e-6)
    wanted = Attend(change)(*parts(4)).numpy()
    found = run(model, dict(zip(PARTS, (part.numpy() for part in parts(4)), strict=True)))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("change", ["mask", "other axis", "shares used twice"])
def test_what_is_not_quite_attention_is_left(change: str) -> None:
    model = exported(Attend(change), *parts())
    found = fuse_attention(model)
    assert (found.fused, found.left) == (0, 1)
    assert not attentions(model)
    given = dict(zip(PARTS, (part.numpy() for part in parts(4)), strict=True))
    np.testing.assert_allclose(run(model, given), Attend(change)(*parts(4)).numpy(), rtol=0, atol=1e-5)
