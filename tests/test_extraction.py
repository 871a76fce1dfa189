"""Extraction against one whole forward pass a prompt, with transformers' own hidden states."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Olmo2Config,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from fixtures.cases import TOY
from harness.errors import ModelError
from harness.extraction import extract
from harness.extraction.cache_budget import cache_tokens
from harness.extraction.capture import blocks_of, capturing, site_modules
from harness.models import load_model
from harness.protocol import Budgets, ExtractionSettings
from harness.tokenizer import letter_tokens, load_tokenizer

PROMPTS = ["The north.\nAnswer:", "A. amber\nB. flint\nAnswer:", "Answer:", "What is it? " * 9]
TOKENIZER = load_tokenizer(str(TOY / "model"))
TINY = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def toy() -> PreTrainedModel:
    return load_model(str(TOY / "model"), "float32", torch.device("cpu"))


def whole_prompt(model: PreTrainedModel, prompt: str) -> dict[str, list[torch.Tensor]]:
    """Every site's (tokens, width) states, layer by layer, of one unpadded prompt."""
    ids = torch.tensor([TOKENIZER(prompt)["input_ids"]])
    with torch.inference_mode():
        out = model(input_ids=ids, output_hidden_states=True, use_cache=False)
    *blocks, final = out.hidden_states  # transformers: the inputs of the blocks, then final norm
    layers = model.model.layers
    norm1 = [layers[n].input_layernorm(blocks[n])[0] for n in range(1, len(layers))]
    return {
        "norm1": [*norm1, final[0]],
        "res2": [*(block[0] for block in blocks[1:]), None, final[0]],
        "logits": [out.logits[0]],
    }


@pytest.mark.parametrize("budget", [1, 60, 10000])
@pytest.mark.parametrize(
    ("site", "reduction"),
    [("norm1", "last"), ("norm1", "mean"), ("res2", "last"), ("res2", "mean"), ("logits", "last")],
)
def test_representations_are_those_of_whole_prompts(
    toy: PreTrainedModel, site: str, reduction: str, budget: int
) -> None:
    chosen = ExtractionSettings(site, reduction)
    found = extract(toy, TOKENIZER, PROMPTS, chosen, Budgets(tokens=budget))
    for row, prompt in enumerate(PROMPTS):
        expected = whole_prompt(toy, prompt)[site]
        assert len(expected) == len(found.layers)
        for layer, states in zip(sorted(found.layers), expected, strict=True):
            if states is None:  # the last block's output, which transformers does not hand out
                continue
            reduced = states[-1] if reduction == "last" else states.mean(dim=0)
            torch.testing.assert_close(found.layers[layer][row], reduced, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "sites"),
    [
        (OPTConfig(**TINY, ffn_dim=16, word_embed_proj_dim=8), ("norm1", "norm2", "res2")),
        (PhiConfig(**TINY, intermediate_size=16), ("norm1", "res2")),
        (Olmo2Config(**TINY, intermediate_size=16), ("res2",)),
    ],
)
def test_a_site_is_where_it_is_said_to_be_or_refused(
    config: PreTrainedConfig, sites: tuple[str, ...]
) -> None:
    model = AutoModelForCausalLM.from_config(config).eval()
    block = blocks_of(model)[1]
    into: dict[str, torch.Tensor] = {}

    def note(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, given: tuple[torch.Tensor, ...], more: dict[str, Any]) -> None:
            into[name] = (given or (more["hidden_states"],))[0].flatten(0, -2)

        module.register_forward_pre_hook(hook, with_kwargs=True)

    note("norm1", block.self_attn)
    note("norm2", block.mlp if hasattr(block, "mlp") else block.fc1)
    for site in ("norm1", "norm2", "res2"):
        if site not in sites:
            with pytest.raises(ModelError):
                site_modules(model, site)
            continue
        taken: dict[int, torch.Tensor] = {}
        with torch.no_grad(), capturing(site_modules(model, site), taken.__setitem__):
            states = model(torch.arange(5)[None], output_hidden_states=True).hidden_states
        wanted = states[2][0] if site == "res2" else into[site]
        torch.testing.assert_close(taken[1].flatten(0, -2), wanted)


def test_the_last_block_computes_its_mlp_for_kept_tokens_only(toy: PreTrainedModel) -> None:
    rows: list[list[int]] = [[], []]  # through the first block's MLP and through the last one's
    layers = toy.model.layers
    handles = [
        layers[block].mlp.down_proj.register_forward_pre_hook(
            lambda module, inputs, block=block: rows[block].append(inputs[0].shape[-2])
        )
        for block in (0, -1)
    ]
    found = extract(toy, TOKENIZER, PROMPTS, ExtractionSettings("res2"))
    for handle in handles:
        handle.remove()
    assert sum(rows[-1]) < sum(rows[0])
    expected = [whole_prompt(toy, prompt)["res2"][-1][-1] for prompt in PROMPTS]
    torch.testing.assert_close(
        found.layers[len(layers)], torch.stack(expected), rtol=1e-4, atol=1e-4
    )
    assert "forward" not in vars(layers[-1].mlp)


def test_the_cache_takes_a_quarter_of_a_device_and_leaves_the_weights_their_room(
    toy: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sum(one.numel() * 4 for one in toy.parameters())
    token = 2 * 4 * 8 * 2 * 32  # keys and values of 8 layers, 2 heads of 32 float32 numbers
    for memory, tokens in (
        (weights + 20 * token, 10),
        (16 * weights, 4 * weights // token),
        (10**15, 65536),
        (weights, 1),
    ):
        monkeypatch.setattr("harness.extraction.cache_budget.memory", lambda _, m=memory: m)
        assert cache_tokens(toy) == tokens


def test_norm2_is_the_norm_of_the_residual_after_attention(toy: PreTrainedModel) -> None:
    found = extract(toy, TOKENIZER, PROMPTS, ExtractionSettings("norm2"))
    block = toy.model.layers[2]
    seen: list[torch.Tensor] = []
    handle = block.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        toy(input_ids=torch.tensor([TOKENIZER(PROMPTS[0])["input_ids"]]))
    handle.remove()
    torch.testing.assert_close(found.layers[2][0], seen[0][0, -1], rtol=1e-4, atol=1e-4)


def test_layers_letters_interval_and_length(toy: PreTrainedModel) -> None:
    blocks = toy.config.num_hidden_layers
    found = extract(toy, TOKENIZER, PROMPTS, ExtractionSettings(layer_interval=3))
    assert sorted(found.layers) == [*range(3, blocks, 3), blocks]
    logits = whole_prompt(toy, PROMPTS[1])["logits"][0][-1]
    torch.testing.assert_close(
        found.letter_logits[1], logits[letter_tokens(TOKENIZER)], rtol=1e-4, atol=1e-4
    )
    cut = extract(toy, TOKENIZER, [PROMPTS[3]], ExtractionSettings(max_length=4))
    tail = TOKENIZER.decode(TOKENIZER(PROMPTS[3])["input_ids"][-4:])
    alone = extract(toy, TOKENIZER, [tail], ExtractionSettings())
    torch.testing.assert_close(cut.layers[blocks], alone.layers[blocks], rtol=1e-4, atol=1e-4)


def test_another_architecture() -> None:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config).eval()
    found = extract(model, TOKENIZER, PROMPTS, ExtractionSettings())
    ids = torch.tensor([TOKENIZER(PROMPTS[0])["input_ids"]])
    with torch.inference_mode():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
        expected = model.gpt_neox.layers[1].input_layernorm(states[1])[0, -1]
    torch.testing.assert_close(found.layers[1][0], expected, rtol=1e-4, atol=1e-4)


def test_a_missing_model_is_named() -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        load_model("./nowhere", "float32", torch.device("cpu"))
