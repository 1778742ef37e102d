"""Load tests that tell the truth: what a server does at a load, and how much it can take."""
