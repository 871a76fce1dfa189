"""The robustness grid: the choices of the protocol, each varied alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.landscape import Landscape
from harness.pipeline import Experiment
from harness.protocol import PromptFormat, ShotOrder, Site


@dataclass(frozen=True)
class Variation:
    """What an experiment does otherwise than the protocol; None is as the protocol has it.

    density_k: 0 is the point-adaptive density (PAk).
    question_seed, shot_seed: of the draw of the questions, and of the order of the shots.
    header: whether prompts begin with the line that names their subject.
    """

    z: float | None = None
    id_k: int | None = None
    density_k: int | None = None
    site: Site | None = None
    shot_order: ShotOrder | None = None
    shot_seed: int | None = None
    question_seed: int | None = None
    header: bool = True

    def experiment(self, experiment: Experiment) -> Experiment:
        """Return the experiment varied."""
        geometry = {
            name: value
            for name in ("z", "id_k", "density_k")
            if (value := getattr(self, name)) is not None
        }
        if self.density_k == 0:
            geometry["density_k"] = None
        subset, extraction = experiment.subset, experiment.extraction
        if self.question_seed is not None:
            subset = replace(subset, seed=self.question_seed)
        if self.site:
            extraction = replace(extraction, site=self.site)
        return replace(
            experiment,
            geometry=replace(experiment.geometry, **geometry),
            subset=subset,
            extraction=extraction,
        )

    def prompt(self, shots: int) -> PromptFormat:
        """Return the format of the prompts with so many shots."""
        plain = PromptFormat(shots)
        seed = plain.seed if self.shot_seed is None else self.shot_seed
        return PromptFormat(shots, self.shot_order or plain.shot_order, seed, self.header)


# Z and Gride's k: the paper's appendix has them too. The others it leaves as they are.
GRID = {
    "Z 0": Variation(z=0.0),
    "Z 4": Variation(z=4.0),
    "Gride's k 8": Variation(id_k=8),
    "Gride's k 32": Variation(id_k=32),
    "density k 8": Variation(density_k=8),
    "density k 32": Variation(density_k=32),
    "density PAk": Variation(density_k=0),
    "site norm2": Variation(site="norm2"),
    "site res2": Variation(site="res2"),
    "shots in order": Variation(shot_order="kept"),
    "shots' seed 43": Variation(shot_seed=43),
    "questions' seed 43": Variation(question_seed=43),
    "no header": Variation(header=False),
}


def varied_landscapes(
    name: str,
    experiment: Experiment,
    shots: Sequence[int],
    fine_tuned: Experiment | None = None,
) -> dict[str, Landscape]:
    """Return the landscapes under the variation of this name in GRID, by condition.

    fine_tuned: the experiment with its final adapter.

    Raises GeometryError where the variation cannot be measured, such as PAk in many dimensions.
    """
    variation = GRID[name]
    experiment.release()
    varied = variation.experiment(experiment)
    prompts = [(varied, variation.prompt(number)) for number in shots]
    if fine_tuned:
        prompts.append((variation.experiment(fine_tuned), variation.prompt(0)))
    found = {}
    for which, prompt in prompts:
        if which is not varied:
            varied.release()
        landscape = replace(which.landscape(prompt), variation=name)
        found[landscape.condition] = landscape
        if which is not varied:
            which.release()
    varied.release()
    return found
