"""Shards: how the work is cut, and that a run that is killed or shared out makes the same bytes."""

import subprocess
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixtures.cases import TOY
from harness.errors import RecordError
from harness.extraction import extract, extract_into
from harness.extraction.prefix_tree import build_tree
from harness.extraction.shards import (
    Representations,
    plan_shards,
    read_layer,
    read_letter_logits,
    saved_layers,
    saved_shards,
)
from harness.models import load_model
from harness.processes import Processes
from harness.protocol import Budgets, ExtractionSettings
from harness.tokenizer import load_tokenizer
from tests.running import Command, launched
from tests.test_shared_prefixes import nodes_of

PROMPTS = [
    f"{'What is north? ' * (1 + n % 5)}{'amber flint'.split()[n % 2]} {n}" for n in range(40)
]
SMALL = Budgets(tokens=16, shard_tokens=24)
COMMAND = [
    "extract", "--model", str(TOY / "model"), "--mmlu", str(TOY / "questions"),
    "--precision", "float32", "--token-budget", "16", "--per-subject", "30",
]  # fmt: skip


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=30),
    st.integers(1, 60),
)
def test_every_prompt_is_in_one_shard_of_the_size_asked_for(
    prompts: list[list[int]], size: int
) -> None:
    plan = plan_shards(prompts, size)
    assert sorted(row for rows in plan for row in rows) == list(range(len(prompts)))
    for rows in plan:
        distinct = {tuple(prompts[r][:end]) for r in rows for end in range(1, len(prompts[r]) + 1)}
        # The first prompt of a shard is computed whole, whatever it shared with the one before.
        assert len(rows) == 1 or len(distinct) <= size + len(prompts[rows[0]])


def test_shards_are_cut_where_prompts_have_the_least_in_common() -> None:
    subjects = [[subject, 8, 8, 8, 8, 8, question] for subject in (1, 2) for question in range(3)]
    assert plan_shards(subjects, 12) == [[0, 1, 2], [3, 4, 5]]


@pytest.fixture(scope="module")
def toy():  # type: ignore[no-untyped-def]
    name = str(TOY / "model")
    return load_model(name, "float32", torch.device("cpu")), load_tokenizer(name)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in saved_shards(folder)}


def test_what_is_written_is_what_was_extracted(toy, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, tokenizer = toy
    extract_into(tmp_path, model, tokenizer, PROMPTS, ExtractionSettings(), SMALL)
    assert len(saved_shards(tmp_path)) > 3
    whole = extract(model, tokenizer, PROMPTS, ExtractionSettings())
    assert saved_layers(tmp_path) == sorted(whole.layers)
    for layer, states in whole.layers.items():
        torch.testing.assert_close(read_layer(tmp_path, layer), states, rtol=1e-4, atol=1e-5)
    logits = read_letter_logits(tmp_path)
    torch.testing.assert_close(logits, whole.letter_logits, rtol=1e-4, atol=1e-4)


def test_another_budget_leaves_no_shard_of_the_first(toy, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, tokenizer = toy
    extract_into(tmp_path, model, tokenizer, PROMPTS, ExtractionSettings(), SMALL)
    extract_into(tmp_path, model, tokenizer, PROMPTS, ExtractionSettings(), Budgets(tokens=64))
    assert len(read_layer(tmp_path, 1)) == len(PROMPTS)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_shard_of_a_stopped_run_is_computed_again(  # type: ignore[no-untyped-def]
    toy, tmp_path: Path, damage: str
) -> None:
    model, tokenizer = toy
    given = (tmp_path, model, tokenizer, PROMPTS, ExtractionSettings(), SMALL)
    extract_into(*given)
    whole, kept = bytes_of(tmp_path), {one: one.stat().st_ino for one in saved_shards(tmp_path)}
    shard = saved_shards(tmp_path)[1]
    content = bytearray(whole[shard.name])
    if damage == "flip":
        content[-5] ^= 16  # in the last of its numbers
    shard.write_bytes({"flip": content, "cut": content[:-5], "empty": b""}[damage])
    with pytest.warns(UserWarning, match=rf"{shard.name}: is not what was written"):
        extract_into(*given)
    assert bytes_of(tmp_path) == whole
    again = [one for one in saved_shards(tmp_path) if one.stat().st_ino != kept[one]]
    assert again == [shard]


def test_shards_that_lack_a_prompt_are_not_read(toy, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, tokenizer = toy
    extract_into(tmp_path, model, tokenizer, PROMPTS, ExtractionSettings(), SMALL)
    saved_shards(tmp_path)[0].unlink()
    with pytest.raises(RecordError, match="do not have every prompt once"):
        read_layer(tmp_path, 1)


def test_processes_fill_a_folder_together(toy, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, tokenizer = toy
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    extract_into(tmp_path / "one", model, tokenizer, PROMPTS, ExtractionSettings(), SMALL)
    for rank in (1, 0):
        parts = Processes(rank, 2)
        object.__setattr__(parts, "wait", lambda: None)  # one after the other, not side by side
        extract_into(
            tmp_path / "two", model, tokenizer, PROMPTS, ExtractionSettings(), SMALL, parts
        )
        if rank == 1:
            assert 0 < len(saved_shards(tmp_path / "two")) < len(saved_shards(tmp_path / "one"))
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")


def start(store: Path) -> Command:
    return Command("harness.cli", *COMMAND, "--store", str(store))


def finish(process: "Command | subprocess.Popen[str]") -> Path:
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return Path(out.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    # In an interpreter of its own: the others are copies of one process, with one order of sets.
    store = tmp_path_factory.mktemp("undisturbed")
    made = bytes_of(finish(launched("harness.cli", *COMMAND, "--store", str(store))))
    assert len(made) >= 10
    return made


def test_killed_and_started_again_it_repeats_one_shard_at_most(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    for least in (2, 5):  # killed twice
        process = start(tmp_path)
        folder = tmp_path / "representations"
        while len(list(folder.glob(".*.unfinished/shard-*"))) < least:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.kill()
        process.communicate()
    kept = {file.name: file.stat().st_ino for file in folder.glob(".*.unfinished/shard-*")}
    assert 5 <= len(kept) < len(undisturbed)
    entry = finish(start(tmp_path))
    assert bytes_of(entry) == undisturbed
    assert kept.items() <= {file.name: file.stat().st_ino for file in saved_shards(entry)}.items()


def test_two_processes_of_torchrun_make_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    process = launched(*launcher, "harness.cli", *COMMAND, "--store", str(tmp_path))
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert bytes_of(Path(out.strip())) == undisturbed  # one line: the main process's
    assert "(1 of 2)" in errors and "(2 of 2)" in errors


@contextmanager
def rows_counted(model: torch.nn.Module) -> Iterator[list[int]]:
    """Count the tokens that go through the model's first block."""
    seen: list[int] = []
    hook = model.model.layers[
        0
    ].register_forward_hook(  # type: ignore[union-attr,operator]
        lambda module, inputs, output: seen.append(inputs[0].shape[:2].numel())
    )
    yield seen
    hook.remove()


def test_no_shard_is_held_when_the_next_one_is_written(  # type: ignore[no-untyped-def]
    toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[weakref.ref[Representations]] = []
    save = Representations.save

    def watched(shard: Representations, file: Path) -> None:
        assert not any(ref() for ref in written)
        written.append(weakref.ref(shard))
        save(shard, file)

    monkeypatch.setattr(Representations, "save", watched)
    extract_into(tmp_path, *toy, PROMPTS, ExtractionSettings(), SMALL)
    assert len(written) > 5


def test_no_pass_is_larger_than_its_budget(toy) -> None:  # type: ignore[no-untyped-def]
    model, tokenizer = toy
    with rows_counted(model) as tokens:
        extract(model, tokenizer, PROMPTS, ExtractionSettings(), Budgets(tokens=64))
    assert max(tokens) <= 64
    ids = tokenizer(PROMPTS)["input_ids"]
    distinct = sum(len(node.tokens) for node in nodes_of(build_tree(ids)))
    # What is shared is computed once; before that, a few tokens try whether the model can.
    assert distinct <= sum(tokens) <= distinct + 32 < sum(map(len, ids))
    with rows_counted(model) as one_each:
        extract(model, tokenizer, PROMPTS, ExtractionSettings(), Budgets(prompts=1))
    assert len(one_each) > len(tokens) and max(one_each) <= max(
        len(ids) for ids in tokenizer(PROMPTS)["input_ids"]
    )
