"""Runs as files: what is written, what is read again, what is refused."""

import errno
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.cases import cases_of
from fixtures.request import Request
from harness.errors import RecordError, SettingsError
from harness.landscape import CURVES, Landscape
from harness.protocol import ExtractionSettings, Subset
from reports.panels import Panels
from reports.reading import read_run, read_runs
from reports.run import Run
from reports.view import Report
from tests.invented import RUN, landscape, verdict
from tests.running import Command
from tests.trying import refused


def test_a_run_is_the_same_from_its_folder_and_its_record(tmp_path: Path) -> None:
    RUN.write_folder(tmp_path / "out")
    RUN.write_record(tmp_path / "record.json")
    for path in (tmp_path / "out", tmp_path / "record.json"):
        read = read_run(path)
        # As text: what is not known is not equal to itself.
        assert repr([read.environment, read.claims, read.skipped]) == repr(
            [RUN.environment, RUN.claims, RUN.skipped]
        )
        assert [one.to_json() for one in read.landscapes] == [
            one.to_json() for one in RUN.landscapes
        ]


def test_models_of_one_name_are_told_by_their_files(tmp_path: Path) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        RUN.write_record(file)
    report = Report(read_runs(files))
    assert report.models == ["small (a)", "small (b)"] and report.published == ["published:big"]
    assert {one.model for one in report.landscapes} == set(report.models)
    assert read_runs(files)[1].original == {"small (b)": "small"}
    # The same name in other folders, and folders: as much of the path as tells them apart.
    for folder in ("x", "y"):
        RUN.write_folder(tmp_path / folder / "out-0.5")
    folders = [tmp_path / "x" / "out-0.5", tmp_path / "y" / "out-0.5"]
    assert Report(read_runs(folders)).models == ["small (x/out-0.5)", "small (y/out-0.5)"]
    assert Report(read_runs([files[0], files[0]])).models == ["small"]


def test_a_model_keeps_its_first_name_however_often_it_is_recorded(tmp_path: Path) -> None:
    settings = RUN.environment["settings"] | {"recorded": {"small": RUN.environment}}
    first = replace(RUN, environment=RUN.environment | {"settings": settings})
    files = [tmp_path / name for name in ("a.json", "b.json", "both.json")]
    for file in files[:2]:
        first.write_record(file)
    one, other = read_runs(files[:2])
    assert one.environment["settings"]["recorded"] == {"small (a)": RUN.environment}
    landscapes = [*one.landscapes, *other.landscapes]
    original = one.original | other.original
    replace(one, landscapes=landscapes, original=original).write_record(files[2])
    (again,) = read_runs(files[2:])
    assert again.original == {"small (a)": "small", "small (b)": "small"}
    assert again.renamed({"small (a)": "mine"}).original["mine"] == "small"


def test_curves_of_an_earlier_run_do_not_stay_in_the_folder(tmp_path: Path) -> None:
    mine = tmp_path / "landscape-mine.json"  # of `landscape measure`, say
    mine.write_text("{}")
    for page in ("report.html", "report.md"):
        (tmp_path / page).write_text("of an earlier run")
    RUN.write_folder(tmp_path)
    assert not [*tmp_path.glob("report.*")]  # before the new ones are rendered
    replace(RUN, landscapes=RUN.landscapes[:1]).write_folder(tmp_path)
    kept = {file.name for file in tmp_path.glob("landscape-*.json")}
    assert kept == {"landscape-small-0-shot.json", mine.name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"record": 4}, "field 'record' is 4, not 3; update this project"),
        ({"record": 2}, "field 'record' is 2, not 3; run the claims again with --record"),
        ({"claims": [{}]}, 'field claims[0]: "claim" is a required property'),
        (
            {"claims": [verdict().to_table() | {"verdict": "maybe"}]},
            'field claims[0].verdict: "maybe" is not one of',
        ),
        ({"claims": [verdict().to_table() | {"more": 1}]}, "('more' was unexpected)"),
        ({"surprise": 1}, "('surprise' was unexpected)"),
        ({"landscapes": {}}, 'field landscapes: {} is not of type "array"'),
        ({"landscapes": [{"schema": 2}]}, 'landscapes[0]: "model" is a required property'),
        ({"landscapes": ["nowhere.json"]}, "nowhere.json: cannot be read"),
        ({"landscapes": [3]}, 'field landscapes[0]: 3 is not of types "string", "object"'),
        ({"environment": {"settings": {}, "versions": {}}}, 'settings: "command" is a required'),
        ({"landscapes": [{"schema": 3}]}, "landscapes[0]: field 'schema' is 3, not 2; update"),
    ],
)
def test_a_record_that_is_none_is_refused_in_a_sentence(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    file = tmp_path / "record.json"
    RUN.write_record(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(RecordError, match=re.escape(message)) as refused:
        read_run(file)
    assert str(refused.value).startswith(str(tmp_path)) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layer", [1, "2", 3, 4], 'field layer[1]: "2" is not of type "integer"'),
        ("accuracy", 1.5, "field accuracy: 1.5 is greater than the maximum of 1"),
        (
            "curves",
            {"density_peaks": [1.0]},
            "curve 'density_peaks' has 1 values for 4",
        ),
        ("layer", [1, 3, 2, 4], "layers are not ascending"),
        ("tree", {"layer": 1, "linkage": [], "labels": ["a", "b"], "shares": [1]}, "0 joins and 1"),
        (
            "tree",
            {"layer": 1, "linkage": [[0, 2, 1, 2]], "labels": ["a", "b"], "shares": [1, 1]},
            "linkage[0] joins what is not there",
        ),
        ("subjects", 0, "field subjects: 0 is less than the minimum of 1"),
    ],
)
def test_a_landscape_that_is_none_is_refused_with_its_field(
    field: str, value: object, message: str
) -> None:
    table = json.loads(landscape("0-shot").to_json()) | {field: value}
    with pytest.raises(RecordError, match=re.escape(message)):
        Landscape.from_json(json.dumps(table), "file.json")


@pytest.mark.parametrize("missing", [None, "model"])
def test_what_lies_too_deep_to_be_checked_is_refused_in_a_sentence(missing: str | None) -> None:
    table = json.loads(landscape("0-shot").to_json())
    table["origin" if missing else "surprise"] = json.loads("[" * 300 + "]" * 300)
    table.pop(missing, None)
    with pytest.raises(RecordError, match=r"file.json: .*; "):
        Landscape.from_json(json.dumps(table), "file.json")


def test_numbers_that_json_has_not_are_refused_and_never_written(tmp_path: Path) -> None:
    for wrong in ("NaN", "1e999", "-Infinity", "1" * 400):
        text = landscape("0-shot").to_json().replace('"accuracy": 0.5', f'"accuracy": {wrong}')
        with pytest.raises(RecordError, match=r"file\.json: is not JSON .* is not finite"):
            Landscape.from_json(text, "file.json")
    odd = landscape(
        "0-shot", curves=dict.fromkeys(CURVES, (math.inf, 1.0, math.nan, 0.0)), draws=()
    )
    assert json.loads(odd.to_json())["curves"]["kindred"] == [None, 1.0, None, 0.0]


def test_files_of_odd_names_stay_in_their_folder_and_apart(tmp_path: Path) -> None:
    names = ("a b", "a-b", "../../a", "x/y", "x" * 300, "")
    Run(RUN.environment, [], [], [landscape("0-shot", name) for name in names]).write_folder(
        tmp_path / "out"
    )
    assert [one.model for one in read_run(tmp_path / "out").landscapes] == list(names)
    assert len(list((tmp_path / "out").iterdir())) == len(names) + 1


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused(["report", str(tmp_path / "nowhere")], "nowhere: no such run; give the", tmp_path)


def test_landscapes_that_nobody_judged_are_a_run_too(tmp_path: Path) -> None:
    conditions = ("0-shot", "5-shot")
    made = [landscape(name, draws=()) for name in conditions]
    own = {"cost": {"device": "cpu"}, "recorded": 5, "versions": {"torch": "2"}}
    made[1] = replace(made[1], origin={"questions": 40} | own)
    files = [tmp_path / "results" / f"landscape-small-{name}.json" for name in conditions]
    files[0].parent.mkdir()
    for file, one in zip(files, made, strict=True):
        file.write_text(one.to_json())
    (tmp_path / "results" / "notes.json").write_text("[]")
    run = read_run(files[0].parent)
    assert [one.condition for one in run.landscapes] == list(conditions)
    assert run.environment["settings"] == {
        "command": "landscape measure", "device": "cpu", "not_measured": [],
        "origin": {"questions": 40},
        "origin of": {
            "small, 0-shot": {}, "small, 5-shot": {"recorded": 5, "versions": {"torch": "2"}},
        },
    }  # fmt: skip
    assert read_runs([files[0].parent]) == [run] == read_runs(files)
    report = Report([run])
    assert report.tally_in_words("small").startswith("measured, and not judged")
    page, text = report.show("verdicts.html"), report.show("report.md")
    assert "<table" not in page and "finding" not in text and "| small | 5-shot |" in text
    # Beside a record that has the same model they are told apart, as one.
    RUN.write_record(tmp_path / "record.json")
    both = Report(read_runs([files[0], tmp_path / "record.json", files[1]]))
    assert both.models == ["small (record)", "small (landscapes)"]
    assert len(both.panels.own("small (landscapes)")) == 2
    other = tmp_path / "other.json"
    other.write_text(replace(made[0], accuracy=0.1).to_json())
    with pytest.raises(RecordError, match=r"other\.json: has other curves of small, 0-shot"):
        read_runs([*files, other])
    (tmp_path / "results" / "landscape-damaged.json").write_text("{")
    with pytest.raises(RecordError, match=r"landscape-damaged\.json: is not JSON"):
        read_run(tmp_path / "results")


def test_a_folder_of_other_files_is_no_run(tmp_path: Path) -> None:
    for name in ("settings.json", "notes.json"):
        (tmp_path / name).write_text("{")
    with pytest.raises(RecordError, match=r"has no results\.json of the claims, and no landscape"):
        read_run(tmp_path)
    (tmp_path / "mine.json").write_text(landscape("0-shot").to_json())
    assert [one.condition for one in read_run(tmp_path).landscapes] == ["0-shot"]


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("ExtractionSettings", {"site": "norm1"}, {"site": "norm2"}),
        ("GeometrySettings", {"z": 1.6}, {"z": 0}),
        ("questions_fingerprint", "x", "y"),
        ("questions", 9181, 60),
        ("model", "weights x", "weights y; adapter z"),
        ("adapter or tokenizer", "weights x", "weights x; adapter z"),
        ("header", {"shots": 0, "header": True}, {"shots": 5, "header": False}),
        ("shot_order", {"shots": 1, "seed": 42}, {"shots": 5, "seed": 43}),
        ("shot_order", {"shots": 1, "shot_order": "kept"}, {"shots": 5, "shot_order": "shuffled"}),
    ],
)
@pytest.mark.parametrize("control", [None, "random-weights-0"])
def test_landscapes_that_were_not_measured_alike_are_not_judged_together(
    tmp_path: Path, key: str, one: object, other: object, control: str | None
) -> None:
    places = {
        "header": "PromptFormat",
        "shot_order": "PromptFormat",
        "adapter or tokenizer": "model",
    }
    place = places.get(key, key)
    unlike = landscape("5-shot", origin={place: other}, control=control)
    found = {
        "a": landscape("0-shot", origin={place: one}),
        "b": unlike,
        # Checkpoints may be asked other questions, and variations vary.
        "c": landscape("fine-tuned@10", origin={place: other}),
        "d": landscape("0-shot", origin={place: other}, variation="Z 0"),
    }
    for name, each in found.items():
        (tmp_path / f"landscape-{name}.json").write_text(each.to_json())
    asked = Request(None, None, None, (0,), Subset(), ExtractionSettings(), tmp_path)
    told = "5-shot, random-weights-0" if control else "5-shot"
    with pytest.raises(RecordError, match=f"{told} of small was measured otherwise.*{key} differs"):
        cases_of(replace(asked, recorded=(tmp_path,)))
    (tmp_path / "landscape-b.json").unlink()
    (case,) = cases_of(replace(asked, recorded=(tmp_path,)))
    assert set(case.measure().own) == {"0-shot", "fine-tuned@10"}
    # But among themselves they are compared.
    if key != "adapter or tokenizer":
        first = landscape("fine-tuned@1", origin={place: one})
        (tmp_path / "landscape-e.json").write_text(first.to_json())
        told = f"fine-tuned@.* of small was measured otherwise.*{key} differs"
        with pytest.raises(RecordError, match=told):
            cases_of(replace(asked, recorded=(tmp_path,)))


def test_one_model_is_judged_with_shots_and_fine_tuned(tmp_path: Path) -> None:
    for name, model, shots in (
        ("0-shot", "weights", 0), ("5-shot", "weights", 5), ("fine-tuned", "weights; adapter", 0),
    ):  # fmt: skip
        # Of what has no shots it is not asked in which order they were to be.
        order = "kept" if shots else "shuffled"
        prompts = {"shots": shots, "header": True, "shot_order": order}
        origin = {"model": model, "PromptFormat": prompts}
        one = landscape(name, origin=origin)
        (tmp_path / f"landscape-{name}.json").write_text(one.to_json())
    asked = Request(None, None, None, (0,), Subset(), ExtractionSettings(), tmp_path)
    (case,) = cases_of(replace(asked, recorded=(tmp_path,)))
    assert set(case.measure().own) == {"0-shot", "5-shot", "fine-tuned"}


def test_of_landscapes_that_do_not_say_what_they_come_from_nothing_is_compared(
    tmp_path: Path,
) -> None:
    for name, prompts in (("0-shot", "x"), ("5-shot", None), ("fine-tuned", [1])):
        one = landscape(name, origin={"PromptFormat": prompts})
        (tmp_path / f"landscape-{name}.json").write_text(one.to_json())
    asked = Request(None, None, None, (0,), Subset(), ExtractionSettings(), tmp_path)
    (case,) = cases_of(replace(asked, recorded=(tmp_path,)))
    assert len(case.measure().own) == 3


def test_landscapes_that_a_cluster_measured_are_judged(tmp_path: Path) -> None:
    for name in ("0-shot", "5-shot"):
        (tmp_path / f"landscape-{name}.json").write_text(landscape(name).to_json())
    given = ["--recorded", str(tmp_path), "--out", str(tmp_path / "o")]
    judging = Command("tests.without_report", "claims", *given)
    printed, errors = judging.communicate(timeout=300)
    assert judging.returncode in (0, 1), printed + errors
    run = read_run(tmp_path / "o")
    assert {one.model for one in run.claims} == {"small"} and len(run.claims) > 5
    measured = run.environment["settings"]["recorded"]["small"]["settings"]["command"]
    assert measured == "landscape measure"


def test_a_folder_is_not_replaced_by_the_verdicts_on_itself(tmp_path: Path) -> None:
    RUN.write_folder(tmp_path / "out")
    written = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    again = Command(
        "pytest", "claims", "--recorded", str(tmp_path / "out"), "--out", f"{tmp_path}/./out"
    )
    printed = "".join(again.communicate())
    assert again.returncode == 2
    assert "out: is judged, and would be replaced; give another folder as --out" in printed
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == written


def test_where_landscapes_come_from_is_told_of_a_control_apart(tmp_path: Path) -> None:
    for number, control in enumerate((None, "embeddings")):
        one = landscape("0-shot", draws=(), origin={"seed": number}, control=control)
        (tmp_path / f"landscape-{number}.json").write_text(one.to_json())
    told = read_run(tmp_path).environment["settings"]["origin of"]
    assert told == {"small, 0-shot": {"seed": 0}, "small, 0-shot, embeddings": {"seed": 1}}


def test_figures_that_a_full_disk_refuses_are_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, drawn: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SettingsError, match=r"figures: .*No space left on device.* as --figures"):
        Panels(RUN.models, RUN.landscapes).write(tmp_path / "figures")
