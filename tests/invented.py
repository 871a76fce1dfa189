"""A run of the claims that never was."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from harness.landscape import CURVES, OVERLAP, Draw, Landscape, LayerDendrogram
from reports.run import Run
from reports.verdict import Outcome, Skipped, Verdict

HOSTILE = "<script>alert('|')</script> $\\frac$"
LABELS = ("anatomy", HOSTILE, "virology")


def landscape(condition: str, model: str = "small", **changes: object) -> Landscape:
    rng = np.random.default_rng(len(condition))
    layers = (1, 2, 3, 4)
    names = CURVES if condition in ("0-shot", "5-shot", "fine-tuned") else (*CURVES, OVERLAP)

    def curves() -> dict[str, tuple[float, ...]]:
        return {name: tuple(rng.random(4).tolist()) for name in names}

    tree = LayerDendrogram(2, ((0.0, 1.0, 0.5, 2.0), (2.0, 3.0, 1.5, 3.0)), LABELS, (1.0, 0.5, 1.0))
    made = Landscape(
        model, condition, layers, curves(), 3, 0.5, {"questions": 40}, (Draw(curves(), 0.4),) * 2
    )
    return replace(made, tree=None if "@" in condition else tree, **changes)


UNBOUNDED = (-math.inf, math.inf)
PARTS = {"growth": 0.5, HOSTILE: math.nan}


def verdict(claim: str = "one", model: str = "small", **changes: Any) -> Verdict:
    made = Verdict(
        claim=claim,
        model=model,
        verdict="reproduced",
        effect=0.5,
        interval=(0.4, 0.6),
        threshold=0.2,
        direction="at least",
        conditions=("0-shot", "5-shot"),
        meaning="all",
        sentence=f"The finding {claim}.",
        section="Section 1: what is found.",
        exception=None,
        seconds=0.1,
    )
    return replace(made, **changes)


def _run() -> Run:
    settings = {"not_measured": [HOSTILE], "command": "pytest claims", "device": HOSTILE}
    controls = (
        Outcome("random-weights-0", "not reproduced", 0.1, UNBOUNDED),
        Outcome("mixed-shots", "reproduced", 0.9, UNBOUNDED),
    )
    claims = [
        verdict(controls=controls),
        verdict(
            "two", verdict="not reproduced", direction="at most", sentence=HOSTILE, parts=PARTS
        ),
        verdict("three", verdict="inconclusive", effect=math.nan, interval=UNBOUNDED),
        verdict("four", verdict="not reproduced", exception="it is small", variations=controls),
        verdict("one", "published:big", interval=None),
    ]
    skipped = [
        Skipped(
            claim="five",
            model="small",
            sentence="Five.",
            section="Another paper.",
            source="arXiv 1",
            reason=HOSTILE,
        )
    ]
    landscapes = [
        *(landscape(name) for name in ("0-shot", "5-shot", "fine-tuned", "fine-tuned@10", HOSTILE)),
        landscape("5-shot", control="random-weights-0"),
        landscape("5-shot", variation="Z 0"),
    ]
    return Run({"settings": settings, "versions": {"torch": "2"}}, claims, skipped, landscapes)


RUN = _run()
