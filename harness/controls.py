"""The null controls: what would come out of an experiment without what a finding is about."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from harness.landscape import Draw, Landscape
from harness.pipeline import Experiment
from harness.protocol import Control, PromptFormat
from harness.training_record import FINE_TUNED

Values = tuple[float, ...]  # of a curve

# What labels cannot change: that a control of labels leaves them as they are says nothing.
UNLABELLED = ("intrinsic_dimension", "density_peaks", "core_fraction")

# In these the network is the trained one: they tell what it does with other shots, or what labels
# give by chance, and not what it would do without having learnt.
OTHER_SHOTS = ("other-shots", "other-shots-by-shots", "mixed-shots")
SHUFFLED_LABELS = "shuffled-labels"
RANDOM_WEIGHTS = "random-weights"
TRAINED = (*OTHER_SHOTS, SHUFFLED_LABELS)

MEANING = {
    RANDOM_WEIGHTS: "the same architecture with weights as drawn, never trained",
    "embeddings": "no network: the mean of the prompt's input embeddings, the model's own",
    "other-shots": "shots of another subject than the question's, judged by the question's subject",
    "other-shots-by-shots": "the same, judged by the subject of the shots",
    "mixed-shots": "every shot of a subject drawn at random",
    "shuffled-labels": "subjects and answers dealt out anew among the questions",
}


def null_controls(seeds: int) -> dict[str, Control]:
    """Return the controls by name; `random-weights-0` ... over so many seeds."""
    random = {f"{RANDOM_WEIGHTS}-{seed}": Control("random", seed=seed) for seed in range(seeds)}
    return random | {
        "embeddings": Control("none"),
        "other-shots": Control(shots="other"),
        "other-shots-by-shots": Control(shots="other", labels="shots"),
        "mixed-shots": Control(shots="mixed"),
        SHUFFLED_LABELS: Control(labels="shuffled"),
    }


def kind_of(name: str) -> str:
    """Return the name in MEANING of a control: its own, without a seed."""
    return re.sub(r"-\d+$", "", name)


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
    experiment.release()
    under = replace(experiment, control=control)
    found = {}
    for prompt in (PromptFormat(number) for number in shots):
        if control.shots != "own" and not prompt.shots:
            found[prompt.condition] = measured[prompt.condition]
        else:
            found[prompt.condition] = under.landscape(prompt)
    under.release()
    if fine_tuned and control.labels == "shuffled":
        tuned = replace(fine_tuned, control=control)
        found[FINE_TUNED] = tuned.landscape(PromptFormat(0))
        tuned.release()
    for condition, landscape in found.items():
        landscape = replace(landscape, control=name)
        if control.weights == "none":
            landscape = _everywhere(landscape, measured[condition].layer)
        if control.labels == "shuffled":
            landscape = _changed(landscape, _labelled, landscape.layer)
        found[condition] = landscape
    return found


def _everywhere(landscape: Landscape, layers: tuple[int, ...]) -> Landscape:
    """Return a landscape of one layer as one whose layers are all alike."""
    return _changed(landscape, lambda _, values: values * len(layers), layers)


def _labelled(name: str, values: Values) -> Values:
    """Return a curve, or nothing known of one that labels cannot change."""
    return tuple(math.nan for _ in values) if name in UNLABELLED else values


def _changed(
    landscape: Landscape, change: Callable[[str, Values], Values], layers: tuple[int, ...]
) -> Landscape:
    """Return the landscape, of `layers`, with every curve changed, and without an accuracy."""

    def changed(curves: Mapping[str, Values]) -> dict[str, Values]:
        return {name: change(name, values) for name, values in curves.items()}

    return replace(
        landscape,
        layer=layers,
        curves=changed(landscape.curves),
        draws=tuple(Draw(changed(draw.curves)) for draw in landscape.draws),
        accuracy=None,
    )
