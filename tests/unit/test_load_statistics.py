"""Triton's own counts as differences: means, batches, failures of ensembles, restarts."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import model_config_pb2, service_pb2

from tubelet.loadtest.measured import StepFigures
from tubelet.loadtest.statistics import ServedStep, Tally, read_counts, steps_behind

STEP = ServedStep(name="demo_encoder", is_public=False, is_ensemble=False)
PUBLIC = ServedStep(name="demo", is_public=True, is_ensemble=True)


def statistics(
    name: str = "demo_encoder", *, requests: int, failures: int = 0, batches: dict[int, int] | None = None, ms: int = 1
) -> service_pb2.ModelStatistics:
    """A model that took ``ms`` of computing for each request, and 1, 2 and 3 ms for queue, input and output."""
    model = service_pb2.ModelStatistics(name=name, execution_count=sum((batches or {}).values()))
    times = {"queue": 1, "compute_input": 2, "compute_infer": ms, "compute_output": 3, "success": ms + 6}
    for key, each_ms in times.items():
        duration = getattr(model.inference_stats, key)
        duration.count, duration.ns = requests, requests * each_ms * 10**6
    model.inference_stats.fail.count = failures
    for size, number in (batches or {}).items():
        model.batch_stats.add(batch_size=size).compute_infer.count = number
    return model


def reading(*models: service_pb2.ModelStatistics) -> Any:
    return read_counts(service_pb2.ModelStatisticsResponse(model_stats=models))


def tally(*readings: Any) -> Tally:
    made = Tally()
    for one in readings:
        made.take(one)
    return made


def only(made: Tally, step: ServedStep = STEP) -> StepFigures:
    (figures,) = made.figures([step])
    return figures


def test_what_was_before_is_not_counted() -> None:
    before = reading(statistics(requests=7, batches={1: 7}, ms=1000))
    after = statistics(requests=11, batches={1: 8, 4: 2})
    after.inference_stats.compute_infer.ns = 7 * 10**9 + 4 * 5 * 10**6
    after.inference_stats.success.ns = 7 * 1006 * 10**6 + 4 * 11 * 10**6
    assert only(tally(before, reading(after))) == StepFigures(
        name="demo_encoder",
        is_public=False,
        requests=4,
        failures=0,
        executions=3,
        total_ms=11.0,
        queue_ms=1.0,
        input_ms=2.0,
        compute_ms=5.0,
        output_ms=3.0,
        batch_sizes={"1": 1, "4": 2},
    )


def test_readings_between_change_nothing() -> None:
    models = [statistics(requests=n, failures=n, batches={2: n}) for n in (3, 5, 5, 9)]
    through = tally(*map(reading, models))
    assert only(through) == only(tally(reading(models[0]), reading(models[-1])))
    assert through.restarts == 0


def test_a_model_without_requests_has_no_means() -> None:
    figures = only(tally(reading(statistics(requests=3)), reading(statistics(requests=3))))
    assert (figures.requests, figures.total_ms, figures.batch_sizes) == (0, 0.0, {})


def test_one_reading_says_nothing() -> None:
    assert tally(reading(statistics(requests=3))).figures([STEP]) == ()
    assert tally().figures([STEP]) == ()


def test_an_ensemble_counts_each_failure_twice() -> None:
    readings = [reading(statistics("demo", requests=0, failures=number)) for number in (2, 2 + 8)]
    assert only(tally(*readings), PUBLIC).failures == 4
    alone = ServedStep(name="demo", is_public=True, is_ensemble=False)
    assert only(tally(*readings), alone).failures == 8
    between = reading(statistics("demo", requests=0, failures=2 + 7))
    assert only(tally(readings[0], between), PUBLIC).failures == 4


def test_a_restart_adds_up_both_lives() -> None:
    lives = tally(
        reading(statistics(requests=100, batches={1: 100}, ms=1)),
        reading(statistics(requests=110, batches={1: 110}, ms=1)),
        reading(statistics(requests=4, batches={2: 2}, ms=8)),
        reading(statistics(requests=5, batches={2: 2, 1: 1}, ms=8)),
    )
    figures = only(lives)
    assert lives.restarts == 1
    assert (figures.requests, figures.executions, figures.batch_sizes) == (15, 13, {"1": 11, "2": 2})
    assert figures.compute_ms == (10 * 1 + 5 * 8) / 15


def test_a_restart_shows_in_any_count() -> None:
    """The requests of the new life may be more already."""
    lives = tally(
        reading(statistics(requests=2, failures=9)),
        reading(statistics(requests=2, failures=9)),
        reading(statistics(requests=6)),
    )
    assert (lives.restarts, only(lives).requests) == (1, 6)


def test_a_model_that_is_loaded_again_leaves_the_others_alone() -> None:
    other = ServedStep(name="other", is_public=False, is_ensemble=False)
    lives = tally(
        reading(statistics(requests=50), statistics("other", requests=1000)),
        reading(statistics("other", requests=1001)),
        reading(statistics(requests=2), statistics("other", requests=1003)),
    )
    assert lives.restarts == 1
    assert only(lives).requests == 2
    assert only(lives, other).requests == 3


def test_versions_of_a_model_count_together() -> None:
    counts = reading(statistics(requests=2, batches={4: 1}), statistics(requests=3, batches={4: 2, 8: 1}))
    assert counts["demo_encoder"]["requests"] == 5
    assert (counts["demo_encoder"][4], counts["demo_encoder"][8]) == (3, 1)


def ensemble(name: str, *steps: str) -> model_config_pb2.ModelConfig:
    config = model_config_pb2.ModelConfig(name=name, platform="ensemble")
    for step in steps:
        config.ensemble_scheduling.step.add(model_name=step)
    return config


def test_steps_stand_behind_their_public_name_each_once() -> None:
    configs = [
        ensemble("one", "one_sample", "one_encoder"),
        ensemble("together", "one_sample", "one_encoder", "two_sample", "combine"),
        model_config_pb2.ModelConfig(name="alone"),
    ]
    steps = steps_behind(configs)
    assert [step.name for step in steps] == [
        "one",
        "one_sample",
        "one_encoder",
        "together",
        "two_sample",
        "combine",
        "alone",
    ]
    assert [step.name for step in steps if step.is_public] == ["one", "together", "alone"]
    assert [step.name for step in steps if step.is_ensemble] == ["one", "together"]
