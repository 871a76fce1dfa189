"""The same command twice says the same, but for times; many runs need no more memory than one."""

import gc
import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch

from fixtures.cases import TOY
from harness.pipeline import Experiment
from harness.protocol import ExtractionSettings, GeometrySettings, PromptFormat, Subset
from harness.store import Store
from reports import figures

ROOT = Path(__file__).parents[1]
MODEL, QUESTIONS = str(TOY / "model"), str(TOY / "questions")
# A time, whose own line holds nothing else.
TIMES = re.compile(r'^ *"(seconds|date|extraction|measuring|training)": .*$', re.MULTILINE)


def test_the_same_command_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.without_report", "claims", "--model", MODEL]
    command += ["--mmlu", QUESTIONS]
    command += ["--per-subject", "5", "--shots", "0,1", "--train-from-test", "3"]
    command += ["--precision", "float32"]
    command += ["--fine-tune", "--epochs", "1", "--checkpoints", "1"]
    command += ["--controls", "--control-seeds", "1"]
    command += ["--out", str(tmp_path / "out")]
    found = []
    for number in range(2):
        store = {"LANDSCAPE_STORE": str(tmp_path / f"store-{number}")}
        # With threads, whose order is what could differ; they don't spin where others compute.
        threads = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | store | threads,
            capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stdout + done.stderr
        files = sorted((tmp_path / "out").glob("*.json"))
        texts = {file.name: file.read_text() for file in files}
        assert TIMES.search(texts["results.json"])
        found.append({name: TIMES.sub("", text) for name, text in texts.items()})
        for file in files:
            file.unlink()
    assert len(found[0]) > 10 and found[0].keys() == found[1].keys()
    for name, text in found[0].items():
        assert text == found[1][name], name


def resident() -> int:
    """Return the memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.soak
@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(),
    reason="the memory of a process is read from /proc, which is not here",
)
def test_two_hundred_runs_in_one_process_need_no_more_memory(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    tracemalloc.start()
    traced, whole = [], []
    for number in range(200):
        experiment = Experiment(
            MODEL,
            QUESTIONS,
            Store(tmp_path / str(number)),
            Subset(per_subject=3),
            ExtractionSettings(precision="float32"),
            GeometrySettings(neighbors=25, id_k=4, density_k=6, draws=2),
            most_shots=1,
        )
        found = [experiment.landscape(PromptFormat(shots)) for shots in (0, 1)]
        figures.as_image(figures.profile(found, "ari_subjects"))
        json.loads(found[0].to_json())
        experiment.release()
        del experiment, found
        gc.collect()
        traced.append(tracemalloc.get_traced_memory()[0])
        whole.append(resident())
    tracemalloc.stop()
    # The first runs fill caches; after them the medians of fifty runs, a hundred apart, are
    # compared. datasets keeps some 15 kB for every folder that it reads; one run's
    # representations are 400 kB, and its model 5 MB.
    for name, values, most in (("traced", traced, 20_000), ("resident", whole, 300_000)):
        middle, last = (sorted(part)[25] for part in (values[50:100], values[150:]))
        print(f"{name}: {(last - middle) / 100:.0f} bytes more a run")
        assert (last - middle) / 100 < most, (name, middle, last)
