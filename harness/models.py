"""Load a causal language model and its adapter, and say which model it is."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    cached_file,
    extract_commit_hash,
    is_flash_attn_2_available,
    logging,
)

from harness.checksums import file_digest
from harness.device import has_bfloat16
from harness.errors import ModelError, NoModelError, first_line

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER_WEIGHTS = "adapter_model.safetensors"
FLASH_CAPABILITY = (8, 0)  # of a GPU: Ampere, the first that flash-attention 2 runs on


def load_model(
    name: str,
    precision: str,
    device: torch.device,
    attention: str = "auto",
    adapter: Path | None = None,
    device_map: str | dict[str, Any] | None = None,
    offload: Path | None = None,
    random_seed: int | None = None,
    computes: torch.device | None = None,
) -> PreTrainedModel:
    """Return the model of the folder or hub name `name`, in evaluation mode on `device`.

    precision: name of a torch dtype. Weights are read from safetensors only.
    attention: transformers' `attn_implementation`; `auto` takes flash-attention 2 where it is
        installed and the GPU, the dtype and the model allow it, else transformers' own choice: sdpa
        where the model has it.
    adapter: a PEFT adapter's folder. In float32 LoRA is merged into the weights, which is a tenth
        faster; else it stays beside them, since merging would round it.
    device_map: accelerate's; `auto` spreads a model that is too large for one device over all GPUs,
        the memory and, if `offload` names a folder, the disk. `device` is then not used.
    random_seed: draw the weights from the architecture's own initialization with this seed, in the
        CPU's memory, and read none.
    computes: the device that will compute, if that is not `device`.

    Raises ModelError if there is no such model or adapter, or it cannot be read.
    """
    _set_aside()
    dtype, computes = getattr(torch, precision), computes or device
    if dtype is torch.bfloat16 and computes.type == "cpu" and not has_bfloat16():
        warnings.warn(
            "this processor has no instructions for bfloat16; --precision float32 takes a fraction "
            "of the time here",
            stacklevel=2,
        )
    chosen = _attention(name, dtype, computes) if attention == "auto" else attention
    if random_seed is not None:
        drawn = _random_model(name, dtype, chosen, random_seed).eval()
        return _spread(drawn, device_map, offload) if device_map else drawn.to(device)
    options: dict[str, Any] = {"device_map": device_map} if device_map else {}
    if offload:
        options["offload_folder"] = str(offload)
    where = check_name(name)
    if os.path.isdir(where):
        _weights_elsewhere(Path(where))
    try:
        with _without_reports():
            model, found = AutoModelForCausalLM.from_pretrained(
                where,
                dtype=dtype,
                attn_implementation=chosen,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # it would refuse them without a name
                **options,
            )
    except Exception as error:  # the library raises a dozen kinds, and what matters is its text
        raise NoModelError(f"{name}: cannot load the model ({first_line(error)})") from error
    if found["missing_keys"]:
        raise ModelError(
            f"{name}: its safetensors lack {min(found['missing_keys'])!r}, which would be drawn at "
            "random; give the whole model"
        )
    if found["mismatched_keys"]:
        key, stored, wanted = min(found["mismatched_keys"])
        raise ModelError(
            f"{name}: its safetensors have {key!r} of shape {tuple(stored)}, its config.json asks "
            f"for {tuple(wanted)}; give files that belong together"
        )
    if found["unexpected_keys"]:
        # Some models come with more than is meant to be loaded, such as heads for more tokens.
        unused = sorted(found["unexpected_keys"])
        warnings.warn(
            f"{name}: has no place for {len(unused)} of the tensors in its safetensors, such as "
            f"{unused[0]!r}; they are not used",
            stacklevel=2,
        )
    if adapter:
        model = _with_adapter(model, adapter)
    return model.eval() if device_map else model.to(device).eval()


@contextmanager
def _without_reports() -> Iterator[None]:
    """Keep transformers from printing tables about weights that do not fit: we say it."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_config(name: str) -> PreTrainedConfig:
    """Return the configuration of a model. Raises ModelError if it cannot be read."""
    where = check_name(name)
    try:
        return AutoConfig.from_pretrained(where, trust_remote_code=False)
    except Exception as error:  # as above
        raise NoModelError(f"{name}: cannot read the model ({first_line(error)})") from error


def _attention(name: str, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return flash-attention 2 where it can be had; None leaves the choice to transformers."""
    fits = device.type == "cuda" and dtype.itemsize == 2 and is_flash_attn_2_available()
    if not fits or torch.cuda.get_device_capability(device) < FLASH_CAPABILITY:
        return None
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(load_config(name)), None)
    return "flash_attention_2" if getattr(kind, "_supports_flash_attn", False) else None


def _random_model(
    name: str, dtype: torch.dtype, attention: str | None, seed: int
) -> PreTrainedModel:
    config = load_config(name)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
            )
    except Exception as error:  # as above
        raise ModelError(f"{name}: cannot make the model ({first_line(error)})") from error


def _spread(
    model: PreTrainedModel, device_map: str | dict[str, Any], offload: Path | None
) -> PreTrainedModel:
    """Return a model that is in memory spread over devices, as `from_pretrained` would have."""
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(model._no_split_modules or ())
    try:
        if isinstance(device_map, str):
            low, even = device_map == "balanced_low_0", device_map != "sequential"
            memory = get_balanced_memory(model, None, whole, low_zero=low) if even else None
            device_map = infer_auto_device_map(model, memory, whole)
        spread: PreTrainedModel = dispatch_model(
            model,
            device_map,
            offload_dir=offload,
            skip_keys=model._skip_keys_device_placement,
        )
    except Exception as error:  # as in `load_model`
        raise NoModelError(f"cannot spread the model over devices ({first_line(error)})") from error
    return spread


def _with_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    from peft import PeftModel, get_peft_model_state_dict

    check_adapter(adapter)
    if "disk" in getattr(model, "hf_device_map", {}).values():
        # PEFT would write the model's own files anew, with other names in them.
        raise ModelError(
            f"{adapter}: cannot be put on a model that is partly on disk; use more GPUs or memory, "
            "or give a model that the adapter is merged into"
        )
    own = {id(parameter) for parameter in model.parameters()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys")
            adapted = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False)
    except SafetensorError as error:
        raise ModelError(f"{adapter}: a file is damaged ({first_line(error)})") from error
    except Exception as error:  # as above
        raise ModelError(f"{adapter}: does not fit the model ({first_line(error)})") from error
    if adapted.active_peft_config.is_prompt_learning:
        raise ModelError(f"{adapter}: learns a prompt; give an adapter of the weights, as LoRA is")
    known = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as file:
        unused = {key for key in file.keys() if "lora_" in key} - known.keys()
    if unused:
        raise ModelError(
            f"{adapter}: does not fit the model, which has no place for {min(unused)!r}"
        )
    # The adapter's layers are put into the model itself, which is what the harness knows.
    base = adapted.get_base_model()
    for parameter in base.parameters():
        if id(parameter) not in own and not parameter.is_meta:
            parameter.data = parameter.data.to(model.dtype)
    return adapted.merge_and_unload() if _merges(adapted) else base


def _merges(adapted: PeftModel) -> bool:
    """Return whether all that the adapter adds can go into weights, and they lose nothing by it."""
    from peft import LoraModel
    from peft.tuners.lora import Linear as LoraLinear
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(adapted.base_model, LoraModel) or adapted.dtype != torch.float32:
        return False
    if hasattr(adapted.get_base_model(), "hf_device_map"):  # weights may be elsewhere
        return False
    layers = [layer for layer in adapted.modules() if isinstance(layer, BaseTunerLayer)]
    if not all(
        type(layer) is LoraLinear and not layer.lora_variant and not any(layer.lora_bias.values())
        for layer in layers
    ):
        return False
    # A weight may be that of several layers, or of the embeddings too.
    weights = [layer.weight for layer in layers] + [adapted.get_input_embeddings().weight]
    return len({id(weight) for weight in weights}) == len(weights)


@cache
def _set_aside() -> None:
    """Have collections pass over what is there already, libraries for the most part.

    They are so many objects that each collection took most of a second.
    """
    gc.collect()
    gc.freeze()


def forget_models() -> None:
    """Free the memory of models that nothing refers to any more: hooks keep them in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def parameter_count(name: str) -> int:
    """Return the number of parameters of a model, from its configuration alone.

    Raises ModelError if that cannot be read.
    """
    return int(model_without_weights(name).num_parameters())


def model_without_weights(name: str) -> PreTrainedModel:
    """Return a model on the device `meta`: what its configuration tells, and no values.

    Raises ModelError if that cannot be read.
    """
    config = load_config(name)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # as above
        raise NoModelError(f"{name}: cannot read the model ({first_line(error)})") from error


def check_name(name: str, file: str | None = "config.json") -> str:
    """Return `name` if it can be a model or a tokenizer: an existing folder, or a hub name.

    Raises ModelError for a folder that is missing or has no `file`.
    """
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
        if file and not os.path.isfile(os.path.join(folder, file)):
            raise NoModelError(f"{name}: no {file} in this folder; give a model folder")
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise NoModelError(
            f"{name}: no such model folder; give a folder or a hub name (owner/name)"
        )
    return name


def model_fingerprint(name: str, file: str | None = "config.json") -> str:
    """Return what identifies the model's bytes: the sha256 of a folder's files, or a hub commit.

    file: None for a tokenizer, which need not have a `config.json`.

    Raises ModelError for a folder that is missing or has no `file`, or a hub name out of reach.
    """
    folder = Path(check_name(name, file))
    if os.path.isdir(folder):
        return _digest(folder)
    files = [file] if file else ["tokenizer_config.json", "config.json"]
    try:
        return f"{name}@{_hub_commit(name, files)}"
    except Exception as error:  # as above
        raise NoModelError(
            f"{name}: no {files[0]} on the hub, or not reachable; give a folder"
        ) from error


def _hub_commit(name: str, files: Sequence[str]) -> str:
    """Return the commit that the first of `files` which is there is of."""
    for file in files:
        found = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        commit: str | None = extract_commit_hash(found, None)
        if commit:
            return commit
    raise FileNotFoundError(name)


def check_adapter(adapter: Path) -> None:
    """Raise ModelError if `adapter` is not the folder of a PEFT adapter in safetensors."""
    for file in ("adapter_config.json", ADAPTER_WEIGHTS):
        if not os.path.isfile(adapter / file):
            beside = [folder for folder in (adapter, adapter.parent) if os.path.isdir(folder)]
            near = {one.parent.name for folder in beside for one in folder.glob(f"*/{file}")}
            known = f", one of {', '.join(sorted(near))}" if near else ""
            raise ModelError(
                f"{adapter}: no {file} in this folder; give a PEFT adapter's folder, and "
                f"--checkpoint if its checkpoints are in folders of their own{known}"
            )


def adapter_fingerprint(adapter: Path) -> str:
    """Return the sha256 of an adapter's files. Raises ModelError if it is none."""
    check_adapter(adapter)
    return _digest(adapter)


def _digest(folder: Path) -> str:
    names = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")  # the last: tokenizers
    files = sorted(file for name in names for file in folder.glob(name))
    files += _weights_elsewhere(folder)
    stats = [file.stat() for file in files]
    return _digest_of(
        tuple(
            (file, stat.st_size, stat.st_mtime_ns) for file, stat in zip(files, stats, strict=True)
        )
    )


def _weights_elsewhere(folder: Path) -> list[Path]:
    """Return the files of weights that a model's index names in folders below its own, sorted.

    Raises ModelError for one that is not below it: the index would lead out of the folder.
    """
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    try:
        named = json.loads(index.read_text("utf-8"))["weight_map"].values()
        parts = {Path(name).parts for name in named}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []  # there is none, or transformers says what is wrong with it
    for path in parts:
        if ".." in path or Path(*path).is_absolute():
            raise ModelError(
                f"{index}: names {str(Path(*path))!r}, which is not in its folder; give the whole "
                "model in one folder"
            )
    inner = [folder.joinpath(*path) for path in sorted(parts) if len(path) > 1]
    return [file for file in inner if file.is_file()]


@cache  # all conditions, controls and checkpoints ask for it
def _digest_of(files: Sequence[tuple[Path, int, int]]) -> str:
    """Return the sha256 of files, of which size and time of change tell whether they are new."""
    digest = hashlib.sha256()
    for file, _, _ in files:
        digest.update(f"{file.name}:{file_digest(file)}\n".encode())
    return digest.hexdigest()
