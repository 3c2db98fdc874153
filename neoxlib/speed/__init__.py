"""Measure, explain, plan and compare the speed of a model."""

from neoxlib.names import face

__getattr__ = face(__name__)
