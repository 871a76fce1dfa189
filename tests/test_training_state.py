"""What a training is resumed from, also where FSDP has spread the model over processes."""

from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from fixtures.cases import TOY
from harness.finetuning.answer_model import AnswerModel, pad, with_lora
from harness.finetuning.training_state import (
    load_state,
    newest_state,
    put_back,
    save_state,
    tensors_of,
)
from harness.models import load_model
from harness.protocol import FineTuning

PROMPTS, ANSWERS = [[5, 6, 7, 8], [9, 10]], torch.tensor([11, 12])


def answering() -> AnswerModel:
    """The toy in bfloat16 with an adapter in float32, as it is trained."""
    model = load_model(str(TOY / "model"), "bfloat16", torch.device("cpu"))
    return AnswerModel(with_lora(model, FineTuning(rank=4, dropout=0.0)).get_base_model())


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, one) for name, one in model.named_parameters() if one.requires_grad]


def new_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([one for _, one in trained(model)], lr=3e-3)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(**pad(PROMPTS, torch.device("cpu"))).float()
    loss = F.cross_entropy(logits, ANSWERS)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


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


def in_one_of_two(rank: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    mesh = init_device_mesh("cpu", (2,))

    def spread() -> AnswerModel:
        model = answering()
        for block in model.model.model.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert all(isinstance(one, DTensor) for one in model.parameters())
        return model

    model = spread()
    optimizer = new_optimizer(model)
    losses = [step(model, optimizer) for _ in range(2)]
    state = tensors_of(trained(model), optimizer.state)
    resumed = spread()
    optimizer = new_optimizer(resumed)
    put_back(state, trained(resumed), optimizer.state)
    losses.append(step(resumed, optimizer))
    if rank == 0:
        torch.save({"losses": losses, "state": state}, folder / "found.pt")
    distributed.destroy_process_group()


def test_a_model_spread_by_fsdp_is_resumed_whole(tmp_path: Path) -> None:
    spawn(in_one_of_two, (tmp_path,), nprocs=2)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    model = answering()
    optimizer = new_optimizer(model)
    losses = [step(model, optimizer) for _ in range(2)]
    alone = tensors_of(trained(model), optimizer.state)
    losses.append(step(model, optimizer))
    torch.testing.assert_close(found["losses"], losses, rtol=1e-3, atol=1e-3)
    assert found["state"].keys() == alone.keys()
    for name, tensor in alone.items():
        assert found["state"][name].shape == tensor.shape
        torch.testing.assert_close(found["state"][name], tensor, rtol=0.05, atol=1e-3)
