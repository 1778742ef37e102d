"""What may decode a video: one small protocol, behind which the processor stands and the card."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Protocol

from av.video.frame import VideoFrame

from tubelet.preprocess.container import Source, open_video
from tubelet.preprocess.decode import Reading, read_frames
from tubelet.preprocess.guard import Guard
from tubelet.preprocess.nvdec import open_nvdec
from tubelet.spec.errors import ContractError

__all__ = ["PYAV", "FrameDecoder", "open_decoder"]


class FrameDecoder(Protocol):
    """Opens videos and reads their frames: the same frames, numbers, limits and errors, whoever decodes."""

    def open(self, video: bytes, guard: Guard) -> AbstractContextManager[Source]:
        """Opens a video and reads its packets, as `tubelet.preprocess.container.open_video`."""

    def read_frames(
        self,
        source: Source,
        guard: Guard,
        *,
        wanted: Collection[int],
        take: Callable[[int, VideoFrame], None],
        restart: Callable[[], None],
    ) -> Reading:
        """Decodes what is wanted of a source that `open` gave, as `tubelet.preprocess.decode.read_frames`."""


class _PyavDecoder:
    """PyAV on the processor."""

    open = staticmethod(open_video)
    read_frames = staticmethod(read_frames)


PYAV: FrameDecoder = _PyavDecoder()
"""Decodes on the processor."""


def open_decoder(name: str) -> FrameDecoder:
    """The decoder of a process.

    Args:
        name: ``pyav`` or ``nvdec``, as a repository has it.

    Raises:
        MachineError: ``missing`` or ``start_failed``: the card cannot decode here.
        ContractError: there is no such decoder.
    """
    if name == "pyav":
        return PYAV
    if name == "nvdec":
        return open_nvdec()
    raise ContractError(
        "contract_mismatch", f"decoder pyav or nvdec is expected, got {name!r}; write the repository anew"
    )
