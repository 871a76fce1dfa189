"""What is measured: settings as frozen values, and the key that a measured thing is kept under.

The defaults are the paper's (section 3 and its repository). All settings raise SettingsError for a
value that cannot be meant.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from harness.errors import SettingsError

Site = Literal["norm1", "norm2", "res2", "logits"]
Reduction = Literal["last", "mean"]
ShotOrder = Literal["shuffled", "kept"]
Precision = Literal["bfloat16", "float16", "float32"]
Weights = Literal["trained", "random", "none"]
ShotsFrom = Literal["own", "other", "mixed"]
LabelsFrom = Literal["own", "shots", "shuffled"]

DRAW_SHARE = 0.8  # of the questions in a draw: what a delete-d jackknife with d = N / 5 keeps


@dataclass(frozen=True)
class Subset:
    """Which questions of the split are asked.

    split: of the dataset; several with a plus, such as `dev+validation`.
    per_subject: at most so many of every subject, drawn with `seed` (of MMLU's test split: from the
        paper's 9181 questions, which have 200 a subject at most); None is the paper's subset, or
        all of `rows`.
    without: another subset of the same dataset, whose questions this one leaves out: what a model
        was fine-tuned on.
    leave_out: splits of the same dataset, of which no question is asked, should one stand in the
        asked split too: a model was fine-tuned on some of them.
    rows: a .npy file of row numbers of the split, the paper's "mask"; the draw is among these.
    """

    split: str = "test"
    per_subject: int | None = None
    seed: int = 42
    without: Subset | None = None
    rows: str | None = None
    leave_out: str | None = None

    def __post_init__(self) -> None:
        if self.per_subject is not None and self.per_subject < 1:
            raise SettingsError(f"per-subject is {self.per_subject}; give 1 or more questions")
        _check_seed(self.seed)


@dataclass(frozen=True)
class PromptFormat:
    """How a prompt is made.

    shots: example questions before the asked one.
    shot_order: `shuffled` draws the order of the shots anew for every question, as the paper
        does; `kept` leaves them in the dataset's order.
    seed: of the shot order.
    header: begin with the line that says what the questions are about, as the paper does.
    """

    shots: int = 0
    shot_order: ShotOrder = "shuffled"
    seed: int = 42
    header: bool = True

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise SettingsError(f"shots is {self.shots}; give 0 or more")
        _check("shot order", self.shot_order, ShotOrder)
        _check_seed(self.seed)

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
    max_length: tokens; a longer prompt loses its beginning. None refuses what the model has no
        positions for.
    precision: of weights and arithmetic.
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
        if self.site == "logits" and self.reduction == "mean":
            raise SettingsError(
                "site is logits and reduction is mean; logits are of the last token only"
            )


@dataclass(frozen=True)
class FineTuning:
    """How a LoRA adapter is trained.

    epochs: times that every question is read.
    rank, alpha, dropout: of the adapter. target_modules: names of the projections that get one;
        None is every linear layer of the blocks.
    learning_rate: at its peak, after `warmup_ratio` (a share of the steps); a cosine takes it down
        to `lowest_rate` (a share of the peak).
    weight_decay: Adam's, decoupled; the paper has none.
    batch_size: questions a step. max_steps: of the training, if that is less than the epochs have.
    max_grad_norm: largest norm of a step's gradient; None does not clip.
    weight_subjects: every subject weighs the same, whatever its number of questions. (In the
        paper's script, whose passes hold one question, the weights cancel out.)
    max_length: tokens; a longer prompt loses its beginning. None refuses what the model has no
        positions for.
    checkpoints: adapters kept on the way, at steps evenly spaced in their logarithm.
    precision: of the model's weights and arithmetic; the adapter learns in float32.
    seed: of the adapter's first weights, the order of the questions and dropout.

    The defaults are the paper's for Llama-3-8b and Mistral-7b; `harness.presets` has the others.
    """

    epochs: int = 6
    rank: int = 64
    alpha: float = 16
    dropout: float = 0.1
    target_modules: tuple[str, ...] | None = None
    learning_rate: float = 2e-4
    lowest_rate: float = 0.01
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    batch_size: int = 16
    max_steps: int | None = None
    max_grad_norm: float | None = None
    weight_subjects: bool = False
    max_length: int | None = None
    checkpoints: int = 10
    precision: Precision = "bfloat16"
    seed: int = 42

    def __post_init__(self) -> None:
        if float(self.alpha).is_integer():  # 16 and 16.0 are one training, with one key
            object.__setattr__(self, "alpha", int(self.alpha))
        _check("precision", self.precision, Precision)
        if self.precision == "float16":
            # Small gradients would vanish in it; the paper's and every recent GPU has bfloat16.
            raise SettingsError("precision is float16; fine-tune in bfloat16 or float32")
        _check_seed(self.seed)
        for name in ("epochs", "rank", "batch_size", "max_steps", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {value}; give 1 or more")
        for name in ("alpha", "learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise SettingsError(f"{name} is {value}; give more than 0")
        for name in ("weight_decay", "checkpoints"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"{name} is {getattr(self, name)}; give 0 or more")
        for name in ("dropout", "warmup_ratio", "lowest_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; give 0 or more, less than 1")

    def steps(self, count: int) -> int:
        """Return the number of steps of a training on `count` questions."""
        steps = self.epochs * steps_an_epoch(count, self.batch_size)
        return min(steps, self.max_steps or steps)


def enough_neighbors(k: int) -> int:
    """Return how many neighbours of a point to keep, so that `k` of them are in every draw.

    Each is in a draw with a chance of DRAW_SHARE: six standard deviations less than the mean are k
    still. (Where all other points are kept, k / DRAW_SHARE would do.)
    """
    spread = 6 * math.sqrt(DRAW_SHARE * (1 - DRAW_SHARE))
    root = (spread + math.sqrt(spread**2 + 4 * DRAW_SHARE * k)) / (2 * DRAW_SHARE)
    return math.ceil(root**2)


@dataclass(frozen=True)
class GeometrySettings:
    """How a cloud of representations is analysed.

    neighbors: neighbours kept for every point (`maxk`), all there are when the points are fewer; at
        least what the other settings need, and in every draw still have (`enough_neighbors`).
    id_k: Gride compares the distances to neighbours `id_k` and `2 id_k`; a power of two.
    density_k: neighbours of the kNN density; None is the point-adaptive density (PAk), which
        chooses their number at every point.
    z: confidence at which two density peaks count as two (ADP).
    overlap_k: neighbours that the overlap of two representations compares.
    draws: subsamples of the points that are measured too, DRAW_SHARE of them each.
    """

    neighbors: int = 1000
    id_k: int = 16
    density_k: int | None = 16
    z: float = 1.6
    overlap_k: int = 30
    draws: int = 10

    def __post_init__(self) -> None:
        if self.draws < 0:
            raise SettingsError(f"draws is {self.draws}; give 0 or more")
        if not 0 <= self.z < math.inf:
            raise SettingsError(f"z is {self.z}; give 0 or more")
        for name in ("neighbors", "density_k", "overlap_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {value}; give 1 or more")
        if self.id_k < 1 or self.id_k & (self.id_k - 1):
            raise SettingsError(f"id_k is {self.id_k}; Gride's scales are the powers of two")
        needed = self._kept(overlap=False)
        needed = enough_neighbors(needed) if self.draws else needed
        if self.neighbors < needed:
            raise SettingsError(
                f"neighbors is {self.neighbors}; give {needed} or more, which id_k {self.id_k}, "
                f"density_k {self.density_k} and {self.draws} draws need"
            )

    def least_points(self, overlap: bool = False) -> int:
        """Return how many points can be analysed at least, with the draws of them.

        overlap: their overlap with other representations, too.
        """
        whole = self._kept(overlap) + 1
        return math.ceil(whole / DRAW_SHARE) if self.draws else whole

    def _kept(self, overlap: bool) -> int:
        density_k = self.density_k or 4  # PAk's least
        return max(2 * self.id_k, density_k, self.overlap_k if overlap else 0)


@dataclass(frozen=True)
class Control:
    """A null control: what is replaced by something that lacks what a finding is about.

    weights: `random` draws the model's anew from its own initialization; `none` has no network,
        only the mean of the prompt's input embeddings.
    shots: `other` are of another subject than the question; `mixed` of any.
    labels: the subjects and answers that clusters are compared with: the question's own, the
        subject of its shots, or the questions' own dealt out anew among them.
    seed: of whatever is random in it.
    """

    weights: Weights = "trained"
    shots: ShotsFrom = "own"
    labels: LabelsFrom = "own"
    seed: int = 0

    def __post_init__(self) -> None:
        _check("weights", self.weights, Weights)
        _check("shots", self.shots, ShotsFrom)
        _check("labels", self.labels, LabelsFrom)
        _check_seed(self.seed)

    @property
    def inputs(self) -> Control | None:
        """The part of it that changes representations; None if they are the model's own."""
        rest = replace(self, labels="own")
        return rest if rest != Control(seed=self.seed) else None


@dataclass(frozen=True)
class Budgets:
    """What extraction may compute and hold at once: speed and memory, not what is measured.

    tokens, prompts: of one pass; None is the device's default, and any number of prompts.
    cached_tokens: tokens whose keys and values are held for the prompts that share them; None is
        65536, or as many as `cache_tokens` has room for.
    shard_tokens: tokens computed between two writes; None is the device's default.
    workers: processes that tokenize; None lets the tokenizer use its own threads.
    """

    tokens: int | None = None
    prompts: int | None = None
    cached_tokens: int | None = None
    shard_tokens: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {value}; give 1 or more")


def steps_an_epoch(count: int, batch_size: int) -> int:
    """Return the number of batches that `count` examples make; the last may be smaller."""
    return -(-count // batch_size)


@dataclass(frozen=True)
class TrainingOptions:
    """How a training runs and what it tells.

    The adapter changes with it by rounding alone, and by dropout's masks, which a pass draws.

    tokens, prompts: of one pass, which holds a part of a step's batch; None is the device's
        default, and any number of prompts.
    activation_checkpointing: compute activations again instead of keeping them: less memory.
    save_every: steps between two states that a stopped training goes on from.
    evaluations: times that the validation questions are asked, evenly spaced over the training, and
        once before its first step; 0 asks never.
    log_lines: lines in the log, evenly spaced; None shows a bar.
    """

    tokens: int | None = None
    prompts: int | None = None
    activation_checkpointing: bool = False
    save_every: int = 50
    evaluations: int = 4
    log_lines: int | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "prompts", "save_every", "log_lines"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {value}; give 1 or more")
        if self.evaluations < 0:
            raise SettingsError(f"evaluations is {self.evaluations}; give 0 or more")


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
    """Return the sha256 of the canonical JSON of `parts` (dataclasses, mappings, plain values).

    Names of dataclasses and of their fields are part of it: after one is renamed, or a field added
    that is not in LATER, nothing that a store holds under such a key is found any more.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_named)
    return hashlib.sha256(text.encode()).hexdigest()


# Fields that were added after things had been kept: with these values they are no part of a key,
# so that what is there is still found.
LATER: dict[tuple[type, str], object] = {(PromptFormat, "header"): True}


def _named(part: Any) -> dict[str, Any]:
    fields = asdict(part)
    for (kind, name), value in LATER.items():
        if type(part) is kind and fields[name] == value:
            del fields[name]
    return {type(part).__name__: fields}


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:  # what torch and numpy both take
        raise SettingsError(f"seed is {seed}; give 0 to 2**63 - 1")


def _check(name: str, value: str, allowed: object) -> None:
    known = get_args(allowed)
    if value not in known:
        raise SettingsError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
