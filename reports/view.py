"""What the report shows of runs: tables and figures as HTML, and the verdicts as plain text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from harness.controls import MEANING, TRAINED
from harness.geometry.interval import interval_of
from harness.landscape import Landscape, read_published
from harness.protocol import DRAW_SHARE
from harness.questions.categories import CATEGORIES
from reports import figures
from reports.run import OURS, PAPER, PUBLISHED, Run

TEMPLATES = Path(__file__).with_name("templates")
CURVES = Path(__file__).with_name("published-curves.json")
REFERENCE = "llama-3-8b"
MARKS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?"}
OVERHANG = 0.6  # of what a bar must show: how far intervals may widen it to each side
Table = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """The axis of a finding's bars, from 0 to 100."""

    low: float
    high: float

    @classmethod
    def over(cls, findings: Iterable[Table], threshold: float) -> Scale:
        """Return the scale that shows the threshold and the findings, and of intervals some."""
        found = list(findings)
        shown = [threshold, *(one["effect"] for one in found if one["effect"] is not None)]
        low, high = min(shown), max(shown)
        span = (high - low) or abs(high) or 1.0
        ends = [end for one in found for end in one["interval"] or () if end is not None]
        low = max(min([low, *ends]), low - OVERHANG * span)
        high = min(max([high, *ends]), high + OVERHANG * span)
        margin = 0.05 * (high - low) or 1.0
        return cls(low - margin, high + margin)

    def at(self, value: float | None, unbounded: float = 0.0) -> float:
        """Return where a value is on the axis, in its limits; `unbounded` is None's place."""
        if value is None:
            return unbounded
        return round(100 * min(max((value - self.low) / (self.high - self.low), 0), 1), 2)


class Report:
    """What is shown of runs, side by side.

    models: what was measured, or the published curves if nothing else was judged.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.verdicts = {(one["claim"], one["model"]): one for run in runs for one in run.claims}
        self.skipped = {(one["claim"], one["model"]): one for run in runs for one in run.skipped}
        self.landscapes = [one for run in runs for one in run.landscapes]
        judged = dict.fromkeys(model for run in runs for model in run.models)
        self.published = [model for model in judged if model.startswith(PUBLISHED)]
        self.models = [model for model in judged if model not in self.published]
        if not self.models:
            self.models, self.published = self.published, []
        self.pages = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=lambda name: name is not None and name.endswith(".html"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.pages.filters |= {
            "number": number,
            "interval": interval,
            "cell": cell,
            "mark": MARKS.__getitem__,
        }

    def show(self, template: str, **values: Any) -> str:
        """Return one of `reports/templates`, filled in."""
        return self.pages.get_template(template).render(report=self, **values)

    @cached_property
    def sections(self) -> dict[str, dict[str, str]]:
        """Of every section: the sentence of each of its claims, by claim; other papers' last."""
        found: dict[str, dict[str, str]] = {}
        for one in (*self.verdicts.values(), *self.skipped.values()):
            found.setdefault(one["section"], {})[one["claim"]] = one["sentence"]
        other = {
            one["section"] for one in self.verdicts.values() if one["source"] not in (PAPER, OURS)
        }
        return dict(sorted(found.items(), key=lambda item: (item[0] in other, item[0])))

    def sources(self, claim: str) -> str:
        """Return whose finding a claim is; nothing for the paper's own."""
        found = {one["source"] for (name, _), one in self.verdicts.items() if name == claim}
        return "".join(found - {PAPER})

    def tally(self, model: str) -> dict[str, int]:
        """Return how many claims came out how for one model, and how many were not judged."""
        words = [one["verdict"] for (_, name), one in self.verdicts.items() if name == model]
        known = [
            one
            for (_, name), one in self.verdicts.items()
            if name == model and one["exception"] and one["verdict"] == "not reproduced"
        ]
        return {
            **{word: words.count(word) for word in MARKS},
            "stated": len(known),
            "not judged": sum(name == model for _, name in self.skipped),
        }

    def scale(self, claim: str) -> Scale:
        """Return the axis that all bars of a claim share."""
        of_claim = [one for (name, _), one in self.verdicts.items() if name == claim]
        found = [other for one in of_claim for other in (one, *one["controls"])]
        return Scale.over(found, of_claim[0]["threshold"] if of_claim else 0.0)

    def beside(self, kind: str) -> list[str]:
        """Return the names of all controls, or variations, that some claim was judged under."""
        return list(
            dict.fromkeys(other["name"] for one in self.verdicts.values() for other in one[kind])
        )

    def own(self, model: str) -> list[Landscape]:
        """Return a model's landscapes, without checkpoints, controls and variations."""
        return [one for one in self._plain(model) if "@" not in one.condition]

    def measured(self) -> list[Table]:
        """Return what was measured, a table a model and condition."""
        found = []
        for model in self.models:
            for one in self.own(model):
                known = [draw.accuracy for draw in one.draws if draw.accuracy is not None]
                accuracy = one.accuracy
                bounds = None if accuracy is None else interval_of(accuracy, known, DRAW_SHARE)
                cost = one.origin.get("cost", {})
                found.append(
                    {"landscape": one, "interval": bounds, "origin": one.origin, "cost": cost}
                )
        return found

    @property
    def not_measured(self) -> list[str]:
        """Controls and variations that could not be measured, and why."""
        return [one for run in self.runs for one in run.environment["settings"]["not_measured"]]

    def profiles(self, *quantities: str) -> str:
        """Return the panels of some quantities: every model's, and published ones beside them."""
        shown = []
        reference = list(read_published(CURVES)[REFERENCE].values())
        for quantity in quantities:
            panels = []
            title = figures.QUANTITIES[quantity]
            for model in self.models:
                own = self.own(model)
                if own:
                    panels.append((f"{model}: {title}", figures.profile(own, quantity)))
            panels.append(
                (
                    f"{REFERENCE}, the authors' own curves: {title}",
                    figures.profile(reference, quantity),
                )
            )
            shown.append(self._panels(panels))
        return "".join(shown)

    def controlled(self) -> str:
        """Return the panels of the subjects' ARI under the controls; nothing if there are none."""
        panels = []
        for model in self.models:
            few = [one for one in self.own(model) if one.condition.endswith("-shot")]
            if not few:
                continue
            most = max(few, key=lambda one: int(one.condition.partition("-")[0]))
            controls = {
                one.control: one
                for one in self.landscapes
                if one.model == model and one.control and one.condition == most.condition
            }
            if controls:
                title = f"{model}, {most.condition}: ARI with subjects under the null controls"
                panels.append((title, figures.under_controls(most, controls)))
        return self._panels(panels)

    def dendrograms(self) -> str:
        """Return the dendrogram of every landscape that has one."""
        return self._panels(
            [
                (
                    f"{model}, {one.condition}: the {len(one.tree.labels)} density peaks of layer "
                    f"{one.tree.layer}, and the share of a peak's points that are of its subject",
                    figures.dendrogram(one.tree, CATEGORIES),
                )
                for model in self.models
                for one in self.own(model)
                if one.tree
            ]
        )

    def overlaps(self) -> str:
        """Return the panels of what fine-tuning changes, a model each."""
        found = {
            model: [one for one in self._plain(model) if "@" in one.condition]
            for model in self.models
        }
        return self._panels(
            [
                (f"{model}: neighbours shared with step 0, after each checkpoint's steps", panel)
                for model, checkpoints in found.items()
                if checkpoints
                for panel in [figures.overlap(checkpoints)]
            ]
        )

    def bars(self, finding: Table, scale: Scale) -> list[Table]:
        """Return what a finding's bar shows: itself, then its controls, as places on `scale`."""
        return [
            {
                "name": one.get("name", "effect"),
                "kind": "own" if one is finding else _kind(one["name"]),
                "at": scale.at(one["effect"], 50.0),
                "known": one["effect"] is not None,
                "low": scale.at((one["interval"] or [one["effect"]] * 2)[0], 0.0),
                "high": scale.at((one["interval"] or [one["effect"]] * 2)[1], 100.0),
                "text": f"{number(one['effect'])}{interval(one['interval'])}",
            }
            for one in (finding, *finding["controls"])
        ]

    def _plain(self, model: str) -> list[Landscape]:
        return [
            one
            for one in self.landscapes
            if one.model == model and not one.control and not one.variation
        ]

    def _panels(self, panels: Sequence[tuple[str, Figure]]) -> str:
        shown = [(caption, figures.as_image(figure)) for caption, figure in panels]
        return self.show("panels.html", panels=shown) if shown else ""


def number(value: float | None) -> str:
    """Return a number as the report has it."""
    if value is None:
        return "unknown"
    text = f"{value:.3f}"
    return text.removeprefix("-") if float(text) == 0 else text


def interval(bounds: Sequence[float | None] | None) -> str:
    """Return an interval as the report has it; nothing without one."""
    if bounds is None:
        return ""
    low, high = bounds
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return " [unbounded]"
    return f" [{number(low)}, {number(high)}]"


def cell(text: object) -> str:
    """Return text as a cell of a Markdown table can hold it."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table of tables as one, the inner ones' names behind the outer's."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found |= {f"{key} {name}": one for name, one in flat(value).items()}
        elif isinstance(value, list):
            found[key] = ", ".join(map(str, value))
        else:
            found[key] = value
    return found


def _kind(control: str) -> str:
    return "trained" if control in TRAINED else "untrained"


def meanings(names: Iterable[str]) -> dict[str, str]:
    """Return what each of some controls is, by its name without its seed."""
    found = {}
    for name in names:
        plain = next((one for one in MEANING if name == one or name.startswith(f"{one}-")), None)
        if name in MEANING:
            plain = name
        if plain:
            found[plain] = MEANING[plain]
    return found
