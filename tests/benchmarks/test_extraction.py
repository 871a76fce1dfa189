"""Extraction against the published method's shape: prompts a second, and the share of the floor.

    pytest tests/benchmarks/test_extraction.py --benchmark-only [--model DIR --mmlu DIR]

Naive is one whole prompt at a time, hooks that keep every token of every layer, and logits at
every position. It is timed on one prompt of every subject, the engine on `--per-subject` of each.
The floor is the time of the arithmetic alone: twice the parameters without embeddings for every
distinct token, at the rate of a large matrix product measured beside it.
"""

import time
from dataclasses import dataclass

import pytest
import torch
from transformers import PreTrainedModel

from fixtures.cases import TOY
from harness.device import default_device, default_precision, product_rate
from harness.extraction import extract
from harness.extraction.arithmetic import distinct_tokens, operations_a_token
from harness.extraction.capture import capturing, site_modules
from harness.models import load_model
from harness.protocol import ExtractionSettings, PromptFormat, ShotOrder, Subset
from harness.questions.mmlu import load_questions
from harness.questions.prompts import build_prompt
from harness.tokenizer import Tokenizer, load_tokenizer

PER_SUBJECT = 40
PER_SUBJECT_LONG = 160


@dataclass(frozen=True)
class Subject:
    model: PreTrainedModel
    tokenizer: Tokenizer
    dataset: str
    settings: ExtractionSettings


@pytest.fixture(scope="module")
def judged(request: pytest.FixtureRequest) -> Subject:
    name = request.config.getoption("--model") or str(TOY / "model")
    dataset = request.config.getoption("--mmlu") or str(TOY / "questions")
    precision = request.config.getoption("--precision") or default_precision()
    settings = ExtractionSettings(precision=precision)
    model = load_model(name, settings.precision, default_device())
    return Subject(model, load_tokenizer(name), dataset, settings)


def prompts_of(judged: Subject, per_subject: int, prompt: PromptFormat) -> list[str]:
    asked = load_questions(judged.dataset, Subset(per_subject=per_subject), prompt.shots)
    return [build_prompt(one, asked.shots[one.subject], prompt) for one in asked.questions]


@torch.inference_mode()
def naive(judged: Subject, prompts: list[str]) -> float:
    """Return prompts a second of the published method's shape."""
    device = judged.model.device
    kept: dict[int, torch.Tensor] = {}
    begin = time.perf_counter()
    with capturing(site_modules(judged.model, judged.settings.site), kept.__setitem__):
        for prompt in prompts:
            ids = torch.tensor([judged.tokenizer(prompt)["input_ids"]], device=device)
            judged.model(input_ids=ids, use_cache=False)
            for states in kept.values():
                states[0, -1].cpu()
    return len(prompts) / (time.perf_counter() - begin)


@pytest.mark.parametrize(
    ("shots", "order", "per_subject"),
    [
        pytest.param(0, "kept", PER_SUBJECT, id="0-shot"),
        pytest.param(5, "kept", PER_SUBJECT, id="5-shot-kept"),
        pytest.param(5, "shuffled", PER_SUBJECT, id="5-shot-shuffled"),
        pytest.param(
            5, "shuffled", PER_SUBJECT_LONG, id="5-shot-shuffled-long", marks=pytest.mark.slow
        ),
    ],
)
def test_engine_against_naive(  # type: ignore[no-untyped-def]
    judged: Subject,
    shots: int,
    order: ShotOrder,
    per_subject: int,
    benchmark,
    report_figures,
    request: pytest.FixtureRequest,
) -> None:
    per_subject = request.config.getoption("--per-subject") or per_subject
    prompt = PromptFormat(shots, order)
    whole = naive(judged, prompts_of(judged, 1, prompt))
    prompts = prompts_of(judged, per_subject, prompt)
    rate = product_rate(judged.model.device, judged.model.dtype)
    begin = time.perf_counter()
    given = (judged.model, judged.tokenizer, prompts, judged.settings)
    benchmark.pedantic(lambda: extract(*given), rounds=1)
    seconds = time.perf_counter() - begin
    tokens = judged.tokenizer(prompts)["input_ids"]
    distinct = distinct_tokens(tokens)
    floor = distinct * operations_a_token(judged.model) / rate
    report_figures(
        threads=torch.get_num_threads(),
        prompts=len(prompts),
        tokens_a_prompt=sum(map(len, tokens)) / len(prompts),
        distinct_tokens_a_prompt=distinct / len(prompts),
        naive_prompts_a_second=whole,
        engine_prompts_a_second=len(prompts) / seconds,
        engine_distinct_tokens_a_second=distinct / seconds,
        ratio_to_naive=len(prompts) / seconds / whole,
        matrix_product_gigaflops=rate / 1e9,
        share_of_floor=floor / seconds,
    )
