"""Shared prefixes against whole prompts: the tree, its walk, and what models make of them."""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from fixtures.cases import TOY
from harness.extraction import extract
from harness.extraction.arithmetic import distinct_tokens
from harness.extraction.prefix_tree import Node, build_tree, walk
from harness.extraction.runs_at_once import Lengths
from harness.extraction.shared_attention import PackedBatch, _window_bias, attention_and_lse
from harness.models import load_model
from harness.protocol import Budgets, ExtractionSettings
from harness.tokenizer import load_tokenizer

TOKENIZER = load_tokenizer(str(TOY / "model"))
# Few different tokens, so that random prompts begin alike.
PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


def nodes_of(roots: list[Node]) -> list[Node]:
    return [node for root in roots for node in [root, *nodes_of(root.children)]]


def test_prompts_may_be_nested_deeper_than_python_calls() -> None:
    deep = sys.getrecursionlimit() + 100
    prompts = [[7] * length for length in range(1, deep + 1)]
    assert distinct_tokens(prompts) == deep
    *_, (deepest,) = walk(build_tree(prompts, 1), 1, 1)
    assert deepest.end == len(deepest.path) == deep


@given(PROMPTS, st.sampled_from([1, 3, 10, sys.maxsize]))
def test_every_prompt_is_the_path_to_its_node(prompts: list[list[int]], saving: int) -> None:
    nodes = nodes_of(build_tree(prompts, saving))
    assert sorted(row for node in nodes for row in node.rows) == list(range(len(prompts)))
    for node in nodes:
        assert node.start == sum(len(above.tokens) for above in node.path[:-1])
        for row in node.rows:
            assert [token for one in node.path for token in one.tokens] == prompts[row]
    if saving == 1:  # no two siblings begin alike: every prefix is there once
        distinct = {tuple(prompt[:end]) for prompt in prompts for end in range(1, len(prompt) + 1)}
        assert sum(len(node.tokens) for node in nodes) == len(distinct)
    if saving == sys.maxsize:
        assert sorted(node.tokens for node in nodes) == sorted(map(list, {*map(tuple, prompts)}))


def test_a_node_is_shown_without_its_tree() -> None:
    nodes = nodes_of(build_tree([[number] * number for number in range(1, 400)], 1))
    assert len(nodes) > 300 and all(len(repr(node)) < 100 for node in nodes)


def test_a_cut_must_pay() -> None:
    prompts = [[1, 2, 3, 4], [1, 2, 3, 5], [1, 9]]
    assert len(build_tree(prompts, 3)) == 2  # [1] would save 2 tokens, [1, 2, 3] saves 3
    assert [[*node.tokens] for node in nodes_of(build_tree(prompts, 3)) if node.children] == [
        [1, 2, 3]
    ]
    assert not any(node.children for node in build_tree(prompts, 4))


@given(PROMPTS, st.integers(1, 20), st.integers(0, 20))
def test_a_walk_runs_parents_first_within_its_budgets(
    prompts: list[list[int]], tokens: int, cache: int
) -> None:
    roots = build_tree(prompts, 1)
    done: set[Node] = set()
    for batch in walk(roots, tokens, cache):
        assert len(batch) == 1 or sum(len(node.tokens) for node in batch) <= tokens
        assert all(node.parent is None or node.parent in done for node in batch)
        assert not done & set(batch)
        done |= set(batch)
        for node in batch:
            node.held["keys", 0] = "here" if node.children else None
        holding = [node for node in done if node.children and node.held]
        longest = max(node.end for node in nodes_of(roots))
        assert sum(len(node.tokens) for node in holding) <= cache + longest
    assert done == set(nodes_of(roots))
    assert not any(node.held for node in done if node.children)


def test_a_pass_is_filled_with_what_still_fits() -> None:
    roots = [Node([0] * size, 0, None, []) for size in (60, 50, 40, 30, 9)]
    sizes = [[len(node.tokens) for node in batch] for batch in walk(roots, 100, 0)]
    assert sizes == [[60, 40], [50, 30, 9]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_runs_of_like_length_lie_together_and_come_back(lengths: list[int]) -> None:
    packed = PackedBatch([Node([0] * length, 0, None, []) for length in lengths])
    assert [length for bundle in packed.bundles for length in bundle.lengths] == lengths
    states = torch.arange(2 * sum(lengths)).view(2, -1, 1)
    for bundle in packed.bundles:
        own = states[:, bundle.place]
        stacked = bundle.stack(own)
        for run, length in zip(stacked, bundle.lengths, strict=True):
            assert (run[:, :length].diff(dim=1) == 1).all()
        assert stacked.shape[0] * stacked.shape[2] <= 1.25 * own.shape[1]
        assert torch.equal(bundle.unstack(stacked), own)


@given(PROMPTS, st.integers(1, 40))
def test_a_padded_batch_counts_its_padding(prompts: list[list[int]], tokens: int) -> None:
    batches = list(walk(build_tree(prompts, sys.maxsize), tokens, 0, padded=True))
    assert len({node for batch in batches for node in batch}) == len({*map(tuple, prompts)})
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(len(node.tokens) for node in batch) <= tokens


SMALL = {
    "vocab_size": len(TOKENIZER), "hidden_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "intermediate_size": 64, "initializer_range": 0.3,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED, tie_word_embeddings=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=8)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=6, sliding_window_pattern=2)
    ),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL)),
}
WORDS = ["Question", "what", "is", "the", "north", "A", "B", "amber", "\n", "Answer:"]
TEXTS = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=6
)


@pytest.mark.filterwarnings("error")  # a model that falls back to whole prompts fails
@pytest.mark.parametrize(
    ("site", "reduction"),
    [
        *(
            (site, reduction)
            for site in ("norm1", "norm2", "res2")
            for reduction in ("last", "mean")
        ),
        ("logits", "last"),
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_shared_prefixes_change_no_representation(
    name: str, site: str, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    # Short prompts share as long ones do.
    monkeypatch.setattr(sys.modules["harness.extraction.extract"], "LEAST_SAVING", 1)

    @given(TEXTS, TEXTS, st.integers(1, 60))
    @settings(max_examples=6, deadline=None)
    def agree(shots: list[str], questions: list[str], budget: int) -> None:
        prompts = [f"{TOKENIZER.decode([5])} {s} {s} {q}" for s in shots for q in questions]
        chosen = ExtractionSettings(site, reduction)
        found = extract(
            model,
            TOKENIZER,
            prompts,
            chosen,
            Budgets(budget, None, budget, shard_tokens=3 * budget),
        )
        for row, prompt in enumerate(prompts):
            whole = extract(model, TOKENIZER, [prompt], chosen, share=False)
            for layer, states in whole.layers.items():
                error = (found.layers[layer][row] - states[0]).norm() / states[0].norm()
                assert error < 1e-4, (layer, prompt)
            torch.testing.assert_close(
                found.letter_logits[row], whole.letter_logits[0], rtol=1e-4, atol=1e-4
            )

    agree()


def naive_attention_of_runs(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    queries: Lengths,
    keys: Lengths,
    scale: float,
    causal: bool,
    window: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every query alone, in float64."""
    out = torch.empty(q.shape[1], q.shape[0], v.shape[2], dtype=torch.float64)
    lse = torch.empty(q.shape[1], q.shape[0], dtype=torch.float64)
    begins, key_begins = (of.starts.on(q.device).tolist() for of in (queries, keys))
    for run, (begin, end) in enumerate(pairwise(begins)):
        assert end - begin <= queries.longest
        for place in range(begin, end):
            first, last = key_begins[run], key_begins[run + 1]
            if causal:
                last = first + place - begin + 1
                first = max(first, last - (window or last))
            for head in range(len(q)):
                group = head // (len(q) // len(k))
                scores = k[group, first:last].double() @ q[head, place].double() * scale
                lse[place, head] = scores.logsumexp(dim=0)
                out[place, head] = scores.softmax(dim=0) @ v[group, first:last].double()
    return out.to(q.dtype), lse.float()


@pytest.mark.filterwarnings("error")  # as above
@pytest.mark.parametrize(
    ("name", "copied"),  # tokens: a call a prefix, or one for all
    [("llama", 4), ("llama", 1000), ("mistral", 1000), ("gemma3", 1000)],
)
def test_all_runs_at_once_are_the_same(
    name: str, copied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    words = "what is the north A B amber Answer:".split()
    prompts = [
        " ".join([*shots, *words[-question:]])
        for shots in (words, words[::-1], words[3:], words[2:5])
        for question in (1, 2, 6)
    ]
    monkeypatch.setattr(sys.modules["harness.extraction.extract"], "LEAST_SAVING", 1)
    asked = (model, TOKENIZER, prompts, ExtractionSettings(), Budgets(tokens=20))
    one_by_one = extract(*asked)
    module = sys.modules["harness.extraction.shared_attention"]
    asking: list[tuple[bool, int]] = []

    def naive(*args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        asking.append((options["causal"], args[0].shape[1]))
        return naive_attention_of_runs(*args, **options)

    monkeypatch.setattr(module, "takes_runs_at_once", lambda *states: True)
    monkeypatch.setattr(module, "attention_of_runs", naive)
    monkeypatch.setattr(module, "COPIED_TOKENS", copied)
    at_once = extract(*asked)
    # Passes were tried in which some runs follow a prefix, and others none or another; where a
    # window hides some of it, the pass goes the other way.
    assert getattr(model.config, "sliding_window", None) or any(
        causal and not follows and 0 < some < all_
        for (causal, all_), (follows, some) in pairwise(asking)
    )
    for layer, states in one_by_one.layers.items():
        torch.testing.assert_close(at_once.layers[layer], states, rtol=1e-4, atol=1e-5)


def test_a_model_that_cannot_share_says_so_and_is_right(tmp_path: Path) -> None:
    torch.manual_seed(0)
    BloomForCausalLM(
        BloomConfig(vocab_size=len(TOKENIZER), hidden_size=32, n_layer=2, n_head=4)
    ).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), "float32", torch.device("cpu"))  # it has no sdpa
    prompts = ["the north is A", "the north is B B"]
    with pytest.warns(UserWarning, match="whole prompts are computed") as warned:
        found = extract(model, TOKENIZER, prompts, ExtractionSettings("res2"))
    assert len(warned) == 1
    ids = torch.tensor([TOKENIZER(prompts[0])["input_ids"]])
    with torch.inference_mode():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(found.layers[2][0], states[-1][0, -1], rtol=1e-4, atol=1e-4)


def test_a_window_that_only_the_mask_knows_is_not_lost() -> None:
    torch.manual_seed(0)
    config = Qwen2MoeConfig(
        **GROUPED, use_sliding_window=True, sliding_window=8, max_window_layers=3,
        num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    )  # fmt: skip
    model = Qwen2MoeForCausalLM(config).eval()
    shots = "what is the north " * 5
    prompts = [f"{shots} {question}" for question in ("A", "B amber", "Answer:")]
    with pytest.warns(UserWarning, match="hides distant tokens by a mask alone"):
        found = extract(model, TOKENIZER, prompts, ExtractionSettings())
    for row, prompt in enumerate(prompts):
        ids = torch.tensor([TOKENIZER(prompt)["input_ids"]])
        with torch.inference_mode():
            states = model(input_ids=ids, output_hidden_states=True).hidden_states
        torch.testing.assert_close(found.layers[3][row], states[-1][0, -1], rtol=1e-4, atol=1e-4)


# (A run's own window is in its bias, which hides what is to come too.)
@pytest.mark.parametrize(("causal", "window"), [(True, None), (False, None), (False, 3)])
def test_attention_on_other_devices_is_that_of_the_cpu(causal: bool, window: int | None) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 5, 4)
    wide = torch.cat([v, v], dim=3)  # values of another width take the plain way
    bias, seeing = None, torch.ones(5, dtype=torch.bool)
    if window:  # of queries behind their keys: the last one sees nothing
        bias = _window_bias(torch.arange(5) + 3, torch.arange(5), window, q)
        assert bias is not None
        seeing = (bias == 0).any(dim=1)
        assert seeing.tolist() == [True, True, True, True, False]
    out, lse = attention_and_lse(q, k, v, 0.5, causal, bias)
    plain, plain_lse = attention_and_lse(q, k, wide, 0.5, causal, bias)
    both = torch.cat([out, out], dim=3)
    torch.testing.assert_close(both[:, :, seeing], plain[:, :, seeing])
    torch.testing.assert_close(lse[:, :, seeing], plain_lse[:, :, seeing])
    # What sees nothing has no weight in the sum, whatever it is.
    for finite, weight in ((out, lse), (plain, plain_lse)):
        assert finite.isfinite().all() and (weight[:, :, ~seeing] < -1e37).all()
