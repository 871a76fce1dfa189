"""The robustness grid: the choices of the protocol, each varied alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from harness.landscape import Landscape
from harness.pipeline import Experiment
from harness.protocol import PromptFormat

ProtocolPart = Literal["subset", "prompt", "extraction", "geometry"]

# The part of the protocol that is varied, and how. Z and Gride's k: the paper's appendix has them
# too. The others it leaves as they are.
GRID: dict[str, tuple[ProtocolPart, dict[str, Any]]] = {
    "Z 0": ("geometry", {"z": 0.0}),
    "Z 4": ("geometry", {"z": 4.0}),
    "Gride's k 8": ("geometry", {"id_k": 8}),
    "Gride's k 32": ("geometry", {"id_k": 32}),
    "density k 8": ("geometry", {"density_k": 8}),
    "density k 32": ("geometry", {"density_k": 32}),
    "density PAk": ("geometry", {"density_k": None}),
    "site norm2": ("extraction", {"site": "norm2"}),
    "site res2": ("extraction", {"site": "res2"}),
    "shots in order": ("prompt", {"shot_order": "kept"}),
    "shots' seed 43": ("prompt", {"seed": 43}),
    "questions' seed 43": ("subset", {"seed": 43}),
    "no header": ("prompt", {"header": False}),
}


def varied_landscapes(
    name: str,
    experiment: Experiment,
    shots: Sequence[int],
    fine_tuned: Experiment | None = None,
) -> dict[str, Landscape]:
    """Return the landscapes under the variation of this name in GRID, by condition.

    fine_tuned: the experiment with its final adapter.

    Raises GeometryError where the variation cannot be measured, such as PAk in many dimensions;
    ModelError or DatasetError where the model or the questions do not fit it.
    """
    found = {}
    for plain, numbers in ((experiment, shots), (fine_tuned, [0])):
        if plain is None:
            continue
        changed, prompts = vary(plain, name, numbers)
        with changed as varied:
            measured = {one: varied.landscape(one) for one in reversed(prompts)}  # see controls
        for landscape in map(measured.__getitem__, prompts):
            found[landscape.condition] = replace(landscape, variation=name)
    return found


def vary(
    experiment: Experiment, name: str, shots: Sequence[int]
) -> tuple[Experiment, list[PromptFormat]]:
    """Return the experiment with the variation of this name in GRID, and its conditions.

    Raises KeyError for another name.
    """
    part, change = GRID[name]
    if part == "prompt":
        return experiment, [PromptFormat(number, **change) for number in shots]
    changed = {part: replace(getattr(experiment, part), **change)}
    return experiment.changed(**changed), [PromptFormat(number) for number in shots]
