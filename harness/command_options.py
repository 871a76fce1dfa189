"""The options that several commands have, and the experiment that they ask for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from harness.device import default_precision
from harness.pipeline import Experiment
from harness.protocol import Budgets, ExtractionSettings, GeometrySettings, PromptFormat, Subset
from harness.questions.mmlu import HUB_NAME
from harness.questions.training_questions import split_test
from harness.store import STORE, STORE_VARIABLE, Store
from harness.training_record import adapter_condition, training_condition, training_questions

Function = Callable[..., None]
COUNT = click.IntRange(min=1)
# The paper's own scripts write names with underscores, and precisions in short.
PAPERS_NAMES = {"token_normalize_func": lambda name: name.replace("_", "-")}
PAPERS_PRECISIONS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
DATASET_OPTION = click.option(
    "--mmlu",
    "--dataset-path",
    "dataset",
    default=HUB_NAME,
    show_default=True,
    help="Dataset folder with MMLU's layout, or hub name.",
)
# In the paper's scripts the name chooses the layout, and the path says where it lies.
LAYOUT_OPTION = click.option(
    "--dataset-name", type=click.Choice(["mmlu"]), expose_value=False, help="The layout."
)
# Heard, and without effect: transformers 5 has the fast tokenizers only.
SLOW_TOKENIZER_OPTION = click.option(
    "--use-slow-tokenizer", is_flag=True, expose_value=False, hidden=True
)
WORKERS_OPTION = click.option(
    "--preprocessing-num-workers", type=COUNT, help="Processes that tokenize."
)
STORE_OPTION = click.option(
    "--store",
    type=Path,
    envvar=STORE_VARIABLE,
    default=STORE,
    show_default=True,
    show_envvar=True,
    help="Folder of what was computed.",
)


def precision_name(_: click.Context, __: click.Parameter, typed: str | None) -> str | None:
    """Return what --precision means, of which the paper's short names are heard too."""
    return PAPERS_PRECISIONS.get(typed, typed) if typed else typed


# The second names are those of the paper's own script, where they differ.
EXPERIMENT_OPTIONS = (
    click.option("--model", "--checkpoint-dir", help="Model folder or hub name."),
    click.option(
        "--tokenizer", "--tokenizer-dir", help="Folder or hub name [default: the model's]."
    ),
    SLOW_TOKENIZER_OPTION,
    click.option("--adapter", "--finetuned-path", type=Path, help="Folder of a PEFT adapter."),
    click.option("--checkpoint", help="Folder in the adapter's, such as final."),
    click.option(
        "--on-training", is_flag=True,
        help="With --adapter: ask the questions that trained it, which its training.json tells.",
    ),
    click.option(
        "--condition",
        help="Name in the landscape [default: 0-shot, 5-shot ..., or with an adapter fine-tuned].",
    ),
    DATASET_OPTION,
    LAYOUT_OPTION,
    click.option(
        "--split", default="test", show_default=True, help="Such as validation, dev+validation."
    ),
    click.option("--per-subject", type=COUNT, help="Questions a subject [default: the paper's]."),
    click.option(
        "--mask-path", help="A .npy of rows of the split, not the paper's: ask these only."
    ),
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
        callback=precision_name,
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
    WORKERS_OPTION,
    click.option("--logging-steps", type=COUNT, help="Log every so many prompts."),
    STORE_OPTION,
)  # fmt: skip

# Of `GeometrySettings`; draws are asked for otherwise.
GEOMETRY_NAMES = ("neighbors", "id_k", "density_k", "z", "overlap_k")
GEOMETRY_OPTIONS = (
    click.option(
        "--neighbors", "--maxk", type=COUNT, default=GeometrySettings.neighbors, show_default=True,
        help="Neighbours kept for every point.",
    ),
    click.option(
        "--id-k", type=COUNT, default=GeometrySettings.id_k, show_default=True,
        help="Gride's scale: a power of two.",
    ),
    click.option(
        "--density-k", type=click.IntRange(min=0), default=GeometrySettings.density_k,
        show_default=True, help="Neighbours of the density; 0: the point-adaptive one.",
    ),
    click.option(
        "--z", type=float, default=GeometrySettings.z, show_default=True,
        help="Confidence at which two density peaks are two.",
    ),
    click.option(
        "--overlap-k", type=COUNT, default=GeometrySettings.overlap_k, show_default=True,
        help="Neighbours that an overlap compares.",
    ),
)  # fmt: skip


def geometry_of(options: Mapping[str, Any], draws: int) -> GeometrySettings:
    """Return what the values of GEOMETRY_OPTIONS ask for. Raises SettingsError."""
    given = {name: options[name] for name in GEOMETRY_NAMES}
    given["density_k"] = given["density_k"] or None
    return GeometrySettings(**given, draws=draws)


def with_options(*options: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Return a decorator that gives a command some options, in their order."""

    def decorate(command: Function) -> Function:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


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
    subset = Subset(
        options["split"],
        options["per_subject"],
        rows=options["mask_path"],
        leave_out=options["leave_out"],
    )
    if options["train_from_test"]:
        if options["leave_out"]:
            raise click.UsageError("--train-from-test says what is left out; drop --leave-out")
        _, subset = split_test(options["train_from_test"], subset)
    adapter = adapter / checkpoint if checkpoint else adapter
    condition = options["condition"]
    if options["on_training"]:
        if not adapter:
            raise click.UsageError("--on-training needs --adapter")
        if prompt.shots or subset != Subset():
            raise click.UsageError(
                "--on-training asks the questions that trained the adapter, without shots; leave "
                "out --shots, --split, --per-subject, --mask-path, --train-from-test, --leave-out"
            )
        subset = training_questions(adapter)
        condition = condition or training_condition(adapter)
    elif adapter:
        condition = condition or adapter_condition(adapter, prompt)
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
        adapter=adapter,
        condition=condition,
        on_training=options["on_training"],
        tokenizer=options["tokenizer"],
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


def log_progress(wanted: int | None) -> None:
    """Print what the harness tells of its progress to stderr, a line with the time each, if wanted.

    wanted: the option that asks for it.
    """
    if wanted:
        logging.basicConfig(format="%(asctime)s %(message)s")
        logging.getLogger("harness").setLevel(logging.INFO)
