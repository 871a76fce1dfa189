"""`landscape finetune`: train a LoRA adapter as the paper does."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from harness.accuracy import ACCURACY, Accuracy
from harness.checks import check_extraction
from harness.command_options import (
    COUNT,
    DATASET_OPTION,
    LAYOUT_OPTION,
    PAPERS_NAMES,
    SLOW_TOKENIZER_OPTION,
    STORE_OPTION,
    WORKERS_OPTION,
    log_progress,
    precision_name,
)
from harness.device import default_precision
from harness.disk import write_whole
from harness.errors import SettingsError
from harness.fine_tuned import ZERO_SHOT, FineTuned
from harness.pipeline import Experiment
from harness.presets import PRESETS, TRAINING_SPLIT, choose_preset
from harness.processes import is_spread, launched_processes
from harness.protocol import Budgets, ExtractionSettings, FineTuning, Subset, TrainingOptions
from harness.questions.training_questions import divide_questions
from harness.schemas import Table, check_table, read_file
from harness.store import Store
from harness.training_record import RECORD, read_record

PRESETS_OWN = "[default: the preset's]."


# The second names are those of the paper's own script, where they differ. An option of the
# protocol that is not given is the preset's.
@click.command(context_settings=PAPERS_NAMES)
@click.option("--model", "--model-name-or-path", required=True, help="Model folder or hub name.")
@click.option("--tokenizer", "--tokenizer-name", help="Folder or hub name [default: the model's].")
@SLOW_TOKENIZER_OPTION
@DATASET_OPTION
@LAYOUT_OPTION
@click.option(
    "--train-split", default=TRAINING_SPLIT, show_default=True, help="Split that trains the model."
)
@click.option(
    "--train-from-test",
    type=COUNT,
    help="Train on so many questions a subject of test instead, which the analysis leaves out.",
)
@click.option(
    "--samples-per-subject",
    type=COUNT,
    help="Questions a subject of the train split, at most [default: the preset's, or the mask's].",
)
@click.option("--mask-path", help="A .npy of rows of the train split: draw from these only.")
@click.option("--validation", help="Split asked meanwhile [default: validation, or dev].")
@click.option("--per-subject", type=COUNT, help="Questions to test [default: the paper's].")
@click.option(
    "--preset",
    type=click.Choice(["auto", *PRESETS]),
    default="auto",
    show_default=True,
    help="The paper's settings; auto goes by the model's size.",
)
@click.option("--epochs", "--num-train-epochs", type=COUNT, help=PRESETS_OWN)
@click.option("--lora-rank", "rank", type=COUNT, help=PRESETS_OWN)
@click.option("--lora-alpha", "alpha", type=float, help=PRESETS_OWN)
@click.option("--lora-dropout", "dropout", type=float, help=PRESETS_OWN)
@click.option("--target-modules", help="Names with commas [default: every linear layer].")
@click.option("--learning-rate", type=float, help="At its peak " + PRESETS_OWN)
@click.option(
    "--lr-min-fact",
    "lowest_rate",
    type=float,
    help="At the end, as a share of the peak " + PRESETS_OWN,
)
@click.option("--warmup-ratio", type=float, help="Share of the steps " + PRESETS_OWN)
@click.option("--weight-decay", type=float, help=PRESETS_OWN)
@click.option("--batch-size", type=COUNT, help="Questions a step " + PRESETS_OWN)
@click.option(
    "--max-steps",
    "--max-train-steps",
    type=COUNT,
    help="Fewer than the epochs have.",
)
@click.option("--max-grad-norm", "--clip-grad-norm", type=float, help="[default: not clipped].")
@click.option(
    "--weight-subjects",
    "--weight-samples",
    is_flag=True,
    default=None,
    help="Subjects weigh the same.",
)
@click.option(
    "--max-length",
    "--max-seq-length",
    type=COUNT,
    help="Tokens; the start is lost.",
)
@click.option("--checkpoints", "--checkpointing-steps", type=int, help="Log-spaced " + PRESETS_OWN)
@click.option(
    "--precision", callback=precision_name, help="bfloat16 or float32 [default: as of extract]."
)
@click.option("--seed", type=int, help="Of weights, order and dropout " + PRESETS_OWN)
@click.option("--token-budget", type=COUNT, help="Tokens a pass, at most.")
@click.option("--per-device-train-batch-size", type=COUNT, help="Questions a pass, at most.")
@click.option(
    "--per-device-eval-batch-size",
    type=COUNT,
    help="Questions a pass of the test, at most.",
)
@click.option(
    "--activation-checkpointing",
    "--gradient-checkpointing",
    is_flag=True,
    help="Less memory, a third more time.",
)
@click.option(
    "--save-every",
    type=COUNT,
    default=TrainingOptions.save_every,
    show_default=True,
    help="Steps between two states that a stopped training goes on from.",
)
@click.option(
    "--evaluations",
    "--eval-steps",
    type=click.IntRange(min=0),
    default=TrainingOptions.evaluations,
    show_default=True,
    help="Times that the validation split is asked, and once before; 0: never.",
)
@WORKERS_OPTION
@click.option(
    "--log-lines",
    "--logging-steps",
    type=COUNT,
    help="Lines in the log; no bar then.",
)
@click.option("--measure-baselines", is_flag=True, help="Test the model before, too.")
@click.option("--test/--no-test", default=True, show_default=True, help="Test the model after.")
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Go on from what a stopped training left.",
)
@click.option("--attention", default="auto", show_default=True, help="attn_implementation.")
@click.option("--use-flash-attn", is_flag=True, help="The same as --attention flash_attention_2.")
@click.option("--output-dir", "--out-dir", type=Path, help="New folder that receives a copy.")
@click.option("--out-filename", default="", help="The copied record is training_NAME.json.")
@STORE_OPTION
@click.option(
    "--use-lora",
    "--low-cpu-mem-usage",
    "--save-checkpoint",
    "--compute-macro-accuracy",
    "always",
    is_flag=True,
    hidden=True,
)
def finetune(**options: Any) -> None:
    """Train a LoRA adapter to answer, test it, and print the folder of its checkpoints.

    The folder holds `final` and `step-000001` ..., PEFT adapters each, and training.json. Under
    torchrun the processes share every step; `accelerate launch --use_fsdp --fsdp_version 2` also
    spreads the model over them, and does not test it. With --output-dir the test's accuracies, by
    subject too, are in its accuracy.json.
    """
    from harness.export import new_folder

    out: Path | None = options["output_dir"]
    if out:
        out = out.resolve()
    if options["out_filename"] and not out:
        raise click.UsageError("--out-filename needs --output-dir")
    if "/" in options["out_filename"]:
        raise click.UsageError("--out-filename is a part of a file's name, without folders")
    if options["use_flash_attn"] and options["attention"] not in ("auto", "flash_attention_2"):
        raise click.UsageError(
            f"--use-flash-attn and --attention {options['attention']} contradict each other"
        )
    if options["validation"] and options["evaluations"] == 0:
        raise click.UsageError("--validation is asked at no step; leave it or --evaluations 0 out")
    log_progress(options["log_lines"])
    training = training_of(options)
    training.check()
    before, after = (options[name] and not is_spread() for name in ("measure_baselines", "test"))
    if before or after:
        check_extraction(training.experiment, ZERO_SHOT)
    if out:
        _check_copy(out, training)
    if not options["resume"]:
        if launched_processes().is_main:
            training.forget_unfinished()
        launched_processes().wait()
    adapters = training.train()
    asked = read_record(adapters).get("validated_on", {}).get("split")
    main = launched_processes().is_main
    if asked not in (None, training.validation) and main:
        # It changes nothing of the adapter, so it is no reason to train again.
        click.echo(f"its training, in the store, asked {asked!r} meanwhile", err=True)
    if asked is None and training.options.evaluations and main:
        click.echo("its training, in the store, asked nothing meanwhile", err=True)
    if out and main and not (out / RECORD).is_file():
        try:
            with new_folder(out) as unfinished:
                shutil.copytree(adapters, unfinished, dirs_exist_ok=True)
        except SettingsError:
            if not (out / RECORD).is_file():
                raise
            _check_copy(out, training)  # of a run that was faster
    tested: dict[str, Accuracy] = {}
    if is_spread() and main:
        click.echo("not tested: the model is spread over processes; extract tests it", err=True)
    if before:
        tested["before"] = _test("before", training.experiment)
    if after:
        tested["after"] = _test("after", training.fine_tuned_experiment())
    if not main:
        return
    if out and tested:
        _write_tested(out, tested, training.experiment)
    if out and options["out_filename"]:
        record = (out / RECORD).read_text(encoding="utf-8")
        write_whole(out / f"training_{options['out_filename']}.json", record)
    click.echo(out or adapters)


def _write_tested(out: Path, tested: Mapping[str, Accuracy], experiment: Experiment) -> None:
    """Write accuracies into a copy, beside those of the same questions that are there already."""
    questions = experiment.questions
    asked = {"questions": len(questions.questions), "fingerprint": questions.fingerprint}
    found = {when: one.to_table() | asked for when, one in tested.items()}
    kept = {when: one for when, one in _tested(out).items() if asked.items() <= one.items()}
    write_whole(out / ACCURACY, json.dumps(kept | found, indent=1) + "\n")


def _tested(out: Path) -> Table:
    """Return the accuracies that are in a copy already. Raises RecordError for a bad file."""
    file, way_out = out / ACCURACY, "remove it"
    if not file.is_file():
        return {}
    schema = {"type": "object", "additionalProperties": {"type": "object"}}
    return check_table(read_file(file, way_out), schema, str(file), way_out)


def _check_copy(out: Path, training: FineTuned) -> None:
    """Raise a UserError now if `out` cannot receive the training, or holds another one."""
    from harness.export import check_export

    if not (out / RECORD).is_file():
        check_export(out)
        return
    kept, wanted = read_record(out), training.record()
    # The same questions may have been asked for in another way.
    other = [
        what
        for name, what in (("version", "version"), ("model", "model"), ("FineTuning", "settings"))
        if kept.get(name) != wanted[name]
    ]
    if kept["trained_on"]["fingerprint"] != wanted["trained_on"]["fingerprint"]:
        other.append("questions")
    if other:
        raise SettingsError(
            f"{out}: holds another training (other {' and '.join(other)}); give a new folder as "
            "--output-dir"
        )
    _tested(out)


def training_of(options: Mapping[str, Any]) -> FineTuned:
    """Return what the options of the command ask for.

    Raises UserError for bad values, UsageError for options of which one would go unheard.
    """
    others = options["samples_per_subject"], options["mask_path"]
    if options["train_from_test"] and (any(others) or options["train_split"] != TRAINING_SPLIT):
        raise click.UsageError(
            "--train-from-test draws its questions; leave out --samples-per-subject, --mask-path "
            "and --train-split"
        )
    preset = choose_preset(options["preset"], options["model"])
    modules = options["target_modules"]
    given = (
        {"precision": default_precision()}
        | {
            one.name: options[one.name]
            for one in fields(FineTuning)
            if one.name != "target_modules" and options.get(one.name) is not None
        }
        | ({"target_modules": tuple(modules.split(","))} if modules else {})
    )
    settings = replace(preset.settings, **given)
    analysed = Subset(per_subject=options["per_subject"])
    training = Subset(
        options["train_split"],
        options["samples_per_subject"] or (None if options["mask_path"] else preset.per_subject),
        # Whole: the record must tell it wherever it is read again.
        rows=options["mask_path"] and os.path.abspath(options["mask_path"]),
    )
    training, validation, analysed = divide_questions(
        training, analysed, options["train_from_test"]
    )
    experiment = Experiment(
        options["model"],
        options["dataset"],
        Store(options["store"]),
        analysed,
        ExtractionSettings(max_length=settings.max_length, precision=settings.precision),
        most_shots=0,
        tokenizer=options["tokenizer"],
        attention="flash_attention_2" if options["use_flash_attn"] else options["attention"],
        budgets=Budgets(
            options["token_budget"],
            prompts=options["per_device_eval_batch_size"],
            workers=options["preprocessing_num_workers"],
        ),
    )
    return FineTuned(
        experiment,
        training,
        settings,
        TrainingOptions(
            options["token_budget"],
            options["per_device_train_batch_size"],
            options["activation_checkpointing"],
            options["save_every"],
            options["evaluations"],
            log_lines=options["log_lines"],
        ),
        options["validation"] or validation,
    )


def _test(when: str, experiment: Experiment) -> Accuracy:
    with experiment:
        found = experiment.accuracy(ZERO_SHOT)
    if launched_processes().is_main:
        click.echo(f"test accuracy {when}: {found}", err=True)
    return found
