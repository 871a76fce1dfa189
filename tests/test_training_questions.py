"""Training and analysis never share a question, however it is asked for."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from click.testing import CliRunner

from fixtures.cases import Case, cases_of
from fixtures.request import FineTuneRequest, Request
from harness.cli import commands
from harness.command_options import experiment_of
from harness.errors import DatasetError, ModelError
from harness.experiment_commands import extract
from harness.fine_tuned import FineTuned
from harness.finetune_command import finetune, training_of
from harness.pipeline import Experiment
from harness.protocol import (
    Budgets,
    ExtractionSettings,
    FineTuning,
    Subset,
    TrainingOptions,
)
from harness.questions.mmlu import load_questions
from harness.questions.training_questions import split_test, without_training
from harness.store import Store
from tests.test_finetune_command import MODEL, QUESTIONS, run
from tests.test_questions import rows, write_dataset


def texts(subset: Subset, dataset: str = QUESTIONS) -> set[tuple[str, ...]]:
    questions = load_questions(dataset, subset, 0).questions
    return {(question.text, *question.choices) for question in questions}


def test_training_and_analysis_never_share_a_question(tmp_path: Path) -> None:
    training, analysed = split_test(30, Subset())
    assert not texts(training) & texts(analysed)
    assert len(texts(training) | texts(analysed)) == len(texts(Subset()))
    # A question that the dataset holds twice is not asked if the other one trained the model.
    twice = {"question": ["q0", "q1", "q0 ", "q1"], "subject": ["s", "s", "t", "t"],
             "choices": [["1", "2", "3", "4"]] * 4, "answer": [0, 3, 0, 3]}  # fmt: skip
    dataset = write_dataset(tmp_path / "twice", rows(**twice))
    for seed in range(5):
        one = Subset("test", 1, seed=seed)
        rest = Subset("test", without=one)
        try:
            left = texts(rest, dataset)
        except DatasetError as error:
            assert "no question left" in str(error)  # both questions were drawn
            continue
        stripped = {text.strip() for text, *_ in texts(one, dataset)}
        assert not stripped & {text.strip() for text, *_ in left}


def test_a_question_that_also_stands_in_a_training_split_is_not_analysed(tmp_path: Path) -> None:
    asked = rows(question=["q0", "q1"])
    dataset = tmp_path / "data"
    shutil.copytree(QUESTIONS, dataset)
    table = datasets.load_dataset(str(dataset), "all", split="validation").to_dict()
    learnt = {name: [*values, asked[name][0]] for name, values in table.items() if name in asked}
    for file in (dataset / "all").glob("validation*"):
        datasets.Dataset.from_dict(learnt).to_parquet(file)
    table = datasets.load_dataset(QUESTIONS, "all", split="test").to_dict()
    for file in (dataset / "all").glob("test*"):
        both = {name: [*asked[name], *values] for name, values in table.items() if name in asked}
        datasets.Dataset.from_dict(both).to_parquet(file)
    assert {"q0", "q1"} <= {text for text, *_ in texts(Subset(), str(dataset))}
    left = texts(without_training(Subset("dev+validation", 3), Subset()), str(dataset))
    assert "q1" in {text for text, *_ in left} and "q0" not in {text for text, *_ in left}
    same = without_training(Subset("test", 3), Subset(per_subject=2))
    assert same.without == Subset("test", 3) and same.leave_out is None
    experiment, _ = experiment_of(
        extract.make_context(
            "extract", ["--model", MODEL, "--mmlu", str(dataset), "--leave-out", "dev+validation"]
        ).params
    )
    assert {(q.text, *q.choices) for q in experiment.questions.questions} == left
    given = (MODEL, str(dataset), None, (0,), Subset(), ExtractionSettings(), tmp_path / "store")
    (case,) = cases_of(Request(*given, FineTuneRequest()))
    assert case.experiment and case.experiment.questions.fingerprint == (
        experiment.questions.fingerprint
    )


@pytest.mark.parametrize("train_from_test", [None, 3])
def test_the_claims_train_what_the_command_trains(
    tmp_path: Path, train_from_test: int | None
) -> None:
    given = (
        MODEL,
        QUESTIONS,
        None,
        (0,),
        Subset(),
        ExtractionSettings(),
        tmp_path,
        FineTuneRequest(),
    )
    budgets = Budgets(7, cached_tokens=9)
    (case,) = cases_of(Request(*given, train_from_test, budgets=budgets))
    options = ["--model", MODEL, "--mmlu", QUESTIONS, "--precision", ExtractionSettings.precision]
    options += ["--train-from-test", "3"] if train_from_test else []
    there = training_of(finetune.make_context("finetune", options).params)
    here = case.fine_tuned
    assert here
    assert (here.training, here.validation) == (there.training, there.validation)
    assert here.settings == there.settings
    assert here.experiment.subset == there.experiment.subset
    assert here.experiment.budgets == budgets and here.options.tokens == 7


def test_an_adapter_is_not_analysed_on_what_trained_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(tmp_path, "--output-dir", str(tmp_path / "out"), "--max-train-steps", "1")
    common = ["extract", "--model", MODEL, "--mmlu", QUESTIONS, "--per-subject", "40"]
    common += ["--store", str(tmp_path / "store")]
    final, link, elsewhere = folder / "final", tmp_path / "link", tmp_path / "elsewhere" / "moved"

    def asked(split: str, *adapter: str) -> int:
        given = [*common, "--split", split, "--adapter", *adapter]
        return CliRunner().invoke(commands, given, catch_exceptions=False).exit_code

    def refused(*adapter: str) -> None:
        with pytest.raises(DatasetError, match=rf"to analyse \({folder / 'training.json'} tells"):
            asked("validation", *adapter)

    assert asked("test", str(folder), "--checkpoint", "final") == 0
    refused(str(folder), "--checkpoint", "final")
    link.symlink_to(final)
    refused(str(link))
    monkeypatch.chdir(final)
    refused(".")
    elsewhere.parent.mkdir()
    final.rename(elsewhere)
    final.symlink_to(elsewhere)
    refused(str(final))
    tested = run(tmp_path, "--train-split", "test", "--max-train-steps", "1")
    assert len(json.loads((tested / "training.json").read_text())["learnt"]) == 48


def test_the_landscape_of_the_fine_tuned_model_is_of_other_questions_than_it_learnt(
    tmp_path: Path,
) -> None:
    training, analysed = split_test(3, Subset(per_subject=4))
    experiment = Experiment(
        MODEL, QUESTIONS, Store(tmp_path), analysed, ExtractionSettings(precision="float32")
    )
    settings = FineTuning(epochs=1, rank=2, checkpoints=1, precision="float32")
    tuned = FineTuned(experiment, training, settings, TrainingOptions(), "dev")
    assert not texts(training) & texts(analysed)
    assert len(tuned.questions.questions) == 48
    landscape = tuned.landscape()
    assert landscape.condition == "fine-tuned" and landscape.origin["questions"] == 64
    assert landscape.origin["trained_on"]["per_subject"] == 3
    assert landscape.origin["trained_on"]["fingerprint"] == tuned.questions.fingerprint
    assert landscape.origin["Subset"]["without"]["per_subject"] == 3
    checkpoints = tuned.checkpoint_landscapes()
    assert list(checkpoints) == ["fine-tuned@1", "fine-tuned@3"]
    assert all(one.origin["questions"] == 48 for one in checkpoints.values())
    # What is measured needs no representations any more, nor a model.
    shutil.rmtree(tmp_path / "representations")
    again = replace(tuned, experiment=replace(experiment, store=Store(tmp_path)))
    assert again.checkpoint_landscapes() == checkpoints
    assert not (tmp_path / "representations").exists()


# It trains the model, or is asked meanwhile.
@pytest.mark.parametrize(("from_test", "split"), [(None, "validation"), (3, "dev")])
def test_a_question_that_is_too_long_to_train_on_is_refused_before_anything_is_measured(
    from_test: int | None, split: str, tmp_path: Path
) -> None:
    model, dataset = (
        shutil.copytree(one, tmp_path / name) for one, name in ((MODEL, "short"), (QUESTIONS, "q"))
    )
    asked = Request(
        str(model), str(dataset), None, (0,), Subset(per_subject=3), ExtractionSettings(),
        tmp_path / "store", FineTuneRequest(), train_from_test=from_test,
    )  # fmt: skip

    def asking(case: Case) -> FineTuned:
        assert case.fine_tuned
        return replace(case.fine_tuned, options=TrainingOptions())

    cases_of(asked)[0].check()
    asking(cases_of(asked)[0]).check_landscapes()
    table = datasets.load_dataset(str(dataset), "all", split=split).to_dict()
    table["question"][0] = "Who " * 500
    for file in (dataset / "all").glob(f"{split}*"):
        datasets.Dataset.from_dict(table).to_parquet(file)
    with pytest.raises(ModelError, match=r"short: takes \d+ tokens, and prompt \d+ has 15"):
        asking(cases_of(asked)[0]).check_landscapes()
    if from_test is None:  # it trains the model, so the claims refuse it themselves
        with pytest.raises(ModelError, match=r"short: takes \d+ tokens, and prompt \d+ has 15"):
            cases_of(asked)[0].check()
    cases_of(replace(asked, fine_tune=None))[0].check()
