"""Prompts as a tree of the beginnings they share: a node is computed once for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

# A cut costs a pass of its own; below this many tokens saved it does not pay.
LEAST_SAVING = 32


# Not shown: pytest prints the arguments of what Ctrl-C stops, and a node leads to its whole tree.
@dataclass(eq=False, repr=False)
class Node:
    """A run of tokens that begins at position `start` of every prompt that goes through it.

    rows: the prompts that end with the run's last token; equal prompts share a node.
    held: what the pass over this node leaves for those over its children, by (what, layer).
    """

    tokens: Sequence[int]
    start: int
    parent: Node | None
    rows: list[int]
    children: list[Node] = field(default_factory=list)
    held: dict[tuple[str, int], Any] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.start + len(self.tokens)

    @property
    def path(self) -> list[Node]:
        """The nodes from the root to this one."""
        found: list[Node] = []
        node: Node | None = self
        while node:
            found.append(node)
            node = node.parent
        return found[::-1]


def build_tree(prompts: Sequence[Sequence[int]], least_saving: int = LEAST_SAVING) -> list[Node]:
    """Return the roots of the tree of `prompts`, cut where that saves `least_saving` tokens.

    Prompts are tokenized whole before they come here, so no token crosses a cut. Where no cut
    saves as much, every distinct prompt is a root of its own.

    Source: shared prefixes computed once, as in Hydragen (Juravsky et al. 2024, arXiv 2402.05099).
    """
    roots: list[Node] = []

    def add(tokens: Sequence[int], start: int, parent: Node | None, rows: list[int]) -> Node:
        node = Node(tokens, start, parent, rows)
        (parent.children if parent else roots).append(node)
        return node

    # In sorted order the prompts of a subtree lie side by side, and the beginning that all of
    # them share is that of the first and the last.
    ordered = sorted(range(len(prompts)), key=lambda row: tuple(prompts[row]))
    pending: list[tuple[list[int], int, Node | None]] = [(ordered, 0, None)] if ordered else []
    while pending:
        rows, start, parent = pending.pop()
        first = prompts[rows[0]]
        shared = shared_length(first, prompts[rows[-1]])
        ended = [row for row in rows if len(prompts[row]) == shared]
        going_on = rows[len(ended) :]
        distinct = len(set(map(tuple, (prompts[row] for row in rows)))) if going_on else 1
        if going_on and (distinct - 1) * (shared - start) >= least_saving:
            parent = add(first[start:shared], start, parent, ended)
            start = shared
        elif ended:
            add(first[start:shared], start, parent, ended)
        for _, branch in groupby(going_on, key=lambda row: prompts[row][shared]):
            pending.append((list(branch), start, parent))
    return roots


def walk(
    roots: Sequence[Node],
    token_budget: int,
    cache_budget: int,
    node_budget: int | None = None,
    padded: bool = False,
) -> Iterator[list[Node]]:
    """Yield every node once, in batches, a parent always in an earlier batch than its children.

    What a node holds is let go when its whole subtree has run.

    token_budget: tokens a batch; a longer node is a batch of its own.
    cache_budget: tokens whose keys and values may be held for children still to come; beyond it
        no second path is opened, and the open one is held whole.
    node_budget: nodes a batch; None is any number.
    padded: count every node of a batch as long as its longest.
    """
    waiting = sorted(roots, key=_walk_order)
    open_children: dict[Node, int] = {}
    held = 0
    while waiting:
        batch: list[Node] = []
        tokens = 0
        # The last one goes, and with it all that still fit: a pass that is full costs less a token.
        for place in reversed(range(len(waiting))):
            node = waiting[place]
            size = len(node.tokens)
            holds = size if node.children else 0
            with_node = tokens + size
            if padded:
                with_node = max(len(one.tokens) for one in [*batch, node]) * (len(batch) + 1)
            full = with_node > token_budget or (holds and held + holds > cache_budget)
            if batch and full:
                continue
            batch.append(waiting.pop(place))
            tokens += size
            held += holds
            if len(batch) == node_budget:
                break
        yield batch
        for node in batch:
            open_children[node] = len(node.children)
            done: Node | None = None if node.children else node
            while done and done.parent:  # a subtree is done when its last child's subtree is
                done = done.parent
                open_children[done] -= 1
                if open_children[done]:
                    break
                held -= len(done.tokens)
                done.held.clear()
        for node in batch:
            waiting += sorted(node.children, key=_walk_order)


def _walk_order(node: Node) -> tuple[bool, int]:
    # The end of the list goes first: leaves, so that their parent's cache is soon let go, and of
    # these the longest, so that batches are of like length.
    return not node.children, len(node.tokens)


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of tokens with which both begin."""
    for position, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return position
    return min(len(first), len(second))
