"""Exams: questions from a folder, prompts by named rules, letters scored by the model, accuracies with intervals."""

from neoxlib.tasks.data import Task, load_task
from neoxlib.tasks.export import write_files
from neoxlib.tasks.prompts import PROFILES, Profile, get_profile
from neoxlib.tasks.scoring import evaluate
from neoxlib.tasks.show import browse, rules
from neoxlib.tasks.stats import averages, by_class, by_subject, check_shipped, readable, summary, verdict

__all__ = [
    "PROFILES", "Profile", "Task", "averages", "browse", "by_class", "by_subject", "check_shipped", "evaluate",
    "get_profile", "load_task", "readable", "rules", "summary", "verdict", "write_files",
]
