"""Measures a served model on an annotated list of videos, and compares two such runs."""
