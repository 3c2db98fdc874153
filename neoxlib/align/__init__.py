"""Where numbers part: capture what a model computes, compare step by step, name the fault."""

from neoxlib.names import face

__getattr__ = face(__name__, where="study")
