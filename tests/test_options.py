"""What the options of `pytest claims`, and those of an experiment, ask for."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from fixtures.cases import cases_of
from fixtures.options import collects_a_part, judges_claims, wants_gpu
from fixtures.request import FineTuneRequest, Request
from harness.command_options import experiment_of
from harness.experiment_commands import measure
from harness.protocol import ExtractionSettings, FineTuning, Subset
from tests.running import MODEL, QUESTIONS, ROOT, Command


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("", False), ("gpu", True), ("gpu and not slow", True), ("slow or gpu", True),
        ("not gpu", False), ("not (slow or gpu)", False), ("not slow", False), ("gpu and", False),
    ],
)  # fmt: skip
def test_the_papers_models_are_judged_where_they_are_all_that_is_asked_for(
    expression: str, wanted: bool
) -> None:
    assert wants_gpu(Mock(option=Mock(markexpr=expression))) == wanted


def test_each_of_the_papers_models_is_fine_tuned_as_the_paper_did(tmp_path: Path) -> None:
    asked = Request(
        None, None, None, (0, 5), Subset(), ExtractionSettings(), tmp_path, FineTuneRequest()
    )
    found = {case.name: case.fine_tuned for case in cases_of(asked, paper_models=True)}
    # Appendix: questions a subject, epochs, rank, alpha, learning rate.
    assert {
        name: (
            one.training.per_subject, one.settings.epochs, one.settings.rank, one.settings.alpha,
            one.settings.learning_rate,
        )
        for name, one in found.items() if one
    } == {
        "llama-2-7b": (20, 4, 64, 16, 2e-4),
        "llama-2-13b": (20, 4, 64, 16, 2e-4),
        "llama-2-70b": (40, 4, 128, 32, 1e-4),
        "llama-3-8b": (40, 6, 64, 16, 2e-4),
        "llama-3-70b": (40, 4, 128, 32, 1e-4),
        "mistral-7b": (40, 6, 64, 16, 2e-4),
    }  # fmt: skip


def test_a_fine_tuning_is_the_presets_but_for_what_is_asked(tmp_path: Path) -> None:
    asked = Request(
        MODEL, QUESTIONS, None, (0,), Subset(), ExtractionSettings(), tmp_path,
        FineTuneRequest("llama-2", epochs=1, checkpoints=1), train_from_test=3,
    )  # fmt: skip
    (found,) = (case.fine_tuned for case in cases_of(asked))
    assert found and found.settings == FineTuning(epochs=1, checkpoints=1)
    epoch = -(-len(found.questions.questions) // 16)
    assert found.kept_steps == [1, epoch]
    none = replace(asked, fine_tune=FineTuneRequest("llama-2", checkpoints=0))
    (other,) = (case.fine_tuned for case in cases_of(none))
    assert other and other.settings == FineTuning(epochs=4, checkpoints=0)
    assert other.kept_steps == [4 * epoch]  # the llama-2 preset has four


def test_options_of_the_environment_are_heard_too(tmp_path: Path) -> None:
    record = str(ROOT / "reports" / "recorded" / "qwen2.5-coder-1.5b.json")
    given = ["claims", "--recorded", record, "--out", str(tmp_path)]
    added = {"PYTEST_ADDOPTS": "--controls"}
    judging = Command("pytest", *given, variables=added)
    printed, errors = judging.communicate(timeout=300)
    assert judging.returncode == 2, printed + errors
    assert "--recorded judges what was measured; leave out --controls" in printed + errors


@pytest.mark.parametrize(
    ("start", "given", "some", "whole"),
    [
        ("", "claims", True, True),
        ("", ".", True, True),
        ("claims", ".", True, True),
        ("tests", "../claims", True, True),
        ("", "claims/test_answers.py::test_one", True, False),
        ("claims", "test_answers.py", True, False),
        ("", "tests", False, False),
        ("", "harness/claims", False, False),
    ],
)
def test_claims_are_known_from_wherever_pytest_begins(
    start: str, given: str, some: bool, whole: bool, tmp_path: Path
) -> None:
    link, other = tmp_path / "link", tmp_path / "claims"
    link.symlink_to(ROOT)
    other.mkdir()  # a folder of that name where pytest begins, too
    for root, begin, asked in (
        (ROOT, ROOT / start, given),
        (link, link / start, given),
        (link, tmp_path, str(link / start / given)),
    ):
        begun = Mock(dir=begin)
        config = Mock(rootpath=root, invocation_params=begun, args=[asked], option=object())
        assert (judges_claims(config), not collects_a_part(config)) == (some, whole)


def test_what_an_adapter_answers_is_not_named_as_what_the_model_does() -> None:
    def condition(*options: str) -> str | None:
        given = ["--model", MODEL, "--mmlu", QUESTIONS, "--out", "landscape.json", *options]
        return experiment_of(measure.make_context("measure", given).params)[0].condition

    assert condition("--shots", "5") is None  # so that of the prompts
    assert condition("--adapter", "trained", "--checkpoint", "final") == "fine-tuned"
    assert condition("--adapter", "trained/step-000010") == "fine-tuned-step-000010"
    assert condition("--adapter", "trained", "--shots", "5") == "fine-tuned-5-shot"
    assert condition("--adapter", "trained", "--condition", "mine") == "mine"
