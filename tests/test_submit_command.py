"""`landscape submit`: which jobs it plans, what it refuses, and how it runs without a cluster."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from click.testing import CliRunner, Result

from fixtures.cases import TOY
from harness.cli import commands
from harness.jobs import plan
from harness.slurm import arrays, parse_minutes, parse_others
from tests import written
from tests.running import Command
from tests.trying import refused

QUESTIONS = ["--mmlu", str(TOY / "questions"), "--per-subject", "4", "--precision", "float32"]
EXPERIMENT = ["--model", str(TOY / "model"), *QUESTIONS]


def submit(*options: str) -> Result:
    return CliRunner().invoke(commands, ["submit", *options])


def test_each_condition_is_extracted_and_then_measured() -> None:
    jobs = plan("org/llama", [0, 5], ["--seed", "7"], Path("results"), gpus=1)
    assert [(job.name, job.needs, job.gpus) for job in jobs] == [
        ("extract-0-shot", (), 1),
        ("extract-5-shot", (), 1),
        ("measure-0-shot", ("extract-0-shot",), 0),
        ("measure-5-shot", ("extract-5-shot",), 0),
    ]
    cli = (sys.executable, "-m", "harness.cli")
    assert jobs[1].command == (*cli, "extract", "--seed", "7", "--shots", "5")
    out = str(Path("results") / "landscape-llama-5-shot.json")
    assert jobs[3].command == (*cli, "measure", "--seed", "7", "--shots", "5", "--out", out)
    # Extractions wait for nothing, so they are one array.
    assert [len(array) for array in arrays(jobs)] == [2, 1, 1]


def test_fine_tuning_comes_before_what_has_its_adapter() -> None:
    jobs = plan("llama", [0], ["--seed", "7"], Path("out"), gpus=2, fine_tune=["--epochs", "4"])
    assert [(job.name, job.needs, job.gpus) for job in jobs] == [
        ("finetune-fine-tuned", (), 2),
        ("extract-0-shot", (), 2),
        ("extract-fine-tuned", ("finetune-fine-tuned",), 2),
        ("measure-0-shot", ("extract-0-shot",), 0),
        ("measure-fine-tuned", ("extract-fine-tuned",), 0),
    ]
    adapter = str(Path("out") / "adapter-llama")
    assert jobs[0].arguments == ("--epochs", "4", "--output-dir", adapter)
    with_adapter = ("--seed", "7", "--shots", "0", "--adapter", adapter, "--checkpoint", "final")
    with_adapter += ("--condition", "fine-tuned")
    assert jobs[2].arguments == with_adapter
    out = str(Path("out") / "landscape-llama-fine-tuned.json")
    assert jobs[4].arguments == (*with_adapter, "--out", out)
    assert [len(array) for array in arrays(jobs)] == [1, 1, 1, 1, 1]


def test_with_an_adapter_no_condition_has_the_name_of_one_without() -> None:
    names = {
        "adapters/final": ["fine-tuned", "fine-tuned-5-shot"],
        "adapters/step-000010": ["fine-tuned-step-000010", "fine-tuned-step-000010-5-shot"],
        "another": ["fine-tuned", "fine-tuned-5-shot"],
    }
    for folder, conditions in names.items():
        jobs = plan("llama", [0, 5], ["--seed", "7"], Path("out"), adapter=Path(folder))
        assert [job.condition for job in jobs] == [*conditions, *conditions]
        out = str(Path("out") / f"landscape-llama-{conditions[1]}.json")
        assert jobs[3].arguments == ("--seed", "7", "--shots", "5", "--out", out)


def test_several_gpus_share_the_extraction_unless_the_model_is_spread_over_them() -> None:
    shared = plan("llama", [0], [], Path("out"), gpus=4)[0].command
    assert shared[1:6] == (
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4",
    )  # fmt: skip
    assert shared[6:] == ("-m", "harness.cli", "extract", "--shots", "0")
    assert plan("llama", [0], [], Path("out"), gpus=4, spread=True)[0].processes == 1


def test_a_dry_run_prints_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "my out"
    done = submit(
        *EXPERIMENT, "--use_slow_tokenizer", "--shots", "1", "--num_few_shots", "1,0",
        "--store", "kept", "--seed", "0", "--out", str(out), "--fine-tune", "--dry-run",
        "--partition", "fast", "--cpu-partition", "slow", "--time", "1:30:00", "--memory", "1.5",
        "--cluster", "slurm", "--slurm", "account=me", "--", "--epochs", "4",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert len(lines) == 14 and not out.exists()
    named = f"--model {TOY / 'model'} --mmlu {TOY / 'questions'}"
    trained = "--per-subject 4 --precision float32 --store kept"
    own = f"{trained} --epochs 4 --output-dir '{out}/adapter-model'"
    assert lines[1].endswith(f"finetune {named} {own}")
    asked = "--mem=1536M --account=me"
    gpu = f"sbatch --time=90 --partition=fast --gpus-per-node=1 {asked}"
    assert lines[6] == f"# extract-fine-tuned, after finetune-fine-tuned; {gpu}"
    cpu = f"sbatch --time=90 --partition=slow {asked}"
    assert lines[8] == f"# measure-0-shot, after extract-0-shot; {cpu}"
    assert "tokenizer" not in lines[3]  # which transformers does not hear any more
    # What is analysed is the same in all conditions, and never what trains.
    assert "--per-subject 4 --leave-out dev+validation --seed 0" in lines[3]
    assert "-m harness.cli extract --model" in lines[3] and lines[3].endswith("--shots 0")
    # Weights are read by the jobs alone: they are large, and maybe not on this machine.
    monkeypatch.setattr("harness.models.model_fingerprint", Mock(side_effect=AssertionError))
    more = submit(*EXPERIMENT, "--out", str(out), "--leave-out", "dev", "--fine-tune", "--dry-run")
    assert "--leave-out dev+validation" in more.stdout  # and what else it is not to ask
    refused = submit(
        *EXPERIMENT, "--out", str(out), "--fine-tune", "--dry-run", "--", "--epoch", "4"
    )
    assert refused.exit_code == 2 and "--epoch" in refused.output


@pytest.mark.parametrize(
    ("where", "precision"),
    [
        (["--cluster", "slurm", "--gpus", "1"], "bfloat16"),
        (["--cluster", "slurm", "--gpus", "0"], "float32"),
        (["--cluster", "local", "--gpus", "1"], "float32"),
        (["--gpus", "1"], "float32"),  # no sbatch, so on this machine
    ],
)
def test_all_jobs_compute_in_one_precision_wherever_they_run(
    monkeypatch: pytest.MonkeyPatch, where: list[str], precision: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("harness.device.has_bfloat16", lambda: False)
    monkeypatch.setattr("harness.slurm.shutil.which", lambda _: None)
    model = ["--model", str(TOY / "model"), "--mmlu", str(TOY / "questions")]
    done = submit(*model, *where, "--out", "results", "--fine-tune", "--dry-run")
    assert done.exit_code == 0, done.output
    commands = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert len(commands) == 5
    assert all(f" --precision {precision} " in command for command in commands)
    assert f"--precision {precision}" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "./nowhere"], "./nowhere: no such model folder"),
        (["--mmlu", "./nowhere"], "./nowhere: no such dataset folder"),
        (["--shots", "0,x"], "--shots is '0,x'"),
        (["--shots", "9"], "9 shots asked for"),
        (["--site", "norm3"], "unknown site 'norm3'"),
        (["--per-subject", "2"], "the geometry needs 42"),
        (["--time", "soon"], "--time is 'soon'; give minutes, such as 90, or 1:30:00"),
        (["--memory", "0"], "'--memory': 0.0 is not in the range"),
        (["--slurm", "account"], "--slurm is 'account'; give KEY=VALUE"),
        (["--slurm", "array=1-4"], "array is set by the jobs"),
        (["--slurm", "nodes=2"], "nodes is set by the jobs"),
        (["--slurm", "time=8:00:00"], "time is set by --time; give that"),
        (["--slurm", "cpus_per_task=2"], "cpus-per-task is set by --cpus; give that"),
        (["--slurm", "gpus-per-node=4"], "gpus-per-node is set by --gpus; give that"),
        (["--on-training"], "No such option"),
        (["--", "--epochs", "4"], "--epochs: options after -- need --fine-tune"),
        (["--fine-tune", "--adapter", "a"], "--fine-tune makes an adapter; leave out --adapter"),
        (["--adapter", "./nowhere"], "nowhere: no adapter_config.json"),
        (["--fine-tune", "--device-map", "auto"], "--fine-tune trains a whole model a GPU"),
        (["--logs", "/dev/null/logs"], "/dev/null/logs: cannot be a folder"),
        (
            ["--fine-tune", "--gpus", "8", "--", "--batch-size", "4"],
            "a step has 4 questions for 8 processes",
        ),
        (
            ["--fine-tune", "--", "--train-split", "test"],
            "--train-split takes what is analysed; give --train-from-test N before --",
        ),
        (["--fine-tune", "--split", "validation"], "--train-split takes what is analysed"),
        (["--fine-tune", "--", "--model", "other"], "--model is of all jobs; give it before --"),
        (["--fine-tune", "--", "--mmlu", "other"], "--mmlu is of all jobs; give it before --"),
        (["--fine-tune", "--", "--out-dir", "mine"], "--output-dir is said by the jobs, in --out"),
        (["--fine-tune", "--", "--no-resume"], "--no-resume would begin anew whenever a job goes"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, options: list[str], message: str) -> None:
    given = ["submit", *EXPERIMENT, "--out", str(tmp_path / "out"), "--cluster", "local", *options]
    refused(given, message, tmp_path)


def test_the_jobs_use_the_store_that_was_meant_whatever_their_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANDSCAPE_STORE", "elsewhere")
    for given, meant in (["--store", ".landscape-store"], ".landscape-store"), ([], "elsewhere"):
        done = submit(*EXPERIMENT, *given, "--out", str(tmp_path / "out"), "--dry-run")
        commands = [line for line in done.stdout.splitlines() if "harness.cli" in line]
        assert len(commands) == 2 and all(f"--store {meant}" in line for line in commands)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = submit(*EXPERIMENT, "--out", str(tmp_path / "out"), "--cluster", "slurm")
    assert "there is no sbatch here" in str(done.exception)
    monkeypatch.setitem(sys.modules, "submitit", None)
    done = submit(*EXPERIMENT, "--out", str(tmp_path / "out"), "--cluster", "local")
    assert "pip install submitit" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_times_and_pairs() -> None:
    assert [parse_minutes(text) for text in ("90", "1:30:00", "0:00:01")] == [90, 90, 1]
    assert parse_others(["account=a b", "--mail_type=END", "gres=gpu:a100=2"]) == {
        "account": "a b",
        "mail-type": "END",
        "gres": "gpu:a100=2",
    }


def test_on_this_machine_jobs_run_in_order_and_measure_what_the_command_measures(
    tmp_path: Path,
) -> None:
    out, store = tmp_path / "out", ["--store", str(tmp_path / "store")]
    done = submit(*EXPERIMENT, *store, "--out", str(out), "--cluster", "local", "--gpus", "2")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == ["extract-0-shot: done", "measure-0-shot: done"]
    logs = "".join(file.read_text() for file in (out / "logs").glob("*_log.out"))
    assert "torch.distributed.run" in logs
    places = ["--store", str(tmp_path / "other"), "--out", str(tmp_path / "direct.json")]
    assert Command("harness.cli", "measure", *EXPERIMENT, *places).wait(300) == 0
    found = written.landscape(out / "landscape-model-0-shot.json")
    assert found == written.landscape(tmp_path / "direct.json")


class Copy(Command):
    """Stands in for `subprocess.Popen`."""

    def __init__(self, command: tuple[str, ...], **_: object) -> None:
        super().__init__(*command[2:])  # python -m

    def __enter__(self) -> "Copy":
        return self

    def __exit__(self, *_: object) -> None:
        pass


# That jobs start interpreters is seen above; these say what they do.
COPIES = SimpleNamespace(Popen=Copy, CalledProcessError=subprocess.CalledProcessError)


@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_what_needs_a_job_that_failed_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: str
) -> None:
    if cluster == "debug":
        monkeypatch.setattr("harness.slurm.subprocess", COPIES)
    model = shutil.copytree(TOY / "model", tmp_path / "damaged")
    (weights,) = model.glob("*.safetensors")
    weights.write_bytes(b"x")
    out = tmp_path / "out"
    done = submit(
        "--model", str(model), *QUESTIONS, "--out", str(out), "--store", str(tmp_path / "store"),
        "--cluster", cluster,
    )  # fmt: skip
    assert done.exit_code == 1
    failed, not_run = done.stdout.splitlines()[-2:]
    assert failed.startswith("extract-0-shot: failed, see")
    assert not_run == "measure-0-shot: not run, because extract-0-shot failed or was not run"
    if cluster == "local":
        log = Path(failed.partition(", see ")[2]).read_text()
        assert "damaged: cannot load the model" in log
    assert not (out / "landscape-damaged-0-shot.json").exists()


def test_a_fine_tuned_model_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.slurm.subprocess", COPIES)
    out = tmp_path / "out"
    common = ["--train-from-test", "2", "--store", str(tmp_path / "store")]
    own = ["--epochs", "1", "--checkpointing-steps", "0", "--precision", "float32"]
    own += ["--validation", "dev"]
    done = submit(
        *EXPERIMENT, *common, "--out", str(out), "--cluster", "debug", "--gpus", "0",
        "--fine-tune", "--", *own,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    plain, tuned = (
        json.loads((out / f"landscape-model-{condition}.json").read_text())
        for condition in ("0-shot", "fine-tuned")
    )
    assert tuned["condition"] == "fine-tuned" and plain["condition"] == "0-shot"
    assert tuned["curves"] != plain["curves"]
    # Submitted again, the job finds its copy there.
    folder = ["--output-dir", str(out / "adapter-model")]
    again = CliRunner().invoke(commands, ["finetune", *EXPERIMENT, *common, *own, *folder])
    assert again.exit_code == 0, again.output
