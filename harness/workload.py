"""What there is to compute before a model can be judged, told before any of it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from typing import NamedTuple

from harness.controlled import under_control
from harness.errors import DatasetError, ModelError
from harness.fine_tuned import ZERO_SHOT, FineTuned
from harness.pipeline import Experiment
from harness.protocol import Control, PromptFormat
from harness.robustness import GRID, vary
from harness.training_record import FINAL, FINE_TUNED, checkpoint_condition

# Of a training step, in passes over its tokens: one forward, and one back through the activations.
# Gradients of the weights themselves are not computed, and those of an adapter are small.
PASSES_A_STEP = 2


@dataclass(frozen=True)
class WorkItem:
    """One thing that the store keeps: an extraction, or a fine-tuning.

    prompts, tokens: all that it reads; computed: the tokens that go through the model, where what
        prompts share is computed once.
    operations: of the matrix products with the model's weights, in floating point.
    kept: it is in the store already, whole.
    obstacle: why it cannot be measured, and will be left out; or nothing.
    """

    name: str
    prompts: int
    tokens: int
    computed: int
    operations: int
    kept: bool = False
    obstacle: str = ""


class _Planned(NamedTuple):
    """An extraction.

    adapter: the one that the model will have, where it is not trained yet.
    further: the control or variation that it is of, which is left out where it cannot be measured.
    """

    name: str
    experiment: Experiment
    prompt: PromptFormat
    adapter: str | None = None
    further: str = ""


def workload(
    experiment: Experiment,
    shots: Sequence[int],
    fine_tuned: FineTuned | None = None,
    controls: Mapping[str, Control] | None = None,
    robustness: bool = False,
) -> list[WorkItem]:
    """Return what the landscapes of an experiment need, each thing once however many need it.

    Measuring the geometry is not among it.

    Raises ModelError or DatasetError where the model or the questions do not fit; of controls and
    variations that is their obstacle.
    """
    items: dict[str, WorkItem] = {}
    if fine_tuned:
        items["fine-tuning"] = _training_work(fine_tuned)
    planned = _extractions(experiment, shots, fine_tuned, controls or {}, robustness)
    for further, group in groupby(planned, key=lambda one: one.further):
        new: dict[str, WorkItem] = {}
        try:
            for name, one, prompt, adapter, _ in group:
                key = one.extraction_key(prompt) + (adapter or "")
                if key not in items.keys() | new.keys():
                    kept = adapter is None and one.is_extracted(prompt)
                    new[key] = replace(extraction_work(one, prompt), name=name, kept=kept)
        except (DatasetError, ModelError) as error:
            if not further:
                raise
            new = {further: WorkItem(further, 0, 0, 0, 0, obstacle=str(error))}
        items |= new
    return list(items.values())


def extraction_work(experiment: Experiment, prompt: PromptFormat) -> WorkItem:
    """Return what there is to extract in one condition, were it not in the store.

    Raises ModelError or DatasetError where the model or the questions do not fit.
    """
    from harness.extraction.arithmetic import distinct_tokens

    tokens = experiment.tokens(experiment.prompts(prompt))
    network = experiment.control.weights != "none"
    computed = distinct_tokens(tokens) if network else 0
    return WorkItem(
        prompt.condition,
        len(tokens),
        sum(map(len, tokens)),
        computed,
        computed * _operations_a_token(experiment.model),
    )


@cache
def _operations_a_token(model: str) -> int:
    from harness.extraction.arithmetic import operations_a_token
    from harness.models import model_without_weights

    return operations_a_token(model_without_weights(model))


def _training_work(fine_tuned: FineTuned) -> WorkItem:
    def count(prompts: list[str]) -> int:
        return sum(map(len, fine_tuned.experiment.tokens(prompts)))

    # Every epoch reads all questions; a training that is cut short, the part that its steps have.
    read = round(count(fine_tuned.training_prompts) * fine_tuned.epochs)
    times = fine_tuned.evaluations
    answered = times * count(fine_tuned.validation_prompts) if times else 0
    return WorkItem(
        "fine-tuning",
        len(fine_tuned.training_prompts),
        read + answered,
        read + answered,
        (PASSES_A_STEP * read + answered) * _operations_a_token(fine_tuned.experiment.model),
        fine_tuned.is_trained(),
    )


def _extractions(
    experiment: Experiment,
    shots: Sequence[int],
    fine_tuned: FineTuned | None,
    controls: Mapping[str, Control],
    robustness: bool,
) -> Iterator[_Planned]:
    for prompt in map(PromptFormat, shots):
        yield _Planned(prompt.condition, experiment, prompt)
    tuned, adapter = experiment, None
    if fine_tuned:
        start = fine_tuned.start
        if fine_tuned.is_trained():
            tuned = fine_tuned.fine_tuned_experiment()
            checkpoints = fine_tuned.checkpoint_experiments()
        else:
            adapter = FINAL
            checkpoints = dict.fromkeys(map(checkpoint_condition, fine_tuned.kept_steps), start)
        yield _Planned(FINE_TUNED, tuned, ZERO_SHOT, adapter)
        yield _Planned(checkpoint_condition(0), start, ZERO_SHOT)
        for condition, checkpoint in checkpoints.items():
            yield _Planned(condition, checkpoint, ZERO_SHOT, adapter and condition)
    for name, control in controls.items():
        under, prompts = under_control(experiment, control, shots)
        for prompt in prompts:
            yield _Planned(f"{prompt.condition}, {name}", under, prompt, further=name)
    for name in GRID if robustness else ():
        varied, prompts = vary(experiment, name, shots)
        for prompt in prompts:
            yield _Planned(f"{prompt.condition}, {name}", varied, prompt, further=name)
        if fine_tuned:
            varied, (prompt,) = vary(tuned, name, [0])
            yield _Planned(f"{FINE_TUNED}, {name}", varied, prompt, adapter, further=name)
