"""The paper's section 4.2: few-shot prompts group the early layers by subject."""

import math

import pytest

from claims.scope import LATE, need, papers_own, smallest
from fixtures.conditions import ConditionSet
from fixtures.judging import Judge
from harness.landscape import FIRST_HALF, Landscape
from reports.verdict import OURS

FEW_RIGHT, MANY_RIGHT = 0.56, 0.62  # accuracies between which the paper's models change sides
BY_SUBJECT = 0.1  # ARI from which on layers group by subject


def at_best_layer(landscape: Landscape, name: str) -> float:
    """Return a curve's value where the first half agrees best with the subjects; NaN if unknown."""
    early = landscape.curve("ari_subjects").between(*FIRST_HALF)
    best = early.peak_depth
    return landscape.curve(name).between(best, best).maximum


@pytest.mark.claim(
    "subjects-few-shot",
    exceptions={"toy": "the toy's early layers group by subject as much without shots"},
)
def test_early_peaks_are_subjects_with_shots(judge: Judge) -> None:
    """With shots the early layers' peaks agree far better with the subjects than any of 0-shot."""

    def gain(of: ConditionSet) -> float:
        few, zero = (one.curve("ari_subjects") for one in (of.most_shots, of.zero_shot))
        return few.between(*FIRST_HALF).maximum - zero.maximum

    # 0.2: about half of the paper's smallest contrast (Mistral's 0.63 against less than 0.27; in a
    # caption it is 0.53). The authors' own curves have 0.51 or more.
    judge(
        gain,
        at_least=0.2,
        meaning="the largest ARI with subjects within depth 0 to 0.5, less the largest of 0-shot",
    )


@pytest.mark.claim("subjects-more-shots")
def test_more_shots_group_better_earlier_and_more_narrowly(judge: Judge) -> None:
    """With more shots the grouping by subject is stronger, comes earlier and is narrower."""

    def least(of: ConditionSet) -> float:
        shots = of.few_shot(2)
        fewest, most = (one.curve("ari_subjects") for one in (shots[0], shots[-1]))
        growth = most.maximum - fewest.maximum
        # The centroid, not the maximum's layer: where a plateau has its highest point is chance.
        shift = fewest.centroid - most.centroid
        narrowing = fewest.width - most.width
        return smallest({"growth": growth, "shift": shift, "narrowing": narrowing})

    # 0.01: all three must go the way that the paper says; it gives no size. The smallest of the
    # three is 0.027 or more in each of the authors' own curves, which begin with 1 shot: from 2
    # shots to 5 the maximum falls a little in two of them.
    judge(
        least,
        at_least=0.01,
        meaning=(
            "from the fewest shots to the most, how much the largest ARI with subjects grows, its "
            "centroid rises in depth, or the share of layers with half of it falls, the smallest"
        ),
    )


@pytest.mark.claim(
    "subjects-pure",
    exceptions={"toy": "few of the toy's early clusters are of one subject"},
)
def test_the_early_clusters_are_nearly_pure(landscapes: ConditionSet, judge: Judge) -> None:
    """With shots, where peaks are most alike with subjects, most clusters hold one subject."""
    need(landscapes.most_shots, "pure_peaks")

    def pure(of: ConditionSet) -> float:
        # Of a layer that does not group by subject, some small clusters may be pure by chance.
        found = at_best_layer(of.most_shots, "ari_subjects")
        return 0.0 if found < BY_SUBJECT else at_best_layer(of.most_shots, "pure_peaks")

    # 0.7: the paper's three models have 0.97, 0.77 and 0.81 of clusters above 80 % one subject.
    judge(
        pure,
        at_least=0.7,
        meaning=(
            "the share of pure clusters, in the layer within depth 0 to 0.5 that has the largest "
            "ARI with subjects; 0 where that is below 0.1"
        ),
    )


@pytest.mark.claim("hierarchy")
def test_the_dendrogram_puts_kindred_subjects_together(
    landscapes: ConditionSet, judge: Judge
) -> None:
    """With shots, kindred subjects' peaks join at higher densities than those of unlike ones."""
    need(landscapes.most_shots, "kindred")

    def excess(of: ConditionSet) -> float:
        kindred, chance = (
            at_best_layer(of.most_shots, name) for name in ("kindred", "kindred_by_chance")
        )
        return kindred - chance

    # Kindred is what the paper sees side by side (`harness/questions/mmlu_categories.py`): of its
    # own models this asks for its own examples.
    # 0.01 of the mean height, which is more than rounding, above 95 of 100 tables in which the
    # subjects' categories are dealt out anew. The paper shows the dendrogram and gives no number.
    judge(
        excess,
        at_least=0.01,
        meaning=(
            "how much denser kindred peaks join, as a share of the mean height of joins, above "
            "chance; in the layer within depth 0 to 0.5 that has the largest ARI with subjects"
        ),
    )


@pytest.mark.claim(
    "subjects-accuracy",
    exceptions=papers_own(
        {"llama-2-13b": "the paper's own curve reaches 0.22 with an accuracy below 56 %"}
    ),
)
def test_better_models_group_by_subject_without_shots(
    landscapes: ConditionSet, judge: Judge
) -> None:
    """Without shots, models that answer well group by subject, and models that do not hardly do."""
    zero = landscapes.zero_shot
    low, high = zero.known_accuracy_range
    if low <= MANY_RIGHT and high >= FEW_RIGHT:
        pytest.skip(
            f"is about 0-shot accuracies below {FEW_RIGHT} or above {MANY_RIGHT}; this one's is "
            f"{zero.accuracy_in_words}"
        )
    # The paper: about 0.25 above 62 % accuracy, less than 0.18 below 56 %.
    good = low > MANY_RIGHT
    judge(
        lambda of: of.zero_shot.curve("ari_subjects").maximum,
        at_least=0.18 if good else None,
        at_most=None if good else 0.18,
        meaning="the largest ARI with subjects",
    )


@pytest.mark.claim("subjects-fade", source=OURS)
def test_with_shots_the_grouping_by_subject_fades(landscapes: ConditionSet, judge: Judge) -> None:
    """With shots, the late layers have lost most of the early ones' grouping by subject.

    Prompts with shots carry their subject into any network, trained or not: what is left to ask of
    a trained one is whether it lets go of it.
    """

    def early(of: ConditionSet) -> float:
        return of.most_shots.curve("ari_subjects").between(*FIRST_HALF).maximum

    def lost(of: ConditionSet) -> float:
        few = of.most_shots.curve("ari_subjects")
        # Of next to nothing no share can be told.
        before = early(of)
        return 1 - few.between(*LATE).maximum / before if before >= BY_SUBJECT else math.nan

    if early(landscapes) < BY_SUBJECT:
        pytest.skip(
            f"is about models whose early layers group by subject (ARI {BY_SUBJECT} or more)"
        )
    # 0.5: most of it. The authors' own curves have 0.84 or more.
    judge(
        lost,
        at_least=0.5,
        meaning=(
            "the share of the largest ARI with subjects within depth 0 to 0.5 that is lost within "
            "0.6 to 1"
        ),
    )


@pytest.mark.claim("subjects-fine-tuned")
def test_fine_tuned_early_layers_stay_mixed(judge: Judge) -> None:
    """Fine-tuned early layers group by subject no more than those without shots."""

    def gain(of: ConditionSet) -> float:
        tuned, zero = (one.curve("ari_subjects") for one in (of.fine_tuned, of.zero_shot))
        return tuned.between(*FIRST_HALF).maximum - zero.between(*FIRST_HALF).maximum

    # 0.05: a quarter of what shots must add to count as grouping. All the authors' own curves
    # are below 0.
    judge(
        gain,
        at_most=0.05,
        meaning="the largest ARI with subjects within depth 0 to 0.5, less that without shots",
    )
