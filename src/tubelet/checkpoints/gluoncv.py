"""I3D checkpoints of dmlc/gluon-cv's PyTorch models to `tubelet.models.i3d`, and back.

Source: ``gluoncv/torch/model_zoo/action_recognition/i3d_slow.py``; the file is a pickle of the tensors themselves.
"""

from __future__ import annotations

from pathlib import Path

import torch

from tubelet.checkpoints.mapping import Parameters, Row, fill, num_blocks, shape_of
from tubelet.checkpoints.pickles import first_bytes, read_pickle, state_dict_of, without_prefix
from tubelet.models.i3d import I3dSizes, SlowResnet, StageSizes
from tubelet.spec.errors import RecipeError
from tubelet.spec.network import I3dNetwork

__all__ = ["load", "rows"]

WHAT = "the slow ResNet I3D"

MXNET_START = (0x112).to_bytes(8, "little")
"""How MXNet's lists of arrays begin."""


def load(path: Path, network: I3dNetwork, *, num_frames: int, crop_px: int) -> SlowResnet:
    """Builds the network whose weights lie in a ``.pth`` of GluonCV, float32.

    Widths, depth and inflation are read from the shapes, so a ResNet-101, or one that looks at time elsewhere, works
    too.

    Args:
        path: the tensors by name, or a dictionary that has them at ``state_dict``.
        network: has no variants.
        num_frames: T, frames of a clip; the file does not say it, any number can be computed.
        crop_px: S, side of a frame; likewise.

    Raises:
        RecipeError: ``bad_checkpoint``: the file is broken, of MXNet, or holds another network.
    """
    _refuse_mxnet(path)
    parameters = without_prefix(state_dict_of(read_pickle(path), "state_dict"), "module.")
    sizes = _sizes(parameters, num_frames=num_frames, crop_px=crop_px)
    with torch.device("meta"):
        model = SlowResnet(sizes)
    fill(model, parameters, rows(model), what=WHAT)
    return model


def rows(model: SlowResnet) -> list[Row]:
    """Which tensors of GluonCV are which of ours."""
    return [Row(name, (_theirs(name),)) for name in model.state_dict()]


_MODULES = {
    "reduce": "conv1",
    "reduce_norm": "bn1",
    "look": "conv2",
    "look_norm": "bn2",
    "expand": "conv3",
    "expand_norm": "bn3",
    "shortcut": "downsample",
    "stem": "conv1",
    "stem_norm": "bn1",
    "head": "fc",
}


def _theirs(name: str) -> str:
    """``stages.0.1.look.weight`` -> ``layer1.1.conv2.weight``."""
    parts = name.split(".")
    if parts[0] != "stages":
        return ".".join([_MODULES[parts[0]], *parts[1:]])
    return ".".join([f"layer{int(parts[1]) + 1}", parts[2], _MODULES[parts[3]], *parts[4:]])


def _sizes(parameters: Parameters, *, num_frames: int, crop_px: int) -> I3dSizes:
    stem_width, _, stem_frames, _, _ = shape_of(parameters, "conv1.weight", 5, what=WHAT)
    try:
        return I3dSizes(
            num_frames=num_frames,
            crop_px=crop_px,
            stem_width=stem_width,
            stem_kernel_frames=stem_frames,
            stages=tuple(_stage(parameters, f"layer{i + 1}.") for i in range(num_blocks(parameters, "layer"))),
            num_classes=shape_of(parameters, "fc.weight", 2, what=WHAT)[0],
        )
    except ValueError as exc:
        raise RecipeError("bad_checkpoint", str(exc)) from exc


def _stage(parameters: Parameters, prefix: str) -> StageSizes:
    def frames(block: int, convolution: str) -> int:
        return shape_of(parameters, f"{prefix}{block}.{convolution}.weight", 5, what=WHAT)[2]

    outer_width, inner_width, *_ = shape_of(parameters, f"{prefix}0.conv3.weight", 5, what=WHAT)
    return StageSizes(
        inner_width=inner_width,
        outer_width=outer_width,
        kernel_frames=tuple(
            (frames(block, "conv1"), frames(block, "conv2")) for block in range(num_blocks(parameters, prefix))
        ),
    )


def _refuse_mxnet(path: Path) -> None:
    if first_bytes(path, len(MXNET_START)) == MXNET_START:
        raise RecipeError(
            "bad_checkpoint",
            f"{path.name} is a .params file of MXNet, whose names are documented nowhere. GluonCV has the same network "
            "for PyTorch: take its .pth, or load the weights into gluoncv.torch and save its state_dict",
        )
