"""Models and tokenizers that are not whole, or do not fit: refused in a sentence."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from fixtures.cases import TOY
from harness.cli import commands
from harness.errors import ModelError, NoModelError, UserError
from harness.models import load_model, model_fingerprint
from harness.pipeline import Experiment
from harness.store import Store
from harness.tokenizer import letter_tokens
from tests.trying import refused

MODEL, QUESTIONS = str(TOY / "model"), str(TOY / "questions")


def broken(folder: Path, change: Callable[[Path], None]) -> str:
    shutil.copytree(MODEL, folder)
    change(folder)
    return str(folder)


def configured(**changed: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))

    return change


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None  # type: ignore[func-returns-value]


def cut(name: str, share: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return change


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.3.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "config.json").unlink(),
        written("config.json", b""),
        written("config.json", b"[]"),
        written("config.json", b"{}"),
        written("config.json", b"\xff\xfe"),
        configured(model_type="unheard-of"),
        configured(hidden_size="wide"),
        configured(hidden_size=100),
        configured(num_attention_heads=0),
        configured(vocab_size=7),
        lambda folder: (folder / "model.safetensors").unlink(),
        cut("model.safetensors", 0.5),
        cut("model.safetensors", 0.0),
        written("model.safetensors", b"\x00" * 100),
        without_a_tensor,
        lambda folder: (folder / "tokenizer.json").unlink(),
        cut("tokenizer.json", 0.5),
        written("tokenizer.json", b"{}"),
        written("tokenizer_config.json", b"["),
    ],
)
def test_a_model_that_is_not_whole_is_refused(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    model = broken(tmp_path / "model", change)
    given = ["measure", "--model", model, "--mmlu", QUESTIONS, "--per-subject", "3"]
    refused([*given, "--store", str(tmp_path / "store")], f"{model}: ", tmp_path)


def with_a_tensor_more(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(
        len(tensors["model.layers.0.self_attn.q_proj.weight"])
    )
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "count", "name"),
    [
        (with_a_tensor_more, 1, "model.layers.0.self_attn.q_proj.bias"),
        (configured(num_hidden_layers=7), None, "model.layers.7.input_layernorm.weight"),
    ],
)
def test_of_weights_that_are_not_used_the_user_hears(
    tmp_path: Path, change: Callable[[Path], None], count: int | None, name: str
) -> None:
    model = broken(tmp_path / "model", change)
    with pytest.warns(UserWarning, match=f"has no place for {count or r'[0-9]+'} of .*'{name}'"):
        load_model(model, "float32", torch.device("cpu"))


def test_an_adapter_of_a_deeper_model_is_refused(tmp_path: Path) -> None:
    deep = load_model(str(TOY / "model"), "float32", torch.device("cpu"))
    get_peft_model(deep, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "a")
    shallow = broken(tmp_path / "model", configured(num_hidden_layers=7))
    with (
        pytest.warns(UserWarning, match="has no place"),
        pytest.raises(ModelError, match=r"a: does not fit the model, .*layers\.7\."),
    ):
        load_model(shallow, "float32", torch.device("cpu"), adapter=tmp_path / "a")


def test_prompts_that_do_not_fit_are_refused_unless_they_may_be_cut(tmp_path: Path) -> None:
    model = broken(tmp_path / "model", configured(max_position_embeddings=20))
    given = ["measure", "--model", model, "--mmlu", QUESTIONS, "--per-subject", "3"]
    given += ["--store", str(tmp_path / "store")]
    refused(given, f"{model}: takes 20 tokens, and prompt 0 has", tmp_path)
    finetune = ["finetune", "--model", model, "--mmlu", QUESTIONS, "--store", given[-1]]
    refused(finetune, f"{model}: takes 20 tokens, and prompt 0 has", tmp_path)
    refused([*given, "--max-length", "21"], "takes 20 tokens, and prompt 0 has 21", tmp_path)
    done = CliRunner().invoke(
        commands, [*given, "--max-length", "20", "--out", str(tmp_path / "landscape.json")]
    )
    assert done.exit_code == 0, done.output


def test_a_tokenizer_that_gives_tokens_which_the_model_lacks_is_refused(tmp_path: Path) -> None:
    config = json.loads((TOY / "model" / "config.json").read_text())
    fewer = broken(tmp_path / "model", configured(vocab_size=config["vocab_size"] - 200))
    given = ["measure", "--model", fewer, "--mmlu", QUESTIONS, "--per-subject", "3"]
    message = f"{fewer}: has {config['vocab_size'] - 200} tokens, and the tokenizer gives number"
    refused([*given, "--store", str(tmp_path / "store")], message, tmp_path)


def test_a_tokenizer_on_the_hub_needs_no_model_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def put(name: str, commit: str, *files: str) -> str:
        repository = tmp_path / "cache" / f"models--owner--{name}"
        for folder in ("refs", f"snapshots/{commit}", f".no_exist/{commit}"):
            (repository / folder).mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        for file in files:
            shutil.copy(TOY / "model" / file, repository / "snapshots" / commit)
        if "config.json" not in files:  # so the cache keeps that it was looked for
            (repository / ".no_exist" / commit / "config.json").touch()
        return f"owner/{name}"

    alone = put("tokenizer", "a" * 40, "tokenizer.json", "tokenizer_config.json")
    beside = put("old", "b" * 40, "tokenizer.json", "config.json")
    model = put("model", "c" * 40, "tokenizer.json", "tokenizer_config.json", "config.json")
    for name, commit in ((alone, "a" * 40), (beside, "b" * 40), (model, "c" * 40)):
        asked = Experiment(MODEL, QUESTIONS, Store(tmp_path / "store"), tokenizer=name)
        assert asked.fingerprint.endswith(f"; tokenizer {name}@{commit}")
    assert model_fingerprint(model) == f"{model}@{'c' * 40}"
    given = Experiment(MODEL, QUESTIONS, Store(tmp_path / "store"), tokenizer=alone)
    assert given.tokens(["What is it?"]) == replace(given, tokenizer=None).tokens(["What is it?"])
    for name, file in ((alone, "config.json"), ("owner/nothing", "config.json")):
        with pytest.raises(NoModelError, match=f"^{name}: no {file} on the hub, or not reachable"):
            model_fingerprint(name)
    with pytest.raises(NoModelError, match=r"nothing: no tokenizer_config\.json on the hub"):
        model_fingerprint("owner/nothing", None)


def test_a_full_gpu_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr("harness.experiment_commands.check_landscape", lambda *_, **__: None)
    monkeypatch.setattr(Experiment, "representations", fill)
    given = ["measure", "--model", MODEL, "--mmlu", QUESTIONS, "--store", str(tmp_path / "store")]
    refused(given, "the GPU's memory is full (CUDA out of memory. Tried", tmp_path)


class Letters:
    """A tokenizer that gives `Answer: X` the tokens that it is told."""

    name_or_path = "theirs"

    def __init__(self, **tokens: list[int]) -> None:
        self.tokens = tokens

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        letter = text.removeprefix("Answer:").strip()
        return [1, *self.tokens.get(letter, [ord(letter)])] if letter else [1]

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [0, *self.encode(text, True)]}


class Ending(Letters):
    """A tokenizer that ends what it is given."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [*self.encode(text, True), 2]}


class Nothing(Letters):
    """A tokenizer that has no tokens for anything."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return []


def test_a_tokenizer_without_a_token_for_a_letter_is_named() -> None:
    assert letter_tokens(Letters()) == [65, 66, 67, 68]
    with pytest.raises(UserError, match="for 'A'"):
        letter_tokens(Nothing())
    for odd in (Letters(C=[5, 6]), Letters(C=[]), Letters(C=[65])):
        with pytest.raises(UserError, match=r"theirs: the tokenizer has no token .* for 'C'"):
            letter_tokens(odd)
    with pytest.raises(UserError, match="theirs: the tokenizer ends every prompt with a special"):
        letter_tokens(Ending())
