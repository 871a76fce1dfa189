"""The precision that a machine computes in, unless another is asked for."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from harness import device, measurement
from harness.cli import commands
from harness.finetune_command import finetune, training_of
from harness.measurement import Labels
from harness.models import load_model
from harness.processes import Processes
from harness.protocol import GeometrySettings
from tests.running import MODEL, QUESTIONS, Command

CPU = torch.device("cpu")
PLAIN = {"architecture": "x86_64", "avx512_f": True, "amx_bf16": False, "avx512_bf16": False}
MACHINES = [
    (PLAIN, "float32"),
    (PLAIN | {"avx512_bf16": True}, "bfloat16"),
    (PLAIN | {"amx_bf16": True}, "bfloat16"),
    ({"neon": True, "bf16": False}, "float32"),
    ({"neon": True, "bf16": True}, "bfloat16"),
    ({"vsx": True}, "bfloat16"),  # of which torch does not say it
]


def on(monkeypatch: pytest.MonkeyPatch, processor: dict[str, object]) -> None:
    """Compute on a machine without a GPU, whose processor has these capabilities."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)


@pytest.mark.parametrize(("processor", "precision"), MACHINES)
def test_bfloat16_is_taken_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, processor: dict[str, object], precision: str
) -> None:
    on(monkeypatch, processor)
    assert device.default_precision() == precision
    assert device.default_precision(on_gpu=True) == "bfloat16"
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert device.default_precision() == "bfloat16"


def test_a_gpu_takes_bfloat16_whatever_the_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, PLAIN)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device.default_precision() == "bfloat16"
    assert device.default_precision(on_gpu=False) == "float32"


def test_processes_on_unlike_processors_take_the_main_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, PLAIN | {"amx_bf16": True})
    monkeypatch.setattr(Processes, "agree", lambda self, answer: False)
    monkeypatch.setattr(device, "launched_processes", lambda: Processes(1, 2))
    assert device.default_precision() == "float32"


@pytest.mark.parametrize("processor", [PLAIN, PLAIN | {"amx_bf16": True}])
def test_the_stages_take_it_and_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, processor: dict[str, object]
) -> None:
    on(monkeypatch, processor)
    precision = device.default_precision()
    given = ["--model", MODEL, "--mmlu", QUESTIONS, "--per-subject", "2", "--out-dir"]
    for number, more in enumerate(([], ["--precision", precision])):
        out = tmp_path / str(number)
        asked = ["extract", *given, str(out), "--store", str(tmp_path / "store"), *more]
        done = CliRunner().invoke(commands, asked)
        assert done.exit_code == 0
        # What is there is not computed again, and whoever says what would be taken finds it.
        assert (f"0-shot: extract in {precision}: " in done.stderr) == (not more)
        settings = json.loads((out / "settings.json").read_text("utf-8"))
        assert settings["ExtractionSettings"]["precision"] == precision


def test_fine_tuning_takes_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, PLAIN)
    given = ["--model", MODEL, "--mmlu", QUESTIONS]
    training = training_of(finetune.make_context("finetune", given).params)
    assert training.settings.precision == "float32"
    assert training.experiment.extraction.precision == "float32"


def test_the_claims_take_it_and_say_so() -> None:
    judged = ["claims", "--collect-only", "--model", MODEL, "--mmlu", QUESTIONS]
    printed, errors = Command("pytest", *judged).communicate(timeout=300)
    assert f"; device {device.device_name()}, {device.default_precision()}\n" in printed, errors


def test_bfloat16_that_is_asked_for_is_computed_with_a_warning_where_it_is_slow(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    on(monkeypatch, PLAIN)
    assert load_model(MODEL, "bfloat16", CPU).dtype is torch.bfloat16
    assert "no instructions for bfloat16; --precision float32" in str(recwarn.pop(UserWarning))


@pytest.mark.parametrize(("free", "kind"), [(2**33, "cuda"), (2**33 - 1, "cpu")])
def test_points_go_to_a_gpu_that_has_room(
    free: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**40))
    assert device.device_with_room(2**33).type == kind


def test_points_are_measured_by_the_cpu_where_the_room_on_the_gpu_is_gone_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points, labels = torch.randn(80, 3), Labels(["a", "b"] * 40, ["A", "B"] * 40)
    settings = GeometrySettings()
    expected = measurement.measure_layer(points, labels, settings).values
    tried: list[str] = []

    def first_identical(points: torch.Tensor) -> object:
        tried.append(points.device.type)
        if points.device.type == "meta":  # in the part of a GPU
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(points)

    real = measurement.first_identical
    monkeypatch.setattr(measurement, "device_with_room", lambda wanted: torch.device("meta"))
    monkeypatch.setattr(measurement, "first_identical", first_identical)
    found = measurement.measure_layer(points, labels, settings).values
    assert (str(found), tried) == (str(expected), ["meta", "cpu"])
