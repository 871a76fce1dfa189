"""Which commands measure a model in several conditions, and which of them wait for which."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.names import model_name
from harness.protocol import PromptFormat
from harness.training_record import FINAL, FINE_TUNED, adapter_condition


@dataclass(frozen=True)
class Job:
    """One of our commands, run once.

    stage: the command: `finetune`, `extract` or `measure`; arguments: what follows it.
    condition: what the job is for, such as `5-shot` or `fine-tuned`.
    needs: names of the jobs that must have ended well before this one starts.
    gpus: that the job asks for; processes: that share the work, where the command can.
    """

    stage: str
    condition: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()
    gpus: int = 0
    processes: int = 1

    @property
    def name(self) -> str:
        """The job's name among those of one plan."""
        return f"{self.stage}-{self.condition}"

    @property
    def command(self) -> tuple[str, ...]:
        """The command line, as a user could type it."""
        launcher: tuple[str, ...] = ()
        if self.processes > 1:
            # torchrun, of this Python; standalone: two launches on one machine share no port.
            launcher = ("-m", "torch.distributed.run", "--standalone")
            launcher += ("--nproc-per-node", str(self.processes))
        return (sys.executable, *launcher, "-m", "harness.cli", self.stage, *self.arguments)


def plan(
    model: str,
    shots: Sequence[int],
    options: Sequence[str],
    out: Path,
    *,
    gpus: int = 0,
    spread: bool = False,
    adapter: Path | None = None,
    fine_tune: Sequence[str] | None = None,
) -> list[Job]:
    """Return the jobs that put `landscape-MODEL-CONDITION.json` into `out`; none before its needs.

    options: of extraction and of measuring, as typed, but for what makes the condition.
    gpus: of an extraction or a fine-tuning; measuring asks for none.
    spread: one extracting process has all the GPUs, and not each process one.
    adapter: what `options` put on the model, by which its conditions are named.
    fine_tune: options of fine-tuning, as typed, but for its folder, `adapter-MODEL` in `out`; its
        final adapter is then measured without shots as the condition `fine-tuned`. None: no such.
    """
    name = model_name(model)
    conditions = {}
    for prompt in map(PromptFormat, shots):
        condition = adapter_condition(adapter, prompt) if adapter else prompt.condition
        conditions[condition] = ["--shots", str(prompt.shots)]
    jobs = []
    if fine_tune is not None:
        made = str(out / f"adapter-{name}")
        arguments = (*fine_tune, "--output-dir", made)
        jobs.append(Job("finetune", FINE_TUNED, arguments, (), gpus, max(gpus, 1)))
        with_adapter = ["--adapter", made, "--checkpoint", FINAL, "--condition", FINE_TUNED]
        conditions[FINE_TUNED] = ["--shots", "0", *with_adapter]
    before = {job.condition: (job.name,) for job in jobs}
    extractions = [
        Job(
            "extract",
            condition,
            (*options, *own),
            before.get(condition, ()),
            gpus,
            1 if spread else max(gpus, 1),
        )
        for condition, own in conditions.items()
    ]
    measurements = [
        Job(
            "measure",
            job.condition,
            (*job.arguments, "--out", str(out / f"landscape-{name}-{job.condition}.json")),
            (job.name,),
        )
        for job in extractions
    ]
    return jobs + extractions + measurements
