"""What multiplies: one small interface over the runtimes that execute an exported graph.

Serving and verification call the same functions, so that what was verified is what serves.
"""
