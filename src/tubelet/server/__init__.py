"""Runs the real tritonserver, watches over it, and holds the Python steps that it calls."""
