"""`landscape extract` and `landscape measure`: the stages of one experiment, and its options."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from harness.checks import check_extraction, check_landscape
from harness.device import default_precision
from harness.disk import check_file, write_whole
from harness.finetune_command import COUNT, DATASET_OPTION
from harness.pipeline import Experiment
from harness.processes import launched_processes
from harness.protocol import Budgets, ExtractionSettings, GeometrySettings, PromptFormat, Subset
from harness.questions.training_questions import split_test
from harness.store import STORE, STORE_VARIABLE, Store
from harness.workload import extraction_work

# The second names are those of the paper's own script, where they differ.
EXPERIMENT_OPTIONS = (
    click.option("--model", "--checkpoint-dir", help="Model folder or hub name."),
    click.option(
        "--tokenizer", "--tokenizer-dir", help="Folder or hub name [default: the model's]."
    ),
    click.option("--use-slow-tokenizer", is_flag=True, help="Not the fast one, if there are two."),
    click.option("--adapter", "--finetuned-path", type=Path, help="Folder of a PEFT adapter."),
    click.option("--checkpoint", help="Folder in the adapter's, such as final."),
    click.option("--condition", help="Name in the landscape [default: 0-shot, 5-shot ...]."),
    DATASET_OPTION,
    click.option(
        "--split", default="test", show_default=True, help="Such as validation, dev+validation."
    ),
    click.option("--per-subject", type=COUNT, help="Questions a subject [default: the paper's]."),
    click.option(
        "--train-from-test", type=COUNT,
        help="Leave out so many questions a subject: those that `finetune` takes from test.",
    ),
    click.option(
        "--leave-out", metavar="SPLIT",
        help="Ask no question of this split, such as dev+validation, that `finetune` trains on.",
    ),
    click.option(
        "--shots", "--num-few-shots", type=int, default=0, show_default=True,
        help="Solved questions of the subject before each question.",
    ),
    click.option("--shot-order", default="shuffled", show_default=True, help="Or kept: one order."),
    click.option("--seed", type=int, default=42, show_default=True, help="Draws the shots' order."),
    click.option("--no-header", is_flag=True, help="Prompts without the line about the subject."),
    click.option(
        "--site",
        "--target-layer",
        default="norm1",
        show_default=True,
        help="Where in a block: norm1, norm2, res2, or logits.",
    ),
    click.option(
        "--reduction", default="last", show_default=True, help="Of a prompt's tokens: last, mean."
    ),
    click.option("--use-last-token", is_flag=True, help="The same as --reduction last."),
    click.option(
        "--max-length", "--max-seq-len", type=COUNT, help="Tokens; longer prompts lose their start."
    ),
    click.option(
        "--layer-interval", type=COUNT, default=1, show_default=True,
        help="Keep every so many layers.",
    ),
    click.option(
        "--precision",
        help="bfloat16, float16 or float32 [default: bfloat16, or float32 without a GPU on a "
        "processor that lacks it].",
    ),
    click.option(
        "--attention", default="auto", show_default=True,
        help="transformers' attn_implementation, for whole prompts.",
    ),
    click.option("--device-map", help="'auto' spreads a large model over all devices."),
    click.option("--offload-folder", type=Path, help="Disk for what no device holds."),
    click.option("--token-budget", type=COUNT, help="Tokens a pass, at most."),
    click.option("--micro-batch-size", type=COUNT, help="Prompts a pass, at most."),
    click.option(
        "--cache-budget", type=COUNT,
        help="Tokens whose keys and values are held for prompts that share them [default: 65536, "
        "or what the device's memory has room for].",
    ),
    click.option("--preprocessing-num-workers", type=COUNT, help="Processes that tokenize."),
    click.option("--logging-steps", type=COUNT, help="Log every so many prompts."),
    click.option(
        "--store", type=Path, envvar=STORE_VARIABLE, default=STORE, show_default=True,
        show_envvar=True, help="Folder of what was computed.",
    ),
)  # fmt: skip


def _experiment_options(command: Any) -> Any:
    for option in reversed(EXPERIMENT_OPTIONS):
        command = option(command)
    return command


def experiment_of(options: dict[str, Any]) -> tuple[Experiment, PromptFormat]:
    """Return what the values of EXPERIMENT_OPTIONS ask for. Raises UserError, UsageError."""
    if options["model"] is None:
        raise click.UsageError("Missing option '--model'.")
    shots, order, seed = options["shots"], options["shot_order"], options["seed"]
    prompt = PromptFormat(shots, order, seed, not options["no_header"])
    adapter, checkpoint = options["adapter"], options["checkpoint"]
    if checkpoint and not adapter:
        raise click.UsageError("--checkpoint needs --adapter, the folder that it is in")
    if options["use_last_token"] and options["reduction"] != "last":
        raise click.UsageError("--use-last-token and --reduction mean contradict each other")
    if options["logging_steps"]:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    subset = Subset(options["split"], options["per_subject"], leave_out=options["leave_out"])
    if options["train_from_test"]:
        if options["leave_out"]:
            raise click.UsageError("--train-from-test says what is left out; drop --leave-out")
        _, subset = split_test(options["train_from_test"], subset)
    if options["offload_folder"] and not options["device_map"]:
        raise click.UsageError("--offload-folder needs --device-map")
    experiment = Experiment(
        options["model"],
        options["dataset"],
        Store(options["store"]),
        subset,
        ExtractionSettings(
            options["site"],
            options["reduction"],
            options["max_length"],
            options["precision"] or default_precision(),
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


@click.command()
@_experiment_options
@click.option("--out-dir", "--out", type=Path, help="New folder that receives plain files too.")
@click.option("--remove-duplicates", is_flag=True, help="With --out-dir: equal prompts once.")
@click.option("--dry-run", is_flag=True, help="Only print how much there is to compute.")
def extract(out_dir: Path | None, remove_duplicates: bool, dry_run: bool, **options: Any) -> None:
    """Extract representations into the store and print their folder.

    With --out-dir, also write them as a safetensors file a layer and labels.csv, and print that
    folder. Under `torchrun` or `accelerate launch` the processes share the work.
    """
    from harness.export import check_export, export, first_of_each

    experiment, prompt = experiment_of(options)
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
    if out_dir:
        prompts = experiment.prompts(prompt)
        kept = first_of_each(prompts) if remove_duplicates else range(len(prompts))
        settings = experiment.origin(prompt)
        export(folder, experiment.questions.questions, kept, settings, out_dir)
    click.echo(out_dir or folder)


def _arithmetic(experiment: Experiment, prompt: PromptFormat) -> str:
    """Return in words what there is to compute. Raises ModelError."""
    work = extraction_work(experiment, prompt)
    return (
        f"{work.prompts} prompts of {work.tokens} tokens, of which {work.computed} are computed "
        f"where what prompts share is once: {work.operations / 1e15:.3g} PFLOP"
    )


@click.command()
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
    layer. --subsamples also measures so many draws of 80 % of the questions, and prints each value
    with its smallest and largest over them.
    """
    check_file(out, "as --out")
    if folder is None:
        if labels or subsamples:
            raise click.UsageError("--labels and --subsamples need FOLDER.")
        experiment, prompt = experiment_of(options)
        check_landscape(experiment, prompt)
        experiment.representations(prompt)
        if launched_processes().is_main:
            write_whole(out, experiment.landscape(prompt).to_json())
        return
    from harness.measure_folder import measure_folder

    context = click.get_current_context()
    for option in context.command.params:
        typed = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if typed and option.name in options.keys() - {"condition"}:
            raise click.UsageError(f"{option.opts[0]} is of a model, FOLDER needs none")
    if labels is None:
        raise click.UsageError("FOLDER needs --labels.")
    landscape, measured = measure_folder(folder, labels, GeometrySettings(draws=subsamples))
    if options["condition"]:
        landscape = replace(landscape, condition=options["condition"])
    write_whole(out, landscape.to_json())
    for layer, one in zip(landscape.layer, measured, strict=True):
        for name, value in one.values.items() if subsamples else ():
            if math.isnan(value):  # what is kindred is known of MMLU's subjects only
                continue
            low, high = one.extremes(name)
            click.echo(f"layer {layer:3} {name:20} {value:10.4f} {low:10.4f} to {high:10.4f}")
