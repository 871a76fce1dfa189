"""Run jobs through submitit: on a SLURM cluster, or on this machine where there is none."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import SettingsError
from harness.jobs import Job

if TYPE_CHECKING:
    import submitit

# A job that ends at its time limit goes on in the next run from where it was. This often, so that
# a limit that is too short for any progress does not go on for ever.
TIME_LIMITS = 20
# Seconds before its time limit at which SLURM tells a job that it comes.
WARNING = 90
# Seconds that a job waits for what SLURM does with it after SIGTERM; SLURM's own wait is KillWait
# (30 s by default) or a partition's GraceTime.
PATIENCE = 600
# Minutes: a job on this machine has no time limit.
UNLIMITED = 60 * 24 * 365
# Options of sbatch that submitit or this module sets; a job is one task on one node.
OURS = {
    "array", "dependency", "error", "job-name", "kill-on-invalid-dep", "nodes", "ntasks",
    "ntasks-per-node", "open-mode", "output", "requeue", "signal",
}  # fmt: skip
# What `Resources` and the jobs ask for, by the options of `submit`.
ASKED = {
    "time": "--time", "partition": "--partition", "cpus-per-task": "--cpus", "mem": "--memory",
    "gpus-per-node": "--gpus",
}  # fmt: skip


@dataclass(frozen=True)
class Resources:
    """What jobs ask SLURM for; None is the cluster's default.

    minutes: time limit of a job, in minutes. memory: GB a job. cpus: a job.
    partition: of all jobs; cpu_partition: of those that need no GPU, if another.
    at_once: jobs of an array that run at the same time.
    others: further options of sbatch, without the dashes.
    """

    minutes: int
    memory: float | None = None
    cpus: int | None = None
    partition: str | None = None
    cpu_partition: str | None = None
    at_once: int | None = None
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a job does: run `command`, and after a time limit or a preemption run it again.

    devices: CUDA_VISIBLE_DEVICES of the command; None leaves it as it is.
    """

    command: tuple[str, ...]
    devices: str | None = None

    def __call__(self) -> None:
        """Run the command. Raises CalledProcessError if it fails."""
        from submitit import JobEnvironment

        print(shlex.join(self.command), flush=True)  # the log begins with it
        environment = dict(os.environ)
        if self.devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices
        told_to_end = []
        if environment.get("SUBMITIT_EXECUTOR") == "slurm":
            signal.signal(signal.SIGTERM, lambda *_: told_to_end.append(True))
        # SLURM may signal every process of a job. submitit answers the warning of a time limit by
        # having the job run again; did the command die of it, the job could fail before.
        warning = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
        with subprocess.Popen(
            self.command,
            env=environment,
            preexec_fn=lambda: signal.signal(warning, signal.SIG_IGN),
        ) as process:
            try:
                status = process.wait()
            except BaseException:  # SystemExit, after the warning
                process.terminate()
                raise
        if status and told_to_end:
            # Preempted, or put back into the queue: the job is about to be killed and run again. A
            # failure now would be final, also for the jobs that need it.
            time.sleep(PATIENCE)
        if status:
            raise subprocess.CalledProcessError(status, self.command)

    def checkpoint(self) -> Any:
        """Return what submitit runs after a time limit: the same; the store knows what is done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def choose_cluster(wanted: str) -> str:
    """Return `slurm`, `local` or `debug`; `auto` is slurm where sbatch is, and else local."""
    if wanted == "auto":
        return "slurm" if _has_slurm() else "local"
    return wanted


def check_cluster(cluster: str) -> None:
    """Raise SettingsError where submitit, or the SLURM that is asked for, is not installed."""
    try:
        _import_submitit()
    except ImportError as error:
        raise SettingsError("jobs need submitit: pip install submitit") from error
    if cluster == "slurm" and not _has_slurm():
        raise SettingsError(
            "--cluster slurm: there is no sbatch here; log in where it is, or use --cluster local"
        )


def _has_slurm() -> bool:
    return all(map(shutil.which, ("sbatch", "srun")))


def _import_submitit() -> None:
    """Import submitit without its settings of logging.

    They would close the handlers of all other libraries, and absl's then closes the stream that it
    was made for: standard error, where that has been another file meanwhile.
    """
    kept = os.environ.get("SUBMITIT_LOG_LEVEL")
    os.environ["SUBMITIT_LOG_LEVEL"] = "NOCONFIG"
    try:
        import submitit  # noqa: F401
    finally:
        del os.environ["SUBMITIT_LOG_LEVEL"]
        if kept is not None:
            os.environ["SUBMITIT_LOG_LEVEL"] = kept


def parse_minutes(text: str) -> int:
    """Return the minutes of `90` or `1:30:00`, rounded up. Raises SettingsError."""
    found = re.fullmatch(r"(\d+)|(\d+):([0-5]\d):([0-5]\d)", text, re.ASCII)
    whole, hours, minutes, seconds = (
        (int(part or 0) for part in found.groups()) if found else [0] * 4
    )
    total = whole + 60 * hours + minutes + (seconds > 0)
    if total < 1:
        raise SettingsError(f"--time is {text!r}; give minutes, such as 90, or 1:30:00")
    return total


def parse_others(pairs: Sequence[str]) -> dict[str, str]:
    """Return the options of sbatch in KEY=VALUE `pairs`, keys as sbatch's long options.

    Raises SettingsError for what is no pair, and for an option that the jobs set themselves.
    """
    others = {}
    for pair in pairs:
        found = re.fullmatch(r"(?:--)?([a-z][a-z_-]*)=(\S.*)", pair)
        if not found:
            raise SettingsError(f"--slurm is {pair!r}; give KEY=VALUE, such as account=physics")
        key = found[1].replace("_", "-")
        if key in OURS:
            raise SettingsError(f"--slurm {pair}: {key} is set by the jobs; leave it out")
        if key in ASKED:
            raise SettingsError(f"--slurm {pair}: {key} is set by {ASKED[key]}; give that")
        others[key] = found[2]
    return others


def arrays(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return `jobs` in arrays: those of a stage that wait for the same jobs."""
    found: dict[tuple[str, tuple[str, ...]], list[Job]] = {}
    for job in jobs:
        found.setdefault((job.stage, job.needs), []).append(job)
    return list(found.values())


def sbatch_options(job: Job, resources: Resources) -> str:
    """Return what a job asks SLURM for, as options of sbatch."""
    asked = {**_needed(job, resources), **resources.others}
    return " ".join(f"--{name.replace('_', '-')}={value}" for name, value in asked.items() if value)


def submit_to_slurm(jobs: Sequence[Job], resources: Resources, logs: Path) -> dict[str, str]:
    """Queue `jobs`, none before its needs; return their SLURM ids by name.

    logs: folder that every node sees; it receives `ID_0_log.out` and `ID_0_log.err`.

    A job starts when all that it needs ended well, and is cancelled when one of them failed. If
    SLURM refuses one, those that are queued already are cancelled. Raises SettingsError then.
    """
    _import_submitit()
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    queued: dict[str, submitit.Job[None]] = {}
    with _outside_of_jobs():
        for array in arrays(jobs):
            executor = submitit.SlurmExecutor(logs, max_num_timeout=TIME_LIMITS)
            ids = [queued[name].job_id for name in array[0].needs]
            executor.update_parameters(**_parameters(array, ids, resources))
            try:
                handles = executor.submit_array([Run(job.command) for job in array])
            except (FailedJobError, FailedSubmissionError) as error:
                for handle in queued.values():
                    handle.cancel(check=False)
                raise SettingsError(
                    f"{array[0].name}: refused by {_reason(error)}; "
                    "ask for what the cluster has, or use --cluster local"
                ) from error
            queued |= {job.name: handle for job, handle in zip(array, handles, strict=True)}
    return {name: handle.job_id for name, handle in queued.items()}


def _parameters(array: list[Job], needs: list[str], resources: Resources) -> dict[str, Any]:
    first = array[0]
    others = {"requeue": True, "kill-on-invalid-dep": "yes", **resources.others}
    parameters: dict[str, Any] = {
        **_needed(first, resources),
        "job_name": f"landscape-{first.stage if len(array) > 1 else first.name}",
        "signal_delay_s": min(WARNING, 20 * resources.minutes),
        # Since SLURM 22.05 srun does not take over sbatch's.
        "srun_args": resources.cpus and [f"--cpus-per-task={resources.cpus}"],
        "dependency": needs and f"afterok:{':'.join(needs)}",
        "array_parallelism": resources.at_once,
        "additional_parameters": others,
    }
    return {name: value for name, value in parameters.items() if value}


def _needed(job: Job, resources: Resources) -> dict[str, Any]:
    return {
        "time": resources.minutes,
        "partition": (not job.gpus and resources.cpu_partition) or resources.partition,
        "gpus_per_node": job.gpus,
        "mem": resources.memory and f"{resources.memory * 1024:.0f}M",
        "cpus_per_task": resources.cpus,
    }


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the job that this process may be part of; jobs would take over some of its settings."""
    from submitit.helpers import clean_env, environment_variables

    where = {"SLURM_CONF": os.environ["SLURM_CONF"]} if "SLURM_CONF" in os.environ else {}
    with clean_env(), environment_variables(**where):
        yield


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or ["sbatch"]
    return re.sub(r"^sbatch: error: ", "sbatch: ", lines[-1].strip())


def run_here(
    jobs: Sequence[Job],
    cluster: str,
    at_once: int,
    logs: Path,
    tell: Callable[[str], None],
) -> bool:
    """Run `jobs` on this machine and return whether all ended well.

    cluster: `local`, with log files in `logs`, or `debug`, in this process.
    at_once: jobs that run at the same time; each sees the first GPUs that there are.
    tell: gets a sentence for every job that ended or is not run.
    """
    ended_well: dict[str, bool] = {}
    waiting = list(jobs)
    while waiting:
        ready = [job for job in waiting if all(name in ended_well for name in job.needs)][:at_once]
        runs = {}
        for job in ready:
            waiting.remove(job)
            failed = [name for name in job.needs if not ended_well[name]]
            if failed:
                tell(f"{job.name}: not run, because {failed[0]} failed or was not run")
                ended_well[job.name] = False
            else:
                runs[job.name] = _start(job, cluster, logs)
        for name, run in runs.items():
            ended_well[name] = run.exception() is None
            if ended_well[name]:
                tell(f"{name}: done")
            else:
                where = f"see {run.paths.stderr}" if cluster == "local" else "see above"
                tell(f"{name}: failed, {where}")
    return all(ended_well.values())


def _start(job: Job, cluster: str, logs: Path) -> submitit.Job[None]:
    _import_submitit()
    import submitit

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # submitit would number the GPUs from 0, those that are left out here among them.
    devices = None if visible is None else ",".join(visible.split(",")[: job.gpus])
    if cluster == "debug":
        return submitit.DebugExecutor(logs).submit(Run(job.command, devices))
    executor = submitit.LocalExecutor(logs)
    executor.update_parameters(gpus_per_node=job.gpus, timeout_min=UNLIMITED)
    return executor.submit(Run(job.command, devices))
