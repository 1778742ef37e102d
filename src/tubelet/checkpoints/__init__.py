"""Official checkpoint files to state dicts of our networks."""
