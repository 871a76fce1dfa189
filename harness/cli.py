"""The `landscape` command: each stage of the pipeline on its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from harness.disk import check_folder
from harness.errors import SettingsError, in_a_sentence
from harness.experiment_commands import extract, measure
from harness.finetune_command import finetune
from harness.submit_command import submit


@click.group()
def commands() -> None:
    """Measure the representation landscape of a language model."""


for command in (extract, measure, finetune, submit):
    commands.add_command(command)


@commands.command()
@click.argument("runs", type=Path, nargs=-1)
@click.option("--out", type=Path, help="Folder of the report [default: the run's, if it is one].")
@click.option("--figures", type=Path, help="Folder that receives every figure as a PDF too.")
def report(runs: tuple[Path, ...], out: Path | None, figures: Path | None) -> None:
    """Render report.html and report.md of RUNS, side by side.

    A run is the output folder of the claims (default: reports/out), what --record wrote, or what
    measure or submit wrote, of which no claim was judged.
    """
    from reports.render import render

    runs = runs or (Path("reports/out"),)
    for run in runs:
        if not os.path.exists(run):
            raise SettingsError(
                f"{run}: no such run; give the --out of pytest claims, a record, or landscapes"
            )
    if not out and (len(runs) > 1 or not os.path.isdir(runs[0])):
        raise SettingsError("--out is not given; several runs, or a record, need a folder to go to")
    folder = out or runs[0]
    check_folder(folder, "as --out")
    if figures:
        check_folder(figures, "as --figures")
    click.echo(render(runs, folder, figures))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a user's error is one sentence and exit status 2.

    arguments: of the command; None is what was typed.
    """
    try:
        commands.main(arguments, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"landscape: {error.format_message()}", err=True)
        sys.exit(2)
    except click.Abort as error:
        if isinstance(error.__cause__, EOFError):
            raise error.__cause__ from None  # click takes a file that ended for a user who did
        sys.exit(130)
    except Exception as error:
        sentence = in_a_sentence(error)
        if sentence is None:
            raise
        click.echo(f"landscape: {sentence}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
