"""Questions as training examples, and which of them a step and a pass take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.protocol import steps_an_epoch
from harness.questions.question import Question
from harness.tokenizer import Tokenizer, letter_tokens


@dataclass(frozen=True)
class Example:
    """A prompt as token ids, the token that answers it, and its weight in the loss."""

    tokens: Sequence[int]
    answer: int
    weight: float = 1.0


def as_examples(
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    tokens: Sequence[Sequence[int]],
    weight_subjects: bool = False,
) -> list[Example]:
    """Return an example a question.

    tokens: of every question's prompt.
    weight_subjects: a question weighs N / (subjects x questions of its subject), 1 on average.

    Raises ModelError if the tokenizer cannot tell the letters apart.
    Source: `mmlu_dataset` of the paper's repository (utils/dataset_utils.py).
    """
    letters = letter_tokens(tokenizer)
    sizes = Counter(question.subject for question in questions)
    even = len(questions) / len(sizes)
    return [
        Example(
            ids,
            letters[question.answer],
            even / sizes[question.subject] if weight_subjects else 1.0,
        )
        for ids, question in zip(tokens, questions, strict=True)
    ]


def batch_rows(step: int, count: int, batch_size: int, seed: int) -> list[int]:
    """Return the numbers of the examples of a step, which is counted from 0 over all epochs.

    Every epoch goes through all `count` examples in an order of its own. It depends on `seed` and
    the epoch alone, so a resumed training need not remember where it was.
    """
    epoch, batch = divmod(step, steps_an_epoch(count, batch_size))
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return order[batch * batch_size : (batch + 1) * batch_size].tolist()  # type: ignore[no-any-return]


def passes(
    lengths: Sequence[int], token_budget: int, most: int | None = None, multiple: int = 1
) -> list[list[int]]:
    """Return the numbers 0 ... N-1 of examples in groups of like length, each for one pass.

    lengths: tokens of every example. A group padded to its longest has at most `token_budget`
        tokens (or one example), and at most `most` examples.
    multiple: the number of groups is divisible by it, so that so many processes have equally
        many; it must not be larger than N. Groups are split for that, or else the shortest put
        together, over the budget.
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        # The first of a group is its longest.
        full = not groups or lengths[groups[-1][0]] * (len(groups[-1]) + 1) > token_budget
        if full or (most and len(groups[-1]) >= most):
            groups.append([])
        groups[-1].append(row)
    more = -len(groups) % multiple
    if more > len(lengths) - len(groups):  # there is not enough left to split
        for _ in range(len(groups) % multiple):
            groups[-2:] = [groups[-2] + groups[-1]]
        more = 0
    for _ in range(more):
        largest = max(groups, key=len)
        groups.remove(largest)
        groups += [largest[: len(largest) // 2], largest[len(largest) // 2 :]]
    return groups
