"""Runs that are killed, starved, shared or lied to end as an undisturbed one does."""

import itertools
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.checksums import CHECKSUMS
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
from tests.running import MODEL, QUESTIONS, SERVER


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
        GeometrySettings(neighbors=25, id_k=4, density_k=6, overlap_k=5, draws=2),
        most_shots=1,
        budgets=Budgets(shard_tokens=500),
    )
    tuned = FineTuned(
        experiment,
        Subset("dev+validation", 2),
        FineTuning(rank=2, epochs=2, checkpoints=2, precision="float32"),
        TrainingOptions(save_every=1, evaluations=1),
        "dev",
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
