"""The steps of a served model on target ``cpu``: Triton Python backends, one a module.

A repository's ``<model>_<step>/1/model.py`` is one import of the step's ``TritonPythonModel``.
"""
