"""Cut the work into shards, each computed and written whole, so that little is ever lost.

A folder of representations holds one safetensors file a shard: `rows` (n,) int64, `letter_logits`
(n, 4) float32, and `layer-001` ... (n, width) in the model's dtype (mean embeddings: float32).
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.disk import write_with
from harness.errors import RecordError
from harness.extraction.prefix_tree import shared_length

DIGEST = "sha256"  # of a shard's tensors, in its header: a run that goes on from it checks that


@dataclass(frozen=True)
class Representations:
    """What a model makes of n prompts.

    rows: the prompts' numbers, (n,) int64.
    layers: (n, width) by layer number, in the model's dtype, on the CPU.
    letter_logits: (n, 4) float32, what lm_head gives for ` A` ... ` D` as the next token: before a
        soft cap or scale of the model's, which would leave their order as it is.
    """

    rows: Tensor
    layers: dict[int, Tensor]
    letter_logits: Tensor

    def save(self, file: Path) -> None:
        """Write `file` so that it is there whole or not at all.

        Raises OSError or SafetensorError where the disk refuses it.
        """
        tensors = {_layer_name(layer): states for layer, states in self.layers.items()}
        tensors |= {"rows": self.rows, "letter_logits": self.letter_logits}
        write_with(file, partial(save_file, tensors, metadata={DIGEST: _digest(tensors)}))

    @classmethod
    def join(cls, parts: Sequence[Representations]) -> Representations:
        """Return the representations of all `parts`, in the order of their rows."""
        rows = torch.cat([part.rows for part in parts])
        order = rows.argsort()
        layers = {
            layer: torch.cat([part.layers[layer] for part in parts])[order]
            for layer in parts[0].layers
        }
        logits = torch.cat([part.letter_logits for part in parts])
        return cls(rows[order], layers, logits[order])


def plan_shards(prompts: Sequence[Sequence[int]], shard_tokens: int) -> list[list[int]]:
    """Return the rows of each shard: prompts that begin alike, about `shard_tokens` to compute.

    A shard ends, between half of that many tokens and all of them, where the next prompt has the
    least in common with it: what they share is computed again in the next shard.
    """
    ordered = sorted(range(len(prompts)), key=lambda row: tuple(prompts[row]))
    # What a prompt shares with the one before it, and so does not cost again.
    shared = [0] + [
        shared_length(prompts[one], prompts[next_one]) for one, next_one in pairwise(ordered)
    ]
    total = list(
        accumulate(len(prompts[row]) - less for row, less in zip(ordered, shared, strict=True))
    )
    shards = []
    begin = 0
    while begin < len(ordered):
        done = total[begin - 1] if begin else 0
        earliest, latest = (
            max(bisect_right(total, done + tokens), begin + 1)
            for tokens in (shard_tokens // 2, shard_tokens)
        )
        end = len(ordered)
        if latest < end:
            end = min(range(earliest, latest + 1), key=lambda place: (shared[place], -place))
        shards.append(ordered[begin:end])
        begin = end
    return shards


def shard_file(folder: Path, rows: Sequence[int]) -> Path:
    """Return the file of the shard of `rows`: another cut of the work gives other names."""
    digest = hashlib.sha256(repr(list(rows)).encode()).hexdigest()
    return folder / f"shard-{digest[:16]}.safetensors"


def is_whole(file: Path, rows: Sequence[int]) -> bool:
    """Return whether the file of the shard of `rows` is there, and is what was written.

    Raises OSError if it is there and cannot be read.
    """
    try:
        with safe_open(file, framework="pt") as held:
            tensors = {name: held.get_tensor(name) for name in held.keys()}
            digest = (held.metadata() or {}).get(DIGEST)
            return digest == _digest(tensors) and tensors["rows"].tolist() == list(rows)
    except (FileNotFoundError, SafetensorError):
        return False


def saved_shards(folder: Path) -> list[Path]:
    """Return the shards' files in a folder of representations."""
    return sorted(folder.glob("shard-*.safetensors"))


def saved_layers(folder: Path) -> list[int]:
    """Return the layer numbers in a folder of representations, ascending.

    Raises IndexError for a folder without shards.
    """
    with safe_open(saved_shards(folder)[0], framework="pt") as file:
        return sorted(int(key.split("-")[1]) for key in file.keys() if key.startswith("layer-"))


def read_layer(folder: Path, layer: int) -> Tensor:
    """Return the (N, width) representations of `layer`, a row a prompt.

    Raises RecordError where the folder's shards have not every prompt once.
    """
    return _read(folder, _layer_name(layer))


def read_letter_logits(folder: Path) -> Tensor:
    """Return the (N, 4) letter logits, a row a prompt.

    Raises RecordError as `read_layer` does.
    """
    return _read(folder, "letter_logits")


def _read(folder: Path, name: str) -> Tensor:
    rows, values = (torch.cat(some) for some in zip(*_parts(folder, name), strict=True))
    if not torch.equal(rows.sort().values, torch.arange(len(rows))):
        raise RecordError(f"{folder}: its shards do not have every prompt once; remove the folder")
    return torch.empty_like(values).index_copy_(0, rows, values)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _parts(folder: Path, name: str) -> Iterator[tuple[Tensor, Tensor]]:
    for path in saved_shards(folder):
        with safe_open(path, framework="pt") as file:
            yield file.get_tensor("rows"), file.get_tensor(name)


def _layer_name(layer: int) -> str:
    return f"layer-{layer:03d}"
