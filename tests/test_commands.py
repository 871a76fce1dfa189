"""The commands as a user types them: what they write, and how they refuse bad input."""

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from fixtures.cases import cases_of
from fixtures.judging import measure_or_skip
from fixtures.measured import Measured
from fixtures.request import Request
from harness.errors import ModelError, NoModelError, SettingsError
from harness.landscape import Draw
from harness.protocol import ExtractionSettings, Subset
from harness.published import read_published
from reports.reading import read_run
from reports.run import AUTHORS_CURVES, Run
from tests.running import IMPORTED, MODEL, QUESTIONS, ROOT, run


def test_what_computes_nothing_does_not_wait_for_torch() -> None:
    loaded = "import harness.cli, sys; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "./nowhere"], "./nowhere: no such model folder"),
        (["--model", MODEL, "--mmlu", "./nowhere"], "./nowhere: no such dataset folder"),
        (["--model", MODEL, "--mmlu", QUESTIONS, "--shots", "9"], "9 shots asked for"),
        (["--model", MODEL, "--mmlu", QUESTIONS, "--per-subject", "2"], "the geometry needs 42"),
        (["--site", "norm3"], "unknown site 'norm3'; choose one of norm1"),
        (["--claim", "no-such"], "unknown claim 'no-such'; choose from answers-clusters"),
        (["--shots", "0,x"], "--shots is '0,x'"),
        (["--published", "./nowhere.json"], "nowhere.json: cannot be read"),
        (["--published", "LICENSE"], "LICENSE: is not JSON"),
        (["--recorded", "./nowhere.json"], "nowhere.json: cannot be read"),
        (["--recorded", "LICENSE"], "LICENSE: is not JSON"),
        (["--recorded", "reports/published-curves.json"], "has no field 'record'; run the claims"),
        (["--record", "nowhere/record.json"], "nowhere/record.json: there is no folder"),
        (["--record", "claims"], "claims: is a folder; give the name of a file in it"),
        (["--record", "/dev/null"], "/dev/null: is no plain file"),
        (["--record", "r.json", "--claim", "hierarchy"], "--record writes all claims; leave"),
        (["--recorded", "reports/recorded/toy.json", "--controls"], "leave out --controls"),
        (["--recorded", "reports/recorded/toy.json", "--shots=0"], "leave out --shots"),
        (["--published", "reports/published-curves.json", "--control", "embeddings"], "leave out"),
        (["-m", "gpu", "--model", MODEL], "-m gpu judges the paper's models; leave out --model"),
        (["--record", "r.json", "-k", "answers"], "--record writes all claims; leave out -k"),
        (["--record", "r.json", "-kanswers"], "--record writes all claims; leave out -k"),
        (["--record", "r.json", "--last-failed"], "--record writes all claims; leave out -k"),
        (["--record", "r.json", "--ignore=claims/test_answers.py"], "--record writes all claims"),
        (["-n", "2"], "each process of -n would report its part of the claims"),
        (["-q", "-n", "2"], "each process of -n would report its part of the claims"),
        (["--record", "r.json", "--stepwise"], "--record writes all claims; leave out -k"),
        (["--controls", "--control", "embeddings", "--control-seeds", "3"], "--control-seeds"),
        (["--control-seeds", "3"], "--control-seeds needs --controls, or --control random-weights"),
        (["--model", "~nobody-here/x"], "no such model folder"),
        (
            ["--fine-tune", "--model", MODEL, "--mmlu", QUESTIONS, "--device-map", "auto"],
            "use_fsdp",
        ),
        (["--store", "/proc/nowhere/store", "--claim", "answers-late"], "/proc/nowhere"),
        (["--epochs", "2"], "--preset, --epochs and --checkpoints need --fine-tune"),
        (["--checkpoints", "0"], "--preset, --epochs and --checkpoints need --fine-tune"),
        (["--fine-tune", "--checkpoints", "-1"], "checkpoints is -1; give 0 or more"),
        (["--train-from-test", "0"], "--train-from-test is 0; give 1 or more"),
        (["--cache-budget", "0"], "--cache-budget is 0; give 1 or more"),
        (["--control", "no-such"], "unknown control 'no-such'; choose from random-weights, embed"),
        (["--fine-tune", "--epochs", "0"], "--epochs is 0; give 1 or more"),
        (["--fine-tune", "--preset", "9b", "--model", MODEL], "unknown preset '9b'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    tmp_path: Path, options: list[str], message: str
) -> None:
    out = tmp_path / "out"
    done = run("pytest", "claims", "--out", str(out), "--store", str(tmp_path / "store"), *options)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not out.exists() and not (tmp_path / "store").exists()


def test_published_curves_are_judged_and_reported(tmp_path: Path) -> None:
    curves = json.loads((ROOT / "reports" / "published-curves.json").read_text())
    model = curves["models"]["mistral-7b"]
    # Answers as modes of the first half: the opposite of what answers-late says.
    late = model["ari_answers"]["0-shot"][16:]
    model["ari_answers"]["0-shot"] = [0.5] * 16 + late
    model["note"] = "<script>alert(1)</script>"
    file = tmp_path / "curves.json"
    file.write_text(json.dumps({"models": {"<b>changed</b>": model}}))
    done = run("pytest", "claims", "--published", str(file), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "answers-late, published:<b>changed</b>: not reproduced" in done.stdout
    assert "effect:     0.5" in done.stdout and "threshold:  at most 0.02" in done.stdout
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    skipped = {one["claim"]: one["reason"] for one in results["skipped"]}
    assert set(skipped) >= {"subjects-pure", "hierarchy", "answers-clusters"}
    assert skipped["fine-tuning-is-late"].startswith("needs the checkpoints")
    verdicts = {one["claim"]: one["verdict"] for one in results["claims"]}
    assert not verdicts.keys() & skipped.keys()
    assert verdicts.pop("answers-late") == "not reproduced"
    # Of the other paper: in these curves the fine-tuned dimension is the higher one.
    assert verdicts.pop("few-shot-id-higher") == "not reproduced"
    assert set(verdicts.values()) == {"reproduced"}
    keys = {"claim", "model", "verdict", "effect", "interval", "threshold", "conditions", "seconds"}
    assert keys <= set(results["claims"][0])
    report = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;b&gt;changed" in report and "<b>changed" not in report
    assert "<script src" not in report and "http" not in report.replace("http://www.w3.org", "")


def test_the_papers_models_are_skipped_where_there_is_no_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: it would judge the paper's models")
    done = run("pytest", "claims", "-m", "gpu", "-rs", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout
    assert "the paper's models need a GPU" in done.stdout and " passed" not in done.stdout
    assert "nothing was judged, so no report and no record are written" in done.stdout


MISSING = NoModelError("x: is not here")


@pytest.mark.parametrize(
    ("checked", "measured", "raised", "reason"),
    [
        (MISSING, None, pytest.skip.Exception, "no weights: x: is not here"),
        (None, MISSING, pytest.skip.Exception, "no weights: x: is not here"),
        (None, torch.OutOfMemoryError("of 80 GiB"), pytest.skip.Exception, "GPU's memory is full"),
        (ModelError("x: takes 9 tokens"), None, ModelError, "takes 9"),  # it is here
        (None, ModelError("x: is damaged"), ModelError, "damaged"),
        (None, RuntimeError("a bug"), RuntimeError, "a bug"),
    ],
)
def test_a_paper_model_is_skipped_where_this_machine_cannot_have_it(
    checked: Exception | None,
    measured: Exception | None,
    raised: type[BaseException],
    reason: str,
) -> None:
    def fail(error: Exception | None) -> Measured:
        if error:
            raise error
        return Measured()

    case = Mock(paper_model=True, check=lambda: fail(checked), measure=lambda: fail(measured))
    with pytest.raises(raised, match=reason):
        measure_or_skip(case)
    if measured:
        case.paper_model = False
        with pytest.raises(type(measured), match=str(measured)):
            measure_or_skip(case)


def test_an_exception_that_no_longer_holds_fails(tmp_path: Path) -> None:
    # Curves of a model that has the finding, under the name of one of which it is stated not to.
    curves = json.loads((ROOT / "reports" / "published-curves.json").read_text())["models"]
    file = tmp_path / "curves.json"
    file.write_text(json.dumps({"models": {"llama-2-7b": curves["llama-3-8b"]}}))
    claims = ["--claim", "two-phases-id", "--out", str(tmp_path / "out")]
    done = run("tests.without_report", "claims", "--published", str(file), *claims)
    assert done.returncode == 1, done.stdout
    assert "stated exception no longer holds (the paper sees no ID peak in Llama" in done.stdout


def test_exceptions_stay_with_a_model_of_the_paper_in_its_record(
    tmp_path: Path,
) -> None:
    given = read_published(AUTHORS_CURVES)["llama-2-7b"]
    for name, stated in (("Llama-2-7b-hf", 0), ("my-llama", 1)):
        record = tmp_path / f"{name}.json"
        # Measured, they would have all layers, and draws.
        own = [
            replace(one, model=name, layer=one.layer[1:], curves=curves, draws=(Draw(curves),) * 2)
            for one in given.values()
            for curves in [{key: values[1:] for key, values in one.curves.items()}]
        ]
        environment = {"settings": {"not_measured": [], "command": "", "device": "cpu"}}
        Run(environment | {"versions": {}}, [], [], own).write_record(record)
        claims = ["--claim", "two-phases-id", "--out", str(tmp_path / "out")]
        done = run("tests.without_report", "claims", "--recorded", str(record), *claims)
        assert done.returncode == stated, done.stdout  # nobody has stated it of the other


def test_a_record_of_published_curves_can_be_recorded_again(tmp_path: Path) -> None:
    curves = str(ROOT / "reports" / "published-curves.json")
    first, second = (str(tmp_path / name) for name in ("first.json", "second.json"))
    common = ["tests.without_report", "claims", "--out", str(tmp_path / "out")]
    run(*common, "--published", curves, "--record", first)
    done = run(*common, "--recorded", first, "--published", curves, "--record", second)
    assert done.returncode == 0, done.stdout + done.stderr
    one, other = (json.loads(Path(file).read_text()) for file in (first, second))
    assert one["landscapes"] == other["landscapes"] and one["landscapes"]


def test_the_command_that_repeats_a_claim_writes_no_record(tmp_path: Path) -> None:
    curves = json.loads((ROOT / "reports" / "published-curves.json").read_text())
    curves["models"]["mistral-7b"]["ari_answers"]["0-shot"] = [0.5] * 32
    file = tmp_path / "curves.json"
    file.write_text(json.dumps(curves))
    given = ["claims", "--published", str(file), "--out", str(tmp_path / "out")]
    done = run("tests.without_report", *given, "--record", str(tmp_path / "record.json"))
    (said,) = {line for line in done.stdout.splitlines() if "repeat:" in line and "late" in line}
    repeated = shlex.split(said.split("repeat:")[1])
    environment = "PYTEST_ADDOPTS=" + IMPORTED["PYTEST_ADDOPTS"]  # which pytest reads as well
    alone = ["pytest", "claims", "--published", str(file), "--claim", "answers-late"]
    assert repeated == [environment, *alone]
    claims, published = str(ROOT / "claims"), given[1:3]

    def elsewhere(*given: str) -> "subprocess.CompletedProcess[str]":
        return run("pytest", *given, *published, folder=tmp_path)

    done = elsewhere(claims, "--claim", "hierarchy", "--claim=answers-late")
    (said,) = {line for line in done.stdout.splitlines() if "repeat:" in line}
    assert shlex.split(said.split("repeat:")[1]) == [environment, "pytest", claims, *repeated[3:]]
    # A report of some claims would look like one of all, and be where that was.
    for part in ([], ["-k", "answers"], [f"--ignore={claims}/test_subjects.py"]):
        done = elsewhere(claims, *part) if part else done
        assert "no report in reports/out" in done.stdout, done.stdout + done.stderr
    done = elsewhere(f"{claims}/test_answers.py")
    assert "no report in reports/out" in done.stdout
    assert not (tmp_path / "reports").exists()
    # Of one model of several all are judged, so it is a whole report.
    assert elsewhere(claims, "-k", "llama-3-8b").returncode == 0
    assert (tmp_path / "reports" / "out" / "report.html").exists()


def test_a_run_that_ends_early_says_that_it_has_no_report(tmp_path: Path) -> None:
    record = ["--recorded", str(ROOT / "reports" / "recorded" / "qwen2.5-coder-0.5b.json")]
    out = ["--out", str(tmp_path / "out"), "--record", str(tmp_path / "record.json")]
    done = run("tests.without_report", "claims", *record, *out, "-x")
    assert done.returncode == 1, done.stdout
    assert "no report and no record: stopping after 1 failures" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [("refused", 2, "no report: the disk is full"), ("unforeseen", 3, "nobody knows why")],
)
def test_a_report_that_cannot_be_written_leaves_the_verdicts_and_the_record(
    tmp_path: Path, failure: str, status: int, said: str
) -> None:
    record = tmp_path / "record.json"
    curves = ["--published", str(ROOT / "reports" / "published-curves.json")]
    given = ["claims", *curves, "--out", str(tmp_path / "out"), "--record", str(record)]
    done = run("tests.failing_report", failure, *given)
    assert done.returncode == status and said in done.stdout, done.stdout + done.stderr
    assert ("Traceback" in done.stdout) == (status == 3)  # of what nobody can put right
    assert "answers-late" in done.stdout and record.exists()


def test_a_record_is_judged_as_what_was_measured(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    common = ["tests.without_report", "claims", "--store", str(tmp_path / "store")]
    toy = ["--model", MODEL, "--mmlu", QUESTIONS, "--per-subject", "5", "--shots", "0,1"]
    toy += ["--precision", "float32"]
    first = run(*common, *toy, "--out", str(tmp_path / "first"), "--record", str(record))
    assert record.is_file(), first.stdout + first.stderr
    second = run(*common, "--recorded", str(record), "--out", str(tmp_path / "second"))
    assert second.returncode == first.returncode, second.stdout + second.stderr
    verdicts = [
        [
            {key: value for key, value in one.items() if key != "seconds"}
            for one in json.loads((tmp_path / name / "results.json").read_text())["claims"]
        ]
        for name in ("first", "second")
    ]
    assert verdicts[0] == verdicts[1] and len(verdicts[0]) > 5
    assert all(len(one["interval"]) == 2 for one in verdicts[0])
    table = json.loads(record.read_text())
    table["landscapes"][1]["curves"]["ari_answers"].pop()
    record.write_text(json.dumps(table))
    broken = run(*common, "--recorded", str(record))
    assert broken.returncode == 2 and "curve 'ari_answers' has 7 values" in broken.stdout


def test_a_record_keeps_curves_that_are_not_here_already(tmp_path: Path) -> None:
    papers = read_published(AUTHORS_CURVES)["llama-3-8b"]
    own = [replace(one, model="mine") for one in papers.values()]
    theirs = [replace(one, model="published:theirs") for one in papers.values()]
    environment = {"settings": {"not_measured": [], "command": "", "device": "cpu"}, "versions": {}}
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    Run(environment, [], [], [*own, *theirs, *papers.values()]).write_record(first)
    given = ["--recorded", str(first), "--record", str(second), "--out", str(tmp_path / "out")]
    run("tests.without_report", "claims", *given)
    kept = read_run(second).landscapes
    assert {one.model for one in kept} == {"mine", "published:theirs"}
    assert len(kept) == len(own) + len(theirs)


def test_two_records_may_not_have_other_curves_under_one_published_name(tmp_path: Path) -> None:
    environment = {"settings": {"not_measured": [], "command": "", "device": "cpu"}, "versions": {}}
    files = []
    for model in ("llama-3-8b", "mistral-7b", "llama-3-8b"):
        curves = read_published(AUTHORS_CURVES)[model].values()
        files.append(tmp_path / f"{len(files)}.json")
        theirs = [replace(one, model="published:theirs") for one in curves]
        Run(environment, [], [], theirs).write_record(files[-1])

    def judged(*records: Path) -> list[str]:
        asked = Request(
            None, None, None, (0,), Subset(), ExtractionSettings(), tmp_path, recorded=records
        )
        return [case.name for case in cases_of(asked)]

    assert judged(files[0], files[2]) == ["published:theirs"]
    with pytest.raises(SettingsError, match="two records have other curves of published:theirs"):
        judged(files[0], files[1])


def test_measure_writes_a_landscape_and_refuses_an_unknown_site(tmp_path: Path) -> None:
    common = ["--model", MODEL, "--mmlu", QUESTIONS, "--per-subject", "3"]
    common += ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "landscape.json")]
    done = run("harness.cli", "measure", *common)
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "landscape.json").read_text())
    assert table["condition"] == "0-shot" and len(table["curves"]["density_peaks"]) == len(
        table["layer"]
    )
    done = run("harness.cli", "measure", *common, "--out", str(tmp_path))
    assert done.returncode == 2 and "is a folder" in done.stderr
    done = run("harness.cli", "measure", *common, "--site", "nowhere")
    assert done.returncode == 2 and "unknown site 'nowhere'" in done.stderr


def test_only_the_named_controls_are_measured_and_no_question_that_is_kept_for_training(
    tmp_path: Path,
) -> None:
    record, trained = tmp_path / "record.json", tmp_path / "trained.json"
    common = ["tests.without_report", "claims", "--model", MODEL, "--mmlu", QUESTIONS]
    common += ["--per-subject", "5", "--precision", "float32", "--train-from-test", "3"]
    common += ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    named = ["--control", "random-weights", "--control", "embeddings", "--control-seeds", "2"]
    named += ["--shots", "0"]
    done = run(*common, *named, "--record", str(record))
    assert record.is_file(), done.stdout + done.stderr
    found = json.loads(record.read_text())["landscapes"]
    controls = {None, "random-weights-0", "random-weights-1", "embeddings"}
    assert {one["control"] for one in found} == controls
    tuned = ["--shots", "0", "--fine-tune", "--epochs", "1", "--checkpoints", "0"]
    done = run(*common, *tuned, "--record", str(trained))
    assert trained.is_file(), done.stdout + done.stderr
    (after,) = (
        one for one in json.loads(trained.read_text())["landscapes"]
        if one["condition"] == "fine-tuned"
    )  # fmt: skip
    assert after["origin"]["Subset"]["without"]["per_subject"] == 3
    assert {one["origin"]["questions_fingerprint"] for one in found} == {
        after["origin"]["questions_fingerprint"]
    }
