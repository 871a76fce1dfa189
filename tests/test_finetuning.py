"""Fine-tuning against a plain loop, and what must not depend on how a training runs."""

import math
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
)

from fixtures.cases import TOY
from harness.accuracy import accuracy
from harness.errors import ModelError
from harness.finetuning import Progress, ValidationSet, fine_tune
from harness.finetuning.answer_model import AnswerModel, check_targets, pad, with_lora
from harness.finetuning.batches import Example, as_examples
from harness.models import load_model
from harness.protocol import FineTuning, Subset, TrainingOptions
from harness.questions.mmlu import load_questions
from harness.questions.prompts import format_question
from harness.questions.question import Question
from harness.tokenizer import letter_tokens, load_tokenizer

MODEL, QUESTIONS = str(TOY / "model"), str(TOY / "questions")
CPU = torch.device("cpu")
TOKENIZER = load_tokenizer(MODEL)
LEARNT = load_questions(QUESTIONS, Subset("validation", 3), 0).questions[:45]
SETTINGS = FineTuning(
    epochs=4, rank=4, dropout=0.0, learning_rate=3e-3, precision="float32", checkpoints=3
)


def toy(precision: str = "float32") -> PreTrainedModel:
    return load_model(MODEL, precision, CPU)


def examples_of(questions: list[Question], **options: bool) -> list[Example]:
    tokens = TOKENIZER([format_question(one) for one in questions])["input_ids"]
    return as_examples(TOKENIZER, questions, tokens, **options)


def uneven() -> list[Question]:
    """45 questions, most of them of one subject."""
    return [*LEARNT[:6], *load_questions(QUESTIONS, Subset("validation", 39), 0).questions[-39:]]


def train(folder: Path, settings: FineTuning, examples: list[Example], **options: int) -> Progress:
    folder.mkdir(exist_ok=True)
    return fine_tune(
        folder, toy(settings.precision), examples, settings, TrainingOptions(**options)
    )


def plain_losses(questions: list[Question], settings: FineTuning, steps: int) -> list[float]:
    """The published shape: one example at a time, logits at every position, no trick at all."""
    torch.manual_seed(settings.seed)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0,
        target_modules=[f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")],
    )  # fmt: skip
    model = get_peft_model(toy(), config)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    total = settings.epochs * math.ceil(len(questions) / settings.batch_size)
    count = Counter(question.subject for question in questions)
    losses = []
    for step in range(steps):
        epoch, batch = divmod(step, math.ceil(len(questions) / settings.batch_size))
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(questions))
        chosen = [questions[i] for i in order[batch * 16 : batch * 16 + 16]]
        weights = [
            len(questions) / len(count) / count[one.subject] if settings.weight_subjects else 1.0
            for one in chosen
        ]
        warm = int(total * settings.warmup_ratio)
        low = settings.lowest_rate
        if step < warm:
            factor = low + (1 - low) * step / warm
        else:
            factor = low + (1 - low) / 2 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
        optimizer.param_groups[0]["lr"] = settings.learning_rate * factor
        loss = 0.0
        for question, weight in zip(chosen, weights, strict=True):
            solved = f"{format_question(question)} {question.letter}"
            ids = TOKENIZER(solved, return_tensors="pt")["input_ids"]
            logits = model(input_ids=ids).logits[0]
            each = F.cross_entropy(logits[-2:-1], ids[0, -1:]) * weight / sum(weights)
            each.backward()
            loss += each.item()
        if settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"weight_subjects": True, "max_grad_norm": 0.5},
        {"weight_decay": 0.1, "warmup_ratio": 0.3, "lowest_rate": 0.2},
    ],
    ids=["plain", "weights and clipping", "decay and warm-up"],
)
def test_losses_are_those_of_a_plain_loop(tmp_path: Path, changed: dict[str, float]) -> None:
    settings = FineTuning(**{**SETTINGS.__dict__, **changed})
    questions = uneven()
    examples = examples_of(questions, weight_subjects=settings.weight_subjects)
    found = train(tmp_path, settings, examples).loss
    assert len(found) == 12
    wanted = plain_losses(questions, settings, 10)
    assert found[:10] == pytest.approx(wanted, abs=1e-5)
    assert min(found) < found[0] - 0.3  # it learns


def test_what_may_not_change_the_adapter_does_not(tmp_path: Path) -> None:
    examples = examples_of(LEARNT)
    usual = train(tmp_path / "usual", SETTINGS, examples).loss
    other = train(
        tmp_path / "other", SETTINGS, examples, tokens=70, prompts=2, activation_checkpointing=True
    ).loss
    assert other == pytest.approx(usual, abs=1e-5)


def test_the_weights_of_an_uneven_set() -> None:
    questions = uneven()
    examples = examples_of(questions, weight_subjects=True)
    by_subject: dict[str, float] = {}
    for question, example in zip(questions, examples, strict=True):
        by_subject[question.subject] = by_subject.get(question.subject, 0.0) + example.weight
    assert len(set(Counter(question.subject for question in questions).values())) > 1
    even = len(questions) / len(by_subject)
    assert list(by_subject.values()) == pytest.approx([even] * len(by_subject))


def test_a_training_prompt_has_no_header_and_its_answer_is_the_next_token() -> None:
    question = Question(" What? ", ("one", " two", "three", "four"), 2, "some_subject", 0)
    (example,) = examples_of([question])
    assert TOKENIZER.decode(example.tokens) == "What?\nA. one\nB. two\nC. three\nD. four\nAnswer:"
    assert TOKENIZER.decode([*example.tokens, example.answer]).endswith("Answer: C")


# --- resuming -----------------------------------------------------------------------------------


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop_at", [1, 5, 11])
def test_resumed_from_any_step_the_adapter_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    settings = FineTuning(**{**SETTINGS.__dict__, "dropout": 0.2})
    examples = examples_of(LEARNT)
    undisturbed = train(tmp_path / "undisturbed", settings, examples, save_every=2)
    taken: list[int] = []
    stops = [stop_at]

    def stop(self, step):  # type: ignore[no-untyped-def]
        if [step] == stops:
            stops.clear()
            raise Stopped
        taken.append(step)
        return step_of(self, step)

    from harness.finetuning.train import _Training

    step_of = _Training._step
    monkeypatch.setattr(_Training, "_step", stop)
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", settings, examples, save_every=2)
    resumed = train(tmp_path / "stopped", settings, examples, save_every=2)
    assert taken[:stop_at] == list(range(stop_at))
    assert stop_at - 2 < taken[stop_at] <= stop_at  # no more is repeated than since the last state
    assert resumed.loss == undisturbed.loss
    for file in sorted((tmp_path / "undisturbed").glob("*/adapter_model.safetensors")):
        other = tmp_path / "stopped" / file.relative_to(tmp_path / "undisturbed")
        assert other.read_bytes() == file.read_bytes()
    again = train(tmp_path / "stopped", settings, examples)  # stopped when all was done
    assert again.loss == undisturbed.loss and len(taken) < 12 + 3


def test_the_checkpoints_are_peft_adapters(tmp_path: Path) -> None:
    train(tmp_path, SETTINGS, examples_of(LEARNT))
    assert sorted(folder.name for folder in tmp_path.glob("[!.]*")) == [
        "final", "step-000001", "step-000002", "step-000005", "training.json",
    ]  # fmt: skip
    batch = TOKENIZER([format_question(LEARNT[0])], return_tensors="pt")
    with torch.no_grad():
        before = toy()(**batch).logits
        after = PeftModel.from_pretrained(toy(), str(tmp_path / "final"))(**batch).logits
        ours = load_model(MODEL, "float32", CPU, adapter=tmp_path / "final")(**batch).logits
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(ours, after)


def test_validation_is_counted_by_subject(tmp_path: Path) -> None:
    asked = load_questions(QUESTIONS, Subset("test", 2), 0).questions
    exam = ValidationSet(
        examples_of(asked), [one.subject for one in asked], letter_tokens(TOKENIZER)
    )
    settings = FineTuning(**{**SETTINGS.__dict__, "max_steps": 4})
    told = fine_tune(
        tmp_path, toy(), examples_of(LEARNT), settings, TrainingOptions(evaluations=2), exam
    )
    assert list(told.validation) == [0, 2, 4]
    right: dict[str, list[bool]] = {}
    model = toy()
    for question in asked:
        with torch.no_grad():
            ids = TOKENIZER(format_question(question), return_tensors="pt")["input_ids"]
            logits = model(input_ids=ids).logits[0, -1]
        best = max("ABCD", key=lambda letter: logits[TOKENIZER.encode(f" {letter}")[0]])
        right.setdefault(question.subject, []).append(best == question.letter)
    means = {subject: sum(some) / len(some) for subject, some in right.items()}
    assert told.validation[0]["by_subject"] == pytest.approx(means)
    assert told.validation[0]["macro"] == pytest.approx(sum(means.values()) / len(means))
    hits = [hit for some in right.values() for hit in some]
    assert told.validation[0]["micro"] == pytest.approx(sum(hits) / len(hits))


def test_accuracies_of_other_questions_are_left_out_of_a_training_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.finetuning.train import _Training

    step_of = _Training._step
    stops = [2]

    def stop(self, step):  # type: ignore[no-untyped-def]
        if [step] == stops:
            stops.clear()
            raise Stopped
        return step_of(self, step)

    monkeypatch.setattr(_Training, "_step", stop)
    examples = examples_of(LEARNT)
    one, other = (
        ValidationSet(examples[part], [name] * 9, letter_tokens(TOKENIZER))
        for name, part in (("one", slice(9)), ("other", slice(9, 18)))
    )
    settings = FineTuning(**{**SETTINGS.__dict__, "max_steps": 4})
    options = TrainingOptions(evaluations=4, save_every=1)
    for folder, then, asked in (("same", one, {"one": 5}), ("unlike", other, {"other": 2})):
        stops[:] = [2]
        with pytest.raises(Stopped):
            fine_tune(tmp_path / folder, toy(), examples, settings, options, one)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = fine_tune(tmp_path / folder, toy(), examples, settings, options, then)
        assert ("are left out" in str([str(each.message) for each in told])) == (then is other)
        subjects = [name for each in found.validation.values() for name in each["by_subject"]]
        assert Counter(subjects) == asked
    # The adapter is that of both.
    files = [tmp_path / name / "final" / "adapter_model.safetensors" for name in ("same", "unlike")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_no_evaluations_are_none_before_the_first_step_either(tmp_path: Path) -> None:
    exam = ValidationSet(examples_of(LEARNT), ["a"] * len(LEARNT), [1, 2, 3, 4])
    options = TrainingOptions(evaluations=0)
    settings = FineTuning(rank=2, max_steps=1, precision="float32")
    told = fine_tune(tmp_path, toy(), examples_of(LEARNT), settings, options, exam)
    assert told.loss and not told.validation


def test_accuracy_weighs_questions_or_subjects() -> None:
    found = accuracy([True, False, False, True], ["a", "a", "a", "b"])
    assert (found.micro, found.macro) == (0.5, pytest.approx(2 / 3))
    assert found.by_subject == {"a": pytest.approx(1 / 3), "b": 1.0}


# --- models -------------------------------------------------------------------------------------

TINY = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64}  # fmt: skip
GROUPED = TINY | {"num_key_value_heads": 2}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**GROUPED),
        MistralConfig(**GROUPED, sliding_window=4),
        Qwen2Config(**GROUPED, tie_word_embeddings=True),
        Gemma2Config(**GROUPED, head_dim=8, sliding_window=4, final_logit_softcapping=3.0),
        GPTNeoXConfig(**TINY),
    ],
    ids=lambda config: config.model_type,
)
def test_the_answers_logits_are_the_whole_models(config) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    prompts = [[1, 2, 3, 4, 5, 6, 7], [8, 9], [3]]
    with torch.no_grad():
        wanted = torch.cat([model(input_ids=torch.tensor([ids])).logits[:, -1] for ids in prompts])
        found = AnswerModel(model)(**pad(prompts, CPU))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_projections_are_found_in_the_model() -> None:
    adapted = with_lora(AutoModelForCausalLM.from_config(GPTNeoXConfig(**TINY)), FineTuning(rank=2))
    targeted = {name.split(".")[-1] for name in adapted.targeted_module_names}
    assert targeted == {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}
    assert all(p.dtype == torch.float32 for p in adapted.parameters() if p.requires_grad)
    with pytest.raises(ModelError, match="'no_proj' is not in this model; its modules are"):
        check_targets(toy(), FineTuning(target_modules=("q_proj", "no_proj")))
    with pytest.raises(ModelError, match=r"'mlp.q_proj' is not in this model"):
        check_targets(toy(), FineTuning(target_modules=("self_attn.q_proj", "mlp.q_proj")))
    norms = FineTuning(target_modules=("input_layernorm",))
    check_targets(toy(), norms)
    with pytest.raises(ModelError, match="input_layernorm: can have no adapter"):
        with_lora(toy(), norms)


def test_the_launchers_settings_change_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state()  # or it would have read them in an earlier test
    made: list[Accelerator] = []
    plain = Accelerator.__init__

    def watched(self: Accelerator, *given: Any, **named: Any) -> None:
        plain(self, *given, **named)
        made.append(self)

    monkeypatch.setattr(Accelerator, "__init__", watched)
    train(tmp_path / "launched", replace(SETTINGS, max_steps=1), examples_of(LEARNT))
    (one,) = made
    assert (one.mixed_precision, one.gradient_accumulation_steps) == ("no", 1)


def test_only_what_reads_text_learns() -> None:
    pictures = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        image_size=4, patch_size=2,
    )  # fmt: skip
    text = Gemma3TextConfig(**TINY, num_key_value_heads=2, head_dim=8)
    model = AutoModelForCausalLM.from_config(
        Gemma3Config(text_config=text, vision_config=pictures, mm_tokens_per_image=4)
    )
    assert any("vision_tower" in name for name, _ in model.named_parameters())
    adapted = with_lora(model, FineTuning(rank=2))
    learning = [name for name, one in adapted.named_parameters() if one.requires_grad]
    assert learning and not [name for name in learning if "language_model" not in name]
    # accelerate looks for all that FSDP is told to wrap, and the pictures' family has more.
    wrapped = set(AnswerModel(adapted.get_base_model())._no_split_modules)
    assert "Gemma3DecoderLayer" in wrapped
    assert wrapped <= {type(module).__name__ for module in model.modules()}
