"""Runs read again from their files: output folders, records, and landscapes that nobody judged."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from harness.errors import RecordError
from harness.landscape import Landscape
from harness.published import PUBLISHED
from harness.schemas import check_table, read_file
from reports.run import RESULTS, SCHEMA, WAY_OUT, Run
from reports.verdict import Skipped, Verdict


def read_run(path: Path) -> Run:
    """Return the run in a folder that the claims wrote (`--out`), or in a record (`--record`).

    Of a folder or file of `landscape measure` or `submit` it is a run without verdicts.

    Raises RecordError for anything else, or a file of another version.
    """
    file = path
    if os.path.isdir(path):
        file = path / RESULTS
        if not file.exists():
            return _measured(_landscapes_in(path))
    table = read_file(file, WAY_OUT)
    return _measured({str(file): table}) if _is_landscape(table) else _run(file, table)


def _run(file: Path, found: object) -> Run:
    table = check_table(found, SCHEMA, str(file), WAY_OUT, "record")
    landscapes: dict[str, object] = {}
    for number, one in enumerate(table["landscapes"]):
        name = f"{file}: landscapes[{number}]"
        if isinstance(one, str):
            # A folder has them in files of their own, there, whatever their names say.
            name = str(file.parent / Path(one).name)
            one = read_file(file.parent / Path(one).name, WAY_OUT)
        landscapes[name] = one
    return Run(
        table["environment"],
        [Verdict.from_table(one) for one in table["claims"]],
        [Skipped(**one) for one in table["skipped"]],
        _landscapes(landscapes),
        table.get("original", {}),
    )


def _landscapes_in(folder: Path) -> dict[str, object]:
    """Return the landscapes in a folder by their files; other files may lie there too.

    Raises RecordError if there is none.
    """
    found = {}
    for file in sorted(folder.glob("*.json")):
        # What measure and submit call so must be one.
        named = file.name.startswith("landscape-")
        with nullcontext() if named else suppress(RecordError):
            table = read_file(file, WAY_OUT)
            if named or _is_landscape(table):
                found[str(file)] = table
    if not found:
        raise RecordError(
            f"{folder}: has no {RESULTS} of the claims, and no landscape; give the --out folder of "
            "pytest claims, a record, or what landscape measure or submit wrote"
        )
    return found


def _is_landscape(table: object) -> bool:
    return isinstance(table, dict) and "schema" in table and "record" not in table


def _measured(tables: Mapping[str, object]) -> Run:
    """Return the run of landscapes, by the names of their files, of which nothing was judged."""
    landscapes = _landscapes(tables)
    return Run(_environment_of(landscapes), [], [], landscapes)


def _environment_of(landscapes: Sequence[Landscape]) -> dict[str, Any]:
    """Return what landscapes say of where they come from: what is common to all, and the rest."""
    origins = {", ".join(filter(None, one.key)): {**one.origin} for one in landscapes}
    costs = [one.pop("cost", None) for one in origins.values()]
    devices = [cost.get("device") for cost in costs if isinstance(cost, dict)]
    first, *others = origins.values()
    common = {
        key: value
        for key, value in first.items()
        if all(key in one and one[key] == value for one in others)
    }
    rest = {
        name: {key: value for key, value in one.items() if key not in common}
        for name, one in origins.items()
    }
    versions = common.pop("versions", None)
    settings = {
        "command": "landscape measure",
        "device": ", ".join(dict.fromkeys(str(one) for one in devices if one)),
        "not_measured": [],
        "origin": common,
        "origin of": rest,
    }
    return {"settings": settings, "versions": versions if isinstance(versions, dict) else {}}


def _landscapes(tables: Mapping[str, object]) -> list[Landscape]:
    """Return the landscapes of JSON values, by the names of their files or places.

    Raises RecordError for other values, and for two of one name that differ.
    """
    found = []
    names: dict[tuple[str | None, ...], Landscape] = {}
    for name, table in tables.items():
        landscape = Landscape.from_table(table, name)
        if names.setdefault(landscape.key, landscape) != landscape:
            which = ", ".join(filter(None, landscape.key))
            raise RecordError(f"{name}: has other curves of {which}; leave one of them out")
        found.append(landscape)
    return found


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Return several runs, as `read_run` does; a model that two of them have is told by its file.

    Files of a landscape each are one run. Published curves keep their name: they are the same
    everywhere.

    Raises RecordError as `read_run` does.
    """
    paths = list(dict.fromkeys(paths))
    tables = {path: read_file(path, WAY_OUT) for path in paths if not os.path.isdir(path)}
    alone = {str(path): table for path, table in tables.items() if _is_landscape(table)}
    others = [path for path in paths if str(path) not in alone]
    runs = [_run(path, tables[path]) if path in tables else read_run(path) for path in others]
    titles = _titles(others)
    if alone:
        runs, titles = [*runs, _measured(alone)], [*titles, "landscapes"]
    count = Counter(model for run in runs for model in run.models)
    return [
        run.renamed(
            {
                model: f"{model} ({title})"
                for model in run.models
                if count[model] > 1 and not model.startswith(PUBLISHED)
            }
        )
        for title, run in zip(titles, runs, strict=True)
    ]


def _titles(paths: Sequence[Path]) -> list[str]:
    """Return as much of the end of every path as tells it from the others."""
    whole = [
        path.absolute().with_suffix("") if path.suffix == ".json" else path.absolute()
        for path in paths
    ]
    for parts in range(1, max((len(path.parts) for path in whole), default=0) + 1):
        titles = ["/".join(path.parts[-parts:]) for path in whole]
        if len(set(titles)) == len(titles):
            return titles
    return [str(path) for path in paths]
