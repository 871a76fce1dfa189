"""The paper's section 4.1: the landscape has two phases, with an abrupt change near the middle."""

import math

import pytest

from claims.scope import EARLY, LATE, MIDDLE, authors_curves, papers_own, smallest
from fixtures.conditions import ConditionSet
from fixtures.judging import Judge
from harness.curve import Curve
from harness.landscape import Landscape

NO_PEAK = {"llama-2-7b": "the paper sees no ID peak in Llama-2-7b"}
FALL = 3 / 32  # the three layers in which the paper sees the ID fall


def hump(curve: Curve) -> float:
    """Return the smaller of rise to and fall from the middle's peak, as a share of the peak."""
    middle = curve.between(*MIDDLE)
    peak, depth = middle.maximum, middle.peak_depth
    rise = 1 - curve.between(0.0, 0.3).median / peak
    after = curve.depth[curve.depth > depth + 1e-9]
    soon = max(FALL, float(after[0]) - depth) if len(after) else FALL  # one layer at least
    fall = 1 - curve.between(depth, depth + soon).last / peak
    return smallest({"rise": rise, "fall": fall})


def growth(higher: Landscape, lower: Landscape) -> float:
    """Return by what share the ID's peak in the middle is higher in one condition than another."""
    one, other = (
        landscape.curve("intrinsic_dimension").between(*MIDDLE).maximum
        for landscape in (higher, lower)
    )
    return one / other - 1


@pytest.mark.claim(
    "two-phases-id",
    exceptions=papers_own(NO_PEAK)
    | {"toy": "the toy's ID rises to its last blocks and does not fall again"},
)
def test_the_intrinsic_dimension_peaks_in_the_middle(judge: Judge) -> None:
    """In every condition the intrinsic dimension rises to the middle and falls sharply after it."""

    def least(of: ConditionSet) -> float:
        return smallest({one.condition: hump(one.curve("intrinsic_dimension")) for one in of.all})

    # 0.03: Llama-2-70b, where the paper sees the peak weakened, has 0.042; Llama-2-7b, where it
    # sees none, -0.08 without shots; the other three models 0.09 or more.
    judge(
        least,
        at_least=0.03,
        meaning=(
            "of the ID's peak within depth 0.35 to 0.65, the share that it rises by from the "
            "median to 0.3 or falls by within three layers of 32, the smaller one"
        ),
    )


@pytest.mark.claim("two-phases-id-growth")
def test_the_peak_of_the_dimension_grows_with_shots(judge: Judge) -> None:
    """The intrinsic dimension's peak in the middle is higher with the most shots than without."""
    # 0.05: a third of the 16.5 / 14 that the paper gives for Llama-3-8b.
    judge(
        lambda of: growth(of.most_shots, of.zero_shot),
        at_least=0.05,
        meaning="by what share the largest ID within depth 0.35 to 0.65 is higher with shots",
    )


@pytest.mark.claim(
    "two-phases-id-fine-tuned",
    exceptions=papers_own(NO_PEAK)
    | authors_curves(
        {
            "llama-2-70b": "the authors' own peak is only 3 % higher than with 5 shots",
            "llama-3-70b": "the authors' own peak is 1 % lower than with 5 shots",
        }
    )
    | {"toy": "the toy's ID grows more with shots than with fine-tuning"},
)
def test_the_peak_of_the_dimension_grows_most_with_fine_tuning(judge: Judge) -> None:
    """The peak of the intrinsic dimension is higher after fine-tuning than with shots."""
    # 0.05: as for shots; a fifth of the 21 / 16.5 that the paper gives for Llama-3-8b.
    judge(
        lambda of: growth(of.fine_tuned, of.most_shots),
        at_least=0.05,
        meaning="by what share the largest ID within depth 0.35 to 0.65 is higher fine-tuned",
    )


@pytest.mark.claim(
    "two-phases-late-id",
    exceptions=papers_own(NO_PEAK)
    | authors_curves(
        {
            "llama-2-70b": "the authors' own curve rises by 1 % with 5 shots",
            "llama-3-70b": "the authors' own curve rises by 14 % with 5 shots",
        }
    )
    | {"toy": "the toy's ID rises to its last blocks, with shots and without"},
)
def test_the_late_dimension_rises_again_without_shots_and_decays_with_them(judge: Judge) -> None:
    """After the transition the intrinsic dimension rises again without shots, and decays with."""

    def rise(curve: Curve) -> float:
        # The last layers' end is left out: there all conditions fall.
        return curve.between(0.85, 0.98).median / curve.between(0.55, 0.8).minimum - 1

    def least(of: ConditionSet) -> float:
        zero, few = (one.curve("intrinsic_dimension") for one in (of.zero_shot, of.most_shots))
        return smallest(
            {"rise without shots, above 5 %": rise(zero) - 0.05, "decay with shots": -rise(few)}
        )

    # A rise of 0.05 or more, and a decay at all: the paper gives no sizes. The authors' own curves
    # rise by 0.11 or more without shots.
    judge(
        least,
        at_least=0.0,
        meaning=(
            "by what share the ID rises without shots, above the 5 % asked, or falls with them, "
            "from its minimum within depth 0.55 to 0.8 to its median within 0.85 to 0.98, the "
            "smaller one"
        ),
    )


@pytest.mark.claim("two-phases-peaks")
def test_there_are_more_density_peaks_before_the_transition(judge: Judge) -> None:
    """In every condition there are more density peaks before the transition than after it."""

    def least_ratio(of: ConditionSet) -> float:
        curves = {one.condition: one.curve("density_peaks") for one in of.all}
        return smallest(
            {
                condition: one.between(*EARLY).median / one.between(*LATE).median
                for condition, one in curves.items()
            }
        )

    # 1.2: the paper's weakest words are "below 40" before and "10 to 20" after, a ratio near 2 in
    # Llama-3-8b; the weakest of the authors' own curves has 1.35.
    judge(
        least_ratio,
        at_least=1.2,
        meaning="density peaks early (median of depth 0 to 0.4) for each that is late (0.6 to 1)",
    )


@pytest.mark.claim("two-phases-peaks-subjects")
def test_with_shots_there_are_about_as_many_peaks_as_subjects(judge: Judge) -> None:
    """With shots there are, before the transition, about as many density peaks as subjects."""

    def deviation(of: ConditionSet) -> float:
        few = of.most_shots
        return math.log2(few.curve("density_peaks").between(*EARLY).maximum / few.subjects)

    # log2(1.5): the paper says 60 to 70 peaks for 57 subjects, and 77 in its dendrogram (1.35);
    # the authors' own curves have 60 to 82 (1.44).
    judge(
        deviation,
        at_most=math.log2(1.5),
        magnitude=True,
        meaning=(
            "how many doublings lie between the most peaks within depth 0 to 0.4 and the number of "
            "subjects"
        ),
    )


@pytest.mark.claim(
    "two-phases-peaks-shots",
    exceptions={"toy": "the toy has as many early peaks without shots, and after fine-tuning"},
)
def test_shots_make_early_peaks(judge: Judge) -> None:
    """Before the transition there are more density peaks with shots than without, or fine-tuned."""

    def ratio(of: ConditionSet) -> float:
        def early(one: Landscape) -> float:
            return one.curve("density_peaks").between(*EARLY).maximum

        return smallest(
            {one.condition: early(of.most_shots) / early(one) for one in of.without_shots}
        )

    # 1.2: less than half of the paper's excess of 60 to 70 over "below 40" in Llama-3-8b; the
    # smallest of the authors' own curves is 1.28.
    judge(
        ratio,
        at_least=1.2,
        meaning="most peaks within depth 0 to 0.4 with shots, for each that there is without",
    )


@pytest.mark.claim(
    "two-phases-core",
    exceptions={
        "toy": "shots leave the toy's early layers no more core points than it has without"
    },
)
def test_core_points_are_early_and_most_with_shots(judge: Judge) -> None:
    """With shots the core fraction is larger early than late, and than without or fine-tuned."""

    def excess(of: ConditionSet) -> float:
        few = of.most_shots.curve("core_fraction")
        others = {
            one.condition: one.curve("core_fraction").between(*EARLY).maximum
            for one in of.without_shots
        }
        others["late, with shots"] = few.between(*LATE).maximum
        early = few.between(*EARLY).maximum
        return smallest({f"over {name}": early - other for name, other in others.items()})

    # 0.1: a quarter of the paper's 0.6 with shots against 0.2 without, in Llama-3-8b; the smallest
    # of the authors' own curves is 0.20.
    judge(
        excess,
        at_least=0.1,
        meaning=(
            "the largest core fraction within depth 0 to 0.4 with shots, less that of the others "
            "there, or its own within 0.6 to 1, the smallest difference"
        ),
    )
