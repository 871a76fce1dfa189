"""What would fail later is refused before anything is computed."""

from __future__ import annotations

from harness.errors import DatasetError, GeometryError, SettingsError
from harness.pipeline import Experiment
from harness.processes import launched_processes
from harness.protocol import PromptFormat
from harness.training_record import record_file, record_of


def check_landscape(
    experiment: Experiment,
    prompt: PromptFormat,
    reads_weights: bool = True,
    overlap: bool = False,
) -> None:
    """Raise a UserError now if the landscape in this condition could not be measured.

    overlap: with that of another model, too.
    reads_weights: read the model's files too, all of them; not where another machine will.
    """
    if reads_weights:
        _ = experiment.fingerprint  # first: a model that is missing is found without the questions
    check_extraction(experiment, prompt)
    count = len(experiment.questions.questions)
    needed = experiment.geometry.least_points(overlap)
    if count < needed:
        raise GeometryError(
            f"{experiment.dataset}: {count} questions, but the geometry needs {needed}; raise "
            "--per-subject"
        )


def check_extraction(experiment: Experiment, prompt: PromptFormat) -> None:
    """Raise a UserError now if the model cannot be asked the questions in this condition.

    It is not there, it cannot be spread over these processes, its adapter has learnt the questions,
    its tokenizer has no tokens for the letters, or it has not positions enough.
    """
    from harness.models import check_adapter, check_name
    from harness.tokenizer import letter_tokens

    check_name(experiment.model)
    if experiment.device_map and launched_processes().count > 1:
        raise SettingsError(
            "--device-map spreads one model over all GPUs, and several processes would each have "
            "one; launch one process, or leave it out"
        )
    if experiment.adapter:
        check_adapter(experiment.adapter)
        _check_unseen(experiment)
    letter_tokens(experiment.loaded_tokenizer)
    experiment.tokens(experiment.prompts(prompt))


def _check_unseen(experiment: Experiment) -> None:
    """Raise DatasetError if a question that is analysed has trained the adapter.

    Or, where those are to be analysed that have, if they are others.
    """
    adapter = experiment.adapter
    assert adapter
    questions = experiment.questions.questions
    learnt = (record_of(adapter) or {}).get("learnt", ())
    seen = {question.digest for question in questions}.intersection(learnt)
    if experiment.on_training:
        told = (record_of(adapter) or {}).get("trained_on", {}).get("fingerprint")
        if experiment.questions.fingerprint != told:
            raise DatasetError(
                f"{experiment.dataset}: has other questions where {record_file(adapter)} tells "
                f"that those are which trained {adapter}; give the dataset that did, and its mask"
            )
        return
    if seen:
        raise DatasetError(
            f"{adapter}: was trained on {len(seen)} of the {len(questions)} questions to analyse "
            f"({record_file(adapter)} tells which it was trained on); give the same "
            "--train-from-test, the training's split as --leave-out, or another --split"
        )
