"""What a run of the claims found, as files: its output folder, or one record."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import RecordError
from harness.landscape import Landscape
from harness.schemas import check_table, read_schema
from harness.store import write_whole

SCHEMA = read_schema(Path(__file__).with_name("record.schema.json"))
VERSION: int = SCHEMA["properties"]["record"]["const"]
RESULTS = "results.json"
PAPER = "arXiv 2409.03662"  # whose finding a claim is, if it is not said
OURS = "this project"
PUBLISHED = "published:"  # how the names of published curves begin


@dataclass(frozen=True)
class Run:
    """One run of the claims.

    environment: machine, versions and settings.
    claims: a table a verdict, as `record.schema.json` has it; skipped: one a claim that was not
        judged, with the reason.
    landscapes: all that was measured, under controls and variations too; not published curves.
    """

    environment: dict[str, Any]
    claims: Sequence[dict[str, Any]]
    skipped: Sequence[dict[str, Any]]
    landscapes: Sequence[Landscape]

    @property
    def models(self) -> list[str]:
        """The names of all that was judged, in the order of judging."""
        return list(dict.fromkeys(one["model"] for one in (*self.claims, *self.skipped)))

    def renamed(self, names: Mapping[str, str]) -> Run:
        """Return the run with other names for some of its models."""

        def named(tables: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
            return [one | {"model": names.get(one["model"], one["model"])} for one in tables]

        return Run(
            self.environment,
            named(self.claims),
            named(self.skipped),
            [replace(one, model=names.get(one.model, one.model)) for one in self.landscapes],
        )

    def write_folder(self, folder: Path) -> None:
        """Write `results.json`, and a `landscape-MODEL-CONDITION.json` a landscape.

        A landscape under a control or a variation has that at its name's end.
        """
        folder.mkdir(parents=True, exist_ok=True)
        names = []
        for landscape in self.landscapes:
            where = landscape.control or landscape.variation
            parts = [landscape.model, landscape.condition, *([where] if where else [])]
            name = "-".join(["landscape", *parts]).replace(" ", "-") + ".json"
            write_whole(folder / name, landscape.to_json())
            names.append(name)
        self._write(folder / RESULTS, {"landscapes": names})

    def write_record(self, file: Path) -> None:
        """Write all of it into one file: what `--recorded` and `landscape report` read."""
        landscapes = [json.loads(landscape.to_json()) for landscape in self.landscapes]
        self._write(file, {"landscapes": landscapes, "record": VERSION})

    def _write(self, file: Path, further: dict[str, Any]) -> None:
        table = {
            "environment": self.environment,
            "claims": _plain(self.claims),
            "skipped": self.skipped,
            **further,
        }
        write_whole(file, json.dumps(table, indent=None if "record" in table else 1) + "\n")


def read_run(path: Path) -> Run:
    """Return the run in a folder that the claims wrote (`--out`), or in a record (`--record`).

    Raises RecordError for anything else, or a file of another version.
    """
    file = path / RESULTS if path.is_dir() else path
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(
            f"{file}: cannot be read ({error.strerror}); give the --out folder of a run, or what "
            "--record wrote"
        ) from error
    except ValueError as error:
        raise RecordError(f"{file}: is not JSON ({error}); run the claims again") from error
    apart = []
    if path.is_dir() and isinstance(table, dict):
        # A folder has its landscapes in files of their own, here, whatever their names say.
        apart = [path / Path(str(name)).name for name in table.get("landscapes", ())]
        table |= {"record": VERSION, "landscapes": []}
    checked = check_table(table, SCHEMA, "record", str(file), "run the claims again with --record")
    texts = {str(one): _text(one) for one in apart} or {
        f"{file}: landscapes[{number}]": json.dumps(one)
        for number, one in enumerate(checked["landscapes"])
    }
    return Run(
        checked["environment"],
        checked["claims"],
        checked["skipped"],
        [Landscape.from_json(text, name) for name, text in texts.items()],
    )


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Return several runs, as `read_run` does; a model that two of them have is told by its file.

    Published curves keep their name: they are the same everywhere.
    """
    runs = [read_run(path) for path in paths]
    count = Counter(model for run in runs for model in run.models)
    return [
        run.renamed(
            {
                model: f"{model} ({path.stem})"
                for model in run.models
                if count[model] > 1 and not model.startswith(PUBLISHED)
            }
        )
        for path, run in zip(paths, runs, strict=True)
    ]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordError(
            f"{file}: cannot be read ({error.strerror}); run the claims again"
        ) from error


def _plain(value: Any) -> Any:
    """Return `value` with None for numbers that JSON has not: NaN and the infinities."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
