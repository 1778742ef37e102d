"""Every kind of ViViT as an ONNX graph: opset 20, batch dynamic, numbers equal to torch's by the budget."""

import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from vivits import small_clips, small_vivit

from tubelet.export.onnx import OPSET
from tubelet.spec.budgets import BUDGETS


@pytest.mark.parametrize(
    "kind",
    [
        "model 1, uniform frames",
        "model 1, gsp, representation",
        "model 2, gmp, representation",
        "average pool",
        "model 3, time first",
        "model 3, space first, gmp",
        "model 4",
    ],
)
def test_onnx_runtime_computes_the_same_at_any_batch(kind: str) -> None:
    model = small_vivit(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter tells its own developers
        program = torch.onnx.export(
            model,
            (small_clips(2), None),
            input_names=["CLIPS"],
            dynamic_shapes=({0: torch.export.Dim("B")}, None),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    limit = BUDGETS["engine-fp32/torch-fp32"].max_abs_logit
    assert limit is not None
    for batch in (1, 5):
        clips = small_clips(batch, seed=batch)
        with torch.inference_mode():
            wanted = model(clips).numpy()
        (found,) = session.run(None, {"CLIPS": clips.numpy()})
        np.testing.assert_allclose(found, wanted, rtol=0, atol=limit, err_msg=f"batch {batch}")
