"""The graphs of a bundle's steps, as torch modules, on a card against the processor: tiny networks of every kind."""

from __future__ import annotations

import gpu_correctness
import gpu_pipeline
import pytest
import torch
from gpu_lowering import lower
from gpu_networks import CASES, FAMILIES, contract_for, random_network
from gpu_section import Section
from gpu_speed import Plan, measure_case

pytestmark = pytest.mark.needs_gpu


@pytest.fixture(scope="module")
def card() -> torch.device:
    gpu_pipeline.full_precision()
    return torch.device("cuda")


@pytest.mark.parametrize("name", FAMILIES)
def test_card_computes_what_the_processor_computes(name: str, card: torch.device) -> None:
    findings = gpu_correctness.check_network(name, card, tiny=True)
    assert not [finding.to_json() for finding in findings if not finding.ok]


def test_batch_that_is_divided_gives_the_same_logits(card: torch.device) -> None:
    name, views = "vivit_b_16x2_fe_k400", CASES[0].views[0]
    network = random_network(name, tiny=True, device=card)
    contract = contract_for(name, network)
    encoder = lower(network, contract.normalisation, "fp32", rewritten=False)
    pipeline = gpu_pipeline.Pipeline(encoder, network, contract, views)
    units = gpu_pipeline.random_units(contract, views.num_units(network), card)
    with torch.inference_mode():
        whole = pipeline(units)
        pipeline.chunk = 7
        torch.testing.assert_close(pipeline(units), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cuda_graph_gives_the_logits_of_eager_calls(case, card: torch.device, tmp_path) -> None:
    section = Section(device=card, tiny=True, seconds=60, part=tmp_path / "part.json")
    plans = [Plan(views, "bf16", way) for views in case.views for way in ("rewritten", "cuda_graph")]
    measure_case(section, case, plans)
    runs = section.found["runs"]
    assert [run.get("failed") for run in runs] == [None] * len(plans)
    assert all(run["cosine_with_fp32"] > 0.999 for run in runs)
