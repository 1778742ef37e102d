"""TensorRT plans for the benchmark: built for one shape, and run on tensors that lie on the card.

Importing this takes TensorRT. It was type-checked against TensorRT's own bindings, and has not been run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorrt as trt
import torch
from torch import Tensor

from tubelet.export.tensorrt_build import Log, build_plan, done, needed
from tubelet.spec.plan import BuildOptions, Profile, Shapes

__all__ = ["build_and_load"]


def build_and_load(
    graph: Path, units: Tensor, *, say: Callable[[str], None]
) -> tuple[Callable[[], object], dict[str, Any]]:
    """A call that runs the encoder's plan on ``units`` and waits for it; and what building it took.

    Args:
        graph: the encoder at its precision.
        units: uint8 `[u, t, S, S, 3]`, on the card.
        say: told how far the build is.
    """
    shape = tuple(units.shape)
    profile = Profile(name="measured", inputs={"UNITS": Shapes(least=shape, opt=shape, most=shape)})
    began = time.perf_counter()
    built = build_plan(graph, [profile], BuildOptions(), name="benchmark", timing_cache=b"", progress=say)
    found = {
        "build_s": round(time.perf_counter() - began, 1),
        "plan_mbytes": round(len(built.plan) / 1e6, 1),
        "fused_attentions": built.num_fused_attentions,
    }
    return _load(built.plan, units), found


def _load(plan: bytes, units: Tensor) -> Callable[[], object]:
    log = Log()
    runtime = trt.Runtime(log)
    engine = needed(runtime.deserialize_cuda_engine(plan), "load the plan", log)
    context = needed(engine.create_execution_context(), "run the plan", log)
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    output_name = next(name for name in names if name != "UNITS")
    done(context.set_input_shape("UNITS", tuple(units.shape)), "take the shape", log)
    output = torch.empty(tuple(context.get_tensor_shape(output_name)), device=units.device)
    done(context.set_tensor_address("UNITS", units.data_ptr()), "take the units", log)
    done(context.set_tensor_address(output_name, output.data_ptr()), "give the output", log)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()  # the units were made on another stream

    def call() -> object:
        done(context.execute_async_v3(stream.cuda_stream), "run", log)
        stream.synchronize()
        return output, runtime, engine  # which must outlive the context

    return call
