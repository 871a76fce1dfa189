"""What users give that cannot be: every time one sentence, and nothing written.

`-m soak` tries ten thousand cases where the short mode tries some dozens.
"""

import math
import shutil
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from fixtures.cases import TOY
from harness.cli import commands
from harness.errors import GeometryError, UserError
from harness.landscape import CURVES
from harness.measurement import Labels, measure_layer
from harness.protocol import GeometrySettings, PromptFormat
from harness.questions.mmlu import COLUMNS, _question
from harness.questions.prompts import build_prompt
from harness.tokenizer import load_tokenizer
from tests.test_questions import rows, write_dataset
from tests.trying import in_both_modes, refused

MODEL, QUESTIONS = str(TOY / "model"), str(TOY / "questions")


# --- questions

ODD_TEXT = st.one_of(
    st.text(max_size=40),
    st.text(alphabet=string.whitespace + "\x00\x07\x1b\u200b\u202e", max_size=5),
    st.sampled_from(["", "<|endoftext|>", "Ω≈ç√∫", "中文问题", "עברית", "A" * 5000, "{}", "%s"]),
)
CELL = st.one_of(ODD_TEXT, st.none(), st.integers(), st.booleans(), st.floats())
ROW = st.fixed_dictionaries(
    {
        "question": st.one_of(ODD_TEXT, CELL),
        "subject": st.one_of(ODD_TEXT, CELL),
        "choices": st.one_of(
            st.lists(ODD_TEXT, min_size=4, max_size=4), st.lists(CELL, max_size=6), CELL
        ),
        "answer": st.one_of(st.integers(0, 3), CELL),
    }
)


@in_both_modes(200)
@given(row=ROW)
def test_a_row_is_a_question_or_is_named(row: dict[str, Any]) -> None:
    try:
        question = _question("folder", "test", 7, row)
    except UserError as error:
        message = str(error)
        assert message.startswith("folder: split 'test', row 7: '") and "\n" not in message
        assert any(repr(column) in message for column in COLUMNS) and "mend or drop" in message
        return
    assert row["question"].strip() and row["subject"].strip() and row["answer"] in range(4)
    prompt = build_prompt(question, [question], PromptFormat(1))
    assert prompt.endswith("Answer:") and question.text.strip() in prompt
    tokens = _TOKENIZER(prompt)["input_ids"]
    assert tokens and tokens == _TOKENIZER(prompt)["input_ids"]


_TOKENIZER = load_tokenizer(MODEL)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"question": ["q0", " \n"]}, "row 1: 'question' is empty"),
        ({"choices": [["1", "2", "3"]] * 2}, "row 0: 'choices' must be 4 texts"),
        ({"choices": [["1", "2", "3", "4", "5"]] * 2}, "row 0: 'choices' must be 4 texts"),
        ({"choices": ["abcd"] * 2}, "row 0: 'choices' must be 4 texts"),
        ({"answer": [0, 4]}, "row 1: 'answer' is 4, not 0 to 3"),
        ({"subject": ["s", ""]}, "row 1: 'subject' is empty"),
    ],
)
@pytest.mark.parametrize("command", ["extract", "measure", "finetune"])
def test_a_command_refuses_a_bad_row_and_writes_nothing(
    tmp_path: Path, changed: dict[str, list[object]], message: str, command: str
) -> None:
    folder = write_dataset(tmp_path / "data", rows(**changed))
    given = [command, "--model", MODEL, "--mmlu", folder, "--store", str(tmp_path / "store")]
    if command == "finetune":
        given += ["--train-from-test", "1"]
    refused(given, f"{folder}: split 'test', {message}", tmp_path)


def test_subjects_without_shots_are_named(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", rows())
    write_dataset(tmp_path / "dev", rows(subject=["t", "t"]), "dev")
    shutil.copy(tmp_path / "dev" / "all" / "dev-0.parquet", tmp_path / "data" / "all")
    (tmp_path / "data" / "README.md").write_text(
        "---\nconfigs:\n- config_name: all\n  data_files:\n"
        "  - split: test\n    path: all/test-*\n  - split: dev\n    path: all/dev-*\n---\n"
    )
    given = ["measure", "--model", MODEL, "--mmlu", folder, "--shots", "1"]
    given += ["--store", str(tmp_path / "store")]
    refused(given, "split 'dev' has 0 questions of subject 's'", tmp_path)


# --- representations

SMALL = GeometrySettings(neighbors=20, id_k=2, density_k=4, draws=0)


@in_both_modes(60)
@given(
    count=st.integers(0, 30),
    width=st.integers(1, 5),
    seed=st.integers(0, 99),
    spoilt=st.lists(
        st.sampled_from(["nan", "inf", "-inf", "same", "huge", "tiny", "copies", "line"]),
        max_size=2,
    ),
)
@pytest.mark.filterwarnings("error")
def test_points_are_measured_or_refused(
    count: int, width: int, seed: int, spoilt: list[str]
) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, width))
    for what in spoilt:
        place = rng.integers(count) if count else 0
        if what in ("nan", "inf", "-inf"):
            points[place : place + 1] = float(what)
        elif what == "same":
            points[:] = 1.0
        elif what in ("huge", "tiny"):
            with np.errstate(over="ignore"):  # twice as huge is infinite
                points *= 1e300 if what == "huge" else 1e-300
        elif what == "copies":
            points[place:] = points[place : place + 1]
        else:
            points[:] = points[:, :1]
    letters = list("ABCD" * 8)[:count]
    labels = Labels([f"s{row % 3}" for row in range(count)], letters, given=letters)
    try:
        values = measure_layer(points, labels, SMALL).values
    except GeometryError as error:
        assert len(str(error).splitlines()) == 1
        assert spoilt or count < 6  # Gride at 2 and 4 neighbours
        return
    assert set(values) == set(CURVES)
    known = {name: value for name, value in values.items() if not name.startswith("kindred")}
    assert all(map(math.isfinite, known.values())), known
    assert np.isfinite(points).all()
    assert 0 <= known["core_fraction"] <= 1 and 1 <= known["density_peaks"] <= count


# --- options


@in_both_modes(40, 400)
@given(
    options=st.lists(
        st.tuples(
            st.sampled_from(
                ["--shots", "--shot-order", "--seed", "--site", "--reduction", "--max-length",
                 "--layer-interval", "--precision", "--token-budget", "--per-subject", "--split",
                 "--train-from-test", "--cache-budget", "--condition", "--adapter"]
            ),
            st.one_of(st.text(max_size=8), st.integers(-3, 3).map(str), st.just("1e9")),
        ),
        min_size=1,
        max_size=4,
    ),
    command=st.sampled_from(["extract", "measure", "finetune", "submit"]),
)  # fmt: skip
def test_options_of_any_text_are_refused_in_a_sentence(
    options: list[tuple[str, str]], command: str, tmp_path: Path
) -> None:
    # The model is not there, so whatever else is right, something is wrong.
    given = [command, "--model", str(tmp_path / "nowhere"), "--store", str(tmp_path / "store")]
    given += [part for option in options for part in option]
    done = CliRunner().invoke(commands, given, standalone_mode=False)
    assert done.exception is not None
    assert type(done.exception).__module__.startswith(("click", "harness.errors")), done.exception
    assert not list(tmp_path.iterdir())
