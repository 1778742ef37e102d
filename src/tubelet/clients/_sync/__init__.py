# Made of _async/__init__.py by docs/make_sync.py: change that file, and make this one again.
"""The client as it is written, for threads."""
