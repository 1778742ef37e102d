"""Clients of a running server; need numpy, tritonclient, httpx and tenacity, no decoder and no torch."""

from tubelet.clients._async.client import AsyncVideoClassifier
from tubelet.clients._sync.client import VideoClassifier
from tubelet.clients.description import ModelDescription
from tubelet.clients.results import Classification, Label, Report
from tubelet.clients.settings import DEFAULT_URL, Retries, Timeouts, Tls

__all__ = [
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
