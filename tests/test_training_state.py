"""What a training is resumed from; how it is, also by FSDP, test_finetune_command.py asks."""

from pathlib import Path

import pytest
import torch

from harness.finetuning.training_state import load_state, newest_state, save_state


def test_a_state_is_read_as_it_was_written_and_replaces_the_older(tmp_path: Path) -> None:
    assert newest_state(tmp_path) == 0
    for steps in (2, 10):
        save_state(tmp_path, steps, {"weight.a": torch.full((2,), float(steps))}, {"loss": [steps]})
    assert [state.name for state in tmp_path.iterdir()] == [".state-000010"]
    (tmp_path / ".unfinished").mkdir()  # of a run that was killed while it wrote
    assert newest_state(tmp_path) == 10
    tensors, told = load_state(tmp_path, 10)
    assert (tensors["weight.a"].tolist(), told) == ([10.0, 10.0], {"loss": [10]})


@pytest.mark.parametrize("name", ["tensors.safetensors", "progress.json", "../step-000002/a"])
def test_a_damaged_state_or_checkpoint_is_not_gone_on_from(tmp_path: Path, name: str) -> None:
    checkpoint, later = tmp_path / "step-000002", tmp_path / "step-000008"
    for folder in (checkpoint, later):
        folder.mkdir()
        (folder / "a").write_text("weights")
    save_state(tmp_path, 4, {"weight.a": torch.ones(2)}, {"loss": [4]}, [checkpoint])
    (later / "a").write_text("others")  # written again after the state: none of its own
    assert newest_state(tmp_path) == 4
    file = tmp_path / ".state-000004" / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=f"state-000004: {name} is not what was written"):
        assert newest_state(tmp_path) == 0
