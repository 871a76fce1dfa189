"""What the report shows of runs: tables and figures as HTML, and the verdicts as plain text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from harness.controls import TRAINED
from harness.errors import RecordError
from harness.landscape import Landscape
from harness.published import PUBLISHED
from reports import figures
from reports.pages import MARKS, pages, texts
from reports.panels import BY_STEP, Panel, Panels
from reports.run import Run
from reports.scale import Scale
from reports.verdict import OURS, PAPER, Outcome, Skipped, Verdict


class Report:
    """What is shown of runs, side by side.

    models: what was measured, or the published curves if nothing else was judged.

    Raises RecordError for published curves that are not the same in two runs.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.verdicts = {(one.claim, one.model): one for run in runs for one in run.claims}
        self.skipped = {(one.claim, one.model): one for run in runs for one in run.skipped}
        self.landscapes = _once_each(one for run in runs for one in run.landscapes)
        judged = dict.fromkeys(model for run in runs for model in run.models)
        self.published = [model for model in judged if model.startswith(PUBLISHED)]
        self.models = [model for model in judged if model not in self.published]
        if not self.models:
            self.models, self.published = self.published, []
        self.panels = Panels(self.models, self.landscapes)
        self.pages = pages()
        self.texts = texts()

    def show(self, template: str, **values: Any) -> str:
        """Return one of `reports/templates`, filled in."""
        templates = self.pages if template.endswith(".html") else self.texts
        return templates.get_template(template).render(report=self, **values)

    @cached_property
    def sections(self) -> dict[str, dict[str, str]]:
        """Of every section: the sentence of each of its claims, by claim; other papers' last.

        Of a claim that two runs have, as the last of them has it.
        """
        found: dict[str, dict[str, str]] = {}
        told: list[Verdict | Skipped] = []
        for run in self.runs:
            told += [*run.claims, *run.skipped]
        claims = {one.claim: one for one in told}
        for one in claims.values():
            found.setdefault(one.section, {})[one.claim] = one.sentence
        other = {one.section for one in claims.values() if one.source not in (PAPER, OURS)}
        return dict(sorted(found.items(), key=lambda item: (item[0] in other, item[0])))

    def in_order(self) -> Iterator[tuple[str, str, Verdict]]:
        """Yield all verdicts with their claims and models, by sections."""
        for claims in self.sections.values():
            for claim in claims:
                for model in self.models + self.published:
                    if (claim, model) in self.verdicts:
                        yield claim, model, self.verdicts[claim, model]

    def meaning(self, claim: str) -> str:
        """Return what the effects of a claim are; nothing where no model was judged by it."""
        found = (one.meaning for one in self.verdicts.values() if one.claim == claim)
        return next(found, "")

    @property
    def _claims(self) -> list[Verdict | Skipped]:
        return [*self.verdicts.values(), *self.skipped.values()]

    def sources(self, claim: str) -> str:
        """Return whose finding a claim is; nothing for the paper's own."""
        found = {one.source for one in self._claims if one.claim == claim}
        return ", ".join(sorted(found - {PAPER}))

    def tally(self, model: str, *, papers: bool = True) -> dict[str, int | None]:
        """Return how many claims came out how for one model, and how many were not judged.

        `decided` are those reproduced of which the controls say whether they are specific to
        learning, and `specific` those of them that are; both are None where no control was
        measured.

        papers: of the paper's own claims; or of all others.
        """
        judged = [
            one
            for one in self.verdicts.values()
            if one.model == model and (one.source == PAPER) == papers
        ]
        words: list[str] = [one.verdict for one in judged]
        controlled = any(one.controls for one in judged)
        decided = [
            one.specificity == "specific to learning"
            for one in judged
            if one.verdict == "reproduced" and one.specificity not in (None, "inconclusive")
        ]
        return {
            **{word: words.count(word) for word in MARKS},
            "stated": sum(one.as_stated for one in judged),
            "decided": len(decided) if controlled else None,
            "specific": sum(decided) if controlled else None,
            "not judged": sum(
                one.model == model and (one.source == PAPER) == papers
                for one in self.skipped.values()
            ),
        }

    def tally_in_words(self, model: str) -> str:
        """Return the tally of the paper's claims, and of others, as a sentence has it."""
        if not any(one.model == model for one in self._claims):
            return "measured, and not judged; pytest claims judges it with --recorded"
        count, others = self.tally(model), self.tally(model, papers=False)
        decided, specific = count["decided"], ""
        if decided is not None:
            specific = f" (controls decide on {decided} of them: {count['specific']} specific to "
            specific += "learning)"
        stated = f" ({count['stated']} as stated beside the claim)" if count["stated"] else ""
        return (
            f"{count['reproduced']} of the paper's findings reproduced{specific}, "
            f"{count['not reproduced']} not{stated}, {count['inconclusive']} inconclusive, "
            f"{count['not judged']} not judged; of those that are not the paper's "
            f"{others['reproduced']} reproduced, {others['not reproduced']} not, "
            f"{others['inconclusive']} inconclusive, {others['not judged']} not judged"
        )

    def basis_in_words(self, model: str) -> str:
        """Return how many questions a model was asked, and the shares that it got right.

        Nothing where that is not known.
        """
        told = self.panels.own(model)
        own = [one for one in told if isinstance(one.origin.get("questions"), int)]
        if not own:
            return ""
        found = f"{own[0].origin['questions']} questions of {own[0].subjects} subjects"
        right = [f"{one.condition} {one.accuracy:.1%}" for one in own if one.accuracy is not None]
        return found + (f"; right: {', '.join(right)}" if right else "")

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
        judged = [one for one in self.verdicts.values() if model in (None, one.model)]
        return list(dict.fromkeys(other.name for one in judged for other in getattr(one, kind)))

    def measured(self) -> list[dict[str, Any]]:
        """Return what was measured, a table a model and condition.

        `peaks` is the range of the number of density peaks over layers, in words.
        """
        found = []
        for model in self.models:
            for one in self.panels.plain(model):
                cost, trained = (one.origin.get(name) for name in ("cost", "trained_on"))
                peaks = one.curves["density_peaks"] if one.has("density_peaks") else ()
                known = [int(count) for count in peaks if math.isfinite(count)]
                found.append(
                    {
                        "landscape": one,
                        "peaks": f"{min(known)} to {max(known)}" if known else "",
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
        return "".join(self._shown(self.panels.profiles(one)) for one in quantities)

    def controlled(self) -> str:
        """Return the panels of the subjects' ARI under the controls; nothing if there are none."""
        return self._shown(self.panels.controlled())

    def dendrograms(self) -> str:
        """Return the dendrogram of every landscape that has one."""
        return self._shown(self.panels.dendrograms())

    def by_step(self) -> str:
        """Return the panels of what fine-tuning changes, on the questions that train the model."""
        return "".join(self._shown(self.panels.by_step(one)) for one in BY_STEP)

    def bars(self, verdict: Verdict, scale: Scale) -> list[dict[str, Any]]:
        """Return what a verdict's bar shows: its effect, then its controls', as places on `scale`.

        The place of an effect that is not known is None.
        """
        shown: list[tuple[str, str, Verdict | Outcome]] = [("effect", "own", verdict)]
        shown += [(one.name, _kind(one.name), one) for one in verdict.controls]
        return [
            {
                "name": name,
                "kind": kind,
                "at": None if math.isnan(one.effect) else scale.at(one.effect),
                "beyond": scale.beyond(one.effect),
                "ends": one.interval and tuple(map(scale.at, one.interval)),
                "cut": one.interval and tuple(map(scale.beyond, one.interval)),
                "text": one.effect_in_words,
            }
            for name, kind, one in shown
        ]

    def _shown(self, panels: Sequence[Panel]) -> str:
        shown = [(caption, figures.as_image(figure)) for _, caption, figure in panels]
        return self.show("panels.html", panels=shown) if shown else ""


def _once_each(landscapes: Iterable[Landscape]) -> list[Landscape]:
    """Return landscapes once each. Raises RecordError for two of one name."""
    found: dict[tuple[str | None, ...], Landscape] = {}
    for one in landscapes:
        if found.setdefault(one.key, one) != one:
            raise RecordError(
                f"{one.model}, {one.condition}: has other curves too; show one of them"
            )
    return list(found.values())


def _kind(control: str) -> str:
    return "trained" if control in TRAINED else "untrained"
