"""Records that are none: refused with the field, or read and shown."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.cases import TOY
from harness.errors import RecordError
from harness.landscape import CURVES, Draw, Landscape, Tree
from reports.run import Run, read_run
from reports.view import Report
from tests.trying import in_both_modes

MODEL, QUESTIONS = str(TOY / "model"), str(TOY / "questions")


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 5), st.integers(10**20, 10**25), st.floats(),
        st.text(max_size=6), st.sampled_from(["0-shot", "x-shot", "../..", "<b>", "toy"]),
    ),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=4), one, max_size=3),
    max_leaves=4,
)  # fmt: skip


def a_record() -> dict[str, Any]:
    curves = dict.fromkeys(CURVES, (0.5, 0.25))
    tree = Tree(1, ((0.0, 1.0, 0.5, 2.0),), ("a", "b"), (1.0, 0.5))
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
        "threshold": 0.1, "direction": "at least", "conditions": ["0-shot"], "layers": "all",
        "sentence": "It is.", "section": "1", "exception": None, "seconds": 0.1, "source": "us",
        "controls": [found], "variations": [found], "specificity": None,
    }  # fmt: skip
    skipped = {name: "x" for name in ("claim", "model", "sentence", "section", "source", "reason")}
    settings = {"command": "pytest", "device": "cpu", "not_measured": ["x"]}
    return {
        "record": 2,
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


@in_both_modes(150)
@given(place=st.integers(0, 10**6), how=st.sampled_from(["put", "drop", "add"]), value=JSON)
def test_a_record_is_read_and_shown_or_refused(
    place: int, how: str, value: Any, tmp_path: Path
) -> None:
    record: Any = a_record()
    paths = places(record)
    *way, last = paths[place % (len(paths) - 1) + 1]
    parent = record
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
        shown = report.show(template)
        assert "<b>" not in re.sub(r"<b>[✓✗?mtx.\w -]", "", shown) or template == "report.md"
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
