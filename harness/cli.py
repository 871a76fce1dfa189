"""The `landscape` command: each stage of the pipeline on its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from harness.errors import UserError
from harness.pipeline import Experiment
from harness.protocol import ExtractionSettings, GeometrySettings, PromptFormat, Subset
from harness.questions.mmlu import HUB_NAME
from harness.store import Store, write_whole


@click.group()
def commands() -> None:
    """Measure the representation landscape of a language model."""


def _experiment_options(command: Any) -> Any:
    options = (
        click.option("--model", help="Model folder or hub name."),
        click.option("--mmlu", default=HUB_NAME, show_default=True, help="Dataset folder or name."),
        click.option("--split", default="test", show_default=True),
        click.option("--per-subject", type=int, help="Questions a subject [default: the paper's]."),
        click.option("--shots", type=int, default=0, show_default=True),
        click.option("--shot-order", default="shuffled", show_default=True, help="Or: kept."),
        click.option("--site", default="norm1", show_default=True, help="Or: norm2, res2, logits."),
        click.option("--reduction", default="last", show_default=True, help="Or: mean."),
        click.option("--max-length", type=int, help="Tokens; longer prompts lose their beginning."),
        click.option("--layer-interval", type=int, default=1, show_default=True),
        click.option("--precision", default="bfloat16", show_default=True),
        click.option("--store", type=Path, default=Path(".landscape-store"), show_default=True),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _experiment(options: dict[str, Any]) -> tuple[Experiment, PromptFormat]:
    if options["model"] is None:
        raise click.UsageError("Missing option '--model'.")
    prompt = PromptFormat(options["shots"], options["shot_order"])
    experiment = Experiment(
        options["model"],
        options["mmlu"],
        Store(options["store"]),
        Subset(options["split"], options["per_subject"]),
        ExtractionSettings(
            options["site"],
            options["reduction"],
            options["max_length"],
            options["precision"],
            options["layer_interval"],
        ),
        GeometrySettings(),
        most_shots=prompt.shots,
    )
    return experiment, prompt


@commands.command()
@_experiment_options
def extract(**options: Any) -> None:
    """Extract representations into the store and print their folder (safetensors)."""
    experiment, prompt = _experiment(options)
    click.echo(experiment.representations(prompt))


@commands.command()
@click.argument("folder", type=Path, required=False)
@click.option("--labels", type=Path, help="With FOLDER: CSV with columns subject and answer.")
@click.option("--subsamples", type=int, default=0, show_default=True, help="With FOLDER.")
@_experiment_options
@click.option("--out", type=Path, required=True, help="File that receives the landscape (JSON).")
def measure(
    out: Path, folder: Path | None, labels: Path | None, subsamples: int, **options: Any
) -> None:
    """Measure a landscape, extracting first what is not in the store.

    With FOLDER, measure the representations in it instead, a .npy, .pt or .safetensors file a
    layer. --subsamples also prints each value with its smallest and largest over so many draws of
    80 % of the questions.
    """
    if folder is None:
        experiment, prompt = _experiment(options)
        experiment.check()
        write_whole(out, experiment.landscape(prompt).to_json())
        return
    from harness.measure_folder import measure_folder

    if labels is None:
        raise click.UsageError("FOLDER needs --labels.")
    landscape, measured = measure_folder(folder, labels, GeometrySettings(), subsamples)
    write_whole(out, landscape.to_json())
    for layer, one in zip(landscape.layer, measured, strict=True):
        for name, value in one.values.items() if subsamples else ():
            low, high = one.interval(name)
            click.echo(f"layer {layer:3} {name:20} {value:10.4f} {low:10.4f} to {high:10.4f}")


@commands.command()
@click.argument("folder", type=Path, default=Path("reports/out"))
def report(folder: Path) -> None:
    """Render report.html again from a run's FOLDER."""
    from reports.render import render

    click.echo(render(folder))


def main() -> None:
    """Run the command; a user's error is one sentence and exit status 2."""
    try:
        commands.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except UserError as error:
        click.echo(f"landscape: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
