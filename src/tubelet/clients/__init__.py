"""Clients of a running server; needs numpy and tritonclient, no decoder and no torch."""

from tubelet.clients.client import DEFAULT_URL, VideoClassifier
from tubelet.clients.results import Classification, Label, Report

__all__ = ["DEFAULT_URL", "Classification", "Label", "Report", "VideoClassifier"]
