"""From prompts to the tokens that a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig

from harness.errors import ModelError, NoModelError, first_line
from harness.models import check_name
from harness.questions.question import LETTERS

Tokenizer = Any  # transformers' tokenizers share no typed base class


def load_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer of `name`.

    Raises ModelError if there is none.
    """
    where = check_name(name, None)
    try:
        return AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except Exception as error:  # the library raises a dozen kinds, and what matters is its text
        raise NoModelError(f"{name}: cannot load the tokenizer ({first_line(error)})") from error


def tokenize(
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    config: PreTrainedConfig,
    max_length: int | None = None,
    workers: int | None = None,
) -> list[list[int]]:
    """Return the token ids of every prompt, with the special tokens that the model begins with.

    config: the model's. max_length: tokens; a longer prompt loses its beginning.
    workers: processes; None lets a fast tokenizer use its own threads, and is best for it.

    Raises ModelError for a prompt that the model has not positions for, or a token that it lacks.
    """
    tokens = _encode(tokenizer, list(prompts), workers)
    known = config.get_text_config().vocab_size
    largest = max((max(ids) for ids in tokens if len(ids)), default=0)
    if largest >= known:
        raise ModelError(
            f"{config.name_or_path}: has {known} tokens, and the tokenizer gives number {largest}; "
            "give the model's own, in its folder or as --tokenizer"
        )
    if max_length:
        tokens = [list(ids[-max_length:]) for ids in tokens]
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    for number, ids in enumerate(tokens):
        if limit and len(ids) > limit:
            raise ModelError(
                f"{config.name_or_path}: takes {limit} tokens, and prompt {number} has {len(ids)}; "
                f"ask with fewer shots, or give --max-length {limit} to cut what is longer at its "
                "beginning, as the paper does"
            )
    return tokens


def _encode(tokenizer: Tokenizer, prompts: list[str], workers: int | None) -> list[list[int]]:
    if not workers or workers == 1:
        return tokenizer(prompts)["input_ids"]  # type: ignore[no-any-return]
    from datasets import Dataset

    tokens = Dataset.from_dict({"prompt": prompts}).map(
        lambda batch: {"ids": tokenizer(batch["prompt"])["input_ids"]},
        batched=True,
        num_proc=workers,
        new_fingerprint="prompts",  # nothing is kept, so nothing need be told apart
        keep_in_memory=True,
    )
    return list(tokens["ids"])


def letter_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the token of each answer letter, as it follows `Answer:` (with its space).

    Raises ModelError if that is not one token of its own, which the model could give next, or if
        prompts end with a special token, so that it would not be asked after `Answer:`.
    Source: the paper's prompt, whose last line is `Answer:`.
    """

    def encoded(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    before = encoded("Answer:")
    tokens: list[int] = []
    for letter in LETTERS:
        ids = encoded(f"Answer: {letter}")
        if len(ids) != len(before) + 1 or ids[:-1] != before or ids[-1] in tokens:
            raise ModelError(
                f"{tokenizer.name_or_path}: the tokenizer has no token of its own for {letter!r} "
                "after 'Answer:'; give another (in the model's folder, or as --tokenizer), or "
                "another model"
            )
        tokens.append(ids[-1])
    if list(tokenizer("Answer:")["input_ids"])[-1:] != before[-1:]:
        raise ModelError(
            f"{tokenizer.name_or_path}: the tokenizer ends every prompt with a special token; set "
            "add_eos_token to false in its tokenizer_config.json"
        )
    return tokens
