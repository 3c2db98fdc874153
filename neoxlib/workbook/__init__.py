"""Run folders, parameters, headless runs, and the pages that are made of them."""

from neoxlib.names import face

__getattr__ = face(
    __name__,
    Run="run",
    Note="table",
    NotAsked="table",
    Table="table",
    figures="metrics",
)
