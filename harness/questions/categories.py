"""The category of every known subject, MMLU's and the toy world's: which subjects are kindred."""

from __future__ import annotations

from harness.questions.mmlu_categories import CATEGORY
from harness.questions.toy import KINDRED

CATEGORIES = CATEGORY | KINDRED
