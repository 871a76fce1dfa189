"""Multiple-choice questions and the text made from them."""

from harness.questions.prompts import PromptFormat, build_prompt
from harness.questions.question import LETTERS, Question, QuestionSet

__all__ = ["LETTERS", "PromptFormat", "Question", "QuestionSet", "build_prompt"]
