"""`landscape extract` and `landscape measure`: the stages of one experiment."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from harness.checks import check_extraction, check_landscape
from harness.command_options import (
    EXPERIMENT_OPTIONS,
    GEOMETRY_NAMES,
    GEOMETRY_OPTIONS,
    PAPERS_NAMES,
    experiment_of,
    geometry_of,
    log_progress,
    with_options,
)
from harness.disk import check_file, explained, write_whole
from harness.landscape import Landscape
from harness.pipeline import Experiment
from harness.processes import launched_processes
from harness.protocol import PromptFormat
from harness.workload import extraction_work


@click.command(context_settings=PAPERS_NAMES)
@with_options(*EXPERIMENT_OPTIONS)
@click.option("--out-dir", "--out", type=Path, help="New folder that receives plain files too.")
@click.option("--remove-duplicates", is_flag=True, help="With --out-dir: equal prompts once.")
@click.option("--dry-run", is_flag=True, help="Only print how much there is to compute.")
@click.option("--low-cpu-mem-usage", "--save-repr", "always", is_flag=True, hidden=True)
def extract(out_dir: Path | None, remove_duplicates: bool, dry_run: bool, **options: Any) -> None:
    """Extract representations into the store and print their folder, and the accuracy on stderr.

    With --out-dir, also write them as a safetensors file a layer, with labels.csv and
    accuracy.json, and print that folder. Under `torchrun` or `accelerate launch` the processes
    share the work.
    """
    from harness.answers import answered
    from harness.export import check_export, export, first_of_each

    experiment, prompt = experiment_of(options)
    log_progress(options["logging_steps"])
    if remove_duplicates and not out_dir:
        raise click.UsageError("--remove-duplicates needs --out-dir; measuring drops them always")
    if out_dir:
        out_dir = out_dir.resolve()
        check_export(out_dir)
    check_extraction(experiment, prompt)
    if dry_run:
        click.echo(_arithmetic(experiment, prompt))
        return
    folder = experiment.representations(prompt)
    if not launched_processes().is_main:
        return
    questions = experiment.questions.questions
    accuracy = answered(folder, questions)
    click.echo(f"accuracy: {accuracy}", err=True)
    if out_dir:
        prompts = experiment.prompts(prompt)
        kept = first_of_each(prompts) if remove_duplicates else range(len(prompts))
        settings = experiment.origin(prompt, folder)
        export(folder, questions, kept, accuracy, settings, out_dir)
    click.echo(out_dir or folder)


def _arithmetic(experiment: Experiment, prompt: PromptFormat) -> str:
    """Return in words what there is to compute. Raises ModelError."""
    work = extraction_work(experiment, prompt)
    return (
        f"{work.prompts} prompts of {work.tokens} tokens, of which {work.computed} are computed "
        f"where what prompts share is once: {work.operations / 1e15:.3g} PFLOP"
    )


@click.command(context_settings=PAPERS_NAMES)
@click.argument("folder", type=Path, required=False)
@click.option("--labels", type=Path, help="With FOLDER: CSV with columns subject and answer.")
@click.option("--before", type=Path, help="With FOLDER: another, to measure the overlap with.")
@click.option("--subsamples", type=click.IntRange(min=0), default=0, help="With FOLDER: draws.")
@with_options(*EXPERIMENT_OPTIONS)
@click.option("--measure-overlap", is_flag=True, help="With --adapter: the overlap without it.")
@with_options(*GEOMETRY_OPTIONS)
@click.option("--out", type=Path, required=True, help="File that receives the landscape (JSON).")
def measure(
    out: Path,
    folder: Path | None,
    labels: Path | None,
    before: Path | None,
    subsamples: int,
    measure_overlap: bool,
    **options: Any,
) -> None:
    """Measure a landscape, extracting first what is not in the store.

    With FOLDER, measure the representations in it instead, a .npy, .pt or .safetensors file a
    layer. --subsamples also measures so many draws of 80 % of the questions, and prints each value
    with its smallest and largest over them.
    """
    check_file(out, "as --out", makes_folder=True)
    if folder is None:
        if labels or before or subsamples:
            raise click.UsageError("--labels, --before and --subsamples need FOLDER.")
        experiment, prompt = experiment_of(options)
        geometry = geometry_of(options, experiment.geometry.draws)
        experiment = replace(experiment, geometry=geometry)
        if measure_overlap and not experiment.adapter:
            raise click.UsageError("--measure-overlap needs --adapter")
        start = replace(experiment, adapter=None) if measure_overlap else None
        log_progress(options["logging_steps"])
        asked = [start, experiment] if start else [experiment]
        for one in asked:
            check_landscape(one, prompt, overlap=measure_overlap)
        for one in asked:
            with one:  # both models need not be in memory
                one.representations(prompt)
        if launched_processes().is_main:
            _write(experiment.landscape(prompt, start), out)
        return
    from harness.measure_folder import measure_folder

    context = click.get_current_context()
    of_a_model = {"measure_overlap", *options} - {"condition", *GEOMETRY_NAMES}
    for option in context.command.params:
        typed = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if typed and option.name in of_a_model:
            raise click.UsageError(f"{option.opts[0]} is of a model, FOLDER needs none")
    if labels is None:
        raise click.UsageError("FOLDER needs --labels.")
    landscape = measure_folder(folder, labels, geometry_of(options, subsamples), before)
    if options["condition"]:
        landscape = replace(landscape, condition=options["condition"])
    _write(landscape, out)
    for place, layer in enumerate(landscape.layer):
        for name, values in landscape.curves.items() if subsamples else ():
            if math.isnan(values[place]):  # what is kindred is known of MMLU's subjects only
                continue
            low, high = landscape.extremes(name)[place]
            click.echo(
                f"layer {layer:3} {name:20} {values[place]:10.4f} {low:10.4f} to {high:10.4f}"
            )


def _write(landscape: Landscape, file: Path) -> None:
    with explained(file, "as --out"):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, landscape.to_json())
