"""What users of `tubelet.clients` have written their programs against: a change here is a change of theirs."""

import inspect
from dataclasses import fields

import pytest

import tubelet.clients
from tubelet.clients import AsyncVideoClassifier, Retries, Timeouts, Tls, VideoClassifier

NAMES = [
    "DEFAULT_URL",
    "AsyncVideoClassifier",
    "Classification",
    "Label",
    "ModelDescription",
    "Report",
    "Retries",
    "Timeouts",
    "Tls",
    "VideoClassifier",
]
SIGNATURES = {
    "__init__": "(self, url='127.0.0.1:8001', *, model=None, expect_digest=None, timeouts={timeouts}, "
    "retries={retries}, headers=None, tls=None, shared_memory=False)",
    "classify": "(self, source, *, model=None, protocol=None, top=5, start_s=None, end_s=None, deadline_s=None, "
    "fps=None, chunked=False, with_features=False, with_views=True, priority='interactive')",
    "classify_features": "(self, features, positions=None, *, model=None, deadline_s=None, top=5, "
    "priority='interactive')",
    "models": "(self)",
    "describe": "(self, model=None)",
    "close": "(self)",
}
FIELDS = {
    "Label": "name index probability",
    "Report": "protocol warnings duration_s contract_digest frames_decoded views units_wanted units_encoded "
    "milliseconds",
    "Classification": "model labels logits view_logits frame_times clip_spans attention product features positions "
    "report round_trip_ms",
    "ModelDescription": "name contract limits",
    "Timeouts": "connect_s question_s request_s total_s",
    "Retries": "attempts first_pause_s most_pause_s",
    "Tls": "ca_file cert_file key_file",
}


def test_the_names() -> None:
    assert tubelet.clients.__all__ == NAMES


@pytest.mark.parametrize("kind", [AsyncVideoClassifier, VideoClassifier])
def test_the_signatures_of_both_clients(kind: type) -> None:
    public = {name for name in vars(kind) if not name.startswith("_")} | {"__init__"}
    assert public == set(SIGNATURES)
    for name, expected in SIGNATURES.items():
        signature = inspect.signature(getattr(kind, name))
        bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
        said = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
        assert said == expected.format(timeouts=Timeouts(), retries=Retries())
        is_async = kind is AsyncVideoClassifier and name != "__init__"
        assert inspect.iscoroutinefunction(getattr(kind, name)) is is_async


@pytest.mark.parametrize(("name", "expected"), FIELDS.items())
def test_the_fields(name: str, expected: str) -> None:
    assert " ".join(field.name for field in fields(getattr(tubelet.clients, name))) == expected


def test_the_defaults() -> None:
    assert (Timeouts(), Retries(), Tls()) == (
        Timeouts(connect_s=5.0, question_s=10.0, request_s=300.0, total_s=600.0),
        Retries(attempts=3, first_pause_s=0.25, most_pause_s=5.0),
        Tls(ca_file=None, cert_file=None, key_file=None),
    )
