"""Exams: questions of a folder, prompts by named rules, scored answers, accuracies."""

from neoxlib import face
from neoxlib.exam.browser import Browser
from neoxlib.exam.calibration import confidence_bins, expected_calibration_error, trust
from neoxlib.exam.data.load import Task, load_task
from neoxlib.exam.earlier_run import changed_answers, difference, earlier, read_questions
from neoxlib.exam.evaluate import evaluate, rescore
from neoxlib.exam.export import write_files
from neoxlib.exam.profiles import PROFILES, Profile, get_profile
from neoxlib.exam.results import guessing
from neoxlib.exam.scores import (
    averages,
    by_class,
    by_subject,
    check_shipped,
    readable,
    summary,
    verdict,
)
from neoxlib.exam.significance import better_than_shuffled, compared, mcnemar
from neoxlib.exam.tables import about, alone, extremes, rules, shortened

__all__ = [
    "PROFILES",
    "Browser",
    "Profile",
    "Task",
    "about",
    "alone",
    "averages",
    "better_than_shuffled",
    "by_class",
    "by_subject",
    "changed_answers",
    "check_shipped",
    "compared",
    "confidence_bins",
    "difference",
    "earlier",
    "evaluate",
    "expected_calibration_error",
    "extremes",
    "get_profile",
    "guessing",
    "load_task",
    "mcnemar",
    "read_questions",
    "readable",
    "rescore",
    "rules",
    "shortened",
    "summary",
    "trust",
    "verdict",
    "write_files",
]

__getattr__ = face(__name__)
