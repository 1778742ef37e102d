"""Views to one answer."""

from dataclasses import replace

import numpy as np
import pytest

from tubelet.server.averaging import average_views
from tubelet.spec.manifest import Contract, Head


def test_logits_are_averaged_before_the_activation(make_contract) -> None:
    views = np.array([[4.0, 0.0], [-1.0, 2.0]], np.float32)
    logits, probabilities = average_views(views, make_contract())
    np.testing.assert_allclose(logits, [1.5, 1.0])
    np.testing.assert_allclose(probabilities, np.exp([1.5, 1.0]) / np.exp([1.5, 1.0]).sum(), rtol=1e-6)
    assert logits.dtype == probabilities.dtype == np.float32


def test_each_head_has_its_own_activation(make_contract) -> None:
    heads = (
        Head(name="noun", num_classes=3, activation="softmax", labels_sha256="0"),
        Head(name="tag", num_classes=2, activation="sigmoid", labels_sha256="0"),
    )
    contract: Contract = replace(make_contract(), heads=heads)
    _, probabilities = average_views(np.array([[1000.0, 1000.0, 0.0, 0.0, -3.0]], np.float32), contract)
    np.testing.assert_allclose(probabilities[:3], [0.5, 0.5, 0.0], atol=1e-7)
    assert probabilities[3] == pytest.approx(0.5)
    assert probabilities[4] == pytest.approx(1 / (1 + np.exp(3)), rel=1e-5)
