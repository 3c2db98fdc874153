"""Many runs over time: which figures changed, by how much, and which change could be seen."""

from neoxlib.history.tables import record, spark, text
from neoxlib.history.trends import (
    LEAST,
    LEVEL,
    MOST,
    POWER,
    History,
    Trend,
    adjust,
    adjusted,
    histories,
    reference,
    scaled_mad,
    trend,
    until,
)
from neoxlib.names import face

__all__ = [
    "LEAST",
    "LEVEL",
    "MOST",
    "POWER",
    "History",
    "Trend",
    "adjust",
    "adjusted",
    "histories",
    "record",
    "reference",
    "scaled_mad",
    "spark",
    "text",
    "trend",
    "until",
]

__getattr__ = face(__name__)
