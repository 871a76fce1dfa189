"""What a run of the claims found, as files: its output folder, or one record.

Landscapes that `landscape measure` wrote are read as a run in which nothing was judged.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.disk import explained, write_whole
from harness.errors import RecordError
from harness.landscape import Landscape
from harness.names import plain_name
from harness.published import PUBLISHED
from harness.schemas import check_table, read_file, read_schema, writable
from reports.verdict import Skipped, Verdict

AUTHORS_CURVES = Path(__file__).with_name("published-curves.json")
SCHEMA = read_schema(Path(__file__).with_name("record.schema.json"))
VERSION: int = SCHEMA["properties"]["record"]["const"]
RESULTS = "results.json"
WAY_OUT = "run the claims again with --record, or give the --out folder of a run"


@dataclass(frozen=True)
class Run:
    """One run of the claims.

    environment: machine, versions and settings.
    claims: the verdicts; skipped: the claims that were not judged.
    landscapes: all that was measured, under controls and variations too; published curves only
        where they are not this project's, or nothing else was judged.
    original: by a model's name here, the one that exceptions know it by, where it is another.
    """

    environment: dict[str, Any]
    claims: Sequence[Verdict]
    skipped: Sequence[Skipped]
    landscapes: Sequence[Landscape]
    original: dict[str, str] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """The names of all that was judged or measured, in that order."""
        told: list[Verdict | Skipped | Landscape]
        told = [*self.claims, *self.skipped, *self.landscapes]
        return list(dict.fromkeys(one.model for one in told))

    def renamed(self, names: Mapping[str, str]) -> Run:
        """Return the run with other names for some of its models."""
        environment = dict(self.environment)
        settings = environment["settings"]
        if "recorded" in settings:
            recorded = {names.get(name, name): one for name, one in settings["recorded"].items()}
            environment["settings"] = settings | {"recorded": recorded}
        return Run(
            environment,
            [replace(one, model=names.get(one.model, one.model)) for one in self.claims],
            [replace(one, model=names.get(one.model, one.model)) for one in self.skipped],
            [replace(one, model=names.get(one.model, one.model)) for one in self.landscapes],
            {name: first for name, first in self.original.items() if name not in names}
            | {new: self.original.get(old, old) for old, new in names.items()},
        )

    def write_folder(self, folder: Path) -> None:
        """Write `results.json`, and a `landscape-MODEL-CONDITION.json` a landscape.

        A landscape under a control or a variation has that at its name's end. Those that an
        earlier run wrote there, and this one does not, are removed.

        Raises SettingsError if the disk refuses it.
        """
        with explained(folder, "as --out"):
            folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, Landscape] = {}
        for one in self.landscapes:
            parts = ["landscape", one.model, one.condition, one.control or one.variation or ""]
            plain = plain_name("-".join(parts))
            name, number = f"{plain}.json", 1
            while name in files:
                number += 1
                name = f"{plain}-{number}.json"
            files[name] = one
        # Killed before the end, the folder must not have old curves or verdicts beside new ones.
        for name in (*_landscape_files(folder), RESULTS):
            (folder / name).unlink(missing_ok=True)
        for name, one in files.items():
            write_whole(folder / name, one.to_json())
        self._write(folder / RESULTS, list(files), indent=1)

    def write_record(self, file: Path) -> None:
        """Write all of it into one file: what `--recorded` and `landscape report` read.

        Raises SettingsError if the disk refuses it.
        """
        self._write(file, [json.loads(landscape.to_json()) for landscape in self.landscapes])

    def _write(self, file: Path, landscapes: list[Any], indent: int | None = None) -> None:
        table = {
            "record": VERSION,
            "environment": self.environment,
            "claims": [one.to_table() for one in self.claims],
            "skipped": [asdict(one) for one in self.skipped],
            "original": self.original,
            "landscapes": landscapes,
        }
        write_whole(file, json.dumps(writable(table), indent=indent, allow_nan=False) + "\n")


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
    origins = {f"{one.model}, {one.condition}": {**one.origin} for one in landscapes}
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
        told = (landscape.model, landscape.condition, landscape.control, landscape.variation)
        if names.setdefault(told, landscape) != landscape:
            which = ", ".join(filter(None, told))
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


def _landscape_files(folder: Path) -> set[str]:
    """Return the names of the files that an earlier run's results name, if there is one."""
    file = folder / RESULTS
    with suppress(RecordError):  # of another version, say: what it names is not known to be ours
        found = check_table(read_file(file, WAY_OUT), SCHEMA, str(file), WAY_OUT, "record")
        names = {Path(one).name for one in found["landscapes"] if isinstance(one, str)}
        return {name for name in names if name.startswith("landscape-")}
    return set()


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
