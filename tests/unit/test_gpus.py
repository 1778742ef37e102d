"""Cards and queues from the text of Triton's metrics page."""

from __future__ import annotations

import pytest

from tubelet.loadtest.gpus import GpuTally, Page, read_page
from tubelet.loadtest.measured import GpuFigures

HEAD = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="motion_units",version="1"} 5
# HELP nv_inference_pending_request_count Instantaneous number of pending requests awaiting execution per-model.
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="motion",version="1"} 40
nv_inference_pending_request_count{model="motion_units",version="1"} 3
nv_inference_pending_request_count{model="motion_encoder",version="1"} 4
nv_inference_pending_request_count{model="motion_encoder",version="2"} 1
nv_inference_pending_request_count{model="other_encoder",version="1"} 100
# HELP nv_inference_queue_summary_us Summary of inference queuing duration in microseconds (includes cached requests)
# TYPE nv_inference_queue_summary_us summary
nv_inference_queue_summary_us{model="motion_units",version="1",quantile="0.99"} 77
"""
A, B = "GPU-3f9d1f5e-0d3a-1e57-9c1c-6a2f8e0b7c11", "GPU-b1e2c3d4-5566-7788-99aa-bbccddeeff00"


def cards(*lines: tuple[str, float, float, float | None]) -> str:
    """The page of a machine with cards: uuid, utilisation, bytes, watts (None: the card does not tell)."""
    text = HEAD
    names = ("nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage")
    for i, name in enumerate(names, start=1):
        text += f"# HELP {name} as it says\n# TYPE {name} gauge\n"
        text += "".join(f'{name}{{gpu_uuid="{line[0]}"}} {line[i]}\n' for line in lines if line[i] is not None)
        text += f'nv_gpu_memory_total_bytes{{gpu_uuid="{lines[0][0]}"}} 85899345920.000000\n' if i == 2 else ""
    return text


def figures(*texts: str) -> tuple[GpuFigures, ...]:
    tally = GpuTally()
    for text in texts:
        tally.take(read_page(text))
    return tally.figures


def test_what_waits_is_summed_over_the_steps_that_are_asked_about() -> None:
    page = read_page(HEAD)
    assert page.queued(["motion_units", "motion_encoder"]) == 8
    assert page.queued(["motion_units", "not_served"]) == 3


@pytest.mark.parametrize("text", ["", "<html>welcome</html>", HEAD.replace("pending", "other")])
def test_a_page_that_says_nothing_of_it_is_no_empty_queue(text: str) -> None:
    assert read_page(text).queued(["motion_units"]) == -1


def test_a_machine_without_a_card() -> None:
    assert read_page(HEAD).gpus == {}
    assert figures(HEAD, HEAD) == ()


def test_each_card_has_its_own_figures() -> None:
    found = figures(
        cards((B, 0.0, 2**30, 60.5), (A, 0.5, 3 * 2**30, 300.0)),
        cards((B, 0.2, 2**29, 61.5), (A, 1.0, 5 * 2**30, 400.0)),
        cards((B, 0.1, 2**30, 62.5), (A, 0.9, 4 * 2**30, 350.0)),
    )
    assert [gpu.uuid for gpu in found] == [A, B]
    assert found[0].utilisation == pytest.approx(0.8)
    assert (found[0].first_mib, found[0].most_mib, found[0].power_w) == (3072, 5120, 350)
    assert found[1].utilisation == pytest.approx(0.1)
    assert (found[1].first_mib, found[1].most_mib, found[1].power_w) == (1024, 1024, 61.5)


def test_a_card_that_does_not_tell_its_power() -> None:
    (gpu,) = figures(cards((A, 0.25, 2**20, None)), cards((A, 0.75, 2**20, None)))
    assert (gpu.utilisation, gpu.power_w) == (0.5, 0.0)


def test_numbers_as_triton_writes_them() -> None:
    page = read_page(f'nv_gpu_memory_used_bytes{{gpu_uuid="{A}"}} 1.23e+10\nnv_gpu_utilization{{gpu_uuid="{A}"}} 0\n')
    assert page == Page(pending={}, gpus={A: {"nv_gpu_memory_used_bytes": 1.23e10, "nv_gpu_utilization": 0.0}})


def test_a_broken_page_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        read_page('nv_gpu_utilization{gpu_uuid="GPU-1"} much\n')
