"""`landscape extract`: its options, the files that it hands out, adapters, and large models."""

import csv
import json
import shutil
import warnings
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import PreTrainedModel

from fixtures.cases import TOY
from harness.cli import commands
from harness.errors import ModelError, SettingsError, UserError
from harness.export import first_of_each, new_folder
from harness.extraction import extract
from harness.extraction import packed_weights as packing
from harness.extraction.extract import _some_logits
from harness.extraction.packed_weights import packed_weights
from harness.extraction.shards import read_layer
from harness.models import load_config, load_model
from harness.pipeline import Experiment
from harness.processes import Processes
from harness.protocol import ExtractionSettings, PromptFormat, Subset
from harness.store import Store
from harness.tokenizer import load_tokenizer, tokenize
from tests.trying import refused

MODEL, QUESTIONS = str(TOY / "model"), str(TOY / "questions")
TOKENIZER, CONFIG = load_tokenizer(MODEL), load_config(MODEL)
PROMPTS = ["The north.\nAnswer:", "A. amber\nB. flint\nAnswer:", "What is it? " * 9]
CPU = torch.device("cpu")


def run(tmp_path: Path, *options: str) -> str:
    common = ["extract", "--model", MODEL, "--mmlu", QUESTIONS, "--per-subject", "2"]
    common += ["--precision", "float32", "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(commands, [*common, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.strip().splitlines()[-1]


def test_files_for_other_programs(tmp_path: Path) -> None:
    asked = ["--num-few-shots", "1", "--max-length", "30"]  # too few to answer all
    folder = Path(run(tmp_path, "--out-dir", str(tmp_path / "out"), *asked))
    labels = list(csv.DictReader((folder / "labels.csv").open(encoding="utf-8")))
    assert len(labels) == 32 and len({label["subject"] for label in labels}) == 16
    right = [label["given"] == label["answer"] for label in labels]
    answered = json.loads((folder / "accuracy.json").read_text())
    assert 0 < answered["micro"] < 1 and answered["micro"] == sum(right) / 32
    for subject, share in answered["by_subject"].items():
        own = [one for one, label in zip(right, labels, strict=True) if label["subject"] == subject]
        assert share == sum(own) / 2 and len(own) == 2
    entry = Path(run(tmp_path, *asked))  # found in the store
    for layer in (1, 8):
        states = load_file(folder / f"layer-{layer:03d}.safetensors")["representations"]
        assert torch.equal(states, read_layer(entry, layer))
    assert json.loads((folder / "settings.json").read_text())["PromptFormat"]["shots"] == 1
    with pytest.raises(UserError, match="holds something already"):
        run(tmp_path, "--out-dir", str(folder))


def test_the_names_of_the_papers_script_mean_the_same(tmp_path: Path) -> None:
    new = run(
        tmp_path, "--shots", "1", "--site", "res2", "--max-length", "90", "--layer-interval", "2"
    )
    papers = run(
        tmp_path, "--num_few_shots", "1", "--target_layer", "res2", "--max_seq_len", "90",
        "--layer_interval", "2", "--use_last_token", "--micro_batch_size", "1",
        "--preprocessing_num_workers", "2", "--logging_steps", "10", "--use_slow_tokenizer",
        "--tokenizer_dir", MODEL, "--precision", "fp32", "--dataset_name", "mmlu",
        "--dataset_path", QUESTIONS, "--low_cpu_mem_usage", "--save_repr",
    )  # fmt: skip
    # Another tokenizer is another key, but here it is the same one.
    assert papers != new
    for layer in (2, 8):
        torch.testing.assert_close(read_layer(Path(papers), layer), read_layer(Path(new), layer))


def test_a_dry_run_counts_what_there_is_to_compute(tmp_path: Path) -> None:
    line = run(tmp_path, "--shots", "2", "--dry-run")
    experiment = Experiment(MODEL, QUESTIONS, Store(tmp_path), Subset(per_subject=2), most_shots=2)
    prompts = TOKENIZER(experiment.prompts(PromptFormat(2)))["input_ids"]
    beginnings = {tuple(ids[: end + 1]) for ids in prompts for end in range(len(ids))}
    model = load_model(MODEL, "float32", CPU)
    weights = {name: one.numel() for name, one in model.named_parameters()}
    embeddings = weights.pop("model.embed_tokens.weight")  # the output layer's too
    assert embeddings and "lm_head.weight" not in weights
    work = 2 * sum(weights.values()) * len(beginnings) / 1e15
    assert line == (
        f"{len(prompts)} prompts of {sum(map(len, prompts))} tokens, of which {len(beginnings)} "
        f"are computed where what prompts share is once: {work:.3g} PFLOP"
    )
    assert not (tmp_path / "store").exists()


def test_lines_in_the_log_are_ours_and_come_to_an_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, "--logging-steps", "1000")
    assert [one.name.partition(".")[0] for one in caplog.records] == ["harness"]
    assert caplog.messages[0].endswith("32 of 32 prompts")


def test_equal_prompts_once() -> None:
    assert first_of_each(["a", "b", "a", "c", "b"]) == [0, 1, 3]


def test_workers_tokenize_alike() -> None:
    cut = [ids[-3:] for ids in TOKENIZER(PROMPTS)["input_ids"]]
    assert tokenize(TOKENIZER, PROMPTS, CONFIG, max_length=3) == cut
    assert tokenize(TOKENIZER, PROMPTS, CONFIG, workers=2) == TOKENIZER(PROMPTS)["input_ids"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes the toy, in a folder of checkpoints."""
    torch.manual_seed(0)
    model = load_model(MODEL, "float32", CPU)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(folder / "step-10")
    return folder


def test_an_adapter_is_put_on_the_model(adapter: Path, tmp_path: Path) -> None:
    plain = load_model(MODEL, "float32", CPU)
    adapted = load_model(MODEL, "float32", CPU, adapter=adapter / "step-10")
    merged = load_model(MODEL, "float32", CPU)
    weights = load_file(adapter / "step-10" / "adapter_model.safetensors")
    for layer, block in enumerate(merged.model.layers):
        for module, linear in (
            ("self_attn.q_proj", block.self_attn.q_proj),
            ("mlp.down_proj", block.mlp.down_proj),
        ):
            stem = f"base_model.model.model.layers.{layer}.{module}"
            a, b = (weights[f"{stem}.lora_{which}.weight"] for which in "AB")
            linear.weight.data += b @ a * (8 / 4)  # alpha over rank: W + BA alpha/r
    found, expected, without = (
        extract(model, TOKENIZER, PROMPTS, ExtractionSettings()).layers[8]
        for model in (adapted, merged, plain)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, without, rtol=0.1)
    entry = run(tmp_path, "--adapter", str(adapter), "--checkpoint", "step-10")
    assert entry != run(tmp_path)


@pytest.mark.parametrize(
    ("precision", "change", "beside"),
    [
        ("float32", {}, False),
        ("bfloat16", {}, True),
        ("float32", {"use_dora": True}, True),
        ("float32", {"target_modules": ["lm_head"]}, True),  # the toy's is its embeddings' too
        ("float32", {"layer_replication": [[0, 5], [3, 8]]}, True),  # two layers have one weight
    ],
)
def test_an_adapter_is_merged_where_nothing_is_lost(
    tmp_path: Path, precision: str, change: dict[str, object], beside: bool
) -> None:
    plain = load_model(MODEL, "float32", CPU)
    assert plain.config.tie_word_embeddings
    config = LoraConfig(**({"r": 4, "target_modules": ["q_proj"]} | change))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, of tied weights
        adapted = get_peft_model(plain, config)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        adapted.save_pretrained(tmp_path)
        loaded = load_model(MODEL, precision, CPU, adapter=tmp_path)
    assert any("lora" in name for name, _ in loaded.named_parameters()) == beside
    ids = torch.tensor([TOKENIZER(PROMPTS[1])["input_ids"]])
    with torch.inference_mode():
        expected = adapted.eval()(input_ids=ids).logits
        found = loaded(input_ids=ids).logits.float()
    assert (found - expected).norm() < (1e-5 if precision == "float32" else 0.05) * expected.norm()


def test_an_adapter_of_another_model_is_told(adapter: Path, tmp_path: Path) -> None:
    own = Experiment(MODEL, QUESTIONS, Store(tmp_path)).fingerprint
    folder = shutil.copytree(adapter, tmp_path / "trained")
    record = {
        "trained_on": {"dataset": "mmlu", "questions": 1, "fingerprint": "x"}, "FineTuning": {},
        "learnt": [], "loss": [], "validation": {}, "seconds": 0,
    }  # fmt: skip
    for model, warned in ((own, False), ("0" * 64, True), ("owner/name@commit", False)):
        (folder / "training.json").write_text(json.dumps(record | {"model": model}))
        adapted = Experiment(MODEL, QUESTIONS, Store(tmp_path), adapter=folder / "step-10")
        with warnings.catch_warnings(record=True) as told:
            assert adapted.fingerprint.startswith(f"{own}; adapter ")
        assert warned == any("was trained on other files" in str(one.message) for one in told)


def test_one_model_is_not_spread_by_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.checks.launched_processes", lambda: Processes(0, 2))
    with pytest.raises(SettingsError, match="several processes would each have one"):
        run(tmp_path, "--device-map", "auto")
    assert not (tmp_path / "store").exists()


def test_letters_are_told_apart_in_bfloat16() -> None:
    # The third and the fourth, 20.08 and 20.12, would be the same number there, and tie.
    states = torch.full((1, 4), 5.0, dtype=torch.bfloat16)
    weights = torch.ones(4, 4, dtype=torch.bfloat16)
    weights[:, 0] += torch.arange(4) / 128
    head = torch.nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
    head.weight.data = weights
    found = _some_logits(head, states, [0, 1, 2, 3])
    assert torch.equal(found.double(), states.double() @ weights.double().T)
    assert found.argmax() == 3


def test_two_exports_into_one_folder_do_not_mix(tmp_path: Path) -> None:
    def other() -> None:
        with pytest.raises(SettingsError, match="holds something already; give a new folder"):
            with new_folder(tmp_path / "out") as unfinished:
                (unfinished / "of the other").touch()
        refused.set()

    refused = Event()
    with new_folder(tmp_path / "out") as unfinished:
        (unfinished / "one").touch()
        waiting = Thread(target=other)
        waiting.start()
        assert not refused.wait(0.5)  # it waits for what this one does
        (unfinished / "more").touch()
    waiting.join(20)
    assert refused.is_set()
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["more", "one"]
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_a_wrong_adapter_is_named(adapter: Path, tmp_path: Path) -> None:
    # No checkpoint, or one that was not kept: the message tells which there are.
    for given in ([], ["--checkpoint", "step-1"]):
        with pytest.raises(ModelError, match=r"no adapter_config.json .* --checkpoint .*step-10"):
            run(tmp_path, "--adapter", str(adapter), *given)
    assert not (tmp_path / "store").exists()


def test_an_adapter_that_would_be_worn_in_part_is_refused(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter / "step-10", tmp_path / "part")
    weights = load_file(tmp_path / "part" / "adapter_model.safetensors")
    weights.pop("base_model.model.model.layers.3.self_attn.q_proj.lora_B.weight")
    save_file(weights, tmp_path / "part" / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="part: does not fit the model"):
        load_model(MODEL, "float32", CPU, adapter=tmp_path / "part")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "dev+validation", "--shots", "1"], "holds 'dev', which the shots come from"),
        (["--split", "dev[:3]", "--shots", "1"], "holds 'dev', which the shots come from"),
        (["--store", "/dev/null/store"], "/dev/null/store: cannot be written"),
        (["--logging-steps", "0"], "0 is not in the range"),
        (["--token-budget", "0"], "'--token-budget': 0 is not in the range x>=1"),
        (["--checkpoint", "step-10"], "--checkpoint needs --adapter"),
        (["--use-last-token", "--reduction", "mean"], "contradict each other"),
        (["--site", "logits", "--reduction", "mean"], "logits are of the last token only"),
        (["--remove-duplicates"], "--remove-duplicates needs --out-dir"),
        (["--offload-folder", "folder"], "--offload-folder needs --device-map"),
        (["--out-dir", "/dev/null/out"], "/dev/null/out: a file is in the way"),
        (["--out-dir", str(Path(MODEL))], "holds something already; give a new folder"),
        (["--nonsense"], "No such option"),
        (["--dataset_name", "scienceqa"], "'scienceqa' is not 'mmlu'"),
        (["--on-training"], "--on-training needs --adapter"),
        (["--adapter", "a", "--on-training"], "does not tell which questions trained the adapter"),
        (
            ["--adapter", "a", "--on-training", "--shots", "1"],
            "leave out --shots, --split",
        ),
        (["--mask-path", "none.npy"], "none.npy: cannot be read as .npy"),
        (["--seed", "-1"], "seed is -1; give 0 to"),
        (["--model", "a" * 300], "no such model folder"),
        (["--model", "~nobody-here/x/y"], "no such model folder"),
        (["--mmlu", "~nobody-here/x"], "no such dataset folder"),
        (["--store", "a" * 300], "cannot be written (File name too long)"),
        (["--adapter", "a" * 300], "no adapter_config.json in this folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, options: list[str], message: str) -> None:
    common = ["extract", "--model", MODEL, "--mmlu", QUESTIONS, "--store", str(tmp_path / "store")]
    refused([*common, *options], message, tmp_path)


@pytest.mark.parametrize("command", ["extract", "measure", "finetune"])
def test_the_stages_hear_of_the_same_store_as_the_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("LANDSCAPE_STORE", "/dev/null/elsewhere")
    given = [command, "--model", MODEL, "--mmlu", QUESTIONS, "--precision", "float32"]
    refused(given, "/dev/null/elsewhere: cannot be written", tmp_path)


def test_a_model_that_is_partly_on_disk(tmp_path: Path) -> None:
    whole = load_model(MODEL, "float32", CPU)
    parts = {f"model.layers.{n}": "disk" if n > 4 else "cpu" for n in range(8)}
    parts |= {"model.embed_tokens": "cpu", "model.norm": "disk", "lm_head": "cpu"}
    parts |= {"model.rotary_emb": "cpu"}
    _compare(load_model(MODEL, "float32", CPU, device_map=parts, offload=tmp_path / "one"), whole)
    drawn = load_model(MODEL, "float32", CPU, random_seed=1)
    other = {"device_map": parts, "offload": tmp_path / "other", "random_seed": 1}
    _compare(load_model(MODEL, "float32", CPU, **other), drawn)  # type: ignore[arg-type]


def _compare(spread: PreTrainedModel, whole: PreTrainedModel) -> None:
    assert spread.model.layers[7].mlp.up_proj.weight.is_meta
    found, expected = (
        extract(model, TOKENIZER, PROMPTS, ExtractionSettings()) for model in (spread, whole)
    )
    for layer, states in expected.layers.items():
        torch.testing.assert_close(found.layers[layer], states, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.letter_logits, expected.letter_logits, rtol=1e-4, atol=1e-4)


def test_one_that_is_spread_as_it_fits_is_the_same_model_also_with_random_weights() -> None:
    plain, spread = (
        load_model(MODEL, "float32", CPU, device_map=where, random_seed=1)
        for where in (None, "auto")
    )
    assert spread.hf_device_map
    for name, value in plain.state_dict().items():
        assert torch.equal(spread.state_dict()[name], value)


def test_only_the_mlp_that_is_known_is_fused() -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("needs a CPU whose products are fused")
    model = load_model(MODEL, "bfloat16", CPU)
    first, second, *_ = (layer.mlp for layer in model.model.layers)
    first.act_fn = torch.nn.GELU()
    usual = type(second).forward
    type_of_second = type("Doubled", (type(second),), {"forward": lambda s, x: 2 * usual(s, x)})
    second.__class__ = type_of_second
    with packed_weights(model, 64):
        assert "forward" not in vars(first)
        assert "forward" not in vars(second)


def test_weights_that_an_adapter_reads_itself_are_not_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pack(linear: torch.nn.Linear, tokens: int) -> torch.Tensor:
        """What packing does where the processor has matrix units: the plain weight is gone."""
        kept = linear.weight.detach().clone()
        linear.forward = lambda states: F.linear(states, kept, linear.bias)  # type: ignore
        linear.weight.data = torch.empty(0)
        return kept.to_mkldnn()

    for name in ("plain", "dora"):
        adapted = get_peft_model(
            load_model(MODEL, "float32", CPU),
            LoraConfig(r=4, target_modules=["q_proj"], use_dora=name == "dora"),
        )
        adapted.save_pretrained(tmp_path / name)
        model = load_model(MODEL, "float32", CPU)
        model = PeftModel.from_pretrained(model, str(tmp_path / name)).get_base_model().eval()
        ids = torch.tensor([TOKENIZER(PROMPTS[1])["input_ids"]])
        block = model.model.layers[0].self_attn
        with torch.inference_mode(), monkeypatch.context() as patch:
            plain = model(input_ids=ids).logits
            patch.setattr(packing, "_helps", lambda module: type(module) is torch.nn.Linear)
            patch.setattr(packing, "_pack", pack)
            patch.setattr(packing, "fuse", lambda module, packed: False)
            with packed_weights(model, 64):
                assert block.k_proj.weight.numel() == 0  # other layers are
                assert (block.q_proj.lora_A["default"].weight.numel() > 0) == (name == "dora")
                torch.testing.assert_close(model(input_ids=ids).logits, plain)
        assert block.k_proj.weight.numel() > 0


def test_packed_weights_come_back_bit_for_bit() -> None:
    model = load_model(MODEL, "bfloat16", CPU)
    before = {name: value.clone() for name, value in model.named_parameters()}
    ids = torch.tensor([TOKENIZER(PROMPTS[1])["input_ids"]])
    with torch.inference_mode():
        plain = model(input_ids=ids).logits
        with packed_weights(model, 64):
            packed = model(input_ids=ids).logits
            fused = ["forward" in vars(layer.mlp) for layer in model.model.layers]
            supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
            assert fused == [supported] * len(fused)  # where the matrix units are
    assert (packed - plain).norm() < 0.02 * plain.norm()
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    model(input_ids=ids).logits.sum().backward()  # still a model that can be trained
