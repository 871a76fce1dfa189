"""`landscape measure FOLDER`: representations as a user gives them, with labels beside."""

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from fixtures.cases import TOY
from harness.cli import commands
from harness.errors import DatasetError, GeometryError
from harness.geometry.subsample import draw_subsamples
from harness.landscape import OVERLAP, Landscape
from harness.measure_folder import layer_files, measure_folder, read_labels, read_points
from harness.measurement import Labels, measure_layer
from harness.protocol import GeometrySettings, Subset
from harness.questions.mmlu import load_questions
from tests.blobs import SIZE, blobs, labels
from tests.running import Command
from tests.trying import refused


def write_labels(file: Path, size: int = SIZE) -> None:
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["subject", "answer"])
        writer.writerows(zip(labels(size).subjects, labels(size).answers, strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A layer in each format, with labels beside."""
    given = tmp_path / "given"
    given.mkdir()
    np.save(given / "l1_target.npy", blobs(1).float().numpy())
    torch.save(blobs(2), given / "layer-2.pt")
    save_file({"representations": blobs(10)}, given / "layer-010.safetensors")
    (given / "README.md").write_text("not a layer 9")
    write_labels(tmp_path / "labels.csv")
    return given


def test_a_folder_is_measured_in_the_order_of_its_layers(folder: Path) -> None:
    settings = GeometrySettings(draws=2)
    landscape = measure_folder(folder, folder.parent / "labels.csv", settings)
    assert landscape.layer == (1, 2, 10) and landscape.subjects == 4
    for number, curve in zip((1, 2, 10), landscape.curves["intrinsic_dimension"], strict=True):
        assert (
            curve
            == measure_layer(blobs(number), labels(), GeometrySettings()).values[
                "intrinsic_dimension"
            ]
        )
    assert landscape.tree and landscape.tree.layer == 1 and landscape.model == "given"
    drawn = draw_subsamples(SIZE, 2, 0.8)
    layers = [measure_layer(blobs(n), labels(), settings, drawn) for n in (1, 2, 10)]
    assert [draw.curves["core_fraction"] for draw in landscape.draws] == [
        tuple(layer.subsamples[number]["core_fraction"] for layer in layers) for number in (0, 1)
    ]


def test_the_command_writes_a_landscape_and_prints_intervals(folder: Path) -> None:
    out = folder.parent / "landscape.json"

    def measured(*options: str) -> tuple[int, str, str]:
        given = ["--labels", str(folder.parent / "labels.csv"), "--out", str(out), *options]
        process = Command("harness.cli", "measure", str(folder), *given)
        return process.wait(100), *process.communicate()

    status, printed, errors = measured("--subsamples", "3")
    assert status == 0, errors
    written = json.loads(out.read_text())
    assert written["curves"]["density_peaks"] == [4.0] * 3
    assert len(written["draws"]) == written["origin"]["GeometrySettings"]["draws"] == 3
    assert len(printed.splitlines()) == 39 and "ari_subjects" in printed
    assert measured("--condition", "mine")[0] == 0
    assert json.loads(out.read_text())["condition"] == "mine"
    status, _, errors = measured("--mmlu", "x")
    assert status == 2 and "--mmlu is of a model, FOLDER needs none" in errors
    (folder / "layer-3.npy").write_bytes(b"nothing")
    status, _, errors = measured()
    assert status == 2 and "Traceback" not in errors
    assert len(errors.strip().splitlines()) == 1 and "layer-3.npy" in errors


def test_what_the_papers_script_leaves_is_measured(folder: Path) -> None:
    """Its files beside a layer are no layers, and its layer 0 is the same for all prompts."""
    settings, labels_file = GeometrySettings(draws=0), folder.parent / "labels.csv"
    alone = measure_folder(folder, labels_file, settings)
    for name in ("dist", "index", "inverse", "mus"):
        np.save(folder / f"l1_target_{name}.npy", np.arange(6))
    torch.save(torch.ones(SIZE, 5, dtype=torch.bfloat16), folder / "l0_target.pt")
    found = measure_folder(folder, labels_file, settings)
    assert found == alone and found.layer == (1, 2, 10)
    torch.save(torch.ones(SIZE, 5), folder / "l3_target.pt")
    with pytest.raises(DatasetError, match=r"l3_target\.pt: all its rows are the same"):
        measure_folder(folder, labels_file, settings)
    few = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 5)))
    torch.save(few[np.arange(SIZE) % 20], folder / "l3_target.pt")
    with pytest.raises(GeometryError, match="layer 3: Gride at k=16 needs 33 distinct points"):
        measure_folder(folder, labels_file, settings)


def test_letters_given_beside_the_labels_have_an_accuracy(folder: Path) -> None:
    file, settings = folder.parent / "labels.csv", GeometrySettings(draws=2)
    rows = list(csv.DictReader(file.open()))
    given = labels().given
    assert given
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["given", "subject", "answer"])
        writer.writerows([one, *row.values()] for one, row in zip(given, rows, strict=True))
    found = measure_folder(folder, file, settings)
    right = np.array(given) == np.array(labels().answers)
    assert found.accuracy == right.mean() == 0.25
    for draw, chosen in zip(found.draws, draw_subsamples(SIZE, 2, 0.8), strict=True):
        assert draw.accuracy == right[chosen].mean()
    whole = measure_layer(blobs(1), labels(), settings).values
    assert found.curves["ari_given"][0] == whole["ari_given"] > 0.3
    file.write_text(file.read_text().replace("A,subject 0,A", ",subject 0,A", 1))
    with pytest.raises(DatasetError, match="row 1 has no given"):
        read_labels(file)


def test_the_overlap_with_another_folder(folder: Path) -> None:
    file, other = folder.parent / "labels.csv", folder.parent / "other"
    other.mkdir()
    for number in (1, 2, 10):
        np.save(other / f"{number}.npy", blobs(number + 20).float().numpy())
    settings = GeometrySettings(draws=2, overlap_k=12)
    found = measure_folder(folder, file, settings, other)
    for place, number in enumerate((1, 2, 10)):
        one, two = (
            np.linalg.norm(points[:, None] - points[None], axis=2).argsort(axis=1)[:, 1:13]
            for points in (blobs(layer).double().numpy() for layer in (number, number + 20))
        )
        shares = [len({*mine} & {*theirs}) / 12 for mine, theirs in zip(one, two, strict=True)]
        assert found.curves[OVERLAP][place] == pytest.approx(np.mean(shares))
    assert 0 < found.draws[0].curves[OVERLAP][0] < 1 and found.origin["before"] == "other"
    # So does the command, which prints the overlaps of the draws too.
    out = folder.parent / "landscape.json"
    given = ["measure", str(folder), "--labels", str(file), "--before", str(other)]
    asked = [*given, "--subsamples", "2", "--overlap-k", "12", "--out", str(out)]
    done = CliRunner().invoke(commands, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert Landscape.from_json(out.read_text()).curves[OVERLAP] == found.curves[OVERLAP]
    shown = [line.split() for line in done.stdout.splitlines() if OVERLAP in line]
    for line, *values in zip(shown, found.curves[OVERLAP], *both(found), strict=True):
        assert [float(part) for part in (line[3], line[4], line[6])] == pytest.approx(
            [values[0], min(values[1:]), max(values[1:])], abs=1e-4
        )
    refused([*given, "--overlap-k", "240"], "240 rows, but the geometry needs 241", folder)
    np.save(other / "2.npy", np.full((SIZE, 5), np.nan))
    refused(given, "2.npy: holds NaN", folder)
    (other / "2.npy").unlink()
    with pytest.raises(DatasetError, match=r"other: has no layer 2, but .*layer-2\.pt is one"):
        measure_folder(folder, file, settings, other)


def both(found: Landscape) -> list[tuple[float, ...]]:
    return [draw.curves[OVERLAP] for draw in found.draws]


def test_geometry_can_be_asked_for_otherwise(folder: Path) -> None:
    out = folder.parent / "landscape.json"
    given = ["measure", str(folder), "--labels", str(folder.parent / "labels.csv")]
    given += ["--out", str(out), "--maxk", "150", "--id-k", "8", "--density-k", "0", "--z", "0"]
    main_of = CliRunner().invoke(commands, given, catch_exceptions=False)
    assert main_of.exit_code == 0, main_of.output
    written = json.loads(out.read_text())
    settings = GeometrySettings(neighbors=150, id_k=8, density_k=None, z=0.0, draws=0)
    assert written["origin"]["GeometrySettings"] == asdict(settings)
    expected = measure_layer(blobs(1), labels(), settings).values
    assert written["curves"]["density_peaks"][0] == expected["density_peaks"]
    assert written["curves"]["intrinsic_dimension"][0] == expected["intrinsic_dimension"]
    least = [*given[:4], "--out", str(out), "--neighbors", "32"]  # no draws, which need more
    assert CliRunner().invoke(commands, least, catch_exceptions=False).exit_code == 0
    refused([*given[:4], "--neighbors", "31"], "give 32 or more", folder)
    refused([*given[:4], "--id-k", "5"], "id_k is 5", folder)
    refused([*given[:4], "--measure-overlap"], "--measure-overlap is of a model", folder)
    refused(["measure", "--before", str(folder)], "--before and --subsamples need FOLDER", folder)


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("it ran",)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("layer-1.npy", lambda file: np.save(file, np.zeros((9, 2))), "9 rows, but the labels"),
        ("layer-1.npy", lambda file: np.save(file, np.zeros(SIZE)), r"shape \(240,\)"),
        ("layer-1.npy", lambda file: np.save(file, np.zeros((SIZE, 2), int)), "holds torch.int64"),
        ("layer-1.npy", lambda file: np.save(file, np.array([Harmful()])), "cannot be read"),
        ("layer-1.npy", lambda file: file.write_bytes(b""), "cannot be read"),
        ("layer-1.pt", lambda file: torch.save(Harmful(), file), "cannot be read"),
        ("layer-1.pt", lambda file: torch.save({"a": 1, "b": 2}, file), "it holds a, b"),
        ("layer-1.pt", lambda file: file.write_bytes(b"PK\x03\x04"), "cannot be read"),
        ("layer-1.safetensors", lambda file: file.write_bytes(b"x" * 40), "cannot be read"),
        ("layer-1.pt", lambda file: torch.save(torch.eye(SIZE).to_sparse(), file), "save a dense"),
        ("layer-1.pt", lambda file: torch.save(torch.eye(SIZE, device="meta"), file), "a dense"),
    ],
)
def test_a_bad_file_is_named_and_never_run(  # type: ignore[no-untyped-def]
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, write, message: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(DatasetError, match=f"{name}: .*{message}"):
        read_points(tmp_path / name, SIZE)
    assert "it ran" not in capfd.readouterr().out


@pytest.mark.parametrize("name", ["layer-1.npy", "layer-1.pt", "layer-1.safetensors", "mask.npy"])
def test_a_file_with_one_bit_changed_is_read_or_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    points = torch.ones(6, 2, dtype=torch.float16)
    if file.suffix == ".npy":
        np.save(file, points.numpy() if name != "mask.npy" else np.arange(6))
    elif file.suffix == ".pt":
        torch.save(points, file)
    else:
        save_file({"points": points}, file)
    whole = file.read_bytes()
    places = range(0, 8 * len(whole), 1 if name == "layer-1.npy" else 29)
    refused = 0
    for place in places:
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        file.write_bytes(content)
        try:
            if name == "mask.npy":
                assert load_questions(
                    str(TOY / "questions"), Subset("dev", rows=str(file)), 0
                ).questions
            else:
                assert read_points(file, 6).shape[0] == 6
        except DatasetError as error:
            refused += 1
            assert str(error).startswith(str(file)) and "\n" not in str(error)
    assert refused > len(places) / 10


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no representations of a layer above 0"),
        (["layer-0.npy"], "no representations of a layer above 0"),
        (["layer.npy"], "a name with 0 numbers"),
        (["layer-1-of-2.npy"], "a name with 2 numbers"),
        (["layer-1.npy", "layer-01.pt"], "is layer 1 too"),
    ],
)
def test_a_folder_must_say_which_layers_it_holds(
    tmp_path: Path, names: list[str], message: str
) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(DatasetError, match=message):
        layer_files(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        layer_files(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject\nx\n", "no column 'answer'"),
        ("", "no column 'subject'"),
        ("subject,answer\nx,A\ny\n", "row 2 has no answer"),
        ("subject,answer\n,A\n", "row 1 has no subject"),
        ("subject,answer\n", "has no rows"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    with pytest.raises(DatasetError, match=f"labels.csv: .*{message}"):
        read_labels(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_labels(file)


def test_labels_of_a_spreadsheet_are_read(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(b'\xef\xbb\xbfnumber,subject,answer\r\n1,"law, old",A\r\n')
    assert read_labels(file) == Labels(["law, old"], ["A"])
