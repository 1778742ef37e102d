"""What every network offers to checkpoints, export and verification, whatever paper it comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

__all__ = ["TwoStageVideoNetwork", "VideoNetwork"]


class VideoNetwork(nn.Module, ABC):
    """A network that classifies clips. Subclasses set the numbers below in ``__init__``.

    A joint network sees whole clips; see `TwoStageVideoNetwork` for the others.
    """

    num_frames: int
    """T, frames of the clips that it was built for."""
    unit_frames: int
    """t, frames of a unit; T for a joint network."""
    crop_px: int
    """S, side of the frames."""
    num_classes: int
    """C, classes of all heads together."""

    @abstractmethod
    def forward(self, clips: Tensor, positions: Tensor | None = None) -> Tensor:
        """Classifies clips.

        Args:
            clips: float `[B, T, S, S, 3]`, normalised RGB.
            positions: int `[B, n]`, where in its video each unit stood; read where ``takes_positions`` is set.

        Returns:
            Logits `[B, C]`.
        """


class TwoStageVideoNetwork(VideoNetwork):
    """A network that encodes units one by one, and then looks at a clip's n units together."""

    feature_dim: int
    """D, width of a unit's features."""
    takes_positions: bool = False
    gives_attention: bool = False
    """Whether `attend` is there."""
    takes_any_length: bool = False
    """Whether n may differ from ``num_frames // unit_frames``."""

    @abstractmethod
    def encode(self, units: Tensor) -> Tensor:
        """Encodes units, each by itself: float `[U, t, S, S, 3]`, normalised RGB -> features `[U, D]`."""

    @abstractmethod
    def classify(self, features: Tensor, positions: Tensor | None = None) -> Tensor:
        """Looks at the units of each view together: float `[V, n, D]`, int `[V, n]` or None -> logits `[V, C]`."""

    def attend(self, features: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `classify`, and how much the answer looked at each unit: logits `[V, C]`, attention `[V, n]`."""
        raise NotImplementedError(f"{type(self).__name__} gives no attention")

    def forward(self, clips: Tensor, positions: Tensor | None = None) -> Tensor:
        """See `VideoNetwork.forward`."""
        batch, n = clips.shape[0], clips.shape[1] // self.unit_frames
        units = clips.reshape(batch * n, self.unit_frames, *clips.shape[2:])  # [B*n, t, S, S, 3]
        return self.classify(self.encode(units).view(batch, n, -1), positions)
