"""Keeps the engines' packages from telling their makers who runs what: whose videos are scored is nobody's business.

Importing OpenVINO sends an event to Google Analytics, under a number that it keeps in the home folder; quantising with
NNCF sends more; ONNX Runtime keeps a number and a database of events in the home folder, to send them later.
"""

from __future__ import annotations

import os
import sys

__all__ = ["silence"]


def silence() -> None:
    """Before one of these packages is imported; they look at nothing of this later."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # OpenVINO and NNCF do without what they cannot import. Their switches for it are read too late, or in part.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
