"""The records in the repository: judged again, they say what they said."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import RecordError
from harness.published import PUBLISHED
from reports.reading import read_run, read_runs
from reports.verdict import Outcome, Verdict
from reports.view import Report
from tests.running import ROOT, Command

RECORDS = sorted((ROOT / "reports" / "recorded").glob("*.json"))
JUDGED = ("claim", "model", "verdict", "specificity", "threshold", "exception", "conditions")


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_a_record_judged_again_says_what_it_said(file: Path, tmp_path: Path) -> None:
    """A claim, threshold or rule that changed shows here: record again, and say so."""
    given = ["claims", "--recorded", str(file), "--out", str(tmp_path)]
    judging = Command("tests.without_report", *given)
    printed, errors = judging.communicate(timeout=300)
    assert judging.returncode in (0, 1), printed + errors
    kept, again = read_run(file), read_run(tmp_path)
    # Published curves are judged beside the toy; they are no part of its record's landscapes.
    models = {one.model for one in kept.landscapes}
    # Which `specific` is, the record holds too, for others: here it is formed anew from the rest.
    table = json.loads(file.read_text())["claims"]
    assert [one["specificity"] for one in table] == [one.specificity for one in kept.claims]
    before = {(one.claim, one.model): one for one in kept.claims if one.model in models}
    after = {(one.claim, one.model): one for one in again.claims}
    assert before.keys() == after.keys()
    for claim, one in before.items():
        new = after[claim]
        assert [getattr(new, key) for key in JUDGED] == [getattr(one, key) for key in JUDGED], claim
        assert _numbers(one) == pytest.approx(_numbers(new), rel=1e-9, nan_ok=True), claim
        for kind in ("controls", "variations"):
            for old, other in zip(getattr(one, kind), getattr(new, kind), strict=True):
                assert (old.name, old.verdict) == (other.name, other.verdict), claim
                assert _numbers(old) == pytest.approx(_numbers(other), rel=1e-9, nan_ok=True), claim
    skipped = ((one.claim, one.model) for one in kept.skipped)
    assert {one for one in skipped if one[1] in models} == {
        (one.claim, one.model) for one in again.skipped
    }


def _numbers(one: Verdict | Outcome) -> list[float]:
    """Return effect and interval."""
    return [one.effect, *(one.interval or [])]


def _settings(path: Path) -> Any:
    return read_run(path).environment["settings"]


def test_there_are_records_and_they_hold_no_representations() -> None:
    assert RECORDS
    for file in RECORDS:
        assert file.stat().st_size < 5_000_000
        settings = read_run(file).environment["settings"]
        assert settings["command"].startswith("pytest claims") and settings["device"]


def test_the_gallery_shows_the_records() -> None:
    """When this fails: landscape report reports/recorded/*.json --out reports/gallery"""
    shown = Report(read_runs(RECORDS)).show("report.md")
    assert (ROOT / "reports" / "gallery" / "report.md").read_text(encoding="utf-8") == shown
    page = (ROOT / "reports" / "gallery" / "report.html").read_text(encoding="utf-8")
    assert all(model in page for run in read_runs(RECORDS) for model in run.models)
    for run in read_runs(RECORDS):
        for one in run.claims:
            assert one.model.startswith(PUBLISHED) or one.effect_in_words in page
    assert len(page) < 5_000_000


def test_two_records_are_judged_and_shown_side_by_side(tmp_path: Path) -> None:
    smallest = min(RECORDS, key=lambda file: file.stat().st_size)
    text = json.loads(smallest.read_text())
    # What is shown side by side are conditions; variations and draws are most of a record.
    text["landscapes"] = [one for one in text["landscapes"] if not one["variation"]]
    for one in text["landscapes"]:
        del one["draws"][3:]
    single = tmp_path / "single.json"
    files = [tmp_path / "first.json", tmp_path / "second.json"]
    for file in (single, *files):
        file.write_text(json.dumps(text))
    both, model = str(tmp_path / "both.json"), read_run(smallest).landscapes[0].model

    def judged(out: str, *given: str | Path, how: str = "tests.without_report") -> int:
        return Command(how, "claims", "--out", str(tmp_path / out), *map(str, given)).wait(300)

    status = judged("one", "--recorded", single)
    recorded = [given for file in files for given in ("--recorded", file)]
    # Exceptions are known by the first name.
    assert judged("out", *recorded, "--record", both, how="pytest") == status
    words = [
        [(one.claim, one.verdict, one.exception or "") for one in read_run(tmp_path / name).claims]
        for name in ("one", "out")
    ]
    assert sorted(words[1]) == sorted(words[0] * 2)
    # And so they are when both are in one record.
    assert judged("again", "--recorded", both) == status
    assert _settings(tmp_path / "again")["recorded"] == _settings(tmp_path / "out")["recorded"]
    # What the record says of its making is kept.
    settings = _settings(tmp_path / "one")
    kept = read_run(smallest).environment
    kept = kept["settings"].get("recorded", {}).get(model, kept)
    assert settings["recorded"] == {model: kept} and "recorded" not in kept["settings"]
    report = ["harness.cli", "report", *map(str, files), "--out", str(tmp_path / "report")]
    assert Command(*report).wait(300) == 0
    for folder in ("out", "report"):
        page = (tmp_path / folder / "report.html").read_text()
        assert f"{model} (first)" in page and f"{model} (second)" in page
    files[0].write_text(json.dumps(text | {"record": 99}))
    refused = Command(*report)
    assert "first.json: field 'record' is 99" in refused.communicate(timeout=300)[1]
    assert refused.returncode == 2
    with pytest.raises(RecordError, match="cannot be read"):
        read_run(tmp_path / "nowhere.json")
