"""Commands as processes of their own, and what they made when they ended well."""

import json
import resource
import subprocess
import sys
from pathlib import Path

from fixtures.cases import TOY
from tests import written

ROOT = Path(__file__).parents[1]
MODEL, QUESTIONS = str(TOY / "model"), str(TOY / "questions")
TOY_IN_FLOAT32 = ["--model", MODEL, "--mmlu", QUESTIONS, "--precision", "float32"]
CLAIMS = ["pytest", "claims", *TOY_IN_FLOAT32, "--shots", "0,1"]
MEASURE = ["harness.cli", "measure", *TOY_IN_FLOAT32, "--per-subject", "3"]
FINETUNE = ["harness.cli", "finetune", *TOY_IN_FLOAT32, "--epochs", "1",
            "--samples-per-subject", "2", "--per-subject", "3"]  # fmt: skip


def command(*given: str, limit: int | None = None) -> "subprocess.Popen[str]":
    """Start a command; limit: the most bytes that it may write into one file."""

    def limited() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-m", *given], cwd=ROOT, text=True, preexec_fn=limited,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def apart(given: list[str], folder: Path) -> list[str]:
    """Return a command that does the same in another store, from nothing."""
    place = given.index("--store") + 1
    return [*given[:place], str(folder / "apart"), *given[place + 1 :]]


def results(given: list[str], folder: Path) -> dict[str, object]:
    """Run a command to its end, and return what it made."""
    done = command(*given)
    printed, errors = done.communicate(timeout=300)
    assert done.returncode == 0, errors
    if given[1] == "measure":
        return written.landscape(Path(given[given.index("--out") + 1]))
    adapters = Path(printed.strip().splitlines()[-1])
    record = json.loads((adapters / "training.json").read_text())
    weights = {
        str(file.relative_to(adapters)): file.read_bytes()
        for file in adapters.glob("*/adapter_model.safetensors")
    }
    assert weights
    return {"loss": record["loss"], "validation": record["validation"], **weights}
