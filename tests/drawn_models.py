"""Models with curves drawn by hand, over the depth of 32 layers: the paper's words, and others.

With them, the verdict that a claim gives of such a model.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import claims
from fixtures.conditions import Asked, ConditionSet
from fixtures.contrast import Contrast
from harness.landscape import CURVES, OVERLAP, Draw, Landscape
from reports.verdict import Word

LAYERS = tuple(range(1, 33))
DEPTH = np.array(LAYERS) / 32
Values = NDArray[np.float64]
Model = dict[str, Landscape]
TUNED, FIRST, CHECKPOINT = "fine-tuned", "fine-tuned@1", "fine-tuned@600"
FEW = ("1-shot", "2-shot", "5-shot")


def through(*points: tuple[float, float]) -> Values:
    """The values over depth of straight lines through some points (depth, value)."""
    return np.interp(DEPTH, *zip(*points, strict=True))


def bump(middle: float, width: float, height: float) -> Values:
    return height * np.exp(-(((DEPTH - middle) / width) ** 2))


def dimension(peak: float, after: float, late: float) -> Values:
    return through((0, 2.5), (0.3, 6), (0.5, peak), (0.59, after), (0.97, late), (1, 2))


def phases(early: float, late: float) -> Values:
    return through((0, early), (0.45, early), (0.55, late), (1, late))


def landscape(condition: str, accuracy: float, **curves: Values) -> Landscape:
    flat = dict.fromkeys(CURVES, np.zeros(32))
    values = {name: tuple(curve.tolist()) for name, curve in (flat | curves).items()}
    # Draws that all agree: what is tried here is the contrast, not its interval.
    draws = (Draw(values, accuracy),) * 2
    return Landscape("model", condition, LAYERS, values, 57, accuracy, draws=draws)


def conditions(accuracy: float = 0.64, late_few: float = 0.03) -> Model:
    """A model as the paper describes Llama-3-8b."""
    found = [
        landscape(
            "0-shot",
            accuracy,
            intrinsic_dimension=dimension(14, 11, 12.5),
            density_peaks=phases(38, 15),
            core_fraction=phases(0.2, 0.1),
            ari_subjects=phases(0.25, 0.05),
            ari_answers=phases(0, 0.03),
            overlap_given=phases(0.27, 0.35),
        ),
        landscape(
            TUNED,
            accuracy,
            intrinsic_dimension=dimension(21, 14, 15),
            density_peaks=phases(39, 15),
            core_fraction=phases(0.2, 0.05),
            ari_subjects=phases(0.18, 0.02),
            ari_answers=phases(0, 0.25),
            answer_clusters=phases(0.3, 0.65),
            overlap_given=phases(0.27, 0.8),
        ),
        landscape(FIRST, 0.3, overlap_answers=phases(0.25, 0.27)),
        landscape(
            CHECKPOINT,
            0.9,
            overlap_answers=phases(0.25, 0.75),
            **{OVERLAP: through((0, 0.9), (0.4, 0.6), (0.6, 0.3))},
        ),
    ]
    for number, condition in enumerate(FEW):
        found.append(
            landscape(
                condition,
                accuracy,
                intrinsic_dimension=dimension(15 + number, 13, 12),
                density_peaks=phases(60 + 5 * number, 13),
                core_fraction=phases(0.6, 0.06),
                ari_subjects=bump(0.3 - 0.08 * number, 0.2 - 0.05 * number, 0.7 + 0.06 * number),
                pure_peaks=phases(0.95, 0.1),
                kindred=phases(0.3, 0),
                kindred_by_chance=phases(0.1, 0),
                ari_answers=phases(0, late_few),
            )
        )
    return {one.condition: one for one in found}


PAPER = conditions()
LATE_PEAK = bump(0.9, 0.05, 0.6)
LARGE = conditions(0.785, late_few=0.23)  # as the paper describes Llama-3-70b


def changed(model: Model, names: str | tuple[str, ...], **curves: Values) -> Model:
    """The model with other curves in some conditions."""
    if isinstance(names, str):
        names = (names,)
    return model | {
        name: landscape(
            name,
            model[name].accuracy or 0.0,
            **{curve: np.array(values) for curve, values in (model[name].curves | curves).items()},
        )
        for name in names
    }


def with_accuracy(model: Model, **accuracies: float) -> Model:
    found = dict(model)
    for name, accuracy in accuracies.items():
        condition = name.replace("_", "-")
        one = model[condition]
        draws = tuple(replace(draw, accuracy=accuracy) for draw in one.draws)
        found[condition] = replace(one, accuracy=accuracy, draws=draws)
    return found


def claim_functions() -> Iterator[tuple[str, Callable[..., None]]]:
    folder = Path(claims.__file__).parent
    for file in sorted(folder.rglob("test_*.py")):
        name = ".".join(file.relative_to(folder.parent).with_suffix("").parts)
        for _, function in inspect.getmembers(importlib.import_module(name), inspect.isfunction):
            for mark in getattr(function, "pytestmark", ()):
                if mark.name == "claim":
                    yield mark.args[0], function


CLAIMS = dict(claim_functions())


def call(claim: str, model: Mapping[str, Landscape], judge: Callable[..., None]) -> None:
    """Call a claim with the fixtures that it asks for."""
    fixtures = {"landscapes": ConditionSet(model), "judge": judge}
    CLAIMS[claim](**{name: fixtures[name] for name in inspect.signature(CLAIMS[claim]).parameters})


def verdict(claim: str, model: Mapping[str, Landscape], asked: Asked | None = None) -> Word | str:
    """The verdict of a claim, or why it was skipped; `asked` receives what it asks for."""
    found: list[Word] = []

    def judge(statistic: Callable[[ConditionSet], float], *, meaning: str, **given: Any) -> None:
        assert meaning
        contrast = Contrast.of(statistic, **given)
        read: Asked = set()
        found.append(contrast.outcome("model", model, read).verdict)
        assert read, "it asks nothing of the conditions that it is given"
        if asked is not None:
            asked.update(read)

    try:
        call(claim, model, judge)
    except pytest.skip.Exception as reason:
        return str(reason)
    return found[0]
