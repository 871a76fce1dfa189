"""A GPU gives what the CPU gives: neighbours, representations, losses."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from fixtures.cases import TOY
from harness.extraction import extract
from harness.extraction.forward import forward_of
from harness.extraction.shards import Representations
from harness.finetuning import fine_tune
from harness.finetuning.batches import as_examples
from harness.geometry.neighbors import first_identical, nearest_neighbors
from harness.models import load_model
from harness.protocol import (
    Budgets,
    ExtractionSettings,
    FineTuning,
    PromptFormat,
    Subset,
    TrainingOptions,
)
from harness.questions.mmlu import load_questions
from harness.questions.prompts import build_prompt, format_question
from harness.tokenizer import load_tokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CPU, GPU = torch.device("cpu"), torch.device("cuda")
MODEL, QUESTIONS = str(TOY / "model"), str(TOY / "questions")
TOKENIZER = load_tokenizer(MODEL)


def grouped_heads() -> PreTrainedModel:
    """Heads of a width that flash attention takes, four query heads a key head."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=512, intermediate_size=1024, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def prompts(shots: int) -> list[str]:
    asked = load_questions(QUESTIONS, Subset(per_subject=6), shots)
    return [
        build_prompt(one, asked.shots[one.subject], PromptFormat(shots)) for one in asked.questions
    ]


def error(found: Representations, truth: Representations) -> float:
    """Return the largest relative error of a layer."""
    return max(
        ((found.layers[layer].double() - states).norm() / states.norm()).item()
        for layer, states in ((layer, one.double()) for layer, one in truth.layers.items())
    )


@pytest.mark.parametrize("grid", [False, True], ids=["apart", "with ties"])
def test_the_neighbours_are_the_cpus(grid: bool) -> None:
    torch.manual_seed(0)
    points = torch.randint(0, 4, (3000, 6)).float() if grid else torch.randn(3000, 64).bfloat16()
    distinct = points.unique(dim=0)
    assert (first_identical(points) == first_identical(points.to(GPU))).all()
    here, there = (nearest_neighbors(some, 200) for some in (distinct, distinct.to(GPU)))
    assert (here.indices == there.indices).all()
    assert torch.allclose(torch.tensor(here.distances), torch.tensor(there.distances), rtol=1e-9)


@pytest.mark.filterwarnings("error:.*whole prompts are computed")  # in bfloat16 too
@pytest.mark.parametrize("reduction", ["last", "mean"])
@pytest.mark.parametrize("shots", [0, 5])
def test_the_representations_are_the_cpus_of_whole_prompts(shots: int, reduction: str) -> None:
    settings = ExtractionSettings(reduction=reduction)
    for model in (load_model(MODEL, "float32", CPU), grouped_heads()):
        asked = (TOKENIZER, prompts(shots), settings)
        truth = extract(model, *asked, share=False)
        assert error(extract(model.to(GPU), *asked, Budgets(tokens=1000)), truth) < 1e-4
        with forward_of(model) as forward:
            assert forward.shares
        model.to(torch.bfloat16)
        whole, shared = (error(extract(model, *asked, share=share), truth) for share in (0, 1))
        assert shared < 1.1 * whole < 0.1


def test_the_losses_are_the_cpus(tmp_path: Path) -> None:
    settings = FineTuning(
        epochs=1, rank=4, dropout=0.0, learning_rate=3e-3, precision="float32", checkpoints=3
    )
    learnt = load_questions(QUESTIONS, Subset("validation", 3), 0).questions
    tokens = TOKENIZER([format_question(one) for one in learnt])["input_ids"]
    examples = as_examples(TOKENIZER, learnt, tokens)
    losses = []
    for device in (CPU, GPU):
        folder = tmp_path / device.type
        folder.mkdir()
        model = load_model(MODEL, "float32", device)
        losses.append(fine_tune(folder, model, examples, settings, TrainingOptions()).loss)
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
