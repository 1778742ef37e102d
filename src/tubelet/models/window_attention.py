"""Sliding-window attention, in memory that grows linearly with the frames (docs/adr/0009-window-attention.md)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["CHUNK_FRAMES", "window_attention"]

CHUNK_FRAMES = 16
"""Frames of a chunk, unless the window reaches further; measured in ``benchmarks/window_attention.py``."""


def window_attention(query: Tensor, key: Tensor, value: Tensor, *, reach: int) -> Tensor:
    """Each frame attends to the frames at most ``reach`` away, to both sides, and to the class token.

    Frames are cut into chunks. The keys of a chunk are the class token, the end of the chunk before, its own frames,
    and the start of the chunk after; a mask leaves the band of them.

    Args:
        query: float `[V, n, H, D/H]`, of the frames.
        key: float `[V, 1+n, H, D/H]`, of the class token and the frames.
        value: likewise.
        reach: r, in frames.

    Returns:
        `[V, n, H, D/H]`.
    """
    n, chunk, device = query.shape[1], max(reach, CHUNK_FRAMES), query.device
    # One chunk to spare: torch.export would take a number of chunks that can be 1 for a constant.
    starts = torch.arange((n - 1) // chunk + 2, device=device) * chunk  # [m]
    own = torch.arange(chunk, device=device)  # [c], counted from the start of a chunk
    around = torch.arange(-reach - 1, chunk + reach, device=device)  # [1+c+2r], the first for the class token
    is_class_token = (around == -reach - 1)[:, None]
    frames = starts + around[:, None]  # [1+c+2r, m]
    is_frame = ((frames >= 0) & (frames < n)).T[:, None]  # [m, 1, 1+c+2r]
    is_near = (around - own[:, None]).abs() <= reach  # [c, 1+c+2r]
    is_seen = is_class_token[:, 0] | (is_near & is_frame)  # [m, c, 1+c+2r]

    # Rows that are no frame's repeat another one; the mask and the last line leave them out.
    rows = torch.where(is_class_token, 0, (frames + 1).clamp(0, n))
    queries = _take(query, (starts + own[:, None]).clamp(max=n - 1))  # [V, H, m, c, D/H]
    keys, values = _take(key, rows), _take(value, rows)  # [V, H, m, 1+c+2r, D/H]
    scores: Tensor = queries @ keys.transpose(3, 4) * query.shape[3] ** -0.5  # [V, H, m, c, 1+c+2r]
    mixed = scores.masked_fill(~is_seen, float("-inf")).softmax(dim=4) @ values
    return mixed.permute(0, 2, 3, 1, 4).flatten(1, 2).index_select(1, torch.arange(n, device=device))


def _take(tokens: Tensor, rows: Tensor) -> Tensor:
    """Gathers by chunk: `[V, N, H, D/H]`, int `[k, m]` -> `[V, H, m, k, D/H]`."""
    taken = tokens.index_select(1, rows.flatten())
    return taken.view(tokens.shape[0], *rows.shape, *tokens.shape[2:]).permute(0, 3, 2, 1, 4)
