"""The `landscape` command: each stage of the pipeline on its own."""

from __future__ import annotations

import logging
import math
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from harness.errors import SettingsError, UserError
from harness.fine_tuned import split_test
from harness.finetune_command import DATASET_OPTION, fine_tuning, finetune
from harness.pipeline import Experiment
from harness.processes import launched_processes
from harness.protocol import (
    Budgets,
    ExtractionSettings,
    GeometrySettings,
    PromptFormat,
    Subset,
    parse_shots,
)
from harness.store import Store, write_whole

DEFAULT_OUT = Path("reports/out")


@click.group()
def commands() -> None:
    """Measure the representation landscape of a language model."""


# The second names are those of the paper's own script, where they differ.
EXPERIMENT_OPTIONS = (
    click.option("--model", "--checkpoint-dir", help="Model folder or hub name."),
    click.option("--tokenizer", "--tokenizer-dir", help="Of another folder or hub name."),
    click.option("--use-slow-tokenizer", is_flag=True, help="Not the Rust one, if there are both."),
    click.option("--adapter", "--finetuned-path", type=Path, help="Folder of a PEFT adapter."),
    click.option("--checkpoint", help="Of the adapter: the name of a folder in its folder."),
    click.option("--condition", help="The landscape's [default: its shots, such as 0-shot]."),
    DATASET_OPTION,
    click.option("--split", default="test", show_default=True, help="Or: dev+validation."),
    click.option("--per-subject", type=int, help="Questions a subject [default: the paper's]."),
    click.option(
        "--train-from-test", type=click.IntRange(min=1),
        help="Leave out so many questions a subject: those that `finetune` takes from test.",
    ),
    click.option("--shots", "--num-few-shots", type=int, default=0, show_default=True),
    click.option("--shot-order", default="shuffled", show_default=True, help="Or: kept."),
    click.option("--seed", type=int, default=42, show_default=True, help="Of the shots' order."),
    click.option(
        "--site",
        "--target-layer",
        default="norm1",
        show_default=True,
        help="Or: norm2, res2, logits.",
    ),
    click.option("--reduction", default="last", show_default=True, help="Or: mean."),
    click.option("--use-last-token", is_flag=True, help="The same as --reduction last."),
    click.option(
        "--max-length", "--max-seq-len", type=int, help="Tokens; longer prompts lose their start."
    ),
    click.option("--layer-interval", type=int, default=1, show_default=True),
    click.option("--precision", default="bfloat16", show_default=True, help="Or: float16, float32"),
    click.option("--attention", default="auto", show_default=True, help="Of whole prompts."),
    click.option("--device-map", help="'auto' spreads a large model over all devices."),
    click.option("--offload-folder", type=Path, help="Disk for what no device holds."),
    click.option("--token-budget", type=int, help="Tokens a pass [default: the device's]."),
    click.option("--micro-batch-size", type=int, help="Prompts a pass [default: any number]."),
    click.option(
        "--cache-budget", type=int, default=Budgets.cached_tokens, show_default=True,
        help="Tokens whose keys and values are held for prompts that share them.",
    ),
    click.option("--preprocessing-num-workers", type=int, help="Processes that tokenize."),
    click.option("--logging-steps", type=click.IntRange(min=1), help="Log every so many prompts."),
    click.option("--store", type=Path, default=Path(".landscape-store"), show_default=True),
)  # fmt: skip


def _experiment_options(command: Any) -> Any:
    for option in reversed(EXPERIMENT_OPTIONS):
        command = option(command)
    return command


def _experiment(options: dict[str, Any]) -> tuple[Experiment, PromptFormat]:
    if options["model"] is None:
        raise click.UsageError("Missing option '--model'.")
    prompt = PromptFormat(options["shots"], options["shot_order"], options["seed"])
    adapter, checkpoint = options["adapter"], options["checkpoint"]
    if checkpoint and not adapter:
        raise click.UsageError("--checkpoint needs --adapter, the folder that it is in")
    if options["use_last_token"] and options["reduction"] != "last":
        raise click.UsageError("--use-last-token and --reduction mean contradict each other")
    if options["logging_steps"]:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    subset = Subset(options["split"], options["per_subject"])
    if options["train_from_test"]:
        _, subset = split_test(options["train_from_test"], subset)
    experiment = Experiment(
        options["model"],
        options["dataset"],
        Store(options["store"]),
        subset,
        ExtractionSettings(
            options["site"],
            options["reduction"],
            options["max_length"],
            options["precision"],
            options["layer_interval"],
        ),
        GeometrySettings(),
        most_shots=prompt.shots,
        adapter=adapter / checkpoint if checkpoint else adapter,
        condition=options["condition"],
        tokenizer=options["tokenizer"],
        fast_tokenizer=not options["use_slow_tokenizer"],
        attention=options["attention"],
        device_map=options["device_map"],
        offload=options["offload_folder"],
        budgets=Budgets(
            options["token_budget"],
            options["micro_batch_size"],
            options["cache_budget"],
            workers=options["preprocessing_num_workers"],
        ),
        log_every=options["logging_steps"],
    )
    return experiment, prompt


@commands.command()
@_experiment_options
@click.option("--out-dir", "--out", type=Path, help="New folder that receives plain files too.")
@click.option("--remove-duplicates", is_flag=True, help="With --out-dir: equal prompts once.")
def extract(out_dir: Path | None, remove_duplicates: bool, **options: Any) -> None:
    """Extract representations into the store and print their folder.

    With --out-dir, also write them as a safetensors file a layer and labels.csv, and print that
    folder. Under `torchrun` or `accelerate launch` the processes share the work.
    """
    from harness.export import check_export, export, first_of_each

    experiment, prompt = _experiment(options)
    if remove_duplicates and not out_dir:
        raise click.UsageError("--remove-duplicates needs --out-dir; measuring drops them always")
    if out_dir:
        out_dir = out_dir.resolve()
        check_export(out_dir)
    if experiment.adapter:
        experiment.check_unseen(experiment.adapter)
    folder = experiment.representations(prompt)
    if not launched_processes().is_main:
        return
    if out_dir:
        prompts = experiment.prompts(prompt)
        kept = first_of_each(prompts) if remove_duplicates else range(len(prompts))
        settings = experiment.origin(prompt)
        export(folder, experiment.questions.questions, kept, settings, out_dir)
    click.echo(out_dir or folder)


@commands.command()
@click.argument("folder", type=Path, required=False)
@click.option("--labels", type=Path, help="With FOLDER: CSV with columns subject and answer.")
@click.option("--subsamples", type=click.IntRange(min=0), default=0, help="With FOLDER: draws.")
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
    if out.is_dir():
        raise SettingsError(f"{out}: is a folder; give the name of a file in it")
    if not out.absolute().parent.is_dir():
        raise SettingsError(f"{out}: there is no folder {out.absolute().parent}; make it first")
    if folder is None:
        if labels or subsamples:
            raise click.UsageError("--labels and --subsamples need FOLDER.")
        experiment, prompt = _experiment(options)
        experiment.check()
        experiment.representations(prompt)
        if launched_processes().is_main:
            write_whole(out, experiment.landscape(prompt).to_json())
        return
    from harness.measure_folder import measure_folder

    if labels is None or options["model"]:
        raise click.UsageError("FOLDER needs --labels, and no --model.")
    landscape, measured = measure_folder(folder, labels, GeometrySettings(), subsamples)
    write_whole(out, landscape.to_json())
    for layer, one in zip(landscape.layer, measured, strict=True):
        for name, value in one.values.items() if subsamples else ():
            if math.isnan(value):  # what is kindred is known of MMLU's subjects only
                continue
            low, high = one.interval(name)
            click.echo(f"layer {layer:3} {name:20} {value:10.4f} {low:10.4f} to {high:10.4f}")


commands.add_command(finetune)


def _arguments(command: click.Command, values: Mapping[str, Any]) -> list[str]:
    """Return those of the option `values` that `command` knows, as typed; defaults are left out."""
    typed = []
    for option in command.params:
        value = values.get(option.name or "")
        if isinstance(option, click.Option) and value not in (None, False, option.default):
            typed += [option.opts[0]] if option.is_flag else [option.opts[0], str(value)]
    return typed


def _passed_on() -> list[click.Parameter]:
    """Return the options of extraction and of measuring that make up no condition."""
    measuring = {option.name for option in measure.params} - {"shots", "condition"}
    return [option for option in extract.params if option.name in measuring]


@commands.command(params=_passed_on())
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
        choose_cluster,
        parse_minutes,
        parse_others,
        run_here,
        submit_to_slurm,
    )

    if fine_tune_options and not fine_tune:
        raise click.UsageError(f"{fine_tune_options[0]}: options after -- need --fine-tune")
    if fine_tune and options["adapter"]:
        raise click.UsageError("--fine-tune makes an adapter; leave out --adapter")
    others = parse_others(slurm)
    resources = Resources(
        parse_minutes(time), memory, cpus, partition, cpu_partition, max_parallel, others
    )
    if not dry_run:
        cluster = choose_cluster(cluster)
    wanted = parse_shots(shots)
    for number in wanted:
        experiment, _ = _experiment({**options, "shots": number, "condition": None})
        experiment.check_inputs()
    jobs = plan(
        options["model"],
        wanted,
        _arguments(extract, options),
        out,
        gpus=gpus,
        spread=options["device_map"] is not None,
        fine_tune=_fine_tuning(options, fine_tune_options) if fine_tune else None,
    )
    for job in jobs:
        # What a command would refuse is refused before anything waits in a queue for hours.
        commands.commands[job.stage].make_context(job.stage, list(job.arguments))
    if dry_run:
        for job in jobs:
            after = f", after {', '.join(job.needs)}" if job.needs else ""
            click.echo(f"# {job.name}{after}; GPUs: {job.gpus}\n{shlex.join(job.command)}")
        return
    logs = logs or out / "logs"
    with _new_folders(out, logs):
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
    "model", "tokenizer", "use_slow_tokenizer", "dataset", "per_subject", "train_from_test",
    "store",
}  # fmt: skip


def _fine_tuning(options: Mapping[str, Any], own: tuple[str, ...]) -> list[str]:
    """Return the options of fine-tuning: those that it shares with extraction, and its own.

    Raises UsageError for one of the shared ones after `--`, where extraction would not see it, and
    UserError for bad values.
    """
    given = finetune.make_context("finetune", ["--model", options["model"], *own])
    for name in sorted(TRAINED_ON - {"model"}):
        if given.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{flag} is of all jobs; give it before --")
    shared = {name: value for name, value in options.items() if name in TRAINED_ON}
    arguments = [*_arguments(finetune, shared), *own]
    fine_tuning(finetune.make_context("finetune", list(arguments)).params).check()
    return arguments


@commands.command()
@click.argument("runs", type=Path, nargs=-1)
@click.option("--out", type=Path, help="Folder of the report [default: the run's, if it is one].")
def report(runs: tuple[Path, ...], out: Path | None) -> None:
    """Render report.html and report.md of RUNS, side by side.

    A run is the output folder of the claims (default: reports/out) or what --record wrote.
    """
    from reports.render import render

    runs = runs or (DEFAULT_OUT,)
    alone = len(runs) == 1 and runs[0].is_dir()
    folder = out or (runs[0] if alone else DEFAULT_OUT)
    if any(part.exists() and not part.is_dir() for part in (folder, *folder.parents)):
        raise SettingsError(f"{folder}: a file is in the way; give another folder as --out")
    click.echo(render(runs, folder))


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
