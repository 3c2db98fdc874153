"""MMLU's 57 subjects. Facts only; questions come from a folder the user has."""

from neoxlib.tasks.subjects import Subject, title

# Classes as in categories.py of github.com/hendrycks/test (commit 4450500), under C-Eval's names for the same four.
_SUBJECTS = {
    "STEM": """
        abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science
        college_mathematics college_physics computer_security conceptual_physics electrical_engineering
        elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science
        high_school_mathematics high_school_physics high_school_statistics machine_learning
    """,
    "Social Science": """
        econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics
        high_school_microeconomics high_school_psychology human_sexuality professional_psychology public_relations
        security_studies sociology us_foreign_policy
    """,
    "Humanities": """
        formal_logic high_school_european_history high_school_us_history high_school_world_history international_law
        jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory professional_law
        world_religions
    """,
    "Other": """
        business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing
        medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology
    """,
}


MMLU: dict[str, Subject] = {
    subject: Subject(title(subject), "", category)
    for category, names in _SUBJECTS.items() for subject in names.split()
}

# What a subject_mapping.json of MMLU, such as the Ascend SDK's {subject: class}, calls the same classes.
CLASS_NAMES = {
    "social sciences": "Social Science", "humanities": "Humanities", "other": "Other",
    "other (business, health, misc.)": "Other",
}  # fmt: skip
