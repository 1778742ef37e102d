"""The tensors of an official file to the state dict of one of our networks, and back.

A format is a table: which of its tensors make which of ours. The table is read in both directions, and whatever it does
not account for is an error: nothing is left at its random start, nothing is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tubelet.spec.errors import RecipeError

__all__ = ["Layout", "Parameters", "Row", "fill", "from_state", "listed", "num_blocks", "shape_of", "to_state"]

Parameters = Mapping[str, Tensor]
"""Tensors of a file by the names that the file gives them."""

Layout = Literal["same", "flat", "in_first", "out_last", "conv3d", "conv2d"]
_LAYOUTS: dict[Layout, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, tuple[int, ...]], Tensor]]] = {
    "same": (lambda leaf: leaf, lambda tensor, shape: tensor),
    # (H, D/H) -> (D), head-major
    "flat": (lambda leaf: leaf.reshape(-1), lambda tensor, shape: tensor.reshape(shape)),
    # Flax multiplies from the right: (in, out...) -> (out, in)
    "in_first": (lambda leaf: leaf.flatten(1).T, lambda tensor, shape: tensor.T.reshape(shape)),
    # (in..., out) -> (out, in)
    "out_last": (lambda leaf: leaf.flatten(0, -2).T, lambda tensor, shape: tensor.T.reshape(shape)),
    # (t, h, w, in, out) -> (out, in, t, h, w)
    "conv3d": (lambda leaf: leaf.permute(4, 3, 0, 1, 2), lambda tensor, shape: tensor.permute(2, 3, 4, 1, 0)),
    # (h, w, in, out) -> (out, in, h, w)
    "conv2d": (lambda leaf: leaf.permute(3, 2, 0, 1), lambda tensor, shape: tensor.permute(2, 3, 1, 0)),
}
"""How a leaf of a file becomes a tensor of ours, and how that tensor becomes a leaf of the given shape."""


@dataclass(frozen=True, slots=True)
class Row:
    """Which leaves of a file make which tensor of ours; several leaves are stacked along the tensor's first axis."""

    tensor: str
    leaves: tuple[str, ...]
    shape: tuple[int, ...] | None = None
    """Of each leaf; None: the tensor's own, its first axis divided among the leaves."""
    layout: Layout = "same"


def fill(network: nn.Module, parameters: Parameters, rows: Sequence[Row], *, what: str) -> None:
    """Replaces every tensor of a network (which may be on the meta device) by those of a file, in float32.

    Args:
        network: whose state dict's names the rows use.
        parameters: the file's tensors; all of them must be accounted for.
        rows: one for each tensor of the state dict.
        what: how to call the network in messages, for example ``"a factorised encoder"``.

    Raises:
        RecipeError: ``bad_checkpoint``, naming the tensors that are missing, unknown or of another shape.
    """
    network.load_state_dict(to_state(network.state_dict(), parameters, rows, what=what), assign=True)


def to_state(
    state: Mapping[str, Tensor], parameters: Parameters, rows: Sequence[Row], *, what: str
) -> dict[str, Tensor]:
    """The state dict that `fill` loads; ``state`` gives names and shapes, its values are not read.

    Raises:
        RecipeError: as `fill`.
    """
    expected = {leaf: shape for row in rows for leaf, shape in zip(row.leaves, _leaf_shapes(row, state), strict=True)}
    _check(parameters, expected, what)
    _check_kinds(parameters, rows, state)
    found = {}
    for row in rows:
        convert = _LAYOUTS[row.layout][0]
        # A kind that is no float (a counter of batch norm) keeps it.
        leaves = [
            parameters[leaf].float() if parameters[leaf].is_floating_point() else parameters[leaf]
            for leaf in row.leaves
        ]
        found[row.tensor] = (
            torch.cat([convert(leaf) for leaf in leaves]) if len(leaves) > 1 else convert(leaves[0])
        ).contiguous()
    return found


def from_state(state: Mapping[str, Tensor], rows: Iterable[Row]) -> dict[str, Tensor]:
    """The way back: the leaves of a file from a state dict of ours, contiguous and float32."""
    leaves = {}
    for row in rows:
        tensor = state[row.tensor].detach().cpu().float()
        parts = tensor.chunk(len(row.leaves)) if len(row.leaves) > 1 else (tensor,)
        for leaf, part, shape in zip(row.leaves, parts, _leaf_shapes(row, state), strict=True):
            leaves[leaf] = _LAYOUTS[row.layout][1](part, shape).contiguous()
    return leaves


def shape_of(parameters: Parameters, name: str, rank: int, *, what: str) -> tuple[int, ...]:
    """The shape of a tensor from which sizes are read.

    Raises:
        RecipeError: ``bad_checkpoint``: it is not there, has another number of axes, or an empty one.
    """
    if name not in parameters:
        separator = "/" if "/" in name else "."
        found = list(dict.fromkeys(key.partition(separator)[0] for key in parameters))
        raise RecipeError("bad_checkpoint", f"{what} has {name}; this checkpoint has only {listed(found)} at its top")
    shape = tuple(parameters[name].shape)
    if len(shape) != rank or 0 in shape:
        raise RecipeError("bad_checkpoint", f"{name} must have {rank} axes, none of them empty, got shape {shape}")
    return shape


def num_blocks(parameters: Parameters, prefix: str) -> int:
    """How many different numbers follow ``prefix`` in the names of a file: ``encoder.layer.`` -> 12."""
    ends = (name.removeprefix(prefix) for name in parameters if name.startswith(prefix))
    return len({end.replace("/", ".").partition(".")[0] for end in ends})


def listed(names: Sequence[str]) -> str:
    """The first few of many names."""
    shown = ", ".join(names[:3]) or "nothing"
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _leaf_shapes(row: Row, state: Mapping[str, Tensor]) -> list[tuple[int, ...]]:
    if row.shape is not None:
        return [row.shape] * len(row.leaves)
    first, *others = state[row.tensor].shape or (None,)
    if first is None:
        return [()]
    return [(first // len(row.leaves), *others)] * len(row.leaves)


def _check(parameters: Parameters, expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    if missing := [name for name in expected if name not in parameters]:
        raise RecipeError("bad_checkpoint", f"the checkpoint lacks {listed(missing)}")
    if unknown := [name for name in parameters if name not in expected]:
        raise RecipeError("bad_checkpoint", f"{what} has no {listed(unknown)}; is it another variant?")
    for name, shape in expected.items():
        if tuple(parameters[name].shape) != shape:
            raise RecipeError("bad_checkpoint", f"{name} must have shape {shape}, got {tuple(parameters[name].shape)}")
        if parameters[name].is_floating_point() and not bool(torch.isfinite(parameters[name].float()).all()):
            raise RecipeError("bad_checkpoint", f"{name} holds numbers that are not finite")


def _check_kinds(parameters: Parameters, rows: Iterable[Row], state: Mapping[str, Tensor]) -> None:
    for row in rows:
        for leaf in row.leaves:
            if parameters[leaf].is_floating_point() != state[row.tensor].is_floating_point():
                raise RecipeError("bad_checkpoint", f"{leaf} holds numbers of another kind, {parameters[leaf].dtype}")
