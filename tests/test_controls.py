"""Null controls and the robustness grid: what they change, what they leave, and what they say."""

import gc
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from claims.scope import need
from fixtures.cases import TOY, cases_of
from fixtures.conditions import Asked, ConditionSet
from fixtures.contrast import Contrast
from fixtures.measured import Measured
from fixtures.request import Request
from harness.controlled import control_landscapes
from harness.controls import null_controls
from harness.errors import DatasetError, ModelError, SettingsError
from harness.extraction.shards import read_layer
from harness.landscape import Draw, Landscape
from harness.models import load_model
from harness.pipeline import Experiment
from harness.protocol import Control, ExtractionSettings, GeometrySettings, PromptFormat, Subset
from harness.questions.deal_shots import deal_shots
from harness.questions.mmlu import load_questions
from harness.robustness import GRID, varied_landscapes
from harness.store import Store
from harness.tokenizer import load_tokenizer
from reports.reading import read_run
from reports.run import Run
from reports.verdict import Direction, Outcome, Verdict


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return Experiment(
        str(TOY / "model"),
        str(TOY / "questions"),
        Store(tmp_path_factory.mktemp("store")),
        Subset(per_subject=16),
        ExtractionSettings(precision="float32"),
        GeometrySettings(id_k=4, density_k=6, draws=2),
        most_shots=2,
    )


def test_shots_are_dealt_as_the_control_says() -> None:
    asked = load_questions(str(TOY / "questions"), Subset(per_subject=6), 5)
    own, other, mixed = (
        deal_shots(asked, Control(shots=shots)) for shots in ("own", "other", "mixed")
    )
    pairs = set()
    for question in asked.questions:
        assert list(own[question.row]) == list(asked.shots[question.subject])
        (subject,) = {shot.subject for shot in other[question.row]}
        assert subject != question.subject
        assert list(other[question.row]) == list(asked.shots[subject])
        pairs.add((question.subject, subject))
        assert len(set(mixed[question.row])) == 5
    # Were every subject given one other's shots, the two would make the same groups.
    assert len(pairs) > 3 * len(asked.subjects)
    assert len({shot.subject for row in mixed.values() for shot in row}) == len(asked.subjects)
    assert deal_shots(asked, Control(shots="mixed", seed=1)) != mixed
    lone = replace(asked, shots={"one": asked.shots[asked.subjects[0]]})
    with pytest.raises(DatasetError, match="has one subject only"):
        deal_shots(lone, Control(shots="other"))


def test_mean_embeddings_are_those_of_a_plain_loop(experiment: Experiment) -> None:
    under = replace(experiment, control=Control("none"))
    found = read_layer(under.representations(PromptFormat(2)), 0)
    table = load_model(experiment.model, "float32", torch.device("cpu")).get_input_embeddings()
    tokenizer = load_tokenizer(experiment.model)
    for row, prompt in enumerate(under.prompts(PromptFormat(2))):
        rows = [table.weight[token] for token in tokenizer(prompt)["input_ids"]]
        torch.testing.assert_close(found[row], sum(rows) / len(rows), rtol=1e-5, atol=1e-6)


def test_without_a_network_nothing_is_answered(experiment: Experiment) -> None:
    with replace(experiment, control=Control("none", labels="shuffled")) as under:
        found = under.landscape(PromptFormat(2))
        assert found.accuracy is None and found.accuracy_interval is None
        assert [draw.accuracy for draw in found.draws] == [None, None]
        assert not found.has("ari_given") and found.has("ari_answers")
        with pytest.raises(SettingsError, match="without a network no question is answered"):
            under.accuracy(PromptFormat(2))


def test_an_accuracy_that_a_store_has_of_bare_embeddings_is_left_out(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = {"density_peaks": (3.0,)}
    kept = Landscape("m", "0-shot", (0,), curves, 2, 0.25, draws=(Draw(curves, 0.25),))
    own = {"0-shot": replace(kept, layer=(1, 2), curves={}, draws=())}
    monkeypatch.setattr(Experiment, "landscape", lambda *_: kept)
    found = control_landscapes("embeddings", Control("none"), experiment, (0,), own)["0-shot"]
    assert found.accuracy is None and found.draws[0].accuracy is None
    assert found.layer == (1, 2) and found.curves == {"density_peaks": (3.0, 3.0)}


def test_random_weights_come_from_their_seed_alone() -> None:
    def drawn(seed: int | None) -> torch.Tensor:
        model = load_model(str(TOY / "model"), "float32", torch.device("cpu"), random_seed=seed)
        return next(model.parameters()).detach()

    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, again, other, trained = drawn(0), drawn(0), drawn(1), drawn(None)
    assert torch.equal(one, again)
    assert not torch.equal(one, other) and not torch.equal(one, trained)
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_need_no_new_representations_and_weights_do(experiment: Experiment) -> None:
    def key(control: Control) -> Path:
        return replace(experiment, control=control).representations(PromptFormat(1))

    plain = key(Control())
    assert key(Control(labels="shuffled", seed=3)) == plain
    others = [key(Control("random")), key(Control("none")), key(Control(shots="other"))]
    assert len({plain, *others}) == 4
    assert key(Control(shots="other", labels="shots")) == others[2]


def test_controls_have_the_conditions_and_layers_of_the_experiment(experiment: Experiment) -> None:
    own = {
        prompt.condition: experiment.landscape(prompt)
        for prompt in (PromptFormat(0), PromptFormat(2))
    }

    def under(name: str) -> dict[str, Landscape]:
        control = null_controls(1)[name]
        found = control_landscapes(name, control, experiment, (0, 2), own)
        assert list(found) == ["0-shot", "2-shot"]
        assert all(one.layer == own["0-shot"].layer for one in found.values())
        assert {one.control for one in found.values()} == {name}
        return found

    nothing = under("embeddings")["2-shot"]
    assert nothing.accuracy is None and nothing.draws[0].accuracy is None
    assert len(set(nothing.curves["density_peaks"])) == 1
    shuffled = under("shuffled-labels")["2-shot"]
    assert all(abs(value) < 0.1 for value in shuffled.curves["ari_answers"])
    # What labels cannot change is the same, by which a claim about it leaves the control out.
    assert shuffled.curves["intrinsic_dimension"] == own["2-shot"].curves["intrinsic_dimension"]
    assert max(own["2-shot"].curves["ari_answers"]) > 0.2  # which shuffling has undone
    by_question, by_shots = under("other-shots"), under("other-shots-by-shots")
    assert by_question["0-shot"].curves == own["0-shot"].curves
    for name in ("density_peaks", "intrinsic_dimension"):
        assert by_question["2-shot"].curves[name] == by_shots["2-shot"].curves[name]
    assert by_question["2-shot"].curves["ari_subjects"] != by_shots["2-shot"].curves["ari_subjects"]


def verdict(word: str, *controls: tuple[str, str], direction: Direction = "at least") -> Verdict:
    found = tuple(Outcome(name, given, 0.0, None) for name, given in controls)  # type: ignore[arg-type]
    plain = ("claim", "model", word, 0.5, None, 0.2, direction, (), "", "", "", None, 0.0)
    return Verdict(*plain, controls=found)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "controls", "expected"),
    [
        ("reproduced", [], None),
        ("reproduced", [("mixed-shots", "reproduced")], None),
        ("reproduced", [("shuffled-labels", "not reproduced")], "inconclusive"),
        ("reproduced", [("shuffled-labels", "reproduced")], "not specific to learning"),
        (
            "reproduced",
            [("embeddings", "not reproduced"), ("shuffled-labels", "reproduced")],
            "not specific to learning",
        ),
        # Embeddings are trained, and the same in all layers: no support for a depth's contrast.
        ("reproduced", [("embeddings", "not reproduced")], "inconclusive"),
        ("reproduced", [("random-weights-0", "not reproduced")], "specific to learning"),
        (
            "reproduced",
            [("random-weights-0", "not reproduced"), ("other-shots", "reproduced")],
            "specific to learning",
        ),
        (
            "reproduced",
            [("random-weights-0", "not reproduced"), ("embeddings", "inconclusive")],
            "inconclusive",
        ),
        (
            "reproduced",
            [("embeddings", "not reproduced"), ("random-weights-1", "reproduced")],
            "not specific to learning",
        ),
        ("not reproduced", [("embeddings", "reproduced")], "not specific to learning"),
        ("not reproduced", [("embeddings", "not reproduced")], "inconclusive"),
        ("reproduced", [("embeddings", "inconclusive")], "inconclusive"),
    ],
)
def test_what_is_specific_to_learning(
    word: str, controls: list[tuple[str, str]], expected: str | None
) -> None:
    assert verdict(word, *controls).specificity == expected


def test_that_shuffled_labels_agree_with_nothing_says_nothing_of_a_claim_of_no_agreement() -> None:
    shuffled, random = ("shuffled-labels", "reproduced"), ("random-weights-0", "not reproduced")
    given = partial(verdict, "reproduced", direction="at most")
    assert given(shuffled).specificity is None
    assert given(shuffled, random).specificity == "specific to learning"
    assert verdict("reproduced", shuffled, random).specificity == "not specific to learning"


def test_a_share_of_what_shuffled_labels_agree_with_says_nothing() -> None:
    found = verdict("reproduced", ("random-weights-0", "not reproduced"))
    unknown = Outcome("shuffled-labels", "inconclusive", math.nan, None)
    assert replace(found, controls=(*found.controls, unknown)).specificity == "specific to learning"
    straddling = replace(unknown, effect=0.2)
    assert replace(found, controls=(*found.controls, straddling)).specificity == "inconclusive"


def test_a_variation_changes_one_thing_of_what_is_measured(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Experiment, PromptFormat]] = []

    def note(self: Experiment, prompt: PromptFormat) -> Landscape:
        asked.append((self, prompt))
        return Landscape("m", self.condition or prompt.condition, (1,), {}, 2)

    monkeypatch.setattr(Experiment, "landscape", note)
    tuned = replace(experiment, condition="fine-tuned")
    changes = {}
    for name in GRID:
        asked.clear()
        found = varied_landscapes(name, experiment, [0, 2], tuned)
        assert {one.variation for one in found.values()} == {name}
        assert list(found) == ["0-shot", "2-shot", "fine-tuned"]
        # The most shots first, so that prompts which do not fit cost nothing.
        assert [prompt.shots for _, prompt in asked] == [2, 0, 0] and asked[2][0].condition
        for varied, prompt in asked:
            parts = [
                (varied.geometry, experiment.geometry),
                (varied.subset, experiment.subset),
                (varied.extraction, experiment.extraction),
                (prompt, PromptFormat(prompt.shots)),
            ]
            ((new, old),) = [pair for pair in parts if pair[0] != pair[1]]
            (field,) = [one for one in vars(new) if vars(new)[one] != vars(old)[one]]
            changes.setdefault(name, (type(new), field, vars(new)[field]))
    assert changes["density PAk"] == (GeometrySettings, "density_k", None)
    assert len(set(changes.values())) == len(GRID)


def test_a_record_keeps_controls_variations_and_trees_apart(
    experiment: Experiment, tmp_path: Path
) -> None:
    own = experiment.landscape(PromptFormat(2))
    assert own.tree is not None and own.tree.layer in own.layer
    measured = Measured()
    for one in (own, replace(own, control="embeddings"), replace(own, variation="Z 0")):
        measured.add(one)
    settings = {"not_measured": [], "command": "", "device": "cpu"}
    environment = {"settings": settings, "versions": {}}
    Run(environment, [], [], list(measured)).write_record(tmp_path / "record.json")
    (read,) = Measured.by_model(read_run(tmp_path / "record.json").landscapes).values()
    assert read.own["2-shot"].to_json() == own.to_json()
    assert list(read.controls) == ["embeddings"] and list(read.variations) == ["Z 0"]


def models() -> int:
    """How many models are in memory."""
    gc.collect()
    return sum(issubclass(type(one), PreTrainedModel) for one in gc.get_objects())


def test_a_control_whose_prompts_are_too_long_is_left_out_with_the_reason(tmp_path: Path) -> None:
    model = shutil.copytree(TOY / "model", tmp_path / "short")
    questions = str(TOY / "questions")
    shots, subset = (0, 1, 5), Subset(per_subject=8)
    request = Request(
        str(model), questions, None, shots, subset, ExtractionSettings(), tmp_path / "store",
        controls={"mixed-shots": Control(shots="mixed")},
    )  # fmt: skip

    def longest(number: int = 5, **options: Control) -> int:
        asked = Experiment(str(model), questions, Store(tmp_path), subset, **options)
        tokenizer = load_tokenizer(str(model))
        return max(map(len, tokenizer(asked.prompts(PromptFormat(number)))["input_ids"]))

    mixed = request.controls["mixed-shots"]
    assert longest(control=mixed) > longest() >= longest(1, control=mixed)
    config = json.loads((model / "config.json").read_text())
    config["max_position_embeddings"] = longest()
    (model / "config.json").write_text(json.dumps(config))
    (case,) = cases_of(request)
    case.check()
    conditions = ["0-shot", "1-shot", "5-shot"]
    (obstacle,) = (part for part in case.to_compute() if part.obstacle)
    assert obstacle.name == "mixed-shots" and not obstacle.operations
    assert [part.name for part in case.to_compute()] == [*conditions, "mixed-shots"]
    assert f"takes {longest()} tokens" in obstacle.obstacle
    before = models()
    measured = case.measure()
    assert [*measured.own] == conditions and not measured.controls
    # Nothing was computed of a control whose longest prompts do not fit.
    assert len([*(tmp_path / "store" / "representations").glob("*/")]) == len(conditions)
    assert f"takes {longest()} tokens" in measured.failed["mixed-shots"]
    # The case is kept to the session's end, and the next one's model must have room.
    assert models() == before
    config["max_position_embeddings"] -= 1
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"short: takes {longest() - 1} tokens, and prompt"):
        cases_of(request)[0].check()  # before anything is measured
    (cut,) = cases_of(replace(request, extraction=ExtractionSettings(max_length=20)))
    cut.check()


def test_a_full_disk_ends_the_run_and_leaves_no_control_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(
        str(TOY / "model"), str(TOY / "questions"), None, (0,), Subset(per_subject=6),
        ExtractionSettings(), tmp_path / "store", controls={"embeddings": Control(weights="none")},
    )  # fmt: skip
    (case,) = cases_of(request)

    def full(*_: object) -> None:
        raise SettingsError("store: No space left on device")

    monkeypatch.setattr("fixtures.measuring.control_landscapes", full)
    with pytest.raises(SettingsError, match="No space left"):
        case.measure()


def test_an_experiment_that_asks_the_same_reads_its_questions_once(tmp_path: Path) -> None:
    one = Experiment(str(TOY / "model"), str(TOY / "questions"), Store(tmp_path), most_shots=1)
    asked = one.questions
    assert one.changed(control=Control(labels="shuffled")).questions is asked
    other = one.changed(subset=Subset(per_subject=2))
    assert other.subset.per_subject == 2 and len(other.questions.questions) < len(asked.questions)


def test_a_share_of_nothing_is_unknown_not_an_error() -> None:
    one = Landscape("m", "0-shot", (1,), {"ari_answers": (0.0,)}, 2)
    answers = "ari_answers"
    contrast = Contrast(lambda of: 1.0 / of.zero_shot.curve(answers).maximum, 0.5, "at least")
    found = contrast.outcome("Z 4", {"0-shot": one})
    assert math.isnan(found.effect) and found.verdict == "inconclusive"


def test_a_control_is_shown_where_it_touches_what_is_asked_though_the_effect_is_the_same() -> None:
    def conditions(peaks: float, core: float, accuracy: float = 0.5) -> dict[str, Landscape]:
        curves = {"density_peaks": (peaks,), "core_fraction": (core,), "kindred": (math.nan,)}
        return {"0-shot": Landscape("m", "0-shot", (1,), curves, 2, accuracy)}

    def found(statistic: Callable[[ConditionSet], float]) -> list[str]:
        contrast = Contrast(statistic, 0.5, "at least")
        asked: Asked = set()
        contrast.outcome("own", own, asked)
        others = {
            "peaks": conditions(2, 0.5),
            "core": conditions(1, 0.6),
            "answers": conditions(1, 0.5, 0.7),
            "same": conditions(1, 0.5),
            "measured elsewhere": conditions(1 + 1e-9, 0.5 - 1e-9),
        }
        return [one.name for one in contrast.outcomes(own, asked, others)]

    own = conditions(1, 0.5)
    # It has a limit, so its effect is the same with two peaks as with one.
    assert found(lambda of: min(1.0, of.zero_shot.curve("density_peaks").maximum)) == ["peaks"]
    assert found(lambda of: of.zero_shot.curve("core_fraction").mean) == ["core"]
    assert found(lambda of: of.zero_shot.known_accuracy) == ["answers"]
    assert found(lambda of: of.zero_shot.curve("kindred").maximum) == []
    # Where the model is not fine-tuned, what is left of such a claim may be as without a control.
    own["fine-tuned"] = replace(own["0-shot"], condition="fine-tuned")
    peaks = found(lambda of: sum(one.curve("density_peaks").maximum for one in of.all))
    assert peaks == ["peaks"]


def test_a_measured_model_is_not_let_off_a_claim_for_what_is_not_known_of_it() -> None:
    nothing = {"kindred": (math.nan, math.nan)}
    need(Landscape("measured", "5-shot", (1, 2), nothing, 2), "kindred")
    with pytest.raises(pytest.skip.Exception, match="needs the curve kindred"):
        need(Landscape("published:theirs", "5-shot", (1, 2), nothing, 2), "kindred")
    need(
        Landscape("published:theirs", "5-shot", (1, 2), {"kindred": (0.1, math.nan)}, 2), "kindred"
    )
