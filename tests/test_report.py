"""The report: what it says, how it looks, that it needs nothing else."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import RecordError
from harness.published import read_published
from reports import figures
from reports.render import render
from reports.run import AUTHORS_CURVES
from reports.scale import Scale
from reports.verdict import Outcome
from reports.view import Report
from reports.words import number
from tests.invented import HOSTILE, RUN, landscape, verdict
from tests.trying import refused

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def test_what_two_runs_both_have_is_shown_once() -> None:
    theirs = [landscape(name, "published:theirs") for name in ("0-shot", "5-shot")]
    here = replace(RUN, landscapes=theirs, claims=[verdict("one", "published:theirs")], skipped=[])
    moved = verdict("one", "published:theirs", section="Section 2: newer.")
    report = Report([here, replace(here, claims=[moved])])
    assert len(report.measured()) == 2
    assert report.sections == {"Section 2: newer.": {"one": "The finding one."}}
    other = [replace(one, accuracy=0.1) for one in theirs]
    with pytest.raises(RecordError, match="published:theirs, 0-shot: has other curves too"):
        Report([here, replace(here, landscapes=other)])


def test_an_axis_is_not_stretched_by_what_is_not_on_it() -> None:
    far = verdict("one", "published:big", effect=90.0, interval=None)
    claims = [*RUN.claims[:-1], far]
    report = Report([replace(RUN, claims=claims)])
    assert report.published == ["published:big"]
    assert report.scale("one") == Report([replace(RUN, claims=RUN.claims[:-1])]).scale("one")


FINITE = st.floats(-1e6, 1e6)


INTERVAL = st.none() | st.tuples(st.just(-math.inf) | FINITE, st.just(math.inf) | FINITE)


@given(
    found=st.lists(st.tuples(st.just(math.nan) | FINITE, INTERVAL), min_size=1, max_size=5),
    threshold=FINITE,
)
def test_a_bar_shows_effects_on_the_side_of_the_threshold_where_they_are(
    found: list[tuple[float, tuple[float, float] | None]], threshold: float
) -> None:
    verdicts = [verdict(effect=one, interval=ends, threshold=threshold) for one, ends in found]
    controls = tuple(Outcome("embeddings", "inconclusive", one, ends) for one, ends in found[1:2])
    verdicts[0] = replace(verdicts[0], controls=controls)
    scale = Scale.over(verdicts)
    line = scale.at(threshold)
    assert 0 < line < 100
    for effect, _ in found:
        if not math.isnan(effect):
            # Every effect is inside, not cut off at an end; an interval may be.
            assert 0 < scale.at(effect) < 100
            assert (scale.at(effect) >= line) if effect >= threshold else (scale.at(effect) <= line)


def test_an_interval_widens_the_axis_by_so_much_at_most() -> None:
    def ends(*interval: float) -> tuple[float, float]:
        scale = Scale.over([verdict(effect=1.0, interval=interval, threshold=0.0)])
        return scale.low, scale.high

    assert ends(0.9, 1.1) == pytest.approx((-0.055, 1.155))  # a margin of a twentieth
    assert ends(-1000.0, 1000.0) == pytest.approx((-0.6 - 0.11, 1.6 + 0.11))
    assert ends(-math.inf, 1.1) == ends(0.5, 1.1)


def test_an_axis_shows_the_thresholds_of_all_models() -> None:
    pairs = ((0.06, 0.5), (0.1, 0.7))
    scale = Scale.over(verdict(effect=one, interval=None, threshold=line) for one, line in pairs)
    assert 0 < scale.at(0.5) < scale.at(0.7) < 100 and not scale.beyond(0.7)


def test_a_curve_that_few_have_is_shown_of_those() -> None:
    lacking = landscape("0-shot", "without")
    lacking = replace(lacking, curves={**lacking.curves, "overlap_subjects": (math.nan,) * 4})
    shown = Report([replace(RUN, landscapes=[landscape("0-shot", "with"), lacking])])
    text = shown.profiles("overlap_subjects")
    assert "with: share of" in text and "without: share of" not in text and "own curves" not in text


def test_the_peaks_are_told_of_which_all_else_is_made() -> None:
    curves = landscape("0-shot").curves
    some = {
        "0-shot": (1.0, 1.0, 1.0, 1.0),
        "1-shot": (3.0, math.nan, 12.0, 2.0),
        "5-shot": (math.nan,) * 4,
    }
    shown = [
        landscape(name, curves={**curves, "density_peaks": peaks}, draws=())
        for name, peaks in some.items()
    ]
    report = Report([replace(RUN, landscapes=shown)])
    assert [row["peaks"] for row in report.measured()] == ["1 to 1", "2 to 12", ""]
    for template in ("measured.html", "report.md"):
        assert "2 to 12" in report.show(template)


def test_the_markdown_has_every_verdict_in_whole_tables(tmp_path: Path) -> None:
    RUN.write_record(tmp_path / "record.json")
    render([tmp_path / "record.json"], tmp_path)
    lines = (tmp_path / "report.md").read_text().splitlines()
    tables = [list(group) for group in _tables(lines)]
    assert len(tables) >= 3
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in table}
        assert len(columns) == 1 and set(table[1]) <= set("| -")
    rows = {row.split("**")[1]: row for row in tables[0][2:]}
    assert "| **one**: The finding one. Effect: all. | reproduced |" in rows["one"]
    assert "| reproduced | 0.500 [0.400, 0.600] | at least 0.2 |" in rows["one"]
    assert "0.500 [0.400, 0.600], largest of: growth 0.500, " in rows["two"]
    assert "growth 0.500" in Report([RUN]).show("verdicts.html")
    assert "not reproduced (stated)" in rows["four"] and "unknown [unbounded]" in rows["three"]
    assert "**five** (arXiv 1): Five." in rows["five"]
    assert "not judged: \\<script\\>" in rows["five"]
    assert not re.search(r"(?<!\\)<script", "\n".join(lines))
    # Another paper's finding comes after the paper's, though it was not judged.
    assert list(rows)[-1] == "five"
    (tally,) = [line for line in lines if "of the paper's findings" in line]
    told = "controls decide on 1 of them: 1 specific to learning"
    assert tally.startswith(f"1 of the paper's findings reproduced ({told}), 2 not")
    assert "not the paper's 0 reproduced, 0 not, 0 inconclusive, 1 not judged" in tally


def test_the_side_of_a_threshold_where_a_finding_holds_is_shaded() -> None:
    claims = [verdict(direction="at least"), verdict("two", direction="at most", threshold=0.45)]
    page = Report([replace(RUN, claims=claims)]).show("verdicts.html")
    bars = page.partition('<table class="verdicts">')[2].split("<svg")[1:]
    assert len(bars) == 2
    for bar, direction in zip(bars, ("at least", "at most"), strict=True):
        ((x, width),) = re.findall(r'class="holds" x="([\d.]+)" y="0" width="([\d.]+)"', bar)
        (line,) = map(float, re.findall(r'class="threshold" x1="([\d.]+)"', bar))
        begin, end = float(x), float(x) + float(width)
        assert (begin, end) == pytest.approx((line, 200) if direction == "at least" else (0, line))
        (effect,) = map(float, re.findall(r'<circle cx="([\d.]+)"', bar))
        assert (begin <= effect <= end) == (direction == "at least")  # 0.5 is above both


def test_an_interval_that_goes_on_beyond_the_bar_has_an_arrow_there() -> None:
    near, far = verdict(interval=(0.4, 0.6)), verdict(interval=(-math.inf, 0.6))
    # Of another model with its effect near the threshold: 30 is farther than the bar goes.
    farther = verdict(interval=(0.4, 30.0))
    for one, arrows in ((near, []), (far, ["M0"]), (farther, ["M200"])):
        page = Report([replace(RUN, claims=[one])]).show("verdicts.html")
        bar = page.partition('<table class="verdicts">')[2].partition("</svg>")[0]
        assert re.findall(r'<path d="(M\d+) ', bar) == arrows


def test_the_page_tells_what_an_effect_is_and_on_how_much_it_rests() -> None:
    page, text = (Report([RUN]).show(name) for name in ("verdicts.html", "report.md"))
    for shown in (page, text):
        assert "40 questions of 3 subjects; right: 0-shot 50.0%, 5-shot 50.0%" in shown
        assert "Effect: all." in shown
    assert "of 0-shot, 5-shot</small>" in page
    unknown = replace(RUN, landscapes=[landscape("0-shot", origin={"questions": "many"})])
    assert "questions of" not in Report([unknown]).show("verdicts.html")


def test_the_variations_that_change_a_verdict_are_marked() -> None:
    others = [Outcome("Z 0", "reproduced", 0.5, None), Outcome("Z 4", "inconclusive", 0.2, None)]
    run = replace(RUN, claims=[verdict(variations=tuple(others), controls=tuple(others))])
    for kind, marked in (("variations", ["inconclusive changed"]), ("controls", [])):
        table = Report([run]).show("beside.html", kind=kind)
        assert re.findall(r'<td class="([a-z-]+ changed)">', table) == marked


def test_published_curves_have_their_marks_reasons_and_exceptions() -> None:
    theirs = [
        verdict(model="published:big", effect=0.25),
        verdict("two", "published:big", verdict="not reproduced", exception="it is small"),
    ]
    run = replace(RUN, claims=[*RUN.claims[:3], *theirs])
    rows = Report([run]).show("published.html").split("<tr>")
    one, two, three = (
        next(r for r in rows if f">{name}<" in r) for name in ("one", "two", "three")
    )
    assert "✓ 0.250" in one and "stated" not in one
    assert '<td class="stated" title="stated: it is small">✗ 0.500' in two
    assert '<td class="absent">' in three and "✓" not in three


def test_the_authors_curves_are_drawn_once() -> None:
    theirs = list(read_published(AUTHORS_CURVES)["llama-3-8b"].values())
    others = [replace(one, accuracy=0.5) for one in theirs]
    for shown, drawn in ((theirs, 1), (others, 2), (RUN.landscapes, 2)):
        report = Report([replace(RUN, claims=[], skipped=[], landscapes=shown)])
        assert report.profiles("density_peaks").count("<figure>") == drawn


def test_the_markdown_shows_a_model_under_its_own_controls_only() -> None:
    claims = [*RUN.claims, verdict(model="other")]
    two = replace(RUN, claims=claims, landscapes=[*RUN.landscapes, landscape("0-shot", "other")])
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
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    RUN.write_record(folder / "record.json")
    return render([folder / "record.json"], folder, folder / "figures")


def test_every_figure_of_the_page_is_a_file_too(page: Path) -> None:
    files = sorted((page.parent / "figures").iterdir())
    assert len(files) == Page(page.read_text()).tags.count("figure") > 20
    assert all(file.read_bytes().startswith(b"%PDF") for file in files)
    assert {"ari_subjects-small.pdf", "controls-small.pdf"} < {file.name for file in files}
    assert files[0].stat().st_size > 3000
    again = Report([RUN]).panels.write(page.parent / "figures")
    assert sorted(again) == files  # in place of what was there
    both = ["report", str(page.parent / "record.json"), "--out", str(page.parent), "--figures"]
    refused([*both, str(page)], "a file is in the way", page.parent)


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(page: Path) -> None:
    text = page.read_text()
    found = Page(text)
    assert "script" not in found.tags and "link" not in found.tags and "iframe" not in found.tags
    assert all(one.startswith(("data:image/svg+xml;base64,", "#")) for one in found.sources)
    assert HOSTILE in found.text and "<script" not in text
    assert page.stat().st_size < 5_000_000
    # A panel a quantity of the model, and of those that the reference has; a dendrogram a
    # condition; the controls' and the checkpoints'.
    assert found.tags.count("img") == len(figures.QUANTITIES) + 5 + 4 + 1 + 2
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
        (math.nan, "unknown"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text
