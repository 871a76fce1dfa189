"""`landscape submit` on a real SLURM cluster of one node, which the tests start and stop."""

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fixtures.cases import TOY
from harness.cli import commands
from tests import written

EXPERIMENT = [
    "--model", str(TOY / "model"), "--mmlu", str(TOY / "questions"), "--per-subject", "4",
    "--precision", "float32",
]  # fmt: skip
# Many small passes: there is time to stop an extraction between two shards.
SLOWLY = ["--token-budget", "8"]
# SLURM takes any device file for a GPU, and counts them.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
MpiDefault=none
KillWait=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 Gres=gpu:2
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE
"""


def until(true: Callable[[], object], seconds: float = 120) -> None:
    """Wait until `true()` is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def slurm(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A SLURM cluster of this machine alone, without accounting, cgroups or a service manager."""
    programs = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
    missing = [name for name in programs if not shutil.which(name)]
    if missing:
        pytest.skip(f"no SLURM here: {', '.join(missing)} not found (packages slurm-wlm, munge)")
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            folder=folder,
            controller_port=free_port(),
            node_port=free_port(),
        )
    )
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid"}
    files |= {"seed-file": "munged.seed"}
    munge = [f"--{option}={folder / file}" for option, file in files.items()]
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("OMP_NUM_THREADS", "1")  # jobs run side by side on few cores
        for command in (
            ["munged", "-F", "--force", *munge],
            ["slurmctld", "-D", "-i"],
            ["slurmd", "-D"],
        ):
            log = stack.enter_context((folder / f"{command[0]}.log").open("w"))
            daemon = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
            stack.callback(daemon.terminate)
            if command[0] == "munged":
                until((folder / "munge.socket").exists, 10)
        until(lambda: "idle" in subprocess.getoutput("sinfo -h -o %t"), 30)
        yield
        slurm("scancel", "--full", "--user", getpass.getuser())
        until(lambda: not slurm("squeue", "-h"))
    left = [one for one in Path("/proc").glob("[0-9]*/environ") if str(folder) in text_of(one)]
    assert not left, "processes of the cluster go on"


def text_of(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:  # another user's, or ended just now
        return ""


def submit(folder: Path, *options: str) -> dict[str, str]:
    """Queue jobs and return their ids by name."""
    places = ["--out", str(folder / "out"), "--store", str(folder / "store")]
    done = CliRunner().invoke(
        commands,
        ["submit", "--cluster", "slurm", *EXPERIMENT, *places, "--memory", "1", *options],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    return dict(re.findall(r"^(\S+): job (\S+)$", done.stdout, re.MULTILINE))


def shown(job_id: str) -> dict[str, str]:
    """Return what SLURM knows of a job."""
    return dict(re.findall(r"(\w+)=(\S*)", slurm("scontrol", "show", "job", job_id)))


def state(job_id: str) -> str:
    return shown(job_id)["JobState"]


def has_ended(job_id: str) -> bool:
    return state(job_id) not in ("PENDING", "RUNNING", "COMPLETING")


def log_of(folder: Path, job_id: str) -> str:
    files = (folder / "out" / "logs").glob(f"{job_id}_0_log.*")
    return "".join(file.read_text() for file in sorted(files))


def wait_for(folder: Path, *job_ids: str) -> None:
    for job_id in job_ids:
        until(lambda job_id=job_id: has_ended(job_id))  # type: ignore[misc]
        assert state(job_id) == "COMPLETED", log_of(folder, job_id)


def shards(folder: Path) -> dict[str, int]:
    """Return the times at which the shards in the store were written, by name."""
    found = folder.glob("store/representations/*/shard-*.safetensors")
    hidden = folder.glob("store/representations/.*/shard-*.safetensors")
    return {file.name: file.stat().st_mtime_ns for file in (*found, *hidden)}


def processes(folder: Path, command: str) -> list[int]:
    """Return the ids of the processes that run our `command` on `folder`."""
    lines = {int(file.parent.name): text_of(file) for file in Path("/proc").glob("[0-9]*/cmdline")}
    wanted = f"\0harness.cli\0{command}\0"
    return [one for one, line in lines.items() if wanted in line and str(folder) in line]


def wait_for_more_shards(folder: Path, kept: dict[str, int]) -> None:
    until(lambda: len(shards(folder)) > len(kept))


def measured_directly(folder: Path, *options: str) -> dict[str, Any]:
    out = folder / "direct.json"
    places = ["--out", str(out), "--store", str(folder / "other-store")]
    measure = ["measure", *EXPERIMENT, *places, *options]
    assert CliRunner().invoke(commands, measure, catch_exceptions=False).exit_code == 0
    return written.landscape(out)


def landscape(folder: Path, condition: str = "0-shot") -> dict[str, Any]:
    return written.landscape(folder / "out" / f"landscape-model-{condition}.json")


def test_chains_run_in_order_and_measure_what_the_command_measures(
    cluster: None, tmp_path: Path
) -> None:
    jobs = submit(tmp_path, "--shots", "0,1", "--max-parallel", "1", "--slurm", "comment=toy")
    assert list(jobs) == ["extract-0-shot", "extract-1-shot", "measure-0-shot", "measure-1-shot"]
    first = shown(jobs["extract-0-shot"])
    assert first["ArrayTaskThrottle"] == "1" and first["Requeue"] == "1"
    assert first["TresPerNode"] == "gres:gpu:1" and first["Comment"] == "toy"
    assert first["TimeLimit"] == "04:00:00" and first["MinMemoryNode"] == "1G"
    assert "TresPerNode" not in shown(jobs["measure-0-shot"])
    wait_for(tmp_path, *jobs.values())
    done = {name: shown(job_id) for name, job_id in jobs.items()}
    for before, after in (
        ("extract-0-shot", "extract-1-shot"),
        ("extract-0-shot", "measure-0-shot"),
        ("extract-1-shot", "measure-1-shot"),
    ):
        assert done[before]["EndTime"] <= done[after]["StartTime"]
    kept, written = shards(tmp_path), landscape(tmp_path)
    again = submit(tmp_path)
    assert landscape(tmp_path, "1-shot") == measured_directly(tmp_path, "--shots", "1")
    wait_for(tmp_path, *again.values())
    assert shards(tmp_path) == kept and landscape(tmp_path) == written
    assert "extract:" not in log_of(tmp_path, again["extract-0-shot"])  # no bar: nothing to do


def test_a_job_that_is_stopped_goes_on(cluster: None, tmp_path: Path) -> None:
    jobs = submit(tmp_path, *SLOWLY)
    extraction = jobs["extract-0-shot"]
    kept: dict[str, int] = {}
    warning = ["scancel", "--signal=USR2", extraction]  # of the time limit
    preemption = ["scancel", "--signal=TERM", extraction]  # in a partition with a GraceTime
    for stop in (warning, preemption):
        wait_for_more_shards(tmp_path, kept)
        slurm(*stop)
        if stop == preemption:
            until(lambda: not processes(tmp_path, "extract"))
            slurm("scontrol", "requeue", extraction)
        until(lambda: state(extraction) == "PENDING")
        assert shards(tmp_path).items() >= kept.items()
        kept = shards(tmp_path)
        assert state(jobs["measure-0-shot"]) == "PENDING"
        # A job that was put back waits for two minutes, so that the node can forget its first run.
        slurm("scontrol", "update", f"JobId={extraction}", "StartTime=now+3")
    expected = measured_directly(tmp_path, *SLOWLY)
    wait_for(tmp_path, *jobs.values())
    assert landscape(tmp_path) == expected
    assert shown(extraction)["Restarts"] == "2"
    assert shards(tmp_path).items() > kept.items()


def test_what_needs_a_job_that_failed_is_not_run(cluster: None, tmp_path: Path) -> None:
    jobs = submit(tmp_path, *SLOWLY)
    wait_for_more_shards(tmp_path, {})
    (extracting,) = processes(tmp_path, "extract")
    os.kill(extracting, signal.SIGKILL)
    until(lambda: has_ended(jobs["measure-0-shot"]))
    assert state(jobs["extract-0-shot"]) == "FAILED"
    parent = shown(jobs["measure-0-shot"])
    assert parent["JobState"] == "CANCELLED" and parent["Reason"] == "DependencyNeverSatisfied"
    assert "SIGKILL" in log_of(tmp_path, jobs["extract-0-shot"])
    kept = shards(tmp_path)
    jobs = submit(tmp_path, *SLOWLY)
    wait_for(tmp_path, *jobs.values())
    assert shards(tmp_path).items() > kept.items()
    assert landscape(tmp_path)


def test_what_slurm_refuses_leaves_nothing(cluster: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(
        commands,
        ["submit", *EXPERIMENT, "--out", str(out), "--gpus", "0", "--cpu-partition", "nowhere"],
    )
    assert "extract-0-shot: refused by sbatch" in str(done.exception)
    assert "Invalid partition name" in str(done.exception)
    assert not out.exists()
    # The extraction is queued before the measuring is refused.
    done = CliRunner().invoke(
        commands, ["submit", *EXPERIMENT, "--out", str(out), "--cpu-partition", "nowhere"]
    )
    assert "measure-0-shot: refused by sbatch" in str(done.exception)
    assert not out.exists() and not slurm("squeue", "-h", "--states", "PENDING,RUNNING")
