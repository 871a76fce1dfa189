"""Ctrl-C at any stage: status 130, no traceback, and the next run goes on."""

import re
import signal
from pathlib import Path

import pytest

from tests.running import CLAIMS, FINETUNE, MEASURE, ROOT, Command, apart, launched, results


def test_ctrl_c_while_the_report_is_made_is_status_130(tmp_path: Path) -> None:
    curves = ROOT / "reports" / "published-curves.json"
    given = ["claims", "--published", str(curves), "--claim", "answers-late"]
    out = tmp_path / "out"
    done = Command("tests.failing_report", "interrupted", *given, "--out", str(out))
    printed, errors = done.communicate()
    assert done.returncode == 130 and "Traceback" not in printed + errors, errors
    assert "interrupted: no report" in printed and "effect" in printed  # the verdicts are shown
    assert (out / "results.json").exists()
    assert Command("harness.cli", "report", str(out)).wait(300) == 0


def shards(store: Path) -> dict[tuple[str, str], int]:
    """Return when each shard was written, by its entry, finished or not, and its name."""
    written = {}
    for path in store.rglob("shard-*"):
        entry = path.parent.name.removeprefix(".").removesuffix(".unfinished")
        written[entry, path.name] = path.stat().st_mtime_ns
    return written


@pytest.mark.parametrize(
    "given",
    [MEASURE, [*MEASURE, "--shots", "1"], FINETUNE, CLAIMS],
    ids=["measure", "with-shots", "finetune", "claims"],
)
def test_ctrl_c_is_status_130_and_the_next_run_goes_on(tmp_path: Path, given: list[str]) -> None:
    store, out = tmp_path / "store", tmp_path / "out"
    given = [*given, "--store", str(store)]
    given += ["--per-subject", "20"] if given[1] != "finetune" else ["--samples-per-subject", "8"]
    if given[1] != "finetune":
        given += ["--out", str(out)]
    stopped = launched(*given)
    assert stopped.stderr
    # Its bar is there: what is interrupted is the work, and not some library that is imported.
    shown = ""
    part = "1-shot: extract" if given[0] == "pytest" else "(extract|fine-tune)"
    part += " in float32"
    while not re.search(rf"{part}: +[1-9]", shown):
        shown += stopped.stderr.read(1)
        assert stopped.poll() is None, stopped.communicate()
    stopped.send_signal(signal.SIGINT)
    printed, errors = stopped.communicate(timeout=300)
    assert stopped.returncode == 130, printed + errors
    assert "Traceback" not in errors and not out.exists()
    if given[0] != "pytest":
        assert results(given, tmp_path) == results(apart(given, tmp_path), tmp_path)
        return
    kept = shards(store)
    assert kept  # of the condition without shots
    again = Command("tests.without_report", *given[1:])
    _, errors = again.communicate(timeout=300)
    assert again.returncode in (0, 1) and (out / "results.json").exists(), errors
    # They go on too: what was extracted is as it was.
    assert kept.items() <= shards(store).items()
