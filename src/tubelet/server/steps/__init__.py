"""The steps of a served model that are Triton Python backends, one a module: on target ``gpu`` those at both ends only.

A repository's ``<model>_<step>/1/model.py`` is one import of the step's ``TritonPythonModel``.
"""
