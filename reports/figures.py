"""The tables and figures of the report, from the files that a run of the claims wrote."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from harness.controls import MEANING
from harness.landscape import OVERLAP, Landscape, read_published

PUBLISHED = Path(__file__).parent / "published-curves.json"
REFERENCE = "llama-3-8b"
TITLES = {
    "intrinsic_dimension": "intrinsic dimension",
    "density_peaks": "density peaks",
    "core_fraction": "core fraction",
    "ari_subjects": "ARI with subjects",
    "ari_answers": "ARI with answers",
}
# Okabe and Ito's colours, which stay apart for colour-blind readers; line styles help in print.
STYLES = {
    "0-shot": ("#000000", ":"),
    "1-shot": ("#56B4E9", "--"),
    "2-shot": ("#009E73", "-."),
    "5-shot": ("#0072B2", "-"),
    "fine-tuned": ("#D55E00", "-"),
}


class Run:
    """One run's output folder, read."""

    def __init__(self, folder: Path) -> None:
        self.results: dict[str, Any] = json.loads((folder / "results.json").read_text("utf-8"))
        self.landscapes: dict[str, list[Landscape]] = {}
        self.checkpoints: dict[str, list[Landscape]] = {}
        for name in self.results["landscapes"]:
            landscape = Landscape.from_json((folder / name).read_text("utf-8"), name)
            if landscape.control or landscape.variation:
                continue  # what comes of them is in the verdicts
            # Checkpoints are measured on the training questions, so they are shown apart.
            kind = self.checkpoints if "@" in landscape.condition else self.landscapes
            kind.setdefault(landscape.model, []).append(landscape)

    def verdict_table(self) -> str:
        """Return the verdicts as an HTML table: a row a claim, a column a model."""
        verdicts = {(one["claim"], one["model"]): one for one in self.results["claims"]}
        claims = list(dict.fromkeys(claim for claim, _ in verdicts))
        models = list(dict.fromkeys(model for _, model in verdicts))
        head = "".join(f"<th>{_text(model).replace(':', ':<wbr>')}</th>" for model in models)
        rows = "".join(
            f"<tr><th>{_text(claim)}<small>{_text(_sentence(claim, verdicts))}</small></th>"
            + "".join(_cell(verdicts.get((claim, model))) for model in models)
            + "</tr>"
            for claim in claims
        )
        return f"<div class=wide><table class=verdicts><tr><th></th>{head}</tr>{rows}</table></div>"

    def controls_table(self) -> str:
        """Return every claim's effect beside that under each null control, as an HTML table."""
        legend = "".join(
            f"<li><b>{_text(name)}</b>: {_text(MEANING[name])}</li>" for name in MEANING
        )
        return self._beside("controls") + f"<ul>{legend}</ul>"

    def variations_table(self) -> str:
        """Return every claim's verdict beside that in each variation, as an HTML table."""
        unmeasured = "".join(
            f"<li>{_text(one)}</li>"
            for one in self.results["environment"]["settings"]["not_measured"]
        )
        return self._beside("variations") + f"<ul>{unmeasured}</ul>"

    def _beside(self, kind: str) -> str:
        judged = [one for one in self.results["claims"] if one[kind]]
        if not judged:
            option = "--controls" if kind == "controls" else "--robustness"
            return f"<p>Not measured: run the claims with {option}.</p>"
        names = list(dict.fromkeys(other["name"] for one in judged for other in one[kind]))
        head = "".join(f"<th>{_text(name)}</th>" for name in ["", "as it is", *names])
        rows = []
        for one in judged:
            found = {other["name"]: other for other in one[kind]}
            sign = "≥" if one["direction"] == "at least" else "≤"
            specific = f"<small>{_text(one['specificity'])}</small>" if kind == "controls" else ""
            rows.append(
                f"<tr><th>{_text(one['claim'])}<small>{_text(one['model'])}, {sign} "
                f"{one['threshold']:.3g}</small>{specific}</th>"
                + "".join(_finding(cell) for cell in (one, *map(found.get, names)))
                + "</tr>"
            )
        return f"<div class=wide><table class=verdicts><tr>{head}</tr>{''.join(rows)}</table></div>"

    def accuracy_table(self) -> str:
        """Return the accuracy of every measured model and condition as an HTML table."""
        rows = "".join(
            f"<tr><td>{_text(one.model)}</td><td>{_text(one.condition)}</td>"
            f"<td>{one.accuracy:.3f}</td><td>{one.origin.get('questions', '')}</td>"
            f"<td>{one.subjects}</td></tr>"
            for landscapes in self.landscapes.values()
            for one in landscapes
            if one.accuracy is not None
        )
        names = ("model", "condition", "accuracy", "questions", "subjects")
        head = "<tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"
        return f"<table>{head}{rows}</table>" if rows else "<p>No model was measured.</p>"

    def settings_table(self) -> str:
        """Return the environment and the settings as an HTML table."""
        environment = self.results["environment"]
        flat = {
            **{key: value for key, value in environment.items() if not isinstance(value, dict)},
            **environment["settings"],
            **environment["versions"],
        }
        rows = "".join(
            f"<tr><td>{_text(key)}</td><td>{_text(value)}</td></tr>" for key, value in flat.items()
        )
        return f"<table>{rows}</table>"

    def profiles(self) -> Figure:
        """Return the profiles over relative depth: measured models, and the paper's beside them."""
        published = list(read_published(PUBLISHED)[REFERENCE].values())
        columns = {**self.landscapes, f"{REFERENCE} (published)": published}
        figure, axes = plt.subplots(
            len(TITLES),
            len(columns),
            figsize=(4.6 * len(columns), 2.5 * len(TITLES)),
            squeeze=False,
            sharex=True,
            layout="constrained",
        )
        for column, (model, landscapes) in zip(axes.T, columns.items(), strict=True):
            column[0].set_title(model)
            for axis, (name, title) in zip(column, TITLES.items(), strict=True):
                for landscape in landscapes:
                    curve = landscape.curve(name)
                    color, style = STYLES.get(landscape.condition, ("#CC79A7", "-"))
                    axis.plot(
                        curve.depth, curve.values, style, color=color, label=landscape.condition
                    )
                axis.set_ylabel(title)
                axis.set_xlim(0, 1)
                axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
                axis.spines[["top", "right"]].set_visible(False)
            column[0].legend(fontsize="small", frameon=False, ncols=2)
            column[-1].set_xlabel("relative depth")
        plt.close(figure)  # the notebook shows what the cell returns; open, it would show it twice
        return figure

    def training(self) -> str:
        """Return which questions trained which model, as HTML."""
        trained = {
            one.model: one.origin["trained_on"]
            for landscapes in self.landscapes.values()
            for one in landscapes
            if isinstance(one.origin.get("trained_on"), dict)
        }
        return "".join(
            f"<p>{_text(model)} was fine-tuned on {data['questions']} questions of "
            f"{_text(data['split'])}, {data['per_subject']} or fewer a subject.</p>"
            for model, data in trained.items()
        )

    def overlaps(self) -> Figure | None:
        """Return the overlap of every model's checkpoints with step 0; None if there are none."""
        if not self.checkpoints:
            return None
        figure, axes = plt.subplots(
            1,
            len(self.checkpoints),
            figsize=(4.6 * len(self.checkpoints), 3),
            squeeze=False,
            layout="constrained",
        )
        for axis, (model, landscapes) in zip(axes[0], self.checkpoints.items(), strict=True):
            colors = plt.get_cmap("viridis_r")
            for number, landscape in enumerate(landscapes):
                curve = landscape.curve(OVERLAP)
                axis.plot(
                    curve.depth,
                    curve.values,
                    color=colors((number + 1) / (len(landscapes) + 1)),
                    label=landscape.condition.partition("@")[2],
                )
            axis.set_title(model)
            axis.set(
                xlabel="relative depth", ylabel="overlap with step 0", xlim=(0, 1), ylim=(0, 1)
            )
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(fontsize="x-small", frameon=False, ncols=3, title="after step")
        plt.close(figure)
        return figure


def _cell(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return "<td class=absent>not judged</td>"
    word = verdict["verdict"]
    stated = word == "not reproduced" and verdict["exception"]
    mark = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?"}[word]
    sign = "≥" if verdict["direction"] == "at least" else "≤"
    note = f"<small>stated: {_text(verdict['exception'])}</small>" if stated else ""
    kind = "stated" if stated else word.replace(" ", "-")
    return (
        f"<td class={kind}><b>{mark} {word}</b>"
        f"<small>{_number(verdict['effect'])}{_range(verdict['interval'])} {sign} "
        f"{verdict['threshold']:.3g}</small>{note}</td>"
    )


def _finding(found: dict[str, Any] | None) -> str:
    if found is None:
        return "<td class=absent>not touched</td>"
    kind = found["verdict"].replace(" ", "-")
    interval = _range(found["interval"])
    return f"<td class={kind}>{_number(found['effect'])}<small>{interval}</small></td>"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _range(interval: list[float | None] | None) -> str:
    if interval is None:
        return ""
    low, high = interval
    if low is None or high is None:
        return " [unbounded]"
    return f" [{low:.3g}, {high:.3g}]"


def _sentence(claim: str, verdicts: dict[tuple[str, str], dict[str, Any]]) -> str:
    return next(str(one["sentence"]) for (name, _), one in verdicts.items() if name == claim)


def _text(value: object) -> str:
    return html.escape(", ".join(map(str, value)) if isinstance(value, list) else str(value))
