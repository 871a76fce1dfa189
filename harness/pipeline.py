"""From settings to a landscape, through the store: what is there is not computed again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from harness.accuracy import Accuracy
from harness.cost import counted, made_with, read_cost
from harness.device import default_device, device_name
from harness.errors import SettingsError
from harness.landscape import Landscape
from harness.names import model_name
from harness.processes import launched_processes
from harness.protocol import (
    Budgets,
    Control,
    ExtractionSettings,
    GeometrySettings,
    Precision,
    PromptFormat,
    Subset,
    cache_key,
)
from harness.provenance import origin, warn_of_another_model
from harness.questions.deal_shots import deal_shots
from harness.questions.mmlu import load_questions
from harness.questions.prompts import build_prompt
from harness.questions.question import Question, QuestionSet
from harness.schemas import Table
from harness.store import Store
from harness.training_record import record_of

if TYPE_CHECKING:
    from harness.tokenizer import Tokenizer

# Raise one when the code behind it changes its results: what older code kept is then not found.
# Of extraction, by precision: since 4 the letters' logits are in float32, as those of a model in
# float32 always were.
EXTRACTION_VERSION: Mapping[Precision, int] = {"float32": 3, "bfloat16": 4, "float16": 4}
GEOMETRY_VERSION = 9


@dataclass(frozen=True)
class Experiment:
    """One model asked the questions of one dataset.

    model, dataset: a folder or a hub name each.
    most_shots: the largest number of shots that any condition uses.
    adapter: the folder of a PEFT adapter that the model has; condition: its name then.
    on_training: the questions are those that trained the adapter; without it, none of them may be.
    control: the null control that this is; its default is none.
    tokenizer: of another folder or hub name than the model.
    attention, device_map, offload: see `load_model`.
    budgets, log_every: see `extract_into`.
    """

    model: str
    dataset: str
    store: Store
    subset: Subset = field(default_factory=Subset)
    extraction: ExtractionSettings = field(default_factory=ExtractionSettings)
    geometry: GeometrySettings = field(default_factory=GeometrySettings)
    most_shots: int = 5
    adapter: Path | None = None
    condition: str | None = None
    on_training: bool = False
    control: Control = field(default_factory=Control)
    tokenizer: str | None = None
    attention: str = "auto"
    device_map: str | None = None
    offload: Path | None = None
    budgets: Budgets = field(default_factory=Budgets)
    log_every: int | None = None

    @cached_property
    def questions(self) -> QuestionSet:
        """The analysed questions, N of them. Raises DatasetError, SettingsError."""
        return load_questions(self.dataset, self.subset, self.most_shots)

    def changed(self, **fields: Any) -> Experiment:
        """Return the experiment with other fields, and its questions where it asks the same."""
        other = replace(self, **fields)
        if "questions" in vars(self) and not fields.keys() & {"dataset", "subset", "most_shots"}:
            vars(other)["questions"] = self.questions
        return other

    @cached_property
    def fingerprint(self) -> str:
        """What identifies the bytes of model, adapter and tokenizer.

        Raises ModelError, and RecordError for a bad record of the adapter's training.
        """
        from harness.models import adapter_fingerprint, model_fingerprint

        parts = [model_fingerprint(self.model)]
        if self.adapter:
            parts.append(f"adapter {adapter_fingerprint(self.adapter)}")
            warn_of_another_model(self.adapter, self._training or {}, self.model, parts[0])
        if self.tokenizer:
            parts.append(f"tokenizer {model_fingerprint(self.tokenizer, None)}")
        return "; ".join(parts)

    def prompts(self, prompt: PromptFormat) -> list[str]:
        """Return the N prompts of the questions. Raises DatasetError, SettingsError."""
        return [
            build_prompt(question, self._shots[question.row], prompt)
            for question in self.questions.questions
        ]

    def tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of some prompts, as the model reads them. Raises ModelError."""
        from harness.models import load_config
        from harness.tokenizer import tokenize

        return tokenize(
            self.loaded_tokenizer,
            prompts,
            load_config(self.model),
            self.extraction.max_length,
            self.budgets.workers,
        )

    @cached_property
    def _shots(self) -> dict[int, Sequence[Question]]:
        return deal_shots(self.questions, self.control)

    def representations(self, prompt: PromptFormat) -> Path:
        """Return the folder of the representations in this condition; extract them if need be.

        Raises UserError as `landscape` does.
        """
        return self.store.find_or_make(
            "representations",
            self.extraction_key(prompt),
            lambda to: self._extract(prompt, to),
            launched_processes(),
            lambda: self._loaded,
        )

    def is_extracted(self, prompt: PromptFormat) -> bool:
        """Return whether the representations in this condition are in the store.

        Raises UserError as `extraction_key` does.
        """
        return self.store.find("representations", self.extraction_key(prompt)) is not None

    def landscape(self, prompt: PromptFormat, start: Experiment | None = None) -> Landscape:
        """Return the landscape in this condition; measure it if need be.

        start: the same before fine-tuning, to measure the overlap with.

        Raises UserError where the model, the questions or the settings do not fit.
        """

        def make(folder: Path) -> None:
            measured = self._measure(prompt, start)
            (folder / "landscape.json").write_text(measured.to_json(), encoding="utf-8")

        key = self._landscape_key(prompt, start)
        file = self.store.find_or_make("landscapes", key, make) / "landscape.json"
        found = Landscape.from_json(file.read_text(encoding="utf-8"), str(file))
        # The same bytes may be known under another name when they are asked for again.
        kept = {name: found.origin[name] for name in ("versions", "cost")}
        return replace(
            found,
            model=model_name(self.model),
            condition=self.condition or prompt.condition,
            origin=self.origin(prompt) | kept,
        )

    def is_measured(self, prompt: PromptFormat, start: Experiment | None = None) -> bool:
        """Return whether the landscape in this condition is in the store.

        Raises UserError as `extraction_key` does.
        """
        return self.store.find("landscapes", self._landscape_key(prompt, start)) is not None

    def _landscape_key(self, prompt: PromptFormat, start: Experiment | None) -> str:
        sources = [one.extraction_key(prompt) for one in (self, start) if one]
        if self.control.labels != "own":
            sources.append(cache_key(self.control))
        return cache_key(*sources, self.geometry, GEOMETRY_VERSION, version("dadapy"))

    def accuracy(self, prompt: PromptFormat) -> Accuracy:
        """Return how many questions are answered in this condition; extract it if need be.

        Raises UserError as `landscape` does, and SettingsError without a network.
        """
        from harness.answers import answered

        if self.control.weights == "none":
            raise SettingsError("without a network no question is answered; take other weights")
        return answered(self.representations(prompt), self.questions.questions)

    def extraction_key(self, prompt: PromptFormat) -> str:
        """Return what the store knows the representations in this condition by.

        Raises ModelError, DatasetError or SettingsError where model or questions cannot be read.
        """
        questions = self.questions
        # Without shots the same prompts are asked, whatever others are asked with.
        return cache_key(
            self.fingerprint,
            questions.shots_fingerprint if prompt.shots else questions.fingerprint,
            prompt if prompt.shots else PromptFormat(header=prompt.header),
            self.extraction,
            EXTRACTION_VERSION[self.extraction.precision],
            *([self.control.inputs] if self.control.inputs else []),
        )

    def _extract(self, prompt: PromptFormat, folder: Path) -> None:
        from harness.extraction import extract_into
        from harness.extraction.embeddings import mean_embeddings_into

        model, tokenizer = self._loaded
        asked = (folder, model, tokenizer, self.prompts(prompt), self.extraction, self.budgets)
        condition, precision = self.condition or prompt.condition, self.extraction.precision
        name = f"{self._name} {condition}: extract in {precision}"
        processes = launched_processes()
        with counted(folder, device_name()) if processes.is_main else nullcontext():
            if self.control.weights == "none":
                if processes.is_main:
                    mean_embeddings_into(*asked)
            else:
                extract_into(*asked, processes, name, self.log_every)

    @property
    def _name(self) -> str:
        plain = asdict(Control())
        marks = "".join(
            f", {key} {value}" for key, value in asdict(self.control).items() if value != plain[key]
        )
        return model_name(self.model) + marks

    def __enter__(self) -> Self:
        """Return the experiment; at the end of the block its model is let go."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let the model go, which otherwise stays in memory for the next condition."""
        self.release()

    def release(self) -> None:
        """Let the model go, and free its memory; it is loaded again if it is needed."""
        from harness.models import forget_models

        if self.__dict__.pop("_loaded", None):
            forget_models()

    @cached_property
    def loaded_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises ModelError."""
        from harness.tokenizer import load_tokenizer

        return load_tokenizer(self.tokenizer or self.model)

    @cached_property
    def _loaded(self):  # type: ignore[no-untyped-def]
        from harness.models import load_model

        model = load_model(
            self.model,
            self.extraction.precision,
            default_device(),
            self.attention,
            self.adapter,
            self.device_map,
            self.offload,
            self.control.seed if self.control.weights == "random" else None,
        )
        return model, self.loaded_tokenizer

    def _kept(self, prompt: PromptFormat) -> Path:
        # Looked for first: of several processes one measures, and the others do not come here.
        kept = self.store.find("representations", self.extraction_key(prompt))
        return kept or self.representations(prompt)

    def _measure(self, prompt: PromptFormat, start: Experiment | None) -> Landscape:
        from harness.answers import given_letters
        from harness.measure_extracted import labels_under, measure_extracted

        folder, before = self._kept(prompt), start._kept(prompt) if start else None
        started = time.monotonic()
        condition, questions = self.condition or prompt.condition, self.questions
        given = None if self.control.weights == "none" else given_letters(folder)
        found = measure_extracted(
            folder,
            questions,
            labels_under(self.control, questions.questions, self._shots, given),
            given,
            self.geometry,
            model_name(self.model),
            condition,
            f"{self._name} {condition}",
            before,
        )
        cost = {
            "extraction": read_cost(folder).get("seconds"),
            "measuring": time.monotonic() - started,
            "training": (self._training or {}).get("seconds"),
            "device": read_cost(folder).get("device"),
        }
        return replace(found, origin=self.origin(prompt, folder) | {"cost": cost})

    def origin(self, prompt: PromptFormat, folder: Path | None = None) -> dict[str, Any]:
        """Return what the results in this condition come from: settings, bytes and versions.

        folder: of the representations, which other versions may have made than there are now.

        Raises UserError as `extraction_key` does, and RecordError for a bad record of the adapter's
        training.
        """
        settings = self.subset, prompt, self.extraction, self.geometry, self.control
        found = origin(self.fingerprint, self.questions, prompt.shots > 0, settings, self._training)
        return found | {"versions": found["versions"] | made_with(folder)} if folder else found

    @cached_property
    def _training(self) -> Table | None:
        """The record of the adapter's training, empty if it has none; None without an adapter."""
        return (record_of(self.adapter) or {}) if self.adapter else None
