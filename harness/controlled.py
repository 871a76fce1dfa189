"""The landscapes of an experiment under a null control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.landscape import Draw, Landscape
from harness.pipeline import Experiment
from harness.protocol import Control, PromptFormat
from harness.training_record import FINE_TUNED

Values = tuple[float, ...]  # of a curve


def control_landscapes(
    name: str,
    control: Control,
    experiment: Experiment,
    shots: Sequence[int],
    measured: Mapping[str, Landscape],
    fine_tuned: Experiment | None = None,
) -> dict[str, Landscape]:
    """Return the landscapes under one control, by condition; measure what is not in the store.

    measured: the experiment's own, by condition. Where the control leaves the condition without
        shots as it is, that stands in it as what few-shot is compared with.
    fine_tuned: the experiment with its final adapter; only shuffled labels change it.

    The layers are the experiment's: without a network all have the same values.

    Raises UserError where the model, the questions or the settings do not fit the control.
    """
    changed, prompts = under_control(experiment, control, shots)
    with changed as under:
        # The most shots first: where those prompts do not fit, the others would be in vain.
        under_it = {prompt.condition: under.landscape(prompt) for prompt in reversed(prompts)}
    found = {
        condition: under_it.get(condition) or measured[condition]
        for condition in (PromptFormat(number).condition for number in shots)
    }
    if fine_tuned and control.labels == "shuffled":
        with fine_tuned.changed(control=control) as tuned:
            found[FINE_TUNED] = tuned.landscape(PromptFormat(0))
    for condition, landscape in found.items():
        landscape = replace(landscape, control=name)
        if control.weights == "none":
            landscape = _everywhere(landscape, measured[condition].layer)
        found[condition] = landscape
    return found


def under_control(
    experiment: Experiment, control: Control, shots: Sequence[int]
) -> tuple[Experiment, list[PromptFormat]]:
    """Return the experiment under a control, and the conditions that are measured there."""
    prompts = [PromptFormat(number) for number in shots if number or control.shots == "own"]
    return experiment.changed(control=control), prompts


def _everywhere(landscape: Landscape, layers: tuple[int, ...]) -> Landscape:
    """Return a landscape of one layer with all layers alike, and without an accuracy."""

    def alike(curves: Mapping[str, Values]) -> dict[str, Values]:
        return {name: values * len(layers) for name, values in curves.items()}

    return replace(
        landscape,
        layer=layers,
        curves=alike(landscape.curves),
        draws=tuple(Draw(alike(draw.curves)) for draw in landscape.draws),
        accuracy=None,  # stores have landscapes with one, told from letters that nothing gave
    )
