"""tubelet serves trained video transformers with NVIDIA Triton Inference Server."""

__version__ = "0.4.0.dev0"
