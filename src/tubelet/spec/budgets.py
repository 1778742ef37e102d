"""How far two computations of the same logits may be apart: one table, a reason for each row."""

from __future__ import annotations

from tubelet.spec.manifest import Budget

__all__ = ["BUDGETS"]

BUDGETS: dict[str, Budget] = {
    # Rounding of a float32 network moves logits of size 1 by about 1e-6; 1e-5 separates that from another model.
    "torch-fp32/golden": Budget(max_abs_logit=1e-5, min_cosine=0.9999999, min_top1_agreement=1.0),
    # Other kernels sum in another order, over up to 24 layers and 3137 tokens.
    "engine-fp32/torch-fp32": Budget(max_abs_logit=2e-4, min_cosine=0.999999, min_top1_agreement=1.0),
    # Eight or eleven bits of mantissa: the decision must hold, single logits may move.
    "engine-bf16/torch-fp32": Budget(max_abs_logit=None, min_cosine=0.999, min_top1_agreement=0.99),
    "engine-fp16/torch-fp32": Budget(max_abs_logit=None, min_cosine=0.999, min_top1_agreement=0.99),
    # Quantised weights and activations.
    "engine-int8/torch-fp32": Budget(max_abs_logit=None, min_cosine=0.99, min_top1_agreement=0.98),
    "engine-fp8/torch-fp32": Budget(max_abs_logit=None, min_cosine=0.99, min_top1_agreement=0.98),
    # Triton adds transport, not arithmetic: the same engine with the same batch gives the same bits.
    "triton/engine": Budget(max_abs_logit=0.0, min_cosine=1.0, min_top1_agreement=1.0),
}
"""``"what/against what"`` to the budget that must hold."""
