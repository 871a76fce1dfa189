"""`landscape finetune`: its options, killed runs, and several processes."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from fixtures.cases import TOY
from harness.cli import commands
from harness.device import default_precision
from harness.errors import DatasetError, UserError
from harness.finetune_command import finetune, training_of
from harness.landscape import OVERLAP, Landscape
from harness.models import parameter_count
from harness.pipeline import Experiment
from harness.presets import PRESETS, choose_preset
from harness.protocol import Subset
from harness.questions.mmlu import load_questions
from harness.store import Store
from harness.training_record import checkpoint_name, checkpoint_step
from tests.running import MODEL, QUESTIONS, ROOT, Command, Together, launched
from tests.trying import refused

SMALL = [
    "--model", MODEL, "--mmlu", QUESTIONS, "--precision", "float32", "--samples-per-subject", "3",
    "--epochs", "2", "--lora-rank", "4", "--learning-rate", "3e-3", "--per-subject", "2",
    "--checkpointing-steps", "2",
]  # fmt: skip


class Stopped(Exception):
    pass


def run(tmp_path: Path, *options: str) -> Path:
    command = ["finetune", *SMALL, "--store", str(tmp_path / "store"), *options]
    done = CliRunner().invoke(commands, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return Path(done.stdout.strip().splitlines()[-1])


def adapters(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    files = sorted(folder.glob("*/adapter_model.safetensors"))
    return {file.parent.name: load_file(file) for file in files}


def test_the_names_of_the_papers_script_mean_the_same(tmp_path: Path) -> None:
    mask = tmp_path / "mask.npy"
    np.save(mask, np.arange(0, 320, 2))
    folder = run(
        tmp_path, "--tokenizer_name", MODEL, "--use_lora", "--lora_alpha", "8", "--lora_dropout",
        "0.2", "--low_cpu_mem_usage", "--max_seq_length", "512", "--batch_size", "8",
        "--preprocessing_num_workers", "2", "--per_device_train_batch_size", "1",
        "--per_device_eval_batch_size", "5", "--warmup_ratio", "0.1", "--weight_decay", "0.01",
        "--num_train_epochs", "1", "--output_dir", str(tmp_path / "out"), "--out_filename", "mine",
        "--logging_steps", "2", "--eval_steps", "1", "--validation", "dev", "--weight_samples",
        "--measure_baselines", "--mask_path", str(mask), "--clip_grad_norm", "1", "--seed", "7",
        "--gradient_checkpointing",
    )  # fmt: skip
    assert folder == tmp_path / "out"
    record = json.loads((folder / "training_mine.json").read_text())
    settings = record["FineTuning"]
    assert settings["rank"] == 4 and settings["alpha"] == 8 and settings["dropout"] == 0.2
    assert settings["weight_subjects"] and settings["max_grad_norm"] == 1 and settings["seed"] == 7
    assert json.loads((folder / "training.json").read_text()) == record
    assert settings["warmup_ratio"] == 0.1 and settings["max_length"] == 512
    drawn = load_questions(QUESTIONS, Subset("dev+validation", 3, rows=str(mask)), 0).questions
    tested = json.loads((folder / "accuracy.json").read_text())
    for one in (tested["before"], tested["after"]):
        subjects = one["by_subject"].values()  # two questions each
        assert len(subjects) == 16 and set(subjects) <= {0.0, 0.5, 1.0}
        assert one["micro"] == pytest.approx(one["macro"]) == pytest.approx(np.mean([*subjects]))
    assert record["trained_on"]["questions"] == len(drawn) < 48
    assert all(question.row % 2 == 0 for question in drawn)
    assert len(record["loss"]) == -(-len(drawn) // 8)
    assert list(record["validation"]) == ["0", str(len(record["loss"]))]
    config = json.loads((folder / "final" / "adapter_config.json").read_text())
    assert config["r"] == 4 and len(config["target_modules"]) == 7


def test_the_presets_are_the_papers_and_go_by_size() -> None:
    assert parameter_count(MODEL) == sum(
        tensor.numel() for tensor in load_file(TOY / "model" / "model.safetensors").values()
    )
    assert choose_preset("auto", MODEL) == PRESETS["8b"]
    large = PRESETS["70b"].settings
    assert (large.rank, large.alpha, large.learning_rate, large.epochs) == (128, 32, 1e-4, 4)
    assert PRESETS["llama-2"].per_subject == 20


Process = Command | Together | subprocess.Popen[str]
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def alone(*given: str) -> Process:
    return Command("harness.cli", *given)


def shared(*given: str) -> Process:
    return launched(*TORCHRUN, "harness.cli", *given)


def spread(*given: str) -> Process:
    return launched(*TORCHRUN, "tests.spread_on_cpus", *given)


def spread_over_copies(*given: str) -> Process:
    return Together("tests.spread_on_cpus", *given)


def start(store: Path, way: Callable[..., Process], *options: str) -> Process:
    given = ["finetune", *SMALL, *options, "--store", str(store), "--save-every", "2"]
    given += ["--token-budget", "300", "--clip-grad-norm", "0.5"]  # several passes a step
    return way(*given)


def finish(process: Process) -> Path:
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return Path(out.strip().splitlines()[-1])


def trained(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return found


# The output layer is in no block that FSDP gathers for itself: after the validation, which has no
# backward pass, it is still whole when the state is saved.
OUTERMOST = ["--eval-steps", "6", "--validation", "dev", "--target-modules", "q_proj,lm_head"]
OUTERMOST += ["--precision", default_precision()]  # two processes take minutes where it is slow


@pytest.mark.parametrize(
    ("way", "options"),
    [(alone, ["--precision", "float32", "--eval-steps", "0"]), (spread_over_copies, OUTERMOST)],
    ids=["one process", "spread over two"],
)
def test_killed_and_started_again_it_makes_the_same_adapters(
    tmp_path: Path, way: Callable[..., Command | Together], options: list[str]
) -> None:
    dropping = ["--lora-dropout", "0.1", *options, "--no-test"]
    undisturbed = finish(start(tmp_path / "undisturbed", way, *dropping))
    process = start(tmp_path / "killed", way, *dropping)
    while not list((tmp_path / "killed" / "adapters").glob(".*.unfinished/.state-00000[234]")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.kill()
    assert not list((tmp_path / "killed" / "adapters").glob("[!.]*/training.json"))
    resumed = finish(start(tmp_path / "killed", way, *dropping))
    assert len(trained(undisturbed)["loss"]) == 6
    assert trained(resumed)["loss"] == trained(undisturbed)["loss"]
    wanted, found = adapters(undisturbed), adapters(resumed)
    assert found.keys() == wanted.keys() == {"final", "step-000001", "step-000002"}
    for name, tensors in wanted.items():
        assert all(torch.equal(found[name][key], tensor) for key, tensor in tensors.items())


WITHOUT_CHANCE = ["--lora-dropout", "0", "--eval-steps", "3", "--validation", "dev", "--no-test"]


@pytest.fixture(scope="module")
def by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes."""
    return finish(start(tmp_path_factory.mktemp("one"), alone, *WITHOUT_CHANCE))


@pytest.mark.parametrize("way", [shared, spread], ids=["steps shared", "model spread"])
def test_two_processes_agree_with_one(
    tmp_path: Path, by_one: Path, way: Callable[..., Process]
) -> None:
    both = finish(start(tmp_path / "both", way, *WITHOUT_CHANCE))
    assert trained(both)["loss"] == pytest.approx(trained(by_one)["loss"], abs=1e-5)
    assert trained(both)["validation"]["6"] == trained(by_one)["validation"]["6"]
    for name, tensors in adapters(by_one).items():
        for key, tensor in tensors.items():
            torch.testing.assert_close(adapters(both)[name][key], tensor, rtol=1e-3, atol=1e-5)


def test_bfloat16_is_trained_spread_over_two(tmp_path: Path) -> None:
    once = ["--precision", "bfloat16", "--max-train-steps", "1", "--eval-steps", "0", "--no-test"]
    made = finish(start(tmp_path, spread_over_copies, *once))
    assert len(trained(made)["loss"]) == 1 and np.isfinite(trained(made)["loss"]).all()
    learnt = [one for name, one in adapters(made)["final"].items() if "lora_B" in name]
    assert all(one.isfinite().all() for one in learnt) and any(one.any() for one in learnt)


def test_an_output_folder_of_another_training_is_refused_before_training(tmp_path: Path) -> None:
    quick = ["--max-train-steps", "1", "--no-test", "--output-dir", str(tmp_path / "out")]
    assert run(tmp_path, *quick) == run(tmp_path, *quick)
    # The same questions, known by another name of their folder.
    (tmp_path / "named").symlink_to(QUESTIONS)
    assert run(tmp_path, *quick, "--mmlu", str(tmp_path / "named")) == tmp_path / "out"
    before = list((tmp_path / "store" / "adapters").iterdir())
    with pytest.raises(UserError, match=r"holds another training \(other settings\)"):
        run(tmp_path, *quick, "--seed", "1")
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    for field, value, what in (
        ("version", 0, "version"),
        ("trained_on", record["trained_on"] | {"fingerprint": "x"}, "questions"),
    ):
        (tmp_path / "out" / "training.json").write_text(json.dumps(record | {field: value}))
        with pytest.raises(UserError, match=rf"holds another training \(other {what}\)"):
            run(tmp_path, *quick)
    assert list((tmp_path / "store" / "adapters").iterdir()) == before


def test_what_another_run_is_at_work_on_is_not_dropped(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def drop(folder: Path) -> None:
        (folder / "state").touch()
        with pytest.raises(UserError, match="another run is at work"):
            Store(tmp_path).forget_unfinished("kind", "key")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.find_or_make("kind", "key", drop)
    assert (tmp_path / "kind" / ".key.unfinished" / "state").exists()
    store.forget_unfinished("kind", "key")
    assert not (tmp_path / "kind" / ".key.unfinished").exists()


def test_an_fsdp_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="--fsdp_version 2"):
        run(tmp_path)
    monkeypatch.setenv("FSDP_VERSION", "2")
    for none in ({}, {"FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}):
        for name, value in none.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match="--fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP"):
            run(tmp_path)
    monkeypatch.setenv("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    with pytest.raises(UserError, match="use --activation-checkpointing"):
        run(tmp_path)
    monkeypatch.delenv("FSDP_ACTIVATION_CHECKPOINTING")
    with pytest.raises(UserError, match="over several GPUs only"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--mask-path", "nowhere.npy"], "nowhere.npy: cannot be read as .npy"),
        (["--train-split", "nowhere"], "split 'nowhere'"),
        (["--precision", "float16"], "precision is float16; fine-tune in bfloat16 or float32"),
        (["--validation", "nowhere"], "split 'nowhere'"),
        (
            ["--target-modules", "q_proj,no_proj"],
            "'no_proj' is not in this model; its modules are called act_fn",
        ),
        (["--learning-rate", "0"], "learning_rate is 0.0; give more than 0"),
        (["--learning-rate", "inf"], "learning_rate is inf; give more than 0"),
        (["--seed", str(2**64)], "seed is 18446744073709551616; give 0 to"),
        (["--precision", "int8"], "unknown precision 'int8'"),
        (["--output-dir", str(ROOT)], "holds something already"),
        (["--output-dir", "/dev/null/out"], "/dev/null/out: a file is in the way"),
        (["--out-filename", "a/b", "--output-dir", "a"], "is a part of a file's name"),
        (["--out-filename", "a"], "--out-filename needs --output-dir"),
        (["--train-split", "dev", "--train-from-test", "1"], "leave out --samples-per-subject"),
        (["--use-flash-attn", "--attention", "eager"], "--attention eager contradict"),
        (["--validation", "dev", "--evaluations", "0"], "--validation is asked at no step"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, options: list[str], sentence: str) -> None:
    common = ["finetune", "--model", MODEL, "--mmlu", QUESTIONS, "--store", str(tmp_path / "store")]
    refused([*common, *options], sentence, tmp_path)


def without(split: str, folder: Path) -> str:
    """The toy's questions without one of their splits."""
    copy = shutil.copytree(QUESTIONS, folder)
    next((copy / "all").glob(f"{split}-*")).unlink()
    card = (copy / "README.md").read_text()
    lines = f"  - split: {split}\n    path: all/{split}-*.parquet\n"
    (copy / "README.md").write_text(card.replace(lines, ""))
    return str(copy)


def test_what_cannot_be_tested_is_not_trained(tmp_path: Path) -> None:
    untested = without("test", tmp_path / "questions")
    given = ["finetune", *SMALL, "--mmlu", untested, "--store", str(tmp_path / "store")]
    refused(given, "split 'test'", tmp_path)
    folder = run(tmp_path, "--mmlu", untested, "--no-test", "--max-train-steps", "1")
    assert (folder / "final").is_dir()


def test_a_training_is_handed_out_before_it_is_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: object) -> None:
        raise Stopped

    options = ["--output-dir", str(tmp_path / "out"), "--max-train-steps", "1"]
    with monkeypatch.context() as stopping:
        stopping.setattr(Experiment, "accuracy", stop)
        with pytest.raises(Stopped):
            run(tmp_path, *options)
    assert (tmp_path / "out" / "training.json").is_file()
    assert (run(tmp_path, *options) / "accuracy.json").is_file()
    run(tmp_path, *options, "--measure-baselines", "--no-test")  # what was tested stays
    tested = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    assert tested.keys() == {"after", "before"} and tested["after"]["questions"] == 32
    run(tmp_path, *options, "--per-subject", "1")  # but not beside what other questions gave
    (tested,) = json.loads((tmp_path / "out" / "accuracy.json").read_text()).values()
    assert tested["questions"] == 16


def test_a_split_that_is_never_asked_need_not_be_there(tmp_path: Path) -> None:
    unvalidated = without("validation", tmp_path / "questions")
    options = ["--mmlu", unvalidated, "--train-split", "dev", "--no-test"]
    options += ["--max-train-steps", "1"]
    given = ["finetune", *SMALL, *options, "--store", str(tmp_path / "store")]
    refused(given, "split 'validation'", tmp_path)
    record = trained(run(tmp_path, *options, "--eval-steps", "0"))
    assert not record["validation"] and "validated_on" not in record


def test_rows_of_another_split_are_refused(tmp_path: Path) -> None:
    for name, values, sentence in (
        ("large", np.array([1, 999999]), "has row 999999, but split"),
        ("kind", np.array([0.5]), "not a list of row numbers"),
    ):
        np.save(tmp_path / f"{name}.npy", values)
        with pytest.raises(DatasetError, match=sentence):
            load_questions(QUESTIONS, Subset("dev", rows=str(tmp_path / f"{name}.npy")), 0)


def test_a_checkpoint_is_measured_on_what_trained_it_as_the_claims_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, out, mask = str(tmp_path / "store"), tmp_path / "landscape.json", tmp_path / "mask.npy"
    np.save(mask, np.arange(0, 720, 5))
    monkeypatch.chdir(tmp_path)
    masked = ["--validation", "dev", "--mask-path", mask.name]
    adapters = run(tmp_path, *masked, "--no-test", "--output-dir", "adapters")
    monkeypatch.chdir(ROOT)
    step = min(checkpoint_step(folder) for folder in adapters.glob("step-*"))
    asked = ["measure", "--model", MODEL, "--precision", "float32", "--store", store, "--adapter"]
    asked += [str(adapters), "--mmlu", QUESTIONS, "--checkpoint"]
    first = [*asked, checkpoint_name(step)]
    given = [*first, "--on-training", "--measure-overlap"]
    done = CliRunner().invoke(commands, [*given, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    masked[-1] = str(mask)
    training = training_of(finetune.make_context("f", [*SMALL, "--store", store, *masked]).params)
    expected = training.checkpoint_landscapes()[f"fine-tuned@{step}"]
    assert 0 < min(expected.curves[OVERLAP]) < 1
    found = Landscape.from_json(out.read_text())
    assert (found.condition, found.checkpoint) == (expected.condition, step)
    assert repr((found.curves, found.draws)) == repr((expected.curves, expected.draws))
    count = found.origin["questions"]
    assert found.origin["Subset"]["rows"] == mask.name and count > 42

    def is_refused(options: list[str], message: str) -> None:
        refused(options, message, tmp_path)

    # Without saying so it is refused, and so are other questions than those that trained it.
    unsaid = [*first, "--split", "dev+validation", "--per-subject", "3", "--mask-path", str(mask)]
    is_refused(unsaid, f"was trained on {count} of the {count} questions to analyse")
    is_refused(
        [*first, "--on-training", "--per-subject", "3"], "leave out --shots, --split, --per-subject"
    )
    is_refused([*given, "--overlap-k", "60"], f"{count} questions, but the geometry needs 77")
    (adapters / "step-000001").rename(adapters / "step-best")
    best = [*asked, "step-best", "--on-training"]
    is_refused(best, "does not tell after how many steps it was kept; say it as --condition")
    np.save(mask, np.arange(0, 720, 7))
    is_refused([*best, "--condition", "best"], "has other questions where")
    mask.unlink()
    is_refused([*best, "--condition", "best"], "mask.npy: cannot be read as .npy")
    record = json.loads((adapters / "training.json").read_text())
    record["trained_on"] |= {"per_subject": 3.0, "rows": None}  # a whole number, in JSON
    (adapters / "training.json").write_text(json.dumps(record))
    is_refused([*best, "--condition", "best"], "has other questions where")
