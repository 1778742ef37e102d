"""The demo models: a synthetic motion data set, and the training that makes ``export/checkpoints/motion*``."""
