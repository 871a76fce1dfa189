"""Prompts against texts written by hand; settings, their keys, and what they refuse."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
import pytest

from harness.errors import GeometryError, SettingsError
from harness.geometry.subsample import draw_subsamples
from harness.measurement import Labels, measure_layer
from harness.protocol import (
    DRAW_SHARE,
    Control,
    FineTuning,
    GeometrySettings,
    PromptFormat,
    Subset,
    cache_key,
)
from harness.questions.prompts import build_prompt
from harness.questions.question import Question

ASKED = Question("  What is 2 + 2? ", (" 3", "4 ", "5", "22"), 1, "abstract_algebra", 7)
SHOTS = [
    Question("Is 0 even?", ("yes", "no", "both", "neither"), 0, "abstract_algebra", 0),
    Question("Name a ring.", ("Z", "N", "7", "none"), 0, "abstract_algebra", 1),
    Question("Name a prime.", ("4", "6", "8", "11"), 3, "abstract_algebra", 2),
]

ZERO_SHOT = """The following are multiple choice questions (with answers) about abstract algebra.

What is 2 + 2?
A. 3
B. 4
C. 5
D. 22
Answer:"""

TWO_SHOT = """The following are multiple choice questions (with answers) about abstract algebra.

Is 0 even?
A. yes
B. no
C. both
D. neither
Answer: A

Name a ring.
A. Z
B. N
C. 7
D. none
Answer: A

What is 2 + 2?
A. 3
B. 4
C. 5
D. 22
Answer:"""


def test_zero_shot_prompt() -> None:
    assert build_prompt(ASKED, SHOTS, PromptFormat(0)) == ZERO_SHOT


def test_without_the_header_no_line_names_the_subject() -> None:
    for shots, whole in ((0, ZERO_SHOT), (2, TWO_SHOT)):
        found = build_prompt(ASKED, SHOTS, PromptFormat(shots, "kept", header=False))
        assert found == whole.partition("\n\n")[2]


def test_a_setting_that_came_later_changes_no_key_but_its_own() -> None:
    key = "bd677c3a"
    assert cache_key(PromptFormat(5)).startswith(key)
    assert not cache_key(PromptFormat(5, header=False)).startswith(key)


def test_a_field_of_the_same_name_in_another_class_is_part_of_its_key() -> None:
    @dataclass(frozen=True)
    class Page:
        header: bool = True

    assert cache_key(Page()) == sha256(b'[{"Page":{"header":true}}]').hexdigest()


def test_a_key_is_the_digest_of_every_setting_also_of_those_that_are_not_given() -> None:
    whole = """[{"Subset":{"leave_out":null,"per_subject":2,"rows":null,"seed":42,\
"split":"test","without":null}}]"""
    assert cache_key(Subset(per_subject=2)) == sha256(whole.encode()).hexdigest()


def test_a_whole_number_has_one_key_however_it_is_written() -> None:
    assert cache_key(FineTuning(alpha=16.0)) == cache_key(FineTuning(alpha=16))
    assert cache_key(FineTuning(alpha=16.5)) != cache_key(FineTuning(alpha=16))


def test_two_shot_prompt_in_kept_order() -> None:
    assert build_prompt(ASKED, SHOTS, PromptFormat(2, "kept")) == TWO_SHOT


def test_shuffled_shots_are_the_same_shots_in_the_order_of_the_seed_and_row() -> None:
    order = np.random.default_rng([42, ASKED.row]).permutation(3)
    solved = [
        "Is 0 even?\nA. yes\nB. no\nC. both\nD. neither\nAnswer: A\n\n",
        "Name a ring.\nA. Z\nB. N\nC. 7\nD. none\nAnswer: A\n\n",
        "Name a prime.\nA. 4\nB. 6\nC. 8\nD. 11\nAnswer: D\n\n",
    ]
    header, question = ZERO_SHOT.split("\n\n")
    expected = header + "\n\n" + "".join(solved[index] for index in order) + question
    assert build_prompt(ASKED, SHOTS, PromptFormat(3)) == expected


def test_the_order_is_drawn_anew_for_every_question() -> None:
    asked = [Question("q", ("1", "2", "3", "4"), 0, "abstract_algebra", row) for row in range(40)]
    prompts = {build_prompt(question, SHOTS, PromptFormat(3)) for question in asked}
    assert len(prompts) == 6  # all orders of three shots


@pytest.mark.parametrize(
    ("setting", "bad"),
    [
        (Subset, {"per_subject": 0}),
        (Subset, {"seed": -1}),
        (PromptFormat, {"seed": 2**63}),
        (Control, {"seed": -1}),
        (GeometrySettings, {"neighbors": 0}),
        (GeometrySettings, {"neighbors": 40}),
        (GeometrySettings, {"density_k": 0}),
        (GeometrySettings, {"overlap_k": 0}),
        (GeometrySettings, {"z": math.nan}),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(
    setting: Callable[..., object], bad: dict[str, float]
) -> None:
    (name,) = bad
    with pytest.raises(SettingsError, match=f"{name.replace('_', '.')} is"):
        setting(**bad)


@pytest.mark.parametrize(
    ("settings", "least", "neighbors"),
    [
        (GeometrySettings(id_k=4, density_k=16, draws=0), 17, 16),
        (GeometrySettings(id_k=16, density_k=16, draws=0), 33, 32),
        (GeometrySettings(id_k=1, density_k=None, draws=0), 5, 4),
        # 33 points are the 80 % of 41.25. Of 64 neighbours 51.2 are in a draw, give or take 3.2.
        (GeometrySettings(id_k=16, draws=10), 42, 64),
    ],
)
def test_as_many_points_are_asked_for_as_each_measure_needs(
    settings: GeometrySettings, least: int, neighbors: int
) -> None:
    assert settings.least_points() == least
    assert replace(settings, neighbors=neighbors).least_points() == least
    with pytest.raises(SettingsError, match=f"neighbors is {neighbors - 1}; give {neighbors} or"):
        replace(settings, neighbors=neighbors - 1)


@pytest.mark.parametrize("count", [None, 2000])
def test_the_least_points_and_more_can_be_measured_with_the_least_neighbours(
    count: int | None,
) -> None:
    settings = GeometrySettings(neighbors=64, draws=10)
    size = count or settings.least_points()
    points = np.random.default_rng(0).normal(size=(size, 3))
    labels = Labels(["s"] * len(points), ["A"] * len(points))
    draws = draw_subsamples(len(points), settings.draws, DRAW_SHARE)
    found = measure_layer(points, labels, settings, draws)
    assert all(math.isfinite(one["intrinsic_dimension"]) for one in found.subsamples)
    with pytest.raises(GeometryError, match="Gride at k=16 needs 33 distinct points"):
        measure_layer(points[:-2], labels.of(np.arange(40)), settings, [np.arange(32)])
