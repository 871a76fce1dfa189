"""The report's figures: which landscapes each shows, under which caption, and as files."""

from __future__ import annotations

from collections.abc import Sequence
from operator import methodcaller
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from harness.disk import explained, write_with
from harness.landscape import OVERLAP, Landscape
from harness.names import plain_name
from harness.published import read_published
from harness.questions.categories import CATEGORIES
from reports import figures
from reports.run import AUTHORS_CURVES

REFERENCE = "llama-3-8b"
# What the checkpoints on the way are compared in.
BY_STEP = (OVERLAP, "overlap_answers")


class Panel(NamedTuple):
    """One figure: what its file is called, and what is written under it."""

    name: str
    caption: str
    figure: Figure


class Panels:
    """The figures of landscapes.

    models: that are shown, in their order. landscapes: all that was measured of them and others.
    """

    def __init__(self, models: Sequence[str], landscapes: Sequence[Landscape]) -> None:
        self.models = models
        self.landscapes = landscapes

    def plain(self, model: str) -> list[Landscape]:
        """Return a model's landscapes, without controls and variations."""
        return [
            one
            for one in self.landscapes
            if one.model == model and not one.control and not one.variation
        ]

    def own(self, model: str) -> list[Landscape]:
        """Return a model's landscapes, without checkpoints, controls and variations."""
        return [one for one in self.plain(model) if one.checkpoint is None]

    def profiles(self, quantity: str) -> list[Panel]:
        """Return one quantity over depth: every model's, and the authors' own curves beside."""
        sources = {model: self.own(model) for model in self.models}
        published = read_published(AUTHORS_CURVES)[REFERENCE]
        if published not in [{one.condition: one for one in own} for own in sources.values()]:
            sources[f"{REFERENCE}, the authors' own curves"] = list(published.values())
        having = {
            name: [one for one in landscapes if one.has(quantity)]
            for name, landscapes in sources.items()
        }
        return [
            Panel(
                f"{quantity}-{name}",
                f"{name}: {figures.QUANTITIES[quantity]}",
                figures.profile(shown, quantity),
            )
            for name, shown in having.items()
            if shown
        ]

    def controlled(self) -> list[Panel]:
        """Return the subjects' ARI under the controls, of the condition with the most shots."""
        found = []
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
                drawn = figures.under_controls(most, controls)
                found.append(Panel(f"controls-{model}", title, drawn))
        return found

    def dendrograms(self) -> list[Panel]:
        """Return the dendrogram of every landscape that has one."""
        return [
            Panel(
                f"dendrogram-{one.condition}-{model}",
                f"{model}, {one.condition}: the {len(one.tree.labels)} density peaks of layer "
                f"{one.tree.layer}, and the share of a peak's points that are of its subject",
                figures.dendrogram(one.tree, CATEGORIES),
            )
            for model in self.models
            for one in self.own(model)
            if one.tree
        ]

    def by_step(self, quantity: str) -> list[Panel]:
        """Return what fine-tuning changes, on the questions that train the model."""
        found = []
        for model in self.models:
            measured = [one for one in self.plain(model) if one.has(quantity)]
            checkpoints = [one for one in measured if one.checkpoint is not None]
            if checkpoints:
                title = f"{model}: {figures.QUANTITIES[quantity]}, by steps of fine-tuning"
                drawn = figures.by_step(checkpoints, quantity)
                found.append(Panel(f"by-step-{quantity}-{model}", title, drawn))
        return found

    def write(self, folder: Path) -> list[Path]:
        """Write every figure as a PDF into `folder`, and return the files.

        What is there of an earlier call is replaced. Raises SettingsError if the disk refuses it.
        """
        panels = [panel for quantity in figures.QUANTITIES for panel in self.profiles(quantity)]
        panels += self.controlled() + self.dendrograms()
        panels += [panel for quantity in BY_STEP for panel in self.by_step(quantity)]
        with explained(folder, "as --figures"):
            folder.mkdir(parents=True, exist_ok=True)
            files: list[Path] = []
            for name, _, figure in panels:
                file = folder / f"{plain_name(name)}.pdf"
                if file in files:
                    file = folder / f"{plain_name(name)}-{len(files)}.pdf"
                # Drawn first: matplotlib hides what a disk refuses it behind errors of its own.
                write_with(file, methodcaller("write_bytes", figures.as_pdf(figure)))
                files.append(file)
        return files
