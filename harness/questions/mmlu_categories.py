"""MMLU's subjects in its 17 subcategories, and these in categories of kindred ones.

Source: `categories.py` in the repository of MMLU's authors (hendrycks/test, MIT) for the
subcategories. Its four categories set medicine apart from biology; here the subcategories are
joined as the paper sees subjects side by side: medicine and biology; philosophy, jurisprudence and
moral disputes; mathematics, physics and chemistry; machine learning and computer science.
"""

from __future__ import annotations

_SUBJECTS = {
    "biology": "college_biology high_school_biology",
    "business": "business_ethics management marketing",
    "chemistry": "college_chemistry high_school_chemistry",
    "computer science": "college_computer_science computer_security high_school_computer_science "
    "machine_learning",
    "culture": "human_sexuality sociology",
    "economics": "econometrics high_school_macroeconomics high_school_microeconomics",
    "engineering": "electrical_engineering",
    "geography": "high_school_geography",
    "health": "anatomy clinical_knowledge college_medicine human_aging medical_genetics nutrition "
    "professional_medicine virology",
    "history": "high_school_european_history high_school_us_history high_school_world_history "
    "prehistory",
    "law": "international_law jurisprudence professional_law",
    "math": "abstract_algebra college_mathematics elementary_mathematics "
    "high_school_mathematics high_school_statistics",
    "other": "global_facts miscellaneous professional_accounting",
    "philosophy": "formal_logic logical_fallacies moral_disputes moral_scenarios philosophy "
    "world_religions",
    "physics": "astronomy college_physics conceptual_physics high_school_physics",
    "politics": "high_school_government_and_politics public_relations security_studies "
    "us_foreign_policy",
    "psychology": "high_school_psychology professional_psychology",
}
_SUBCATEGORIES = {
    "medicine and biology": ("health", "biology"),
    "exact sciences": ("math", "physics", "chemistry", "engineering"),
    "computer science": ("computer science",),
    "philosophy and law": ("philosophy", "law"),
    "economics and business": ("economics", "business"),
    "history and society": ("history", "politics", "geography", "culture", "psychology"),
    "other": ("other",),
}
_CATEGORY = {part: whole for whole, parts in _SUBCATEGORIES.items() for part in parts}

SUBCATEGORY = {subject: name for name, some in _SUBJECTS.items() for subject in some.split()}
CATEGORY = {subject: _CATEGORY[name] for subject, name in SUBCATEGORY.items()}
