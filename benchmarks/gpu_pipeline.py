"""From units on the card to averaged logits, in the ways that PyTorch has, and how long it takes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from gpu_networks import Views
from timing import spread
from torch import Tensor, nn

from tubelet.export.graphs import AttendViews, AverageUnits, AverageViews, ClassifyViews
from tubelet.models.network import TwoStageVideoNetwork, VideoNetwork
from tubelet.spec.manifest import Contract

__all__ = ["Pipeline", "as_cuda_graph", "compile_blocks", "full_precision", "random_units", "time_calls"]

LEAST_CALLS, MOST_CALLS = 5, 100


class Pipeline:
    """The steps behind UNITS, on one device: encoder, temporal stage (float32 always), average."""

    def __init__(
        self, encoder: Callable[[Tensor], Tensor], network: VideoNetwork, contract: Contract, views: Views
    ) -> None:
        self.encoder = encoder
        self.device = next(network.parameters()).device
        self.chunk = views.num_units(network)
        """Units in one run of the encoder."""
        n = views.units_per_clip(network)
        clip_units = np.arange(views.num_clips * n, dtype=np.int32).reshape(views.num_clips, n)
        self.clip_units = torch.from_numpy(clip_units).to(self.device)
        self.crops = torch.zeros(views.num_crops, 2, dtype=torch.int32, device=self.device)
        # A table of positions goes round, whatever its length.
        self.positions = (self.clip_units * network.unit_frames,) if contract.geometry.positions else ()
        self.temporal: nn.Module | None = None
        self.average: nn.Module = AverageUnits(contract)
        if isinstance(network, TwoStageVideoNetwork):
            self.temporal = AttendViews(network) if contract.geometry.attention else ClassifyViews(network)
            self.average = AverageViews(contract)

    def __call__(self, units: Tensor) -> Tensor:
        """UNITS uint8 `[U*R, t, S, S, 3]` -> LOGITS float32 `[C]`."""
        parts = [self.encoder(part) for part in units.split(self.chunk)]
        encoded = parts[0] if len(parts) == 1 else torch.cat(parts)
        # The graphs' modules make small index tensors of their own, where nothing says on which device.
        with self.device:
            if self.temporal is None:
                answer = self.average(encoded, self.clip_units, self.crops)
            else:
                views = self.temporal(encoded, self.clip_units, *self.positions, self.crops)
                answer = self.average(views[0] if isinstance(views, tuple) else views)
        logits: Tensor = answer[0]
        return logits

    def fit(self, units: Tensor) -> Tensor:
        """Runs once, with fewer units at a time where the card's memory is too small for all of them.

        Raises:
            torch.OutOfMemoryError: not even one unit fits.
        """
        while True:
            try:
                return self(units)
            except torch.OutOfMemoryError:
                if self.chunk == 1:
                    raise
                self.chunk = (self.chunk + 1) // 2
                torch.cuda.empty_cache()


def random_units(contract: Contract, num_units: int, device: torch.device) -> Tensor:
    """UNITS uint8 `[u, t, S, S, 3]`: noise, since numbers that are all alike run faster than pictures do."""
    generator = torch.Generator(device).manual_seed(1)
    shape = (num_units, *contract.unit_shape)
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=generator)


def full_precision() -> None:
    """float32 means float32: no TF32, in products and in convolutions."""
    torch.set_float32_matmul_precision("highest")
    with warnings.catch_warnings():
        # Some versions want another name for it, which others do not have.
        warnings.simplefilter("ignore")
        torch.backends.cudnn.allow_tf32 = False


def compile_blocks(encoder: nn.Module, *, autotuned: bool, on_cuda: bool) -> None:
    """Compiles each block of an encoder by `torch.compile`: all are alike, so the first one's code serves them all.

    A whole network would take many times as long, and save no more than the passes between two blocks.

    Args:
        encoder: with its blocks in a list of modules.
        autotuned: whether its matrix products are written anew, in many ways, of which the fastest is kept.
        on_cuda: else it is only traced.
    """
    mode = "max-autotune-no-cudagraphs" if autotuned else "default"
    # On a processor this is a check, which need not wait for a C++ compiler.
    options: dict[str, Any] = {"mode": mode} if on_cuda else {"backend": "eager"}
    for module in list(encoder.modules()):
        if isinstance(module, nn.ModuleList):
            for block in module:
                block.compile(dynamic=False, **options)


def as_cuda_graph(pipeline: Pipeline, units: Tensor) -> Callable[[], Tensor]:
    """One launch instead of hundreds: gives the call that replays all of it, on the ``units`` of the capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            pipeline(units)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = pipeline(units)

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay


def time_calls(call: Callable[[], object], device: torch.device, *, seconds: float) -> dict[str, Any]:
    """Milliseconds of a call that is made again and again, by CUDA events; by the clock on a processor.

    Calls follow each other without a pause. The first ones, a fifth of ``seconds``, do not count.

    Args:
        call: queues its work on the current stream.
        device: where it works.
        seconds: to measure for, more or less; a few calls are made in any case.
    """
    once = _warm_up(call, device, seconds=seconds / 5)
    count = max(LEAST_CALLS, min(MOST_CALLS, int(seconds / once))) if once < seconds else 1
    if device.type != "cuda":
        milliseconds = []
        for _ in range(count):
            began = time.perf_counter()
            call()
            milliseconds.append(1e3 * (time.perf_counter() - began))
        return spread(milliseconds)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    torch.cuda.synchronize()
    return spread([one.elapsed_time(other) for one, other in pairwise(marks)])


def _warm_up(call: Callable[[], object], device: torch.device, *, seconds: float) -> float:
    """Seconds of the last call."""
    began = time.perf_counter()
    while True:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if now - began > seconds:
            return now - start
