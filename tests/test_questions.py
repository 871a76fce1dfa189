"""Questions of MMLU's layout, of the toy world, and what is wrong with others."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest

from fixtures.cases import TOY
from fixtures.toy_model import write_questions
from harness.errors import DatasetError, SettingsError
from harness.pipeline import Experiment
from harness.protocol import PromptFormat, Subset
from harness.provenance import origin
from harness.questions.mmlu import load_questions
from harness.questions.question import QuestionSet
from harness.questions.toy import SUBJECTS, toy_world, training_documents
from harness.store import Store

QUESTIONS = str(TOY / "questions")


def write_dataset(folder: Path, columns: dict[str, list[object]], split: str = "test") -> str:
    (folder / "all").mkdir(parents=True)
    datasets.Dataset.from_dict(columns).to_parquet(folder / "all" / f"{split}-0.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: all\n  data_files:\n"
        f"  - split: {split}\n    path: all/{split}-*.parquet\n---\n"
    )
    return str(folder)


def rows(**changed: list[object]) -> dict[str, list[object]]:
    whole: dict[str, list[object]] = {
        "question": ["q0", "q1"],
        "subject": ["s", "s"],
        "choices": [["1", "2", "3", "4"]] * 2,
        "answer": [0, 3],
    }
    return whole | changed


def test_per_subject_draws_so_many_of_every_subject_and_always_the_same() -> None:
    drawn = load_questions(QUESTIONS, Subset(per_subject=7), 5)
    counts = Counter(question.subject for question in drawn.questions)
    assert set(counts.values()) == {7} and set(counts) == set(SUBJECTS)
    assert drawn == load_questions(QUESTIONS, Subset(per_subject=7), 5)
    other = load_questions(QUESTIONS, Subset(per_subject=7, seed=1), 5)
    assert other.fingerprint != drawn.fingerprint


def test_a_subset_keeps_the_rows_of_the_whole() -> None:
    whole = {
        question.row: question for question in load_questions(QUESTIONS, Subset(), 0).questions
    }
    part = load_questions(QUESTIONS, Subset(per_subject=3), 0).questions
    assert all(whole[question.row] == question for question in part)


def test_the_papers_subset_has_its_published_size() -> None:
    mask = np.unpackbits(np.load("harness/questions/mmlu_subset.npy"), count=14042)
    assert mask.sum() == 9181


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (rows(answer=[0, 4]), "row 1: 'answer' is 4"),
        (rows(choices=[["1", "2", "3", "4"], ["1", "2", "3"]]), "row 1: 'choices' must be 4"),
        ({key: value for key, value in rows().items() if key != "subject"}, "no column 'subject'"),
    ],
)
def test_a_bad_row_or_column_is_named(
    tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        load_questions(write_dataset(tmp_path / "d", columns), Subset(), 0)


def test_the_papers_limit_is_not_that_of_given_rows(tmp_path: Path) -> None:
    many = {"question": [f"q{row}" for row in range(230)]}
    many |= {name: [values[0]] * 230 for name, values in rows().items() if name != "question"}
    dataset, mask = write_dataset(tmp_path / "d", many), str(tmp_path / "mask.npy")
    np.save(mask, np.arange(5, 230))
    asked = [Subset(), Subset(rows=mask), Subset(rows=mask, per_subject=210)]
    counts = [len(load_questions(dataset, subset, 0).questions) for subset in asked]
    assert counts == [200, 225, 210]
    told = origin("model", load_questions(dataset, asked[1], 0), False, [asked[1]], None)
    assert told["Subset"]["rows"] == "mask.npy" and str(tmp_path) not in str(told)


def test_a_missing_split_and_too_many_shots_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot read split 'dev'"):
        load_questions(write_dataset(tmp_path / "d", rows()), Subset(), 1)
    with pytest.raises(DatasetError, match="6 shots asked for, but split 'dev' has 5"):
        load_questions(QUESTIONS, Subset(), 6)
    np.save(tmp_path / "none.npy", np.array([], dtype=int))
    with pytest.raises(DatasetError, match="no question left to ask; give another split, or other"):
        load_questions(QUESTIONS, Subset(rows=str(tmp_path / "none.npy")), 0)
    with pytest.raises(SettingsError, match="per-subject is 0"):
        Subset(per_subject=0)


def test_toy_answers_are_the_facts_and_letters_are_balanced() -> None:
    world = toy_world()
    for split in ("test", "dev", "validation"):
        questions = world.questions(split)
        for question in questions:
            words = re.findall(r"\w+", question.text)
            (entity,) = world.facts[question.subject].keys() & words
            assert question.choices[question.answer] == world.facts[question.subject][entity]
            assert len(set(question.choices)) == 4
    letters = Counter(question.letter for question in world.questions("test"))
    assert set(letters.values()) == {len(world.questions("test")) // 4}


def test_toy_splits_and_training_documents_share_no_question() -> None:
    world = toy_world()
    texts = [
        {(question.subject, question.text) for question in world.questions(split)}
        for split in ("test", "dev", "validation")
    ]
    assert len(set.union(*texts)) == sum(map(len, texts))
    documents = training_documents(world, 1, 6, {"notes": 1, "letter": 1, "words": 1, "both": 1})
    read = "".join(next(documents) for _ in range(3000))
    assert not [text for _, text in set.union(*texts) if text in read]


def test_the_toy_folder_is_what_the_world_makes(tmp_path: Path) -> None:
    write_questions(toy_world(), tmp_path)
    made = load_questions(str(tmp_path), Subset(), 5)
    assert made.shots_fingerprint == load_questions(QUESTIONS, Subset(), 5).shots_fingerprint


def test_other_shots_make_other_prompts_only_where_shots_are_asked(tmp_path: Path) -> None:
    drawn = load_questions(QUESTIONS, Subset(per_subject=2), 1)
    shots = {
        subject: [replace(shot, answer=3 - shot.answer) for shot in own]
        for subject, own in drawn.shots.items()
    }

    def keys(questions: QuestionSet) -> list[str]:
        experiment = Experiment(str(TOY / "model"), QUESTIONS, Store(tmp_path))
        experiment.__dict__["questions"] = questions
        return [experiment.extraction_key(PromptFormat(shots)) for shots in (0, 1)]

    (zero, one), (same, other) = keys(drawn), keys(replace(drawn, shots=shots))
    assert zero == same and one != other
