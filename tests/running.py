"""Commands as processes of their own, and what they made when they ended well."""

import json
import multiprocessing
import os
import resource
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from fixtures.cases import TOY
from tests import written

ROOT = Path(__file__).parents[1]
MODEL, QUESTIONS = str(TOY / "model"), str(TOY / "questions")
TOY_IN_FLOAT32 = ["--model", MODEL, "--mmlu", QUESTIONS, "--precision", "float32"]
CLAIMS = ["pytest", "claims", *TOY_IN_FLOAT32, "--shots", "0,1"]
MEASURE = ["harness.cli", "measure", *TOY_IN_FLOAT32, "--per-subject", "3"]
FINETUNE = ["harness.cli", "finetune", *TOY_IN_FLOAT32, "--epochs", "1",
            "--samples-per-subject", "2", "--per-subject", "3", "--validation", "dev"]  # fmt: skip

# Libraries take most of a small command's time: it starts as a copy of a process that has them.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["harness.extraction", "harness.finetuning", "harness.layer_curves", "harness.questions.mmlu",
     "harness.tokenizer", "peft", "reports.render", "transformers.models.llama.modeling_llama"]
)  # fmt: skip
# With them comes anyio, a plugin of pytest's, which would like to be the first to import it.
IMPORTED = {"PYTEST_ADDOPTS": "-W ignore::pytest.PytestAssertRewriteWarning"}


class Command:
    """`python -m` of a module in such a copy, used as `subprocess.Popen` is.

    What libraries say or read of the environment when they are imported is not seen here, nor how
    an interpreter ends.
    """

    def __init__(self, *given: str, limit: int | None = None) -> None:
        self._given, self._folder = given, tempfile.TemporaryDirectory()
        self._streams = [Path(self._folder.name, name) for name in ("out", "errors")]
        for stream in self._streams:
            stream.touch()
        self._process = SERVER.Process(
            target=_run, args=(given, os.environ | IMPORTED, self._streams, limit)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self._given, timeout, *self._printed())
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        self.wait(timeout)
        return self._printed()

    def _printed(self) -> tuple[str, str]:
        out, errors = (stream.read_text() for stream in self._streams)
        return out, errors


def _run(
    given: tuple[str, ...], environment: dict[str, str], streams: list[Path], limit: int | None
) -> None:
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    for number, stream in enumerate(streams, start=1):
        with stream.open("wb") as file:
            os.dup2(file.fileno(), number)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv[1:] = given[1:]
    runpy.run_module(given[0], run_name="__main__", alter_sys=True)


def command(*given: str, limit: int | None = None) -> Command:
    """Start a command; limit: the most bytes that it may write into one file."""
    return Command(*given, limit=limit)


def launched(*given: str) -> "subprocess.Popen[str]":
    """Start a command in an interpreter of its own, whose output can be read as it comes."""
    return subprocess.Popen(
        [sys.executable, "-m", *given], cwd=ROOT, text=True,
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
