"""Fine-tune: LoRA on the answer token, with checkpoints on the way, resumable at any moment."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel

from harness.accuracy import accuracy
from harness.allocator import keep_freed_memory
from harness.disk import write_whole
from harness.finetuning.answer_model import AnswerModel, pad, save_adapter, with_lora
from harness.finetuning.batches import Example, batch_rows, passes
from harness.finetuning.fused_lora import fuse_lora
from harness.finetuning.schedule import checkpoint_steps, even_steps, learning_rate_factor
from harness.finetuning.training_state import (
    gather,
    load_state,
    newest_state,
    put_back,
    save_state,
    tensors_of,
)
from harness.processes import launched_processes
from harness.protocol import FineTuning, TrainingOptions
from harness.schemas import writable
from harness.training_record import FINAL, RECORD, checkpoint_name

logger = logging.getLogger(__name__)

# Tokens a pass, by device: on a CPU little more than what keeps its matrix units busy.
PASS_TOKENS = {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True)
class ValidationSet:
    """Questions that are only asked: their examples, their subjects, and the letters' tokens."""

    examples: Sequence[Example]
    subjects: Sequence[str]
    letters: Sequence[int]

    @property
    def fingerprint(self) -> str:
        """What identifies the questions, as the model reads them."""
        asked = [(list(map(int, one.tokens)), int(one.answer)) for one in self.examples]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


@dataclass
class Progress:
    """What a training has told so far.

    loss: mean over the batch of every step (nats), from step 1 on.
    validation: `asdict` of the Accuracy, and its `macro`, after so many steps; 0 is before any.
    seconds: of training and asking, over all runs of it.
    asked: the fingerprint of the questions that `validation` is about.
    """

    loss: list[float] = field(default_factory=list)
    validation: dict[int, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    asked: str | None = None

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Progress:
        """Return the progress whose `asdict` went through JSON, which has no numbers as keys."""
        validation = {int(step): found for step, found in table["validation"].items()}
        return cls(table["loss"], validation, table["seconds"], table.get("asked"))


def fine_tune(
    folder: Path,
    model: PreTrainedModel,
    examples: Sequence[Example],
    settings: FineTuning,
    options: TrainingOptions,
    validation: ValidationSet | None = None,
    origin: Mapping[str, Any] | None = None,
    description: str = "fine-tuning",
) -> Progress:
    """Train a LoRA adapter for `model` and write it into `folder`; return what it told.

    folder: receives a PEFT adapter folder for every checkpoint, `step-000001` ... and `final`, and
        `training.json`. What a stopped training left there is gone on from; the result is the
        same. The last state stays there, hidden.
    validation: questions asked during the training and after it.
    origin: what else `training.json` says: which model, and which questions trained it.

    The loss of a step is the mean of its examples' cross-entropies, weighted. Under torchrun or
    `accelerate launch` the processes share each step's examples, and FSDP the model, if accelerate
    is told so. Random numbers of a pass depend on the seed, its step and its place in it alone.

    A step, and the validation, must have as many examples as there are processes.

    Raises ModelError as `with_lora` does, and OSError, SafetensorError or SettingsError where
    `folder` cannot be written.
    Source: the paper, appendix; `finetune.py` of its repository.
    """
    training = _Training(folder, model, examples, settings, options, validation, description)
    return training.run(origin or {})


class _Training:
    """One training: what stays the same over its steps, and its progress."""

    def __init__(
        self,
        folder: Path,
        model: PreTrainedModel,
        examples: Sequence[Example],
        settings: FineTuning,
        options: TrainingOptions,
        validation: ValidationSet | None,
        description: str,
    ) -> None:
        self.folder, self.examples, self.settings = folder, examples, settings
        self.options, self.validation, self.description = options, validation, description
        self.asked = validation.fingerprint if validation else None
        # Said here, or `accelerate launch` and the user's configuration would change the training:
        # its autocast and its passes a step are our own.
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
        on_cpu = self.accelerator.device.type == "cpu"
        if on_cpu:
            keep_freed_memory()
        self.mixed = model.dtype == torch.bfloat16
        if options.activation_checkpointing:
            # The second is of older versions of transformers, and goes with its version 6.
            names = "activation_checkpointing_enable", "gradient_checkpointing_enable"
            enable = next(getattr(model, name) for name in names if hasattr(model, name))
            enable({"use_reentrant": False})
        self.adapted = with_lora(model, settings)
        if on_cpu:
            fuse_lora(self.adapted)
        answering: nn.Module = AnswerModel(self.adapted.get_base_model())
        optimizer = torch.optim.AdamW(
            [one for one in answering.parameters() if one.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        # Together, or FSDP could not tell which weights the optimizer steps.
        self.model, self.optimizer = self.accelerator.prepare(answering, optimizer)
        # What learns, by its name in AnswerModel. Now, since FSDP puts other parameters in their
        # place for the time between a forward pass and the next backward one.
        prepared: nn.Module = self.accelerator.unwrap_model(self.model)
        self.trained = [
            (name, one) for name, one in prepared.named_parameters() if one.requires_grad
        ]
        self.steps = settings.steps(len(examples))
        self.kept = checkpoint_steps(self.steps, settings.checkpoints)
        device = self.accelerator.device.type
        self.pass_tokens = options.tokens or PASS_TOKENS[device]
        self.processes = self.accelerator.num_processes

    def run(self, origin: Mapping[str, Any]) -> Progress:
        """Train from where the folder's newest state is."""
        with disable_input_dtype_casting(self.adapted, active=self.mixed):  # autocast does it
            progress = self._train()
        self._save_adapter(FINAL)
        if self.accelerator.is_main_process:
            record = {"FineTuning": asdict(self.settings)} | dict(origin) | asdict(progress)
            write_whole(self.folder / RECORD, json.dumps(writable(record), indent=1) + "\n")
        self.accelerator.wait_for_everyone()
        return progress

    def _train(self) -> Progress:
        done, progress = self._resume()
        started = time.monotonic() - progress.seconds
        if done == 0 and self.options.evaluations:
            self._ask(progress, 0)
        asked = even_steps(self.steps, self.options.evaluations)
        with self._bar(done) as advance:
            for step in range(done, self.steps):
                progress.loss.append(self._step(step))
                advance(step, progress.loss[-1])
                if step + 1 in asked:
                    self._ask(progress, step + 1)
                progress.seconds = time.monotonic() - started
                if step + 1 in self.kept:
                    self._save_adapter(checkpoint_name(step + 1))
                saved = step + 1 in self.kept or step + 1 == self.steps
                if saved or (step + 1) % self.options.save_every == 0:
                    self._save_state(step + 1, progress)
        return progress

    def _step(self, step: int) -> float:
        """Take one step and return its loss."""
        settings = self.settings
        rows = batch_rows(step, len(self.examples), settings.batch_size, settings.seed)
        batch = [self.examples[row] for row in rows]
        weight = sum(example.weight for example in batch)
        factor = learning_rate_factor(step, self.steps, settings.warmup_ratio, settings.lowest_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        self.model.train()
        loss = torch.zeros((), device=self.accelerator.device)
        own = self._own_passes(batch)
        for place, (number, group_rows) in enumerate(own):
            # Gradients are summed over a step's passes and, once, over the processes.
            last = place == len(own) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                torch.manual_seed(_seed(settings.seed, step, number))
                part = [batch[row] for row in group_rows]
                logits = self._logits([example.tokens for example in part])
                each = F.cross_entropy(
                    logits, self._tensor([example.answer for example in part]), reduction="none"
                )
                share = (each * self._tensor([e.weight for e in part])).sum() / weight
                loss += share.detach()
                # Processes average their gradients; a step's loss is their sum.
                self.accelerator.backward(share * self.processes)
        if settings.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(self.accelerator.reduce(loss, "sum"))

    def _logits(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        device = self.accelerator.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.mixed):
            logits: Tensor = self.model(**pad(prompts, device))
        return logits.float()

    def _own_passes(self, examples: Sequence[Example]) -> list[tuple[int, list[int]]]:
        """Return this process's passes over `examples`, each with its number among all."""
        lengths = [len(example.tokens) for example in examples]
        groups = passes(lengths, self.pass_tokens, self.options.prompts, self.processes)
        return list(enumerate(groups))[self.accelerator.process_index :: self.processes]

    @torch.no_grad()  # FSDP cannot gather weights in inference mode
    def _ask(self, progress: Progress, step: int) -> None:
        """Add the accuracy on the validation questions to `progress`.

        In bfloat16 letters may tie, and the first is taken, which extraction does not let happen:
        this tells how the training goes, and is no result.
        """
        asked = self.validation
        if asked is None:
            return
        self.model.eval()
        right = torch.zeros(len(asked.examples), device=self.accelerator.device)
        for _, rows in self._own_passes(asked.examples):
            part = [asked.examples[row] for row in rows]
            logits = self._logits([example.tokens for example in part])[:, list(asked.letters)]
            chosen = self._tensor(asked.letters)[logits.argmax(dim=1)]
            right[rows] = (chosen == self._tensor([e.answer for e in part])).float()
        hits: Tensor = self.accelerator.reduce(right, "sum")
        found = accuracy(hits.bool().tolist(), asked.subjects)
        progress.validation[step] = asdict(found) | {"macro": found.macro}
        if self.accelerator.is_main_process:
            logger.info(
                "%s: validation after step %d: micro %.4f, macro %.4f",
                self.description, step, found.micro, found.macro,
            )  # fmt: skip

    def _tensor(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=self.accelerator.device)

    def _save_adapter(self, name: str) -> None:
        trained = {key: gather(one) for key, one in self.trained}  # all processes together
        if self.accelerator.is_main_process:
            unfinished = self.folder / f".{name}"
            save_adapter(self.adapted, trained, unfinished)
            shutil.rmtree(self.folder / name, ignore_errors=True)  # of a run that was stopped
            unfinished.rename(self.folder / name)
        self.accelerator.wait_for_everyone()

    def _save_state(self, steps: int, progress: Progress) -> None:
        tensors = tensors_of(self.trained, self.optimizer.state)
        if self.accelerator.is_main_process:
            kept = [self.folder / checkpoint_name(step) for step in self.kept if step <= steps]
            save_state(self.folder, steps, tensors, asdict(progress), kept)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> tuple[int, Progress]:
        """Return the steps done and what was told, from the folder's newest state if it has one."""
        main = self.accelerator.is_main_process
        done = launched_processes().agree(newest_state(self.folder) if main else 0)
        if not done:
            return 0, Progress(asked=self.asked)
        tensors, told = load_state(self.folder, done)
        put_back(tensors, self.trained, self.optimizer.state)
        logger.info("%s: goes on after step %d", self.description, done)
        progress = Progress.from_json(told)
        if progress.validation and progress.asked != self.asked:
            if main:
                warnings.warn(
                    f"{self.description}: other validation questions were asked before it was "
                    "stopped; their accuracies are left out",
                    stacklevel=2,
                )
            progress.validation = {}
        progress.asked = self.asked
        return done, progress

    @contextmanager
    def _bar(self, done: int) -> Iterator[Callable[[int, float], None]]:
        """Yield a function that is told a step, from 0, and its loss: a bar, or lines in a log."""
        main = self.accelerator.is_main_process
        logged = even_steps(self.steps, self.options.log_lines or 0)
        quiet = bool(logged) or not main
        with tqdm(
            total=self.steps, initial=done, desc=self.description, unit="step", disable=quiet
        ) as bar:

            def advance(step: int, loss: float) -> None:
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                if main and step + 1 in logged:
                    logger.info(
                        "%s: step %d of %d, loss %.4f", self.description, step + 1, self.steps, loss
                    )

            yield advance


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
