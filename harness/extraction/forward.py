"""Run the nodes of a prefix tree through a model: packed with shared prefixes, or padded whole."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from harness.errors import first_line
from harness.extraction.prefix_tree import Node, build_tree
from harness.extraction.shared_attention import IMPLEMENTATION, CannotShareError, PackedBatch


class Forward(Protocol):
    """One pass of a model over the nodes of a batch."""

    shares: bool

    def __call__(self, nodes: Sequence[Node]) -> Tensor:
        """Return the last hidden states, (sequences, tokens, width)."""

    def places(self, nodes: Sequence[Node]) -> Tensor:
        """Return where the nodes' N tokens lie, one node after the other, in flattened states.

        (N,) int64.
        """


class SharedForward:
    """Nodes packed in one sequence, each after its parent's pass."""

    shares = True

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def __call__(self, nodes: Sequence[Node]) -> Tensor:
        """Return the last hidden states, (1, N, width)."""
        ids = torch.cat([torch.tensor(node.tokens) for node in nodes])
        packed = PackedBatch(nodes)
        states: Tensor = (
            self.model.get_decoder()(
                input_ids=ids[None].to(self.model.device),
                position_ids=packed.positions[None].to(self.model.device),
                use_cache=False,
                packed=packed,
            )
        ).last_hidden_state
        return states

    def places(self, nodes: Sequence[Node]) -> Tensor:
        """Return 0 ... N-1: a packed sequence holds nothing else."""
        return torch.arange(sum(len(node.tokens) for node in nodes))


class WholeForward:
    """Nodes without parents in a right-padded batch, through the model's own attention."""

    shares = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def __call__(self, nodes: Sequence[Node]) -> Tensor:
        """Return the last hidden states, (nodes, tokens, width)."""
        ids = pad_sequence([torch.tensor(node.tokens) for node in nodes], batch_first=True)
        states: Tensor = (
            self.model.get_decoder()(
                input_ids=ids.to(self.model.device),
                attention_mask=self._mask(nodes).long().to(self.model.device),
                use_cache=False,
            )
        ).last_hidden_state
        return states

    def places(self, nodes: Sequence[Node]) -> Tensor:
        """Return the places that are not padding."""
        return self._mask(nodes).flatten().nonzero().squeeze(1)

    def _mask(self, nodes: Sequence[Node]) -> Tensor:
        lengths = torch.tensor([len(node.tokens) for node in nodes])
        return torch.arange(int(lengths.max())) < lengths[:, None]


@contextmanager
def forward_of(model: PreTrainedModel, share: bool = True) -> Iterator[Forward]:
    """Yield the pass that shares prefixes if the model can, else whole prompts, and say so."""
    if not share:
        yield WholeForward(model)
        return
    usual = model.config._attn_implementation
    reason = _reason_not_to_share(model)
    if reason:
        warnings.warn(
            f"{type(model).__name__}: whole prompts are computed ({reason})", stacklevel=2
        )
        yield WholeForward(model)
        return
    model.set_attn_implementation(IMPLEMENTATION)
    try:
        yield SharedForward(model)
    finally:
        model.set_attn_implementation(usual)


@torch.inference_mode()
def _reason_not_to_share(model: PreTrainedModel) -> str | None:
    """Return why prefixes cannot be shared, tried on two short prompts, or None if they can.

    A trial knows every architecture, also those that a list would miss.
    """
    rope = str(getattr(model.config.get_text_config(), "rope_parameters", None) or "")
    if "longrope" in rope or "dynamic" in rope:
        return "its rotary embedding depends on the length of the whole prompt"
    usual = model.config._attn_implementation
    prompts = [[3, 4, 5, 6, 7, 8], [3, 4, 5, 9, 10]]
    whole = WholeForward(model)
    wanted = [whole([Node(prompt, 0, None, [])])[0, -1].float() for prompt in prompts]
    root, *_ = build_tree(prompts, least_saving=1)
    try:
        model.set_attn_implementation(IMPLEMENTATION)
        shared = SharedForward(model)
        shared([root])
        found = [shared([child])[0, -1].float() for child in root.children]
    except (CannotShareError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        return first_line(error)
    finally:
        model.set_attn_implementation(usual)
    by_row = {child.rows[0]: state for child, state in zip(root.children, found, strict=True)}
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    for row, expected in enumerate(wanted):
        difference = ((by_row[row] - expected).norm() / expected.norm()).item()
        if not difference < tolerance:
            return f"shared prefixes change its states by {difference:.2g}"
    return None
