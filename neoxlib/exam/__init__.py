"""Exams: questions of a folder, prompts by named rules, scored answers, accuracies."""

from neoxlib.exam.browser import Browser
from neoxlib.exam.calibration import (
    calibration_sentence,
    confidence_bins,
    expected_calibration_error,
)
from neoxlib.exam.data.load import Task, load_task
from neoxlib.exam.earlier_run import changed_answers, difference, read_earlier_run, read_questions
from neoxlib.exam.evaluation import evaluate, rescore
from neoxlib.exam.export import write_files
from neoxlib.exam.profiles import PROFILES, Profile, get_profile
from neoxlib.exam.results import guessing
from neoxlib.exam.scores import (
    averages,
    by_class,
    by_subject,
    check_rescored,
    check_shipped,
    readable,
    summary,
    verdict,
)
from neoxlib.exam.significance import better_than_shuffled, compared, mcnemar
from neoxlib.exam.tables import (
    best_and_worst,
    exam_table,
    rescore_table,
    rules_table,
    shortened_prompts,
)
from neoxlib.names import face

__all__ = [
    "PROFILES",
    "Browser",
    "Profile",
    "Task",
    "averages",
    "best_and_worst",
    "better_than_shuffled",
    "by_class",
    "by_subject",
    "calibration_sentence",
    "changed_answers",
    "check_rescored",
    "check_shipped",
    "compared",
    "confidence_bins",
    "difference",
    "evaluate",
    "exam_table",
    "expected_calibration_error",
    "get_profile",
    "guessing",
    "load_task",
    "mcnemar",
    "read_earlier_run",
    "read_questions",
    "readable",
    "rescore",
    "rescore_table",
    "rules_table",
    "shortened_prompts",
    "summary",
    "verdict",
    "write_files",
]

__getattr__ = face(__name__)
