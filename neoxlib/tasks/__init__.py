"""Exams: questions from a folder, prompts by named rules, letters scored by the model, accuracies with intervals."""

from neoxlib.tasks.against import changed_answers, difference, earlier, read_questions
from neoxlib.tasks.browse import Browser
from neoxlib.tasks.calibration import confidence_bins, expected_calibration_error, trust
from neoxlib.tasks.data import Task, load_task
from neoxlib.tasks.export import write_files
from neoxlib.tasks.marks import guessing
from neoxlib.tasks.pairs import better_than_shuffled, compared, mcnemar
from neoxlib.tasks.profiles import PROFILES, Profile, get_profile
from neoxlib.tasks.scoring import evaluate, rescore
from neoxlib.tasks.show import about, alone, extremes, rules, shortened
from neoxlib.tasks.stats import averages, by_class, by_subject, check_shipped, readable, summary, verdict

__all__ = [
    "PROFILES", "Browser", "Profile", "Task", "about", "alone", "averages", "better_than_shuffled", "by_class",
    "by_subject", "changed_answers", "check_shipped", "compared", "confidence_bins", "difference", "earlier",
    "evaluate", "expected_calibration_error", "extremes", "get_profile", "guessing", "load_task", "mcnemar",
    "read_questions", "readable", "rescore", "rules", "shortened", "summary", "trust", "verdict",
    "write_files",
]
