"""Measure representations that lie in a folder, whoever made them."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from harness.errors import DatasetError, GeometryError, first_line
from harness.landscape import Landscape
from harness.layer_curves import measure_curves
from harness.measurement import Labels
from harness.names import model_name
from harness.protocol import GeometrySettings
from harness.questions.categories import CATEGORIES

COLUMNS = ("subject", "answer")
GIVEN = "given"  # a column that may be there: the letters that the model gave
# What the paper's scripts put beside a layer's representations: distances and neighbours.
BESIDE = ("_dist", "_index", "_inverse", "_mus")


def measure_folder(
    folder: Path, labels_file: Path, settings: GeometrySettings, before: Path | None = None
) -> Landscape:
    """Return the landscape of a folder's representations.

    folder: a file a layer, `.npy`, `.pt` or `.safetensors`, that holds one (N, D) array of floats;
        the one number in its name is the layer's. A layer 0 that is the same in all rows, as the
        embedding of a last token is that all prompts have, is left out.
    labels_file: CSV with the columns subject and answer, and N rows in the order of the arrays; a
        column given, if it is there, has the letters that the model gave.
    before: another such folder, of the same layers and rows, to measure the overlap with.

    Raises DatasetError for files that are not so, GeometryError as `measure_layer` does.
    """
    files, name = layer_files(folder), model_name(str(folder))
    labels = replace(read_labels(labels_file), categories=CATEGORIES)
    count, needed = len(labels.subjects), settings.least_points(overlap=before is not None)
    if count < needed:
        raise GeometryError(
            f"{labels_file}: {count} rows, but the geometry needs {needed}; give more, or ask for "
            "fewer neighbours (--id-k, --density-k, --overlap-k)"
        )
    # All are looked at before the first is measured.
    layers = [layer for layer, file in files.items() if _varies(layer, file, count)]
    read_before = None
    if before:
        others = layer_files(before)
        for layer in layers:
            if layer not in others:
                raise DatasetError(f"{before}: has no layer {layer}, but {files[layer]} is one")
            read_points(others[layer], count)
        read_before = partial(_read, others, count)
    read = partial(_read, files, count)
    found = measure_curves(layers, read, labels, settings, name, read_before)
    right = None
    if labels.given is not None:
        right = [one == other for one, other in zip(labels.given, labels.answers, strict=True)]
    landscape = found.landscape(name, "given", len(set(labels.subjects)), right)
    origin = {
        "folder": name,
        "before": model_name(str(before)) if before else None,
        "questions": count,
        "questions_fingerprint": _fingerprint(labels),
        "GeometrySettings": asdict(settings),
        "versions": {name: version(name) for name in ("torch", "dadapy")},
    }
    return replace(landscape, origin=origin)


def _fingerprint(labels: Labels) -> str:
    """Return what identifies the rows, by all that is known of them."""
    rows = [*zip(labels.subjects, labels.answers, strict=True)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def layer_files(folder: Path) -> dict[int, Path]:
    """Return the files of a folder's layers by layer number, ascending. Raises DatasetError."""
    if not os.path.isdir(folder):
        raise DatasetError(f"{folder}: no such folder of representations; give one")
    files: dict[int, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix not in _READERS or file.stem.endswith(BESIDE):
            continue
        numbers = re.findall(r"\d+", file.stem)
        if len(numbers) != 1:
            raise DatasetError(
                f"{file}: a name with {len(numbers)} numbers does not say which layer it is; "
                "name it like layer-12"
            )
        layer = int(numbers[0])
        if layer in files:
            raise DatasetError(f"{file}: {files[layer].name} is layer {layer} too; remove one")
        files[layer] = file
    if not files or max(files) == 0:
        raise DatasetError(
            f"{folder}: no representations of a layer above 0; put in a file a layer, such as "
            f"layer-12 with one of the endings {', '.join(_READERS)}"
        )
    return dict(sorted(files.items()))


def read_labels(file: Path) -> Labels:
    """Return the labels of a CSV file's rows. Raises DatasetError."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines, strict=True)
            rows = list(table)
            names = table.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{file}: cannot be read ({error}); give a CSV file") from error
    for column in COLUMNS:
        if column not in names:
            raise DatasetError(
                f"{file}: no column {column!r}; its first line must name subject and answer"
            )
    if not rows:
        raise DatasetError(f"{file}: has no rows below its first line; give a label a row")
    given = [GIVEN] if GIVEN in names else []
    for column in (*COLUMNS, *given):
        for number, row in enumerate(rows, start=1):
            if not row[column]:
                raise DatasetError(f"{file}: row {number} has no {column}; give it one")
    return Labels(
        [row["subject"] for row in rows],
        [row["answer"] for row in rows],
        given=[row[GIVEN] for row in rows] if given else None,
    )


def read_points(file: Path, count: int) -> Tensor:
    """Return the (count, D) floats of a layer's file. Raises DatasetError."""
    try:
        points = _READERS[file.suffix](file)
    except Exception as error:  # what numpy and torch raise for damaged files has no end
        raise DatasetError(
            f"{file}: cannot be read as one array ({first_line(error)}); save one array of floats"
        ) from error
    dense = points.layout is torch.strided and not points.is_meta
    if not dense or points.ndim != 2 or not points.is_floating_point() or points.element_size() < 2:
        raise DatasetError(
            f"{file}: holds {points.dtype} values of shape {tuple(points.shape)}; save a dense "
            "array of floats of shape (questions, width)"
        )
    if not points.isfinite().all():
        raise DatasetError(f"{file}: holds NaN or an infinite value; leave out such rows or layers")
    if len(points) != count:
        raise DatasetError(
            f"{file}: {len(points)} rows, but the labels have {count}; give a label a row"
        )
    return points


def _varies(layer: int, file: Path, count: int) -> bool:
    """Return whether not all rows of a layer are the same. Raises DatasetError if it is to."""
    points = read_points(file, count)
    varies = not torch.equal(points, points[:1].expand_as(points))
    if layer and not varies:
        raise DatasetError(f"{file}: all its rows are the same; leave the layer out")
    return varies


def _read(files: dict[int, Path], count: int, layer: int) -> Tensor:
    return read_points(files[layer], count)


def _from_npy(file: Path) -> Tensor:
    return torch.from_numpy(np.load(file, allow_pickle=False))


def _from_pt(file: Path) -> Tensor:
    try:
        return _only(torch.load(file, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:  # its text tells how to load the file all the same
        raise ValueError("it is not a file of tensors alone") from error


def _from_safetensors(file: Path) -> Tensor:
    return _only(load_file(file))


def _only(held: Any) -> Tensor:
    if isinstance(held, dict) and len(held) == 1:
        (held,) = held.values()
    if not isinstance(held, Tensor):
        inside = ", ".join(map(str, held)) if isinstance(held, dict) else type(held).__name__
        raise ValueError(f"it holds {inside or 'nothing'}")
    return held.detach()


_READERS: dict[str, Callable[[Path], Tensor]] = {
    ".npy": _from_npy,
    ".pt": _from_pt,
    ".safetensors": _from_safetensors,
}
