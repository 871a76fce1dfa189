"""`landscape submit`: the stages of several conditions as jobs with dependencies."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from harness.checks import check_landscape
from harness.command_options import PAPERS_NAMES, experiment_of
from harness.device import default_precision
from harness.errors import SettingsError, UserError
from harness.experiment_commands import extract, measure
from harness.fine_tuned import FineTuned
from harness.finetune_command import finetune, training_of
from harness.protocol import parse_shots

STAGES = {"extract": extract, "measure": measure, "finetune": finetune}


def _arguments(command: click.Command, values: Mapping[str, Any]) -> list[str]:
    """Return those of the option `values` that `command` knows, as typed; defaults are left out."""
    typed = []
    for option in command.params:
        value = values.get(option.name or "")
        given = value is not None and value is not False  # 0 is a value
        # What a variable of the jobs' environment could say otherwise is said, default or not.
        said = value != option.default or getattr(option, "envvar", None)
        if isinstance(option, click.Option) and given and said:
            typed += [option.opts[0]] if option.is_flag else [option.opts[0], str(value)]
    return typed


# Options of an experiment that the jobs do not have.
OF_NO_JOB = {"condition": None, "on_training": False}


def _passed_on() -> list[click.Parameter]:
    """Return the options of extraction and of measuring that make up no condition."""
    measuring = {option.name for option in measure.params} - {"shots", *OF_NO_JOB}
    return [option for option in extract.params if option.name in measuring]


@click.command(params=_passed_on(), context_settings=PAPERS_NAMES)
@click.option("--shots", "--num-few-shots", default="0", show_default=True, help="Such as 0,1,5.")
@click.option("--fine-tune", is_flag=True, help="Also fine-tune; measure that without shots.")
@click.option("--out", type=Path, required=True, help="Folder that receives the landscapes.")
@click.option("--logs", type=Path, help="Folder of the jobs' log files [default: OUT/logs].")
@click.option(
    "--cluster",
    type=click.Choice(["auto", "slurm", "local", "debug"]),
    default="auto",
    show_default=True,
    help="auto: slurm where sbatch is, else local. local: on this machine. debug: in this process.",
)
@click.option("--time", default="4:00:00", show_default=True, help="Limit a job: minutes, H:MM:SS.")
@click.option("--gpus", type=click.IntRange(min=0), default=1, show_default=True, help="A job.")
@click.option("--cpus", type=click.IntRange(min=1), help="A job.")
@click.option("--memory", type=click.FloatRange(min=0, min_open=True), help="GB a job.")
@click.option("--partition", help="Of the jobs.")
@click.option("--cpu-partition", help="Of the jobs that need no GPU, if another.")
@click.option(
    "--max-parallel", type=click.IntRange(min=1), help="Extractions at a time; without SLURM, jobs."
)
@click.option("--slurm", multiple=True, metavar="KEY=VALUE", help="Any other option of sbatch.")
@click.option("--dry-run", is_flag=True, help="Only print the jobs, as a shell script.")
@click.argument("fine_tune_options", nargs=-1, metavar="[-- OPTIONS OF FINETUNE]")
def submit(
    shots: str,
    fine_tune: bool,
    out: Path,
    logs: Path | None,
    cluster: str,
    time: str,
    gpus: int,
    cpus: int | None,
    memory: float | None,
    partition: str | None,
    cpu_partition: str | None,
    max_parallel: int | None,
    slurm: tuple[str, ...],
    dry_run: bool,
    fine_tune_options: tuple[str, ...],
    **options: Any,
) -> None:
    """Extract and measure each condition as jobs on a SLURM cluster.

    Extraction asks for the GPUs; measuring starts when it ended well, and asks for none. A job that
    is stopped goes on from where it was. Without SLURM the jobs run on this machine, one by one or
    --max-parallel at a time. With --fine-tune, a fine-tuning job comes first; its own options
    follow after --.
    """
    from harness.jobs import plan
    from harness.slurm import (
        Resources,
        check_cluster,
        choose_cluster,
        parse_minutes,
        parse_others,
        run_here,
        sbatch_options,
        submit_to_slurm,
    )

    if fine_tune_options and not fine_tune:
        raise click.UsageError(f"{fine_tune_options[0]}: options after -- need --fine-tune")
    if fine_tune and options["adapter"]:
        raise click.UsageError("--fine-tune makes an adapter; leave out --adapter")
    if fine_tune and options["device_map"]:
        raise click.UsageError(
            "--fine-tune trains a whole model a GPU; where it needs --device-map, train it with "
            "accelerate launch --use_fsdp (README), and give that --adapter"
        )
    others = parse_others(slurm)
    resources = Resources(
        parse_minutes(time), memory, cpus, partition, cpu_partition, max_parallel, others
    )
    cluster = choose_cluster(cluster)
    if not dry_run:
        check_cluster(cluster)
    wanted = parse_shots(shots)
    here = cluster != "slurm"
    if options["precision"] is None:
        # Said to all jobs: the node that measures may have no GPU, and would choose otherwise.
        options["precision"] = default_precision(None if here and gpus else gpus > 0)
    trained = None
    if fine_tune:
        trained, training = _shared_training(options, fine_tune_options, max(gpus, 1))
        learnt, analysed = training.training.split.split("+"), options["split"].split("+")
        if not options["train_from_test"] and set(learnt) & set(analysed):
            raise click.UsageError(
                "--train-split takes what is analysed; give --train-from-test N before --, or "
                "another --split"
            )
        if not options["train_from_test"]:  # in all conditions, so that they have one analysis
            left = (options["leave_out"] or "").split("+")
            options["leave_out"] = "+".join(filter(None, dict.fromkeys([*left, *learnt])))
    experiment, prompt = experiment_of({**options, **OF_NO_JOB, "shots": max(wanted)})
    check_landscape(experiment, prompt, reads_weights=False)
    jobs = plan(
        options["model"],
        wanted,
        _arguments(extract, options),
        out,
        gpus=gpus,
        spread=options["device_map"] is not None,
        adapter=experiment.adapter,
        fine_tune=trained,
    )
    for job in jobs:
        # What a command would refuse is refused before anything waits in a queue for hours.
        STAGES[job.stage].make_context(job.stage, list(job.arguments))
    judging = f"judge it with --precision {options['precision']}"
    logs = logs or out / "logs"
    if dry_run:
        click.echo(f"# {judging}", err=True)
        for job in jobs:
            after = f", after {', '.join(job.needs)}" if job.needs else ""
            asked = f"GPUs: {job.gpus}" if here else f"sbatch {sbatch_options(job, resources)}"
            click.echo(f"# {job.name}{after}; {asked}\n{shlex.join(job.command)}")
        return
    with _new_folders(out, logs):
        click.echo(judging, err=True)
        if cluster == "slurm":
            for name, job_id in submit_to_slurm(jobs, resources, logs).items():
                click.echo(f"{name}: job {job_id}")
        elif not run_here(jobs, cluster, max_parallel or 1, logs, click.echo):
            sys.exit(1)


@contextmanager
def _new_folders(*folders: Path) -> Iterator[None]:
    """Make those `folders` that are missing, and remove them again after a UserError."""
    missing = [folder for folder in folders if not folder.exists()]
    try:
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SettingsError(f"{folder}: cannot be a folder ({error.strerror})") from error
        yield
    except UserError:
        for folder in missing:
            shutil.rmtree(folder, ignore_errors=True)
        raise


# What fine-tuning has in common with the extraction of its adapter: model, questions and store.
# Other options of the same names need not mean the same, such as those of a batch's size.
TRAINED_ON = {
    "model", "tokenizer", "dataset", "per_subject", "train_from_test", "store",
}  # fmt: skip


def _shared_training(
    options: Mapping[str, Any], own: tuple[str, ...], processes: int
) -> tuple[list[str], FineTuned]:
    """Return the options of fine-tuning, those that it shares with extraction and its own.

    Beside them, what they ask for.

    Raises UsageError for one of the shared ones after `--`, where extraction would not see it, and
    UserError for bad values.
    """
    given = finetune.make_context("finetune", ["--model", options["model"], *own])
    for option in finetune.params:
        typed = given.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        other = option.name != "model" or given.params["model"] != options["model"]
        if option.name in TRAINED_ON and typed and other:
            raise click.UsageError(f"{option.opts[0]} is of all jobs; give it before --")
        if option.name == "output_dir" and typed:
            raise click.UsageError(f"{option.opts[0]} is said by the jobs, in --out; leave it out")
    if not given.params["resume"]:
        raise click.UsageError(
            "--no-resume would begin anew whenever a job goes on after its time limit; leave it "
            "out, and give a new --store"
        )
    shared = {name: value for name, value in options.items() if name in TRAINED_ON}
    # As the claims do, which then find the training; after -- they may be said otherwise.
    shared |= {name: options[name] for name in ("max_length", "precision")}
    arguments = [*_arguments(finetune, shared), *own]
    training = training_of(finetune.make_context("finetune", list(arguments)).params)
    training.check(processes)
    return arguments, training
