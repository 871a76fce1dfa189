"""The paper's figures, remade from landscapes: one small panel each, so that a page can stack them.

Conditions are labelled where their line ends, in Okabe and Ito's colours, which stay apart for
colour-blind readers. A band is the interval of every layer's value, from the draws; published
curves have none and are dashed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram as draw_dendrogram

from harness.controls import kind_of
from harness.landscape import OVERLAP, Landscape, LayerDendrogram
from harness.published import PUBLISHED

QUANTITIES = {
    "intrinsic_dimension": "intrinsic dimension",
    "density_peaks": "number of density peaks",
    "core_fraction": "share of core points",
    "ari_subjects": "ARI of clusters with subjects",
    "ari_answers": "ARI of clusters with answers",
    "answer_clusters": "share of points in five clusters of an answer each",
    "overlap_subjects": "share of neighbours of the same subject",
    "overlap_answers": "share of neighbours with the same answer",
    "ari_given": "ARI of clusters with the answers given",
    "overlap_given": "share of neighbours given the same answer",
    OVERLAP: "share of neighbours as before",
}
COLORS = {
    "0-shot": "#000000",
    "1-shot": "#56B4E9",
    "2-shot": "#009E73",
    "5-shot": "#0072B2",
    "fine-tuned": "#D55E00",
}
# For lines and labels of no fixed color; Okabe and Ito's yellow is too pale for text.
PALETTE = (
    "#E69F00", "#CC79A7", "#009E73", "#56B4E9", "#D55E00", "#0072B2", "#8C7A00",
)  # fmt: skip
UNKNOWN = "#7F7F7F"
STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "landscape",  # the same figure is the same bytes
    "text.parse_math": False,  # names may hold a $
}
Lines = dict[str, tuple[Landscape, Any]]  # by label: what is drawn, and its color
LABEL_GAP = 0.075  # of an axis's height, between the labels at its right
WIDTH, HEIGHT = 4.4, 2.3  # inches
LABEL_LETTERS = 30  # of a line beside the axis, which is as long as that


def profile(landscapes: Sequence[Landscape], quantity: str) -> Figure:
    """Return one quantity over relative depth, a line a condition."""
    figure, axis = _panel(QUANTITIES[quantity])
    taken = {COLORS.get(one.condition) for one in landscapes}
    free = cycle([color for color in PALETTE if color not in taken])
    lines = {one.condition: (one, COLORS.get(one.condition) or next(free)) for one in landscapes}
    _draw(axis, lines, quantity)
    return figure


def under_controls(own: Landscape, controls: Mapping[str, Landscape]) -> Figure:
    """Return the ARI with subjects over relative depth as it is, and under each null control.

    Random weights have one color, whatever their seed.
    """
    figure, axis = _panel(f"{own.condition}: {QUANTITIES['ari_subjects']}")
    lines: Lines = {"as it is": (own, COLORS["0-shot"])}
    kinds = list(dict.fromkeys(map(kind_of, controls)))
    for name, landscape in controls.items():
        lines[name] = (landscape, _cycled(kinds.index(kind_of(name))))
    _draw(axis, lines, "ari_subjects")
    return figure


def by_step(checkpoints: Sequence[Landscape], quantity: str) -> Figure:
    """Return one quantity over relative depth, a line a checkpoint: the later, the darker."""
    figure, axis = _panel(QUANTITIES[quantity])
    shades = mpl.colormaps["cividis_r"]  # its palest third would not be seen on white
    lines: Lines = {
        str(one.checkpoint): (one, shades(0.35 + 0.65 * number / len(checkpoints)))
        for number, one in enumerate(sorted(checkpoints, key=lambda one: one.checkpoint or 0))
    }
    _draw(axis, lines, quantity, (0, 1.03))
    return figure


def dendrogram(tree: LayerDendrogram, categories: Mapping[str, str]) -> Figure:
    """Return the dendrogram of a layer's density peaks; a peak's label has its category's color."""
    colors = {name: _cycled(number) for number, name in enumerate(sorted(set(categories.values())))}
    with mpl.rc_context(STYLE):
        height = 0.6 + 0.135 * len(tree.labels)
        figure = Figure(figsize=(WIDTH + 0.6, height), layout="constrained")
        axis = figure.add_subplot()
        shown = draw_dendrogram(
            np.array(tree.linkage),
            orientation="left",
            labels=[
                f"{label.replace('_', ' ')} ({share:.0%})"
                for label, share in zip(tree.labels, tree.shares, strict=True)
            ],
            ax=axis,
            color_threshold=0,
            above_threshold_color="#555555",
            leaf_font_size=7,
        )
        for text, leaf in zip(axis.get_yticklabels(), shown["leaves"], strict=True):
            text.set_color(colors.get(categories.get(tree.labels[leaf], ""), UNKNOWN))
        named = sorted({categories[label] for label in tree.labels if label in categories})
        axis.set_xlabel("log density below the highest peak")
        axis.spines["left"].set_visible(False)
        figure.legend(
            [
                mpl.lines.Line2D([], [], marker="s", linestyle="", color=colors[name])
                for name in named
            ],
            named,
            loc="outside upper center",
            ncols=3,
            frameon=False,
            fontsize=7,
            handletextpad=0,
        )
    return figure


def as_image(figure: Figure) -> str:
    """Return the figure as the address of an image: SVG that a page holds itself."""
    text = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None})
    coded = base64.b64encode(text.getvalue().encode()).decode()
    return f"data:image/svg+xml;base64,{coded}"


def as_pdf(figure: Figure) -> bytes:
    """Return the figure as a PDF."""
    drawn = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(drawn, format="pdf", metadata={"CreationDate": None})
    return drawn.getvalue()


def _panel(label: str) -> tuple[Figure, Axes]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axis = figure.add_subplot()
    axis.set_xlim(0, 1)
    axis.set_xlabel("relative depth")
    axis.set_ylabel(fill(label, LABEL_LETTERS))
    return figure, axis


def _cycled(number: int) -> str:
    return PALETTE[number % len(PALETTE)]


def _draw(
    axis: Axes, lines: Lines, quantity: str, limits: tuple[float, float] | None = None
) -> None:
    ends = []
    for label, (landscape, color) in lines.items():
        curve = landscape.curve(quantity)
        known = np.isfinite(curve.values)
        if not known.any():
            continue
        style = "--" if landscape.model.startswith(PUBLISHED) else "-"
        axis.plot(curve.depth, curve.values, style, color=color, linewidth=1.4)
        padded = np.pad(known, 1)
        alone = known & ~padded[:-2] & ~padded[2:]
        if alone.any():  # no line goes through these
            axis.plot(curve.depth[alone], curve.values[alone], ".", color=color)
        ends.append((float(curve.values[known][-1]), label, color))
    # The lines set the limits: a band of a value that is hardly known would flatten them all.
    axis.set_ylim(*(limits or (min(0.0, axis.get_ylim()[0]), axis.get_ylim()[1])))
    for landscape, color in lines.values():
        band = landscape.band(quantity)
        if band is not None:
            depth = landscape.curve(quantity).depth
            axis.fill_between(depth, *band, color=color, alpha=0.15, linewidth=0)
    _label(axis, ends)


def _label(axis: Axes, ends: Iterable[tuple[float, str, Any]]) -> None:
    """Write every line's label right of its end, and no two over each other."""
    low, high = axis.get_ylim()
    placed = sorted(((value - low) / (high - low), label, color) for value, label, color in ends)
    heights = [height for height, _, _ in placed]
    for number in range(1, len(heights)):
        heights[number] = max(heights[number], heights[number - 1] + LABEL_GAP)
    over = max(heights, default=0) - 1.02
    if over > 0:  # the topmost would leave the panel: all that press on it move down
        heights[-1] -= over
        for number in reversed(range(len(heights) - 1)):
            heights[number] = min(heights[number], heights[number + 1] - LABEL_GAP)
    for height, (_, label, color) in zip(heights, placed, strict=True):
        axis.text(
            1.02,
            height,
            label,
            color=color,
            transform=axis.transAxes,
            va="center",
            fontsize=7.5,
            parse_math=False,
        )
