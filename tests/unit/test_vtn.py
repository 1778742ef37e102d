"""VTN as a network: sizes of the paper, its two stages, its backbones, its attention, and its graphs."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from vtns import PLAIN, RESNET, SIZES, VIT, frames, small_vtn, views

from tubelet.export.onnx import OPSET
from tubelet.models.longformer import LongformerSizes
from tubelet.models.resnet import FrozenBatchNorm, ResnetImage, ResnetImageSizes
from tubelet.models.vit_image import VitImage, VitImageSizes
from tubelet.models.vtn import Vtn, VtnSizes
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.strict import decode, encode

LIMIT = BUDGETS["engine-fp32/torch-fp32"].max_abs_logit or 0.0

VIT_B = VitImageSizes(
    kind="vit", patch_px=16, width=768, num_layers=12, num_heads=12, mlp_width=3072, is_distilled=False
)
DEIT_TI = replace(VIT_B, width=192, num_heads=3, mlp_width=768)
RESNET_50 = ResnetImageSizes(kind="resnet", stem_width=64, widths=(64, 128, 256, 512), num_blocks=(3, 4, 6, 3))
RESNET_101 = replace(RESNET_50, num_blocks=(3, 4, 23, 3))


def published(
    backbone: VitImageSizes | ResnetImageSizes, *, num_heads: int, mlp_width: int, num_layers: int = 3
) -> VtnSizes:
    """As in the paper's table 6; Kinetics-400."""
    return VtnSizes(
        num_frames=16,
        crop_px=224,
        backbone=backbone,
        temporal=LongformerSizes(
            num_heads=num_heads,
            mlp_width=mlp_width,
            attention_window=(18,) * num_layers,
            positions="learned",
            max_positions=288,
        ),
        head_width=backbone.width,
        num_classes=400,
    )


VIT_B_VTN = published(VIT_B, num_heads=12, mlp_width=3072)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(sizes: VtnSizes) -> Vtn:
    with torch.device("meta"):
        return Vtn(sizes)


@pytest.mark.parametrize(("num_layers", "expected"), [(3, 113_502_352), (1, 95_783_056)])
def test_has_the_parameters_of_the_released_size(num_layers: int, expected: int) -> None:
    model = on_meta(published(VIT_B, num_heads=12, mlp_width=3072, num_layers=num_layers))
    assert count(model) == expected
    assert [count(part) for part in (model.backbone, model.temporal.layers[0], model.head)] == [
        *(85_798_656, 8_859_648, 899_728)
    ]


@pytest.mark.parametrize(
    ("sizes", "millions"),
    [
        (published(VIT_B, num_heads=12, mlp_width=3072), 114),
        (published(replace(VIT_B, is_distilled=True), num_heads=12, mlp_width=3072), 114),
        (published(RESNET_50, num_heads=16, mlp_width=4096), 168),
        (published(RESNET_101, num_heads=16, mlp_width=4096), 187),
        (published(DEIT_TI, num_heads=3, mlp_width=3072), 10),
    ],
    ids=["ViT-B", "DeiT-B-distilled", "R50", "R101", "DeiT-Ti"],
)
def test_has_about_the_parameters_of_the_paper(sizes: VtnSizes, millions: int) -> None:
    assert round(count(on_meta(sizes)) / 1e6) == millions


def test_resnets_have_the_parameters_of_torchvision() -> None:
    without_classifier = 2048 * 1000 + 1000
    for sizes, expected in ((RESNET_50, 25_557_032), (RESNET_101, 44_549_160)):
        with torch.device("meta"):
            assert count(ResnetImage(sizes)) == expected - without_classifier


@pytest.mark.parametrize("kind", SIZES)
def test_sizes_survive_the_way_through_a_file(kind: str) -> None:
    assert decode(VtnSizes, encode(SIZES[kind]), where="sizes") == SIZES[kind]


@pytest.mark.parametrize("kind", SIZES)
def test_two_stages_over_shared_frames_give_what_whole_clips_give(kind: str) -> None:
    model, video = small_vtn(kind), frames(20)
    windows = torch.arange(8)[:, None] + torch.arange(13)
    with torch.inference_mode():
        shared = model.classify(model.encode(video)[windows], windows)
        whole = model(video[:, 0][windows], windows)
    torch.testing.assert_close(shared, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", SIZES)
def test_attention_is_that_of_the_last_layer(kind: str) -> None:
    model = small_vtn(kind)
    features, positions = views(21, width=model.feature_dim)
    with torch.inference_mode():
        logits, attention = model.attend(features, positions)
        states = model.states(features, positions)
        assert torch.equal(logits, model.classify(features, positions))
        torch.testing.assert_close(logits, model.head(states.hidden[:, -1, 0]), rtol=0, atol=1e-5)
    last = states.class_attention[:, -1]
    torch.testing.assert_close(attention, last.mean(dim=1)[:, 1:])
    torch.testing.assert_close(attention.sum(dim=1), 1 - last.mean(dim=1)[:, 0])
    num_layers = len(model.sizes.temporal.attention_window)
    assert states.embedding.shape == (2, 22, model.feature_dim)
    assert states.hidden.shape == (2, num_layers, 22, model.feature_dim)
    assert states.class_attention.shape == (2, num_layers, model.sizes.temporal.num_heads, 22)


def test_order_of_frames_matters_by_their_positions() -> None:
    model = small_vtn("vit")
    features, positions = views(12)
    with torch.inference_mode():
        logits = model.classify(features, positions)
        assert (model.classify(features.flip(1), positions) - logits).abs().max() > 0.01
        assert (model.classify(features, positions + 1) - logits).abs().max() > 0.01


def test_activations_and_epsilons_are_those_of_the_released_code() -> None:
    model = on_meta(VIT_B_VTN)
    assert {module.approximate for module in model.modules() if isinstance(module, nn.GELU)} == {"none"}
    epsilons = {
        part: {module.eps for module in model.get_submodule(part).modules() if isinstance(module, nn.LayerNorm)}
        for part in ("backbone", "temporal", "head")
    }
    assert epsilons == {"backbone": {1e-6}, "temporal": {1e-12}, "head": {1e-5}}


def test_dropout_is_silent_in_eval_mode_and_only_there() -> None:
    torch.manual_seed(0)
    model = Vtn(PLAIN, dropout=0.5)
    features, positions = views(9)
    with torch.no_grad():
        model.eval()
        first = model.classify(features, positions)
        assert torch.equal(model.classify(features, positions), first)
        model.train()
        assert not torch.equal(model.classify(features, positions), model.classify(features, positions))
        assert torch.equal(model.encode(frames()), model.encode(frames()))


@pytest.mark.parametrize("kind", SIZES)
def test_a_fresh_model_has_no_uninitialised_numbers(kind: str) -> None:
    for name, parameter in Vtn(SIZES[kind]).named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.abs().max() <= 6, name


def test_a_distilled_backbone_gives_the_mean_of_both_tokens() -> None:
    sizes = replace(VIT, is_distilled=True)
    torch.manual_seed(0)
    backbone = VitImage(sizes, crop_px=24).eval()
    assert backbone.distillation_token is not None
    nn.init.normal_(backbone.distillation_token)
    nn.init.normal_(backbone.norm.weight)
    kept: list[Tensor] = []
    backbone.blocks[-1].register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    with torch.inference_mode():
        features = backbone(frames()[:, 0])
        normalised = backbone.norm(kept[0])
    assert normalised.shape[1] == 2 + 9
    torch.testing.assert_close(features, (normalised[:, 0] + normalised[:, 1]) / 2)


def test_a_frame_that_is_no_multiple_of_a_patch_loses_its_edge() -> None:
    backbone = VitImage(VIT, crop_px=26).eval()
    picture = torch.randn(1, 26, 26, 3)
    cut = picture.clone()
    cut[:, 24:], cut[:, :, 24:] = 0, 0
    with torch.inference_mode():
        assert torch.equal(backbone(picture), backbone(cut))


def test_batch_norm_is_that_of_inference_also_in_training() -> None:
    torch.manual_seed(0)
    reference, ours = nn.BatchNorm2d(5), FrozenBatchNorm(5)
    for name, tensor in ours.state_dict().items():
        reference.state_dict()[name].copy_(tensor.uniform_(0.5, 2))
    maps = torch.randn(3, 5, 4, 4)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    torch.testing.assert_close(ours.train()(maps), reference.eval()(maps))
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())


def test_a_block_strides_in_its_3x3_convolution() -> None:
    backbone = ResnetImage(RESNET)
    strides = {
        name: module.stride[0]
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d) and module.stride[0] > 1
    }
    assert strides == {
        "conv1": 2,
        **{f"stages.{i}.0.{name}": 2 for i in (1, 2) for name in ("conv2", "downsample.0")},
    }


def test_a_resnet_is_the_sum_of_its_parts() -> None:
    """One block against the same arithmetic written out."""
    backbone: Any = small_vtn("resnet, no positions").backbone
    block = backbone.stages[1][0]
    maps = torch.randn(2, 12, 6, 6)

    def norm(name: str, maps: Tensor) -> Tensor:
        layer = block.get_submodule(name)
        scale = layer.weight / (layer.running_var + 1e-5).sqrt()
        normalised: Tensor = (maps - layer.running_mean[:, None, None]) * scale[:, None, None]
        return normalised + layer.bias[:, None, None]

    with torch.inference_mode():
        inner = norm("bn1", functional.conv2d(maps, block.conv1.weight)).relu()
        inner = norm("bn2", functional.conv2d(inner, block.conv2.weight, stride=2, padding=1)).relu()
        inner = norm("bn3", functional.conv2d(inner, block.conv3.weight))
        shortcut = norm("downsample.1", functional.conv2d(maps, block.downsample[0].weight, stride=2))
        torch.testing.assert_close(block(maps), (inner + shortcut).relu())


def test_heads_must_divide_the_width() -> None:
    for sizes in (
        replace(PLAIN, backbone=replace(VIT, num_heads=5)),
        replace(PLAIN, temporal=replace(PLAIN.temporal, num_heads=7)),
    ):
        with pytest.raises(ValueError, match="multiple"):
            Vtn(sizes)


def test_stages_without_blocks_are_refused() -> None:
    for other in ({"widths": ()}, {"num_blocks": (1, 2)}, {"num_blocks": (1, 0, 2)}):
        with pytest.raises(ValueError, match="at least one block"):
            replace(RESNET, **other)


class Call(nn.Module):
    def __init__(self, model: Vtn, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def session_of(
    model: Vtn, function: Callable[..., Any], inputs: dict[str, Tensor], axes: tuple[dict[int, str], ...]
) -> onnxruntime.InferenceSession:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter tells its own developers
        program = torch.onnx.export(
            Call(model, function),
            tuple(inputs.values()),
            input_names=list(inputs),
            # torch.export takes the variable number of inputs as one tuple
            dynamic_shapes=(tuple({axis: torch.export.Dim(name) for axis, name in part.items()} for part in axes),),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    kinds = {node.op_type for node in program.model.graph}
    assert not kinds & {"If", "Loop", "Scan", "NonZero"}, "a graph whose shape depends on numbers"
    return onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kind", ["vit_distilled, sinusoidal", "resnet, no positions"])
def test_onnx_runtime_encodes_any_number_of_frames(kind: str) -> None:
    model = small_vtn(kind)
    session = session_of(model, model.encode, {"UNITS": frames(2)}, ({0: "u"},))
    for batch in (1, 5):
        units = frames(batch, seed=batch)
        with torch.inference_mode():
            wanted = model.encode(units).numpy()
        np.testing.assert_allclose(session.run(None, {"UNITS": units.numpy()})[0], wanted, rtol=0, atol=LIMIT)


@pytest.mark.parametrize(
    ("kind", "example"),
    [("vit", 2), ("vit, one layer", 40), ("vit_distilled, sinusoidal", 40), ("resnet, no positions", 40)],
)
def test_one_graph_attends_to_clips_of_any_length(kind: str, example: int) -> None:
    """Whatever length the exporter saw."""
    model = small_vtn(kind)
    features, positions = views(example, width=model.feature_dim)
    axes = ({0: "V", 1: "n"}, {0: "V", 1: "n"})
    session = session_of(model, model.attend, {"FEATURES": features, "POSITIONS": positions.int()}, axes)
    for batch in (1, 5):
        for n in (1, 2, 13, 16, 17, 64, 250):
            features, positions = views(n, width=model.feature_dim, batch=batch, seed=n)
            with torch.inference_mode():
                wanted = model.attend(features, positions)
            found = session.run(None, {"FEATURES": features.numpy(), "POSITIONS": positions.int().numpy()})
            for part, limit in zip(range(2), (LIMIT, 1e-5), strict=True):
                message = f"batch {batch}, {n} frames"
                np.testing.assert_allclose(found[part], wanted[part], rtol=0, atol=limit, err_msg=message)
