"""What counts as a sign that a model gets work done."""

import pytest

from tubelet.server.health import Patient, Probe, is_serving
from tubelet.spec.engine import Running
from tubelet.spec.repository import ServedModel

METRICS = """\
nv_inference_request_success{model="a",version="1"} 3
nv_inference_request_success{model="a_encoder",version="1"} 50
tubelet_units_encoded_total{model="a"} 40
nv_inference_request_success{model="both",version="1"} 2
nv_inference_request_success{model="b",version="1"} 1
"""


def served(name: str, *members: str, max_silence_s: float = 70.0) -> ServedModel:
    return ServedModel(
        name=name,
        contract_digest="sha256:0",
        entries=(name,),
        works_as=(name, *members),
        canary_protocol="1x1",
        shm_bytes=4096,
        max_silence_s=max_silence_s,
        running=Running(engine="openvino", precision="fp32", mode="latency"),
        verified=True,
    )


class Metrics:
    """A server that tells its metrics, and whose queues are full."""

    text = METRICS

    def __call__(self, method: str, path: str, *_: object, **__: object) -> tuple[int, bytes]:
        return (200, self.text.encode()) if path == "/metrics" else (503, b"Exceeds maximum queue size")


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Metrics:
    server = Metrics()
    monkeypatch.setattr(Probe, "_request", staticmethod(server))
    return server


@pytest.mark.parametrize(
    ("model", "progress"), [(served("a"), 43), (served("b"), 1), (served("both", "a", "b"), 46), (served("c"), 0)]
)
def test_work_is_counted_under_all_names_of_a_model(metrics: Metrics, model: ServedModel, progress: int) -> None:
    assert Probe("127.0.0.1", 8000, 8002).progress(model) == progress


def test_models_that_answer_together_are_busy_while_a_member_works(metrics: Metrics) -> None:
    """Its own requests are refused as long as a member's queue is full."""
    patient = Patient(Probe("127.0.0.1", 8000, 8002), served("both", "a", "b", max_silence_s=-1.0))
    for units in (40, 41, 42):
        metrics.text = METRICS.replace("} 40", f"}} {units}")
        patient.model = served("both", "a", "b")
        assert not patient.is_ill()
    patient.model = served("both", "a", "b", max_silence_s=-1.0)
    assert patient.is_ill(), "nothing has moved since"


@pytest.mark.parametrize(
    ("answer", "health"),
    [
        ((200, b"{}"), "well"),
        ((503, b'{"error":"[request id: <id_unknown>] Exceeds maximum queue size"}'), "busy"),
        ((503, b'{"error":"in ensemble \'a\', Request timeout expired"}'), "busy"),
        ((503, b'{"error":"in ensemble \'a\', overloaded: with the work that is before it"}'), "busy"),
        ((500, b'{"error":"in ensemble \'a\', internal: the encoder step failed"}'), "ill"),
    ],
)
def test_who_refuses_a_canary_is_busy(monkeypatch: pytest.MonkeyPatch, answer: tuple[int, bytes], health: str) -> None:
    monkeypatch.setattr(Probe, "_request", lambda *_, **__: answer)
    assert Probe("127.0.0.1", 8000).canary(served("a"), timeout_s=1.0) == health


@pytest.mark.parametrize(
    ("healths", "answers", "serves"),
    [
        (("well", "well"), False, True),
        (("well", "busy"), True, True),
        (("well", "busy"), False, False),
        (("busy", "ill"), True, False),
    ],
)
def test_busy_is_well_on_a_server_that_answers(
    monkeypatch: pytest.MonkeyPatch, healths: tuple[str, str], answers: bool, serves: bool
) -> None:
    said = dict(zip("ab", healths, strict=True))
    monkeypatch.setattr(Probe, "canary", lambda _self, model, **_: said[model.name])
    monkeypatch.setattr(Probe, "is_ready", lambda _self: answers)
    assert is_serving(Probe("127.0.0.1", 8000), [served("a"), served("b")], timeout_s=1.0) is serves
