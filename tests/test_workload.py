"""How much there is to compute, as it is told before anything is."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from fixtures.cases import Case, cases_of
from fixtures.dry_run import in_words, table
from fixtures.measured import Measured
from fixtures.request import FineTuneRequest, Request
from harness.controls import null_controls
from harness.models import load_model
from harness.pipeline import Experiment
from harness.protocol import (
    ExtractionSettings,
    GeometrySettings,
    PromptFormat,
    Subset,
    TrainingOptions,
)
from harness.robustness import GRID
from harness.store import Store
from harness.tokenizer import load_tokenizer
from harness.workload import WorkItem, workload
from tests.running import MODEL, QUESTIONS, Command

CPU = torch.device("cpu")
CONTROLS = {
    name: one
    for name, one in null_controls(1).items()
    if name in ("embeddings", "other-shots", "mixed-shots", "shuffled-labels")
}


def case(store: Path, **changes: object) -> Case:
    asked = Request(
        MODEL,
        QUESTIONS,
        None,
        (0, 1),
        Subset(per_subject=5),
        ExtractionSettings(precision="float32"),
        store,
        FineTuneRequest(epochs=1),
        train_from_test=3,
        controls=CONTROLS,
    )
    (judged,) = cases_of(replace(asked, **changes))
    return judged


# What is extracted is the question here, and not what is measured of it.
QUICK = GeometrySettings(neighbors=20, id_k=4, density_k=6, draws=0)
Told = tuple[Path, list[WorkItem], list[WorkItem], Measured]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """A store, what was to be computed into it before that was done and after, and what came."""
    store = tmp_path_factory.mktemp("store")
    before = case(store).to_compute()
    assert not list(store.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fixtures.cases.Experiment", partial(Experiment, geometry=QUICK))
        patch.setattr("fixtures.measuring.GRID", {"Z 0": GRID["Z 0"]})
        measured = case(store, robustness=True).measure()
    return store, before, case(store).to_compute(), measured


def test_all_that_is_asked_for_is_measured(told: Told) -> None:
    measured, tuned = told[3], {"fine-tuned"}
    steps = {f"fine-tuned@{step}" for step in (1, 2, 3)}
    shots = {"0-shot", "1-shot"}
    assert not measured.failed and measured.own.keys() == shots | tuned | steps
    assert {name: set(found) for name, found in measured.variations.items()} == {
        "Z 0": shots | tuned
    }
    assert {name: set(found) for name, found in measured.controls.items()} == {
        "embeddings": shots,
        "other-shots": shots,
        "mixed-shots": shots,
        "shuffled-labels": shots | tuned,
    }


def test_what_is_told_is_what_is_computed(told: Told) -> None:
    store, before, after, _ = told
    assert not any(part.kept for part in before) and all(part.kept for part in after)
    assert [replace(part, kept=True) for part in before] == after
    entries = [one for one in (store / "representations").iterdir() if one.is_dir()]
    assert len(before) == len(entries) + 1  # and the fine-tuning


def test_what_is_measured_is_not_extracted_again(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    shutil.copytree(told[0], store)
    shutil.rmtree(store / "representations")
    monkeypatch.setattr("fixtures.cases.Experiment", partial(Experiment, geometry=QUICK))
    whole = case(store)
    assert all(part.kept for part in whole.to_compute())
    assert whole.fine_tuned and whole.experiment
    checkpoint = whole.fine_tuned.checkpoint_experiments()["fine-tuned@2"]
    shuffled = whole.experiment.changed(control=CONTROLS["shuffled-labels"])
    for of, prompt, start in (
        (checkpoint, PromptFormat(0), whole.fine_tuned.start), (shuffled, PromptFormat(1), None),
    ):  # fmt: skip
        shutil.rmtree(store / "landscapes" / of._landscape_key(prompt, start))
    left = [part.name for part in case(store).to_compute() if not part.kept]
    assert left == ["1-shot", "fine-tuned@0", "fine-tuned@2"]


def test_each_thing_is_told_once(told: Told) -> None:
    names = [part.name for part in told[1]]
    assert names[:4] == ["fine-tuning", "0-shot", "1-shot", "fine-tuned"]
    assert names.count("fine-tuned@0") == 1 and "fine-tuned@3" in names
    # Labels change nothing that is extracted, and other shots nothing where there are none.
    assert [name for name in names if "," in name] == [
        "0-shot, embeddings", "1-shot, embeddings", "1-shot, other-shots", "1-shot, mixed-shots",
    ]  # fmt: skip


def test_of_the_grid_only_what_the_model_sees_is_told(tmp_path: Path) -> None:
    names = {part.name for part in case(tmp_path, controls={}, robustness=True).to_compute()}
    varied = {name.partition(", ")[2] for name in names if ", " in name}
    others = {"shots in order", "shots' seed 43"}
    assert varied == {"site norm2", "site res2", "questions' seed 43", "no header", *others}
    for name in others:  # nothing but shots
        assert f"1-shot, {name}" in names and f"0-shot, {name}" not in names
    assert "fine-tuned, site res2" in names


def test_a_training_reads_its_questions_forward_and_back_and_the_others_forward(
    told: Told, tmp_path: Path
) -> None:
    fine_tuned = case(told[0]).fine_tuned
    assert fine_tuned
    model = load_model(MODEL, "float32", CPU)
    weights = sum(one.numel() for one in model.get_decoder().layers.parameters())
    weights += model.get_decoder().norm.weight.numel()
    tokenizer = load_tokenizer(MODEL)
    learnt, asked = (
        sum(len(tokenizer(text)["input_ids"]) for text in texts)
        for texts in (fine_tuned.training_prompts, fine_tuned.validation_prompts)
    )
    asking = replace(
        fine_tuned,
        experiment=replace(fine_tuned.experiment, store=Store(tmp_path)),
        options=TrainingOptions(),
    )
    for training, times in ((fine_tuned, 0), (asking, 4)):
        record = json.loads((training.train() / "training.json").read_text("utf-8"))
        assert training.steps == len(record["loss"]) == 3
        # Fewer than --eval-steps, in a training of three steps.
        assert times == len(record["validation"])
        part = workload(training.experiment, [0], training)[0]
        assert part.tokens == learnt + times * asked
        assert part.operations == 2 * weights * (2 * learnt + times * asked)
    assert replace(told[1][0], kept=True) == workload(fine_tuned.experiment, [0], fine_tuned)[0]
    # Cut short after the first of three steps of sixteen questions, it reads a third.
    short = replace(fine_tuned, settings=replace(fine_tuned.settings, max_steps=1))
    assert short.epochs == pytest.approx(1 / 3)


def test_without_a_network_nothing_goes_through_one(tmp_path: Path) -> None:
    plain = Experiment(MODEL, QUESTIONS, Store(tmp_path), Subset(per_subject=2), most_shots=1)
    own, bare = workload(plain, [1], controls={"embeddings": CONTROLS["embeddings"]})
    assert (bare.tokens, bare.computed, bare.operations) == (own.tokens, 0, 0)
    assert own.computed and own.operations


def test_the_time_is_that_of_what_is_left() -> None:
    parts = [
        WorkItem("0-shot", 10, 100, 80, int(3e15)),
        WorkItem("1-shot", 10, 100, 80, int(9e15), kept=True),
        WorkItem("embeddings", 10, 100, 0, 0),
        WorkItem("mixed-shots", 0, 0, 0, 0, obstacle="too long"),
    ]
    lines = list(table(parts, 1e12))
    ends = ("3 PFLOP, 50.0 minutes", "in the store", "no network", "left out: too long")
    assert all(line.endswith(end) for line, end in zip(lines, ends, strict=False))
    assert "3 PFLOP, 50.0 minutes at the least" in lines[-1] and len(lines) == 5
    assert ": nothing; " in list(table(parts[1:], 0.0))[-1]


def test_without_a_gpu_the_papers_models_are_not_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    unheard = replace(case(tmp_path), name="llama-3-8b", paper_model=True)
    assert list(in_words(unheard)) == ["llama-3-8b: will be skipped; the paper's models need a GPU"]
    monkeypatch.setattr("fixtures.dry_run.device_name", lambda: "a GPU")
    assert unheard.experiment
    away = replace(unheard, experiment=replace(unheard.experiment, model="./nowhere"))
    (line,) = in_words(away)
    assert "will be skipped; no weights: ./nowhere: no such model folder" in line


def test_the_claims_tell_it_and_compute_nothing(tmp_path: Path) -> None:
    asked = ["pytest", "claims", "--dry-run", "--model", MODEL, "--mmlu", QUESTIONS]
    asked += ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]

    def told(*options: str, given: list[str] = asked) -> tuple[int, str]:
        done = Command(*given, *options)
        printed, errors = done.communicate(timeout=300)
        assert not list(tmp_path.iterdir()) and "Traceback" not in printed + errors
        return done.returncode, printed + errors

    status, printed = told("--shots", "0")
    assert status == 0 and "no tests ran" in printed
    assert "0-shot" in printed and "minutes at the least" in printed
    status, printed = told("--record", str(tmp_path / "r.json"))
    assert status == 2 and "leave out --record" in printed
    others = ["pytest", "--dry-run", "tests/test_readme.py"]
    status, printed = told(given=others)
    assert status == 2 and "run pytest claims" in printed
