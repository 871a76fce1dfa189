"""Multiple-choice questions and the text made from them."""

from harness.questions.prompts import build_prompt
from harness.questions.question import LETTERS, Question, QuestionSet

__all__ = ["LETTERS", "Question", "QuestionSet", "build_prompt"]
