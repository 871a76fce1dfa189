"""The report's figures: what is drawn where, and in which color."""

import math
from dataclasses import replace

import numpy as np
import pytest

from harness.controls import null_controls
from harness.geometry.interval import interval_of
from harness.landscape import OVERLAP, Draw, LayerDendrogram
from reports import figures
from tests.invented import landscape


def test_labels_do_not_lie_over_each_other() -> None:
    conditions = ("0-shot", "1-shot", "2-shot", "5-shot", "fine-tuned")
    same = [replace(landscape("0-shot"), condition=condition) for condition in conditions]
    flat = dict.fromkeys(same[0].curves, (1.0,) * 4)
    for few in (same, [replace(one, curves=flat) for one in same]):
        axis = figures.profile(few, "core_fraction").axes[0]
        heights = sorted(text.get_position()[1] for text in axis.texts)
        assert {text.get_text() for text in axis.texts} == set(conditions)
        assert min(np.diff(heights)) >= figures.LABEL_GAP - 1e-9 and max(heights) < 1.05


def test_a_label_is_where_its_line_ends() -> None:
    checkpoints = [
        replace(landscape(f"fine-tuned@{step}"), curves={OVERLAP: (0.9, 0.9, 0.9, end)}, draws=())
        for step, end in ((10, 0.8), (200, 0.2))
    ]
    axis = figures.by_step(checkpoints, OVERLAP).axes[0]
    texts = {text.get_text(): text for text in axis.texts}
    for one in checkpoints:
        text = texts[one.condition.partition("@")[2]]
        shown = axis.transAxes.transform(text.get_position())[1]
        end = axis.transData.transform((1, one.curves[OVERLAP][-1]))[1]
        assert shown == pytest.approx(end, abs=1)


def test_a_layer_whose_neighbours_are_unknown_is_seen() -> None:
    few = [landscape("0-shot")]
    curves = {**few[0].curves, "core_fraction": (0.1, math.nan, 0.3, 0.4)}
    axis = figures.profile([replace(few[0], curves=curves)], "core_fraction").axes[0]
    (alone,) = [line for line in axis.lines if line.get_marker() == "."]
    assert alone.get_xdata().tolist() == [0.25] and alone.get_ydata().tolist() == [0.1]


@pytest.mark.parametrize("quantity", figures.QUANTITIES)
def test_the_name_beside_an_axis_is_no_longer_than_it(quantity: str) -> None:
    own = landscape("fine-tuned@10")
    figure = figures.profile([own], quantity)
    figure.draw_without_rendering()
    name, panel = figure.axes[0].yaxis.label.get_window_extent(), figure.bbox
    assert panel.y0 <= name.y0 and name.y1 <= panel.y1


def test_lines_of_a_panel_have_colors_of_their_own() -> None:
    few = [replace(landscape("0-shot"), condition=f"{shots}-shot") for shots in (0, 2, 3, 4, 8)]
    lines = figures.profile(few, "core_fraction").axes[0].lines
    assert len({line.get_color() for line in lines}) == 5
    controls = {name: few[0] for name in null_controls(4)}
    axis = figures.under_controls(few[1], controls).axes[0]
    colors = {text.get_text(): text.get_color() for text in axis.texts}
    assert colors["random-weights-0"] == colors["random-weights-3"]
    assert len(set(colors.values())) == len(controls) - 3 + 1


def test_a_category_has_one_color_everywhere() -> None:
    def colors(*labels: str) -> list[object]:
        tree = LayerDendrogram(1, ((0.0, 1.0, 1.0, 2.0),), labels, (1.0, 1.0))
        axis = figures.dendrogram(tree, {"law": "a", "art": "b", "sea": "c"}).axes[0]
        found = {
            text.get_text().split(" (")[0]: text.get_color() for text in axis.get_yticklabels()
        }
        return [found[label] for label in labels]

    assert colors("law", "sea")[1] == colors("sea", "art")[0] != colors("law", "art")[0]
    assert colors("law", "unheard of")[1] == figures.UNKNOWN


def test_a_band_is_the_interval_of_every_layer() -> None:
    own = landscape("5-shot")
    own = replace(own, draws=(own.draws[0], Draw(own.curves, 0.5)))
    axis = figures.profile([own], "core_fraction").axes[0]
    (band,) = axis.collections
    drawn = {tuple(np.round(point, 9)) for point in band.get_paths()[0].vertices}
    for depth, value, draw in zip(
        (0.25, 0.5, 0.75, 1.0),
        own.curves["core_fraction"],
        own.draws[0].curves["core_fraction"],
        strict=True,
    ):
        bounds = interval_of(value, [draw, value], 0.8)
        assert bounds and {(depth, round(end, 9)) for end in bounds} <= drawn
