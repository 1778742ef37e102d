"""Checkpoints to verified bundles, and bundles to Triton model repositories."""
