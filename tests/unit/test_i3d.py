"""I3D's network: its maps, its graph, its counts."""

from __future__ import annotations

import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tubelet.models.i3d import I3dSizes, SlowResnet, StageSizes

TINY = I3dSizes(
    num_frames=4,
    crop_px=18,
    stem_width=4,
    stem_kernel_frames=3,
    stages=(
        StageSizes(inner_width=2, outer_width=8, kernel_frames=((1, 1), (3, 1))),
        StageSizes(inner_width=3, outer_width=12, kernel_frames=((1, 3),)),
    ),
    num_classes=5,
)


def random_model(sizes: I3dSizes = TINY) -> SlowResnet:
    model = SlowResnet(sizes)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean = 0.3 * torch.randn(module.num_features, generator=generator)
            module.running_var = 0.5 + torch.rand(module.num_features, generator=generator)
    return model.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_sides_are_halved_and_time_is_kept() -> None:
    model = random_model()
    shapes = {}
    for name, module in {"stem": model.stem_pool, "first": model.stages[0], "second": model.stages[1]}.items():
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: shapes.update({name: tuple(output.shape)})
        )
    assert model(noise(2, 4, 18, 18, 3)).shape == (2, 5)
    assert shapes == {"stem": (2, 4, 4, 5, 5), "first": (2, 8, 4, 5, 5), "second": (2, 12, 4, 3, 3)}


@torch.inference_mode()
def test_only_inflated_networks_see_the_order_of_frames() -> None:
    clips = noise(1, 4, 18, 18, 3)
    flat = I3dSizes(
        num_frames=4,
        crop_px=18,
        stem_width=4,
        stem_kernel_frames=1,
        stages=(StageSizes(inner_width=2, outer_width=8, kernel_frames=((1, 1),)),),
        num_classes=5,
    )
    backwards = clips.flip(1)
    torch.testing.assert_close(random_model(flat)(clips), random_model(flat)(backwards))
    assert not torch.allclose(random_model()(clips), random_model()(backwards), atol=1e-4)


def test_batch_norm_uses_what_was_learned_and_learns_nothing() -> None:
    model = random_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one, both = noise(1, 4, 18, 18, 3), torch.cat([noise(1, 4, 18, 18, 3), torch.zeros(1, 4, 18, 18, 3)])
    torch.testing.assert_close(model(both)[:1], model(one), rtol=0, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_graph_computes_what_torch_computes() -> None:
    model = random_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter to its own developers
        program = torch.onnx.export(
            model,
            (noise(2, 4, 18, 18, 3),),
            input_names=["clips"],
            dynamic_shapes=({0: torch.export.Dim("B")},),
            opset_version=20,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for batch in (1, 5):
        clips = noise(batch, 4, 18, 18, 3)
        with torch.inference_mode():
            expected = model(clips).numpy()
        (found,) = session.run(None, {"clips": clips.numpy()})
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_eval_has_no_dropout_and_training_has() -> None:
    model = SlowResnet(TINY, dropout=0.5).eval()
    clips = noise(2, 4, 18, 18, 3)
    assert torch.equal(model(clips), model(clips))
    for module in model.modules():
        module.training = isinstance(module, nn.Dropout)
    assert not torch.equal(model(clips), model(clips))


@pytest.mark.parametrize("kernel_frames", [(), ((2, 1),), ((1, 1), (3, 4))])
def test_kernels_without_a_middle_frame_are_refused(kernel_frames: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="odd numbers of frames"):
        StageSizes(inner_width=2, outer_width=8, kernel_frames=kernel_frames)


def resnet(*num_blocks: int, num_classes: int = 400) -> I3dSizes:
    """The slow ResNet with these blocks: its last two stages look at three frames."""
    return I3dSizes(
        num_frames=8,
        crop_px=224,
        stem_width=64,
        stem_kernel_frames=1,
        stages=tuple(
            StageSizes(inner_width=64 * 2**i, outer_width=256 * 2**i, kernel_frames=((3 if i > 1 else 1, 1),) * count)
            for i, count in enumerate(num_blocks)
        ),
        num_classes=num_classes,
    )


def test_i3d50_has_the_published_parameters() -> None:
    with torch.device("meta"):
        model = SlowResnet(resnet(3, 4, 6, 3))
    assert sum(parameter.numel() for parameter in model.parameters()) == 32_454_096
