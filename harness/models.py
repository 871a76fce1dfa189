"""Load a causal language model and its tokenizer, and say which model it is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from harness.errors import ModelError
from harness.questions.question import LETTERS

Tokenizer = Any  # transformers' tokenizers share no typed base class


def default_device() -> torch.device:
    """Return the first GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(
    name: str, precision: str, device: torch.device, attention: str = "auto"
) -> PreTrainedModel:
    """Return the model of the folder or hub name `name`, in evaluation mode on `device`.

    precision: name of a torch dtype. Weights are read from safetensors only.
    attention: transformers' `attn_implementation`; `auto` takes flash-attention 2 where it is
        installed and the GPU and dtype allow it, else sdpa.

    Raises ModelError if there is no such model or it cannot be read.
    """
    dtype = getattr(torch, precision)
    if attention == "auto":
        flash = is_flash_attn_2_available() and device.type == "cuda" and dtype.itemsize == 2
        attention = "flash_attention_2" if flash else "sdpa"
    try:
        model = AutoModelForCausalLM.from_pretrained(
            check_name(name), dtype=dtype, attn_implementation=attention, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: cannot load the model ({_first_line(error)})") from error
    return model.to(device).eval()


def load_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer of `name`. Raises ModelError if there is none."""
    try:
        return AutoTokenizer.from_pretrained(check_name(name))
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: cannot load the tokenizer ({_first_line(error)})") from error


def letter_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the token of each answer letter, as it follows `Answer:` (with its space).

    Raises ModelError if the tokenizer splits ` A` ... ` D` so that they cannot be told apart.
    """
    tokens = [tokenizer.encode(f" {letter}", add_special_tokens=False)[-1] for letter in LETTERS]
    if len(set(tokens)) < len(LETTERS):
        raise ModelError(f"the tokenizer gives two of the letters {LETTERS} the same token")
    return tokens


def check_name(name: str) -> str:
    """Return `name` if it can be a model: an existing model folder, or a hub name.

    Raises ModelError for a folder that is missing or has no config.json.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{name}: no config.json in this folder; give a model folder")
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(f"{name}: no such model folder; give a folder or a hub name (owner/name)")
    return name


def model_fingerprint(name: str) -> str:
    """Return what identifies the model's bytes: the sha256 of a folder's files, or a hub commit."""
    folder = Path(check_name(name))
    if not folder.is_dir():
        from transformers import AutoConfig

        try:
            return f"{name}@{AutoConfig.from_pretrained(name)._commit_hash}"
        except (OSError, ValueError) as error:
            raise ModelError(f"{name}: not on the hub or not reachable; give a folder") from error
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        with file.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        digest.update(f"{file.name}:{sha256}\n".encode())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
