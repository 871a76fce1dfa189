"""An experiment's model fine-tuned: adapters in the store, and the experiments with them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checks import check_extraction
from harness.device import default_device
from harness.errors import GeometryError, SettingsError
from harness.landscape import Landscape
from harness.names import model_name
from harness.pipeline import Experiment
from harness.processes import check_spreading, is_spread, launched_processes
from harness.protocol import (
    FineTuning,
    PromptFormat,
    Subset,
    TrainingOptions,
    cache_key,
    steps_an_epoch,
)
from harness.questions.mmlu import load_questions
from harness.questions.prompts import build_prompt, format_question
from harness.questions.question import QuestionSet
from harness.training_record import (
    FINAL,
    FINE_TUNED,
    checkpoint_condition,
    checkpoint_step,
    read_record,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from harness.finetuning import ValidationSet
    from harness.finetuning.batches import Example

# Raise it when the code behind it changes its results: what older code kept is then not found.
FINE_TUNING_VERSION = 2
ZERO_SHOT = PromptFormat(0)


@dataclass(frozen=True)
class FineTuned:
    """The fine-tuning of an experiment's model.

    experiment: that the fine-tuned model is analysed in.
    settings: what changes the adapter; options: what does not, but for rounding.
    training: the questions that train it; validation: the split that is asked meanwhile.
    """

    experiment: Experiment
    training: Subset
    settings: FineTuning
    options: TrainingOptions = field(default_factory=TrainingOptions)
    validation: str = "validation"

    @cached_property
    def questions(self) -> QuestionSet:
        """The questions that train the model. Raises DatasetError, SettingsError."""
        return load_questions(self.experiment.dataset, self.training, 0)

    @cached_property
    def validation_questions(self) -> QuestionSet:
        """The questions asked during the training. Raises DatasetError, SettingsError."""
        return load_questions(self.experiment.dataset, Subset(self.validation), 0)

    def check(self, processes: int | None = None) -> None:
        """Raise a UserError now for what would fail later.

        processes: that will train, where it is not those of this launch.
        """
        count = len(self.questions.questions)
        batch, processes = self.settings.batch_size, processes or launched_processes().count
        whole = self.steps < steps_an_epoch(count, batch)
        smallest = batch if whole else count % batch or batch
        if smallest < processes:
            raise SettingsError(
                f"a step has {smallest} questions for {processes} processes; launch fewer, or "
                "give another --batch-size"
            )
        if self.options.evaluations:
            asked = len(self.validation_questions.questions)
            if asked < processes:
                raise SettingsError(
                    f"split {self.validation!r} has {asked} questions for {processes} processes; "
                    "launch fewer, or give another --validation"
                )
        check_spreading()
        # The key is of all weights: too much to read where it is not needed.
        if self.experiment.device_map and not self.is_trained():
            raise SettingsError(
                "a model that needs --device-map is not fine-tuned here; run `accelerate launch "
                "--use_fsdp ... -m harness.cli finetune` with the same --store first (README)"
            )

    def check_landscapes(self) -> None:
        """Raise a UserError as `check` does, and where the checkpoints could not be measured."""
        self.check()
        check_extraction(self.start, ZERO_SHOT)  # with the header, so longer than what trains
        if self.evaluations:
            self.experiment.tokens(self.validation_prompts)
        points = self.experiment.geometry.least_points(overlap=True)
        count = len(self.questions.questions)
        if count < points:
            raise GeometryError(
                f"{self.experiment.dataset}: {count} training questions, but the landscapes of "
                f"their checkpoints need {points}; train on more a subject"
            )

    @cached_property
    def _key(self) -> str:
        return cache_key(
            self.experiment.fingerprint,
            self.questions.fingerprint,
            self.settings,
            FINE_TUNING_VERSION,
        )

    def is_trained(self) -> bool:
        """Return whether the adapters are in the store; reads all weights of the model, to know it.

        Raises ModelError, DatasetError.
        """
        return self.experiment.store.find("adapters", self._key) is not None

    @property
    def steps(self) -> int:
        """The number of steps of the training. Raises DatasetError."""
        return self.settings.steps(len(self.questions.questions))

    @property
    def kept_steps(self) -> list[int]:
        """The steps after which an adapter is kept; the last is the final one's."""
        from harness.finetuning.schedule import checkpoint_steps

        return [*checkpoint_steps(self.steps, self.settings.checkpoints), self.steps]

    @property
    def evaluations(self) -> int:
        """How often the validation split is asked: before, and during the training."""
        from harness.finetuning.schedule import even_steps

        asked = even_steps(self.steps, self.options.evaluations)
        return 1 + len(asked) if asked else 0

    @property
    def epochs(self) -> float:
        """How often the training reads its questions. Raises DatasetError."""
        count = len(self.questions.questions)
        return self.steps / steps_an_epoch(count, self.settings.batch_size)

    @property
    def training_prompts(self) -> list[str]:
        """What trains the model: questions without the header, as in the paper."""
        return [format_question(question) for question in self.questions.questions]

    @property
    def validation_prompts(self) -> list[str]:
        """What the model is asked during the training, each time."""
        return [
            build_prompt(question, (), ZERO_SHOT)
            for question in self.validation_questions.questions
        ]

    def forget_unfinished(self) -> None:
        """Drop what a stopped training left, so that the next one begins anew.

        Raises SettingsError while another run trains the same.
        """
        self.experiment.store.forget_unfinished("adapters", self._key)

    def train(self) -> Path:
        """Return the folder of the adapters, `step-000001` ... and `final`; train them if need be.

        That can take hours. Raises UserError as `check` does.
        """
        try:
            return self.experiment.store.find_or_make(
                "adapters", self._key, self._train_into, launched_processes(), lambda: self._inputs
            )
        finally:
            self._release()

    def fine_tuned_experiment(self) -> Experiment:
        """Return the experiment with the final adapter; train it if need be.

        Raises UserError as `check` does.
        """
        return self.experiment.changed(adapter=self.train() / FINAL, condition=FINE_TUNED)

    def landscape(self) -> Landscape:
        """Return the landscape of the fine-tuned model on the analysed questions, without shots.

        Raises UserError as `check` does.
        """
        with self.fine_tuned_experiment() as adapted:
            return adapted.landscape(ZERO_SHOT)

    @cached_property
    def start(self) -> Experiment:
        """The experiment on the training questions, before it is fine-tuned."""
        return replace(self.experiment, subset=self.training, most_shots=0)

    def checkpoint_experiments(self) -> dict[str, Experiment]:
        """Return the experiment on the training questions with each adapter, by condition.

        In the order of their steps; trains them if need be. Raises UserError as `check` does.
        """
        adapters = self.train()
        steps = {checkpoint_step(folder): folder for folder in adapters.glob("step-*")}
        steps[len(read_record(adapters)["loss"])] = adapters / FINAL
        named = {checkpoint_condition(step): steps[step] for step in sorted(steps)}
        return {
            condition: self.start.changed(adapter=folder, condition=condition, on_training=True)
            for condition, folder in named.items()
        }

    def checkpoint_landscapes(self) -> dict[str, Landscape]:
        """Return the landscapes of the checkpoints on the training questions, by condition.

        They are called `fine-tuned@STEP` and have the overlap with step 0, the model without an
        adapter; the last is that of the final adapter.

        Raises UserError as `check_landscapes` does.
        Source: the paper, its overlap of checkpoints with the model before fine-tuning.
        """
        start, checkpoints = self.start, self.checkpoint_experiments()
        if not all(one.is_measured(ZERO_SHOT, start) for one in checkpoints.values()):
            with start:  # or there would be two models in memory
                start.representations(ZERO_SHOT)
        found = {}
        for condition, checkpoint in checkpoints.items():
            with checkpoint:
                found[condition] = checkpoint.landscape(ZERO_SHOT, start)
        return found

    @cached_property
    def _inputs(self) -> tuple[PreTrainedModel, list[Example], ValidationSet | None]:
        """The model, what it learns and what it is asked meanwhile. Raises ModelError."""
        import torch

        from harness.finetuning import ValidationSet
        from harness.finetuning.answer_model import check_targets
        from harness.finetuning.batches import as_examples
        from harness.models import load_model
        from harness.tokenizer import letter_tokens, tokenize

        experiment, settings = self.experiment, self.settings
        tokenizer = experiment.loaded_tokenizer
        # FSDP spreads a model that may be too large for one GPU, so it must not go there whole.
        computes = default_device()
        device = torch.device("cpu") if is_spread() else computes
        model = load_model(
            experiment.model,
            settings.precision,
            device,
            experiment.attention,
            computes=computes,
        )
        check_targets(model, settings)
        how = (model.config, settings.max_length, experiment.budgets.workers)
        learnt = self.questions.questions
        tokens = tokenize(tokenizer, self.training_prompts, *how)
        examples = as_examples(tokenizer, learnt, tokens, settings.weight_subjects)
        if not self.options.evaluations:
            return model, examples, None
        asked = self.validation_questions.questions
        validation = ValidationSet(
            as_examples(tokenizer, asked, tokenize(tokenizer, self.validation_prompts, *how)),
            [question.subject for question in asked],
            letter_tokens(tokenizer),
        )
        return model, examples, validation

    def _train_into(self, folder: Path) -> None:
        from harness.finetuning import fine_tune

        model, examples, validation = self._inputs
        fine_tune(
            folder,
            model,
            examples,
            self.settings,
            self.options,
            validation,
            self._origin(),
            f"{model_name(self.experiment.model)}: fine-tune in {self.settings.precision}",
        )

    def _release(self) -> None:
        from harness.models import forget_models

        if self.__dict__.pop("_inputs", None):
            forget_models()

    def record(self) -> dict[str, Any]:
        """Return what tells this training from another, as `training.json` has it."""
        questions = self.questions
        return {
            "version": FINE_TUNING_VERSION,
            "model": self.experiment.fingerprint,
            "trained_on": {
                "dataset": questions.name,
                "questions": len(questions.questions),
                "fingerprint": questions.fingerprint,
                **asdict(self.training),
            },
            "FineTuning": json.loads(json.dumps(asdict(self.settings))),
            "learnt": [question.digest for question in questions.questions],
        }

    def _origin(self) -> dict[str, Any]:
        found = self.record()
        if self.options.evaluations:
            asked = self.validation_questions.questions
            found["validated_on"] = {"split": self.validation, "questions": len(asked)}
        versions = {name: version(name) for name in ("torch", "transformers", "peft")}
        return found | {"versions": versions}
