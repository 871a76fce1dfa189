"""What users give that cannot be: every time one sentence, and nothing written.

`-m soak` tries ten thousand cases where the short mode tries some dozens.
"""

import inspect
import json
import math
import random
import re
import shutil
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.cases import TOY
from harness.cli import commands
from harness.errors import GeometryError, RecordError, UserError
from harness.landscape import CURVES, Draw, Landscape, Tree
from harness.measurement import Labels, measure_layer
from harness.models import letter_tokens, load_tokenizer
from harness.protocol import GeometrySettings, PromptFormat
from harness.questions.mmlu import COLUMNS, _question
from harness.questions.prompts import build_prompt
from reports.run import Run, read_run
from reports.view import Report
from tests.test_questions import rows, write_dataset

MODEL, QUESTIONS = str(TOY / "model"), str(TOY / "questions")


def in_both_modes(few: int, many: int = 10_000) -> Callable[..., Any]:
    """Run a property on few cases, and on many with `-m soak`."""

    def modes(test: Callable[..., None]) -> Callable[..., None]:
        quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

        @pytest.mark.parametrize(
            "cases", [few, pytest.param(many, marks=pytest.mark.soak)], ids=["short", "long"]
        )
        def run(cases: int, tmp_path: Path) -> None:
            # The short mode tries the same cases every time.
            plain = settings(
                max_examples=cases,
                deadline=None,
                suppress_health_check=quiet,
                derandomize=cases == few,
            )
            wants_folder = "tmp_path" in inspect.signature(test).parameters
            plain(test)(**({"tmp_path": tmp_path} if wants_folder else {}))

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        run.pytestmark += getattr(test, "pytestmark", [])  # type: ignore[attr-defined]
        return run

    return modes


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


def refused(given: list[str], message: str, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    if given[0] == "measure":
        given = [*given, "--out", str(folder / "landscape.json")]
    done = CliRunner().invoke(commands, given)
    assert isinstance(done.exception, UserError | SystemExit), done.exception
    text = str(done.exception) if isinstance(done.exception, UserError) else done.output
    assert message in text and len(text.strip().splitlines()) == 1, text
    left = [path for path in folder.rglob("*") if path.is_file() and path not in before]
    assert not [path for path in left if path.suffix != ".lock"], left


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
            points *= 1e300 if what == "huge" else 1e-300
        elif what == "copies":
            points[place:] = points[place : place + 1]
        else:
            points[:] = points[:, :1]
    labels = Labels([f"s{row % 3}" for row in range(count)], list("ABCD" * 8)[:count])
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


# --- records

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 5), st.integers(10**20, 10**25), st.floats(),
        st.text(max_size=6), st.sampled_from(["0-shot", "x-shot", "../..", "<b>", "toy"]),
    ),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=4), one, max_size=3),
    max_leaves=4,
)  # fmt: skip


def a_record() -> dict[str, Any]:
    curves = dict.fromkeys(CURVES, (0.5, 0.25))
    tree = Tree(1, ((0.0, 1.0, 0.5, 2.0),), ("a", "b"), (1.0, 0.5))
    landscapes = [
        Landscape(
            "m",
            name,
            (1, 2),
            curves,
            2,
            0.5,
            {"cost": {"device": "cpu"}},
            (Draw(curves),) * 2,
            tree=tree,
        )
        for name in ("0-shot", "5-shot", "fine-tuned")
    ]
    found = {"name": "embeddings", "verdict": "reproduced", "effect": 0.5, "interval": [0.1, None]}
    claim = {
        "claim": "c", "model": "m", "verdict": "reproduced", "effect": 0.5, "interval": [0.1, 0.9],
        "threshold": 0.1, "direction": "at least", "conditions": ["0-shot"], "layers": "all",
        "sentence": "It is.", "section": "1", "exception": None, "seconds": 0.1, "source": "us",
        "controls": [found], "variations": [found], "specificity": None,
    }  # fmt: skip
    skipped = {name: "x" for name in ("claim", "model", "sentence", "section", "source", "reason")}
    settings = {"command": "pytest", "device": "cpu", "not_measured": ["x"]}
    return {
        "record": 2,
        "environment": {"settings": settings, "versions": {"torch": "2"}},
        "claims": [claim],
        "skipped": [skipped],
        "landscapes": [json.loads(one.to_json()) for one in landscapes],
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of everything in a JSON value."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(one for key, part in inner for one in places(part, (*path, key)))]


@in_both_modes(150)
@given(place=st.integers(0, 10**6), how=st.sampled_from(["put", "drop", "add"]), value=JSON)
def test_a_record_is_read_and_shown_or_refused(
    place: int, how: str, value: Any, tmp_path: Path
) -> None:
    record: Any = a_record()
    paths = places(record)
    *way, last = paths[place % (len(paths) - 1) + 1]
    parent = record
    for key in way:
        parent = parent[key]
    if how == "put":
        parent[last] = value
    elif how == "drop":
        del parent[last]
    elif isinstance(parent, dict):
        parent["another"] = value
    else:
        parent.append(value)
    file = tmp_path / "record.json"
    file.write_text(json.dumps(record))
    try:
        run = read_run(file)
    except RecordError as error:
        assert str(error).startswith(str(tmp_path)) and "\n" not in str(error)
        return
    report = Report([run])
    for template in (
        "verdicts.html",
        "published.html",
        "measured.html",
        "settings.html",
        "report.md",
    ):
        shown = report.show(template)
        assert "<b>" not in re.sub(r"<b>[✓✗?mtx.\w -]", "", shown) or template == "report.md"
    for kind in ("controls", "variations"):
        report.show("beside.html", kind=kind)


def test_a_record_that_was_cut_anywhere_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    Run(
        a_record()["environment"], [], [], [Landscape.from_table(a_record()["landscapes"][0], "x")]
    ).write_record(file)
    whole = file.read_bytes()
    for place in random.Random(0).sample(range(len(whole) - 2), 40):
        file.write_bytes(whole[:place])
        with pytest.raises(RecordError, match="is not JSON"):
            read_run(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="cannot be read"):
        read_run(file)


# --- models


def broken(folder: Path, change: Callable[[Path], None]) -> str:
    shutil.copytree(MODEL, folder)
    change(folder)
    return str(folder)


def configured(**changed: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))

    return change


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None  # type: ignore[func-returns-value]


def cut(name: str, share: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return change


def without_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.3.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "config.json").unlink(),
        written("config.json", b""),
        written("config.json", b"[]"),
        written("config.json", b"{}"),
        written("config.json", b"\xff\xfe"),
        configured(model_type="unheard-of"),
        configured(hidden_size="wide"),
        configured(hidden_size=100),
        configured(num_attention_heads=0),
        configured(vocab_size=7),
        lambda folder: (folder / "model.safetensors").unlink(),
        cut("model.safetensors", 0.5),
        cut("model.safetensors", 0.0),
        written("model.safetensors", b"\x00" * 100),
        without_a_tensor,
        lambda folder: (folder / "tokenizer.json").unlink(),
        cut("tokenizer.json", 0.5),
        written("tokenizer.json", b"{}"),
        written("tokenizer_config.json", b"["),
    ],
)
def test_a_model_that_is_not_whole_is_refused(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    model = broken(tmp_path / "model", change)
    given = ["measure", "--model", model, "--mmlu", QUESTIONS, "--per-subject", "3"]
    refused([*given, "--store", str(tmp_path / "store")], f"{model}: ", tmp_path)


def test_prompts_that_do_not_fit_are_refused_unless_they_may_be_cut(tmp_path: Path) -> None:
    model = broken(tmp_path / "model", configured(max_position_embeddings=20))
    given = ["measure", "--model", model, "--mmlu", QUESTIONS, "--per-subject", "3"]
    given += ["--store", str(tmp_path / "store")]
    refused(given, f"{model}: takes 20 tokens, and prompt 0 has", tmp_path)
    done = CliRunner().invoke(
        commands, [*given, "--max-length", "20", "--out", str(tmp_path / "landscape.json")]
    )
    assert done.exit_code == 0, done.output


class Letters:
    """A tokenizer that gives `Answer: X` the tokens that it is told."""

    name_or_path = "theirs"

    def __init__(self, **tokens: list[int]) -> None:
        self.tokens = tokens

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        letter = text.removeprefix("Answer:").strip()
        return [1, *self.tokens.get(letter, [ord(letter)])] if letter else [1]


def test_a_tokenizer_without_a_token_for_a_letter_is_named() -> None:
    assert letter_tokens(Letters()) == [65, 66, 67, 68]
    for odd in (Letters(C=[5, 6]), Letters(C=[]), Letters(C=[65])):
        with pytest.raises(UserError, match=r"theirs: the tokenizer has no token .* for 'C'"):
            letter_tokens(odd)


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
