"""Runs that are killed, starved, shared or lied to end as an undisturbed one does."""

import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fixtures.cases import TOY
from harness.checksums import CHECKSUMS
from harness.disk import write_whole
from harness.errors import SettingsError
from harness.fine_tuned import FineTuned
from harness.measure_folder import layer_files, read_points
from harness.measurement import Labels, measure_layers
from harness.pipeline import Experiment
from harness.protocol import (
    Budgets,
    ExtractionSettings,
    FineTuning,
    GeometrySettings,
    PromptFormat,
    Subset,
    TrainingOptions,
)
from harness.store import Store
from reports.render import render
from reports.run import Run
from tests import written
from tests.trying import refused

ROOT = Path(__file__).parents[1]
MODEL, QUESTIONS = str(TOY / "model"), str(TOY / "questions")
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["harness.extraction", "harness.finetuning", "harness.measurement"])


def whole_run(store: Path, out: Path, computed: Path | None = None) -> None:
    """Extract, fine-tune and measure a small toy, and write it all into `out`.

    computed: a file that gets a line for every thing that was not in the store.
    """
    if computed:
        make = Store._make

        def noted(self: Store, kind: str, key: str, *rest: object) -> Path:
            def counted(folder: Path) -> None:
                with computed.open("a") as file:
                    file.write(f"{kind} {key}\n")
                rest[0](folder)  # type: ignore[operator]

            return make(self, kind, key, counted, *rest[1:])  # type: ignore[arg-type]

        Store._make = noted  # type: ignore[method-assign]
    torch.set_num_threads(1)  # several of these run at once
    experiment = Experiment(
        MODEL,
        QUESTIONS,
        Store(store),
        Subset(per_subject=3),
        ExtractionSettings(precision="float32"),
        GeometrySettings(neighbors=20, id_k=4, density_k=6, overlap_k=5, draws=2),
        most_shots=1,
        budgets=Budgets(shard_tokens=500),
    )
    tuned = FineTuned(
        experiment,
        Subset("dev+validation", 2),
        FineTuning(rank=2, epochs=2, checkpoints=2, precision="float32"),
        TrainingOptions(save_every=1, evaluations=1, baselines=False),
    )
    landscapes = [experiment.landscape(PromptFormat(shots)) for shots in (0, 1)]
    landscapes += [tuned.landscape(), *tuned.checkpoint_landscapes().values()]
    environment = {"settings": {"not_measured": [], "command": "", "device": "cpu"}, "versions": {}}
    Run(environment, [], [], landscapes).write_folder(out)


def report(out: Path) -> None:
    render([out], out)


def start(target: Callable[..., None], *given: object) -> BaseProcess:
    process = SERVER.Process(target=target, args=given)
    process.start()
    return process


def finish(process: BaseProcess) -> None:
    process.join(300)
    assert process.exitcode == 0


def found(out: Path) -> dict[str, object]:
    """Return what a run wrote, without what it cost."""
    landscapes = {file.name: written.landscape(file) for file in out.glob("landscape-*.json")}
    assert len(landscapes) > 5
    return landscapes | {"results": json.loads((out / "results.json").read_text())}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(whole_run, folder / "store", folder / "out"))
    finish(start(report, folder / "out"))
    return folder


def killed_until_done(
    target: Callable[..., None], given: tuple[object, ...], longest: float, seed: int
) -> int:
    """Start `target` and kill it at a random moment, until it is done first; return the kills."""
    rng, kills = random.Random(seed), 0
    while True:
        process = start(target, *given)
        process.join(rng.uniform(0, longest))
        if process.exitcode is not None:
            assert process.exitcode == 0
            return kills
        process.kill()
        process.join()
        kills += 1
        longest *= 1.04  # what cannot be gone on from, such as one landscape, must fit in


@pytest.mark.parametrize("moments", [20, pytest.param(200, marks=pytest.mark.soak)])
def test_killed_at_any_moment(undisturbed: Path, tmp_path: Path, moments: int) -> None:
    kills = 0
    while kills < moments:
        folder = tmp_path / str(kills)
        kills += killed_until_done(whole_run, (folder / "store", folder / "out"), 0.8, kills)
        assert found(folder / "out") == found(undisturbed / "out")
        # Nothing that a killed run left is in what the next one finished.
        assert not [
            path for path in (folder / "store").glob("*/[!.]*/**/*") if path.name.startswith(".")
        ]


@pytest.mark.parametrize("moments", [3, pytest.param(40, marks=pytest.mark.soak)])
def test_a_killed_report(undisturbed: Path, tmp_path: Path, moments: int) -> None:
    wanted = (undisturbed / "out" / "report.html").read_text()
    out = tmp_path / "out"
    finish(start(whole_run, undisturbed / "store", out))
    rng = random.Random(moments)
    for _ in range(moments):
        process = start(report, out)
        process.join(rng.uniform(0, 6))
        process.kill()
        process.join()
        assert not (out / "report.html").exists() or (out / "report.html").read_text() == wanted
    finish(start(report, out))
    assert (out / "report.html").read_text() == wanted


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("representations", "shard-*"),
        ("landscapes", "landscape.json"),
        ("adapters", "final/adapter_model*"),
        ("landscapes", CHECKSUMS),
    ],
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_entry_is_found_said_and_computed_again(
    undisturbed: Path, tmp_path: Path, kind: str, name: str, damage: str
) -> None:
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", undisturbed / "store", store], check=True)
    file = sorted(store.glob(f"{kind}/*/{name}"))[0]
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    if damage == "cut":
        del content[-10:]
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content)
    key = file.relative_to(store).parts[1]
    with pytest.warns(UserWarning, match=r"is not what was written; it is computed again"):
        assert Store(store).find(kind, key) is None
    if damage != "flip":
        return  # it is found, and what follows is the same
    # A landscape is not made again because what it came from is damaged: it is asked for anew.
    if kind == "representations":
        shutil.rmtree(store / "landscapes")
    computed = tmp_path / "computed"
    finish(start(whole_run, store, tmp_path / "out", computed))
    assert found(tmp_path / "out") == found(undisturbed / "out")
    again = [line for line in computed.read_text().splitlines() if line.startswith(kind)]
    assert again == [f"{kind} {key}"]


def test_two_runs_that_share_a_store_compute_everything_once(
    undisturbed: Path, tmp_path: Path
) -> None:
    computed = tmp_path / "computed"
    both = [
        start(whole_run, tmp_path / "store", tmp_path / name, computed) for name in ("one", "other")
    ]
    for process in both:
        finish(process)
    for name in ("one", "other"):
        assert found(tmp_path / name) == found(undisturbed / "out")
    lines = computed.read_text().splitlines()
    assert len(lines) == len(set(lines)) > 8


def measured_in_a_pool(folder: Path, started: Path) -> None:
    """Measure points in two processes, for long."""
    points = torch.randn(1500, 8)
    for layer in (1, 2):
        save_file({"points": points}, folder / f"layer-{layer}.safetensors")
    files = layer_files(folder)
    labels = Labels(["a", "b", "c"] * 500, ["A"] * 1500)
    read = partial(slowly, files, started)
    measure_layers([1, 2], read, labels, GeometrySettings(), processes=2)


def slowly(files: dict[int, Path], started: Path, layer: int) -> torch.Tensor:
    (started / str(os.getpid())).touch()
    time.sleep(60)
    return read_points(files[layer], 1500)


def test_killed_while_it_measures_it_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "started").mkdir()
    (tmp_path / "layers").mkdir()
    process = start(measured_in_a_pool, tmp_path / "layers", tmp_path / "started")
    while len(list((tmp_path / "started").iterdir())) < 2:
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    workers = [Path("/proc") / one.name for one in (tmp_path / "started").iterdir()]
    deadline = time.monotonic() + 20
    while any(worker.exists() for worker in workers):
        assert time.monotonic() < deadline, "they are still there"
        time.sleep(0.05)


def backwards(*given: Path) -> None:
    """Make a whole run while the clock goes back an hour whenever it is read."""
    now = itertools.count(2**32, -3600)  # from the year 2106
    time.time = lambda: float(next(now))
    whole_run(*given)


def test_clocks_that_go_back_change_nothing(undisturbed: Path, tmp_path: Path) -> None:
    finish(start(backwards, tmp_path / "store", tmp_path / "out"))
    assert found(tmp_path / "out") == found(undisturbed / "out")
    for number, path in enumerate(sorted((tmp_path / "store").rglob("*"))):
        os.utime(path, (2**32 - number, 2**32 - number))
    computed = tmp_path / "computed"
    finish(start(whole_run, tmp_path / "store", tmp_path / "out", computed))
    assert found(tmp_path / "out") == found(undisturbed / "out") and not computed.exists()


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


TOY_IN_FLOAT32 = ["--model", MODEL, "--mmlu", QUESTIONS, "--precision", "float32"]
CLAIMS = ["pytest", "claims", *TOY_IN_FLOAT32, "--shots", "0"]
MEASURE = ["harness.cli", "measure", *TOY_IN_FLOAT32, "--per-subject", "3"]
FINETUNE = ["harness.cli", "finetune", *TOY_IN_FLOAT32, "--epochs", "1",
            "--samples-per-subject", "2", "--per-subject", "3"]  # fmt: skip


@pytest.mark.parametrize("stage", [MEASURE, FINETUNE], ids=["measure", "finetune"])
def test_a_file_that_may_not_grow(tmp_path: Path, stage: list[str]) -> None:
    given = [*stage, "--store", str(tmp_path / "store")]
    if stage is MEASURE:
        given += ["--out", str(tmp_path / "landscape.json"), "--per-subject", "80"]
    starved = command(*given, limit=1_000_000)
    out, errors = starved.communicate(timeout=120)
    assert starved.returncode == 2, out + errors
    assert "store: cannot be written (File too large)" in errors and "Traceback" not in errors
    assert not (tmp_path / "landscape.json").exists()
    assert results(given, tmp_path) == results(apart(given, tmp_path), tmp_path)


REPORTING = """
import sys, pytest, reports.render
def stopped(runs, folder):
    raise KeyboardInterrupt
reports.render.render = stopped
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_ctrl_c_while_the_report_is_made_is_status_130(tmp_path: Path) -> None:
    curves = ROOT / "reports" / "published-curves.json"
    given = ["claims", "--published", str(curves), "--claim", "answers-late"]
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", REPORTING, *given, "--out", out],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    assert (out / "results.json").exists()
    assert command("harness.cli", "report", str(out)).wait(120) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("may not mount a small disk here (only root may)")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_and_one_that_cannot_be_written(small_disk: Path, tmp_path: Path) -> None:
    given = [*MEASURE, "--store", str(small_disk / "store"), "--out", str(tmp_path / "one.json")]
    full = command(*given)
    out, errors = full.communicate(timeout=120)
    assert full.returncode == 2, out + errors
    assert "store: cannot be written (No space left on device)" in errors
    assert "Traceback" not in errors and not (tmp_path / "one.json").exists()
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    assert command(*given).wait(120) == 0
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    again = [*given[:-1], str(tmp_path / "other.json")]
    assert command(*again).wait(120) == 0  # what is there can be read
    elsewhere = results(apart(given, tmp_path), tmp_path)
    for name in ("one.json", "other.json"):
        assert written.landscape(tmp_path / name) == elsewhere
    other = command(*again, "--shots", "1")
    _, errors = other.communicate(timeout=120)
    assert other.returncode == 2 and "cannot be written (Read-only file system)" in errors


def test_of_two_processes_one_is_killed_and_then_the_disk_is_read_only(
    small_disk: Path, tmp_path: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    extract = ["harness.cli", "extract", *TOY_IN_FLOAT32]
    extract += ["--per-subject", "12", "--token-budget", "16", "--store", str(small_disk / "store")]
    both = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *extract]
    launcher = command(*both)
    shards = (small_disk / "store" / "representations").glob
    while len(list(shards(".*.unfinished/shard-*"))) < 2:
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.005)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    launcher.communicate(timeout=120)
    assert launcher.returncode not in (0, 2) and not list(shards("[!.]*/shard-*"))
    kept = {file.name: file.stat().st_mtime_ns for file in shards(".*.unfinished/shard-*")}
    assert len(kept) >= 2
    printed = []
    for options in ("remount", "remount,ro"):
        subprocess.run(["mount", "-o", options, small_disk], check=True)
        out, errors = command(*both).communicate(timeout=120)
        printed += out.splitlines()
        assert len(printed) == 1 or printed[0] == printed[-1], errors
    entry = Path(printed[0])
    assert len(printed) == 2 and entry.is_relative_to(small_disk)
    found = {file.name: file.stat().st_mtime_ns for file in entry.glob("shard-*")}
    assert kept.items() <= found.items()
    alone, errors = command(*apart(extract, tmp_path)).communicate(timeout=120)
    for file in Path(alone.strip()).glob("shard-*"):
        assert file.read_bytes() == (entry / file.name).read_bytes(), errors


@pytest.mark.parametrize(
    "given",
    [MEASURE, [*MEASURE, "--shots", "1"], FINETUNE, CLAIMS],
    ids=["measure", "with-shots", "finetune", "claims"],
)
def test_ctrl_c_is_status_130_and_the_next_run_goes_on(tmp_path: Path, given: list[str]) -> None:
    store, out = tmp_path / "store", tmp_path / "out"
    given = [*given, "--store", str(store)]
    given += ["--per-subject", "40"] if given[1] != "finetune" else ["--samples-per-subject", "8"]
    if given[1] != "finetune":
        given += ["--out", str(out)]
    stopped = command(*given)
    assert stopped.stderr
    # Its bar is there: what is interrupted is the work, and not some library that is imported.
    shown = ""
    while not re.search(r"(extract|fine-tune): +[1-9]", shown):
        shown += stopped.stderr.read(1)
        assert stopped.poll() is None, stopped.communicate()
    stopped.send_signal(signal.SIGINT)
    printed, errors = stopped.communicate(timeout=120)
    assert stopped.returncode == 130, printed + errors
    assert "Traceback" not in errors and not out.exists()
    if given[0] != "pytest":
        assert results(given, tmp_path) == results(apart(given, tmp_path), tmp_path)
        return
    kept = {path.name: path.stat().st_mtime_ns for path in store.rglob("shard-*")}
    again = command(*given)
    _, errors = again.communicate(timeout=300)
    assert again.returncode in (0, 1) and (out / "results.json").exists(), errors
    # They go on too: what was extracted is as it was.
    found = {path.name: path.stat().st_mtime_ns for path in store.rglob("shard-*")}
    assert kept.items() <= found.items()


def test_a_folder_that_may_not_be_written_is_refused_before_the_work(
    small_disk: Path, tmp_path: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    common = ["--model", MODEL, "--mmlu", QUESTIONS, "--store", str(tmp_path / "store")]
    out = str(small_disk / "out")
    refused(["extract", *common, "--out-dir", out], f"{out}: may not be written", tmp_path)
    refused(["finetune", *common, "--output-dir", out], f"{out}: may not be written", tmp_path)
    refused(["report", "reports/recorded/toy.json", "--out", out], "may not be written", tmp_path)


def test_what_the_disk_refuses_is_one_sentence(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "old")
    with pytest.raises(SettingsError, match=r"file/inside: cannot be written \(Not a directory\)"):
        write_whole(tmp_path / "file" / "inside", "new")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(SettingsError, match=r"file: cannot be written \(File too large\)"):
            write_whole(tmp_path / "file", "longer than ten bytes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
