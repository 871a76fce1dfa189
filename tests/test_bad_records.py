"""Records that are none: refused with the field, or read and shown."""

import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.cases import TOY
from harness.errors import RecordError
from harness.landscape import CURVES, Draw, Landscape, LayerDendrogram
from harness.published import read_published
from harness.training_record import RECORD, record_of
from reports.reading import read_run
from reports.run import Run
from reports.view import Report
from tests.trying import in_both_modes

MODEL, QUESTIONS = str(TOY / "model"), str(TOY / "questions")


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 5), st.integers(10**20, 10**25), st.floats(),
        st.text(max_size=6), st.sampled_from(["0-shot", "x-shot", "../..", "<u>", "toy"]),
    ),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=4), one, max_size=3),
    max_leaves=4,
)  # fmt: skip


def a_record() -> dict[str, Any]:
    curves = dict.fromkeys(CURVES, (0.5, 0.25))
    tree = LayerDendrogram(1, ((0.0, 1.0, 0.5, 2.0),), ("a", "b"), (1.0, 0.5))
    landscapes = [
        Landscape(
            "m",
            name,
            (1, 2),
            curves,
            2,
            0.5,
            {"cost": {"device": "cpu"}},
            (Draw(curves),) * 2,
            tree=tree,
        )
        for name in ("0-shot", "5-shot", "fine-tuned")
    ]
    found = {"name": "embeddings", "verdict": "reproduced", "effect": 0.5, "interval": [0.1, None]}
    claim = {
        "claim": "c", "model": "m", "verdict": "reproduced", "effect": 0.5, "interval": [0.1, 0.9],
        "threshold": 0.1, "direction": "at least", "conditions": ["0-shot"], "meaning": "all",
        "sentence": "It is.", "section": "1", "exception": None, "seconds": 0.1, "source": "us",
        "parts": {"one": 0.5}, "controls": [found], "variations": [found], "specificity": None,
    }  # fmt: skip
    skipped = {name: "x" for name in ("claim", "model", "sentence", "section", "source", "reason")}
    settings = {"command": "pytest", "device": "cpu", "not_measured": ["x"]}
    return {
        "record": 3,
        "environment": {"settings": settings, "versions": {"torch": "2"}},
        "claims": [claim],
        "skipped": [skipped],
        "landscapes": [json.loads(one.to_json()) for one in landscapes],
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of everything in a JSON value."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(one for key, part in inner for one in places(part, (*path, key)))]


def changed(table: Any, place: int, how: str, value: Any) -> Any:
    """Return a JSON value with one thing in it put in another's place, dropped or added."""
    paths = places(table)
    *way, last = paths[place % (len(paths) - 1) + 1]
    parent = table
    for key in way:
        parent = parent[key]
    if how == "put":
        parent[last] = value
    elif how == "drop":
        del parent[last]
    elif isinstance(parent, dict):
        parent["another"] = value
    else:
        parent.append(value)
    return table


CHANGES = {
    "place": st.integers(0, 10**6), "how": st.sampled_from(["put", "drop", "add"]), "value": JSON,
}  # fmt: skip


@in_both_modes(150)
@given(**CHANGES)
def test_a_record_is_read_and_shown_or_refused(
    place: int, how: str, value: Any, tmp_path: Path
) -> None:
    record = changed(a_record(), place, how, value)
    file = tmp_path / "record.json"
    file.write_text(json.dumps(record))
    try:
        run = read_run(file)
    except RecordError as error:
        assert str(error).startswith(str(tmp_path)) and "\n" not in str(error)
        return
    report = Report([run])
    for template in (
        "verdicts.html",
        "published.html",
        "measured.html",
        "settings.html",
        "report.md",
    ):
        assert "<u>" not in report.show(template)  # a tag that we have none of
    for kind in ("controls", "variations"):
        report.show("beside.html", kind=kind)


def test_a_record_that_was_cut_anywhere_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    Run(
        a_record()["environment"], [], [], [Landscape.from_table(a_record()["landscapes"][0], "x")]
    ).write_record(file)
    whole = file.read_bytes()
    for place in random.Random(0).sample(range(len(whole) - 2), 40):
        file.write_bytes(whole[:place])
        with pytest.raises(RecordError, match="is not JSON"):
            read_run(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="cannot be read"):
        read_run(file)


def told(error: RecordError, file: Path) -> bool:
    return str(error).startswith(str(file)) and "\n" not in str(error)


@in_both_modes(100)
@given(**CHANGES)
def test_published_curves_are_read_or_refused(
    place: int, how: str, value: Any, tmp_path: Path
) -> None:
    curves = {name: {"0-shot": [0.5, None], "5-shot": [0.5, 2.0]} for name in CURVES}
    model = {"layer": [1, 2], "subjects": 3, "accuracy": {"0-shot": 0.5}, **curves}
    file = tmp_path / "curves.json"
    file.write_text(json.dumps(changed({"models": {"theirs": model}}, place, how, value)))
    try:
        for conditions in read_published(file).values():
            for one in conditions.values():
                Landscape.from_json(one.to_json())
    except RecordError as error:
        assert told(error, file)


@in_both_modes(100)
@given(**CHANGES)
def test_a_record_of_a_training_is_read_or_refused(
    place: int, how: str, value: Any, tmp_path: Path
) -> None:
    record = {
        "model": "m", "FineTuning": {"epochs": 1}, "learnt": ["a"], "loss": [1.0, None],
        "trained_on": {"dataset": "d", "questions": 1, "fingerprint": "f"},
        "validation": {"1": {"micro": 0.5}}, "seconds": 1.5,
    }  # fmt: skip
    adapter = tmp_path / "final"
    (tmp_path / RECORD).write_text(json.dumps(changed(record, place, how, value)))
    try:
        read = record_of(adapter)
        assert read and isinstance(read["FineTuning"], dict)
        assert isinstance(read["seconds"], int | float) and isinstance(read["trained_on"], dict)
        assert all(isinstance(one, str) for one in read["learnt"])
    except RecordError as error:
        assert told(error, tmp_path / RECORD)


def test_a_sentence_is_one_line_whatever_it_quotes(tmp_path: Path) -> None:
    file = tmp_path / "curves.json"
    file.write_text(json.dumps({"models": {"a\n\x1b[31mb\u2028": 1}}))
    with pytest.raises(RecordError, match=r"models\['a\\n\\x1b\[31mb\\u2028'\]"):
        read_published(file)


def test_a_mistyped_curve_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "curves.json"
    model = {"layer": [1], "ari_subjects": {"5-shot": [0.5]}, "note": "from the text"}
    file.write_text(json.dumps({"models": {"theirs": model}}))
    assert read_published(file)["theirs"]["5-shot"].curve("ari_subjects").values == [0.5]
    model["ari_answer"] = {"5-shot": [0.5]}
    file.write_text(json.dumps({"models": {"theirs": model}}))
    with pytest.raises(RecordError, match=r"curves\.json: field models\.theirs: .*'ari_answer'"):
        read_published(file)


def test_half_a_character_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text(json.dumps(a_record() | {"more": "\ud800"}))
    with pytest.raises(RecordError, match=r"is not JSON .*surrogates not allowed"):
        read_run(file)


def test_two_kinds_of_curves_of_one_name_are_refused(tmp_path: Path) -> None:
    record = a_record()
    record["landscapes"].append(record["landscapes"][1] | {"accuracy": 0.25})
    file = tmp_path / "record.json"
    file.write_text(json.dumps(record))
    with pytest.raises(RecordError, match=r"landscapes\[3\]: has other curves of m, 5-shot"):
        read_run(file)


def test_a_draw_has_the_curves_of_the_whole() -> None:
    table = a_record()["landscapes"][0]
    table["curves"]["overlap_with_start"] = [0.5, 0.5]
    with pytest.raises(RecordError, match="'overlap_with_start' is not in the whole and in every"):
        Landscape.from_table(table, "x")


def test_names_of_any_length_and_script_become_files(tmp_path: Path) -> None:
    for number, model in enumerate(("模" * 300, "a" * 300, "/../" * 90, "\U0001f600" * 80)):
        out = tmp_path / str(number)
        one = Landscape.from_table(a_record()["landscapes"][0] | {"model": model}, "x")
        Run(a_record()["environment"], [], [], [one, one]).write_folder(out)
        found = read_run(out)
        assert [landscape.model for landscape in found.landscapes] == [model] * 2


def test_names_that_are_no_text_are_written_as_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"model-\xff")  # what a file may be called
    table = a_record()["landscapes"][0]
    one = replace(Landscape.from_table(table, "x"), model=name, condition=name)
    Run(a_record()["environment"], [], [], [one]).write_folder(tmp_path)
    (found,) = read_run(tmp_path).landscapes
    assert found.model == found.condition == "model-\\udcff"
    assert Landscape.from_json(one.to_json()) == found


def test_old_verdicts_never_stand_beside_new_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(
        a_record()["environment"], [], [], [Landscape.from_table(a_record()["landscapes"][0], "x")]
    )
    run.write_folder(tmp_path)

    def stopped(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reports.run.write_whole", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.write_folder(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RecordError, match=r"has no results\.json"):
        read_run(tmp_path)


def test_peaks_of_nothing_are_refused(tmp_path: Path) -> None:
    table = a_record()["landscapes"][0]
    for curves in (table["curves"], table["draws"][1]["curves"]):
        curves["density_peaks"] = [0, None]
        with pytest.raises(RecordError, match=r"^x: field .*density_peaks\[0\]: 0 is less"):
            Landscape.from_table(table, "x")
        curves["density_peaks"] = [1, None]
    file = tmp_path / "curves.json"
    for name in ("density_peaks", "intrinsic_dimension"):
        model = {"layer": [1, 2], name: {"5-shot": [0, None]}}
        file.write_text(json.dumps({"models": {"theirs": model}}))
        with pytest.raises(RecordError, match=rf"curves.json: field models.*{name}.*0 is less"):
            read_published(file)
