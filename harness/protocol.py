"""What is measured: settings as frozen values, and the key that a measured thing is kept under.

The defaults are the paper's (section 3 and its repository).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from harness.errors import SettingsError

Site = Literal["norm1", "norm2", "res2", "logits"]
Reduction = Literal["last", "mean"]
ShotOrder = Literal["shuffled", "kept"]
Precision = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class Subset:
    """Which questions of the split are analysed.

    per_subject: at most so many of every subject, drawn with `seed`; None is the paper's subset
        (MMLU's 9181 questions, at most 200 a subject).
    """

    split: str = "test"
    per_subject: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if self.per_subject is not None and self.per_subject < 1:
            raise SettingsError(f"per-subject is {self.per_subject}; give 1 or more questions")


@dataclass(frozen=True)
class PromptFormat:
    """How a prompt is made.

    shots: example questions before the asked one.
    shot_order: `shuffled` draws the order of the shots anew for every question, as the paper
        does; `kept` leaves them in the dataset's order.
    seed: of the shot order.
    """

    shots: int = 0
    shot_order: ShotOrder = "shuffled"
    seed: int = 42

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise SettingsError(f"shots is {self.shots}; give 0 or more")
        _check("shot order", self.shot_order, ShotOrder)

    @property
    def condition(self) -> str:
        """The condition's name in landscapes and reports, such as `5-shot`."""
        return f"{self.shots}-shot"


@dataclass(frozen=True)
class ExtractionSettings:
    """Which representation of a prompt is taken.

    site: `norm1`, output of the norm before attention; `norm2`, of the norm before the MLP;
        `res2`, the block's output; `logits`, the output of lm_head (one layer only).
    reduction: the prompt's last token, or the mean over its tokens.
    max_length: tokens; a longer prompt loses its beginning. None is the model's own limit.
    layer_interval: every so many layers, and always the last one.
    """

    site: Site = "norm1"
    reduction: Reduction = "last"
    max_length: int | None = None
    precision: Precision = "bfloat16"
    layer_interval: int = 1

    def __post_init__(self) -> None:
        _check("site", self.site, Site)
        _check("reduction", self.reduction, Reduction)
        _check("precision", self.precision, Precision)
        for name in ("max_length", "layer_interval"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {value}; give 1 or more")


@dataclass(frozen=True)
class GeometrySettings:
    """How a cloud of representations is analysed.

    neighbors: neighbours kept for every point (`maxk`); all there are when the points are fewer.
    id_k: Gride compares the distances to neighbours `id_k` and `2 id_k`; a power of two.
    density_k: neighbours of the kNN density.
    z: confidence at which two density peaks count as two (ADP).
    """

    neighbors: int = 1000
    id_k: int = 16
    density_k: int = 16
    z: float = 1.6

    def __post_init__(self) -> None:
        if self.id_k < 1 or self.id_k & (self.id_k - 1):
            raise SettingsError(f"id_k is {self.id_k}; Gride's scales are the powers of two")


@dataclass(frozen=True)
class Budgets:
    """What extraction may compute and hold at once: speed and memory, not what is measured.

    tokens, prompts: of one pass; None is the device's default, and any number of prompts.
    cached_tokens: tokens whose keys and values are held for the prompts that share them.
    shard_tokens: tokens computed between two writes; None is 64 passes.
    workers: processes that tokenize; None lets the tokenizer use its own threads.
    """

    tokens: int | None = None
    prompts: int | None = None
    cached_tokens: int = 65536
    shard_tokens: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {value}; give 1 or more")


def parse_shots(text: str) -> tuple[int, ...]:
    """Return the numbers of shots in `0,1,2,5`, ascending. Raises SettingsError."""
    try:
        shots = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        shots = (-1,)
    if shots[0] < 0:
        raise SettingsError(f"--shots is {text!r}; give numbers with commas, such as 0,1,2,5")
    return shots


def cache_key(*parts: object) -> str:
    """Return the sha256 of the canonical JSON of `parts` (dataclasses, mappings, plain values)."""
    text = json.dumps([_plain(part) for part in parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(part: object) -> object:
    if isinstance(part, Mapping | str | int | float | list | None):
        return part
    return {type(part).__name__: asdict(part)}  # type: ignore[call-overload]


def _check(name: str, value: str, allowed: object) -> None:
    known = get_args(allowed)
    if value not in known:
        raise SettingsError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
