"""What the report shows of runs: tables and figures as HTML, and the verdicts as plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from harness.controls import MEANING, TRAINED, kind_of
from harness.errors import RecordError
from harness.landscape import Landscape
from harness.published import PUBLISHED, read_published
from harness.questions.categories import CATEGORIES
from reports import figures
from reports.run import AUTHORS_CURVES, OURS, PAPER, Run
from reports.words import effect, interval, number

TEMPLATES = Path(__file__).with_name("templates")
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
    def over(cls, findings: Iterable[Table]) -> Scale:
        """Return the scale that shows all thresholds and effects of some findings.

        Of intervals and of controls it shows what is not much farther away than these.
        """
        found = list(findings)
        shown = [*(one["threshold"] for one in found), *_effects(found)] or [0.0]
        low, high = min(shown), max(shown)
        span = (high - low) or abs(high) or 1.0
        controls = [control for one in found for control in one["controls"]]
        ends = [end for one in found + controls for end in one["interval"] or () if end is not None]
        ends += _effects(controls)
        low = max(min([low, *ends]), low - OVERHANG * span)
        high = min(max([high, *ends]), high + OVERHANG * span)
        margin = max(0.05 * (high - low), 1e-9 * max(abs(low), abs(high)), 1e-9)
        return cls(low - margin, high + margin)

    def beyond(self, value: float | None) -> int:
        """Return -1 or 1 for a value that is left or right of the axis, else 0."""
        return 0 if value is None else int(value > self.high) - int(value < self.low)

    def at(self, value: float | None, unbounded: float = 0.0) -> float:
        """Return where a value is on the axis, in its limits; `unbounded` is None's place."""
        if value is None:
            return unbounded
        return round(100 * min(max((value - self.low) / (self.high - self.low), 0), 1), 2)


class Report:
    """What is shown of runs, side by side.

    models: what was measured, or the published curves if nothing else was judged.

    Raises RecordError for published curves that are not the same in two runs.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.verdicts = {(one["claim"], one["model"]): one for run in runs for one in run.claims}
        self.skipped = {(one["claim"], one["model"]): one for run in runs for one in run.skipped}
        self.landscapes = _once_each(one for run in runs for one in run.landscapes)
        judged = dict.fromkeys(model for run in runs for model in run.models)
        self.published = [model for model in judged if model.startswith(PUBLISHED)]
        self.models = [model for model in judged if model not in self.published]
        if not self.models:
            self.models, self.published = self.published, []
        self.pages = _pages(autoescape=True)
        self.texts = _pages(autoescape=False, finalize=cell)

    def show(self, template: str, **values: Any) -> str:
        """Return one of `reports/templates`, filled in."""
        pages = self.pages if template.endswith(".html") else self.texts
        return pages.get_template(template).render(report=self, **values)

    @cached_property
    def sections(self) -> dict[str, dict[str, str]]:
        """Of every section: the sentence of each of its claims, by claim; other papers' last.

        Of a claim that two runs have, as the last of them has it.
        """
        found: dict[str, dict[str, str]] = {}
        claims = {one["claim"]: one for run in self.runs for one in (*run.claims, *run.skipped)}
        for one in claims.values():
            found.setdefault(one["section"], {})[one["claim"]] = one["sentence"]
        other = {one["section"] for one in claims.values() if one["source"] not in (PAPER, OURS)}
        return dict(sorted(found.items(), key=lambda item: (item[0] in other, item[0])))

    @property
    def _claims(self) -> list[Table]:
        return [*self.verdicts.values(), *self.skipped.values()]

    def sources(self, claim: str) -> str:
        """Return whose finding a claim is; nothing for the paper's own."""
        found = {one["source"] for one in self._claims if one["claim"] == claim}
        return "".join(found - {PAPER})

    def tally(self, model: str, *, papers: bool = True) -> dict[str, int | None]:
        """Return how many claims came out how for one model, and how many were not judged.

        `told` are those reproduced of which the controls say whether they are specific to learning,
        and `specific` those of them that are; both are None where no control was measured.

        papers: of the paper's own claims; or of all others.
        """
        judged = [
            one
            for one in self.verdicts.values()
            if one["model"] == model and (one["source"] == PAPER) == papers
        ]
        words = [one["verdict"] for one in judged]
        controlled = any(one["controls"] for one in judged)
        told = [
            one["specificity"] != "not specific to learning"
            for one in judged
            if one["verdict"] == "reproduced" and one["specificity"] not in (None, "inconclusive")
        ]
        return {
            **{word: words.count(word) for word in MARKS},
            "stated": sum(as_stated(one) for one in judged),
            "told": len(told) if controlled else None,
            "specific": sum(told) if controlled else None,
            "not judged": sum(
                one["model"] == model and (one["source"] == PAPER) == papers
                for one in self.skipped.values()
            ),
        }

    def tally_in_words(self, model: str) -> str:
        """Return the tally of the paper's claims, and of others, as a sentence has it."""
        count, others = self.tally(model), self.tally(model, papers=False)
        specific = (
            ""
            if count["told"] is None
            else f" (controls decide on {count['told']} of them: {count['specific']} specific to "
            "learning)"
        )
        stated = f" ({count['stated']} as stated beside the claim)" if count["stated"] else ""
        return (
            f"{count['reproduced']} of the paper's findings reproduced{specific}, "
            f"{count['not reproduced']} not{stated}, {count['inconclusive']} inconclusive, "
            f"{count['not judged']} not judged; of those that are not the paper's "
            f"{others['reproduced']} reproduced, {others['not reproduced']} not, "
            f"{others['inconclusive']} inconclusive, {others['not judged']} not judged"
        )

    def scale(self, claim: str) -> Scale:
        """Return the axis that all bars of a claim share."""
        verdicts = self.verdicts
        return Scale.over(
            verdicts[claim, model] for model in self.models if (claim, model) in verdicts
        )

    def beside(self, kind: str, model: str | None = None) -> list[str]:
        """Return the names of all controls, or variations, that a claim was judged under.

        model: of claims about it only.
        """
        judged = [one for one in self.verdicts.values() if model in (None, one["model"])]
        return list(dict.fromkeys(other["name"] for one in judged for other in one[kind]))

    def own(self, model: str) -> list[Landscape]:
        """Return a model's landscapes, without checkpoints, controls and variations."""
        return [one for one in self._plain(model) if one.checkpoint is None]

    def measured(self) -> list[Table]:
        """Return what was measured, a table a model and condition."""
        found = []
        for model in self.models:
            for one in self._plain(model):
                cost, trained = (one.origin.get(name) for name in ("cost", "trained_on"))
                found.append(
                    {
                        "landscape": one,
                        "cost": cost if isinstance(cost, dict) else {},
                        "trained_on": trained if isinstance(trained, dict) else {},
                    }
                )
        return found

    @property
    def not_measured(self) -> list[str]:
        """Controls and variations that could not be measured, and why."""
        said = [one for run in self.runs for one in run.environment["settings"]["not_measured"]]
        return list(dict.fromkeys(said))

    def profiles(self, *quantities: str) -> str:
        """Return the panels of some quantities: every model's, and published ones beside them."""
        shown = []
        published = list(read_published(AUTHORS_CURVES)[REFERENCE].values())
        sources = {model: self.own(model) for model in self.models}
        sources[f"{REFERENCE}, the authors' own curves"] = published
        for quantity in quantities:
            title = figures.QUANTITIES[quantity]
            having = {
                name: [one for one in landscapes if one.has(quantity)]
                for name, landscapes in sources.items()
            }
            panels = [
                (f"{name}: {title}", figures.profile(landscapes, quantity))
                for name, landscapes in having.items()
                if landscapes
            ]
            shown.append(self._panels(panels))
        return "".join(shown)

    def controlled(self) -> str:
        """Return the panels of the subjects' ARI under the controls; nothing if there are none."""
        panels = []
        for model in self.models:
            few = [one for one in self.own(model) if one.shots]
            if not few:
                continue
            most = max(few, key=lambda one: one.shots or 0)
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

    def by_step(self, *quantities: str) -> str:
        """Return the panels of what fine-tuning changes, on the questions that train the model."""
        shown = []
        for quantity in quantities:
            panels = []
            for model in self.models:
                measured = [one for one in self._plain(model) if one.has(quantity)]
                checkpoints = [one for one in measured if one.checkpoint is not None]
                if checkpoints:
                    title = f"{model}: {figures.QUANTITIES[quantity]}, by steps of fine-tuning"
                    panels.append((title, figures.by_step(checkpoints, quantity)))
            shown.append(self._panels(panels))
        return "".join(shown)

    def bars(self, finding: Table, scale: Scale) -> list[Table]:
        """Return what a finding's bar shows: itself, then its controls, as places on `scale`."""
        found = []
        for one in (finding, *finding["controls"]):
            low, high = one["interval"] or [one["effect"]] * 2
            found.append(
                {
                    "name": one.get("name", "effect"),
                    "kind": "own" if one is finding else _kind(one["name"]),
                    "at": None if one["effect"] is None else scale.at(one["effect"]),
                    "beyond": scale.beyond(one["effect"]),
                    "line": one["interval"] is not None,
                    "low": scale.at(low, 0.0),
                    "high": scale.at(high, 100.0),
                    "text": effect_in_words(one),
                }
            )
        return found

    def _plain(self, model: str) -> list[Landscape]:
        return [
            one
            for one in self.landscapes
            if one.model == model and not one.control and not one.variation
        ]

    def _panels(self, panels: Sequence[tuple[str, Figure]]) -> str:
        shown = [(caption, figures.as_image(figure)) for caption, figure in panels]
        return self.show("panels.html", panels=shown) if shown else ""


def effect_in_words(finding: Table) -> str:
    """Return what came out of a finding: the effect, and its interval."""
    return effect(finding["effect"], finding["interval"])


def cell(text: object) -> str:
    """Return text as a cell of a Markdown table can hold it, with nothing that is a command."""
    if isinstance(text, Markup):  # of ours
        return text
    plain = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", plain)


def as_stated(verdict: Table) -> bool:
    """Return whether a claim is known not to hold for its model, and did not."""
    return bool(verdict["exception"]) and verdict["verdict"] == "not reproduced"


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


def by_name(findings: Iterable[Table]) -> dict[str, Table]:
    """Return what came out under controls, or in variations, by their names."""
    return {one["name"]: one for one in findings}


def meanings(names: Iterable[str]) -> dict[str, str]:
    """Return what each of some controls is; those with random weights once, without their seed."""
    kinds = {kind_of(name) for name in names}
    return {known: meaning for known, meaning in MEANING.items() if known in kinds}


def _once_each(landscapes: Iterable[Landscape]) -> list[Landscape]:
    """Return landscapes once each. Raises RecordError for two of one name."""
    found: dict[tuple[str | None, ...], Landscape] = {}
    for one in landscapes:
        name = (one.model, one.condition, one.control, one.variation)
        if found.setdefault(name, one) != one:
            raise RecordError(
                f"{one.model}, {one.condition}: has other curves too; show one of them"
            )
    return list(found.values())


def _kind(control: str) -> str:
    return "trained" if control in TRAINED else "untrained"


def _effects(findings: Iterable[Table]) -> list[float]:
    return [one["effect"] for one in findings if one["effect"] is not None]


def _pages(**options: Any) -> Environment:
    pages = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    pages.filters |= {
        "number": _safe(number),
        "interval": _safe(interval),
        "value": _safe(effect_in_words),
        "mark": MARKS.__getitem__,
    }
    pages.globals |= {
        "as_stated": as_stated,
        "by_name": by_name,
        "flat": flat,
        "meanings": meanings,
    }
    return pages


def _safe(text: Callable[[Any], str]) -> Callable[[Any], Markup]:
    """Return a function whose text is known to hold nothing but numbers."""
    return lambda value: Markup(text(value))
