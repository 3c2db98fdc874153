"""Token ids in, tokens out: sampling, decoding, scoring, and the checks of both."""

from neoxlib.names import face

__getattr__ = face(__name__)
