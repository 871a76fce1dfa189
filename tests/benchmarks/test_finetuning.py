"""Fine-tuning against the plain shape: tokens a second in one run.

    pytest tests/benchmarks/test_finetuning.py --benchmark-only [--model DIR --mmlu DIR]

Plain is one question at a time through PEFT's own layers, with logits at every position. Both
train the same adapter in whole steps with their update, on questions of one draw. Plain is timed
before and after the engine, and its faster time counts.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from fixtures.cases import TOY
from harness.device import default_device, default_precision
from harness.finetuning import fine_tune
from harness.finetuning.answer_model import with_lora
from harness.finetuning.batches import Example, as_examples, batch_rows
from harness.models import load_model
from harness.protocol import FineTuning, Subset, TrainingOptions
from harness.questions.mmlu import load_questions
from harness.questions.prompts import format_question
from harness.tokenizer import load_tokenizer

STEPS = 3
PLAIN_QUESTIONS = 16


def plain(model: PreTrainedModel, settings: FineTuning, examples: list[Example]) -> float:
    """Return tokens a second of one step in the plain shape."""
    adapted = with_lora(model, settings).train()
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad])
    batch = [examples[row] for row in batch_rows(0, len(examples), PLAIN_QUESTIONS, 0)]

    def one(example: Example) -> None:
        tokens = torch.tensor([list(example.tokens)], device=model.device)
        mixed = model.dtype is torch.bfloat16
        with torch.autocast(model.device.type, torch.bfloat16, enabled=mixed):
            logits = adapted(input_ids=tokens, use_cache=False).logits
        answer = torch.tensor([example.answer], device=model.device)
        (F.cross_entropy(logits[0, -1:].float(), answer) / len(batch)).backward()

    one(batch[0])
    optimizer.step()  # its first step makes its state
    begin = time.perf_counter()
    for example in batch:
        one(example)
    optimizer.step()
    found = sum(len(example.tokens) for example in batch) / (time.perf_counter() - begin)
    adapted.unload()
    return found


def ours(
    folder: Path,
    load: Callable[[], PreTrainedModel],
    settings: FineTuning,
    examples: list[Example],
) -> float:
    """Return tokens a second of STEPS steps: the difference to a training of one step."""
    seconds = []
    for steps in (1, 1 + STEPS):
        some = FineTuning(**{**settings.__dict__, "max_steps": steps, "checkpoints": 0})
        run = folder / f"{steps}-{time.monotonic_ns()}"
        run.mkdir(parents=True)
        options = TrainingOptions(save_every=10**6, log_lines=1)
        seconds.append(fine_tune(run, load(), examples, some, options).seconds)
    taken = [
        row
        for step in range(1, 1 + STEPS)
        for row in batch_rows(step, len(examples), settings.batch_size, settings.seed)
    ]
    return sum(len(examples[row].tokens) for row in taken) / (seconds[1] - seconds[0])


def test_engine_against_plain(  # type: ignore[no-untyped-def]
    request: pytest.FixtureRequest, benchmark, report_figures, tmp_path: Path
) -> None:
    name = request.config.getoption("--model") or str(TOY / "model")
    dataset = request.config.getoption("--mmlu") or str(TOY / "questions")
    precision = request.config.getoption("--precision") or default_precision()
    settings = FineTuning(precision=precision)
    tokenizer = load_tokenizer(name)
    questions = load_questions(dataset, Subset(per_subject=10), 0).questions
    tokens = tokenizer([format_question(question) for question in questions])["input_ids"]
    examples = as_examples(tokenizer, questions, tokens)

    def load() -> PreTrainedModel:
        return load_model(name, settings.precision, default_device())

    model = load()
    naive = [plain(model, settings, examples)]
    engine = benchmark.pedantic(lambda: ours(tmp_path, load, settings, examples), rounds=1)
    naive.append(plain(model, settings, examples))
    report_figures(
        tokens_a_question=sum(len(example.tokens) for example in examples) / len(examples),
        plain_tokens_a_second=max(naive),
        engine_tokens_a_second=engine,
        ratio_to_plain=engine / max(naive),
    )
