"""Runs as files, and the report: what it says, how it looks, that it needs nothing else."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import RecordError
from harness.landscape import CURVES, OVERLAP, Draw, Landscape, Tree
from reports import figures
from reports.render import render
from reports.run import Run, read_run, read_runs
from reports.view import Report, Scale, number

HOSTILE = "<script>alert('|')</script> $\\frac$"
LABELS = ("anatomy", HOSTILE, "virology")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def landscape(condition: str, model: str = "small", **changes: object) -> Landscape:
    rng = np.random.default_rng(len(condition))
    layers = (1, 2, 3, 4)
    names = (*CURVES, OVERLAP) if "@" in condition else CURVES

    def curves() -> dict[str, tuple[float, ...]]:
        return {name: tuple(rng.random(4).tolist()) for name in names}

    tree = Tree(2, ((0.0, 1.0, 0.5, 2.0), (2.0, 3.0, 1.5, 3.0)), LABELS, (1.0, 0.5, 1.0))
    made = Landscape(
        model, condition, layers, curves(), 3, 0.5, {"questions": 40}, (Draw(curves(), 0.4),) * 2
    )
    return replace(made, tree=None if "@" in condition else tree, **changes)


def verdict(claim: str = "one", model: str = "small", **changes: object) -> dict[str, object]:
    return {
        "claim": claim,
        "model": model,
        "verdict": "reproduced",
        "effect": 0.5,
        "interval": [0.4, 0.6],
        "threshold": 0.2,
        "direction": "at least",
        "conditions": ["0-shot", "5-shot"],
        "layers": "all",
        "sentence": f"The finding {claim}.",
        "section": "Section 1: what is found.",
        "exception": None,
        "seconds": 0.1,
        "source": "arXiv 2409.03662",
        "controls": [],
        "variations": [],
        "specificity": None,
    } | changes


def finding(name: str, effect: float | None, word: str = "not reproduced") -> dict[str, object]:
    return {"name": name, "verdict": word, "effect": effect, "interval": [None, None]}


@pytest.fixture(scope="module")
def run() -> Run:
    settings = {"not_measured": [HOSTILE], "command": "pytest claims", "device": HOSTILE}
    controls = [finding("random-weights-0", 0.1), finding("mixed-shots", 0.9, "reproduced")]
    claims = [
        verdict(controls=controls, specificity="specific to learning"),
        verdict("two", verdict="not reproduced", direction="at most", sentence=HOSTILE),
        verdict("three", verdict="inconclusive", effect=None, interval=[None, None]),
        verdict("four", verdict="not reproduced", exception="it is small", variations=controls),
        verdict("one", "published:big", interval=None),
    ]
    skipped = [
        {
            "claim": "five",
            "model": "small",
            "sentence": "Five.",
            "section": "Another paper.",
            "source": "arXiv 1",
            "reason": HOSTILE,
        }
    ]
    landscapes = [
        *(landscape(name) for name in ("0-shot", "5-shot", "fine-tuned", "fine-tuned@10", HOSTILE)),
        landscape("5-shot", control="random-weights-0"),
        landscape("5-shot", variation="Z 0"),
    ]
    return Run({"settings": settings, "versions": {"torch": "2"}}, claims, skipped, landscapes)


def test_a_run_is_the_same_from_its_folder_and_its_record(run: Run, tmp_path: Path) -> None:
    run.write_folder(tmp_path / "out")
    run.write_record(tmp_path / "record.json")
    for path in (tmp_path / "out", tmp_path / "record.json"):
        read = read_run(path)
        assert json.dumps([read.environment, read.claims, read.skipped]) == json.dumps(
            [run.environment, run.claims, run.skipped]
        )
        assert [one.to_json() for one in read.landscapes] == [
            one.to_json() for one in run.landscapes
        ]


def test_models_of_one_name_are_told_by_their_files(run: Run, tmp_path: Path) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        run.write_record(file)
    report = Report(read_runs(files))
    assert report.models == ["small (a)", "small (b)"] and report.published == ["published:big"]
    assert {one.model for one in report.landscapes} == set(report.models)
    assert read_runs(files)[1].original == {"small (b)": "small"}
    # The same name in other folders, and folders: as much of the path as tells them apart.
    for folder in ("x", "y"):
        run.write_folder(tmp_path / folder / "out-0.5")
    folders = [tmp_path / "x" / "out-0.5", tmp_path / "y" / "out-0.5"]
    assert Report(read_runs(folders)).models == ["small (x/out-0.5)", "small (y/out-0.5)"]
    assert Report(read_runs([files[0], files[0]])).models == ["small"]


def test_a_model_keeps_its_first_name_however_often_it_is_recorded(
    run: Run, tmp_path: Path
) -> None:
    settings = run.environment["settings"] | {"recorded": {"small": run.environment}}
    first = replace(run, environment=run.environment | {"settings": settings})
    files = [tmp_path / name for name in ("a.json", "b.json", "both.json")]
    for file in files[:2]:
        first.write_record(file)
    one, other = read_runs(files[:2])
    assert one.environment["settings"]["recorded"] == {"small (a)": run.environment}
    landscapes = [*one.landscapes, *other.landscapes]
    original = one.original | other.original
    replace(one, landscapes=landscapes, original=original).write_record(files[2])
    (again,) = read_runs(files[2:])
    assert again.original == {"small (a)": "small", "small (b)": "small"}
    assert again.renamed({"small (a)": "mine"}).original["mine"] == "small"


def test_curves_of_an_earlier_run_do_not_stay_in_the_folder(run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "landscape-mine.json"  # of `landscape measure`, say
    mine.write_text("{}")
    run.write_folder(tmp_path)
    replace(run, landscapes=run.landscapes[:1]).write_folder(tmp_path)
    kept = {file.name for file in tmp_path.glob("landscape-*.json")}
    assert kept == {"landscape-small-0-shot.json", mine.name}


def test_what_two_runs_both_have_is_shown_once(run: Run) -> None:
    theirs = [landscape(name, "published:theirs") for name in ("0-shot", "5-shot")]
    here = replace(run, landscapes=theirs, claims=[verdict("one", "published:theirs")], skipped=[])
    moved = verdict("one", "published:theirs", section="Section 2: newer.")
    report = Report([here, replace(here, claims=[moved])])
    assert len(report.measured()) == 2
    assert report.sections == {"Section 2: newer.": {"one": "The finding one."}}
    other = [replace(one, accuracy=0.1) for one in theirs]
    with pytest.raises(RecordError, match="published:theirs, 0-shot: has other curves too"):
        Report([here, replace(here, landscapes=other)])


def test_an_axis_is_not_stretched_by_what_is_not_on_it(run: Run) -> None:
    far = verdict("one", "published:big", effect=90.0, interval=None)
    claims = [*run.claims[:-1], far]
    report = Report([replace(run, claims=claims)])
    assert report.published == ["published:big"]
    assert report.scale("one") == Report([replace(run, claims=run.claims[:-1])]).scale("one")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"record": 3}, "field 'record' is 3, not 2; update this project"),
        ({"record": 1}, "field 'record' is 1, not 2; run the claims again with --record"),
        ({"claims": [{}]}, "field claims[0]: 'claim' is a required property"),
        ({"claims": [verdict(verdict="maybe")]}, "field claims[0].verdict: 'maybe' is not one of"),
        ({"claims": [verdict(more=1)]}, "('more' was unexpected)"),
        ({"surprise": 1}, "('surprise' was unexpected)"),
        ({"landscapes": {}}, "field landscapes: {} is not of type 'array'"),
        ({"landscapes": [{"schema": 2}]}, "landscapes[0]: 'model' is a required property"),
        ({"landscapes": ["nowhere.json"]}, "nowhere.json: cannot be read"),
        ({"landscapes": [3]}, "field landscapes[0]: 3 is not of type 'object', 'string'"),
        ({"environment": {"settings": {}, "versions": {}}}, "settings: 'command' is a required"),
        ({"landscapes": [{"schema": 3}]}, "landscapes[0]: field 'schema' is 3, not 2; update"),
    ],
)
def test_a_record_that_is_none_is_refused_in_a_sentence(
    run: Run, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    file = tmp_path / "record.json"
    run.write_record(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(RecordError, match=re.escape(message)) as refused:
        read_run(file)
    assert str(refused.value).startswith(str(tmp_path)) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layer", [1, "2", 3, 4], "field layer[1]: '2' is not of type 'integer'"),
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


def test_a_name_in_a_results_file_cannot_lead_out_of_its_folder(run: Run, tmp_path: Path) -> None:
    run.write_folder(tmp_path / "out")
    outside = tmp_path / "outside.json"
    outside.write_text(run.landscapes[0].to_json())
    results = tmp_path / "out" / "results.json"
    results.write_text(json.dumps(json.loads(results.read_text()) | {"landscapes": [str(outside)]}))
    with pytest.raises(RecordError, match=r"out/outside\.json: cannot be read"):
        read_run(tmp_path / "out")


def test_numbers_that_json_has_not_are_refused_and_never_written(tmp_path: Path) -> None:
    for wrong in ("NaN", "1e999", "-Infinity", "1" * 400):
        text = landscape("0-shot").to_json().replace('"accuracy": 0.5', f'"accuracy": {wrong}')
        with pytest.raises(RecordError, match=r"file\.json: is not JSON .* is not finite"):
            Landscape.from_json(text, "file.json")
    odd = landscape(
        "0-shot", curves=dict.fromkeys(CURVES, (math.inf, 1.0, math.nan, 0.0)), draws=()
    )
    assert json.loads(odd.to_json())["curves"]["kindred"] == [None, 1.0, None, 0.0]


def test_files_of_odd_names_stay_in_their_folder_and_apart(run: Run, tmp_path: Path) -> None:
    names = ("a b", "a-b", "../../a", "x/y", "x" * 300, "")
    Run(run.environment, [], [], [landscape("0-shot", name) for name in names]).write_folder(
        tmp_path / "out"
    )
    assert [one.model for one in read_run(tmp_path / "out").landscapes] == list(names)
    assert len(list((tmp_path / "out").iterdir())) == len(names) + 1


FINITE = st.floats(-1e6, 1e6)
INTERVAL = st.none() | st.tuples(st.none() | FINITE, st.none() | FINITE)


@given(
    found=st.lists(st.tuples(st.none() | FINITE, INTERVAL), min_size=1, max_size=5),
    threshold=FINITE,
)
def test_a_bar_shows_effects_on_the_side_of_the_threshold_where_they_are(
    found: list[tuple[float | None, tuple[float | None, float | None] | None]], threshold: float
) -> None:
    tables = [
        {"effect": effect, "interval": ends, "controls": [], "threshold": threshold}
        for effect, ends in found
    ]
    tables[:1] = [one | {"controls": tables[1:2]} for one in tables[:1]]
    scale = Scale.over(tables)
    line = scale.at(threshold)
    assert 0 < line < 100
    for effect, _ in found:
        if effect is not None:
            # Every effect is inside, not cut off at an end; an interval may be.
            assert 0 < scale.at(effect) < 100
            assert (scale.at(effect) >= line) if effect >= threshold else (scale.at(effect) <= line)


def test_an_axis_shows_the_thresholds_of_all_models() -> None:
    tables: list[dict[str, object]] = [
        {"effect": effect, "interval": None, "controls": [], "threshold": threshold}
        for effect, threshold in ((0.06, 0.5), (0.1, 0.7))
    ]
    scale = Scale.over(tables)
    assert 0 < scale.at(0.5) < scale.at(0.7) < 100 and not scale.beyond(0.7)


def test_a_curve_that_few_have_is_shown_of_those(run: Run) -> None:
    lacking = landscape("0-shot", "without")
    lacking = replace(lacking, curves={**lacking.curves, "overlap_subjects": (math.nan,) * 4})
    shown = Report([replace(run, landscapes=[landscape("0-shot", "with"), lacking])])
    text = shown.profiles("overlap_subjects")
    assert "with: share of" in text and "without: share of" not in text and "own curves" not in text


def test_the_markdown_has_every_verdict_in_whole_tables(run: Run, tmp_path: Path) -> None:
    run.write_record(tmp_path / "record.json")
    render([tmp_path / "record.json"], tmp_path)
    lines = (tmp_path / "report.md").read_text().splitlines()
    tables = [list(group) for group in _tables(lines)]
    assert len(tables) >= 3
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in table}
        assert len(columns) == 1 and set(table[1]) <= set("| -")
    rows = {row.split(" | ")[0].strip("| "): row for row in tables[0]}
    assert "| reproduced | 0.500 [0.400, 0.600] | at least 0.2 |" in rows["one"]
    assert "not reproduced (stated)" in rows["four"] and "unknown [unbounded]" in rows["three"]
    five = next(row for name, row in rows.items() if name.startswith("five"))
    assert "five (arXiv 1)" in five and "not judged: \\<script\\>" in five
    assert not re.search(r"(?<!\\)<script", "\n".join(lines))
    # Another paper's finding comes after the paper's, though it was not judged.
    assert list(rows)[-1].startswith("five")
    (tally,) = [line for line in lines if "of the paper's findings" in line]
    assert tally.startswith("1 of the paper's findings reproduced (1 specific to learning), 2 not")


def test_the_markdown_shows_a_model_under_its_own_controls_only(run: Run) -> None:
    claims = [*run.claims, verdict(model="other")]
    two = replace(run, claims=claims, landscapes=[*run.landscapes, landscape("0-shot", "other")])
    text = Report([two]).show("report.md")
    assert text.count("Effects under the null controls") == 1
    assert "null controls" not in text.partition("## other")[2].partition("## What")[0]


def _tables(lines: list[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


class Page(HTMLParser):
    """What a page has: its tags, the addresses that it asks for, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    run.write_record(folder / "record.json")
    return render([folder / "record.json"], folder)


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(page: Path) -> None:
    text = page.read_text()
    found = Page(text)
    assert "script" not in found.tags and "link" not in found.tags and "iframe" not in found.tags
    assert all(one.startswith(("data:image/svg+xml;base64,", "#")) for one in found.sources)
    assert HOSTILE in found.text and "<script" not in text
    assert page.stat().st_size < 5_000_000
    # A panel a quantity of the model, and of those that the reference has; a dendrogram a
    # condition; the controls' and the checkpoints'.
    assert found.tags.count("img") == len(figures.QUANTITIES) + 5 + 4 + 1 + 1
    assert "Traceback" not in found.text and "Warning" not in found.text


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_fits_a_phone_and_a_desk(page: Path, tmp_path: Path, width: int) -> None:
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe id=f width={width} height=800 src='file://{page}'></iframe><pre id=o></pre>"
        "<script>onload = () => { const d = f.contentDocument; o.textContent = JSON.stringify({"
        "wide: d.documentElement.scrollWidth,"
        "broken: [...d.images].filter(i => !i.naturalWidth).length,"
        "bars: d.querySelectorAll('svg.bar').length,"
        "top: d.querySelector('table.verdicts').getBoundingClientRect().top }); }</script>"
    )
    dom = _chromium("--dump-dom", str(frame))
    shown = json.loads(dom.partition('<pre id="o">')[2].partition("</pre>")[0])
    assert shown["wide"] <= width and shown["broken"] == 0 and shown["bars"] == 4
    assert shown["top"] < 400  # verdicts are on the first screen


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_page_prints(page: Path, tmp_path: Path) -> None:
    _chromium(f"--print-to-pdf={tmp_path / 'report.pdf'}", str(page))
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def _chromium(option: str, page: str) -> str:
    quiet = "disable-gpu disable-quic no-first-run disable-background-networking disable-sync"
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--allow-file-access-from-files"]
    command += [f"--{one}" for one in quiet.split()] + [option, f"file://{page}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (-0.0001, "-0.0001"),
        (-0.5, "-0.500"),
        (0.0, "0.000"),
        (1e17, "1e+17"),
        (None, "unknown"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text
