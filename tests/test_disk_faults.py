"""Disks that are full, small, or may not be written: said in a sentence, and gone on from."""

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.disk import explained, write_whole
from harness.errors import SettingsError
from tests import written
from tests.running import (
    FINETUNE,
    MEASURE,
    MODEL,
    QUESTIONS,
    TOY_IN_FLOAT32,
    Command,
    Together,
    apart,
    launched,
    results,
)
from tests.trying import refused


@pytest.mark.parametrize("stage", [MEASURE, FINETUNE], ids=["measure", "finetune"])
def test_a_file_that_may_not_grow(tmp_path: Path, stage: list[str]) -> None:
    given = [*stage, "--store", str(tmp_path / "store")]
    if stage is MEASURE:
        given += ["--out", str(tmp_path / "landscape.json"), "--per-subject", "20"]
    starved = Command(*given, limit=1_000_000)
    out, errors = starved.communicate(timeout=300)
    assert starved.returncode == 2, out + errors
    assert "store: cannot be written (File too large)" in errors and "Traceback" not in errors
    assert not (tmp_path / "landscape.json").exists()
    assert results(given, tmp_path) == results(apart(given, tmp_path), tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("may not mount a small disk here (only root may)")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_and_one_that_cannot_be_written(small_disk: Path, tmp_path: Path) -> None:
    given = [*MEASURE, "--store", str(small_disk / "store"), "--out", str(tmp_path / "one.json")]
    full = Command(*given)
    out, errors = full.communicate(timeout=300)
    assert full.returncode == 2, out + errors
    assert "store: cannot be written (No space left on device)" in errors
    assert "Traceback" not in errors and not (tmp_path / "one.json").exists()
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    assert Command(*given).wait(300) == 0
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    again = [*given[:-1], str(tmp_path / "other.json")]
    assert Command(*again).wait(300) == 0  # what is there can be read
    elsewhere = results(apart(given, tmp_path), tmp_path)
    for name in ("one.json", "other.json"):
        assert written.landscape(tmp_path / name) == elsewhere
    other = Command(*again, "--shots", "1")
    _, errors = other.communicate(timeout=300)
    assert other.returncode == 2 and "cannot be written (Read-only file system)" in errors


def test_of_two_processes_one_is_killed_and_then_the_disk_is_read_only(
    small_disk: Path, tmp_path: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    extract = ["harness.cli", "extract", *TOY_IN_FLOAT32]
    extract += ["--per-subject", "12", "--token-budget", "16", "--store", str(small_disk / "store")]
    both = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *extract]
    launcher = launched(*both)
    shards = (small_disk / "store" / "representations").glob
    while len(list(shards(".*.unfinished/shard-*"))) < 2:
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.005)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    launcher.communicate(timeout=300)
    assert launcher.returncode not in (0, 2) and not list(shards("[!.]*/shard-*"))
    kept = {file.name: file.stat().st_mtime_ns for file in shards(".*.unfinished/shard-*")}
    assert len(kept) >= 2
    printed = []
    for options in ("remount", "remount,ro"):
        subprocess.run(["mount", "-o", options, small_disk], check=True)
        out, errors = Together(*extract).communicate(timeout=300)
        printed += out.splitlines()
        assert len(printed) == 1 or printed[0] == printed[-1], errors
    entry = Path(printed[0])
    assert len(printed) == 2 and entry.is_relative_to(small_disk)
    found = {file.name: file.stat().st_mtime_ns for file in entry.glob("shard-*")}
    assert kept.items() <= found.items()
    alone, errors = Command(*apart(extract, tmp_path)).communicate(timeout=300)
    for file in Path(alone.strip()).glob("shard-*"):
        assert file.read_bytes() == (entry / file.name).read_bytes(), errors


def test_a_folder_that_may_not_be_written_is_refused_before_the_work(
    small_disk: Path, tmp_path: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    common = ["--model", MODEL, "--mmlu", QUESTIONS, "--store", str(tmp_path / "store")]
    out = str(small_disk / "out")
    refused(["extract", *common, "--out-dir", out], f"{out}: may not be written", tmp_path)
    refused(["finetune", *common, "--output-dir", out], f"{out}: may not be written", tmp_path)
    refused(["report", "reports/recorded/toy.json", "--out", out], "may not be written", tmp_path)


def test_what_the_disk_refuses_is_one_sentence(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "old")
    with pytest.raises(SettingsError, match=r"file/inside: cannot be written \(Not a directory\)"):
        write_whole(tmp_path / "file" / "inside", "new")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(SettingsError, match=r"file: cannot be written \(File too large\)"):
            write_whole(tmp_path / "file", "longer than ten bytes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "file").read_text() == "old"
    copied = shutil.Error([("from", "to", "[Errno 28] No space left on device: 'to'")])
    with pytest.raises(SettingsError, match=r"out: cannot be written \(No space left on device\)"):
        with explained(tmp_path / "out", "as --output-dir"):
            raise copied
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
