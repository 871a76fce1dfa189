"""What there is to compute before a model can be judged, told before any of it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
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
    kept: the store has it already, whole, or all that is measured of it.
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
    measured: returns whether what is measured of it is in the store; None is the landscape of it.
    """

    name: str
    experiment: Experiment
    prompt: PromptFormat
    adapter: str | None = None
    further: str = ""
    measured: Callable[[], bool] | None = None

    @property
    def key(self) -> str:
        """What tells its representations from others. Raises ModelError, DatasetError."""
        return self.experiment.extraction_key(self.prompt) + (self.adapter or "")

    def is_done(self) -> bool:
        """Return whether its representations are in the store, or need not be."""
        if self.adapter:
            return False
        measured = self.measured or partial(self.experiment.is_measured, self.prompt)
        return self.experiment.is_extracted(self.prompt) or measured()


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
            for one in group:
                known = new.get(one.key) or items.get(one.key)
                if known is None:
                    work = extraction_work(one.experiment, one.prompt)
                    new[one.key] = replace(work, name=one.name, kept=one.is_done())
                elif known.kept and not one.is_done():  # another landscape of the same
                    new[one.key] = replace(known, kept=False)
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
        measured = {
            condition: partial(checkpoint.is_measured, ZERO_SHOT, start)
            for condition, checkpoint in checkpoints.items()
        }
        yield _Planned(FINE_TUNED, tuned, ZERO_SHOT, adapter)
        yield _Planned(
            checkpoint_condition(0), start, ZERO_SHOT,
            measured=lambda: adapter is None and all(one() for one in measured.values()),
        )  # fmt: skip
        for condition, checkpoint in checkpoints.items():
            own = adapter and condition
            yield _Planned(condition, checkpoint, ZERO_SHOT, own, measured=measured[condition])
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
