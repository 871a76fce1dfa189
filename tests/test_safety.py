"""What others give is data: nothing of it is run, and nothing is written where it says."""

import ast
import json
import pickle
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fixtures.cases import TOY
from harness.errors import DatasetError, ModelError, RecordError
from harness.landscape import CURVES, Landscape
from harness.measure_folder import read_points
from harness.models import load_model, model_fingerprint
from harness.tokenizer import load_tokenizer
from reports.reading import read_run
from reports.run import Run

ROOT = Path(__file__).parents[1]
MODEL, QUESTIONS = str(TOY / "model"), str(TOY / "questions")
CPU = torch.device("cpu")
NEVER = {
    "eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "marshal.loads", "shelve.open",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "joblib.load", "torch.jit.load",
}  # fmt: skip
# What these need to be safe, as keyword and value.
ONLY_WITH = {
    "torch.load": ("weights_only", True),
    "AutoModelForCausalLM.from_pretrained": ("use_safetensors", True),
    "AutoConfig.from_pretrained": ("trust_remote_code", False),
    "AutoTokenizer.from_pretrained": ("trust_remote_code", False),
    "AutoModelForCausalLM.from_config": ("trust_remote_code", False),
}
NOT_WITH = {("shell", True), ("allow_pickle", True), ("trust_remote_code", True)}


def sources() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split() if not name.startswith("tests/")]


def forbidden(text: str) -> list[str]:
    """Return the calls in a program's text that could run what others give."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {
            (keyword.arg, keyword.value.value)
            for keyword in node.keywords
            if isinstance(keyword.value, ast.Constant)
        }
        if (
            name in NEVER
            or (name in ONLY_WITH and ONLY_WITH[name] not in given)
            or NOT_WITH & given
        ):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_call_runs_what_others_give(file: Path) -> None:
    assert forbidden(file.read_text()) == []


def test_the_check_sees_the_whole_project() -> None:
    assert {"harness", "fixtures", "claims", "reports"} <= {
        file.relative_to(ROOT).parts[0] for file in sources()
    }


def test_the_check_itself_finds_what_it_should() -> None:
    for text in (
        "pickle.load(file)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(file, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "AutoConfig.from_pretrained(name)",
        "f(trust_remote_code=True)",
        "eval(text)",
    ):
        assert forbidden(text), text
    assert not forbidden("torch.load(file, weights_only=True); np.load(file); re.compile('a')")


class Attack:
    """Unpickled, it writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


def test_pickled_representations_are_not_unpickled(tmp_path: Path) -> None:
    run = tmp_path / "run"
    torch.save({"layer": Attack(run)}, tmp_path / "layer-1.pt")
    (tmp_path / "layer-2.npy").write_bytes(pickle.dumps(Attack(run)))
    for name in ("layer-1.pt", "layer-2.npy"):
        with pytest.raises(DatasetError, match="cannot be read as one array"):
            read_points(tmp_path / name, 3)
    assert not run.exists()
    torch.load(tmp_path / "layer-1.pt", weights_only=False)
    assert run.exists()  # so the attack is a real one


def test_pickled_weights_and_adapters_are_not_read(tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "model"
    shutil.copytree(MODEL, model)
    (model / "model.safetensors").unlink()
    torch.save({"weight": Attack(run)}, model / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(str(model), "float32", CPU)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    torch.save({"weight": Attack(run)}, adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        load_model(MODEL, "float32", CPU, adapter=adapter)
    assert not run.exists()


@pytest.mark.parametrize("known", [True, False])
def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path, known: bool) -> None:
    run, model = tmp_path / "run", tmp_path / "model"
    shutil.copytree(MODEL, model)
    code = f"from pathlib import Path\nPath({str(run)!r}).touch()\n"
    (model / "theirs.py").write_text(code + "class Config: pass\nclass Model: pass\n")
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    if not known:
        config["model_type"] = "theirs"
    (model / "config.json").write_text(json.dumps(config))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["theirs.Model", None]}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    for load in (
        lambda: model_fingerprint(str(model)),
        lambda: load_model(str(model), "float32", CPU),
        lambda: load_model(str(model), "float32", CPU, random_seed=0),
        lambda: load_tokenizer(str(model)),
    ):
        with suppress(ModelError):  # refused, or loaded without that code
            load()
    assert not run.exists()


def sharded(folder: Path, place: str) -> Path:
    """The toy with an index that names one file of weights, at `place` from its folder."""
    shutil.copytree(MODEL, folder)
    weights = folder / "model.safetensors"
    with safe_open(weights, "pt") as file:
        names = list(file.keys())
    target = folder / place
    target.parent.mkdir(exist_ok=True)
    weights.rename(target)
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, place)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return target


@pytest.mark.parametrize("place", ["../outside.safetensors", "sub/../../outside.safetensors"])
def test_weights_cannot_lie_outside_of_the_models_folder(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    index = {"metadata": {}, "weight_map": {"model.norm.weight": place}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for ask in (
        lambda: load_model(str(folder), "float32", CPU),
        lambda: model_fingerprint(str(folder)),
    ):
        with pytest.raises(
            ModelError, match=r"index\.json: names '.*outside.*give the whole model"
        ):
            ask()


def test_weights_in_a_folder_below_are_part_of_what_identifies_a_model(tmp_path: Path) -> None:
    target = sharded(tmp_path / "model", "shards/model-1.safetensors")
    before = model_fingerprint(str(tmp_path / "model"))
    load_model(str(tmp_path / "model"), "float32", CPU)
    tensors = load_file(target)
    tensors["model.norm.weight"] *= 2
    save_file(tensors, target, {"format": "pt"})
    assert model_fingerprint(str(tmp_path / "model")) != before


def test_a_name_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    curves = dict.fromkeys(CURVES, (0.5,))
    names = ("../../outside", "/outside", "..", "a/../../../outside")
    conditions = [Landscape(name, name, (1,), curves, 2) for name in names]
    settings = {"not_measured": [], "command": "", "device": "cpu"}
    Run({"settings": settings, "versions": {}}, [], [], conditions).write_folder(inside)
    assert len(list(inside.iterdir())) == len(names) + 1
    found = json.loads((inside / "results.json").read_text())
    for name in ("../outside.json", "/etc/passwd", ".."):
        found["landscapes"] = [name]
        (inside / "results.json").write_text(json.dumps(found))
        (tmp_path / "outside.json").write_text(conditions[0].to_json())
        with pytest.raises(RecordError, match=f"^{inside}"):  # looked for there alone
            read_run(inside)
    (tmp_path / "outside.json").unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
