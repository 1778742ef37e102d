"""From encoded video to units: which frames (sampling), which pixels (geometry), read safely (container, decode).

`prepare_video` is the way in; everything else is a step of it. NumPy, PyAV and OpenCV only; never torch.
"""
