"""The null controls by name: what an experiment would give without what a finding is about."""

from __future__ import annotations

import re

from harness.protocol import Control

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
    SHUFFLED_LABELS: "subjects and answers dealt out anew among the questions",
}


def null_controls(seeds: int) -> dict[str, Control]:
    """Return the controls by name; `random-weights-0` ... over so many seeds.

    Source: this project's; the paper has no null controls.
    """
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
