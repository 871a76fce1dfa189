"""Commands as processes of their own, and what they made when they ended well."""

import json
import multiprocessing
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

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
    ["anyio.pytest_plugin", "fixtures.judging", "fixtures.plugin", "harness.extraction",
     "harness.finetuning", "harness.layer_curves", "harness.questions.mmlu", "harness.tokenizer",
     "hypothesis", "peft", "platformdirs", "pytest", "pytest_benchmark.plugin", "reports.render",
     "tests.running", "transformers.models.llama.modeling_llama", "xdist.plugin",
     "tests.set_aside"]
)  # fmt: skip
# With them comes anyio, a plugin of pytest's, which would like to be the first to import it.
IMPORTED = {"PYTEST_ADDOPTS": "-W ignore::pytest.PytestAssertRewriteWarning"}


class Command:
    """`python -m` of a module in such a copy, used as `subprocess.Popen` is.

    What libraries say or read of the environment when they are imported is not seen here, nor how
    an interpreter ends.

    folder: where it runs. limit: the most bytes that it may write into one file.
    variables: of its environment, besides those here.
    """

    def __init__(
        self,
        *given: str,
        folder: Path = ROOT,
        limit: int | None = None,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._given, self._folder = given, tempfile.TemporaryDirectory()
        self._streams = [Path(self._folder.name, name) for name in ("out", "errors")]
        for stream in self._streams:
            stream.touch()
        environment = {**os.environ, **IMPORTED, **variables}
        self._process = SERVER.Process(
            target=_run, args=(given, folder, environment, self._streams, limit)
        )
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def wait(self, timeout: float = 300) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self._given, timeout, *self.printed())
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        self.wait(timeout)
        return self.printed()

    def printed(self) -> tuple[str, str]:
        out, errors = (stream.read_text() for stream in self._streams)
        return out, errors


class Together:
    """Two such copies that work together, told of each other as by torchrun.

    What torchrun itself does is not seen here, nor what differs between two interpreters, such as
    the order of sets: both are copies of one.
    """

    def __init__(self, *given: str) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        common |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        self._both = [
            Command(*given, variables={**common, "RANK": rank, "LOCAL_RANK": rank})
            for rank in ("0", "1")
        ]

    @property
    def returncode(self) -> int | None:
        """That of one which failed, else 0 when both have ended, else None."""
        codes = [one.returncode for one in self._both]
        return next(filter(None, codes), None if None in codes else 0)

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        for one in self._both:
            one.kill()

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Return what both printed; when one fails the other would wait for it, and is killed."""
        end = time.monotonic() + timeout
        while self.returncode is None and time.monotonic() < end:
            time.sleep(0.05)
        ended = self.returncode
        self.kill()
        out, errors = (
            "".join(parts) for parts in zip(*(one.printed() for one in self._both), strict=True)
        )
        if ended is None:
            raise subprocess.TimeoutExpired("two processes", timeout, out, errors)
        return out, errors


def _run(
    given: tuple[str, ...],
    folder: Path,
    environment: dict[str, str],
    streams: list[Path],
    limit: int | None,
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, stream in enumerate(streams, start=1):
        with stream.open("wb") as file:
            os.dup2(file.fileno(), number)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv[1:] = given[1:]
    runpy.run_module(given[0], run_name="__main__", alter_sys=True)


def launched(*given: str) -> "subprocess.Popen[str]":
    """Start a command in an interpreter of its own, whose output can be read as it comes."""
    return subprocess.Popen(
        [sys.executable, "-m", *given], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell that starts the tests in the background has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def apart(given: list[str], folder: Path) -> list[str]:
    """Return a command that does the same in another store, from nothing."""
    place = given.index("--store") + 1
    return [*given[:place], str(folder / "apart"), *given[place + 1 :]]


def results(given: list[str], folder: Path) -> dict[str, object]:
    """Run a command to its end, and return what it made."""
    done = Command(*given)
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


def run(*given: str, folder: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """Run one to its end, as `Command` does; what it prints is text."""
    process = Command(*given, folder=folder)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode is not None
    return subprocess.CompletedProcess(given, process.returncode, printed, errors)
