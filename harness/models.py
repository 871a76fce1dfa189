"""Load a causal language model and its tokenizer, and say which model it is."""

from __future__ import annotations

import gc
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from harness.errors import ModelError
from harness.processes import launched_processes
from harness.questions.question import LETTERS

Tokenizer = Any  # transformers' tokenizers share no typed base class


def default_device() -> torch.device:
    """Return this process's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # One process a GPU; beyond one machine's GPUs the count starts again.
    return torch.device("cuda", launched_processes().rank % torch.cuda.device_count())


def load_model(
    name: str,
    precision: str,
    device: torch.device,
    attention: str = "auto",
    adapter: Path | None = None,
    device_map: str | None = None,
    offload: Path | None = None,
    random_seed: int | None = None,
) -> PreTrainedModel:
    """Return the model of the folder or hub name `name`, in evaluation mode on `device`.

    precision: name of a torch dtype. Weights are read from safetensors only.
    attention: transformers' `attn_implementation`; `auto` takes flash-attention 2 where it is
        installed and the GPU and dtype allow it, else sdpa.
    adapter: a PEFT adapter's folder; it stays beside the weights, since merging would round it.
    device_map: accelerate's; `auto` spreads a model that is too large for one device over all GPUs,
        the memory and, if `offload` names a folder, the disk. `device` is then not used.
    random_seed: draw the weights from the architecture's own initialization with this seed, on the
        CPU, and read none.

    Raises ModelError if there is no such model or adapter, or it cannot be read.
    """
    dtype = getattr(torch, precision)
    if attention == "auto":
        flash = is_flash_attn_2_available() and device.type == "cuda" and dtype.itemsize == 2
        attention = "flash_attention_2" if flash else "sdpa"
    if random_seed is not None:
        return _random_model(name, dtype, attention, random_seed).to(device).eval()
    options: dict[str, Any] = {"device_map": device_map} if device_map else {}
    if offload:
        options["offload_folder"] = str(offload)
    where = check_name(name)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            where,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # the library raises a dozen kinds, and what matters is its text
        raise ModelError(f"{name}: cannot load the model ({_first_line(error)})") from error
    if found["missing_keys"]:
        raise ModelError(
            f"{name}: its safetensors lack {min(found['missing_keys'])!r}, which would be drawn at "
            "random; give the whole model"
        )
    if adapter:
        model = _with_adapter(model, adapter)
    return model.eval() if device_map else model.to(device).eval()


def _random_model(name: str, dtype: torch.dtype, attention: str, seed: int) -> PreTrainedModel:
    where = check_name(name)
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
            )
    except Exception as error:  # as above
        raise ModelError(f"{name}: cannot make the model ({_first_line(error)})") from error


def _with_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    from peft import PeftModel

    check_adapter(adapter)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys")
            worn = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, UserWarning) as error:
        raise ModelError(f"{adapter}: does not fit the model ({_first_line(error)})") from error
    except SafetensorError as error:
        raise ModelError(f"{adapter}: a file is damaged ({_first_line(error)})") from error
    if worn.active_peft_config.is_prompt_learning:
        raise ModelError(f"{adapter}: learns a prompt; give an adapter of the weights, as LoRA is")
    # The adapter's layers are put into the model itself, which is what the harness knows.
    adapted = worn.get_base_model()
    for parameter in adapted.parameters():
        if parameter.dtype != model.dtype and not parameter.is_meta:
            parameter.data = parameter.data.to(model.dtype)
    return adapted


def longest_prompt(model: PreTrainedModel) -> int | None:
    """Return the number of tokens that the model has positions for, or None if it does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def forget_models() -> None:
    """Free the memory of models that nothing refers to any more: hooks keep them in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def parameter_count(name: str) -> int:
    """Return the number of parameters of a model, from its configuration alone.

    Raises ModelError if that cannot be read.
    """
    where = check_name(name)
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        return int(model.num_parameters())
    except Exception as error:  # as above
        raise ModelError(f"{name}: cannot read the model ({_first_line(error)})") from error


def load_tokenizer(name: str, fast: bool = True) -> Tokenizer:
    """Return the tokenizer of `name`; `fast`: the Rust one if there is one.

    Raises ModelError if there is none.
    """
    where = check_name(name, None)
    try:
        return AutoTokenizer.from_pretrained(where, use_fast=fast, trust_remote_code=False)
    except Exception as error:  # as above
        raise ModelError(f"{name}: cannot load the tokenizer ({_first_line(error)})") from error


def tokenize(
    tokenizer: Tokenizer, prompts: Sequence[str], workers: int | None = None
) -> list[list[int]]:
    """Return the token ids of every prompt, with the special tokens that the model begins with.

    workers: processes; None lets a fast tokenizer use its own threads, and is best for it.
    """
    if not workers or workers == 1:
        return tokenizer(list(prompts))["input_ids"]  # type: ignore[no-any-return]
    from datasets import Dataset

    table = Dataset.from_dict({"prompt": list(prompts)})
    tokens = table.map(
        lambda batch: {"ids": tokenizer(batch["prompt"])["input_ids"]},
        batched=True,
        num_proc=workers,
        new_fingerprint="prompts",  # nothing is kept, so nothing need be told apart
        keep_in_memory=True,
    )
    return list(tokens["ids"])


def letter_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the token of each answer letter, as it follows `Answer:` (with its space).

    Raises ModelError if that is not one token of its own, which the model could give next.
    """

    def encoded(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    before, tokens = encoded("Answer:"), []
    for letter in LETTERS:
        *same, last = encoded(f"Answer: {letter}")
        if same != before or last in tokens:
            raise ModelError(
                f"{tokenizer.name_or_path}: the tokenizer has no token of its own for {letter!r} "
                "after 'Answer:'; give another --tokenizer, or another model"
            )
        tokens.append(last)
    return tokens


def cut_to_length(
    tokens: Sequence[Sequence[int]], model: PreTrainedModel, max_length: int | None
) -> list[list[int]]:
    """Return the prompts' tokens, without the beginning of those of more than `max_length`.

    Raises ModelError for a prompt that the model has not positions for, if no length is given.
    """
    if max_length:
        return [list(ids[-max_length:]) for ids in tokens]
    limit = longest_prompt(model)
    for number, ids in enumerate(tokens):
        if limit and len(ids) > limit:
            raise ModelError(
                f"{model.name_or_path}: takes {limit} tokens, and prompt {number} has {len(ids)}; "
                f"ask with fewer shots, or give --max-length {limit} to cut what is longer at its "
                "beginning, as the paper does"
            )
    return [list(ids) for ids in tokens]


def check_name(name: str, file: str | None = "config.json") -> str:
    """Return `name` if it can be a model or a tokenizer: an existing folder, or a hub name.

    Raises ModelError for a folder that is missing or has no `file`.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if file and not (folder / file).is_file():
            raise ModelError(f"{name}: no {file} in this folder; give a model folder")
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(f"{name}: no such model folder; give a folder or a hub name (owner/name)")
    return name


def model_fingerprint(name: str, file: str | None = "config.json") -> str:
    """Return what identifies the model's bytes: the sha256 of a folder's files, or a hub commit.

    Raises ModelError for a folder that is missing or has no `file`, or a hub name out of reach.
    """
    folder = Path(check_name(name, file))
    if not folder.is_dir():
        try:
            return (
                f"{name}@{AutoConfig.from_pretrained(name, trust_remote_code=False)._commit_hash}"
            )
        except Exception as error:  # as above
            raise ModelError(f"{name}: not on the hub or not reachable; give a folder") from error
    return _digest(folder)


def check_adapter(adapter: Path) -> None:
    """Raise ModelError if `adapter` is not the folder of a PEFT adapter in safetensors."""
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / file).is_file():
            raise ModelError(
                f"{adapter}: no {file} in this folder; give a PEFT adapter's folder, "
                "and --checkpoint if its checkpoints are in folders of their own"
            )


def adapter_fingerprint(adapter: Path) -> str:
    """Return the sha256 of an adapter's files. Raises ModelError if it is none."""
    check_adapter(adapter)
    return _digest(adapter)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    names = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")  # the last: tokenizers
    for file in sorted(file for name in names for file in folder.glob(name)):
        with file.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        digest.update(f"{file.name}:{sha256}\n".encode())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
