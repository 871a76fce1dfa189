"""What a training does when: passes, the order of the questions, learning rates, checkpoints."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SettingsError
from harness.finetuning.batches import batch_rows, passes
from harness.finetuning.schedule import checkpoint_steps, even_steps, learning_rate_factor
from harness.protocol import FineTuning, TrainingOptions, steps_an_epoch


@given(
    st.lists(st.integers(1, 40), min_size=4, max_size=40),
    st.integers(1, 100), st.integers(1, 9), st.integers(1, 4),
)  # fmt: skip
def test_every_example_is_in_one_pass_of_the_size_asked_for(
    lengths: list[int], budget: int, most: int, multiple: int
) -> None:
    groups = passes(lengths, budget, most, multiple)
    assert sorted(row for rows in groups for row in rows) == list(range(len(lengths)))
    assert len(groups) % multiple == 0 and all(groups)
    over = [
        rows
        for rows in groups
        if len(rows) > most
        or (len(rows) > 1 and max(lengths[row] for row in rows) * len(rows) > budget)
    ]
    assert len(over) < multiple  # none for one process


def test_an_epoch_takes_every_example_once_in_an_order_of_its_own() -> None:
    epochs = [
        [row for step in range(4 * epoch, 4 * epoch + 4) for row in batch_rows(step, 50, 16, 1)]
        for epoch in range(2)
    ]
    assert steps_an_epoch(50, 16) == 4
    assert [sorted(epoch) for epoch in epochs] == [list(range(50))] * 2
    assert epochs[0] != epochs[1] and epochs[0] != list(range(50))


def test_the_learning_rate_by_hand() -> None:
    rates = [learning_rate_factor(step, 100, 0.1, 0.01) for step in (0, 5, 10, 55, 99)]
    middle = 0.01 + 0.99 / 2
    end = 0.01 + 0.99 / 2 * (1 + math.cos(math.pi * 89 / 90))
    assert rates == pytest.approx([0.01, 0.505, 1.0, middle, end])
    assert learning_rate_factor(0, 3, 0.0, 0.01) == 1.0


def test_checkpoints_are_spaced_in_their_logarithm() -> None:
    assert checkpoint_steps(1024, 10) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert checkpoint_steps(3, 10) == [1, 2]
    assert checkpoint_steps(100, 0) == []
    assert even_steps(100, 4) == [25, 50, 75, 100] and even_steps(2, 4) == [1, 2]


def test_settings_that_make_no_sense_are_refused() -> None:
    for bad in (
        {"epochs": 0},
        {"dropout": 1.0},
        {"learning_rate": 0.0},
        {"precision": "int8"},
        {"precision": "float16"},
        {"seed": -1},
    ):
        with pytest.raises(SettingsError, match=next(iter(bad))):
            FineTuning(**bad)  # type: ignore[arg-type]
    for never in ({"save_every": 0}, {"evaluations": -1}):
        with pytest.raises(SettingsError, match=next(iter(never))):
            TrainingOptions(**never)
