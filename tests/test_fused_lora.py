"""LoRA layers that are computed at once, against PEFT's own and against their formula."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F

from harness.finetuning.answer_model import AnswerModel, pad, with_lora
from harness.finetuning.fused_lora import draw_mask, fuse_lora
from harness.protocol import FineTuning
from tests.test_finetuning import CPU, LEARNT, examples_of, toy


def test_fused_layers_compute_what_pefts_do() -> None:
    settings = FineTuning(rank=4, dropout=0.0)
    prompts = [list(example.tokens) for example in examples_of(LEARNT[:5])]

    def gradients(fused: bool, precision: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        adapted = with_lora(toy(precision), settings)
        torch.manual_seed(1)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        if fused:
            fuse_lora(adapted)
        answering = AnswerModel(adapted.get_base_model())
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = answering(**pad(prompts, CPU)).float()
        F.cross_entropy(
            logits, torch.tensor([e.answer for e in examples_of(LEARNT[:5])])
        ).backward()
        found = {n: p.grad for n, p in adapted.named_parameters() if p.grad is not None}
        assert all(grad.dtype == torch.float32 for grad in found.values())
        return logits.detach(), found

    truth, true_gradients = gradients(False, "float32")
    ours, our_gradients = gradients(True, "bfloat16")
    pefts, peft_gradients = gradients(False, "bfloat16")
    assert our_gradients.keys() == true_gradients.keys()
    # As near to float32 as PEFT's own layers in bfloat16 are.
    assert (ours - truth).norm() < 1.5 * (pefts - truth).norm()
    error, peft_error = (
        sum(float((some[name] - true).norm() ** 2) for name, true in true_gradients.items()) ** 0.5
        for some in (our_gradients, peft_gradients)
    )
    whole = sum(float(true.norm() ** 2) for true in true_gradients.values()) ** 0.5
    assert error < 1.5 * peft_error and peft_error < 0.1 * whole


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 0.01), (torch.float32, 1e-6)])
def test_the_fused_gradients_are_those_of_the_formula_with_the_same_mask(
    dtype: torch.dtype, most: float
) -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(48, 40)).to(dtype)
    config = LoraConfig(r=8, lora_alpha=12, lora_dropout=0.5, target_modules=["0"])
    adapted = get_peft_model(layer, config).train()
    fuse_lora(adapted)
    down, up = (p for name, p in adapted.named_parameters() if "lora" in name)
    torch.manual_seed(4)
    for parameter in (down, up):
        torch.nn.init.normal_(parameter, std=0.3)
    states = torch.randn(3, 20, 48).to(dtype).requires_grad_()
    torch.manual_seed(5)
    output = adapted(states)
    weighing = torch.randn_like(output)
    (output * weighing).sum().backward()

    torch.manual_seed(5)
    kept = (draw_mask(torch.Size((60, 48)), 0.5, dtype) != 0).view(3, 20, 48).double()
    exact = [one.detach().double().requires_grad_() for one in (states, down, up)]
    base = adapted.get_base_model()[0].base_layer
    wanted = exact[0] @ base.weight.detach().double().T + base.bias.detach().double()
    wanted = wanted + 12 / 8 * (exact[0] * kept / (1 - 0.5)) @ exact[1].T @ exact[2].T
    (wanted * weighing.double()).sum().backward()
    # The dtype's rounding; without the mask or the factor it is 0.3 or more.
    assert (output.double() - wanted).norm() < most * wanted.norm()
    for found, truth in zip((states, down, up), exact, strict=True):
        assert (found.grad.double() - truth.grad).norm() < most * truth.grad.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_masks_drop_what_they_should_and_dropout_is_unbiased(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    mask = draw_mask(torch.Size((1000, 333)), 0.1, dtype)
    assert mask.element_size() == dtype.itemsize
    assert set(mask.unique().tolist()) == {-1, 0}
    assert (mask == 0).float().mean() == pytest.approx(0.1, abs=0.003)
    assert not torch.equal(mask, draw_mask(torch.Size((1000, 333)), 0.1, dtype))
    torch.manual_seed(3)
    assert torch.equal(mask, draw_mask(torch.Size((1000, 333)), 0.1, dtype))
    layer = torch.nn.Sequential(torch.nn.Linear(64, 64)).to(dtype)
    adapted = get_peft_model(
        layer, LoraConfig(r=64, lora_alpha=64, lora_dropout=0.5, target_modules=["0"])
    )
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            parameter.data = torch.eye(64)
    fuse_lora(adapted)
    states = torch.ones(4000, 64, dtype=dtype)
    with torch.no_grad():
        dropped = adapted.train()(states).float() - adapted.eval()(states).float()
    # x + 2x or x + 0 against x + x: the mean is kept, each value changes by one.
    assert dropped.mean() == pytest.approx(0, abs=0.02)
    assert dropped.abs().mean() == pytest.approx(1, abs=0.02)
